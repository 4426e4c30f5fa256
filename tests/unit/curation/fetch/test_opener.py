from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from annotations_schema.codes import FailureCode
from annotations_schema.errors import UsageError
from curation.demo.server import TroubleServer
from curation.demo.troubles import RETRIES, TROUBLES, Trouble
from curation.fetch.config import USER_AGENT, FetchConfig
from curation.fetch.failure import FetchError
from curation.fetch.hops import redirect_target
from curation.fetch.log import FetchLog
from curation.fetch.opener import SafeOpener, installed
from curation.fetch.web import open_web

BY_NAME = {trouble.name: trouble for trouble in TROUBLES}
# Those whose code the image probe finds, not the opener.
PROBED = {FailureCode.NOT_AN_IMAGE, FailureCode.PIXEL_CAP, FailureCode.DECODE_TRUNCATED}
Fetch = Callable[..., Any]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_each_trouble_has_its_code_and_its_number_of_attempts(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, trouble: Trouble
) -> None:
    before = server.count(trouble.path)
    is_slow = trouble.code is FailureCode.DEADLINE_EXCEEDED
    config = replace(config, deadline_s=0.4 if is_slow else 5)
    body, facts = fetch(server.trouble_url(trouble), replace(config, respect_robots_txt=True))
    expected = None if trouble.code in PROBED else trouble.code
    assert facts.code is expected
    assert (body is None) == (expected is not None)
    assert facts.attempts == trouble.attempts
    assert server.count(trouble.path) - before == trouble.attempts
    assert config.retries == RETRIES


def test_body_and_facts_of_a_success(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    begin = datetime.now(UTC)
    body, facts = fetch(server.url("/trouble/image.jpg"), config)
    assert body == server.picture
    assert (facts.code, facts.detail, facts.http_status, facts.attempts) == (None, None, 200, 1)
    assert begin <= facts.fetched_at <= datetime.now(UTC)
    assert 0 <= facts.elapsed_ms < 5000


def test_requests_say_who_asks_and_accept_no_compression(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    fetch(server.url("/who-asks"), config)
    headers = next(request.headers for request in server.seen if request.path == "/who-asks")
    assert headers["user-agent"] == USER_AGENT
    assert "Mozilla" not in headers["user-agent"]
    assert headers["accept-encoding"] == "identity"
    assert headers["host"] == f"127.0.0.1:{server.port}"


def test_headers_of_the_callers_request_are_replaced(
    server: TroubleServer, config: FetchConfig
) -> None:
    opener = SafeOpener(config, FetchLog(), open_web(config))
    request = urllib.request.Request(
        server.url("/replaced"), headers={"User-Agent": "Firefox", "Cookie": "a=b"}
    )
    with pytest.raises(FetchError):
        opener.open(request, timeout=1)
    headers = next(seen.headers for seen in server.seen if seen.path == "/replaced")
    assert headers["user-agent"] == USER_AGENT
    assert "cookie" not in headers


def test_redirect_status_and_headers_follow_to_the_image(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    _, facts = fetch(server.trouble_url(BY_NAME["redirect_to_image"]), config)
    assert (facts.http_status, facts.attempts) == (200, 1)
    seen = [request for request in server.seen if request.path == "/trouble/image.jpg"]
    assert seen[-1].headers["user-agent"] == USER_AGENT


def test_no_redirect_is_followed_where_none_is_allowed(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    url = server.trouble_url(BY_NAME["redirect_to_image"])
    _, facts = fetch(url, replace(config, max_redirects=0))
    assert (facts.code, facts.http_status) == (FailureCode.REDIRECT_LIMIT, 302)


def test_endless_redirects_end_at_the_limit(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    before = server.count("/trouble/hop/3.jpg"), server.count("/trouble/hop/4.jpg")
    url = server.trouble_url(BY_NAME["redirect_endless"])
    _, facts = fetch(url, replace(config, max_redirects=3))
    assert facts.code is FailureCode.REDIRECT_LIMIT
    after = server.count("/trouble/hop/3.jpg"), server.count("/trouble/hop/4.jpg")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 0)


@pytest.mark.parametrize("name", ["slow_body", "slow_headers"])
def test_a_dripping_server_cannot_outlast_the_deadline(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, name: str
) -> None:
    begin = time.monotonic()
    _, facts = fetch(server.trouble_url(BY_NAME[name]), replace(config, deadline_s=0.5))
    assert 0.45 < time.monotonic() - begin < 1.5
    assert facts.code is FailureCode.DEADLINE_EXCEEDED
    assert 450 <= facts.elapsed_ms < 1500


def test_retries_stop_at_the_deadline(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    slow = replace(config, deadline_s=1, backoff_s=0.4, retries=20)
    begin = time.monotonic()
    _, facts = fetch(server.trouble_url(BY_NAME["broken"]), slow)
    assert time.monotonic() - begin < 1.6
    assert facts.code is FailureCode.HTTP_500
    assert 2 <= facts.attempts <= 3


def test_a_wait_beyond_the_deadline_is_not_begun(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    begin = time.monotonic()
    _, facts = fetch(server.trouble_url(BY_NAME["rate_limited"]), config)
    assert time.monotonic() - begin < 2
    assert (facts.code, facts.attempts) == (FailureCode.HTTP_429, 1)
    assert facts.detail == "HTTP status 429; asks to wait 3600 s and 5 s are left"


def test_a_server_that_changes_its_answer_has_its_last_one_counted(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    _, facts = fetch(server.trouble_url(BY_NAME["changing"]), config)
    assert (facts.code, facts.http_status, facts.attempts) == (FailureCode.HTTP_410, 410, 2)
    assert facts.detail == "HTTP status 410"


def test_no_retries_means_one_attempt(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    _, facts = fetch(server.trouble_url(BY_NAME["broken"]), replace(config, retries=0))
    assert facts.attempts == 1


def test_opt_out_is_honoured_before_the_body_is_read(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noimageai\r\nContent-Length: 1000\r\n\r\n"
    port = serve(head)
    begin = time.monotonic()
    _, facts = fetch(f"http://127.0.0.1:{port}/a.jpg", config)
    assert facts.code is FailureCode.OPTOUT_X_ROBOTS
    assert facts.detail == "X-Robots-Tag: noimageai"
    assert (facts.http_status, facts.attempts) == (200, 1)
    assert time.monotonic() - begin < 2  # reading the body would have taken the whole deadline


@pytest.mark.parametrize(
    ("line", "code", "rule"),
    [
        (b"X-Robots-Tag: noai", FailureCode.OPTOUT_X_ROBOTS, "X-Robots-Tag: noai"),
        (
            b"Content-Usage: search=y\r\nContent-Usage: train-ai=n",
            FailureCode.OPTOUT_CONTENT_USAGE,
            "Content-Usage: train-ai=n",
        ),
    ],
)
@pytest.mark.parametrize("status", [b"200 OK", b"302 Found\r\nLocation: /b"])
def test_the_rule_of_a_header_is_noted_on_redirects_too(
    config: FetchConfig,
    fetch: Fetch,
    serve: Callable[..., int],
    status: bytes,
    line: bytes,
    code: FailureCode,
    rule: str,
) -> None:
    port = serve(b"HTTP/1.1 " + status + b"\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n")
    _, facts = fetch(f"http://127.0.0.1:{port}/a.jpg", config)
    assert (facts.code, facts.optout_rule, facts.attempts) == (code, rule, 1)
    assert facts.http_status == int(status[:3])


def test_only_refusals_note_a_rule(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    assert fetch(server.url("/trouble/image.jpg"), config)[1].optout_rule is None
    assert fetch(server.trouble_url(BY_NAME["not_found"]), config)[1].optout_rule is None


def test_categories_of_content_usage_can_be_chosen(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    url = server.trouble_url(BY_NAME["optout_content_usage"])
    assert fetch(url, replace(config, usage_categories=("ai",)))[0] == server.picture


def test_opt_out_scoped_to_our_name_is_honoured(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int]
) -> None:
    port = serve(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: open-insighttok: noai\r\n\r\n")
    _, facts = fetch(f"http://127.0.0.1:{port}/a.jpg", config)
    assert facts.detail == "X-Robots-Tag: open-insighttok: noai"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", FailureCode.HTTP_UNEXPECTED, id="204"),
        pytest.param(
            b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx",
            FailureCode.HTTP_UNEXPECTED,
            id="a part nobody asked for",
        ),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\n\r\n", FailureCode.HTTP_UNEXPECTED, id="304"),
        pytest.param(b"HTTP/1.1 418 Teapot\r\n\r\n", FailureCode.HTTP_4XX, id="418"),
        pytest.param(b"HTTP/1.1 302 Found\r\n\r\n", FailureCode.HTTP_PROTOCOL, id="no Location"),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\n\r\n",
            FailureCode.HTTP_PROTOCOL,
            id="Location that is no URL",
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: gopher://127.0.0.1/\r\n\r\n",
            FailureCode.REDIRECT_SCHEME,
            id="redirect to gopher",
        ),
        pytest.param(
            b"HTTP/1.1 302 Found\r\nLocation: http://user:hunter2@127.0.0.1/\r\n\r\n",
            FailureCode.HTTP_PROTOCOL,
            id="redirect with credentials",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            FailureCode.HTTP_PROTOCOL,
            id="too many headers",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
            FailureCode.HTTP_PROTOCOL,
            id="a header too long",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            FailureCode.BODY_TRUNCATED,
            id="a chunk without size",
        ),
        pytest.param(b"", FailureCode.CONNECTION_LOST, id="no answer"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", FailureCode.HTTP_PROTOCOL, id="status no number"),
    ],
)
def test_odd_answers_have_codes(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int], answer: bytes, code: FailureCode
) -> None:
    port = serve(answer, waits=False)
    _, facts = fetch(f"http://127.0.0.1:{port}/a.jpg", replace(config, retries=0))
    assert facts.code is code
    assert "hunter2" not in (facts.detail or "")


def test_the_cap_counts_bytes_that_arrive(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int]
) -> None:
    port = serve(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, waits=False)
    url = f"http://127.0.0.1:{port}/a"
    assert fetch(url, replace(config, max_bytes=1000))[0] == b"x" * 1000
    assert fetch(url, replace(config, max_bytes=999))[1].code is FailureCode.BODY_TOO_LARGE


def test_chunked_bodies_are_joined(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    port = serve(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert fetch(f"http://127.0.0.1:{port}/a", config)[0] == b"abcde"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x"])
def test_other_schemes_are_never_opened(config: FetchConfig, fetch: Fetch, url: str) -> None:
    body, facts = fetch(url, config)
    assert body is None
    assert facts.code is FailureCode.URL_SCHEME


def test_proxies_of_the_environment_are_ignored(
    server: TroubleServer, config: FetchConfig, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    assert fetch(server.url("/trouble/image.jpg"), config)[0] == server.picture


def test_urlopen_goes_through_an_installed_opener(
    server: TroubleServer, config: FetchConfig
) -> None:
    log = FetchLog()
    url = server.url("/trouble/image.jpg")
    with (
        installed(SafeOpener(config, log, open_web(config))),
        urllib.request.urlopen(url, timeout=1) as response,
    ):
        assert response.read() == server.picture
        assert response.headers["Content-Type"] == "image/jpeg"
    assert log.get(url) is not None


def test_the_former_opener_comes_back_whatever_happens(config: FetchConfig) -> None:
    former = urllib.request.build_opener()
    urllib.request.install_opener(former)
    try:
        with (
            pytest.raises(ZeroDivisionError),
            installed(SafeOpener(config, FetchLog(), open_web(config))),
        ):
            raise ZeroDivisionError
        assert vars(urllib.request)["_opener"] is former
    finally:
        urllib.request.install_opener(None)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("b.jpg", "http://h/x/b.jpg"),
        ("/b c.jpg", "http://h/b%20c.jpg"),
        ("//other/b", "http://other/b"),
        ("HTTPS://H:443/b#top", "https://h/b"),
        ("/caf\xc3\xa9", "http://h/caf%C3%A9"),  # UTF-8 bytes, read as Latin-1 by http.client
        ("?page=2", "http://h/x/a?page=2"),
    ],
)
def test_redirect_target_is_canonical(location: str, target: str) -> None:
    assert redirect_target("http://h/x/a", location) == target


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 0},
        {"deadline_s": 0},
        {"deadline_s": float("nan")},
        {"max_bytes": 0},
        {"retries": -1},
        {"host_connections": 0},
        {"host_requests_per_s": 0},
        {"dns_ttl_s": -1},
        {"min_bytes_per_s": -1},
        {"slow_after_s": -1},
        {"retries": 21},
        {"max_redirects": -1},
        {"hash_policy": "shred"},
        {"user_agent": ""},
        {"user_agent": "a\r\nb"},
        {"user_agent": " /1"},
        {"user_agent": "b\u00f6t/1"},
    ],
)
def test_a_configuration_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        FetchConfig(**settings)


def test_settings_of_the_machine_do_not_count_for_results() -> None:
    ours = FetchConfig(
        threads=3, host_connections=1, host_requests_per_s=2.0, keep_alive=False, dns_ttl_s=1.0
    )
    assert ours.for_results == FetchConfig()
    assert replace(ours, respect_robots_txt=False).for_results != FetchConfig()
