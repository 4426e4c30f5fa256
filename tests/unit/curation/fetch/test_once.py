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


def test_what_making_raises_reaches_the_asker_and_is_not_kept() -> None:
    once: Once[str, int] = Once(8)

    def fail() -> Made[int]:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        once.get("a", fail)
    assert once.get("a", lambda: Made(3, 60)) == 3
