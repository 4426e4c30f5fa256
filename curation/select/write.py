"""The file of a subset: chosen rows copied from their manifests, one of which is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA, SUBSET_FIELDS
from annotations_schema.errors import ManifestError, UsageError
from annotations_schema.layout import atomic_write
from annotations_schema.manifest import MAX_ROW_GROUP_BYTES, MAX_ROW_GROUP_ROWS, read_manifest
from annotations_schema.provenance import FOOTER_KEY, Provenance
from annotations_schema.storage import AnyPath
from annotations_schema.validation import validate
from curation.select.query import Keys, Source


def write_subset(
    path: AnyPath, sources: Sequence[Source], chosen: Iterable[Keys], provenance: Provenance
) -> dict[str, int]:
    """Publish the chosen rows atomically, in the order of the sources and their lists.

    Args:
        path: the Parquet file.
        sources: what the rows are chosen from.
        chosen: the rows, ascending.
        provenance: the footer.

    Returns:
        `text_regions` and `faces` of the rows written.

    Raises:
        UsageError: two sources have a user column of one name and different types.
        ManifestError: a manifest does not hold a chosen row, or a row breaks the specification.
    """
    schema = _schema(sources, provenance)
    cursor = _Cursor(chosen)
    counts = {"text_regions": 0, "faces": 0}
    with _writer(path, schema) as write:
        for number, source in enumerate(sources):
            for file in source.files():
                table = _chosen_rows(file, cursor, number, source.dataset, schema)
                if table is not None:
                    counts["text_regions"] += pc.sum(table.column("num_text")).as_py() or 0
                    counts["faces"] += pc.sum(table.column("num_faces")).as_py() or 0
                    write(table)
    return counts


class _Cursor:
    """Ascending keys that are taken from the front."""

    def __init__(self, batches: Iterable[Keys]) -> None:
        self._batches = iter(batches)
        self._held = Keys(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def up_to(self, source: int, last_row: int) -> Keys:
        """All keys that are left up to a row of a source."""
        parts = []
        while True:
            held = self._held
            is_before = (held.source < source) | (
                (held.source == source) & (held.source_row <= last_row)
            )
            end = int(np.count_nonzero(is_before))
            parts.append(held.part(slice(end)))
            self._held = held.part(slice(end, None))
            if end < len(held.source):
                break
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held = batch
        return Keys(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _chosen_rows(
    file: AnyPath, cursor: _Cursor, number: int, dataset: str, schema: pa.Schema
) -> pa.Table | None:
    """The chosen rows of a manifest under the subset's schema; None where none is."""
    held = np.asarray(read_manifest(file, columns=["source_row"]).column("source_row"))
    keys = cursor.up_to(number, int(held.max(initial=-1)))
    if not len(keys.source_row):
        return None
    positions = np.flatnonzero(np.isin(held, keys.source_row))
    if not np.array_equal(held[positions], keys.source_row):
        raise ManifestError(f"{file}: changed while its rows were selected; select again")
    rows = read_manifest(file).take(pa.array(positions))
    added = {
        "dataset": pa.array([dataset] * len(rows)).dictionary_encode(),
        "sampling_weight": pa.array(keys.weight),
    }
    columns = [
        added[field.name]
        if field.name in added
        else rows.column(field.name)
        if field.name in rows.column_names
        else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    table = pa.Table.from_arrays(columns, schema=schema)
    if problems := validate(table):
        raise ManifestError(f"{file}: {len(problems)} problems, first: {problems[0]}")
    return table


def _schema(sources: Sequence[Source], provenance: Provenance) -> pa.Schema:
    """Core columns, the two of a subset, then every source's user columns."""
    users: dict[str, pa.Field] = {}
    for source in sources:
        for field in pq.read_schema(str(source.files()[0])):
            if not field.name.startswith(INPUT_PREFIX):
                continue
            known = users.setdefault(field.name, field.with_nullable(True))
            if not known.type.equals(field.type):
                raise UsageError(
                    f"column {field.name} is {field.type} in {source.root} and {known.type} in "
                    "another source; make a subset of each, the trainer takes several"
                )
    metadata = {FOOTER_KEY: provenance.to_json().encode()}
    return pa.schema([*MANIFEST_SCHEMA, *SUBSET_FIELDS, *users.values()], metadata=metadata)


@contextmanager
def _writer(path: AnyPath, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends tables to a manifest, in row groups of the usual size."""
    waiting: list[pa.Table] = []

    def flush() -> None:
        table = pa.concat_tables(waiting)
        waiting.clear()
        of_64_mb = MAX_ROW_GROUP_BYTES * len(table) // max(1, table.nbytes)
        writer.write_table(table, row_group_size=int(np.clip(of_64_mb, 1, MAX_ROW_GROUP_ROWS)))

    def write(table: pa.Table) -> None:
        waiting.append(table)
        is_many = sum(map(len, waiting)) >= MAX_ROW_GROUP_ROWS
        if is_many or sum(one.nbytes for one in waiting) >= MAX_ROW_GROUP_BYTES:
            flush()

    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(str(temporary), schema, compression="zstd") as writer,
    ):
        yield write
        if waiting:
            flush()
