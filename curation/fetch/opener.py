"""The urllib opener that img2dataset's downloader goes through: safe, bounded, accountable.

img2dataset calls `urllib.request.urlopen`; `installed` puts a `SafeOpener` behind it, which is
urllib's own way to replace what is behind it. For each URL the opener

1. asks the host's robots.txt, and honours X-Robots-Tag and Content-Usage before it reads a body;
2. speaks http and https only, to checked addresses, without proxies (curation.fetch.connection),
   in its turn at the host (curation.fetch.hosts);
3. follows redirects: each one is canonicalised, checked and counted (curation.fetch.hops);
4. reads the body into memory under a byte cap and a least rate (curation.fetch.body);
5. tries transient failures again, with exponential pauses, inside one total deadline
   (curation.fetch.retry);
6. writes down one `FetchFacts` in its `FetchLog`.
"""

from __future__ import annotations

import io
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPMessage
from typing import Any, NamedTuple
from urllib.response import addinfourl

from annotations_schema.codes import FailureCode
from curation.fetch.body import Pace, read_body
from curation.fetch.config import FetchConfig
from curation.fetch.deadline import Deadline
from curation.fetch.failure import FetchError
from curation.fetch.hops import Checks, follow, requestable
from curation.fetch.log import FetchFacts, FetchLog
from curation.fetch.network import Answer
from curation.fetch.retry import Outcome, Patience, until_deadline
from curation.fetch.web import Web

_OPTOUTS = frozenset(
    {
        FailureCode.OPTOUT_ROBOTS_TXT,
        FailureCode.OPTOUT_CONTENT_USAGE,
        FailureCode.OPTOUT_X_ROBOTS,
    }
)
_INSTALL_LOCK = threading.Lock()


class Body(NamedTuple):
    """A whole response in memory."""

    data: bytes
    headers: HTTPMessage
    http_status: int


class SafeOpener(urllib.request.OpenerDirector):
    """Opens one URL after another, from many threads.

    Args:
        config: limits and policies.
        log: where the facts of each URL go.
        web: what requests go through; it outlives the opener.
    """

    def __init__(self, config: FetchConfig, log: FetchLog, web: Web) -> None:
        super().__init__()
        self._config = config
        self._log = log
        self._web = web
        self._pace = Pace(config.min_bytes_per_s, config.slow_after_s)
        self._patience = Patience(config.retries, config.backoff_s)
        self._checks = Checks(web.check_url, web.check_headers)

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
        result, attempts = self._fetch(url)
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
                optout_rule=error.detail if error and error.code in _OPTOUTS else None,
            ),
        )
        if isinstance(result, FetchError):
            raise result
        return addinfourl(io.BytesIO(result.data), result.headers, url, result.http_status)

    def _fetch(self, url: str) -> Outcome[Body]:
        deadline = Deadline(self._config.deadline_s)
        try:
            canonical = requestable(url)
            self._web.check_url(canonical, deadline)
        except FetchError as error:
            return Outcome(error, 0)

        def attempt() -> Body:
            return follow(
                self._web.network,
                canonical,
                deadline,
                self._config.max_redirects,
                self._checks,
                self._read,
            )

        return until_deadline(attempt, url, deadline, self._patience)

    def _read(self, answer: Answer) -> Body:
        data = read_body(answer, self._config.max_bytes, self._pace)
        return Body(data, answer.response.headers, answer.response.status)


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
