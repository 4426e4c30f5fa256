"""What happened with each URL, for the manifest's request columns."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from annotations_schema.codes import FailureCode


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchFacts:
    """What happened with one URL."""

    code: FailureCode | None
    """None where the body arrived."""
    detail: str | None
    http_status: int | None
    """Last status line seen."""
    attempts: int
    """Requests started from the URL itself: neither redirects nor robots.txt count."""
    elapsed_ms: int
    fetched_at: datetime
    """When it ended, UTC."""
    optout_rule: str | None = None
    """The rule that refused it, with its source, at most 256 characters; else None."""


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
