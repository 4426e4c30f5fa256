"""Canonical URLs: what is requested, and what names an image.

`canonical_url` gives the form that a browser would send, so that two spellings of one address get
one `image_id`: scheme and host in lower case, host in IDNA, default port and fragment dropped, dot
segments removed, everything outside RFC 3986 percent-encoded as UTF-8. Percent triplets and the
order of query parameters stay as they are: servers may tell them apart.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from urllib.parse import SplitResult, quote, urlsplit

from annotations_schema.codes import FailureCode
from annotations_schema.errors import InsightTokError

SCHEMES = ("http", "https")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_MAX_HOST_CHARACTERS = 253
_SAFE_IN_PATH = "/%:@!$&'()*+,;=~"
_SAFE_IN_QUERY = _SAFE_IN_PATH + "?[]"
_CREDENTIALS = re.compile(r"(//)[^/?#]*@")
_NO_CHARACTER_OF_URLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_LABELS = r"(?:[a-z0-9_-]{1,40}\.){0,5}[a-z0-9_-]{1,40}"
_PORT = r"(?::(?:[1-9][0-9]{3}|[1-5][0-9]{4}))?"
_IN_SEGMENT = r"A-Za-z0-9_.~%:!$&'()*+,;=\-"
_SEGMENT_BEGINS = r"(?:[A-Za-z0-9_~:!$&'()*+,;=-]|%[013-9A-Za-z])"
PLAIN_URL = (
    rf"\Ahttps?://{_LABELS}{_PORT}(?:/(?:{_SEGMENT_BEGINS}[{_IN_SEGMENT}]*)?)+"
    rf"(?:\?[{_IN_SEGMENT}/?\[\]]+)?\z"
)
"""URLs that are their own canonical form and hold no credentials, as an RE2 pattern.

Most URLs of a list match, and then nothing of them needs to be parsed. Not all canonical URLs do:
the pattern leaves out what it could not tell apart (a dot segment, an `@`, a default port).
"""


class UrlError(InsightTokError, ValueError):
    """A URL that cannot be requested; `code` says why, `detail` in words without credentials."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")

    def __reduce__(self) -> tuple[type[UrlError], tuple[FailureCode, str]]:
        return type(self), (self.code, self.detail)


def canonical_url(text: str, max_url_bytes: int) -> str:
    """The canonical form of an absolute http or https URL, in ASCII.

    `canonical_url(canonical_url(x)) == canonical_url(x)` for every x that has one.

    Args:
        text: the URL as a list or a Location header gives it; white space around it is ignored.
        max_url_bytes: longest URL as given, UTF-8 bytes.

    Raises:
        UrlError: one of the URL_* codes of a plan.
    """
    text = text.strip()
    _check_characters(text, max_url_bytes)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UrlError(FailureCode.URL_INVALID, "host or port cannot be read") from error
    _check_scheme(parts)
    host = _canonical_host(parts)
    if port == 0:
        raise UrlError(FailureCode.URL_INVALID, "port 0")
    is_default = port is None or port == _DEFAULT_PORTS[parts.scheme]
    authority = host if is_default else f"{host}:{port}"
    path = _without_dot_segments(quote(parts.path, safe=_SAFE_IN_PATH))
    query = "?" + quote(parts.query, safe=_SAFE_IN_QUERY) if parts.query else ""
    return f"{parts.scheme}://{authority}{path}{query}"


def image_id_of_url(canonical: str) -> str:
    """The image_id of a canonical URL: first 16 bytes of its sha256, 32 hex digits."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def image_id_of_row(source_name: str, source_row: int) -> str:
    """The image_id of a row without a URL of its own: missing, unusable or a duplicate.

    Hashed from the list's name and the row's number behind a marker that no URL starts with, so it
    is deterministic, unique in the list and never equal to a URL's id by construction.
    """
    return hashlib.sha256(f"row\n{source_row}\n{source_name}".encode()).hexdigest()[:32]


def without_credentials(text: str) -> str:
    """The text with a user name and password before an `@` in its authority replaced by `***`."""
    return _CREDENTIALS.sub(r"\1***@", text, count=1)


def _check_characters(text: str, max_url_bytes: int) -> None:
    if not text:
        raise UrlError(FailureCode.URL_MISSING, "the row has no URL")
    num_bytes = len(text.encode("utf-8", "surrogatepass"))
    if num_bytes > max_url_bytes:
        detail = f"{num_bytes} bytes; the limit is {max_url_bytes}"
        raise UrlError(FailureCode.URL_TOO_LONG, detail)
    found = _NO_CHARACTER_OF_URLS.search(text)
    if found is None:
        return
    if "\ud800" <= found[0] <= "\udfff":
        raise UrlError(FailureCode.URL_INVALID, "not valid Unicode")
    detail = f"control character U+{ord(found[0]):04X}"
    raise UrlError(FailureCode.URL_CONTROL_CHARACTERS, detail)


def _check_scheme(parts: SplitResult) -> None:
    if not parts.scheme:
        raise UrlError(FailureCode.URL_RELATIVE, "no scheme, so no server is named")
    if parts.scheme not in SCHEMES:
        detail = f"scheme {parts.scheme[:32]!r} is not http or https"
        raise UrlError(FailureCode.URL_SCHEME, detail)


def _canonical_host(parts: SplitResult) -> str:
    if "@" in parts.netloc:
        # Credentials would be sent to a server and published in a manifest: neither happens.
        raise UrlError(FailureCode.URL_INVALID, "the URL carries a user name or password")
    host = parts.hostname
    if not host:
        raise UrlError(FailureCode.URL_INVALID, "no host")
    if parts.netloc.startswith("["):
        return _canonical_ipv6(host)
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise UrlError(FailureCode.URL_INVALID, "the host name has no IDNA form") from error
    labels = ascii_host.removesuffix(".").split(".")
    is_name = len(ascii_host) <= _MAX_HOST_CHARACTERS and all(
        _HOST_LABEL.fullmatch(label) for label in labels
    )
    if not is_name:
        raise UrlError(FailureCode.URL_INVALID, "the host name is not valid")
    return ascii_host


def _canonical_ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError as error:
        raise UrlError(FailureCode.URL_INVALID, "the IPv6 address cannot be read") from error
    if address.scope_id is not None:
        raise UrlError(FailureCode.URL_INVALID, "an IPv6 address with a zone")
    return f"[{address.compressed}]"


def _without_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4 on an absolute path; `%2e` counts as a dot, as in browsers."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        name = segment.lower().replace("%2e", ".")
        is_last = position == len(segments) - 1
        if name == "..":
            kept = kept[:-1]
        elif name != ".":
            kept.append(segment)
            continue
        if is_last:
            kept.append("")
    return "/" + "/".join(kept)
