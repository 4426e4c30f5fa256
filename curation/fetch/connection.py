"""HTTP connections to a checked address, under one deadline for everything.

`connect` resolves the host name once, checks every answer and connects to one of the checked
addresses, so a name that resolves differently a moment later (DNS rebinding) gains nothing. TLS
keeps the host name for SNI and for the certificate.

The deadline is total. A socket's own timeout starts anew at each call, so a server that sends one
byte a second would never meet it; here each receive and send is given what is left of the whole.
Name resolution cannot be interrupted by Python: it runs in a thread of its own, and when time is
up the caller goes on while the resolver's own time-out ends that thread.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from annotations_schema.codes import FailureCode
from curation.fetch.addresses import IPAddress, parse_address
from curation.fetch.failure import FetchError

Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) -> IP addresses as text, in the order to try them; raises OSError as getaddrinfo."""

AddressRule = Callable[[IPAddress], str | None]
"""Why an address must not be contacted, or None where it may be."""

_NAME_UNKNOWN = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_LEAST_TIMEOUT_S = 1e-3


class Deadline:
    """A point in time, `seconds` from its making on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining_s(self) -> float:
        """Seconds left; negative when it has passed."""
        return self._end - time.monotonic()

    def timeout_s(self) -> float:
        """Seconds left, as a socket timeout.

        Raises:
            TimeoutError: none is left.
        """
        remaining = self.remaining_s()
        if remaining <= 0:
            raise TimeoutError("the total deadline has passed")
        return max(remaining, _LEAST_TIMEOUT_S)


class Guard(NamedTuple):
    """How hosts become addresses, which addresses are permitted, and how TLS is checked."""

    resolver: Resolver
    rule: AddressRule
    tls: ssl.SSLContext


class DeadlineSocket(socket.socket):
    """A socket whose sends and receives share one deadline."""

    deadline: Deadline

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Receive within what is left of the deadline."""
        self.settimeout(self.deadline.timeout_s())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """Send within what is left of the deadline."""
        self.settimeout(self.deadline.timeout_s())
        super().sendall(*args, **kwargs)


class DeadlineTLSSocket(ssl.SSLSocket):
    """The same over TLS; ssl makes it through SSLContext.sslsocket_class."""

    deadline: Deadline

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Receive within what is left of the deadline."""
        self.settimeout(self.deadline.timeout_s())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        """Send within what is left of the deadline."""
        self.settimeout(self.deadline.timeout_s())
        super().sendall(*args, **kwargs)


class GuardedHTTPConnection(http.client.HTTPConnection):
    """Plain HTTP to a checked address."""

    def __init__(self, host: str, *, timeout: float, deadline: Deadline, guard: Guard) -> None:
        super().__init__(host, timeout=timeout)
        self._deadline = deadline
        self._guard = guard

    def connect(self) -> None:
        """Resolve, check, connect; called by http.client when a request is sent."""
        addresses = checked_addresses(self.host, self.port, self._deadline, self._guard)
        self.sock = _connect_to_first(addresses, self.port, self._deadline)


class GuardedHTTPSConnection(http.client.HTTPSConnection):
    """HTTPS to a checked address; the certificate must be the host name's."""

    def __init__(self, host: str, *, timeout: float, deadline: Deadline, guard: Guard) -> None:
        super().__init__(host, timeout=timeout, context=guard.tls)
        self._deadline = deadline
        self._guard = guard

    def connect(self) -> None:
        """Resolve, check, connect, shake hands; called by http.client."""
        addresses = checked_addresses(self.host, self.port, self._deadline, self._guard)
        plain = _connect_to_first(addresses, self.port, self._deadline)
        try:
            secure = self._guard.tls.wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
        except OSError:
            plain.close()
            raise
        assert isinstance(secure, DeadlineTLSSocket)
        secure.deadline = self._deadline
        self.sock = secure
        # ssl counts a handshake's timeout over all of its round trips.
        secure.settimeout(self._deadline.timeout_s())
        secure.do_handshake()


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A verifying client context for `Guard`; the system's certificates unless a file is given."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = DeadlineTLSSocket
    return context


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses that the operating system's resolver gives, in its order."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))


def checked_addresses(
    host: str, port: int, deadline: Deadline, guard: Guard
) -> tuple[IPAddress, ...]:
    """The addresses of a host, all of them permitted.

    One forbidden answer among permitted ones refuses the host: an honest server has none.

    Raises:
        FetchError: DNS_NOT_FOUND, DNS_FAILED or ADDRESS_BLOCKED.
        TimeoutError: the resolver took longer than the deadline.
    """
    addresses = tuple(_resolve(host, port, deadline, guard.resolver))
    for address in addresses:
        reason = guard.rule(address)
        if reason is not None:
            raise FetchError(FailureCode.ADDRESS_BLOCKED, f"{address} is a {reason} address")
    return addresses


def _resolve(host: str, port: int, deadline: Deadline, resolver: Resolver) -> list[IPAddress]:
    try:
        return [parse_address(host)]
    except ValueError:
        pass  # a name, or a spelling such as 0x7f.1 that only the resolver understands
    answer = _resolve_in_thread(host, port, deadline, resolver)
    if isinstance(answer, socket.gaierror) and answer.errno in _NAME_UNKNOWN:
        raise FetchError(FailureCode.DNS_NOT_FOUND, "the host name does not exist")
    if isinstance(answer, Exception):
        raise FetchError(FailureCode.DNS_FAILED, "the host name could not be resolved")
    if not answer:
        raise FetchError(FailureCode.DNS_NOT_FOUND, "the host name has no address")
    return [parse_address(text) for text in answer]


def _resolve_in_thread(
    host: str, port: int, deadline: Deadline, resolver: Resolver
) -> Sequence[str] | OSError | UnicodeError:
    answers: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(resolver(host, port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=work, name="resolve-host", daemon=True).start()
    try:
        return answers.get(timeout=deadline.timeout_s())
    except queue.Empty:
        raise TimeoutError("name resolution took longer than the deadline") from None


def _connect_to_first(
    addresses: Sequence[IPAddress], port: int, deadline: Deadline
) -> DeadlineSocket:
    """Connect to the first address that accepts; a silent one gets its share of the time only."""
    words = "no address"
    for position, address in enumerate(addresses):
        share_s = deadline.timeout_s() / (len(addresses) - position)
        try:
            return _connect_to(address, port, deadline, share_s)
        except OSError as error:
            words = error.strerror or "no answer in time"
    deadline.timeout_s()
    raise FetchError(FailureCode.CONNECT_FAILED, words)


def _connect_to(
    address: IPAddress, port: int, deadline: Deadline, timeout_s: float
) -> DeadlineSocket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = DeadlineSocket(family, socket.SOCK_STREAM)
    connection.deadline = deadline
    connection.settimeout(timeout_s)
    try:
        connection.connect((str(address), port))
    except OSError:
        connection.close()
        raise
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
