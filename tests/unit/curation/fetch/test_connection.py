from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotations_schema.codes import FailureCode
from curation.demo.server import TroubleServer
from curation.demo.troubles import REDIRECT_TO_INTRANET, TROUBLES
from curation.fetch.addresses import IPAddress, blocked_reason
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Guard, tls_context
from curation.fetch.resolution import system_resolver

Fetch = Callable[..., Any]
IMAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
BY_NAME = {trouble.name: trouble for trouble in TROUBLES}


def public_and(address: str) -> Callable[[IPAddress], str | None]:
    """The rule of a run without private networks, with one exception: the server of the test."""

    def rule(candidate: IPAddress) -> str | None:
        if str(candidate) == address:
            return None
        return blocked_reason(candidate, allow_private_network=False)

    return rule


def resolving(*answers: list[str]) -> Callable[[str, int], list[str]]:
    """A resolver that gives one answer after another, and the last one for ever."""
    waiting = list(answers)

    def resolve(host: str, port: int) -> list[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return resolve


def failing(error: Exception) -> Callable[[str, int], list[str]]:
    def resolve(host: str, port: int) -> list[str]:
        raise error

    return resolve


def test_the_checked_address_is_the_one_connected_to(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    # A rebinding name: permitted when it is checked, a metadata address ever after. Were the name
    # resolved once more to connect, the first fetch would use up both answers and fail.
    resolver = resolving(["127.0.0.1"], ["169.254.169.254"])
    url = f"http://rebinding.test:{server.port}/trouble/image.jpg"
    rebinding = guard._replace(resolver=resolver, rule=public_and("127.0.0.1"))
    assert fetch(url, config, guard=rebinding)[0] == server.picture
    body, facts = fetch(url, config, guard=rebinding)
    assert body is None
    assert facts.code is FailureCode.ADDRESS_BLOCKED


def test_nothing_but_the_checked_address_is_connected_to(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    before = len(server.seen)
    neighbour = guard._replace(resolver=resolving(["127.0.0.2"]))  # where nobody listens
    url = f"http://neighbour.test:{server.port}/trouble/image.jpg"
    body, facts = fetch(url, replace(config, deadline_s=0.5, retries=0), guard=neighbour)
    assert body is None
    assert facts.code in (FailureCode.CONNECT_FAILED, FailureCode.DEADLINE_EXCEEDED)
    assert len(server.seen) == before


def test_host_header_keeps_the_name(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    named = guard._replace(resolver=resolving(["127.0.0.1"]))
    fetch(f"http://pictures.test:{server.port}/host-header", config, guard=named)
    headers = next(seen.headers for seen in server.seen if seen.path == "/host-header")
    assert headers["host"] == f"pictures.test:{server.port}"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f.1", "loopback"),
        ("127.1", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("localhost", "loopback"),
        ("169.254.169.254", "cloud metadata"),
        ("10.0.0.1", "private"),
        ("0.0.0.0", "unspecified"),
    ],
)
def test_spellings_of_private_addresses_are_refused_without_a_connection(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, host: str, reason: str
) -> None:
    before = len(server.seen)
    url = f"http://{host}:{server.port}/trouble/image.jpg"
    _, facts = fetch(url, replace(config, allow_private_network=False))
    assert facts.code is FailureCode.ADDRESS_BLOCKED
    assert reason in facts.detail
    assert facts.attempts == 1
    assert len(server.seen) == before


def test_one_forbidden_address_among_permitted_ones_refuses_the_host(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    before = len(server.seen)
    mixed = guard._replace(
        resolver=resolving(["127.0.0.1", "192.168.0.1"]), rule=public_and("127.0.0.1")
    )
    _, facts = fetch(f"http://mixed.test:{server.port}/a", config, guard=mixed)
    assert facts.code is FailureCode.ADDRESS_BLOCKED
    assert len(server.seen) == before


@pytest.mark.parametrize(
    "trouble",
    [REDIRECT_TO_INTRANET, BY_NAME["redirect_to_metadata"]],
    ids=lambda trouble: trouble.name,
)
def test_each_redirect_is_checked_again(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, guard: Guard, trouble: Any
) -> None:
    only_this_server = guard._replace(rule=public_and("127.0.0.1"))
    _, facts = fetch(server.trouble_url(trouble), config, guard=only_this_server)
    assert facts.code is FailureCode.ADDRESS_BLOCKED
    assert facts.http_status in (302, 307)
    assert server.count(trouble.path) >= 1


def test_a_silent_address_leaves_time_for_the_next(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    # No listener at ::1 on that port: refused or unreachable at once, then 127.0.0.1 answers.
    both = guard._replace(resolver=resolving(["::1", "127.0.0.1"]))
    url = f"http://both.test:{server.port}/trouble/image.jpg"
    assert fetch(url, config, guard=both)[0] == server.picture


def test_refused_connections_are_transient(config: FetchConfig, fetch: Fetch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    _, facts = fetch(f"http://127.0.0.1:{port}/a", config)
    assert facts.code is FailureCode.CONNECT_FAILED
    assert facts.attempts == 3


@pytest.mark.parametrize(
    ("error", "code", "attempts"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), FailureCode.DNS_NOT_FOUND, 1),
        (socket.gaierror(socket.EAI_AGAIN, "later"), FailureCode.DNS_FAILED, 3),
        (socket.gaierror(socket.EAI_FAIL, "broken"), FailureCode.DNS_FAILED, 3),
        (UnicodeError("label too long"), FailureCode.DNS_FAILED, 3),
    ],
)
def test_resolver_errors_have_codes(
    config: FetchConfig,
    fetch: Fetch,
    guard: Guard,
    error: Exception,
    code: FailureCode,
    attempts: int,
) -> None:
    _, facts = fetch("http://a.test/b", config, guard=guard._replace(resolver=failing(error)))
    assert (facts.code, facts.attempts) == (code, attempts)


def test_a_name_without_addresses_is_not_found(
    config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    _, facts = fetch("http://a.test/b", config, guard=guard._replace(resolver=resolving([])))
    assert facts.code is FailureCode.DNS_NOT_FOUND


def test_a_resolver_that_hangs_cannot_outlast_the_deadline(
    config: FetchConfig, fetch: Fetch, guard: Guard
) -> None:
    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(10)
        return ["127.0.0.1"]

    begin = time.monotonic()
    slow = replace(config, deadline_s=0.3)
    _, facts = fetch("http://a.test/b", slow, guard=guard._replace(resolver=hang))
    release.set()
    assert facts.code is FailureCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 1.5


def test_the_system_resolver_gives_addresses_once_each() -> None:
    addresses = system_resolver("localhost", 80)
    assert "127.0.0.1" in addresses
    assert len(addresses) == len(set(addresses))


def test_tls_checks_the_certificate_against_the_name(
    config: FetchConfig,
    fetch: Fetch,
    guard: Guard,
    serve: Callable[..., int],
    server_tls: ssl.SSLContext,
    certificate: Path,
) -> None:
    names: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: names.append(name)
    port = serve(IMAGE, server_tls)
    trusting = guard._replace(resolver=resolving(["127.0.0.1"]), tls=tls_context(certificate))
    assert fetch(f"https://pictures.test:{port}/a", config, guard=trusting)[0] == b"image"
    body, facts = fetch(f"https://other.test:{port}/a", config, guard=trusting)
    assert body is None
    assert (facts.code, facts.attempts) == (FailureCode.TLS_FAILED, 1)
    assert "other.test" in facts.detail
    assert names == ["pictures.test", "other.test"]


def test_an_unknown_certificate_is_refused(
    config: FetchConfig,
    fetch: Fetch,
    guard: Guard,
    serve: Callable[..., int],
    server_tls: ssl.SSLContext,
) -> None:
    port = serve(IMAGE, server_tls)
    named = guard._replace(resolver=resolving(["127.0.0.1"]))
    _, facts = fetch(f"https://pictures.test:{port}/a", config, guard=named)
    assert facts.code is FailureCode.TLS_FAILED
    assert facts.detail.startswith("certificate: ")


def test_plain_http_on_a_tls_port_is_a_tls_failure(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    _, facts = fetch(f"https://127.0.0.1:{server.port}/a", replace(config, retries=0))
    assert facts.code in (FailureCode.TLS_FAILED, FailureCode.CONNECTION_LOST)


def test_a_server_silent_in_the_handshake_cannot_outlast_the_deadline(
    config: FetchConfig, fetch: Fetch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/a"
        _, facts = fetch(url, replace(config, deadline_s=0.3))
    assert facts.code is FailureCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 1.5


def test_a_body_over_tls_that_stops_cannot_outlast_the_deadline(
    config: FetchConfig,
    fetch: Fetch,
    guard: Guard,
    serve: Callable[..., int],
    server_tls: ssl.SSLContext,
    certificate: Path,
) -> None:
    port = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nimage", server_tls)
    trusting = guard._replace(resolver=resolving(["127.0.0.1"]), tls=tls_context(certificate))
    begin = time.monotonic()
    url = f"https://pictures.test:{port}/a"
    _, facts = fetch(url, replace(config, deadline_s=0.4), guard=trusting)
    assert (facts.code, facts.http_status) == (FailureCode.DEADLINE_EXCEEDED, 200)
    assert time.monotonic() - begin < 1.5
