from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from annotations_schema.codes import FailureCode
from curation.fetch import resolution
from curation.fetch.addresses import IPAddress, blocked_reason
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.resolution import Addresses


def rule(address: IPAddress) -> str | None:
    return blocked_reason(address, allow_private_network=False)


class Resolver:
    """Counts the questions; answers, or raises what it is given."""

    def __init__(self, *answers: list[str] | Exception, takes_s: float = 0) -> None:
        self.questions: list[str] = []
        self._answers = list(answers)
        self._takes_s = takes_s
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int) -> list[str]:
        with self._lock:
            self.questions.append(host)
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        time.sleep(self._takes_s)
        if isinstance(answer, Exception):
            raise answer
        return answer


def code_of(addresses: Addresses, host: str = "a.test") -> FailureCode | None:
    try:
        addresses.checked(host, 80, Deadline(5))
    except FetchError as error:
        return error.code
    return None


def test_a_name_is_looked_up_once_by_many_threads() -> None:
    resolver = Resolver(["8.8.8.8"], takes_s=0.1)
    addresses = Addresses(resolver, rule, ttl_s=60)
    with ThreadPoolExecutor(8) as threads:
        codes = list(threads.map(lambda _: code_of(addresses), range(24)))
    assert codes == [None] * 24
    assert resolver.questions == ["a.test"]


def test_an_answer_is_used_for_its_time_and_no_longer() -> None:
    resolver = Resolver(["8.8.8.8"], ["1.1.1.1"])
    addresses = Addresses(resolver, rule, ttl_s=0.1)
    seen = [str(addresses.checked("a.test", 80, Deadline(5))[0]) for _ in range(3)]
    assert seen == ["8.8.8.8"] * 3
    time.sleep(0.12)
    assert str(addresses.checked("a.test", 80, Deadline(5))[0]) == "1.1.1.1"


def test_a_name_that_does_not_exist_is_remembered() -> None:
    resolver = Resolver(socket.gaierror(socket.EAI_NONAME, "unknown"))
    addresses = Addresses(resolver, rule, ttl_s=60)
    assert [code_of(addresses) for _ in range(3)] == [FailureCode.DNS_NOT_FOUND] * 3
    assert len(resolver.questions) == 1


def test_a_resolver_that_failed_is_soon_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "_FAILURE_TTL_S", 0.05)
    resolver = Resolver(socket.gaierror(socket.EAI_AGAIN, "later"), ["8.8.8.8"])
    addresses = Addresses(resolver, rule, ttl_s=60)
    assert [code_of(addresses), code_of(addresses)] == [FailureCode.DNS_FAILED] * 2
    time.sleep(0.06)
    assert code_of(addresses) is None
    assert len(resolver.questions) == 2


def test_a_remembered_answer_is_judged_too() -> None:
    addresses = Addresses(Resolver(["8.8.8.8", "10.0.0.1"]), rule, ttl_s=60)
    assert [code_of(addresses) for _ in range(2)] == [FailureCode.ADDRESS_BLOCKED] * 2


def test_an_address_needs_no_resolver() -> None:
    resolver = Resolver(["10.0.0.1"])
    assert code_of(Addresses(resolver, rule, ttl_s=60), "8.8.8.8") is None
    assert resolver.questions == []
