"""The rows of a URL list, each judged on its own: its image_id, or why it has none.

Whole columns at once: a URL that is plainly canonical costs a regular expression and a hash, and
only the others are parsed one by one.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema.codes import REASON_MAX_CHARACTERS, FailureCode
from curation.plan.urls import (
    PLAIN_URL,
    UrlError,
    canonical_url,
    image_id_of_url,
    without_credentials,
)

ID_BYTES = 16
"""An image_id is this many bytes, written as hex digits."""

_SHA256_BYTES = 32
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Rejection(NamedTuple):
    """Why a row of a list is not fetched."""

    code: FailureCode
    detail: str


class JudgedUrls(NamedTuple):
    """What a column of URLs says of its rows, each alone: duplicates are not known yet.

    image_ids: (rows, 16) uint8; zeros where a row has no usable URL.
    shown: (rows,) string, as the manifest gives the URL: without credentials, cut where too long.
    rejections: why a row has no usable URL, by row.
    """

    image_ids: NDArray[np.uint8]
    shown: pa.Array
    rejections: dict[int, Rejection]


def judge_urls(urls: pa.Array, max_url_bytes: int) -> JudgedUrls:
    """Judge a column of URLs.

    Args:
        urls: (rows,) large_binary, as the list gives them.
        max_url_bytes: longest URL, UTF-8 bytes.
    """
    matches = pc.match_substring_regex(urls, PLAIN_URL)
    fits = pc.less_equal(pc.binary_length(urls), max_url_bytes)
    is_plain = pc.fill_null(pc.and_(matches, fits), False).to_numpy(zero_copy_only=False)
    others = np.flatnonzero(~is_plain)
    texts = urls.to_pylist()
    digests = [b"" if text is None else hashlib.sha256(text).digest()[:ID_BYTES] for text in texts]
    rejections: dict[int, Rejection] = {}
    shown: list[bytes | None] = []
    for row in others.tolist():
        text, problem = _as_text(texts[row])
        shown.append(None if text is None else _shown(text, max_url_bytes))
        verdict = problem or _image_id(text or "", max_url_bytes)
        if isinstance(verdict, Rejection):
            rejections[row] = verdict
            digests[row] = bytes(ID_BYTES)
        else:
            digests[row] = verdict
    if len(others):
        replacements = pa.array(shown, urls.type)
        urls = pc.replace_with_mask(urls, pa.array(~is_plain), replacements)
    image_ids = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, ID_BYTES)
    return JudgedUrls(image_ids, urls.cast(pa.string()), rejections)


def hex_column(image_ids: NDArray[np.uint8]) -> pa.Array:
    """(rows,) string: the hex digits of (rows, 16) uint8."""
    digits = image_ids.tobytes().hex().encode()
    ends = np.arange(len(image_ids) + 1, dtype=np.int32) * (2 * ID_BYTES)
    return pa.StringArray.from_buffers(len(image_ids), pa.py_buffer(ends), pa.py_buffer(digits))


def expected_hashes(column: pa.Array) -> tuple[pa.Array, dict[int, Rejection]]:
    """The expected sha256 of rows, (rows,) string of 64 hex digits; and what is none, by row.

    Args:
        column: (rows,) hex text, or 32 bytes each; null or an empty text where none is given.
    """
    if column.null_count == len(column):
        return column.cast(pa.string()), {}
    values: list[str | None] = []
    rejections: dict[int, Rejection] = {}
    for row, value in enumerate(column.to_pylist()):
        text = _hex_of(value)
        is_hash = _SHA256.fullmatch(text) is not None
        values.append(text if is_hash else None)
        if not is_hash and value:
            words = "sha256_expected is not 64 hex digits"
            rejections[row] = Rejection(FailureCode.SHA256_MISMATCH, words)
    return pa.array(values, pa.string()), rejections


def _hex_of(value: str | bytes | None) -> str:
    if isinstance(value, bytes):  # Parquet of some writers has text without saying so
        value = value.hex() if len(value) == _SHA256_BYTES else value.decode("utf-8", "replace")
    return (value or "").strip().lower()


def _image_id(text: str, max_url_bytes: int) -> bytes | Rejection:
    try:
        return bytes.fromhex(image_id_of_url(canonical_url(text, max_url_bytes)))
    except UrlError as error:
        return Rejection(error.code, error.detail[:REASON_MAX_CHARACTERS])


def _as_text(url: bytes | None) -> tuple[str | None, Rejection | None]:
    if url is None:
        return None, None
    try:
        return url.decode("utf-8"), None
    except UnicodeDecodeError:
        words = "the URL's bytes are not UTF-8"
        return url.decode("utf-8", "backslashreplace"), Rejection(FailureCode.URL_INVALID, words)


def _shown(text: str, max_url_bytes: int) -> bytes:
    cut = text.encode("utf-8", "backslashreplace")[:max_url_bytes]
    return without_credentials(cut.decode("utf-8", "ignore")).encode()
