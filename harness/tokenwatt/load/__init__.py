"""What is sent to an engine, and when: closed loops, timetables, everything at once, conversations that go on.

A `Source` says what is asked (`source`), `arrivals` when somebody new comes, and `Load` puts the two together: an
engine takes from it what is due and tells it when an answer is over. It can be pickled, so that a client in another
process runs it beside its sockets. A `LoadPlan` is one kind of load at one level, of which each run makes its `Load`.
"""

from tokenwatt.load.arrivals import Arrivals
from tokenwatt.load.load import Load, Sent
from tokenwatt.load.plan import LoadPlan
from tokenwatt.load.source import Listed, Source

__all__ = ["Arrivals", "Listed", "Load", "LoadPlan", "Sent", "Source"]
