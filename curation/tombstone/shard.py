"""One shard without some of its images: plan, tars, fetch tables, manifests, then the receipts.

Every function looks at the file that is there and writes it only where it changes, so that a walk
that was cut short is finished by walking again.
"""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from annotations_schema.codes import FailureCode, RegionState, Status
from annotations_schema.layout import (
    DEFAULT_SET,
    DatasetLayout,
    OutputFile,
    Receipt,
    atomic_write,
    output_files,
    read_receipt,
    write_receipt,
)
from annotations_schema.manifest import read_manifest, read_provenance, write_manifest
from annotations_schema.storage import AnyPath
from curation.fetch.tar import Member, write_tar
from curation.passes.fetched import REPLACES
from curation.tombstone.tombstones import tombstoned

_RECOUNTED = frozenset(
    {
        *(str(status) for status in Status),
        *(str(code) for code in FailureCode),
        *(f"{kind}_{state}" for kind in ("text", "face") for state in (*RegionState, "regions")),
    }
)
"""What receipts count that follows from the rows; times and the like stay as they are."""


_REGIONS = ("text_state", "face_state", "text_regions", "face_regions")


class _Address(NamedTuple):
    member: str
    offset: int
    length: int


_Addresses = dict[str, _Address]


def annotation_sets(layout: DatasetLayout) -> list[str]:
    """Names of all annotation sets of a dataset, the default one first."""
    folder = layout.root / "annotation_sets"
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [DEFAULT_SET, *others]


def shard_files(layout: DatasetLayout, shard: str) -> dict[str, OutputFile]:
    """Every published file of a planned shard as the receipts name it."""
    return {name: file for one, _ in _receipts(layout, shard) for name, file in one.outputs.items()}


def num_images(layout: DatasetLayout, shard: str) -> int:
    """Images in the tars of a planned shard, by the receipts."""
    return sum(
        receipt.counts.get(Status.OK.value, 0)
        for receipt, _ in _receipts(layout, shard)
        if receipt.stage == "fetch"
    )


def remove_from_shard(layout: DatasetLayout, shard: str, image_ids: pa.Array) -> None:
    """Leave nothing of some images in a planned shard but the rows that say so."""
    _remove_unpublished(layout, shard)
    going = set(image_ids.to_pylist())
    published = _receipts(layout, shard)
    addresses: dict[str, _Addresses] = {}
    for receipt, one in published:
        if receipt.stage == "plan":
            _rewrite_plan(one.plan(receipt.shard), image_ids)
    for receipt, one in published:
        if receipt.stage == "fetch":
            addresses[receipt.shard] = _rewrite_tar(one.images(receipt.shard), going)
            _rewrite_rows(one.fetch(receipt.shard), image_ids, addresses)
    for receipt, one in published:
        if receipt.stage == "annotate":
            _rewrite_rows(one.annotations(shard), image_ids, addresses)
    _rewrite_receipts(layout, shard)


def drop_stale_receipts(layout: DatasetLayout, shard: str) -> None:
    """Take manifests for unpublished that were made of other fetch tables than those that stand.

    Their addresses are not those of the tars, and a receipt that is written anew would vouch for
    them. Before a removal begins: in the midst of one the tables have other hashes than annotate
    has read.
    """
    standing = {
        receipt.shard: receipt.outputs[layout.relative(layout.fetch(receipt.shard))].sha256
        for receipt, _ in _receipts(layout, shard)
        if receipt.stage == "fetch"
    }
    for one in _of_all_sets(layout):
        receipt = read_receipt(one, "annotate", shard)
        if receipt is None or receipt.set_aside is not None:
            continue
        if shard not in receipt.inputs or not receipt.inputs.items() <= standing.items():
            one.receipt("annotate", shard).unlink()


def _remove_unpublished(layout: DatasetLayout, shard: str) -> None:
    """Remove what killed runs left of a shard: it may hold the images, and no receipt names it."""
    if isinstance(layout.root, Path):
        for folder in layout.root.glob(".fetch-*"):
            shutil.rmtree(folder)
    published = {layout.root / name for name in shard_files(layout, shard)}
    passes = layout.planned_passes(shard)
    paths = [
        *map(layout.plan, passes),
        *map(layout.images, passes),
        *map(layout.fetch, passes),
        *(one.annotations(shard) for one in _of_all_sets(layout)),
    ]
    for path in paths:
        for temporary in path.parent.glob(f".{path.name}.*.tmp"):
            temporary.unlink()
        if path not in published and path.exists():
            path.unlink()


def _rewrite_plan(path: AnyPath, image_ids: pa.Array) -> None:
    table = pq.read_table(str(path))
    new = tombstoned(table, image_ids)
    if not new.equals(table):
        with atomic_write(path) as temporary:
            pq.write_table(new, str(temporary), compression="zstd")


def _rewrite_tar(path: AnyPath, going: set[str]) -> _Addresses:
    """The tar without some of its members; where the others are."""
    addresses = _addresses(path)
    kept = [address for image_id, address in addresses.items() if image_id not in going]
    if len(kept) == len(addresses):
        return addresses
    write_tar(path, path, [Member(*address) for address in kept])
    return _addresses(path)


def _addresses(path: AnyPath) -> _Addresses:
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        return {
            member.name.partition(".")[0]: _Address(member.name, member.offset_data, member.size)
            for member in tar
        }


def _rewrite_rows(path: AnyPath, image_ids: pa.Array, addresses: Mapping[str, _Addresses]) -> None:
    """A fetch table or manifest without what it said of some images, others where they are now."""
    table = read_manifest(path)
    new = tombstoned(table, image_ids)
    stored = new.select(["image_id", "shard", "offset"]).to_pylist()
    offsets = [
        None if row["offset"] is None else addresses[row["shard"]][row["image_id"]].offset
        for row in stored
    ]
    number = new.schema.get_field_index("offset")
    new = new.set_column(number, new.schema.field(number), pa.array(offsets, pa.int64()))
    if not new.equals(table):
        write_manifest(path, new, read_provenance(path))


def _rewrite_receipts(layout: DatasetLayout, shard: str) -> None:
    hashes: dict[str, str] = {}
    latest: dict[int, dict[str, str | None]] = {}
    for receipt, one in _receipts(layout, shard):
        name = receipt.shard
        new = replace(receipt, outputs=output_files(one, _outputs(one, receipt)))
        if receipt.stage == "plan":
            new = replace(new, counts=_recounted(receipt, pq.read_table(str(one.plan(name)))))
            if name != shard:
                replaced = _replaced(pq.read_table(str(one.plan(name))), latest)
                kept = {k: v for k, v in new.counts.items() if not k.startswith(REPLACES)}
                new = replace(new, counts=kept | replaced)
        elif receipt.stage == "fetch":
            table = read_manifest(one.fetch(name))
            new = replace(new, counts=_recounted(receipt, table))
            hashes[name] = new.outputs[one.relative(one.fetch(name))].sha256
            rows = table.select(["source_row", "status", "failure_code"]).to_pylist()
            latest |= {row.pop("source_row"): row for row in rows}
        else:
            table = read_manifest(one.annotations(name))
            inputs = {read: hashes[read] for read in receipt.inputs}
            new = replace(new, counts=_recounted(receipt, table), inputs=inputs)
        if new != receipt:
            write_receipt(one, new)


def _outputs(layout: DatasetLayout, receipt: Receipt) -> list[AnyPath]:
    return [layout.root / name for name in receipt.outputs]


def _recounted(receipt: Receipt, table: pa.Table) -> dict[str, int]:
    """A receipt's counts with those that follow from the rows counted again, zeros as they were."""
    counts: Counter[str] = Counter()
    names = [n for n in ("status", "failure_code", *_REGIONS) if n in table.column_names]
    for row in table.select(names).to_pylist():
        counts.update(str(row[name]) for name in ("status", "failure_code") if row[name])
        if receipt.stage == "annotate" and row["status"] == Status.OK:
            for kind in ("text", "face"):
                counts[f"{kind}_{row[f'{kind}_state']}"] += 1
                counts[f"{kind}_regions"] += len(row[f"{kind}_regions"] or ())
    kept = {name: 0 if name in _RECOUNTED else count for name, count in receipt.counts.items()}
    return {name: count for name, count in (kept | counts).items() if count or name in kept}


def _replaced(plan: pa.Table, latest: Mapping[int, Mapping[str, str | None]]) -> dict[str, int]:
    """What the rows of a further pass take the place of, as its plan receipt counts it."""
    # A pass may be planned before the receipt of the one before it stands; it is planned anew then.
    rows = plan.column("source_row").to_pylist()
    outcomes = [latest[source_row] for source_row in rows if source_row in latest]
    names = [outcome[key] for outcome in outcomes for key in ("status", "failure_code")]
    return {f"{REPLACES}{name}": count for name, count in Counter(filter(None, names)).items()}


def _receipts(layout: DatasetLayout, shard: str) -> list[tuple[Receipt, DatasetLayout]]:
    """The receipts of a planned shard that name files, in the order in which they were written."""
    passes = layout.planned_passes(shard)
    stages = [(stage, name, layout) for name in passes for stage in ("plan", "fetch")]
    stages += [("annotate", shard, one) for one in _of_all_sets(layout)]
    found = [(read_receipt(one, stage, name), one) for stage, name, one in stages]
    return [(receipt, one) for receipt, one in found if receipt and receipt.set_aside is None]


def _of_all_sets(layout: DatasetLayout) -> list[DatasetLayout]:
    return [replace(layout, annotation_set=name) for name in annotation_sets(layout)]
