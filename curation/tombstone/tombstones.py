"""The dataset's list of images that were removed for good, and what a row of such an image says.

The list is the promise: it stands before anything is removed, and fetch makes no request for a row
on it. It holds image_ids only, hashes from which no URL can be read.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotations_schema.codes import FailureCode, RegionState, Stage
from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, atomic_write
from annotations_schema.seal import SEAL
from annotations_schema.storage import AnyPath

STAGE = "tombstone"
"""Folder of the receipts: receipts/tombstone/000000.json, 000001.json, ..."""

_KEPT = ("image_id", "source_row", "source_name")
_SAYS: dict[str, Any] = {
    "status": FailureCode.REMOVED_ON_REQUEST.status.value,
    # As if fetch had found it on the list: a dataset fetched anew has the same row.
    "stage": Stage.FETCH.value,
    "failure_code": FailureCode.REMOVED_ON_REQUEST.value,
    "attempts": 0,
    "elapsed_ms": 0,
    "text_state": RegionState.NOT_RUN.value,
    "face_state": RegionState.NOT_RUN.value,
}


def tombstoned_ids(layout: DatasetLayout) -> pa.Array:
    """The image_ids on the dataset's list, ascending; empty where nothing was ever removed."""
    if not layout.tombstones.exists():
        return pa.array([], pa.string())
    return pq.read_table(str(layout.tombstones)).column("image_id").combine_chunks()


def add_tombstones(layout: DatasetLayout, image_ids: list[str]) -> None:
    """Publish the list with further ids on it."""
    together = sorted({*tombstoned_ids(layout).to_pylist(), *image_ids})
    with atomic_write(layout.tombstones) as temporary:
        pq.write_table(pa.table({"image_id": pa.array(together, pa.string())}), str(temporary))


def tombstoned(table: pa.Table, image_ids: pa.Array) -> pa.Table:
    """A plan, fetch table or manifest in which the rows of some images say no more than that.

    What is left of such a row is image_id, source_row, source_name and the verdict. URL, caption
    and user columns go as well: each may name a person, and the image_id is enough to know the
    row again.
    """
    mask = np.asarray(pc.is_in(table.column("image_id"), value_set=image_ids), dtype=np.bool_)
    if not mask.any():
        return table
    nulled = pa.array(np.arange(len(table)), mask=mask)
    columns = [_column(table.column(field.name), field, mask, nulled) for field in table.schema]
    fields = [
        field if field.name in _KEPT or field.name in _SAYS else field.with_nullable(True)
        for field in table.schema
    ]
    schema = pa.schema(fields, metadata=table.schema.metadata)
    return pa.Table.from_arrays(columns, schema=schema)


def _column(
    column: pa.ChunkedArray, field: pa.Field, mask: NDArray[np.bool_], nulled: pa.Array
) -> pa.ChunkedArray:
    if field.name in _KEPT:
        return column
    if field.name not in _SAYS:
        return column.take(nulled)
    said = _SAYS[field.name]
    if not pa.types.is_dictionary(field.type):
        return pc.if_else(mask, pa.scalar(said, field.type), column)
    plain = pc.if_else(mask, said, column.cast(pa.string()))
    return plain.combine_chunks().dictionary_encode().cast(field.type)


def refuse_unfinished(layout: DatasetLayout) -> None:
    """Refuse to work on a dataset whose last removal was interrupted.

    Its files and receipts do not agree yet, so a run would take its shards for undone.

    Raises:
        UsageError: it was, or its receipt cannot be read.
    """
    if unfinished(layout) is not None:
        raise UsageError(
            f"{layout.root}: a removal was interrupted; finish it with "
            f"`insight-curate tombstone {layout.root} --resume`"
        )


def unfinished(layout: DatasetLayout) -> dict[str, Any] | None:
    """The receipt of a removal that is not finished, or None."""
    last = last_receipt(layout)
    return last if last is not None and last["finished_at"] is None else None


def last_receipt(layout: DatasetLayout) -> dict[str, Any] | None:
    """The receipt of the latest removal, or None where there was none.

    Raises:
        UsageError: the file is no receipt.
    """
    paths = receipt_paths(layout)
    if not paths:
        return None
    try:
        receipt = dict(json.loads(paths[-1].read_text()))
        receipt.pop(SEAL, None)  # `verify` compares it
        return {key: receipt[key] for key in ("number", "finished_at")} | receipt
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{paths[-1]}: not a receipt of a removal ({type(error).__name__}: {error}); "
            "put back the file as it was, it says whether the removal is finished"
        ) from error


def receipt_paths(layout: DatasetLayout) -> list[AnyPath]:
    """The receipts of all removals, in order."""
    paths: list[AnyPath] = [*layout.receipt(STAGE, "000000").parent.glob("*.json")]
    return sorted(paths, key=lambda path: path.name)
