"""Whether a dataset keeps its promises: what is wrong, by shard, row, column and rule.

Nothing that a stage wrote is believed: files are hashed again, every planned row is looked for,
images are read at their addresses, transforms and summaries are computed again. Each file is read
once; memory holds the tables of one shard and one image, whatever the size of the dataset.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotations_schema.errors import ManifestError, UsageError
from annotations_schema.layout import DEFAULT_SET, STAGES, DatasetLayout, OutputFile, Receipt
from annotations_schema.provenance import provenance_of
from annotations_schema.validation import TABLE_ROW, validate
from curation.config import DatasetConfig, require_config
from curation.passes.fetched import overlaid
from curation.plan.duplicates import Duplicates
from curation.verify.files import (
    absent,
    check_file,
    check_inputs,
    check_nothing_more,
    check_receipt,
    check_sealed,
    files_of,
    read_table,
)
from curation.verify.findings import WHOLE_DATASET, Finding
from curation.verify.images import Address, addresses, check_images
from curation.verify.removals import Removals
from curation.verify.rows import (
    RowFinding,
    check_faces,
    check_handed_on,
    check_states,
    check_summaries,
    count_regions,
)

_ROW_KEYS = ("image_id", "source_row")
_ANNOTATE = STAGES[-1]

OnShard = Callable[[str, int], None]
Tables = dict[tuple[str, str], pa.Table]
"""The tables of a shard, by stage and pass."""


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


def verify(layout: DatasetLayout, on_shard: OnShard = lambda shard, num_shards: None) -> Verified:
    """Check the dataset at `layout` with its annotation set.

    Args:
        layout: the dataset.
        on_shard: called after each shard with the number of all shards, for progress.

    Raises:
        UsageError: it is not a dataset, or has no such annotation set.
        VersionError: it is of a newer major version.
    """
    try:
        config = require_config(layout)
    except (UsageError, UnicodeDecodeError) as error:
        name = _damaged_config(layout)
        if name is None:
            raise
        found = " ".join(str(error).split())
        rule = "the configuration can be read and was not edited"
        finding = Finding(WHOLE_DATASET, None, name, rule, found)
        return Verified(root=str(layout.root), findings=(finding,))
    with tempfile.TemporaryDirectory(prefix="insight-verify-") as folder:
        check = _Check(layout, config, Duplicates(Path(folder)))
        findings = tuple(check.findings(on_shard))
    return Verified(root=str(layout.root), findings=findings, checked=dict(check.checked))


def _damaged_config(layout: DatasetLayout) -> str | None:
    """The configuration file that is there and cannot be read, or None where one is absent."""
    if layout.annotation_set != DEFAULT_SET:
        if not layout.set_config.exists():
            return None
        if layout.config.exists() and not list(check_sealed(layout, layout.config, "")):
            return layout.relative(layout.set_config)
    return layout.relative(layout.config) if layout.config.exists() else None


class _Check:
    """One look at a dataset; counts what was checked."""

    def __init__(
        self, layout: DatasetLayout, config: DatasetConfig, duplicates: Duplicates
    ) -> None:
        self.layout = layout
        self.config = config
        self.checked: Counter[str] = Counter()
        self.duplicates = duplicates
        self.removals = Removals(layout)
        self.first_rows = [0]

    def findings(self, on_shard: OnShard) -> Iterator[Finding]:
        """All of them: files that are too many, then shard by shard, then the whole."""
        yield from check_sealed(self.layout, self.layout.config, WHOLE_DATASET)
        if self.layout.annotation_set != DEFAULT_SET:
            yield from check_sealed(self.layout, self.layout.set_config, WHOLE_DATASET)
        yield from check_nothing_more(self.layout, self.config)
        yield from self.removals.check_list()
        for number in range(self.config.num_shards):
            shard = f"{number:06d}"
            self.checked["shards"] += 1
            yield from self._shard(shard)
            on_shard(shard, self.config.num_shards)
        yield from self._unique()
        if self.checked["rows"] != self.config.num_rows:
            rule = f"config.json promises {self.config.num_rows} rows"
            yield Finding(WHOLE_DATASET, None, "rows", rule, f"{self.checked['rows']} rows")

    def _shard(self, shard: str) -> Iterator[Finding]:
        receipts: dict[tuple[str, str], Receipt] = {}
        passes = self.layout.planned_passes(shard) or [shard]
        steps = [("plan", name) for name in passes] + [("fetch", name) for name in passes]
        for stage, name in [*steps, (_ANNOTATE, shard)]:
            yield from check_receipt(self.layout, self.config, stage, name, receipts)
        if all(("fetch", name) in receipts for name in passes):
            yield from check_inputs(self.layout, shard, receipts)
        tables: Tables = {}
        for (stage, _), receipt in receipts.items():
            self.checked["files"] += len(receipt.outputs)
            yield from read_table(self.layout, stage, receipt, tables)
        yield from self._conserved(shard, tables)
        yield from self._removed(shard, passes, tables)
        manifest = tables.get((_ANNOTATE, shard))
        is_whole = True
        if manifest is not None:
            problems = validate(manifest)
            for problem in problems:
                at = None if problem.row == TABLE_ROW else problem.row
                yield Finding(shard, at, problem.column, problem.rule, problem.value)
            # Where columns are missing or malformed, the rules below have nothing to look at.
            is_whole = all(problem.row != TABLE_ROW for problem in problems)
        self._count(manifest, is_whole)
        yield from self._images(shard, receipts, manifest if is_whole else None)
        if manifest is not None and is_whole:
            for found in self._rows(shard, manifest, tables):
                yield Finding(shard, *found)

    def _conserved(self, shard: str, tables: Tables) -> Iterator[Finding]:
        for (stage, name), table in tables.items():
            planned = tables.get(("plan", name))
            if stage != "plan" and planned is not None:
                yield from _check_conserved(shard, stage, planned, table)
            elif name != shard and ("plan", shard) in tables:
                keys = set(_keys(tables["plan", shard]))
                for image_id, source_row in _keys(table):
                    if (image_id, source_row) not in keys:
                        rule = f"the further pass {name} holds rows of its shard only"
                        found = f"image_id {image_id} of source_row {source_row}"
                        yield Finding(shard, None, "image_id", rule, found)

    def _removed(self, shard: str, passes: list[str], tables: Tables) -> Iterator[Finding]:
        for (stage, name), table in tables.items():
            column = self.layout.relative(files_of(self.layout, stage, name)[0])
            yield from self.removals.check_table(shard, column, table)
        for name in passes:
            yield from self.removals.check_tar(shard, name)
        yield from self.removals.check_other_sets(shard)

    def _count(self, manifest: pa.Table | None, is_whole: bool) -> None:
        """Count rows and regions, and remember the image_ids."""
        num_rows = 0 if manifest is None else len(manifest)
        self.first_rows.append(self.first_rows[-1] + num_rows)
        self.checked["rows"] += num_rows
        if manifest is None or not is_whole:
            return
        self.checked.update(count_regions(manifest))
        ids = manifest.column("image_id")
        is_hex = np.asarray(pc.match_substring_regex(ids, r"\A[0-9a-f]{32}\z"), dtype=np.bool_)
        digits = "".join(pc.filter(ids, pa.array(is_hex)).to_pylist())
        numbers = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, 16)
        self.duplicates.add(numbers, np.flatnonzero(is_hex) + self.first_rows[-2])

    def _images(
        self,
        shard: str,
        receipts: Mapping[tuple[str, str], Receipt],
        manifest: pa.Table | None,
    ) -> Iterator[Finding]:
        """Every tar of the shard is its receipt's, and holds what the manifest says."""
        stored = [] if manifest is None else addresses(manifest)
        by_pass: dict[str, list[Address]] = {
            name: [] for stage, name in receipts if stage == "fetch"
        }
        for number, row in stored:
            if row["shard"] in by_pass:
                by_pass[row["shard"]].append(Address(number, row))
            elif ("fetch", shard) in receipts:
                rule = "an image lies in the tar of its own shard"
                yield Finding(shard, number, "shard", rule, repr(row["shard"]))
        for name, rows in by_pass.items():
            path, receipt = self.layout.images(name), receipts["fetch", name]
            if not path.exists():
                yield absent(self.layout, receipt, self.layout.relative(path))
                continue
            read: list[OutputFile] = []
            limits = self.config.curate.fetch.limits
            found = list(check_images(path, rows, limits, read))
            yield from check_file(self.layout, receipt, self.layout.relative(path), read[0])
            for one in sorted(found, key=lambda one: one.row or 0):
                yield Finding(shard, *one)

    def _rows(self, shard: str, manifest: pa.Table, tables: Tables) -> Iterator[RowFinding]:
        try:
            provenance = provenance_of(manifest.schema, self.layout.annotations(shard))
        except ManifestError:
            return  # named when the table was read
        if provenance.config_sha256 != self.config.stages[_ANNOTATE]:
            rule = "the footer is of the dataset's configuration"
            yield RowFinding(None, "footer config_sha256", rule, provenance.config_sha256)
        yield from check_states(manifest, provenance)
        yield from check_summaries(manifest)
        yield from check_faces(manifest)
        fetched = [table for (stage, _), table in tables.items() if stage == "fetch"]
        if ("fetch", shard) in tables and len(tables["fetch", shard]) == len(manifest):
            yield from check_handed_on(manifest, overlaid(fetched))

    def _unique(self) -> Iterator[Finding]:
        """No image_id stands in two rows of the dataset."""
        for image_id, row in self.duplicates.repeated():
            shard = int(np.searchsorted(self.first_rows, row, "right")) - 1
            found = f"{image_id} stands in more than one row"
            at = row - self.first_rows[shard]
            yield Finding(f"{shard:06d}", at, "image_id", "unique in the dataset", found)


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
