"""What each reason means to somebody who reads the report without the code."""

from __future__ import annotations

from collections.abc import Iterable

from tokenwatt.record import Reason

MEANINGS: dict[Reason, str] = {
    Reason.ENGINE_ERROR: "the engine stopped with an error, which stands in the row",
    Reason.METER_ERROR: "a meter that worked stopped working, such as a GPU that fell off the bus",
    Reason.INTERRUPTED: "somebody ended the run",
    Reason.NO_STEADY_WINDOW: "requests ran out, or never were all in flight, before a window was full",
    Reason.WINDOW_TOO_SHORT: "the window is shorter than a figure of this kind needs",
    Reason.TOO_FEW_RUNNING: "the engine ran fewer requests at a time than were sent: the others waited in it",
    Reason.TOKEN_RATE_DRIFTS: "tokens per second rise or fall through the window by more than their noise",
    Reason.POWER_DRIFTS: "power rises or falls through the window by more than its noise",
    Reason.NOT_CONVERGED: "the time was up before the interval was as narrow as was asked for",
    Reason.TOO_FEW_TOKENS: "too few tokens for a rate",
    Reason.NO_REQUEST_COMPLETED: "no request ended in the window, so there is no TPOT",
    Reason.EDGE_NOT_BRACKETED: "no reading before the window's start, or none after its end",
    Reason.SAMPLE_GAP: "readings are missing in the middle",
    Reason.CLOCK_STEPPED_BACK: "times of readings do not rise",
    Reason.CLOCKS_APART: "two clocks disagree on when the window was",
    Reason.INSTRUMENTS_DISAGREE: "energy counter and integrated power differ by more than both can err",
    Reason.COUNTER_MISSING: "the board has no energy counter: integrated power stands alone",
    Reason.COUNTER_STUCK: "the energy counter did not move while power was drawn",
    Reason.COUNTER_RESET: "the energy counter went back",
    Reason.POWER_MISSING: "the board tells no instantaneous power: the counter stands alone",
    Reason.POWER_STUCK: "the power reading stood still for longer than power does",
    Reason.TRAILING_AVERAGE: "the power reading is an average of the past, not that of the moment",
    Reason.MODULE_SCOPE: "the reading may hold the processor beside the GPU",
    Reason.MIG: "a GPU is cut in slices: its energy is that of all of them",
    Reason.WRONG_GPU_COUNT: "other boards were read than the engine used",
    Reason.OTHER_PROCESS: "somebody else's process was on these GPUs",
    Reason.CAP_BELOW_DEFAULT: "the power limit is below the one that the board comes with",
    Reason.CAP_CHANGED: "the power limit changed in the window",
    Reason.THROTTLED: "heat, or hardware that protects itself, held the clocks back",
    Reason.HOST_BOUND: "the host may have kept the device waiting",
    Reason.CLIENT_BOUND: "tokens were taken note of late, or requests went out late: the speeds may be the client's",
    Reason.REQUESTS_FAILED: "some requests failed: the requests table says how",
    Reason.QUEUE_GROWS: "requests come faster than they are answered",
    Reason.IMPORTED: "another tool measured it: there are no readings here to judge it by",
    Reason.ACCURACY: "the engine's answers are not those of the reference: its speed is that of another model",
}


def meanings(found: Iterable[str]) -> list[tuple[str, str]]:
    """Name and meaning of each reason among `found`, in the order of the list."""
    occurring = set(found)
    return [(reason.replace("_", " "), text) for reason, text in MEANINGS.items() if reason in occurring]
