"""The closed vocabularies of a manifest: status, stage, region state, failure code, flags.

They are strings in the file, so a newer minor version may add members; a reader keeps unknown
strings as they are.
"""

from __future__ import annotations

from enum import StrEnum

REASON_MAX_CHARACTERS = 256
"""Longest failure_detail a manifest holds; longer ones are cut."""


class Status(StrEnum):
    """What became of a planned row."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    FILTERED = "filtered"
    TOMBSTONED = "tombstoned"


class Stage(StrEnum):
    """The step at which a row that is not ok ended."""

    PLAN = "plan"
    FETCH = "fetch"
    DECODE = "decode"
    ANNOTATE = "annotate"


class RegionState(StrEnum):
    """What is known about the regions of one kind in an image: empty is not unknown."""

    NOT_RUN = "not_run"
    NONE = "none"
    FOUND = "found"
    FAILED = "failed"


class Flag(StrEnum):
    """What is odd about an image that was kept."""

    SHA256_MISMATCH = "sha256_mismatch"


class DropReason(StrEnum):
    """Which rule of the configuration left out a region that a detector found."""

    SCORE_BELOW_MIN = "score_below_min"
    SIDE_BELOW_MIN = "side_below_min"
    OUTSIDE_IMAGE = "outside_image"
    DEGENERATE = "degenerate"


class FailureCode(StrEnum):
    """Why a row has no usable image. `status`, `is_transient` and `meaning` belong to each code."""

    URL_MISSING = "url_missing"
    URL_RELATIVE = "url_relative"
    URL_SCHEME = "url_scheme"
    URL_TOO_LONG = "url_too_long"
    URL_CONTROL_CHARACTERS = "url_control_characters"
    URL_INVALID = "url_invalid"
    URL_DUPLICATE = "url_duplicate"

    DNS_NOT_FOUND = "dns_not_found"
    DNS_FAILED = "dns_failed"
    ADDRESS_BLOCKED = "address_blocked"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CONNECTION_LOST = "connection_lost"
    HTTP_PROTOCOL = "http_protocol"
    HTTP_400 = "http_400"
    HTTP_401 = "http_401"
    HTTP_403 = "http_403"
    HTTP_404 = "http_404"
    HTTP_408 = "http_408"
    HTTP_410 = "http_410"
    HTTP_429 = "http_429"
    HTTP_451 = "http_451"
    HTTP_500 = "http_500"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    HTTP_504 = "http_504"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    HTTP_UNEXPECTED = "http_unexpected"
    REDIRECT_LOOP = "redirect_loop"
    REDIRECT_LIMIT = "redirect_limit"
    REDIRECT_SCHEME = "redirect_scheme"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TRUNCATED = "body_truncated"
    BODY_EMPTY = "body_empty"
    BODY_TOO_SLOW = "body_too_slow"
    OPTOUT_X_ROBOTS = "optout_x_robots"
    OPTOUT_ROBOTS_TXT = "optout_robots_txt"
    OPTOUT_CONTENT_USAGE = "optout_content_usage"
    SHARD_DEADLINE = "shard_deadline"
    SHA256_MISMATCH = "sha256_mismatch"
    ROW_LOST = "row_lost"
    REMOVED_ON_REQUEST = "removed_on_request"

    NOT_AN_IMAGE = "not_an_image"
    PIXEL_CAP = "pixel_cap"
    DECODE_TRUNCATED = "decode_truncated"
    DECODE_CORRUPT = "decode_corrupt"
    FORMAT_UNSUPPORTED = "format_unsupported"

    DETECTOR_FAILED = "detector_failed"

    @property
    def status(self) -> Status:
        """The status a row with this code has."""
        return _STATUS.get(self, Status.FAILED)

    @property
    def is_transient(self) -> bool:
        """Whether trying again later may succeed."""
        return self in _TRANSIENT

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _MEANING[self]

    @classmethod
    def from_http_status(cls, http_status: int) -> FailureCode:
        """The code of an HTTP status that is not a success."""
        exact = f"http_{http_status}"
        if exact in cls._value2member_map_:
            return cls(exact)
        by_class = {4: cls.HTTP_4XX, 5: cls.HTTP_5XX}
        return by_class.get(http_status // 100, cls.HTTP_UNEXPECTED)


_STATUS = {
    FailureCode.URL_DUPLICATE: Status.FILTERED,
    FailureCode.SHA256_MISMATCH: Status.FILTERED,
    FailureCode.ADDRESS_BLOCKED: Status.REFUSED,
    FailureCode.OPTOUT_X_ROBOTS: Status.REFUSED,
    FailureCode.OPTOUT_ROBOTS_TXT: Status.REFUSED,
    FailureCode.OPTOUT_CONTENT_USAGE: Status.REFUSED,
    FailureCode.REMOVED_ON_REQUEST: Status.TOMBSTONED,
}

_TRANSIENT = frozenset(
    {
        FailureCode.DNS_FAILED,
        FailureCode.CONNECT_FAILED,
        FailureCode.DEADLINE_EXCEEDED,
        FailureCode.CONNECTION_LOST,
        FailureCode.HTTP_408,
        FailureCode.HTTP_429,
        FailureCode.HTTP_500,
        FailureCode.HTTP_502,
        FailureCode.HTTP_503,
        FailureCode.HTTP_504,
        FailureCode.HTTP_5XX,
        FailureCode.BODY_TRUNCATED,
        FailureCode.BODY_TOO_SLOW,
        FailureCode.SHARD_DEADLINE,
        FailureCode.ROW_LOST,
    }
)

_MEANING = {
    FailureCode.URL_MISSING: "The list has no URL in this row.",
    FailureCode.URL_RELATIVE: "The URL has no scheme, so it names no server.",
    FailureCode.URL_SCHEME: "The URL's scheme is not http or https.",
    FailureCode.URL_TOO_LONG: "The URL is longer than the configured limit.",
    FailureCode.URL_CONTROL_CHARACTERS: "The URL holds control characters or line breaks.",
    FailureCode.URL_INVALID: "The URL has no valid host or port.",
    FailureCode.URL_DUPLICATE: "An earlier row of the list has the same canonical URL.",
    FailureCode.DNS_NOT_FOUND: "The host name does not exist.",
    FailureCode.DNS_FAILED: "The resolver gave no answer.",
    FailureCode.ADDRESS_BLOCKED: "The host resolves to an address that must not be contacted.",
    FailureCode.CONNECT_FAILED: "The server did not accept a connection.",
    FailureCode.TLS_FAILED: "The TLS handshake or the certificate check failed.",
    FailureCode.DEADLINE_EXCEEDED: "The total time for this URL ran out.",
    FailureCode.CONNECTION_LOST: "The server closed or reset the connection.",
    FailureCode.HTTP_PROTOCOL: "The answer is not valid HTTP.",
    FailureCode.HTTP_400: "Bad request.",
    FailureCode.HTTP_401: "The server asks for credentials.",
    FailureCode.HTTP_403: "The server forbids access.",
    FailureCode.HTTP_404: "The server does not have it.",
    FailureCode.HTTP_408: "The server timed out waiting for the request.",
    FailureCode.HTTP_410: "It is gone for good.",
    FailureCode.HTTP_429: "The server asks for fewer requests.",
    FailureCode.HTTP_451: "Unavailable for legal reasons.",
    FailureCode.HTTP_500: "Internal server error.",
    FailureCode.HTTP_502: "Bad gateway.",
    FailureCode.HTTP_503: "The server is unavailable for now.",
    FailureCode.HTTP_504: "Gateway time-out.",
    FailureCode.HTTP_4XX: "Another client error.",
    FailureCode.HTTP_5XX: "Another server error.",
    FailureCode.HTTP_UNEXPECTED: "A status that is neither success nor error.",
    FailureCode.REDIRECT_LOOP: "The redirects come back to where they began.",
    FailureCode.REDIRECT_LIMIT: "More redirects than the configured limit.",
    FailureCode.REDIRECT_SCHEME: "A redirect leads to a scheme that is not http or https.",
    FailureCode.BODY_TOO_LARGE: "The body is larger than the configured limit.",
    FailureCode.BODY_TRUNCATED: "The body ended before its announced length.",
    FailureCode.BODY_EMPTY: "The body has no bytes.",
    FailureCode.BODY_TOO_SLOW: "The body arrived slower than the configured least rate.",
    FailureCode.OPTOUT_X_ROBOTS: "The server's X-Robots-Tag header opts out of this use.",
    FailureCode.OPTOUT_ROBOTS_TXT: "The host's robots.txt keeps our user agent from this path.",
    FailureCode.OPTOUT_CONTENT_USAGE: "A Content-Usage rule of the server opts out of this use.",
    FailureCode.SHARD_DEADLINE: "The shard closed at its deadline before this row was fetched.",
    FailureCode.SHA256_MISMATCH: "The bytes are not those the list expects.",
    FailureCode.ROW_LOST: "The downloader ended without a word about this row.",
    FailureCode.REMOVED_ON_REQUEST: "The image was removed from the dataset on request.",
    FailureCode.NOT_AN_IMAGE: "The bytes are no image.",
    FailureCode.PIXEL_CAP: "The image has more pixels, or a longer side, than the limit.",
    FailureCode.DECODE_TRUNCATED: "The image data ends too early.",
    FailureCode.DECODE_CORRUPT: "The image data is damaged.",
    FailureCode.FORMAT_UNSUPPORTED: "An image format that the decoder does not take.",
    FailureCode.DETECTOR_FAILED: "A detector could not process the image.",
}
