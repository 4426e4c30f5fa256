"""What a crawl meets, in one table: the server scripts it, the demo tells it, tests expect it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from annotations_schema.codes import FailureCode

RETRIES = 2
"""Retries of a fetch for which the attempts below are right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """One scripted path of the server, and what a curation run must make of it."""

    name: str
    path: str
    code: FailureCode | None
    """The row's failure code in the end; None where the row ends ok."""
    note: str
    """For people: what the server does."""
    attempts: int = 1
    """Attempts that the manifest counts, with `RETRIES` retries."""
    needs_decoding: bool = False
    """Whether the fetch takes it for an image, and only decoding its pixels tells otherwise."""


TROUBLES: tuple[Trouble, ...] = (
    Trouble(
        name="not_found",
        path="/trouble/not-found.jpg",
        code=FailureCode.HTTP_404,
        note="status 404",
    ),
    Trouble(
        name="forbidden",
        path="/trouble/forbidden.jpg",
        code=FailureCode.HTTP_403,
        note="status 403",
    ),
    Trouble(
        name="broken",
        path="/trouble/broken.jpg",
        code=FailureCode.HTTP_500,
        note="status 500, always",
        attempts=3,
    ),
    Trouble(
        name="flaky",
        path="/trouble/flaky.jpg",
        code=None,
        note="status 500 twice, then the image",
        attempts=3,
    ),
    Trouble(
        name="changing",
        path="/trouble/changing.jpg",
        code=FailureCode.HTTP_410,
        note="status 503, then 410: gone",
        attempts=2,
    ),
    Trouble(
        name="rate_limited",
        path="/trouble/rate-limited.jpg",
        code=FailureCode.HTTP_429,
        note="status 429, come back in an hour",
    ),
    Trouble(
        name="rate_limited_once",
        path="/trouble/rate-limited-once.jpg",
        code=None,
        note="status 429 once, then the image",
        attempts=2,
    ),
    Trouble(
        name="slow_body",
        path="/trouble/slow-body.jpg",
        code=FailureCode.DEADLINE_EXCEEDED,
        note="a body that drips, a byte at a time",
    ),
    Trouble(
        name="slow_headers",
        path="/trouble/slow-headers.jpg",
        code=FailureCode.DEADLINE_EXCEEDED,
        note="headers that drip, a byte at a time",
    ),
    Trouble(
        name="truncated",
        path="/trouble/truncated.jpg",
        code=FailureCode.BODY_TRUNCATED,
        note="half of the announced bytes",
        attempts=3,
    ),
    Trouble(
        name="truncated_chunk",
        path="/trouble/truncated-chunk.jpg",
        code=FailureCode.BODY_TRUNCATED,
        note="a chunked body that breaks off",
        attempts=3,
    ),
    Trouble(
        name="cut_in_half",
        path="/trouble/cut-in-half.jpg",
        code=FailureCode.DECODE_TRUNCATED,
        note="a whole body that is half a JPEG",
        needs_decoding=True,
    ),
    Trouble(
        name="html_as_jpg",
        path="/trouble/html.jpg",
        code=FailureCode.NOT_AN_IMAGE,
        note="an HTML page named .jpg, sent as image/jpeg",
    ),
    Trouble(
        name="redirect_to_image",
        path="/trouble/moved.jpg",
        code=None,
        note="a redirect to the image",
    ),
    Trouble(
        name="redirect_loop",
        path="/trouble/loop-a.jpg",
        code=FailureCode.REDIRECT_LOOP,
        note="two redirects to each other",
    ),
    Trouble(
        name="redirect_endless",
        path="/trouble/hop/0.jpg",
        code=FailureCode.REDIRECT_LIMIT,
        note="redirects to ever new places",
    ),
    Trouble(
        name="redirect_to_metadata",
        path="/trouble/to-metadata.jpg",
        code=FailureCode.ADDRESS_BLOCKED,
        note="a redirect to the cloud metadata address 169.254.169.254",
    ),
    Trouble(
        name="redirect_to_file",
        path="/trouble/to-file.jpg",
        code=FailureCode.REDIRECT_SCHEME,
        note="a redirect to file:///etc/passwd",
    ),
    Trouble(
        name="optout_noai",
        path="/trouble/noai.jpg",
        code=FailureCode.OPTOUT_X_ROBOTS,
        note="X-Robots-Tag: noai",
    ),
    Trouble(
        name="optout_robots_txt",
        path="/trouble/disallowed/image.jpg",
        code=FailureCode.OPTOUT_ROBOTS_TXT,
        note="robots.txt: Disallow",
        attempts=0,
    ),
    Trouble(
        name="optout_content_usage",
        path="/trouble/train-ai-n.jpg",
        code=FailureCode.OPTOUT_CONTENT_USAGE,
        note="Content-Usage: train-ai=n",
    ),
    Trouble(
        name="optout_of_others",
        path="/trouble/noindex-for-others.jpg",
        code=None,
        note="X-Robots-Tag: otherbot: noindex",
    ),
    Trouble(
        name="decompression_bomb",
        path="/trouble/bomb.png",
        code=FailureCode.PIXEL_CAP,
        note="a valid PNG of 18 kB and 144 million pixels",
    ),
    Trouble(
        name="boasting_header",
        path="/trouble/boast.png",
        code=FailureCode.PIXEL_CAP,
        note="a PNG header that claims 100,000 x 100,000 pixels",
    ),
    Trouble(
        name="huge_stream",
        path="/trouble/huge.jpg",
        code=FailureCode.BODY_TOO_LARGE,
        note="a body without length that goes on and on",
    ),
    Trouble(
        name="huge_announced",
        path="/trouble/huge-announced.jpg",
        code=FailureCode.BODY_TOO_LARGE,
        note="Content-Length of a terabyte",
    ),
    Trouble(
        name="empty",
        path="/trouble/empty.jpg",
        code=FailureCode.BODY_EMPTY,
        note="status 200 without a byte",
    ),
    Trouble(
        name="exif_rotated",
        path="/trouble/exif-rotated.jpg",
        code=None,
        note="stored on its side, EXIF orientation 6",
    ),
    Trouble(
        name="wrong_type",
        path="/trouble/wrong-type",
        code=None,
        note="the image, sent as text/plain",
    ),
    Trouble(
        name="no_type",
        path="/trouble/no-type",
        code=None,
        note="the image, without a Content-Type",
    ),
    Trouble(
        name="compressed",
        path="/trouble/compressed.jpg",
        code=FailureCode.HTTP_PROTOCOL,
        note="Content-Encoding gzip, though it was not accepted",
    ),
    Trouble(
        name="not_http",
        path="/trouble/not-http.jpg",
        code=FailureCode.HTTP_PROTOCOL,
        note="an answer in another protocol",
    ),
    Trouble(
        name="reset",
        path="/trouble/reset.jpg",
        code=FailureCode.CONNECTION_LOST,
        note="the connection is reset",
        attempts=3,
    ),
)
"""Every trouble that may be met with `allow_private_network`, which a loopback server needs."""

REDIRECT_TO_INTRANET = Trouble(
    name="redirect_to_intranet",
    path="/trouble/to-intranet.jpg",
    code=FailureCode.ADDRESS_BLOCKED,
    note="a redirect to the private address 10.0.0.1",
)
"""Not in the table: under `allow_private_network` the crawler would really go there."""


class BadRow(NamedTuple):
    """A row of a list that no server ever sees, and the code the plan gives it."""

    name: str
    url: str | None
    code: FailureCode


BAD_ROWS: tuple[BadRow, ...] = (
    BadRow("null", None, FailureCode.URL_MISSING),
    BadRow("empty", "", FailureCode.URL_MISSING),
    BadRow("relative", "/images/cat.jpg", FailureCode.URL_RELATIVE),
    BadRow("file", "file:///etc/passwd", FailureCode.URL_SCHEME),
    BadRow("ftp", "ftp://example.org/cat.jpg", FailureCode.URL_SCHEME),
    BadRow("data", "data:image/png;base64,iVBORw0KGgo=", FailureCode.URL_SCHEME),
    BadRow("ten_kilobytes", "http://example.org/" + "a" * 10_000, FailureCode.URL_TOO_LONG),
    BadRow("control", "http://example.org/a\x00b\r\nHost: x", FailureCode.URL_CONTROL_CHARACTERS),
    BadRow("no_host", "http:///cat.jpg", FailureCode.URL_INVALID),
    BadRow("bad_port", "http://example.org:99999/cat.jpg", FailureCode.URL_INVALID),
    BadRow("credentials", "http://user:secret@example.org/cat.jpg", FailureCode.URL_INVALID),
)
"""Rows that a plan keeps and never fetches. A duplicate is made by giving a good URL twice."""
