from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from curation.fetch.once import Made, Once


def test_many_askers_of_one_key_make_it_once() -> None:
    once: Once[str, int] = Once(8)
    made: list[int] = []
    everyone = threading.Barrier(8)

    def make() -> Made[int]:
        time.sleep(0.05)
        made.append(1)
        return Made(len(made), 60)

    def ask(_: int) -> int:
        everyone.wait()
        return once.get("a", make)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [1] * 8


def test_a_value_is_made_again_after_its_time() -> None:
    once: Once[str, object] = Once(8)
    first = once.get("a", lambda: Made(object(), 0.05))
    assert once.get("a", lambda: Made(object(), 0.05)) is first
    time.sleep(0.06)
    assert once.get("a", lambda: Made(object(), 0.05)) is not first


def test_the_key_that_was_not_used_for_longest_is_forgotten_first() -> None:
    once: Once[str, int] = Once(2)
    for key in ("a", "b", "a", "c"):
        once.get(key, lambda: Made(1, 60))
    assert once.get("a", lambda: Made(2, 60)) == 1
    assert once.get("b", lambda: Made(2, 60)) == 2


def test_values_are_forgotten_by_their_weight() -> None:
    once: Once[str, int] = Once(10)
    once.get("a", lambda: Made(1, 60))
    once.get("heavy", lambda: Made(1, 60, weight=9))
    assert once.get("a", lambda: Made(2, 60)) == 1
    once.get("heavier", lambda: Made(1, 60, weight=9))  # only it and one more have room
    assert once.get("heavy", lambda: Made(2, 60, weight=0)) == 2
    assert once.get("too heavy", lambda: Made(3, 60, weight=11)) == 3
    assert once.get("a", lambda: Made(4, 60)) == 4


def test_the_weight_of_a_value_that_was_made_again_counts_once() -> None:
    once: Once[str, int] = Once(10)
    for _ in range(5):
        once.get("a", lambda: Made(1, 0.0, weight=8))
    once.get("b", lambda: Made(1, 60))
    once.get("c", lambda: Made(1, 60))
    assert once.get("b", lambda: Made(2, 60)) == 1


def test_an_asker_in_a_hurry_leaves_the_making_behind() -> None:
    once: Once[str, int] = Once(8, is_in_background=True)
    go_on = threading.Event()

    def make() -> Made[int]:
        go_on.wait(5)
        return Made(7, 60)

    with pytest.raises(TimeoutError):
        once.get("a", make, timeout_s=0.05)
    go_on.set()
    assert once.get("a", lambda: Made(8, 60), timeout_s=5) == 7


def test_where_no_thread_can_be_started_the_asker_makes_the_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    once: Once[str, int] = Once(8, is_in_background=True)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        assert once.get("a", lambda: Made(7, 60), timeout_s=0.2) == 7
    assert once.get("a", lambda: Made(8, 60), timeout_s=0.2) == 7


def test_what_making_raises_reaches_the_asker_and_is_not_kept() -> None:
    once: Once[str, int] = Once(8)

    def fail() -> Made[int]:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        once.get("a", fail)
    assert once.get("a", lambda: Made(3, 60)) == 3
