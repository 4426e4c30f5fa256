from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from annotations_schema.codes import FailureCode
from curation.fetch import hosts as hosts_module
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.hosts import Host, Hosts, spread


class Crowd:
    """How many are in at a time, by host."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._lock = threading.Lock()

    def visit(self, hosts: Hosts, name: str) -> None:
        with hosts.turn(name, Deadline(5)):
            with self._lock:
                self._now[name] = self._now.get(name, 0) + 1
                self.most[name] = max(self.most.get(name, 0), self._now[name])
            time.sleep(0.02)
            with self._lock:
                self._now[name] -= 1


def test_a_host_is_never_asked_by_more_than_its_connections() -> None:
    hosts, crowd = Hosts(3, None, patience_s=10), Crowd()
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda i: crowd.visit(hosts, f"h{i % 2}"), range(48)))
    assert crowd.most == {"h0": 3, "h1": 3}


def test_requests_to_a_host_keep_their_distance_and_other_hosts_do_not_wait() -> None:
    hosts = Hosts(8, 20.0, patience_s=10)
    begin = time.monotonic()
    moments: list[float] = []

    def ask(name: str) -> None:
        with hosts.turn(name, Deadline(5)):
            moments.append(time.monotonic() - begin)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, ["slow"] * 6))
    assert max(moments) >= 0.25
    started = time.monotonic()
    ask("other")
    assert time.monotonic() - started < 0.04


def test_the_wait_for_a_turn_does_not_count_for_the_deadline() -> None:
    hosts = Hosts(1, None, patience_s=10)
    entered = threading.Event()

    def hold() -> None:
        with hosts.turn("h", Deadline(5)):
            entered.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(5)
    deadline = Deadline(0.2)
    with hosts.turn("h", deadline):
        assert 0.1 < deadline.remaining_s() <= 0.2
    holder.join()


@pytest.mark.parametrize("requests_per_s", [None, 0.1])
def test_patience_has_an_end(requests_per_s: float | None) -> None:
    hosts = Hosts(1, requests_per_s, patience_s=0.05)
    with (
        hosts.turn("h", Deadline(5)),
        pytest.raises(FetchError) as caught,
        hosts.turn("h", Deadline(5)),
    ):
        pass
    assert (caught.value.code, caught.value.is_final) == (FailureCode.DEADLINE_EXCEEDED, True)
    assert "turn" in caught.value.detail
    if requests_per_s is None:
        with hosts.turn("h", Deadline(5)):  # the turn came back
            pass


def test_a_host_that_refuses_five_times_in_a_row_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_module, "_DOWN_S", 0.1)
    host = Host(1)
    for _ in range(4):
        host.refused()
    host.accepted()
    for _ in range(4):
        host.refused()
    host.check_up()
    host.refused()
    with pytest.raises(FetchError, match="5 connections in a row failed") as caught:
        host.check_up()
    assert (caught.value.code, caught.value.is_final) == (FailureCode.CONNECT_FAILED, True)
    time.sleep(0.11)
    host.check_up()


def test_hosts_that_are_done_with_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "_MANY_HOSTS", 10)
    hosts = Hosts(1, None, patience_s=1)
    with hosts.turn("in use", Deadline(5)) as held:
        for i in range(100):
            with hosts.turn(f"h{i}", Deadline(5)):
                pass
        assert len(hosts._hosts) <= 12
        assert hosts._hosts["in use"] is held


def test_many_hosts_that_must_be_remembered_do_not_slow_each_other_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hosts_module, "_MANY_HOSTS", 10)
    hosts = Hosts(1, 0.001, patience_s=1)
    begin = time.monotonic()
    for i in range(8000):
        with hosts.turn(f"h{i}", Deadline(5)):
            pass
    assert time.monotonic() - begin < 2


def test_spread_takes_the_hosts_in_turn_and_keeps_each_hosts_order() -> None:
    rows = ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert spread(rows, lambda row: row[0]) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert spread([], str) == []
