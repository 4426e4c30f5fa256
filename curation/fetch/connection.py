"""HTTP connections to a checked address, under one deadline for everything.

The host's addresses were checked (curation.fetch.resolution) and one of them is connected to; TLS
keeps the host name for SNI and for the certificate.

The deadline is total. A socket's own timeout starts anew at each call, so a server that sends one
byte a second would never meet it; here each receive and send is given what is left of the whole.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from annotations_schema.codes import FailureCode
from curation.fetch.addresses import IPAddress
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.resolution import AddressRule, Resolver

_CONNECT_S = 10.0  # an address that does not answer by then will not
_PORTS = {"http": 80, "https": 443}


class Guard(NamedTuple):
    """How hosts become addresses, which addresses are permitted, and how TLS is checked."""

    resolver: Resolver
    rule: AddressRule
    tls: ssl.SSLContext


class Origin(NamedTuple):
    """Where connections lead: what may share one."""

    scheme: str
    host: str
    port: int
    authority: str
    """Host and port as the URL writes them."""

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of a canonical URL, which always has a path."""
        scheme, _, authority, _ = url.split("/", 3)
        return _origin(scheme, authority)


@lru_cache(maxsize=4096)
def _origin(scheme: str, authority: str) -> Origin:
    parts = urlsplit(f"{scheme}//{authority}")
    assert parts.hostname is not None
    return Origin(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme], authority)


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


Connection = DeadlineSocket | DeadlineTLSSocket
"""An open connection; its deadline is that of the request it serves at the moment."""


def connect(
    origin: Origin, addresses: Sequence[IPAddress], tls: ssl.SSLContext, deadline: Deadline
) -> Connection:
    """Connect to the first address that accepts, and shake hands where the scheme asks for TLS.

    Raises:
        FetchError: CONNECT_FAILED.
        OSError: the TLS handshake failed, or the deadline passed (TimeoutError).
    """
    plain = _connect_to_first(addresses, origin.port, deadline)
    if origin.scheme == "http":
        return plain
    try:
        secure = tls.wrap_socket(plain, server_hostname=origin.host, do_handshake_on_connect=False)
    except OSError:
        plain.close()
        raise
    assert isinstance(secure, DeadlineTLSSocket)
    secure.deadline = deadline
    try:
        # ssl counts a handshake's timeout over all of its round trips.
        secure.settimeout(deadline.timeout_s())
        secure.do_handshake()
    except OSError:
        secure.close()
        raise
    return secure


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A verifying client context for `Guard`; the system's certificates unless a file is given."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = DeadlineTLSSocket
    return context


def _connect_to_first(
    addresses: Sequence[IPAddress], port: int, deadline: Deadline
) -> DeadlineSocket:
    """Connect to the first address that accepts; a silent one gets its share of the time only."""
    words = "no address"
    for position, address in enumerate(addresses):
        share_s = min(deadline.timeout_s() / (len(addresses) - position), _CONNECT_S)
        try:
            return _connect_to(address, port, deadline, share_s)
        except OSError as error:
            words = error.strerror or "no answer in time"
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
