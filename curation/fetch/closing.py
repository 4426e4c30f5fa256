"""The deadline of a shard: once it has passed, URLs that were not begun are not begun any more.

Those in flight end by their own deadline. So a shard takes at most its own deadline and that of
one URL, however many URLs hang.
"""

from __future__ import annotations

import time
import urllib.request
from datetime import UTC, datetime
from typing import Any

from annotations_schema.codes import FailureCode
from curation.fetch.failure import FetchError
from curation.fetch.log import FetchFacts, FetchLog


class ClosingOpener(urllib.request.OpenerDirector):
    """An opener in front of another one, which it asks until a moment has come.

    Args:
        opener: does the work.
        log: where the facts of a URL go that was not begun.
        closes_at_s: the moment, on the monotonic clock.
    """

    def __init__(
        self, opener: urllib.request.OpenerDirector, log: FetchLog, closes_at_s: float
    ) -> None:
        super().__init__()
        self._opener = opener
        self._log = log
        self._closes_at_s = closes_at_s

    def open(
        self, fullurl: str | urllib.request.Request, data: Any = None, timeout: float | None = None
    ) -> Any:
        """The other opener's answer.

        Raises:
            FetchError: SHARD_DEADLINE after the moment; what the other opener raises.
        """
        if time.monotonic() < self._closes_at_s:
            return self._opener.open(fullurl, data, timeout)
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        error = FetchError(FailureCode.SHARD_DEADLINE, "not begun")
        self._log.record(
            url,
            FetchFacts(
                code=error.code,
                detail=error.detail,
                http_status=None,
                attempts=0,
                elapsed_ms=0,
                fetched_at=datetime.now(UTC),
            ),
        )
        raise error
