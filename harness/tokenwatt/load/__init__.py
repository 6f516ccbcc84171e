"""What is sent to an engine, and when: closed loops, timetables, everything at once, conversations that go on.

A `Source` says what is asked (`source`), `arrivals` when somebody new comes, and `Load` puts the two together: an
engine takes from it what is due and tells it when an answer is over. It can be pickled, so that a client in another
process runs it beside its sockets.
"""

from tokenwatt.load.arrivals import Arrivals
from tokenwatt.load.load import Load, Sent
from tokenwatt.load.source import Listed, Source
from tokenwatt.workloads import FollowUp

__all__ = ["Arrivals", "FollowUp", "Listed", "Load", "Sent", "Source"]
