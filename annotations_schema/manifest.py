"""Write, read and compare manifests: one Parquet file per shard, one row per planned row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA
from annotations_schema.errors import ManifestError
from annotations_schema.layout import OutputFile, atomic_write, output_file
from annotations_schema.provenance import FOOTER_KEY, Provenance, provenance_of
from annotations_schema.region_columns import face_column, text_column
from annotations_schema.regions import FaceRegions, TextRegions
from annotations_schema.storage import AnyPath, RemotePath
from annotations_schema.validation import validate

VOLATILE_COLUMNS = ("fetched_at", "elapsed_ms")
"""Columns that differ between two runs over the same list; left out of the canonical form."""

MAX_ROW_GROUP_BYTES = 64 << 20
MAX_ROW_GROUP_ROWS = 10_000


def table_from_rows(
    rows: Sequence[Mapping[str, Any]], input_fields: Sequence[pa.Field] = ()
) -> pa.Table:
    """A manifest table from rows as mappings; absent nullable columns become null.

    `text_regions` and `face_regions` hold TextRegions / FaceRegions or None; the summary columns
    (`num_text` and its like) are computed from them and need not be given.

    Args:
        rows: mappings by column name.
        input_fields: user columns, whose names begin with `input_`.

    Raises:
        ManifestError: a key is no column, or a value does not fit its column.
    """
    schema = _with_input_fields(input_fields)
    full = [{**row, **summary(row.get("text_regions"), row.get("face_regions"))} for row in rows]
    unknown = {key for row in full for key in row} - set(schema.names)
    if unknown:
        raise ManifestError(f"not columns of a manifest: {sorted(unknown)}")
    return pa.Table.from_arrays([_column(f, full) for f in schema], schema=schema)


def summary(text: TextRegions | None, faces: FaceRegions | None) -> dict[str, float | int | None]:
    """The summary columns of one row, for predicates that skip the nested lists."""
    of_text = dict.fromkeys(
        ("num_text", "text_area_fraction", "max_text_score", "max_text_height_px")
    )
    of_faces = dict.fromkeys(
        ("num_faces", "face_area_fraction", "max_face_score", "max_face_side_px")
    )
    values: dict[str, float | int | None] = {**of_text, **of_faces}
    if text is not None:
        values["num_text"] = len(text)
        values["text_area_fraction"] = min(1.0, float(text.area_fraction.sum()))
        values["max_text_score"] = float(text.score.max(initial=0.0))
        values["max_text_height_px"] = float(text_heights_px(text).max(initial=0.0))
    if faces is not None:
        sides = faces.box_xyxy[:, 2:] - faces.box_xyxy[:, :2]
        values["num_faces"] = len(faces)
        values["face_area_fraction"] = min(1.0, float(faces.area_fraction.sum()))
        values["max_face_score"] = float(faces.score.max(initial=0.0))
        values["max_face_side_px"] = float(sides.max(initial=0.0))
    return values


def text_heights_px(text: TextRegions) -> NDArray[np.float32]:
    """Height of each text region (N,) float32, pixels: mean length of the quad's left and right."""
    left = np.linalg.norm(text.quad[:, 3] - text.quad[:, 0], axis=1)
    right = np.linalg.norm(text.quad[:, 2] - text.quad[:, 1], axis=1)
    heights: NDArray[np.float32] = ((left + right) / 2).astype(np.float32)
    return heights


def write_manifest(path: AnyPath, table: pa.Table, provenance: Provenance) -> OutputFile:
    """Validate a table and publish it atomically with its provenance in the footer.

    Returns:
        What was published, for a receipt.

    Raises:
        ManifestError: the table breaks the specification; the first problems are named.
    """
    problems = validate(table)
    if problems:
        first = "; ".join(map(str, problems[:3]))
        raise ManifestError(f"{path}: {len(problems)} problems, first: {first}")
    metadata = {**(table.schema.metadata or {}), FOOTER_KEY: provenance.to_json().encode()}
    described = table.replace_schema_metadata(metadata)
    with atomic_write(path) as temporary:
        with pq.ParquetWriter(
            str(temporary), described.schema, compression="zstd", write_page_index=True
        ) as writer:
            for group in row_groups(described):
                writer.write_table(group, row_group_size=MAX_ROW_GROUP_ROWS)
        return output_file(temporary)


def row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """The rows in parts within both limits of a row group; a row that is larger stands alone."""
    is_small = len(table) <= MAX_ROW_GROUP_ROWS and table.nbytes <= MAX_ROW_GROUP_BYTES
    if is_small or len(table) < 2:
        yield table
        return
    half = len(table) // 2
    yield from row_groups(table.slice(0, half))
    yield from row_groups(table.slice(half))


def read_manifest(path: AnyPath, columns: Sequence[str] | None = None) -> pa.Table:
    """A manifest's table, or some columns of it.

    Raises:
        ManifestError: not a Parquet file, or not a manifest.
        VersionError: of a newer major version.
    """
    with _open(path) as file:
        provenance_of(file.schema_arrow, path)
        return file.read(columns=None if columns is None else list(columns))


def read_provenance(path: AnyPath) -> Provenance:
    """The provenance in a manifest's footer; raises as `read_manifest`."""
    with _open(path) as file:
        return provenance_of(file.schema_arrow, path)


def canonical_json_lines(table: pa.Table) -> str:
    """The table as text that is equal for equal content: rows by source_row, exact floats.

    Columns of VOLATILE_COLUMNS are left out. Used to compare runs.
    """
    kept = [name for name in table.column_names if name not in VOLATILE_COLUMNS]
    rows = sorted(table.select(kept).to_pylist(), key=lambda row: row["source_row"])
    return "".join(json.dumps(row, sort_keys=True, default=str) + "\n" for row in rows)


def _open(path: AnyPath) -> pq.ParquetFile:
    try:
        # In a store every column would be a request of its own; neighbours are read in one.
        return pq.ParquetFile(str(path), pre_buffer=isinstance(path, RemotePath))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file") from error
    except pa.ArrowException as error:
        raise ManifestError(f"{path}: not a Parquet file ({error})") from error


def _with_input_fields(input_fields: Sequence[pa.Field]) -> pa.Schema:
    for field in input_fields:
        if not field.name.startswith(INPUT_PREFIX):
            raise ManifestError(f"user column {field.name!r} must begin with {INPUT_PREFIX!r}")
    return pa.schema([*MANIFEST_SCHEMA, *input_fields])


def _column(field: pa.Field, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if field.name == "text_regions":
        return text_column(values)
    if field.name == "face_regions":
        return face_column(values)
    try:
        if pa.types.is_dictionary(field.type):
            plain = pa.array([None if v is None else str(v) for v in values], pa.string())
            return plain.dictionary_encode().cast(field.type)
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"column {field.name}: {error}") from error
