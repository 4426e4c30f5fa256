"""The rules of `verify` over files: receipts fit them, nothing is absent, nothing is one too many.

Each file is read once: what was hashed is what is then looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from annotations_schema.errors import ManifestError, VersionError
from annotations_schema.layout import (
    DEFAULT_SET,
    STAGES,
    DatasetLayout,
    OutputFile,
    Receipt,
    base_shard,
    pass_number,
    read_receipt,
)
from annotations_schema.provenance import provenance_of
from annotations_schema.seal import is_intact
from annotations_schema.storage import AnyPath
from curation.config import DatasetConfig
from curation.verify.findings import WHOLE_DATASET, Finding

_PASS = re.compile(r"\d{6}(\.[1-9]\d*)?")


def check_sealed(layout: DatasetLayout, path: AnyPath, shard: str) -> Iterator[Finding]:
    """A JSON file of the dataset is as the software wrote it, to the letter."""
    if path.exists() and not is_intact(path.read_bytes()):
        rule = "a file is as it was written: its seal fits"
        yield Finding(shard, None, layout.relative(path), rule, "it was changed")


def check_receipt(
    layout: DatasetLayout,
    config: DatasetConfig,
    stage: str,
    name: str,
    receipts: dict[tuple[str, str], Receipt],
) -> Iterator[Finding]:
    """The receipt of a shard or pass is there and its own; a good one is put into `receipts`."""
    path, shard = layout.receipt(stage, name), base_shard(name)
    column = layout.relative(path)
    try:
        receipt = read_receipt(layout, stage, name)
    except (ManifestError, UnicodeDecodeError) as error:
        yield Finding(shard, None, column, "a receipt can be read", " ".join(str(error).split()))
        return
    if receipt is None:
        rule = f"every shard has a {stage} receipt; run the same command again"
        yield Finding(shard, None, column, rule, "absent")
        return
    yield from check_sealed(layout, path, shard)
    if receipt.set_aside is not None:
        rule = "no shard is set aside; run the same command again"
        yield Finding(shard, None, column, rule, receipt.set_aside)
        return
    if (receipt.stage, receipt.shard) != (stage, name):
        rule = f"the receipt of {stage} for {name} stands here"
        yield Finding(shard, None, column, rule, f"that of {receipt.stage} for {receipt.shard}")
        return
    expected = sorted(map(layout.relative, files_of(layout, stage, name)))
    if sorted(receipt.outputs) != expected:
        rule = f"it lists {', '.join(expected)}"
        yield Finding(shard, None, column, rule, ", ".join(sorted(receipt.outputs)) or "no file")
        return
    if receipt.config_sha256 != config.stages[stage]:
        rule = "a receipt is of the dataset's configuration"
        yield Finding(shard, None, column, rule, f"config_sha256 {receipt.config_sha256[:16]}...")
    receipts[stage, name] = receipt


def files_of(layout: DatasetLayout, stage: str, name: str) -> list[AnyPath]:
    """The files that a stage publishes for a shard or pass, its table first."""
    match stage:
        case "plan":
            return [layout.plan(name)]
        case "fetch":
            return [layout.fetch(name), layout.images(name)]
        case _:
            return [layout.annotations(name)]


def check_inputs(
    layout: DatasetLayout, shard: str, receipts: Mapping[tuple[str, str], Receipt]
) -> Iterator[Finding]:
    """Annotate has read the fetch tables that are there, all of them."""
    annotate = receipts.get((STAGES[-1], shard))
    if annotate is None:
        return
    standing = {
        name: receipt.outputs[layout.relative(layout.fetch(name))].sha256
        for (stage, name), receipt in receipts.items()
        if stage == "fetch"
    }
    if dict(annotate.inputs) != standing:
        column = layout.relative(layout.receipt(STAGES[-1], shard))
        differing = sorted({*standing.items()} ^ {*annotate.inputs.items()})
        names = ", ".join(dict.fromkeys(name for name, _ in differing))
        rule = "annotate has read the fetch tables of all passes as they are"
        yield Finding(shard, None, column, rule, f"it differs for {names}")


def read_table(
    layout: DatasetLayout,
    stage: str,
    receipt: Receipt,
    tables: dict[tuple[str, str], pa.Table],
) -> Iterator[Finding]:
    """The table of a shard or pass is the receipt's and can be read; it is put into `tables`."""
    path, shard = files_of(layout, stage, receipt.shard)[0], base_shard(receipt.shard)
    column = layout.relative(path)
    if not path.exists():
        yield absent(layout, receipt, column)
        return
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    yield from check_file(layout, receipt, column, OutputFile(bytes=len(data), sha256=digest))
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            if stage != "plan":
                provenance_of(file.schema_arrow, path)
            table = file.read()
        table.validate(full=True)
    except (ManifestError, VersionError, pa.ArrowException, OSError, ValueError) as error:
        found = " ".join(str(error).split())
        yield Finding(shard, None, column, "it can be read", found)
        return
    tables[stage, receipt.shard] = table
    if len(table) != receipt.rows:
        rule = f"the {stage} receipt counts {receipt.rows} rows"
        yield Finding(shard, None, column, rule, f"{len(table)} rows")


def absent(layout: DatasetLayout, receipt: Receipt, column: str) -> Finding:
    """A file that a receipt lists is not there."""
    name = layout.relative(layout.receipt(receipt.stage, receipt.shard))
    return Finding(
        base_shard(receipt.shard), None, column, f"{name} lists existing files", "absent"
    )


def check_file(
    layout: DatasetLayout, receipt: Receipt, column: str, found: OutputFile
) -> Iterator[Finding]:
    """A file has the size and the hash that its receipt says."""
    expected, shard = receipt.outputs[column], base_shard(receipt.shard)
    name = layout.relative(layout.receipt(receipt.stage, receipt.shard))
    if found.bytes != expected.bytes:
        rule = f"{name} says {expected.bytes} bytes"
        yield Finding(shard, None, column, rule, f"{found.bytes} bytes")
    elif found.sha256 != expected.sha256:
        rule = f"{name} says sha256 {expected.sha256[:16]}..."
        yield Finding(shard, None, column, rule, f"sha256 {found.sha256[:16]}...")


def check_nothing_more(layout: DatasetLayout, config: DatasetConfig) -> Iterator[Finding]:
    """Every file in the format's folders belongs to a planned shard, or to a pass of one."""
    folders = {layout.receipt(stage, "").parent: (stage, ".json") for stage in STAGES}
    for stage in STAGES:
        folders |= {path.parent: (stage, path.suffix) for path in files_of(layout, stage, "0")}
    for folder, (stage, suffix) in folders.items():
        if not folder.is_dir():
            continue
        names = (path.name for path in folder.iterdir())
        for name in sorted(one for one in names if not _is_temporary(one)):
            if _is_expected(layout, config, stage, name, suffix):
                continue
            stem = name.removesuffix(suffix)
            shard = base_shard(stem) if _PASS.fullmatch(stem) else WHOLE_DATASET
            rule = f"config.json promises {config.num_shards} shards"
            yield Finding(shard, None, layout.relative(folder / name), rule, "one too many")


def _is_temporary(name: str) -> bool:
    """What a killed run leaves; nobody reads it, and the next run of its shard removes it."""
    return name.startswith(".") and name.endswith(".tmp")


def _is_expected(
    layout: DatasetLayout, config: DatasetConfig, stage: str, name: str, suffix: str
) -> bool:
    stem = name.removesuffix(suffix)
    if name == "config.json" and stage == STAGES[-1] and layout.annotation_set != DEFAULT_SET:
        return True
    if stem == name or not _PASS.fullmatch(stem) or int(base_shard(stem)) >= config.num_shards:
        return False
    if not pass_number(stem):
        return True
    return stage != STAGES[-1] and layout.receipt("plan", stem).exists()
