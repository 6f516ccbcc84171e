"""Workloads: what users ask. A TOML file becomes conversations by number, each the same on every machine.

In reading order: `request` (what is asked once), `lengths` and `durations` (what is drawn), `streams` (from which
random stream), `prefix` and `turns` (tables of a file), `script` (what every kind of workload can say), `drawn`,
`trace`, `trace_files` and `sharegpt` (the kinds), `workload` (the file itself), `library` (where files are).
"""

from tokenwatt.workloads.durations import ExponentialTime, FixedTime, LognormalTime, ThinkTime
from tokenwatt.workloads.lengths import (
    Count,
    FixedCount,
    FixedLength,
    GeometricCount,
    Length,
    LognormalLength,
    TokenCount,
)
from tokenwatt.workloads.library import find_toml, library_folder, load_workload
from tokenwatt.workloads.prefix import Prefix
from tokenwatt.workloads.request import GREEDY, FollowUp, Request, Sampling, TokenId
from tokenwatt.workloads.script import Selection
from tokenwatt.workloads.sharegpt import ShareGPT
from tokenwatt.workloads.trace import Trace
from tokenwatt.workloads.turns import Turns
from tokenwatt.workloads.workload import HASHED_REQUESTS, SALT_TOKENS, Workload

__all__ = [
    "GREEDY",
    "HASHED_REQUESTS",
    "SALT_TOKENS",
    "Count",
    "ExponentialTime",
    "FixedCount",
    "FixedLength",
    "FixedTime",
    "FollowUp",
    "GeometricCount",
    "Length",
    "LognormalLength",
    "LognormalTime",
    "Prefix",
    "Request",
    "Sampling",
    "Selection",
    "ShareGPT",
    "ThinkTime",
    "TokenCount",
    "TokenId",
    "Trace",
    "Turns",
    "Workload",
    "find_toml",
    "library_folder",
    "load_workload",
]
