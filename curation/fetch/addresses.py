"""Which IP addresses may be contacted: the guard against requests into private networks.

A public URL list must not be able to make the crawler talk to its own network. Every address that
a host name resolves to passes `blocked_reason`, and only a checked address is connected to.

Three groups:

- *liftable*: loopback, private and carrier-grade NAT ranges. `allow_private_network` permits them,
  for tests and intranets.
- *never*: link-local, cloud metadata services, multicast, unspecified, documentation and reserved
  ranges. No setting permits them: nothing there serves images, and metadata services hand out keys.
- *embedding*: IPv6 forms that carry an IPv4 address (mapped, NAT64, 6to4) are judged by that
  address. Teredo, IPv4-compatible and local NAT64 addresses are reserved.

The tables follow the IANA special-purpose registries and are written out here, so that the answer
does not depend on the Python version's own tables.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

IPAddress = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


def _networks(table: dict[str, str]) -> tuple[tuple[_Network, str], ...]:
    return tuple((ip_network(text), name) for text, name in table.items())


_LIFTABLE = _networks(
    {
        "127.0.0.0/8": "loopback",
        "10.0.0.0/8": "private",
        "172.16.0.0/12": "private",
        "192.168.0.0/16": "private",
        "100.64.0.0/10": "carrier-grade NAT",
        "::1/128": "loopback",
        "fc00::/7": "private",
    }
)
# Looked at first: some of these lie inside ranges that can be lifted, or are public.
_METADATA = _networks(
    {
        "169.254.169.254/32": "cloud metadata",
        "169.254.170.2/32": "cloud metadata",
        "100.100.100.200/32": "cloud metadata",
        "168.63.129.16/32": "cloud metadata",
        "192.0.0.192/32": "cloud metadata",
        "fd00:ec2::254/128": "cloud metadata",
        "fd20:ce::254/128": "cloud metadata",
        "fd00:c1::a9fe:a9fe/128": "cloud metadata",
    }
)
_NEVER = _networks(
    {
        "0.0.0.0/8": "unspecified",
        "169.254.0.0/16": "link-local",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "documentation",
        "192.88.99.0/24": "reserved",
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::/128": "unspecified",
        "fe80::/10": "link-local",
        "ff00::/8": "multicast",
        "2001::/23": "reserved",
        "2001:db8::/32": "documentation",
        "3fff::/20": "documentation",
    }
)
_IPV6_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


@lru_cache(maxsize=4096)
def blocked_reason(address: IPAddress, *, allow_private_network: bool) -> str | None:
    """Why the address must not be contacted, in one or two words, or None where it may be."""
    for network, name in _METADATA + _NEVER:
        if address in network:
            return name
    for network, name in _LIFTABLE:
        if address in network:
            return None if allow_private_network else name
    if isinstance(address, IPv4Address):
        return None
    embedded = _embedded_ipv4(address)
    if embedded is not None:
        return blocked_reason(embedded, allow_private_network=allow_private_network)
    return None if address in _IPV6_GLOBAL_UNICAST else "reserved"


def parse_address(text: str) -> IPAddress:
    """The address of a resolver's answer; a zone (`fe80::1%eth0`) is ignored for the check.

    Raises:
        ValueError: the text is no IP address.
    """
    return ip_address(text.split("%", 1)[0])


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
