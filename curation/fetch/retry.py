"""Trying again: which failures, after which pauses, and when to give up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Generic, NamedTuple, TypeVar

from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError

_MAX_PAUSE_S = 30.0

ResultT = TypeVar("ResultT")


class Outcome(NamedTuple, Generic[ResultT]):
    """The end of all attempts: a result or the last attempt's error."""

    result: ResultT | FetchError
    attempts: int


class Patience(NamedTuple):
    """How often to try again, and how soon."""

    retries: int
    """Further attempts after a transient failure."""
    backoff_s: float
    """Longest pause before the first retry, seconds; doubled for each further one."""


def until_deadline(
    attempt: Callable[[], ResultT], key: str, deadline: Deadline, patience: Patience
) -> Outcome[ResultT]:
    """Try until it succeeds, fails for good, or the retries or the time are used up.

    A pause longer than the time that is left ends it at once, with the failure that came last.

    Args:
        attempt: raises FetchError where it fails.
        key: what is tried; it sets the pauses.
        deadline: the total time, pauses included.
        patience: how often and how soon.
    """
    number = 0
    while True:
        number += 1
        try:
            return Outcome(attempt(), number)
        except FetchError as error:
            failure = error
        if not failure.code.is_transient or failure.is_final or number > patience.retries:
            return Outcome(failure, number)
        left_s = deadline.remaining_s()
        asked_s = failure.retry_after_s or 0.0
        if asked_s >= left_s:
            failure.say(f"asks to wait {asked_s:.0f} s and {max(left_s, 0):.0f} s are left")
            return Outcome(failure, number)
        pause_s = max(backoff_s(key, number, patience.backoff_s), asked_s)
        if pause_s >= left_s:
            return Outcome(failure, number)
        time.sleep(pause_s)


def backoff_s(key: str, attempt: int, base_s: float) -> float:
    """Pause after the given attempt (from 1): somewhere in [0, base * 2^(attempt - 1)).

    The place is hashed from key and attempt: it spreads retries over time as a random one would,
    and a run can be repeated exactly.
    """
    digest = hashlib.sha256(f"{attempt}\n{key}".encode()).digest()
    return min(base_s * 2.0 ** (attempt - 1), _MAX_PAUSE_S) * int.from_bytes(digest[:4]) / 2**32


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), or None."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
