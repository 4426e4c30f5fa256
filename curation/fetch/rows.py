"""From what happened to what a manifest says: one row per planned row, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from annotations_schema.codes import FailureCode, Flag, RegionState, Stage, Status
from curation.fetch.config import HashPolicy
from curation.fetch.log import FetchFacts
from curation.fetch.passthrough import Rejected, Spooled

Row = Mapping[str, Any]
Known = Spooled | Rejected | None


class Failure(NamedTuple):
    """Why and where a row ended."""

    stage: Stage
    code: FailureCode
    detail: str | None


def failure_of(
    row: Row, facts: FetchFacts | None, known: Known, hash_policy: HashPolicy
) -> Failure | None:
    """Why a row that was given to the downloader has no stored image, or None where it has one.

    A row of which the opener and the writer know nothing, or which arrived and then vanished, is
    ROW_LOST.
    """
    if isinstance(known, Rejected):
        return Failure(Stage.DECODE, known.code, known.detail)
    if known is None:
        if facts is not None and facts.code is not None:
            return Failure(Stage.FETCH, facts.code, facts.detail)
        words = "never opened" if facts is None else "fetched, then lost before it was written"
        return Failure(Stage.FETCH, FailureCode.ROW_LOST, words)
    if hash_policy == "drop" and _is_mismatch(row, known):
        detail = "the bytes differ from sha256_expected"
        return Failure(Stage.FETCH, FailureCode.SHA256_MISMATCH, detail)
    return None


def fetched_row(
    row: Row,
    facts: FetchFacts | None,
    known: Known,
    failure: Failure | None,
    hash_policy: HashPolicy,
) -> dict[str, Any]:
    """A planned row with what the fetch found out; without its place in the tar."""
    states = {"text_state": RegionState.NOT_RUN, "face_state": RegionState.NOT_RUN}
    is_flagged = hash_policy == "flag" and isinstance(known, Spooled) and _is_mismatch(row, known)
    flags = [Flag.SHA256_MISMATCH.value] if is_flagged else None
    known_facts = {**_request(facts), **_content(known), "flags": flags}
    return {**row, **states, **known_facts, **_verdict(failure)}


def unfetched_row(row: Row) -> dict[str, Any]:
    """A row that the plan had already given a failure code."""
    states = {"text_state": RegionState.NOT_RUN, "face_state": RegionState.NOT_RUN}
    return {**row, **states, **_request(None)}


def count_rows(rows: Sequence[Row]) -> dict[str, int]:
    """Number of rows by status and by failure code, for a receipt."""
    by_status = Counter(str(row["status"]) for row in rows)
    by_code = Counter(str(row["failure_code"]) for row in rows if row["failure_code"] is not None)
    return {**by_status, **by_code}


def reconcile(
    planned: Sequence[Row],
    facts_of: Callable[[Row], FetchFacts | None],
    known: Mapping[str, Spooled | Rejected],
    hash_policy: HashPolicy,
) -> list[dict[str, Any]]:
    """One row for each planned one, in their order."""
    rows = []
    for row in planned:
        if row["status"] != Status.OK:
            rows.append(unfetched_row(row))
            continue
        facts, entry = facts_of(row), known.get(row["image_id"])
        failure = failure_of(row, facts, entry, hash_policy)
        rows.append(fetched_row(row, facts, entry, failure, hash_policy))
    return rows


def _is_mismatch(row: Row, known: Spooled) -> bool:
    return row["sha256_expected"] not in (None, known.sha256_received)


def _request(facts: FetchFacts | None) -> dict[str, Any]:
    if facts is None:
        return {"attempts": 0, "elapsed_ms": 0}
    return {
        "http_status": facts.http_status,
        "attempts": facts.attempts,
        "elapsed_ms": facts.elapsed_ms,
        "fetched_at": facts.fetched_at,
        "optout_rule": facts.optout_rule,
    }


def _content(known: Known) -> dict[str, Any]:
    if known is None:
        return {}
    if isinstance(known, Rejected):
        return {"sha256_received": known.sha256_received}
    header = known.header
    return {
        "sha256_received": known.sha256_received,
        "received_width": known.received_width,
        "received_height": known.received_height,
        "sha256": known.sha256,
        "bytes": known.length,
        "format": header.format,
        "exif_orientation": header.exif_orientation,
        "width": header.width,
        "height": header.height,
        "stored_width": header.stored_width,
        "stored_height": header.stored_height,
    }


def _verdict(failure: Failure | None) -> dict[str, Any]:
    if failure is None:
        return {"status": Status.OK, "stage": None, "failure_code": None, "failure_detail": None}
    return {
        "status": failure.code.status,
        "stage": failure.stage,
        "failure_code": failure.code,
        "failure_detail": failure.detail,
    }
