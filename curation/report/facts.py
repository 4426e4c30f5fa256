"""The numbers of the report, gathered from the published manifests in one pass."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotations_schema.codes import FailureCode, Status
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest, read_provenance, text_heights_px
from annotations_schema.provenance import Provenance
from annotations_schema.region_columns import flatten_faces, flatten_text
from curation.report.sheet import Candidate, candidate

FAILED_ROWS_PER_CODE = 12
_COLUMNS = (
    *("image_id", "source_row", "url", "status", "stage", "failure_code", "failure_detail"),
    *("http_status", "attempts", "elapsed_ms", "bytes", "format", "width", "height", "license"),
    *("offset", "num_text", "text_area_fraction", "num_faces"),
)
_NO_HOST = "(no host)"


@dataclass(slots=True)
class DomainFacts:
    """What one host did with our requests."""

    host: str
    rows: int = 0
    ok: int = 0
    elapsed_ms: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def not_ok(self) -> int:
        """Rows without a usable image."""
        return self.rows - self.ok


@dataclass(slots=True)
class Facts:
    """Everything counted; arrays are joined by `values`."""

    rows: int = 0
    num_bytes: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_code: Counter[str] = field(default_factory=Counter)
    by_format: Counter[str] = field(default_factory=Counter)
    by_license: Counter[str] = field(default_factory=Counter)
    elapsed_ms_by_outcome: Counter[str] = field(default_factory=Counter)
    domains: dict[str, DomainFacts] = field(default_factory=dict)
    failed_rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    candidates: list[Candidate] = field(default_factory=list)
    provenance: Provenance | None = None
    numbers: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))

    def values(self, name: str) -> NDArray[np.float64]:
        """All values (N,) gathered under a name."""
        parts = self.numbers.get(name, [])
        return np.concatenate([np.zeros(0), *parts]).astype(np.float64)


def gather(layout: DatasetLayout, *, num_images: int, seed: int) -> Facts:
    """Read every published manifest once.

    Args:
        layout: the dataset.
        num_images: candidates to keep of each kind for the contact sheet.
        seed: of the draw.
    """
    facts = Facts()
    drawn: dict[str, list[Candidate]] = defaultdict(list)
    for path in layout.manifests():
        table = read_manifest(path, [*_COLUMNS, "text_regions", "face_regions"])
        facts.provenance = facts.provenance or read_provenance(path)
        rows = table.select(list(_COLUMNS)).to_pylist()
        for row in rows:
            _count(facts, row)
        _measure(facts, table)
        for one in _candidates(rows, path.stem, seed):
            drawn[one.kind].append(one)
        for kind, found in drawn.items():
            drawn[kind] = heapq.nsmallest(num_images, found)
    facts.candidates = [one for found in drawn.values() for one in found]
    return facts


def _count(facts: Facts, row: dict[str, Any]) -> None:
    is_ok = row["status"] == Status.OK
    code = row["failure_code"]
    facts.rows += 1
    facts.by_status[row["status"]] += 1
    facts.elapsed_ms_by_outcome[code or Status.OK.value] += row["elapsed_ms"]
    domain = facts.domains.setdefault(host_of(row["url"]), DomainFacts(host_of(row["url"])))
    domain.rows += 1
    domain.elapsed_ms += row["elapsed_ms"]
    if is_ok:
        domain.ok += 1
        facts.num_bytes += row["bytes"] or 0
        facts.by_format[row["format"] or "unknown"] += 1
        facts.by_license[row["license"] or "not stated"] += 1
        return
    facts.by_code[code] += 1
    domain.codes[code] += 1
    if len(facts.failed_rows[code]) < FAILED_ROWS_PER_CODE:
        facts.failed_rows[code].append(row)


def _measure(facts: Facts, table: pa.Table) -> None:
    numbers = facts.numbers
    for name in ("elapsed_ms", "attempts"):
        numbers[name].append(_numbers(table, name)[_numbers(table, "attempts") > 0])
    is_ok = np.array([status == Status.OK for status in table.column("status").to_pylist()], bool)
    for name in ("bytes", "num_text", "num_faces", "text_area_fraction"):
        values = _numbers(table, name)[is_ok]
        numbers[name].append(values[~np.isnan(values)])
    sides = np.maximum(_numbers(table, "width"), _numbers(table, "height"))[is_ok]
    numbers["image_side_px"].append(sides[~np.isnan(sides)])
    numbers["text_height_px"].append(text_heights_px(flatten_text(table).regions))
    boxes = flatten_faces(table).regions.box_xyxy
    numbers["face_side_px"].append((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0))


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table.column(name).cast(pa.float64()).to_numpy()
    return values


def _candidates(rows: list[dict[str, Any]], shard: str, seed: int) -> Iterator[Candidate]:
    for number, row in enumerate(rows):
        if row["status"] == Status.OK and row["offset"] is not None:
            counts = (row["num_text"] or 0, row["num_faces"] or 0)
            yield candidate(seed, row["image_id"], shard, number, *counts)


def host_of(url: str | None) -> str:
    """Host of a URL without its port, or a word where it has none."""
    try:
        return urlsplit(url or "").hostname or _NO_HOST
    except ValueError:
        return _NO_HOST


def meaning_of(code: str) -> str:
    """What a failure code means; codes of a newer minor version say so."""
    try:
        return FailureCode(code).meaning
    except ValueError:
        return "A code that this version does not know."


def is_transient(code: str) -> bool:
    """Whether trying again later may help."""
    return code in FailureCode._value2member_map_ and FailureCode(code).is_transient
