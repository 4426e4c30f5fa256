from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import trustme

from annotations_schema.errors import InsightTokError
from curation.demo.server import TroubleServer
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Guard, tls_context
from curation.fetch.log import FetchFacts, FetchLog
from curation.fetch.opener import SafeOpener
from curation.fetch.resolution import system_resolver
from curation.fetch.web import Web, address_rule

Serve = Callable[..., int]


@pytest.fixture(scope="session")
def server() -> Iterator[TroubleServer]:
    with TroubleServer(slow_s=20, huge_bytes=2**22) as running:
        yield running


@pytest.fixture
def config() -> FetchConfig:
    return FetchConfig(
        deadline_s=5,
        max_bytes=2**20,
        backoff_s=0.01,
        allow_private_network=True,
        threads=8,
        # Most tests are about one request, which must be the only one that the server sees.
        respect_robots_txt=False,
    )


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a socket server that sends the given bytes to each client and then waits for its end.

    Called with the bytes, and with a TLS context for a TLS server; returns the port.
    """
    with ExitStack() as running:

        def start(answer: bytes, tls: ssl.SSLContext | None = None, *, waits: bool = True) -> int:
            return running.enter_context(_serving(answer, tls, waits))

        yield start


@contextmanager
def _serving(answer: bytes, tls: ssl.SSLContext | None, waits: bool) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(client, answer, tls, waits), daemon=True).start()

    threading.Thread(target=work, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _answer(client: socket.socket, answer: bytes, tls: ssl.SSLContext | None, waits: bool) -> None:
    with closing(client):
        try:
            stream = client if tls is None else tls.wrap_socket(client, server_side=True)
        except OSError:
            return  # a client that does not trust us
        with closing(stream):
            stream.recv(65536)
            stream.sendall(answer)
            if waits:
                stream.recv(1)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of this test run alone."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate as a file: whoever is given it trusts pictures.test."""
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("pictures.test").configure_cert(context)
    return context


Opened = tuple[bytes | None, FetchFacts]


@pytest.fixture(scope="session")
def system_tls() -> ssl.SSLContext:
    """The system's certificates, whose loading takes longer than most tests."""
    return tls_context()


@pytest.fixture
def guard(config: FetchConfig, system_tls: ssl.SSLContext) -> Guard:
    """The guard of a real run with private networks permitted."""
    return Guard(system_resolver, address_rule(config), system_tls)


@pytest.fixture
def fetch(system_tls: ssl.SSLContext) -> Callable[..., Opened]:
    """Open one URL and give back its body and its facts."""

    def open_url(url: str, config: FetchConfig, guard: Guard | None = None) -> Opened:
        usual = Guard(system_resolver, address_rule(config), system_tls)
        web = Web(config, usual if guard is None else guard)
        with closing(web):
            return open_through(web, url, config)

    return open_url


def open_through(web: Web, url: str, config: FetchConfig) -> Opened:
    """Open one URL through a web that others may share."""
    log = FetchLog()
    try:
        with SafeOpener(config, log, web).open(url) as response:
            body: bytes | None = response.read()
    except InsightTokError:
        body = None
    facts = log.get(url)
    assert facts is not None
    return body, facts
