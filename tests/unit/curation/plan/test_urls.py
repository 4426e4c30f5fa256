from __future__ import annotations

import hashlib
import pickle

import pytest

from annotations_schema.codes import FailureCode
from curation.plan.urls import (
    UrlError,
    canonical_url,
    image_id_of_row,
    image_id_of_url,
    without_credentials,
)

LIMIT = 4096


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        pytest.param("HTTP://Example.ORG/A.jpg", "http://example.org/A.jpg", id="case"),
        pytest.param("http://example.org", "http://example.org/", id="empty path"),
        pytest.param("http://example.org:80/a", "http://example.org/a", id="default http port"),
        pytest.param("https://example.org:443/a", "https://example.org/a", id="default https port"),
        pytest.param("https://example.org:80/a", "https://example.org:80/a", id="other port"),
        pytest.param("http://example.org:/a", "http://example.org/a", id="empty port"),
        pytest.param("http://example.org/a#top", "http://example.org/a", id="fragment"),
        pytest.param("  http://example.org/a \r\n", "http://example.org/a", id="white space"),
        pytest.param("http://example.org/a b", "http://example.org/a%20b", id="space in path"),
        pytest.param("http://example.org/é", "http://example.org/%C3%A9", id="non-ASCII path"),
        pytest.param("http://example.org/%c3%A9", "http://example.org/%c3%A9", id="triplets stay"),
        pytest.param("http://h/a?b=ü&c=1", "http://h/a?b=%C3%BC&c=1", id="non-ASCII query"),
        pytest.param("http://h/?b=2&a=1", "http://h/?b=2&a=1", id="query order stays"),
        pytest.param("http://h/a/./b/../c", "http://h/a/c", id="dot segments"),
        pytest.param("http://h/a/%2e%2E/b", "http://h/b", id="encoded dot segments"),
        pytest.param("http://h/../../a", "http://h/a", id="dots above the root"),
        pytest.param("http://h/a/..", "http://h/", id="dots at the end"),
        pytest.param("http://h/a//b", "http://h/a//b", id="empty segment stays"),
        pytest.param("http://bücher.example/a", "http://xn--bcher-kva.example/a", id="idna"),
        pytest.param("http://[2001:DB8::0:1]:80/a", "http://[2001:db8::1]/a", id="ipv6"),
        pytest.param("http://example.org./a", "http://example.org./a", id="root dot stays"),
        pytest.param("http://a_b.example/c", "http://a_b.example/c", id="underscore in host"),
        pytest.param("http://h/a\\b", "http://h/a%5Cb", id="backslash in path"),
    ],
)
def test_canonical_form(given: str, canonical: str) -> None:
    assert canonical_url(given, LIMIT) == canonical


@pytest.mark.parametrize(
    ("given", "code"),
    [
        pytest.param("", FailureCode.URL_MISSING, id="empty"),
        pytest.param(" \t ", FailureCode.URL_MISSING, id="blank"),
        pytest.param("cat.jpg", FailureCode.URL_RELATIVE, id="relative file"),
        pytest.param("/cat.jpg", FailureCode.URL_RELATIVE, id="relative path"),
        pytest.param("//h/cat.jpg", FailureCode.URL_RELATIVE, id="relative scheme"),
        pytest.param("example.org/cat.jpg", FailureCode.URL_RELATIVE, id="no scheme"),
        pytest.param("file:///etc/passwd", FailureCode.URL_SCHEME, id="file"),
        pytest.param("ftp://h/a", FailureCode.URL_SCHEME, id="ftp"),
        pytest.param("data:image/png;base64,AA==", FailureCode.URL_SCHEME, id="data"),
        pytest.param("javascript:alert(1)", FailureCode.URL_SCHEME, id="javascript"),
        pytest.param("http://h/" + "a" * LIMIT, FailureCode.URL_TOO_LONG, id="too long"),
        pytest.param("http://h/" + "é" * (LIMIT // 2), FailureCode.URL_TOO_LONG, id="long bytes"),
        pytest.param("http://h/a\x00", FailureCode.URL_CONTROL_CHARACTERS, id="nul"),
        pytest.param("http://h/a\nHost: b", FailureCode.URL_CONTROL_CHARACTERS, id="line feed"),
        pytest.param("ht\ttp://h/a", FailureCode.URL_CONTROL_CHARACTERS, id="tab in scheme"),
        pytest.param("http://h/a\x7f", FailureCode.URL_CONTROL_CHARACTERS, id="delete"),
        pytest.param("http:///a", FailureCode.URL_INVALID, id="no host"),
        pytest.param("http:a", FailureCode.URL_INVALID, id="no authority"),
        pytest.param("http://h:0/a", FailureCode.URL_INVALID, id="port 0"),
        pytest.param("http://h:65536/a", FailureCode.URL_INVALID, id="port too large"),
        pytest.param("http://h:x/a", FailureCode.URL_INVALID, id="port no number"),
        pytest.param("http://a b/c", FailureCode.URL_INVALID, id="space in host"),
        pytest.param("http://a..b/c", FailureCode.URL_INVALID, id="empty label"),
        pytest.param("http://" + "a" * 64 + "/b", FailureCode.URL_INVALID, id="label too long"),
        pytest.param("http://" + "a." * 127 + "a/b", FailureCode.URL_INVALID, id="host too long"),
        pytest.param("http://a%2eb/c", FailureCode.URL_INVALID, id="percent in host"),
        pytest.param("http://good.example\\@evil.example", FailureCode.URL_INVALID, id="confusing"),
        pytest.param("http://user:secret@h/a", FailureCode.URL_INVALID, id="credentials"),
        pytest.param("http://[::1/a", FailureCode.URL_INVALID, id="open bracket"),
        pytest.param("http://[v1.a]/a", FailureCode.URL_INVALID, id="future address"),
        pytest.param("http://[fe80::1%25eth0]/a", FailureCode.URL_INVALID, id="zone"),
        pytest.param("http://h/\ud800", FailureCode.URL_INVALID, id="lone surrogate"),
    ],
)
def test_unusable_url_has_a_code(given: str, code: FailureCode) -> None:
    with pytest.raises(UrlError) as caught:
        canonical_url(given, LIMIT)
    assert caught.value.code is code


def test_words_of_an_error_hold_no_credentials() -> None:
    with pytest.raises(UrlError) as caught:
        canonical_url("http://user:secret@h/a", LIMIT)
    assert "secret" not in str(caught.value)
    assert "user:" not in str(caught.value)


def test_url_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UrlError(FailureCode.URL_SCHEME, "scheme 'x'")))
    assert (error.code, error.detail) == (FailureCode.URL_SCHEME, "scheme 'x'")


def test_image_id_is_the_first_half_of_the_urls_sha256() -> None:
    url = "http://example.org/a.jpg"
    assert image_id_of_url(url) == hashlib.sha256(url.encode()).hexdigest()[:32]


def test_image_id_of_a_row_depends_on_list_and_row() -> None:
    ids = {image_id_of_row(name, row) for name in ("a", "b", "1\na") for row in (1, 11)}
    assert len(ids) == 6
    assert image_id_of_row("a", 1) == image_id_of_row("a", 1)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://user:secret@h/a", "http://***@h/a"),
        ("http://user@h/a@b", "http://***@h/a@b"),
        ("http://a:b@c@h/a", "http://***@h/a"),
        ("http://h/a@b", "http://h/a@b"),
        ("//user:secret@h", "//***@h"),
    ],
)
def test_credentials_are_hidden_in_what_is_published(given: str, shown: str) -> None:
    assert without_credentials(given) == shown
