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
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import Any, NamedTuple
from urllib.response import addinfourl

from annotations_schema.codes import FailureCode
from curation.fetch.addresses import blocked_reason
from curation.fetch.config import FetchConfig
from curation.fetch.connection import (
    AddressRule,
    Deadline,
    Guard,
    system_resolver,
    tls_context,
)
from curation.fetch.failure import FetchError, as_fetch_error
from curation.fetch.handlers import (
    MAX_REQUEST_URL_BYTES,
    Connections,
    GuardedRequest,
    Redirects,
    Statuses,
)
from curation.fetch.log import FetchFacts, FetchLog
from curation.fetch.optout import opted_out, product_name
from curation.urls import UrlError, canonical_url

# What urllib, http.client and ssl raise for a network or a server that misbehaves.
_EXPECTED = (FetchError, OSError, HTTPException, ValueError)
_CHUNK_BYTES = 2**16
_MAX_PAUSE_S = 30.0
_INSTALL_LOCK = threading.Lock()


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
        for handler in (
            Connections(guard),
            Statuses(),
            Redirects(config.max_redirects, self.open_hop),
        ):
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
        except _EXPECTED as error:
            return as_fetch_error(error)

    def _read(self, response: HTTPResponse) -> Body | FetchError:
        try:
            self._check_headers(response.headers)
            data = read_body(response, self._config.max_bytes)
        except _EXPECTED as error:
            failure = as_fetch_error(error)
            failure.http_status = response.status
            return failure
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


def guard_of(config: FetchConfig) -> Guard:
    """The guard of a real run: system resolver, our address rule, the system's certificates."""
    return Guard(system_resolver, address_rule(config), tls_context())


def address_rule(config: FetchConfig) -> AddressRule:
    """Which addresses a run with this configuration may contact."""
    return partial(blocked_reason, allow_private_network=config.allow_private_network)


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
        return canonical_url(url, MAX_REQUEST_URL_BYTES)
    except UrlError as error:
        raise FetchError(error.code, error.detail) from error
