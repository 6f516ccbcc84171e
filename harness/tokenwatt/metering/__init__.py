"""Energy of anything that is not ours: a command from its start to its end, or a server that runs already, for a while.

In reading order: `session` (meters open, idle power, the window, the row), `child` (a command as its shell runs it),
`server` (a running engine and its token counters, `token_counters`), `visible_gpus` (which boards a command sees).
"""

from tokenwatt.metering.server import meter_server
from tokenwatt.metering.session import Choice, Metered, meter_command

__all__ = ["Choice", "Metered", "meter_command", "meter_server"]
