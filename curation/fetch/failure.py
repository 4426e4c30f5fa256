"""The one exception of a fetch, and how the standard library's errors map to it."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error

from annotations_schema.codes import REASON_MAX_CHARACTERS, FailureCode
from annotations_schema.errors import InsightTokError


class FetchError(InsightTokError):
    """A URL that gave no image bytes.

    code: why. detail: in words, at most 256 printable characters, never a URL and so never a
    credential. http_status: the last status line seen, or None. retry_after_s: what the server
    asked for, or None. is_final: not to be tried again in this fetch, though the code is transient.
    """

    def __init__(
        self,
        code: FailureCode,
        detail: str,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        is_final: bool = False,
    ) -> None:
        self.code = code
        self.detail = printable(detail)
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.is_final = is_final
        super().__init__(f"{code}: {self.detail}")

    def say(self, more: str) -> None:
        """Add words to the detail."""
        self.detail = printable(f"{self.detail}; {more}")
        self.args = (f"{self.code}: {self.detail}",)


def printable(text: str) -> str:
    """The text with unprintable characters as `?`, cut to the longest failure_detail."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown[:REASON_MAX_CHARACTERS]


def as_fetch_error(error: Exception) -> FetchError:
    """The FetchError that a network or protocol error of the standard library means."""
    if isinstance(error, FetchError):
        return error
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return as_fetch_error(error.reason)
    return FetchError(_code_of(error), _words_of(error))


def _code_of(error: Exception) -> FailureCode:
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    return FailureCode.CONNECTION_LOST if isinstance(error, OSError) else FailureCode.HTTP_PROTOCOL


def _words_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the total time ran out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.IncompleteRead):
        return "a chunk ended too early"
    return type(error).__name__


# The first match counts, so subclasses stand before their bases.
_CODES: tuple[tuple[tuple[type[Exception], ...], FailureCode], ...] = (
    ((TimeoutError,), FailureCode.DEADLINE_EXCEEDED),
    ((socket.gaierror,), FailureCode.DNS_FAILED),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError), FailureCode.CONNECTION_LOST),
    ((ssl.SSLError, ssl.CertificateError), FailureCode.TLS_FAILED),
    ((http.client.IncompleteRead,), FailureCode.BODY_TRUNCATED),
    ((ConnectionError,), FailureCode.CONNECTION_LOST),
)
