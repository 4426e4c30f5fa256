"""From a URL to the answer that has its content: redirects are followed here, one by one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException, HTTPMessage
from string import punctuation
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urljoin

from annotations_schema.codes import FailureCode
from curation.fetch.body import Pace, read_chunks
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError, as_fetch_error
from curation.fetch.network import Answer, Network
from curation.fetch.retry import retry_after_s
from curation.plan.urls import UrlError, canonical_url

MAX_REQUEST_URL_BYTES = 16_384
"""Longest URL that is requested, in canonical form; a plan's own limit is lower."""

# What http.client and ssl raise for a network or a server that misbehaves.
_EXPECTED = (FetchError, OSError, HTTPException, ValueError)
_SUCCESS = frozenset({200, 203})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DRAINED_BYTES = 2**14
_DRAIN_S = 0.2

ResultT = TypeVar("ResultT")


class Checks(NamedTuple):
    """What may refuse a URL on the way; each raises FetchError."""

    target: Callable[[str, Deadline], None]
    """Called with the canonical URL that a redirect leads to, before it is asked for."""
    headers: Callable[[HTTPMessage], None]
    """Called with the headers of each redirect and of the last answer, before its body is read."""


def follow(
    network: Network,
    url: str,
    deadline: Deadline,
    max_redirects: int,
    checks: Checks,
    read: Callable[[Answer], ResultT],
) -> ResultT:
    """Ask for a canonical URL and for what its redirects lead to; the method is always GET.

    Raises:
        FetchError: there is no success, or a check or `read` raised it.
    """
    http_status = None
    visited = [url]
    try:
        while True:
            with network.answer(visited[-1], deadline) as answer:
                response = answer.response
                http_status = response.status
                if http_status in _SUCCESS:
                    checks.headers(response.headers)
                    _check_encoding(response.headers)
                    return read(answer)
                if http_status not in _REDIRECTS:
                    _drain(answer)
                    raise _status_error(http_status, response.headers)
                checks.headers(response.headers)
                location = response.headers.get("Location")
                _drain(answer)
            visited.append(_next_url(visited, location, max_redirects))
            checks.target(visited[-1], deadline)
    except _EXPECTED as error:
        failure = as_fetch_error(error)
        failure.http_status = failure.http_status or http_status
        raise failure from error


def requestable(url: str) -> str:
    """The canonical form of a URL.

    Raises:
        FetchError: one of the URL_* codes.
    """
    try:
        return canonical_url(url, MAX_REQUEST_URL_BYTES)
    except UrlError as error:
        raise FetchError(error.code, error.detail) from error


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


def _next_url(visited: list[str], location: str | None, max_redirects: int) -> str:
    target = redirect_target(visited[-1], location)
    if target in visited:
        raise FetchError(FailureCode.REDIRECT_LOOP, f"back after {len(visited)} redirects")
    if len(visited) > max_redirects:
        raise FetchError(FailureCode.REDIRECT_LIMIT, f"more than {max_redirects}")
    return target


def _status_error(http_status: int, headers: HTTPMessage) -> FetchError:
    return FetchError(
        FailureCode.from_http_status(http_status),
        f"HTTP status {http_status}",
        http_status=http_status,
        retry_after_s=retry_after_s(headers.get("Retry-After"), datetime.now(UTC)),
    )


def _check_encoding(headers: HTTPMessage) -> None:
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"Content-Encoding {encoding!r}, though only identity was accepted"
        raise FetchError(FailureCode.HTTP_PROTOCOL, detail)


def _drain(answer: Answer) -> None:
    """Read a short body that nobody wants, so that its connection can be used again."""
    length = answer.response.length
    if length is None or length > _DRAINED_BYTES or answer.response.will_close:
        return
    total = answer.deadline
    answer.deadline = Deadline(min(_DRAIN_S, total.remaining_s()))
    try:
        for _ in read_chunks(answer, Pace(0, 0)):
            pass
    except _EXPECTED:
        pass  # the connection is closed instead
    finally:
        answer.deadline = total
