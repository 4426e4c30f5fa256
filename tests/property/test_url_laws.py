from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from hypothesis import given, settings
from hypothesis import strategies as st

from curation.fetch.addresses import blocked_reason
from curation.fetch.failure import printable
from curation.plan.urls import UrlError, canonical_url

LIMIT = 4096
LAW = settings(deadline=None)
HOSTS = st.sampled_from(["example.org", "EXAMPLE.org:80", "bücher.example", "[::1]:8080", "127.1"])
URLS = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{}://{}/{}?{}#{}".format,
        st.sampled_from(["http", "https", "HTTP", "file"]),
        HOSTS,
        st.text(max_size=30),
        st.text(max_size=20),
        st.text(max_size=5),
    ),
)


@LAW
@given(URLS)
def test_canonical_form_is_a_fixed_point_in_ascii(url: str) -> None:
    try:
        canonical = canonical_url(url, LIMIT)
    except UrlError:
        return
    assert canonical_url(canonical, len(canonical)) == canonical
    assert canonical.isascii()
    assert canonical.isprintable()
    assert " " not in canonical
    parts = urlsplit(canonical)
    assert parts.scheme in ("http", "https")
    assert parts.hostname
    assert parts.fragment == ""


@LAW
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_an_address_python_calls_not_global_is_never_contacted(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    embeds_ipv4 = address.version == 6 and (
        address.ipv4_mapped is not None or address in ipaddress.ip_network("64:ff9b::/96")
    )
    if not address.is_global and not embeds_ipv4:
        assert blocked_reason(address, allow_private_network=False) is not None


@LAW
@given(st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | number)
    nat64 = ipaddress.IPv6Address((0x64FF9B << 96) | number)
    six_to_four = ipaddress.IPv6Address((0x2002 << 112) | (number << 80))
    for is_allowed in (False, True):
        verdict = blocked_reason(address, allow_private_network=is_allowed)
        for carrier in (mapped, nat64, six_to_four):
            assert blocked_reason(carrier, allow_private_network=is_allowed) == verdict


@LAW
@given(st.ip_addresses())
def test_permitting_private_networks_only_ever_permits_more(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if blocked_reason(address, allow_private_network=False) is None:
        assert blocked_reason(address, allow_private_network=True) is None


@LAW
@given(st.text(max_size=600))
def test_a_detail_is_short_and_printable(text: str) -> None:
    detail = printable(text)
    assert len(detail) <= 256
    assert detail.isprintable() or detail == ""
