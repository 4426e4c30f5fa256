"""One request to one URL, over connections that are limited, checked and used again."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from curation.fetch.config import FetchConfig
from curation.fetch.connection import (
    Connection,
    Guard,
    Origin,
    connect,
)
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.hosts import Host, Hosts
from curation.fetch.pool import Pool
from curation.fetch.resolution import Addresses


@dataclass(slots=True)
class Answer:
    """A response whose headers have arrived."""

    response: HTTPResponse
    connection: Connection
    deadline: Deadline
    is_whole: bool = False
    """Whether the body was read to its end, so that another request may follow."""


class Network:
    """What all requests of a worker share: known addresses, turns at hosts, idle connections.

    Args:
        config: limits and policies.
        guard: how names are resolved, addresses judged and TLS checked.
    """

    def __init__(self, config: FetchConfig, guard: Guard) -> None:
        self._guard = guard
        self._headers = _headers(config)
        self._addresses = Addresses(guard.resolver, guard.rule, config.dns_ttl_s)
        self._hosts = Hosts(
            config.host_connections, config.host_requests_per_s, config.turn_patience_s
        )
        self._pool = Pool(config.threads) if config.keep_alive else None

    def close(self) -> None:
        """Close idle connections."""
        if self._pool is not None:
            self._pool.close()

    @contextmanager
    def answer(self, url: str, deadline: Deadline) -> Iterator[Answer]:
        """Ask for a canonical URL; redirects are answers too.

        Raises:
            FetchError, OSError, HTTPException: there is none.
        """
        origin = Origin.of(url)
        with self._hosts.turn(f"{origin.host}:{origin.port}", deadline) as host:
            answer = self._ask(origin, self._request(url, origin), host, deadline)
            try:
                yield answer
            finally:
                will_close = answer.response.will_close
                answer.response.close()
                if self._pool is not None and answer.is_whole and not will_close:
                    self._pool.put(origin, answer.connection)
                else:
                    answer.connection.close()

    def _ask(self, origin: Origin, request: bytes, host: Host, deadline: Deadline) -> Answer:
        kept = None if self._pool is None else self._pool.take(origin)
        if kept is not None:
            try:
                return _send(kept, request, deadline)
            except (ConnectionError, ssl.SSLError):
                pass  # closed by the server while it was idle: that is no failed attempt
        return _send(self._open(origin, host, deadline), request, deadline)

    def _open(self, origin: Origin, host: Host, deadline: Deadline) -> Connection:
        host.check_up()
        addresses = self._addresses.checked(origin.host, origin.port, deadline)
        try:
            connection = connect(origin, addresses, self._guard.tls, deadline)
        except FetchError:
            host.refused()
            raise
        host.accepted()
        return connection

    def _request(self, url: str, origin: Origin) -> bytes:
        # A canonical URL and a checked user agent hold neither spaces nor line breaks.
        path = url.split("/", 3)[3]
        head = f"GET /{path} HTTP/1.1\r\nHost: {origin.authority}\r\n"
        return head.encode("ascii") + self._headers


def _send(connection: Connection, request: bytes, deadline: Deadline) -> Answer:
    connection.deadline = deadline
    response = HTTPResponse(connection, method="GET")
    try:
        connection.sendall(request)
        response.begin()
    except (OSError, HTTPException, ValueError):
        response.close()
        connection.close()
        raise
    return Answer(response, connection, deadline)


def _headers(config: FetchConfig) -> bytes:
    """The headers of every request but Host, and the empty line after them."""
    lines = (
        f"User-Agent: {config.user_agent}",
        "Accept: image/*, */*;q=0.1",  # robots.txt comes the same way
        "Accept-Encoding: identity",
        f"Connection: {'keep-alive' if config.keep_alive else 'close'}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")
