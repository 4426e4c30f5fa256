from __future__ import annotations

import gzip
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple

import pytest

from annotations_schema.codes import FailureCode
from curation.fetch import robots_cache
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Guard
from curation.fetch.failure import FetchError
from curation.fetch.log import FetchFacts, FetchLog
from curation.fetch.opener import SafeOpener
from curation.fetch.robots import MAX_ROBOTS_BYTES
from curation.fetch.web import Web

IMAGE = b"image"
DISALLOW = b"User-agent: *\nDisallow: /private/\n"


class Reply(NamedTuple):
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    takes_s: float = 0.0


class Server(ThreadingHTTPServer):
    request_queue_size = 64


class Site:
    """A server with the given answers; every other path has an image."""

    def __init__(self, port: int, replies: dict[str, Reply | list[Reply]]) -> None:
        self.port = port
        self.replies = replies
        self.paths: list[str] = []
        self.agents: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def reply(self, path: str, agent: str) -> Reply:
        self.paths.append(path)
        self.agents.append(agent)
        reply = self.replies.get(path, Reply(200, IMAGE))
        if isinstance(reply, list):
            return reply.pop(0) if len(reply) > 1 else reply[0]
        return reply


@contextmanager
def serving(**replies: Reply | list[Reply]) -> Iterator[Site]:
    site = Site(0, {f"/{name}": reply for name, reply in replies.items()})
    site.replies["/robots.txt"] = site.replies.pop("/robots", Reply(404))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers, takes_s = site.reply(self.path, self.headers["User-Agent"])
            time.sleep(takes_s)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as http:
        site.port = int(http.server_address[1])
        Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield site
        http.shutdown()


class Crawler:
    def __init__(self, config: FetchConfig, guard: Guard) -> None:
        self._log = FetchLog()
        self._web = Web(config, guard)
        self._opener = SafeOpener(config, self._log, self._web)

    def get(self, url: str) -> FetchFacts:
        with suppress(FetchError):  # the log has it
            self._opener.open(url).close()
        facts = self._log.get(url)
        assert facts is not None
        return facts

    def close(self) -> None:
        self._web.close()


@pytest.fixture
def polite(config: FetchConfig) -> FetchConfig:
    return replace(config, respect_robots_txt=True)


@pytest.fixture
def crawler(polite: FetchConfig, guard: Guard) -> Iterator[Crawler]:
    with closing(Crawler(polite, guard)) as crawler:
        yield crawler


def test_a_disallowed_url_is_never_asked_for(crawler: Crawler) -> None:
    with serving(robots=Reply(200, DISALLOW)) as site:
        facts = crawler.get(site.url("/private/a.jpg"))
        assert (facts.code, facts.attempts) == (FailureCode.OPTOUT_ROBOTS_TXT, 0)
        assert facts.optout_rule == "robots.txt: user-agent *: disallow /private/"
        assert facts.detail == facts.optout_rule
        assert crawler.get(site.url("/public/a.jpg")).code is None
        assert site.paths == ["/robots.txt", "/public/a.jpg"]


def test_robots_txt_is_fetched_once_for_all_threads(crawler: Crawler) -> None:
    with serving(robots=Reply(200, DISALLOW)) as site, ThreadPoolExecutor(8) as threads:
        urls = [site.url(f"/{i}.jpg") for i in range(40)]
        assert {facts.code for facts in threads.map(crawler.get, urls)} == {None}
        assert site.paths.count("/robots.txt") == 1


def test_robots_txt_is_asked_for_by_our_name_and_can_address_it(
    polite: FetchConfig, guard: Guard
) -> None:
    rules = Reply(200, b"User-agent: my-crawler\nDisallow: /\n")
    named = replace(polite, user_agent="My-Crawler/2 (me@example.org)")
    with serving(robots=rules) as site, closing(Crawler(named, guard)) as crawler:
        rule = "robots.txt: user-agent my-crawler: disallow /"
        assert crawler.get(site.url("/a")).optout_rule == rule
        assert site.agents == ["My-Crawler/2 (me@example.org)"]


def test_robots_txt_can_be_ignored(config: FetchConfig, guard: Guard) -> None:
    with (
        serving(robots=Reply(200, DISALLOW)) as site,
        closing(Crawler(replace(config, respect_robots_txt=False), guard)) as crawler,
    ):
        assert crawler.get(site.url("/private/a.jpg")).code is None
        assert site.paths == ["/private/a.jpg"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451])
def test_a_host_without_robots_txt_allows_all(crawler: Crawler, status: int) -> None:
    with serving(robots=Reply(status, b"no")) as site:
        assert [crawler.get(site.url(path)).code for path in ("/a", "/b")] == [None, None]
        assert site.paths.count("/robots.txt") == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_robots_txt_that_is_out_of_order_closes_the_host_for_a_while(
    crawler: Crawler, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with serving(robots=Reply(status)) as site:
        for path in ("/a", "/b"):
            facts = crawler.get(site.url(path))
            assert facts.code == FailureCode(f"http_{status}")
            assert facts.code.is_transient
            assert (facts.detail, facts.attempts) == (f"robots.txt: HTTP status {status}", 0)
            assert facts.optout_rule is None
        assert site.paths == ["/robots.txt"] * 3  # two retries, then remembered
    monkeypatch.setattr(robots_cache, "_FAILURE_TTL_S", 0.0)
    with serving(robots=[Reply(status)] * 3 + [Reply(200, b"")]) as site:
        assert crawler.get(site.url("/a")).code is not None
        assert crawler.get(site.url("/a")).code is None


def test_a_robots_txt_that_recovers_is_tried_again(crawler: Crawler) -> None:
    with serving(robots=[Reply(503), Reply(200, DISALLOW)]) as site:
        facts = crawler.get(site.url("/private/a"))
        assert facts.code is FailureCode.OPTOUT_ROBOTS_TXT


def test_a_host_that_cannot_be_reached_keeps_its_own_code(
    polite: FetchConfig, guard: Guard
) -> None:
    blocked = guard._replace(resolver=lambda host, port: ["169.254.169.254"])
    with closing(Crawler(polite, blocked)) as crawler:
        facts = crawler.get("http://metadata.test/a")
    assert facts.code is FailureCode.ADDRESS_BLOCKED
    assert facts.detail == "robots.txt: 169.254.169.254 is a cloud metadata address"


def hops(number: int) -> dict[str, Any]:
    chain: dict[str, Any] = {
        f"hop{i}": Reply(302, b"", {"Location": f"/hop{i + 1}"}) for i in range(1, number)
    }
    return {
        "robots": Reply(301, b"", {"Location": "/hop1"}),
        **chain,
        f"hop{number}": Reply(200, DISALLOW),
    }


@pytest.mark.parametrize(("number", "is_allowed"), [(1, False), (5, False), (6, True)])
def test_five_redirects_of_robots_txt_are_followed(
    crawler: Crawler, number: int, is_allowed: bool
) -> None:
    with serving(**hops(number)) as site:
        assert (crawler.get(site.url("/private/a")).code is None) is is_allowed


def test_the_target_of_a_redirect_is_asked_about_too(crawler: Crawler) -> None:
    with serving(robots=Reply(200, DISALLOW)) as other, serving() as site:
        site.replies["/a"] = Reply(302, b"", {"Location": other.url("/private/a")})
        facts = crawler.get(site.url("/a"))
        assert (facts.code, facts.http_status, facts.attempts) == (
            FailureCode.OPTOUT_ROBOTS_TXT,
            302,
            1,
        )
        assert other.paths == ["/robots.txt"]


def test_content_usage_in_robots_txt_refuses(crawler: Crawler) -> None:
    rules = b"User-agent: *\nAllow: /\nContent-Usage: train-ai=n\nContent-Usage: /ok/ train-ai=y\n"
    with serving(robots=Reply(200, rules)) as site:
        facts = crawler.get(site.url("/a"))
        assert facts.code is FailureCode.OPTOUT_CONTENT_USAGE
        assert facts.optout_rule == "robots.txt: user-agent *: content-usage train-ai=n"
        assert crawler.get(site.url("/ok/a")).code is None


def test_an_endless_robots_txt_is_read_up_to_its_cap(crawler: Crawler) -> None:
    body = DISALLOW + b"#" * (2 * MAX_ROBOTS_BYTES)
    with serving(robots=Reply(200, body)) as site:
        assert crawler.get(site.url("/private/a")).code is FailureCode.OPTOUT_ROBOTS_TXT
        assert crawler.get(site.url("/a")).code is None


def test_rules_of_a_host_give_way_to_those_of_others(
    polite: FetchConfig, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robots_cache, "_CAPACITY", 100)
    long = b"User-agent: *\n" + b"".join(b"Disallow: /%d/\n" % i for i in range(800))
    with (
        serving(robots=Reply(200, long)) as first,
        serving(robots=Reply(200, DISALLOW)) as second,
        closing(Crawler(polite, guard)) as small,
    ):
        for site in (first, second, second, first):
            assert small.get(site.url("/a")).code is None
        assert first.paths.count("/robots.txt") == 2
        assert second.paths.count("/robots.txt") == 1


def test_a_robots_txt_that_cannot_be_read_is_not_taken_for_one_without_rules(
    crawler: Crawler,
) -> None:
    packed = Reply(200, gzip.compress(DISALLOW), {"Content-Encoding": "gzip"})
    with serving(robots=packed) as site:
        facts = crawler.get(site.url("/private/a"))
        assert facts.code is FailureCode.HTTP_PROTOCOL
        assert (facts.detail or "").startswith("robots.txt: Content-Encoding 'gzip'")
        assert site.paths == ["/robots.txt"]


def test_the_time_for_robots_txt_is_not_the_urls(polite: FetchConfig, guard: Guard) -> None:
    brief = replace(polite, deadline_s=0.8, retries=0)
    with (
        serving(robots=Reply(404, takes_s=0.6), a=Reply(200, IMAGE, takes_s=0.5)) as site,
        closing(Crawler(brief, guard)) as crawler,
    ):
        assert crawler.get(site.url("/a")).code is None


def test_a_robots_txt_that_hangs_ends_with_its_own_deadline(
    polite: FetchConfig, guard: Guard
) -> None:
    with (
        serving(robots=Reply(404, takes_s=2)) as site,
        closing(Crawler(replace(polite, deadline_s=0.3), guard)) as crawler,
    ):
        begin = time.monotonic()
        facts = crawler.get(site.url("/a"))
        assert time.monotonic() - begin < 1.5
        assert facts.code is FailureCode.DEADLINE_EXCEEDED
        assert (facts.detail or "").startswith("robots.txt: ")
        assert site.paths == ["/robots.txt"]
