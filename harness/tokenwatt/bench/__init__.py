"""One invocation of `tokenwatt bench`: suites measured point by point, each written before the next begins.

`suite` runs the benches of a suite in order, `comparison` two of them in turns. Both drive `subject`, an engine with
its meters, which measures one of the `points`: `accuracy` checks its answers before, `watching` follows the tokens of a
run through its windows, `stopping` says when there are enough. `decoding` plans the sequences of decode alone.
`row_maker` makes the rows, `run` keeps and writes them.
"""

from tokenwatt.bench.comparison import compare_suite
from tokenwatt.bench.observer import Observer
from tokenwatt.bench.run import Run
from tokenwatt.bench.suite import CapSetter, run_suite

__all__ = ["CapSetter", "Observer", "Run", "compare_suite", "run_suite"]
