"""Whether a dataset keeps its promises: what is wrong, by shard, row, column and rule.

Nothing that a stage wrote is believed: files are hashed again, every planned row is looked for,
images are read at their addresses, transforms and summaries are computed again (`verify_rows`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotations_schema.errors import ManifestError
from annotations_schema.layout import STAGES, DatasetLayout, Receipt, read_receipt, sha256_file
from annotations_schema.manifest import read_manifest, read_provenance
from annotations_schema.validation import TABLE_ROW, validate
from curation.config import DatasetConfig, require_config
from curation.verify_rows import (
    RowFinding,
    check_addresses,
    check_faces,
    check_handed_on,
    check_states,
    check_summaries,
    count_regions,
)

WHOLE_DATASET = "-"
_ROW_KEYS = ("image_id", "source_row")


class Finding(NamedTuple):
    """One thing that is off.

    shard: six digits, or "-" where the whole dataset is meant.
    row: number in the shard's table from 0, or None where the whole shard or file is meant.
    column: of the table; or a file, relative to the dataset.
    """

    shard: str
    row: int | None
    column: str
    rule: str
    found: str

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return f"shard {self.shard}{row}, {self.column}: {self.found} (rule: {self.rule})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was looked at, and what is off."""

    root: str
    findings: tuple[Finding, ...]
    checked: dict[str, int] = field(default_factory=dict)
    """How many shards, rows, files, images, text regions and faces were looked at."""

    def to_json(self) -> dict[str, Any]:
        """The result as one JSON object."""
        return {
            "root": self.root,
            "is_clean": not self.findings,
            "checked": self.checked,
            "findings": [finding._asdict() for finding in self.findings],
        }


def verify(layout: DatasetLayout, on_shard: Callable[[str], None] = lambda shard: None) -> Verified:
    """Check the dataset at `layout`.

    Args:
        layout: the dataset.
        on_shard: called after each shard, for progress.

    Raises:
        UsageError: it is not a dataset.
    """
    config = require_config(layout)
    checked: Counter[str] = Counter()
    ids: dict[str, NDArray[np.bytes_]] = {}
    findings = list(_check_plan(layout, config))
    for number in range(config.num_shards):
        shard = f"{number:06d}"
        checked["shards"] += 1
        findings.extend(_check_shard(layout, config, shard, checked, ids))
        on_shard(shard)
    findings.extend(_check_unique(ids))
    if checked["rows"] != config.num_rows:
        rule = f"config.json promises {config.num_rows} rows"
        findings.append(Finding(WHOLE_DATASET, None, "rows", rule, f"{checked['rows']} rows"))
    return Verified(root=str(layout.root), findings=tuple(findings), checked=dict(checked))


def _check_plan(layout: DatasetLayout, config: DatasetConfig) -> Iterator[Finding]:
    expected = {f"{number:06d}" for number in range(config.num_shards)}
    for stage in STAGES:
        folder = layout.receipt(stage, "000000").parent
        for shard in sorted({path.stem for path in folder.glob("*.json")} - expected):
            rule = f"config.json promises {config.num_shards} shards"
            yield Finding(shard, None, f"receipts/{stage}/{shard}.json", rule, "one too many")


def _check_shard(
    layout: DatasetLayout,
    config: DatasetConfig,
    shard: str,
    checked: Counter[str],
    ids: dict[str, NDArray[np.bytes_]],
) -> Iterator[Finding]:
    receipts: dict[str, Receipt] = {}
    for stage in STAGES:
        yield from _check_receipt(layout, config, stage, shard, receipts, checked)
    tables: dict[str, pa.Table] = {}
    for stage in receipts:
        yield from _read_table(layout, stage, shard, tables)
    for stage, table in tables.items():
        if len(table) != receipts[stage].rows:
            found = f"{len(table)} rows"
            rule = f"the {stage} receipt counts {receipts[stage].rows} rows"
            yield Finding(shard, None, _table_name(layout, stage, shard), rule, found)
    if "plan" in tables:
        for stage in ("fetch", "annotate"):
            if stage in tables:
                yield from _check_conserved(shard, stage, tables["plan"], tables[stage])
    if "annotate" in tables:
        checked["rows"] += len(tables["annotate"])
        ids[shard] = tables["annotate"].column("image_id").to_numpy().astype("S32")
        yield from _check_manifest(layout, config, shard, tables, checked)


def _check_receipt(
    layout: DatasetLayout,
    config: DatasetConfig,
    stage: str,
    shard: str,
    receipts: dict[str, Receipt],
    checked: Counter[str],
) -> Iterator[Finding]:
    name = f"receipts/{stage}/{shard}.json"
    try:
        receipt = read_receipt(layout, stage, shard)
    except ManifestError as error:
        yield Finding(shard, None, name, "a receipt can be read", str(error))
        return
    if receipt is None:
        rule = f"every shard has a {stage} receipt; run the same command again"
        yield Finding(shard, None, name, rule, "absent")
        return
    if receipt.set_aside is not None:
        rule = "no shard is set aside; run the same command again"
        yield Finding(shard, None, name, rule, receipt.set_aside)
        return
    receipts[stage] = receipt
    if receipt.config_sha256 != config.stages[stage]:
        rule = "a receipt is of the dataset's configuration"
        yield Finding(shard, None, name, rule, f"config_sha256 {receipt.config_sha256[:16]}...")
    for relative, expected in receipt.outputs.items():
        checked["files"] += 1
        path = layout.root / relative
        if not path.is_file():
            yield Finding(shard, None, relative, f"{name} lists existing files", "absent")
        elif path.stat().st_size != expected.bytes:
            found = f"{path.stat().st_size} bytes"
            yield Finding(shard, None, relative, f"{name} says {expected.bytes} bytes", found)
        elif (sha256 := sha256_file(path)) != expected.sha256:
            rule = f"{name} says sha256 {expected.sha256[:16]}..."
            yield Finding(shard, None, relative, rule, f"sha256 {sha256[:16]}...")


def _read_table(
    layout: DatasetLayout, stage: str, shard: str, tables: dict[str, pa.Table]
) -> Iterator[Finding]:
    path = layout.root / _table_name(layout, stage, shard)
    if not path.is_file():
        return  # named already: its receipt lists it
    try:
        tables[stage] = pq.read_table(str(path)) if stage == "plan" else read_manifest(path)
    except (ManifestError, pa.ArrowException, OSError) as error:
        found = " ".join(str(error).split())
        yield Finding(shard, None, _table_name(layout, stage, shard), "it can be read", found)


def _table_name(layout: DatasetLayout, stage: str, shard: str) -> str:
    paths = {"plan": layout.plan, "fetch": layout.fetch, "annotate": layout.annotations}
    return paths[stage](shard).relative_to(layout.root).as_posix()


def _check_conserved(
    shard: str, stage: str, planned: pa.Table, table: pa.Table
) -> Iterator[Finding]:
    """Every planned row stands in the table exactly once, and no other does."""
    left, right = (Counter(_keys(one)) for one in (planned, table))
    for image_id, source_row in sorted(left - right):
        rule = f"every planned row stands in {stage} exactly once"
        found = f"image_id {image_id} of source_row {source_row} is not there"
        yield Finding(shard, None, "image_id", rule, found)
    for image_id, source_row in sorted(right - left):
        rule = f"{stage} holds planned rows only, each once"
        found = f"image_id {image_id} of source_row {source_row} is one too many"
        yield Finding(shard, None, "image_id", rule, found)


def _keys(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(*(table.column(name).to_pylist() for name in _ROW_KEYS), strict=True))


def _check_unique(ids: dict[str, NDArray[np.bytes_]]) -> Iterator[Finding]:
    """No image_id stands in two rows of the dataset; arrays, because there may be millions."""
    if not ids:
        return
    values, counts = np.unique(np.concatenate(list(ids.values())), return_counts=True)
    for image_id in values[counts > 1]:
        for shard, of_shard in ids.items():
            for row in np.flatnonzero(of_shard == image_id):
                found = f"{image_id.decode()} stands in more than one row"
                yield Finding(shard, int(row), "image_id", "unique in the dataset", found)


def _check_manifest(
    layout: DatasetLayout,
    config: DatasetConfig,
    shard: str,
    tables: dict[str, pa.Table],
    checked: Counter[str],
) -> Iterator[Finding]:
    table = tables["annotate"]
    problems = validate(table)
    for problem in problems:
        at = None if problem.row == TABLE_ROW else problem.row
        yield Finding(shard, at, problem.column, problem.rule, problem.value)
    if any(problem.row == TABLE_ROW for problem in problems):
        return  # columns are missing or malformed: the rules below need them
    checked.update(count_regions(table))
    for found in _check_rows(layout, config, shard, tables):
        yield Finding(shard, *found)


def _check_rows(
    layout: DatasetLayout, config: DatasetConfig, shard: str, tables: dict[str, pa.Table]
) -> Iterator[RowFinding]:
    table = tables["annotate"]
    provenance = read_provenance(layout.annotations(shard))
    if provenance.config_sha256 != config.stages["annotate"]:
        rule = "the footer is of the dataset's configuration"
        yield RowFinding(None, "footer config_sha256", rule, provenance.config_sha256)
    yield from check_addresses(table, layout.images(shard), shard, config.curate.fetch.limits)
    yield from check_states(table, provenance)
    yield from check_summaries(table)
    yield from check_faces(table)
    if "fetch" in tables and len(tables["fetch"]) == len(table):
        yield from check_handed_on(table, tables["fetch"])
