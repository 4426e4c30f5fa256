from __future__ import annotations

import pytest

from curation.fetch.addresses import blocked_reason, parse_address

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "198.17.255.255",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]
LIFTABLE = [
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("10.0.0.1", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.168.1.1", "private"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("::1", "loopback"),
    ("fc00::1", "private"),
    ("fdff::1", "private"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:10.1.2.3", "private"),
    ("64:ff9b::192.168.0.1", "private"),
    ("2002:7f00:1::", "loopback"),
]
NEVER = [
    ("169.254.169.254", "cloud metadata"),
    ("169.254.170.2", "cloud metadata"),
    ("100.100.100.200", "cloud metadata"),
    ("168.63.129.16", "cloud metadata"),
    ("192.0.0.192", "cloud metadata"),
    ("fd00:ec2::254", "cloud metadata"),
    ("fd20:ce::254", "cloud metadata"),
    ("::ffff:169.254.169.254", "cloud metadata"),
    ("64:ff9b::a9fe:a9fe", "cloud metadata"),
    ("2002:a9fe:a9fe::", "cloud metadata"),
    ("169.254.0.1", "link-local"),
    ("fe80::1", "link-local"),
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("::", "unspecified"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("ff02::1", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("192.0.2.1", "documentation"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("2001:db8::1", "documentation"),
    ("3fff::1", "documentation"),
    ("198.18.0.1", "benchmarking"),
    ("2001::1", "reserved"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "reserved"),
    ("::7f00:1", "reserved"),
    ("64:ff9b:1::1", "reserved"),
    ("fec0::1", "reserved"),
    ("4000::1", "reserved"),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_address_may_be_contacted(text: str) -> None:
    assert blocked_reason(parse_address(text), allow_private_network=False) is None


@pytest.mark.parametrize(("text", "reason"), LIFTABLE)
def test_private_address_needs_permission(text: str, reason: str) -> None:
    assert blocked_reason(parse_address(text), allow_private_network=False) == reason
    assert blocked_reason(parse_address(text), allow_private_network=True) is None


@pytest.mark.parametrize(("text", "reason"), NEVER)
@pytest.mark.parametrize("is_allowed", [False, True])
def test_metadata_and_reserved_addresses_are_never_contacted(
    text: str, reason: str, is_allowed: bool
) -> None:
    assert blocked_reason(parse_address(text), allow_private_network=is_allowed) == reason


def test_a_zone_does_not_hide_an_address() -> None:
    assert blocked_reason(parse_address("fe80::1%eth0"), allow_private_network=True) == "link-local"
