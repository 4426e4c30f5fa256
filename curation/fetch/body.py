"""Reading a body under a byte cap and a least rate."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import NamedTuple

from annotations_schema.codes import FailureCode
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.network import Answer

_CHUNK_BYTES = 2**16


class Pace(NamedTuple):
    """The slowest body that is waited for."""

    min_bytes_per_s: float
    """Least average rate since the headers; 0 for none."""
    grace_s: float
    """Seconds before the rate counts."""


def read_body(answer: Answer, max_bytes: int, pace: Pace) -> bytes:
    """The whole body.

    Raises:
        FetchError: BODY_TOO_LARGE (by its announced length, or while reading), BODY_TOO_SLOW,
            BODY_TRUNCATED or BODY_EMPTY.
    """
    announced = answer.response.length
    if announced is not None and announced > max_bytes:
        detail = f"{announced} bytes announced; the cap is {max_bytes}"
        raise FetchError(FailureCode.BODY_TOO_LARGE, detail)
    body = io.BytesIO()  # a list of chunks would take forty times their bytes if they are tiny
    for chunk in read_chunks(answer, pace):
        body.write(chunk)
        if body.tell() > max_bytes:
            raise FetchError(FailureCode.BODY_TOO_LARGE, f"more than the cap of {max_bytes} bytes")
    if body.tell() == 0:
        raise FetchError(FailureCode.BODY_EMPTY, "no bytes")
    return body.getvalue()


def read_chunks(answer: Answer, pace: Pace) -> Iterator[bytes]:
    """The body as it comes in.

    Raises:
        FetchError: BODY_TOO_SLOW or BODY_TRUNCATED.
    """
    announced = answer.response.length
    started = time.monotonic()
    num_bytes = 0
    while announced is None or num_bytes < announced:
        answer.connection.deadline = _patience(answer.deadline, started, num_bytes, pace)
        try:
            chunk = answer.response.read1(_CHUNK_BYTES)
        except TimeoutError as error:
            if answer.deadline.remaining_s() <= 0:
                raise
            words = f"{num_bytes} bytes in {time.monotonic() - started:.1f} s"
            raise FetchError(FailureCode.BODY_TOO_SLOW, words) from error
        if not chunk:
            break
        num_bytes += len(chunk)
        yield chunk
    if announced is not None and num_bytes < announced:
        raise FetchError(FailureCode.BODY_TRUNCATED, f"{num_bytes} of {announced} bytes")
    answer.is_whole = True


def _patience(total: Deadline, started: float, num_bytes: int, pace: Pace) -> Deadline:
    """Until when the next bytes must come, or the average since the start is below the rate."""
    if not pace.min_bytes_per_s:
        return total
    moment = started + max(pace.grace_s, num_bytes / pace.min_bytes_per_s)
    return total if moment >= total.moment else Deadline.at(moment)
