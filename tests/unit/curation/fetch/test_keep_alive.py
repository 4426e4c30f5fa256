from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from annotations_schema.codes import FailureCode
from curation.demo.server import ServedFile, TroubleServer
from curation.fetch import pool as pool_module
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Guard, tls_context
from curation.fetch.failure import FetchError
from curation.fetch.log import FetchFacts, FetchLog
from curation.fetch.opener import SafeOpener
from curation.fetch.web import Web

FILES = {f"/{i}.jpg": ServedFile(b"image %d" % i) for i in range(6)}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"


class Client:
    """A web with its opener; counts the connections that were opened."""

    def __init__(self, config: FetchConfig, guard: Guard) -> None:
        self.log = FetchLog()
        self.web = Web(config, guard)
        self.opener = SafeOpener(config, self.log, self.web)

    def get(self, url: str) -> bytes | FetchError:
        try:
            with self.opener.open(url) as response:
                return response.read()
        except FetchError as error:
            return error

    def facts(self, url: str) -> FetchFacts:
        facts = self.log.get(url)
        assert facts is not None
        return facts

    def close(self) -> None:
        self.web.close()


@pytest.fixture
def client(config: FetchConfig, guard: Guard) -> Iterator[Client]:
    with closing(Client(config, guard)) as client:
        yield client


@pytest.fixture
def alive() -> Iterator[TroubleServer]:
    with TroubleServer(FILES, keeps_alive=True) as server:
        yield server


def ports(server: TroubleServer) -> list[int]:
    return [request.client_port for request in server.seen]


def test_requests_to_one_host_share_a_connection(alive: TroubleServer, client: Client) -> None:
    assert [client.get(alive.url(path)) for path in FILES] == [f.data for f in FILES.values()]
    assert len(ports(alive)) == len(FILES)
    assert len(set(ports(alive))) == 1


def test_a_rate_of_our_own_fails_no_row(
    alive: TroubleServer, config: FetchConfig, guard: Guard
) -> None:
    # Eight threads at ten requests a second: the last of them waits longer than a URL may take.
    slow = replace(config, threads=8, host_connections=4, host_requests_per_s=10, deadline_s=0.3)
    with closing(Client(slow, guard)) as client, ThreadPoolExecutor(8) as threads:
        urls = [alive.url(f"/{i % 6}.jpg?{i}") for i in range(12)]
        list(threads.map(client.get, urls))
        assert {client.facts(url).detail for url in urls} == {None}


def test_short_answers_nobody_wants_keep_the_connection(
    alive: TroubleServer, client: Client
) -> None:
    for path in ("/missing", "/trouble/moved.jpg", "/0.jpg"):
        client.get(alive.url(path))
    assert [request.path for request in alive.seen] == [
        "/missing",
        "/trouble/moved.jpg",
        "/trouble/image.jpg",
        "/0.jpg",
    ]
    assert len(set(ports(alive))) == 1


def test_a_connection_ends_with_a_body_that_was_not_read(
    alive: TroubleServer, client: Client
) -> None:
    refused = client.get(alive.url("/trouble/noai.jpg"))
    assert isinstance(refused, FetchError)
    assert client.get(alive.url("/0.jpg")) == b"image 0"
    assert len(set(ports(alive))) == 2


def test_keep_alive_can_be_turned_off(
    alive: TroubleServer, config: FetchConfig, guard: Guard
) -> None:
    with closing(Client(replace(config, keep_alive=False), guard)) as client:
        for path in ("/0.jpg", "/1.jpg"):
            client.get(alive.url(path))
    assert len(set(ports(alive))) == 2
    assert {request.headers["connection"] for request in alive.seen} == {"close"}


def test_a_server_that_closes_is_asked_over_a_new_connection(
    server: TroubleServer, client: Client
) -> None:
    before = len(ports(server))
    for _ in range(2):
        assert client.get(server.url("/trouble/image.jpg")) == server.picture
    assert len(set(ports(server)[before:])) == 2


@contextmanager
def scripted(*connections: tuple[bytes, ...]) -> Iterator[tuple[str, list[int]]]:
    """A server whose n-th connection gives the n-th answers, one a request, and then closes.

    Yields its URL and the number of requests of each connection.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[int] = []

    def work() -> None:
        for answers in connections:
            client, _ = listener.accept()
            with client:
                requests.append(0)
                for answer in answers:
                    if not client.recv(65536):
                        break
                    requests[-1] += 1
                    client.sendall(answer)
                    time.sleep(0.01)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a", requests
    worker.join(5)


def test_a_kept_connection_that_is_dead_costs_no_attempt(client: Client) -> None:
    # The second request arrives and is answered by an end, as by a server that just timed out.
    with scripted((OK, b""), (OK,)) as (url, requests):
        assert client.get(url) == b"image"
        assert client.get(url + "?2") == b"image"
    assert client.facts(url + "?2").attempts == 1
    assert requests == [2, 1]


def test_a_new_connection_that_is_dead_is_a_failed_attempt(client: Client) -> None:
    with scripted((b"",), (OK,)) as (url, requests):
        assert client.get(url) == b"image"
    assert client.facts(url).attempts == 2
    assert requests == [1, 1]


def test_a_kept_connection_keeps_its_deadline(config: FetchConfig, guard: Guard) -> None:
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nim"
    brief = replace(config, deadline_s=0.4, retries=0)
    with (
        closing(Client(brief, guard)) as client,
        scripted((OK, slow, b"")) as (url, requests),
    ):
        assert client.get(url) == b"image"
        time.sleep(0.5)  # the first request's deadline has passed; the second has its own
        begin = time.monotonic()
        error = client.get(url + "?2")
        assert isinstance(error, FetchError)
        assert error.code is FailureCode.DEADLINE_EXCEEDED
        assert 0.3 < time.monotonic() - begin < 1.5
    assert requests[0] >= 2


def test_what_comes_unasked_is_never_taken_for_an_answer(client: Client) -> None:
    with scripted((OK + OK,), (OK.replace(b"image", b"other"),)) as (url, _):
        assert client.get(url) == b"image"
        time.sleep(0.05)
        assert client.get(url + "?2") == b"other"


def test_idle_connections_are_closed_after_a_while(
    alive: TroubleServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get(alive.url("/0.jpg"))
    monkeypatch.setattr(pool_module, "_IDLE_S", 0.0)
    client.get(alive.url("/1.jpg"))
    assert len(set(ports(alive))) == 2


def test_no_more_connections_are_kept_than_there_are_threads(
    config: FetchConfig, guard: Guard
) -> None:
    few = replace(config, threads=2, host_connections=8)
    with TroubleServer(FILES, keeps_alive=True) as alive, closing(Client(few, guard)) as client:
        urls = [alive.url(path) for path in FILES]
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(client.get, urls * 4))
        kept = client.web.network._pool
        assert kept is not None
        assert 1 <= len(kept._idle) <= 2
        client.close()
        assert kept._idle == []


def test_connections_are_shared_neither_by_names_nor_by_schemes(
    alive: TroubleServer, config: FetchConfig, guard: Guard
) -> None:
    named = guard._replace(resolver=lambda host, port: ["127.0.0.1"])
    with closing(Client(config, named)) as client:
        for host in ("a.test", "b.test", "a.test"):
            client.get(f"http://{host}:{alive.port}/0.jpg")
    first, second, third = ports(alive)
    assert (first == third, first == second) == (True, False)


def test_tls_connections_are_used_again(
    config: FetchConfig, guard: Guard, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    trusting = guard._replace(
        resolver=lambda host, port: ["127.0.0.1"], tls=tls_context(certificate)
    )
    with (
        TroubleServer(FILES, keeps_alive=True, tls=server_tls) as alive,
        closing(Client(config, trusting)) as client,
    ):
        urls = [f"https://pictures.test:{alive.port}{path}" for path in FILES]
        assert [client.get(url) for url in urls] == [file.data for file in FILES.values()]
        assert len(set(ports(alive))) == 1
        # The name of the certificate is checked for each name: b.test has a connection of its own.
        error = client.get(f"https://b.test:{alive.port}/0.jpg")
        assert isinstance(error, FetchError)
        assert error.code is FailureCode.TLS_FAILED


def test_a_dead_host_is_left_alone_and_the_others_go_on(
    alive: TroubleServer, config: FetchConfig, guard: Guard
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with closing(Client(replace(config, retries=0), guard)) as client:
        urls = [f"{dead}/{i}" for i in range(8)]
        for url in urls:
            client.get(url)
        details = [client.facts(url).detail for url in urls]
        assert details[:5] == ["Connection refused"] * 5
        assert all("5 connections in a row failed" in (detail or "") for detail in details[5:])
        assert {client.facts(url).code for url in urls} == {FailureCode.CONNECT_FAILED}
        assert client.get(alive.url("/0.jpg")) == b"image 0"


def test_a_host_sees_no_more_requests_at_a_time_than_it_should(
    config: FetchConfig, guard: Guard
) -> None:
    with (
        TroubleServer(FILES, keeps_alive=True) as alive,
        closing(Client(replace(config, host_connections=2), guard)) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        urls = [alive.url(path) for path in FILES] * 5
        assert all(isinstance(body, bytes) for body in threads.map(client.get, urls))
        assert len(set(ports(alive))) <= 2
