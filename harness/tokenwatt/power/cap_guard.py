"""A process that puts power limits back when the one that changed them has died without doing so.

`python -m tokenwatt.power.cap_guard PARENT UUID=MILLIWATTS ...` names the limits to put back. It says `ready`, then
reads lines from its parent: a limit in milliwatts that will be set, or `done`, at which it goes and touches nothing. It
acts at `act`, which says that the parent failed to, when the pipe closes, or when the parent is gone (a child of the
parent may hold the pipe open). It cannot help where all processes end at once: in a container of which the parent was
the first process, or when the machine goes down.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys

from tokenwatt.errors import TokenwattError
from tokenwatt.power.board_limits import LimitedBoards

READY, DONE, ACT = b"ready\n", b"done", b"act"
_LOOK_PERIOD_S = 0.5
"""How often it looks whether the parent is alive."""


def main(arguments: list[str]) -> int:
    """Wait for the parent's end; exit code 0 if nothing is left to repair."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = int(arguments[0])
    previous_mw = {uuid: int(limit) for uuid, limit in (argument.split("=") for argument in arguments[1:])}
    boards = LimitedBoards.open(tuple(previous_mw))
    try:
        os.write(sys.stdout.fileno(), READY)
        words = _read_until_the_end(parent)
        ours_mw = {int(word) for word in words if word.isdigit()}
        if DONE in words or not ours_mw:
            return 0
        return _put_back(boards, previous_mw, ours_mw)
    finally:
        boards.close()


def _put_back(boards: LimitedBoards, previous_mw: dict[str, int], ours_mw: set[int]) -> int:
    try:
        left = boards.put_back(previous_mw, ours_mw)
    except TokenwattError as error:
        print(f"tokenwatt: {error}", file=sys.stderr)
        return 1
    for line in left:
        print(f"tokenwatt: {line}", file=sys.stderr)
    print("tokenwatt: the run could not do it itself; its power caps are lifted", file=sys.stderr)
    return 0


def _read_until_the_end(parent: int) -> list[bytes]:
    """Words that the parent wrote, once it is done, gone, or in need."""
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while not {DONE, ACT} & set(text.split()):
            if selector.select(_LOOK_PERIOD_S):
                chunk = os.read(sys.stdin.fileno(), 4096)
                if not chunk:
                    break
                text += chunk
            elif os.getppid() != parent:
                break
    return text.split()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TokenwattError as error:
        sys.exit(f"tokenwatt: {error}")
