from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from annotations_schema.codes import FailureCode
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.retry import Outcome, Patience, backoff_s, retry_after_s, until_deadline


class Attempts:
    """Raises the given errors in turn, then succeeds."""

    def __init__(self, *errors: FetchError) -> None:
        self.moments: list[float] = []
        self._errors = list(errors)

    def __call__(self) -> str:
        self.moments.append(time.monotonic())
        if self._errors:
            raise self._errors.pop(0)
        return "done"


def failing(code: FailureCode = FailureCode.HTTP_503, asked_s: float | None = None) -> FetchError:
    return FetchError(code, "words", retry_after_s=asked_s)


def tried(attempts: Attempts, *, deadline_s: float = 5, backoff: float = 0.01) -> Outcome[str]:
    return until_deadline(attempts, "http://h/a", Deadline(deadline_s), Patience(2, backoff))


def test_transient_failures_are_tried_again_and_the_last_answer_counts() -> None:
    assert tried(Attempts(failing(), failing())) == ("done", 3)
    gone = failing(FailureCode.HTTP_410)
    assert tried(Attempts(failing(), gone)) == (gone, 2)
    last = failing(FailureCode.CONNECTION_LOST)
    assert tried(Attempts(failing(), failing(), last)) == (last, 3)


@pytest.mark.parametrize("code", [code for code in FailureCode if not code.is_transient])
def test_permanent_failures_are_not_tried_again(code: FailureCode) -> None:
    error = failing(code)
    assert tried(Attempts(error)) == (error, 1)


def test_a_final_failure_is_not_tried_again() -> None:
    error = FetchError(FailureCode.CONNECT_FAILED, "down", is_final=True)
    assert tried(Attempts(error)) == (error, 1)


def test_what_the_server_asks_for_is_waited_for() -> None:
    attempts = Attempts(failing(asked_s=0.3))
    assert tried(attempts) == ("done", 2)
    assert 0.3 <= attempts.moments[1] - attempts.moments[0] < 1


def test_a_wait_longer_than_the_time_left_ends_it_at_once_and_says_so() -> None:
    started = time.monotonic()
    outcome = tried(Attempts(failing(FailureCode.HTTP_429, asked_s=3600)))
    assert time.monotonic() - started < 0.5
    assert isinstance(outcome.result, FetchError)
    assert (outcome.result.code, outcome.attempts) == (FailureCode.HTTP_429, 1)
    assert outcome.result.detail == "words; asks to wait 3600 s and 5 s are left"


def test_a_pause_longer_than_the_time_left_is_not_begun() -> None:
    started = time.monotonic()
    assert tried(Attempts(failing()), deadline_s=0.001, backoff=60).attempts == 1
    assert time.monotonic() - started < 0.5


def test_pauses_double_and_their_jitter_takes_all_of_it() -> None:
    for attempt in (1, 2, 3):
        pauses = [backoff_s(f"http://h/{i}", attempt, 0.5) for i in range(200)]
        longest = 0.5 * 2 ** (attempt - 1)
        assert all(0 <= pause < longest for pause in pauses)
        assert min(pauses) < longest / 10
        assert max(pauses) > longest * 9 / 10
    assert backoff_s("http://h/1", 1, 0.5) == backoff_s("http://h/1", 1, 0.5)
    assert backoff_s("http://h/1", 20, 60.0) <= 30


NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 5 ", 5),
        (format_datetime(NOW + timedelta(minutes=1), usegmt=True), 60),
        ("Thu, 01 Jan 2026 00:00:00 GMT", 0),
        ("Fri, 02 Jan 2026 00:01:00 -0000", 60),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("9" * 400, float("inf")),
        ("Fri, 99 Jan 2026 00:00:00 GMT", None),
        ("Fri, 02 Jan 2026 00:00:" + "9" * 20 + " GMT", None),
        ("Fri, 02 Jan 2026 00:00:00 +" + "9" * 20, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds
