"""Planned rows as a table: what the list says of each row, and where a row ends already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema.codes import FailureCode, Stage, Status
from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA
from curation.plan.planned_rows import Rejection, expected_hashes, hex_column, judge_urls
from curation.plan.urls import image_id_of_row

if TYPE_CHECKING:
    from curation.plan.plan import PlanConfig

_COLUMNS = (
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


def plan_table(
    batch: pa.Table,
    first_row: int,
    source_name: str,
    config: PlanConfig,
    is_duplicate: NDArray[np.bool_],
) -> pa.Table:
    """The planned rows of consecutive rows of a list.

    Args:
        batch: rows of the list with all of its columns, as `url_list` gives them.
        first_row: position of the batch's first row in the list, from 0.
        source_name: name of the list.
        config: which of the columns mean what; the others pass through as `input_NAME`.
        is_duplicate: (rows,) bool, where an earlier row of the list has the same canonical URL.
    """
    batch = batch.combine_chunks()
    num_rows = len(batch)
    judged = judge_urls(_whole(batch, config.url_column), config.max_url_bytes)
    expected, rejections = expected_hashes(_whole(batch, config.sha256_column))
    rejections |= judged.rejections
    image_ids = judged.image_ids.copy()
    repeated = np.flatnonzero(is_duplicate).tolist()
    for row in repeated:
        detail = f"same URL as image_id {image_ids[row].tobytes().hex()}"
        rejections[row] = Rejection(FailureCode.URL_DUPLICATE, detail)
    for row in [*judged.rejections, *repeated]:
        own = bytes.fromhex(image_id_of_row(source_name, first_row + row))
        image_ids[row] = np.frombuffer(own, np.uint8)
    values: dict[str, Sequence[object] | pa.Array] = {
        "image_id": hex_column(image_ids),
        "source_row": pa.array(np.arange(first_row, first_row + num_rows)),
        "source_name": [source_name] * num_rows,
        "url": judged.shown,
        "caption": _texts(_whole(batch, config.caption_column)),
        "license": _texts(_whole(batch, config.license_column)),
        "sha256_expected": expected,
        **_verdicts(num_rows, rejections),
    }
    fields = [MANIFEST_SCHEMA.field(name) for name in _COLUMNS]
    table = pa.Table.from_arrays(
        [_array(values[field.name], field) for field in fields], schema=pa.schema(fields)
    )
    for field in batch.schema:
        if field.name not in (config.url_column, *config.other_columns):
            name = f"{INPUT_PREFIX}{field.name}"
            table = table.append_column(field.with_name(name), batch.column(field.name))
    return table


def in_shards(batches: Iterator[pa.Table], shard_size: int) -> Iterator[pa.Table]:
    """The rows of all batches in tables of `shard_size` rows; the last may have fewer."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for batch in batches:
        waiting.append(batch)
        num_waiting += len(batch)
        if num_waiting < shard_size:
            continue
        table = pa.concat_tables(waiting)
        num_whole = num_waiting - num_waiting % shard_size
        for first in range(0, num_whole, shard_size):
            yield table.slice(first, shard_size)
        waiting = [table.slice(num_whole)]
        num_waiting -= num_whole
    if num_waiting:
        yield pa.concat_tables(waiting)


def counts_of(table: pa.Table) -> dict[str, int]:
    """Rows by status and by failure code."""
    counts: dict[str, int] = {}
    for name in ("status", "failure_code"):
        values, numbers = pc.value_counts(table.column(name)).flatten()
        counts |= dict(zip(values.to_pylist(), numbers.to_pylist(), strict=True))
    return {name: count for name, count in counts.items() if name is not None}


def _whole(batch: pa.Table, name: str | None) -> pa.Array:
    """A column of combined chunks as one array; nulls where no column has the role."""
    return pa.nulls(len(batch), pa.string()) if name is None else batch.column(name).chunk(0)


def _verdicts(num_rows: int, rejections: Mapping[int, Rejection]) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {
        "status": [Status.OK] * num_rows,
        **{name: [None] * num_rows for name in ("stage", "failure_code", "failure_detail")},
    }
    for row, (code, detail) in rejections.items():
        columns["status"][row] = code.status
        columns["stage"][row] = Stage.PLAN
        columns["failure_code"][row] = code
        columns["failure_detail"][row] = detail
    return columns


def _array(values: Sequence[object] | pa.Array, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if pa.types.is_dictionary(field.type):
        return pa.array(values, field.type.value_type).dictionary_encode().cast(field.type)
    return pa.array(values, field.type)


def _texts(column: pa.Array) -> pa.Array:
    """A caption or licence as text, whatever its type; bytes are UTF-8."""
    if pa.types.is_string(column.type):
        return column
    texts = [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
        for value in column.to_pylist()
    ]
    return pa.array([None if text is None else str(text) for text in texts], pa.string())
