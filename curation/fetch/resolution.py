"""From host names to checked addresses; answers are kept, shared by all threads.

A name is looked up once however many threads ask. What was checked is what is connected to, so a
name that resolves differently a moment later (DNS rebinding) gains nothing. Name resolution cannot
be interrupted by Python: it runs in a thread of its own, and when time is up the caller goes on
while the resolver's own time-out ends that thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from annotations_schema.codes import FailureCode
from curation.fetch.addresses import IPAddress, parse_address
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.once import Made, Once

Resolver = Callable[[str, int], Sequence[str]]
"""(host, port) -> IP addresses as text, in the order to try them; raises OSError as getaddrinfo."""

AddressRule = Callable[[IPAddress], str | None]
"""Why an address must not be contacted, or None where it may be."""

Answer = tuple[IPAddress, ...] | FetchError

_NAME_UNKNOWN = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_UNKNOWN_TTL_S = 30.0
_FAILURE_TTL_S = 1.0  # shared by those who ask at the same time; the next retry asks again
_CAPACITY = 10_000


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses that the operating system's resolver gives, in its order."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))


class Addresses:
    """The addresses of hosts.

    Args:
        resolver: asked for names that are not known, or no longer.
        rule: judges every address of a host.
        ttl_s: how long an answer is used, seconds. Python's resolver does not tell the record's own
            time to live.
    """

    def __init__(self, resolver: Resolver, rule: AddressRule, ttl_s: float) -> None:
        self._resolver = resolver
        self._rule = rule
        self._ttl_s = ttl_s
        self._known: Once[tuple[str, int], Answer] = Once(_CAPACITY, is_in_background=True)

    def checked(self, host: str, port: int, deadline: Deadline) -> tuple[IPAddress, ...]:
        """The addresses of a host, all of them permitted.

        One forbidden answer among permitted ones refuses the host: an honest server has none.

        Raises:
            FetchError: DNS_NOT_FOUND, DNS_FAILED or ADDRESS_BLOCKED.
            TimeoutError: the resolver took longer than the deadline.
        """
        addresses = self._resolved(host, port, deadline)
        if isinstance(addresses, FetchError):
            raise FetchError(addresses.code, addresses.detail)
        for address in addresses:
            reason = self._rule(address)
            if reason is not None:
                raise FetchError(FailureCode.ADDRESS_BLOCKED, f"{address} is a {reason} address")
        return addresses

    def _resolved(self, host: str, port: int, deadline: Deadline) -> Answer:
        try:
            return (parse_address(host),)
        except ValueError:
            pass  # a name, or a spelling such as 0x7f.1 that only the resolver understands
        return self._known.get((host, port), lambda: self._ask(host, port), deadline.timeout_s())

    def _ask(self, host: str, port: int) -> Made[Answer]:
        try:
            texts = self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, socket.gaierror) and error.errno in _NAME_UNKNOWN:
                unknown = FetchError(FailureCode.DNS_NOT_FOUND, "the host name does not exist")
                return Made(unknown, _UNKNOWN_TTL_S)
            failed = FetchError(FailureCode.DNS_FAILED, "the host name could not be resolved")
            return Made(failed, _FAILURE_TTL_S)
        if not texts:
            none = FetchError(FailureCode.DNS_NOT_FOUND, "the host name has no address")
            return Made(none, _UNKNOWN_TTL_S)
        return Made(tuple(parse_address(text) for text in texts), self._ttl_s)
