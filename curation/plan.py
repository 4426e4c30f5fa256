"""The plan: a URL list becomes shards of rows, each with an image_id or a failure code.

    list.parquet | list.csv | list.txt  ->  plan/000000.parquet, plan/000001.parquet, ...

Deterministic: the same list and configuration give the same files. Rows are conserved: each row of
the list is one planned row, in order; a row without a usable URL, and every later row with the
same canonical URL, carries a failure code instead of being left out. The list is read in batches.
What stays in memory for the whole list is a set of 16-byte digests, about 100 bytes a URL.

All or nothing: shards are written into a private folder and moved into place when the whole list
has been read, so a list that breaks off in the middle leaves the dataset as it was.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA
from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    atomic_write,
    config_sha256,
    is_done,
    output_files,
    read_receipt,
    sha256_file,
    write_receipt,
)
from curation.planned_rows import PlannedRow, Seen, plan_row
from curation.url_list import URL_COLUMN_OF_TEXT, UrlList, open_list

SHARDS_IN_LIST = "shards_in_list"
"""Key in a plan receipt's counts: how many shards the whole list has."""

_STAGE = "plan"
_DISTRIBUTION = "open-insighttok"
_MAX_SHARDS = 1_000_000
_PLAN_COLUMNS = (
    "image_id",
    "source_row",
    "source_name",
    "url",
    "caption",
    "status",
    "stage",
    "failure_code",
    "failure_detail",
    "sha256_expected",
    "license",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """How a URL list is read and cut into shards."""

    url_column: str = URL_COLUMN_OF_TEXT
    """Column with the URL; a txt list has one URL a line and no other column."""
    caption_column: str | None = None
    """Column with the caption, or None."""
    sha256_column: str | None = None
    """Column with the expected sha256 of the image file, hex or 32 bytes, or None."""
    license_column: str | None = None
    """Column with the image's licence, SPDX id or URL, or None."""
    shard_size: int = 1000
    """Rows in a shard."""
    max_url_bytes: int = 4096
    """Longest URL, UTF-8 bytes; a longer one is cut in the manifest and not fetched."""

    def __post_init__(self) -> None:
        if not 1 <= self.shard_size <= 100_000:
            raise UsageError(f"shard_size is {self.shard_size}; choose 1 to 100000 rows")
        if not 16 <= self.max_url_bytes <= 16_384:
            raise UsageError(f"max_url_bytes is {self.max_url_bytes}; choose 16 to 16384")
        named = (self.url_column, *self.other_columns)
        if len(set(named)) < len(named):
            raise UsageError(f"columns {named}: one column has two roles; name each column once")

    @property
    def other_columns(self) -> tuple[str, ...]:
        """The columns with a role beside the URL's."""
        roles = (self.caption_column, self.sha256_column, self.license_column)
        return tuple(name for name in roles if name is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanIdentity:
    """What makes two plans the same plan; its hash stands in every plan receipt."""

    source_name: str
    source_sha256: str
    config: PlanConfig


def plan(source: Path, layout: DatasetLayout, config: PlanConfig) -> list[str]:
    """Plan a URL list into a dataset folder and return the shards, in order.

    A list that is planned already costs reading it once for its hash.

    Raises:
        UsageError: the list is missing, empty, unreadable or lacks a column, or the folder holds
            the plan of another list or configuration. Nothing was written then.
    """
    source = Path(source)
    identity = _identity(source, config)
    fingerprint = config_sha256(identity)
    _check_not_another_plan(layout, fingerprint, source)
    done = _finished_shards(layout, fingerprint)
    if done:
        return done
    url_list = open_list(source, config.url_column, config.other_columns)
    with _private_folder(layout) as private:
        written = _write_shards(url_list, private, identity.source_name, config)
        for parts in written:
            _publish(private, layout, parts.shard)
    for parts in written:
        write_receipt(layout, _receipt(parts, layout, fingerprint, len(written)))
    return [parts.shard for parts in written]


@dataclass(frozen=True, kw_only=True, slots=True)
class _WrittenShard:
    shard: str
    rows: int
    counts: dict[str, int]
    elapsed_s: float


def _identity(source: Path, config: PlanConfig) -> PlanIdentity:
    try:
        digest = sha256_file(source)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError(f"URL list {source}: {reason}; give a readable file") from error
    return PlanIdentity(source_name=source.name, source_sha256=digest, config=config)


def _check_not_another_plan(layout: DatasetLayout, fingerprint: str, source: Path) -> None:
    for shard in layout.shards_planned():
        receipt = read_receipt(layout, _STAGE, shard)
        if receipt is not None and receipt.config_sha256 != fingerprint:
            raise UsageError(
                f"{layout.root} holds the plan of another URL list or configuration than "
                f"{source.name}; choose another folder, or delete this one to plan anew"
            )


def _finished_shards(layout: DatasetLayout, fingerprint: str) -> list[str]:
    """All shards of a plan that stands complete; none where one is missing."""
    shards = layout.shards_planned()
    first = read_receipt(layout, _STAGE, shards[0]) if shards else None
    if first is None or len(shards) != first.counts[SHARDS_IN_LIST]:
        return []
    is_whole = all(is_done(layout, _STAGE, shard, fingerprint) for shard in shards)
    return shards if is_whole else []


@contextmanager
def _private_folder(layout: DatasetLayout) -> Iterator[DatasetLayout]:
    """A layout in a folder of its own inside the dataset's; a folder made for it goes on error."""
    is_new = not layout.root.exists()
    layout.root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=layout.root) as folder:
            yield DatasetLayout(Path(folder))
    except BaseException:
        if is_new:
            shutil.rmtree(layout.root)
        raise


def _write_shards(
    url_list: UrlList, private: DatasetLayout, source_name: str, config: PlanConfig
) -> list[_WrittenShard]:
    seen: Seen = set()
    written: list[_WrittenShard] = []
    first_row = 0
    for batch in in_shards(url_list.batches(), config.shard_size):
        started = time.monotonic()
        if len(written) == _MAX_SHARDS:
            raise UsageError(f"more than {_MAX_SHARDS} shards; raise shard_size")
        table = plan_table(batch, first_row, source_name, config, seen)
        shard = f"{len(written):06d}"
        with atomic_write(private.plan(shard)) as temporary:
            pq.write_table(table, str(temporary), compression="zstd")
        written.append(
            _WrittenShard(
                shard=shard,
                rows=len(table),
                counts=_counts(table),
                elapsed_s=time.monotonic() - started,
            )
        )
        first_row += len(table)
    if not written:
        raise UsageError(f"URL list {url_list.path} has no rows; give a list with URLs")
    return written


def in_shards(batches: Iterator[pa.Table], shard_size: int) -> Iterator[pa.Table]:
    """The rows of all batches in tables of `shard_size` rows; the last may have fewer."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for batch in batches:
        waiting.append(batch)
        num_waiting += len(batch)
        while num_waiting >= shard_size:
            table = pa.concat_tables(waiting)
            yield table.slice(0, shard_size)
            waiting = [table.slice(shard_size)]
            num_waiting -= shard_size
    if num_waiting:
        yield pa.concat_tables(waiting)


def plan_table(
    batch: pa.Table, first_row: int, source_name: str, config: PlanConfig, seen: Seen
) -> pa.Table:
    """The planned rows of consecutive rows of a list; `seen` learns their URLs.

    Args:
        batch: rows of the list with all of its columns.
        first_row: position of the batch's first row in the list, from 0.
        seen: canonical URLs of all earlier rows, as digests.
    """
    urls = batch.column(config.url_column).to_pylist()
    expected = _optional(batch, config.sha256_column)
    rows = [
        plan_row(url, sha256, first_row + i, source_name, config.max_url_bytes, seen)
        for i, (url, sha256) in enumerate(zip(urls, expected, strict=True))
    ]
    captions = _texts(_optional(batch, config.caption_column))
    licenses = _texts(_optional(batch, config.license_column))
    fields = [MANIFEST_SCHEMA.field(name) for name in _PLAN_COLUMNS]
    values: dict[str, Sequence[object]] = {
        **_columns(rows),
        "source_row": [first_row + i for i in range(len(rows))],
        "source_name": [source_name] * len(rows),
        "caption": captions,
        "license": licenses,
    }
    table = pa.Table.from_arrays(
        [_array(values[field.name], field) for field in fields], schema=pa.schema(fields)
    )
    for field in batch.schema:
        if field.name not in (config.url_column, *config.other_columns):
            name = f"{INPUT_PREFIX}{field.name}"
            table = table.append_column(
                pa.field(name, field.type, metadata=field.metadata), batch.column(field.name)
            )
    return table


def _columns(rows: Sequence[PlannedRow]) -> dict[str, list[object]]:
    return {name: [getattr(row, name) for row in rows] for name in PlannedRow._fields}


def _array(values: Sequence[object], field: pa.Field) -> pa.Array:
    if pa.types.is_dictionary(field.type):
        return pa.array(values, field.type.value_type).dictionary_encode().cast(field.type)
    return pa.array(values, field.type)


def _optional(batch: pa.Table, name: str | None) -> list[object]:
    return [None] * len(batch) if name is None else batch.column(name).to_pylist()


def _texts(values: Sequence[object]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def _counts(table: pa.Table) -> dict[str, int]:
    names = [*table.column("status").to_pylist(), *table.column("failure_code").to_pylist()]
    return dict(Counter(name for name in names if name is not None))


def _publish(private: DatasetLayout, layout: DatasetLayout, shard: str) -> None:
    target = layout.plan(shard)
    target.parent.mkdir(parents=True, exist_ok=True)
    private.plan(shard).replace(target)


def _receipt(
    parts: _WrittenShard, layout: DatasetLayout, fingerprint: str, num_shards: int
) -> Receipt:
    return Receipt(
        stage=_STAGE,
        shard=parts.shard,
        config_sha256=fingerprint,
        outputs=output_files(layout, [layout.plan(parts.shard)]),
        rows=parts.rows,
        counts={**parts.counts, SHARDS_IN_LIST: num_shards},
        elapsed_s=parts.elapsed_s,
        version=version(_DISTRIBUTION),
    )
