"""urllib handlers of the safe opener: connections, statuses, redirects."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPMessage, HTTPResponse
from string import punctuation
from typing import IO
from urllib.parse import quote, urljoin

from annotations_schema.codes import FailureCode
from curation.fetch.connection import (
    Deadline,
    Guard,
    GuardedHTTPConnection,
    GuardedHTTPSConnection,
)
from curation.fetch.failure import FetchError
from curation.urls import UrlError, canonical_url

MAX_REQUEST_URL_BYTES = 16_384
"""Longest URL that is requested, in canonical form; a plan's own limit is lower."""

_SUCCESS = frozenset({200, 203})


class GuardedRequest(urllib.request.Request):
    """A request that carries its deadline and the URLs that redirected to it."""

    def __init__(
        self, url: str, headers: dict[str, str], deadline: Deadline, visited: tuple[str, ...]
    ) -> None:
        super().__init__(url, headers=headers)
        self.deadline = deadline
        self.visited = visited


OpenHop = Callable[[GuardedRequest], HTTPResponse]
"""Opens one request and follows what it redirects to."""


class Connections(urllib.request.AbstractHTTPHandler):
    """http and https over guarded connections."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, request: GuardedRequest) -> HTTPResponse:
        """Send a plain request; called by urllib."""
        connect = partial(GuardedHTTPConnection, deadline=request.deadline, guard=self._guard)
        return self.do_open(connect, request)

    def https_open(self, request: GuardedRequest) -> HTTPResponse:
        """Send a request over TLS; called by urllib."""
        connect = partial(GuardedHTTPSConnection, deadline=request.deadline, guard=self._guard)
        return self.do_open(connect, request)

    http_request = urllib.request.AbstractHTTPHandler.do_request_
    https_request = urllib.request.AbstractHTTPHandler.do_request_


class Statuses(urllib.request.BaseHandler):
    """Lets successes pass; any other status is a redirect or a FetchError."""

    def http_response(self, request: GuardedRequest, response: HTTPResponse) -> HTTPResponse:
        """Pass a success on, and hand anything else to the handler of its status."""
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
        """Raise a FetchError for a status that no other handler takes."""
        fp.close()
        raise FetchError(
            FailureCode.from_http_status(code),
            f"HTTP status {code}",
            http_status=code,
            retry_after_s=retry_after_s(headers.get("Retry-After"), datetime.now(UTC)),
        )


class Redirects(urllib.request.BaseHandler):
    """Follows redirects without reading their bodies."""

    def __init__(self, max_redirects: int, open_hop: OpenHop) -> None:
        self._max_redirects = max_redirects
        self._open_hop = open_hop

    def http_error_302(
        self, request: GuardedRequest, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse:
        """Open the target of a redirect, whatever its status; the method is always GET."""
        fp.close()
        try:
            return self._open_hop(self._next_request(request, headers.get("Location")))
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
        return canonical_url(urljoin(base, sent), MAX_REQUEST_URL_BYTES)
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
