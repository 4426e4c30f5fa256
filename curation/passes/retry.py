"""Failed rows once more: which codes are meant, which rows have them, and their further passes.

Planning a retry over a large dataset takes a while, so what it is about is written down first
(`retry.json`) and removed when every pass has its plan: a kill in between loses no shard.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyarrow.parquet as pq

from annotations_schema.codes import FailureCode, Status
from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    base_shard,
    pass_name,
    pass_number,
    read_receipt,
    write_json,
)
from annotations_schema.manifest import read_manifest
from annotations_schema.storage import AnyPath, ask_many
from curation.config import DatasetConfig
from curation.lock import Check, exclusive
from curation.passes.fetched import fetched_counts, fetched_rows, finished_receipt
from curation.passes.passes import plan_pass
from curation.tombstone.tombstones import refuse_unfinished

TRANSIENT = "transient"
"""Stands for every code that is worth another try."""

NEVER_AGAIN = frozenset(
    {code for code in FailureCode if code.startswith("url_")}
    | {FailureCode.REMOVED_ON_REQUEST, FailureCode.DETECTOR_FAILED}
)
"""Codes that no download can mend, or may: bad URLs, removed images, detectors."""

_RETRYABLE = tuple(code for code in FailureCode if code not in NEVER_AGAIN)
_OUTCOME = ("source_row", "status", "failure_code", "http_status", "attempts", "history")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPlan:
    """What a retry will do."""

    codes: tuple[str, ...]
    """Codes of the rows that are fetched again; none where an earlier retry or run goes on."""
    passes: dict[str, int]
    """Rows of each pass that waits to be fetched, by its name."""

    @property
    def is_continued(self) -> bool:
        """Whether an earlier retry or run goes on, and nothing new was planned."""
        return not self.codes

    @property
    def rows(self) -> int:
        """Rows that are fetched again."""
        return sum(self.passes.values())


def retry_codes(typed: str) -> frozenset[FailureCode]:
    """The codes that a comma list of codes, patterns (`http_5*`) and `transient` means.

    Raises:
        UsageError: a name or pattern means no code, or none that a retry may mend.
    """
    words = [word.strip() for word in typed.split(",") if word.strip()]
    if not words:
        raise UsageError(f"--codes {typed!r} names no code; give 'transient', or codes as http_503")
    return frozenset().union(*(_codes_of(word) for word in words))


def _codes_of(word: str) -> frozenset[FailureCode]:
    if word == TRANSIENT:
        return frozenset(code for code in _RETRYABLE if code.is_transient)
    meant = frozenset(code for code in FailureCode if fnmatchcase(code, word))
    if not meant:
        near = difflib.get_close_matches(word, [*_RETRYABLE, TRANSIENT], n=3, cutoff=0.4)
        mend = f"; did you mean {' or '.join(near)}?" if near else "; see the codes in the README"
        raise UsageError(f"--codes {word!r} is no failure code and matches none{mend}")
    if not meant - NEVER_AGAIN:
        raise UsageError(
            f"--codes {word!r}: rows with {min(meant)} are never fetched again; "
            "choose other codes, such as 'transient'"
        )
    return meant - NEVER_AGAIN


def plan_retry(
    layout: DatasetLayout, config: DatasetConfig, codes: frozenset[FailureCode]
) -> RetryPlan:
    """Plan a pass for every shard that has rows whose last outcome is one of `codes`.

    Where passes wait already, because an earlier retry or run was stopped, those go on and nothing
    new is planned: their rows would otherwise be asked for twice. A pass that was set aside is
    tried again, and until it is done its shard gets no other.

    Raises:
        UsageError: another run works on the dataset, or took it over meanwhile.
    """
    with exclusive(layout) as check_lock:
        refuse_unfinished(layout)
        finish_planning(layout, config, check_lock)
        waiting = waiting_passes(layout, config)
        if not all(_is_set_aside(layout, name) for name in waiting):
            return RetryPlan(codes=(), passes=waiting)
        taken = {base_shard(name) for name in waiting}
        found = layout.as_found()
        free = [shard for shard in layout.shards_planned() if shard not in taken]
        asked = ask_many(layout.root, lambda one: _has_any(found, config, one, codes), free)
        shards = [shard for shard, has_any in zip(free, asked, strict=True) if has_any]
        passes = [pass_name(one, len(found.planned_passes(one))) for one in shards]
        named = sorted(codes)
        write_json(
            _marker(layout), {"codes": named, "passes": dict(zip(shards, passes, strict=True))}
        )
        planned = finish_planning(layout, config, check_lock)
        return RetryPlan(codes=tuple(named), passes=waiting | planned)


def finish_planning(
    layout: DatasetLayout, config: DatasetConfig, check_lock: Check
) -> dict[str, int]:
    """Plan what a retry wrote down and did not get to; returns rows by pass of that retry.

    The caller holds the dataset's lock, and gives its check.
    """
    marker = _marker(layout)
    if not marker.exists():
        return {}
    written = json.loads(marker.read_text())
    codes = frozenset(FailureCode(code) for code in written["codes"])
    rows: dict[str, int] = {}
    for shard, name in written["passes"].items():
        check_lock()
        rows[name] = _plan_shard(layout, config, shard, name, codes)
    check_lock()
    marker.unlink()
    return {name: count for name, count in rows.items() if count}


def waiting_passes(layout: DatasetLayout, config: DatasetConfig) -> dict[str, int]:
    """Rows of each further pass that is planned and not fetched, by its name."""
    found, waiting = layout.as_found(), dict[str, int]()
    for shard in layout.shards_planned():
        for name in found.planned_passes(shard)[1:]:
            if finished_receipt(found, "fetch", name, config.stages["fetch"]) is None:
                planned = read_receipt(found, "plan", name)
                waiting[name] = 0 if planned is None else planned.rows
    return waiting


def outcomes(layout: DatasetLayout, passes: Iterable[str]) -> dict[str, int]:
    """What became of the rows of passes: rows by status and by code, from receipts.

    Where a pass met its shard's deadline, with what the passes after it brought.
    """
    known = {one.value for one in (*Status, *FailureCode)}
    counts: Counter[str] = Counter()
    for name in passes:
        counts += fetched_counts(layout, base_shard(name), since=pass_number(name))
    return {name: count for name, count in counts.most_common() if name in known}


def _marker(layout: DatasetLayout) -> AnyPath:
    return layout.root / "retry.json"


def _is_set_aside(layout: DatasetLayout, name: str) -> bool:
    receipt = read_receipt(layout, "fetch", name)
    return receipt is not None and receipt.set_aside is not None


def _has_any(
    layout: DatasetLayout, config: DatasetConfig, shard: str, codes: frozenset[FailureCode]
) -> bool:
    counts = _latest_counts(layout, config, shard)
    return any(counts.get(code, 0) for code in codes)


def _latest_counts(layout: DatasetLayout, config: DatasetConfig, shard: str) -> Mapping[str, int]:
    """Rows of a shard by code, from receipts alone; none where it is not fetched."""
    annotated = finished_receipt(layout, "annotate", shard, config.stages["annotate"])
    if annotated is not None:
        return annotated.counts
    if finished_receipt(layout, "fetch", shard, config.stages["fetch"]) is None:
        return {}
    return fetched_counts(layout, shard)


def _plan_shard(
    layout: DatasetLayout,
    config: DatasetConfig,
    shard: str,
    name: str,
    codes: frozenset[FailureCode],
) -> int:
    """Plan one pass, unless that was done; returns its rows."""
    planned = read_receipt(layout, "plan", name)
    if planned is not None:
        return planned.rows
    fetched = fetched_rows(layout, shard).select(list(_OUTCOME))
    annotated = finished_receipt(layout, "annotate", shard, config.stages["annotate"])
    latest = (
        fetched if annotated is None else read_manifest(layout.annotations(shard), list(_OUTCOME))
    )
    before = {row["source_row"]: row for row in fetched.to_pylist()}
    again = [
        row
        for row in latest.to_pylist()
        if row["failure_code"] in codes
        and Status.TOMBSTONED not in (row["status"], before[row["source_row"]]["status"])
    ]
    if not again:
        return 0
    replaced = [before[row["source_row"]] for row in again]
    plan = pq.read_table(str(layout.plan(shard)))
    return plan_pass(layout, name, plan, again, replaced).rows
