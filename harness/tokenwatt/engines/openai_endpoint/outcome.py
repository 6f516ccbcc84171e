"""How a request ended: from the exchange's end, the HTTP status and what was read, to a `RequestStatus` with words.

The words are as the server put them: whoever shows them lets `Key.tell` do it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenwatt.engines.openai_endpoint.answers import MalformedError
from tokenwatt.engines.openai_endpoint.news import Ended, Ending
from tokenwatt.engines.openai_endpoint.text import TextCodec
from tokenwatt.engines.openai_endpoint.tokens import OK, Answer, MiscountedError, ServerError, words_of
from tokenwatt.engines.protocol import Failure
from tokenwatt.record import RequestStatus

Fault = (MalformedError, ServerError, MiscountedError)
"""What reading an answer raises."""
_OVERLOADED = (429, 503)
_STATUS_OF_FAULT: dict[type[Exception], RequestStatus] = {
    MalformedError: RequestStatus.MALFORMED,
    ServerError: RequestStatus.SERVER_ERROR,
    MiscountedError: RequestStatus.MISCOUNTED,
}
_STATUS_OF_ENDING = {
    Ending.UNREACHABLE: RequestStatus.UNREACHABLE,
    Ending.NO_ANSWER: RequestStatus.NO_ANSWER,
    Ending.STALLED: RequestStatus.STALLED,
}


def of_fault(fault: Exception) -> Failure:
    """Why a request ends with what has just been read."""
    return Failure(_STATUS_OF_FAULT[type(fault)], str(fault))


def at_end(answer: Answer, ended: Ended) -> Failure | int:
    """Why a request has no whole answer; or how many tokens only usage has counted, if it has one."""
    if ended.ending in _STATUS_OF_ENDING:
        return Failure(_STATUS_OF_ENDING[ended.ending], ended.detail)
    if answer.head is not None and answer.head.status != OK:
        return of_http(answer.head.status, answer.message)
    if ended.ending is Ending.CLOSED and not (answer.is_whole and answer.ends_with_connection):
        return Failure(RequestStatus.CLOSED_EARLY, ended.detail)
    if not answer.is_whole:
        return Failure(RequestStatus.CLOSED_EARLY, "the stream ends without a finish_reason and without [DONE]")
    try:
        return answer.conclude()
    except (MalformedError, MiscountedError) as fault:
        return of_fault(fault)


def of_http(status: int, body: bytes) -> Failure:
    """What an HTTP status other than 200 means, with the server's own words."""
    detail = f"HTTP {status}: {_words(body)}".rstrip(": ")
    if status in _OVERLOADED:
        return Failure(RequestStatus.OVERLOADED, detail)
    return Failure(RequestStatus.SERVER_ERROR if status >= 500 else RequestStatus.REJECTED, detail)


def output_of(pieces: Iterable[bytes], ended: Ended, codec: TextCodec | None) -> tuple[list[int], bool]:
    """Token ids of an answer, where the server sends them or they can be made of its text, and whether it failed."""
    answer = Answer(keeps_text=codec is not None)
    try:
        for piece in pieces:
            answer.feed(piece)
    except Fault:
        return [], True
    is_text = codec is not None and not answer.token_ids
    output = codec.encode("".join(answer.texts)) if is_text else answer.token_ids
    return output, isinstance(at_end(answer, ended), Failure)


def _words(body: bytes) -> str:
    try:
        return words_of(json.loads(body))
    except ValueError:
        return body.decode(errors="replace")
