"""One row of a URL list: its image_id, or why it has none of its own."""

from __future__ import annotations

import re
from typing import NamedTuple

from annotations_schema.codes import REASON_MAX_CHARACTERS, FailureCode, Stage, Status
from curation.urls import (
    UrlError,
    canonical_url,
    image_id_of_row,
    image_id_of_url,
    without_credentials,
)

Seen = set[bytes]
"""Canonical URLs of earlier rows, each as the 16 bytes of its image_id."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class PlannedRow(NamedTuple):
    """A planned row's own columns, named as in the manifest; status ok has no stage and no code."""

    image_id: str
    url: str | None
    sha256_expected: str | None
    status: Status = Status.OK
    stage: Stage | None = None
    failure_code: FailureCode | None = None
    failure_detail: str | None = None


class _Rejection(NamedTuple):
    code: FailureCode
    detail: str


def plan_row(
    url: object,
    sha256_expected: object,
    source_row: int,
    source_name: str,
    max_url_bytes: int,
    seen: Seen,
) -> PlannedRow:
    """The planned row of one row of a list.

    The first row with a canonical URL gets the URL's image_id, which `seen` remembers; every other
    row gets an id of its own from its place in the list.

    Args:
        url: as the list gives it: text, UTF-8 bytes, or None.
        sha256_expected: hex text, 32 bytes, or None.
        source_row: position in the list, from 0.
    """
    text, problem = _as_text(url)
    expected, bad_hash = _as_sha256(sha256_expected)
    shown = None if text is None else _shown(text, max_url_bytes)
    image_id: str | None = None
    if problem is None:
        image_id, problem = _own_image_id(text or "", max_url_bytes, seen)
    problem = problem or bad_hash
    if image_id is None:
        image_id = image_id_of_row(source_name, source_row)
    if problem is None:
        return PlannedRow(image_id, shown, expected)
    detail = problem.detail[:REASON_MAX_CHARACTERS]
    verdict = (problem.code.status, Stage.PLAN, problem.code, detail)
    return PlannedRow(image_id, shown, expected, *verdict)


def _own_image_id(
    text: str, max_url_bytes: int, seen: Seen
) -> tuple[str | None, _Rejection | None]:
    try:
        image_id = image_id_of_url(canonical_url(text, max_url_bytes))
    except UrlError as error:
        return None, _Rejection(error.code, error.detail)
    digest = bytes.fromhex(image_id)
    if digest in seen:
        return None, _Rejection(FailureCode.URL_DUPLICATE, f"same URL as image_id {image_id}")
    seen.add(digest)
    return image_id, None


def _as_text(url: object) -> tuple[str | None, _Rejection | None]:
    if url is None:
        return None, None
    if not isinstance(url, bytes):
        return str(url), None
    try:
        return url.decode("utf-8"), None
    except UnicodeDecodeError:
        words = "the URL's bytes are not UTF-8"
        return url.decode("utf-8", "backslashreplace"), _Rejection(FailureCode.URL_INVALID, words)


def _as_sha256(value: object) -> tuple[str | None, _Rejection | None]:
    if value is None or value == "":
        return None, None
    text = value.hex() if isinstance(value, bytes) else str(value).strip().lower()
    if _SHA256.fullmatch(text):
        return text, None
    words = "sha256_expected is not 64 hex digits"
    return None, _Rejection(FailureCode.SHA256_MISMATCH, words)


def _shown(text: str, max_url_bytes: int) -> str:
    """The URL for the manifest: without credentials, cut where it is too long."""
    cut = text.encode("utf-8", "backslashreplace")[:max_url_bytes]
    return without_credentials(cut.decode("utf-8", "ignore"))
