"""Whether an engine computes the model that it is measured with; a speed of another model is none.

pieces  the tokens that both engines are asked about: a text, cut up
gate    a reference engine and the one under test over the same pieces, and what the row says of it
tasks   lm-evaluation-harness over what the engine tells, where it is installed and asked for
writing answers that the engine writes, for those tasks that read them
"""

from tokenwatt.bench.accuracy.gate import Accuracy, Gate, gate_of

__all__ = ["Accuracy", "Gate", "gate_of"]
