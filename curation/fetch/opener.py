"""The urllib opener that img2dataset's downloader goes through: safe, bounded, accountable.

img2dataset calls `urllib.request.urlopen`; `installed` puts a `SafeOpener` behind it, which is
urllib's own way to extend it. For each URL the opener

1. speaks http and https only, to checked addresses, without proxies (curation.fetch.connection);
2. follows redirects itself: each one is canonicalised, checked and counted, loops are found;
3. honours X-Robots-Tag before it reads a body;
4. reads the body into memory under a byte cap, and compares its length with the announced one;
5. tries transient failures again, with exponential pauses, inside one total deadline;
6. writes down one `FetchFacts` in its `FetchLog`.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException, HTTPMessage, HTTPResponse
from string import punctuation
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urljoin
from urllib.response import addinfourl

from annotations_schema.codes import FailureCode
from curation.fetch.addresses import IPAddress, blocked_reason
from curation.fetch.config import FetchConfig
from curation.fetch.connection import (
    Deadline,
    Guard,
    GuardedHTTPConnection,
    GuardedHTTPSConnection,
    system_resolver,
    tls_context,
)
from curation.fetch.failure import FetchError, as_fetch_error
from curation.fetch.optout import opted_out, product_name
from curation.urls import UrlError, canonical_url

_SUCCESS = frozenset({200, 203})
_CHUNK_BYTES = 2**16
_MAX_REDIRECT_URL_BYTES = 16_384
_MAX_PAUSE_S = 30.0
_INSTALL_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFacts:
    """What happened with one URL."""

    code: FailureCode | None
    """None where the body arrived."""
    detail: str | None
    http_status: int | None
    """Last status line seen."""
    attempts: int
    """Requests started from the URL itself; redirects do not count."""
    elapsed_ms: int
    fetched_at: datetime
    """When it ended, UTC."""


class FetchLog:
    """FetchFacts by URL; written by many threads."""

    def __init__(self) -> None:
        self._facts: dict[str, FetchFacts] = {}
        self._lock = threading.Lock()

    def record(self, url: str, facts: FetchFacts) -> None:
        """Keep the facts of a URL."""
        with self._lock:
            self._facts[url] = facts

    def get(self, url: str) -> FetchFacts | None:
        """The facts of a URL, or None where it was never opened."""
        with self._lock:
            return self._facts.get(url)


class Body(NamedTuple):
    """A whole response in memory."""

    data: bytes
    headers: HTTPMessage
    http_status: int
    url: str


class Outcome(NamedTuple):
    """The end of a URL's attempts: a body or an error."""

    result: Body | FetchError
    attempts: int


class SafeOpener(urllib.request.OpenerDirector):
    """An OpenerDirector with the handlers of this module and no others.

    Args:
        config: limits and policies.
        log: where the facts of each URL go.
        guard: how names are resolved, addresses judged and TLS checked; from the config if None.
    """

    def __init__(self, config: FetchConfig, log: FetchLog, guard: Guard | None = None) -> None:
        super().__init__()
        self._config = config
        self._log = log
        # img2dataset's name too: a server that opts out of it means this downloader.
        self._names = (product_name(config.user_agent), "img2dataset")
        guard = guard_of(config) if guard is None else guard
        for handler in (_Connections(guard), _Statuses(), _Redirects(config.max_redirects)):
            self.add_handler(handler)

    def open(
        self, fullurl: str | urllib.request.Request, data: Any = None, timeout: float | None = None
    ) -> addinfourl:
        """Fetch a URL; the response's body is in memory already.

        The headers of a given Request are ignored and so is `timeout`: both are the config's.

        Raises:
            FetchError: no image bytes; the same is in the log.
        """
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        started = time.monotonic()
        result, attempts = self._try_until_deadline(url)
        error = result if isinstance(result, FetchError) else None
        self._log.record(
            url,
            FetchFacts(
                code=None if error is None else error.code,
                detail=None if error is None else error.detail,
                http_status=result.http_status,
                attempts=attempts,
                elapsed_ms=round((time.monotonic() - started) * 1000),
                fetched_at=datetime.now(UTC),
            ),
        )
        if isinstance(result, FetchError):
            raise result
        return addinfourl(io.BytesIO(result.data), result.headers, result.url, result.http_status)

    def open_hop(self, request: GuardedRequest) -> HTTPResponse:
        """One request and what its redirects lead to; the body is unread."""
        response = super().open(request, timeout=request.deadline.timeout_s())
        assert isinstance(response, HTTPResponse)
        return response

    def _try_until_deadline(self, url: str) -> Outcome:
        deadline = Deadline(self._config.deadline_s)
        attempt = 1
        while True:
            result = self._attempt(url, deadline)
            if not isinstance(result, FetchError) or not result.code.is_transient:
                return Outcome(result, attempt)
            pause = max(backoff_s(url, attempt, self._config.backoff_s), result.retry_after_s or 0)
            if attempt > self._config.retries or pause >= deadline.remaining_s():
                return Outcome(result, attempt)
            time.sleep(pause)
            attempt += 1

    def _attempt(self, url: str, deadline: Deadline) -> Body | FetchError:
        try:
            request = GuardedRequest(_requestable(url), self._headers(), deadline, visited=())
            with self.open_hop(request) as response:
                return self._read(response)
        except (FetchError, OSError, HTTPException, ValueError) as error:
            return as_fetch_error(error)

    def _read(self, response: HTTPResponse) -> Body:
        try:
            self._check_headers(response.headers)
            data = read_body(response, self._config.max_bytes)
        except (FetchError, OSError, HTTPException, ValueError) as error:
            failure = as_fetch_error(error)
            failure.http_status = response.status
            raise failure from error
        return Body(data, response.headers, response.status, response.url)

    def _check_headers(self, headers: HTTPMessage) -> None:
        directive = opted_out(
            headers.get_all("X-Robots-Tag", []), self._names, self._config.optout_directives
        )
        if directive is not None:
            scope = "" if directive.scope is None else f"{directive.scope}: "
            detail = f"X-Robots-Tag: {scope}{directive.name}"
            raise FetchError(FailureCode.OPTOUT_X_ROBOTS, detail)
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            detail = f"Content-Encoding {encoding!r}, though only identity was accepted"
            raise FetchError(FailureCode.HTTP_PROTOCOL, detail)

    def _headers(self) -> dict[str, str]:
        return {
            "User-Agent": self._config.user_agent,
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }


class GuardedRequest(urllib.request.Request):
    """A request that carries its deadline and the URLs that redirected to it."""

    def __init__(
        self, url: str, headers: dict[str, str], deadline: Deadline, visited: tuple[str, ...]
    ) -> None:
        super().__init__(url, headers=headers)
        self.deadline = deadline
        self.visited = visited


class _Connections(urllib.request.AbstractHTTPHandler):
    """http and https over guarded connections."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, request: GuardedRequest) -> HTTPResponse:
        connect = partial(GuardedHTTPConnection, deadline=request.deadline, guard=self._guard)
        return self.do_open(connect, request)

    def https_open(self, request: GuardedRequest) -> HTTPResponse:
        connect = partial(GuardedHTTPSConnection, deadline=request.deadline, guard=self._guard)
        return self.do_open(connect, request)

    http_request = urllib.request.AbstractHTTPHandler.do_request_
    https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Statuses(urllib.request.BaseHandler):
    """Lets successes pass; any other status is a redirect or a FetchError."""

    def http_response(self, request: GuardedRequest, response: HTTPResponse) -> HTTPResponse:
        if response.status in _SUCCESS:
            return response
        final = self.parent.error(
            "http", request, response, response.status, response.reason, response.headers
        )
        assert isinstance(final, HTTPResponse)
        return final

    https_response = http_response

    def http_error_default(
        self, request: GuardedRequest, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse:
        fp.close()
        raise FetchError(
            FailureCode.from_http_status(code),
            f"HTTP status {code}",
            http_status=code,
            retry_after_s=retry_after_s(headers.get("Retry-After"), datetime.now(UTC)),
        )


class _Redirects(urllib.request.BaseHandler):
    """Follows redirects without reading their bodies."""

    def __init__(self, max_redirects: int) -> None:
        self._max_redirects = max_redirects

    def http_error_302(
        self, request: GuardedRequest, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse:
        fp.close()
        assert isinstance(self.parent, SafeOpener)
        try:
            return self.parent.open_hop(self._next_request(request, headers.get("Location")))
        except FetchError as error:
            error.http_status = code if error.http_status is None else error.http_status
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def _next_request(self, request: GuardedRequest, location: str | None) -> GuardedRequest:
        visited = (*request.visited, request.full_url)
        target = redirect_target(request.full_url, location)
        if target in visited:
            raise FetchError(FailureCode.REDIRECT_LOOP, f"back after {len(visited)} redirects")
        if len(visited) > self._max_redirects:
            raise FetchError(FailureCode.REDIRECT_LIMIT, f"more than {self._max_redirects}")
        return GuardedRequest(target, dict(request.headers), request.deadline, visited)


def guard_of(config: FetchConfig) -> Guard:
    """The guard of a real run: system resolver, our address rule, the system's certificates."""

    def rule(address: IPAddress) -> str | None:
        return blocked_reason(address, allow_private_network=config.allow_private_network)

    return Guard(system_resolver, rule, tls_context())


@contextmanager
def installed(opener: urllib.request.OpenerDirector) -> Iterator[None]:
    """Put an opener behind `urllib.request.urlopen` for the length of a `with` block.

    urllib has one opener per process, so blocks in other threads wait their turn.
    """
    with _INSTALL_LOCK:
        former = getattr(urllib.request, "_opener", None)
        urllib.request.install_opener(opener)
        try:
            yield
        finally:
            urllib.request.install_opener(former)


def read_body(response: HTTPResponse, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        FetchError: BODY_TOO_LARGE (by its announced length, or while reading), BODY_TRUNCATED or
            BODY_EMPTY.
    """
    announced = response.length
    if announced is not None and announced > max_bytes:
        detail = f"{announced} bytes announced; the cap is {max_bytes}"
        raise FetchError(FailureCode.BODY_TOO_LARGE, detail)
    chunks: list[bytes] = []
    num_bytes = 0
    while chunk := response.read(_CHUNK_BYTES):
        chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise FetchError(FailureCode.BODY_TOO_LARGE, f"more than the cap of {max_bytes} bytes")
    if announced is not None and num_bytes < announced:
        raise FetchError(FailureCode.BODY_TRUNCATED, f"{num_bytes} of {announced} bytes")
    if num_bytes == 0:
        raise FetchError(FailureCode.BODY_EMPTY, "no bytes")
    return b"".join(chunks)


def redirect_target(base: str, location: str | None) -> str:
    """The canonical URL that a Location header names.

    Raises:
        FetchError: REDIRECT_SCHEME, or HTTP_PROTOCOL where there is no usable URL.
    """
    if not location:
        raise FetchError(FailureCode.HTTP_PROTOCOL, "a redirect without a Location")
    # http.client reads headers as Latin-1; percent-encoding brings back the bytes that were sent.
    sent = quote(location.strip(), safe=punctuation, encoding="iso-8859-1")
    try:
        return canonical_url(urljoin(base, sent), _MAX_REDIRECT_URL_BYTES)
    except UrlError as error:
        is_scheme = error.code is FailureCode.URL_SCHEME
        code = FailureCode.REDIRECT_SCHEME if is_scheme else FailureCode.HTTP_PROTOCOL
        raise FetchError(code, f"redirect to an unusable URL: {error.detail}") from error
    except ValueError as error:
        raise FetchError(FailureCode.HTTP_PROTOCOL, "redirect to an unusable URL") from error


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), or None."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


def backoff_s(url: str, attempt: int, base_s: float) -> float:
    """Pause after the given attempt (from 1): base * 2^(attempt - 1), times a jitter in [0.5, 1).

    The jitter is hashed from URL and attempt: it spreads retries over time as a random one would,
    and a run can be repeated exactly.
    """
    digest = hashlib.sha256(f"{attempt}\n{url}".encode()).digest()
    jitter = 0.5 + int.from_bytes(digest[:4]) / 2**33
    return min(base_s * 2.0 ** (attempt - 1) * jitter, _MAX_PAUSE_S)


def _requestable(url: str) -> str:
    try:
        return canonical_url(url, _MAX_REDIRECT_URL_BYTES)
    except UrlError as error:
        raise FetchError(error.code, error.detail) from error
