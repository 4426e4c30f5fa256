import json
import os
import subprocess
import sys

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.errors import ManifestError, VersionError
from annotations_schema.manifest import (
    MAX_ROW_GROUP_BYTES,
    canonical_json_lines,
    read_manifest,
    read_provenance,
    table_from_rows,
    write_manifest,
)
from annotations_schema.provenance import FOOTER_KEY
from annotations_schema.region_columns import (
    face_regions_at,
    flatten_faces,
    flatten_text,
    text_regions_at,
)


@pytest.fixture
def path(tmp_path, table, provenance):
    path = tmp_path / "annotations" / "000000.parquet"
    write_manifest(path, table, provenance)
    return path


def test_a_manifest_reads_back_with_the_same_schema_values_and_provenance(path, table, provenance):
    read = read_manifest(path)
    assert read.schema.equals(table.schema)
    assert read.equals(table)
    assert read_provenance(path) == provenance


def test_regions_read_back_as_they_were(path, text, faces):
    read = read_manifest(path)
    for name in ("box_xyxy", "quad", "score", "area_fraction"):
        np.testing.assert_array_equal(getattr(text_regions_at(read, 0), name), getattr(text, name))
    stored = face_regions_at(read, 0)
    for name in ("box_xyxy", "score", "landmarks_5", "crop_from_image", "residual_px", "is_valid"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(faces, name))


def test_empty_is_not_unknown(path):
    read = read_manifest(path)
    assert len(text_regions_at(read, 1)) == 0
    assert face_regions_at(read, 1) is None
    assert text_regions_at(read, 2) is None
    assert read.column("num_text").to_pylist() == [2, 0, None, None]


def test_flat_regions_carry_row_offsets(path, text):
    read = read_manifest(path)
    assert flatten_text(read).offsets.tolist() == [0, 2, 2, 2, 2]
    assert flatten_faces(read).offsets.tolist() == [0, 2, 2, 2, 2]
    assert flatten_text(read.slice(1)).offsets.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(flatten_text(read).regions.quad, text.quad)


def test_the_file_never_holds_nan(path):
    for face in read_manifest(path).column("face_regions").to_pylist()[0]:
        for value in face.values():
            flat = value if isinstance(value, list) else [value]
            assert all(v is None or np.isfinite(v) for v in flat)
    assert read_manifest(path).column("face_regions").to_pylist()[0][1]["crop_from_image"] is None


def test_summary_columns_follow_the_regions(path, text, faces):
    row = read_manifest(path).slice(0, 1).to_pylist()[0]
    assert row["num_text"] == 2
    assert row["text_area_fraction"] == pytest.approx(text.area_fraction.sum())
    assert row["max_text_height_px"] == pytest.approx(20.0)
    assert row["max_face_side_px"] == pytest.approx(70.0)
    assert row["max_face_score"] == pytest.approx(0.99)


def test_plain_pyarrow_opens_a_manifest(path):
    table = pq.read_table(path, columns=["image_id", "face_regions"])
    assert table.num_rows == 4
    assert json.loads(pq.read_schema(path).metadata[b"regions"])["version"] == "1.0"


def test_hugging_face_datasets_opens_a_manifest(path, tmp_path):
    dataset = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert dataset[0]["face_regions"][0]["box_xyxy"] == [20.0, 20.0, 90.0, 90.0]
    assert dataset[2]["text_regions"] is None


def test_duckdb_queries_a_manifest(path):
    found = duckdb.sql(
        f"select source_row, len(text_regions), text_regions[1].score from '{path}' "
        "where num_text > 0 and status = 'ok'"
    ).fetchall()
    assert found == [(0, 2, pytest.approx(0.9))]


def test_a_broken_table_is_not_written(tmp_path, rows, provenance):
    rows[0]["status"] = "perhaps"
    path = tmp_path / "000000.parquet"
    with pytest.raises(ManifestError, match=r"row 0, column status: 'perhaps' \(one of ok"):
        write_manifest(
            path, table_from_rows(rows, [pa.field("input_topic", pa.string())]), provenance
        )
    assert list(tmp_path.iterdir()) == []


def test_a_newer_major_version_is_refused_and_a_newer_minor_is_read(path, table):
    footer = json.loads(pq.read_schema(path).metadata[FOOTER_KEY])
    for version, refused in (("2.0", True), ("1.7", False)):
        changed = json.dumps({**footer, "version": version, "later_key": [1]}).encode()
        pq.write_table(table.replace_schema_metadata({FOOTER_KEY: changed}), path)
        if refused:
            with pytest.raises(VersionError, match=r"2\.0.*install a newer"):
                read_manifest(path)
        else:
            assert read_manifest(path).num_rows == 4


def test_other_files_are_no_manifest(tmp_path):
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"a": [1]}), plain)
    (tmp_path / "text.parquet").write_text("not parquet")
    for path, words in (
        (plain, "footer key"),
        (tmp_path / "text.parquet", "not a Parquet file"),
        (tmp_path / "absent.parquet", "no such file"),
    ):
        with pytest.raises(ManifestError, match=words):
            read_manifest(path)


def test_canonical_lines_ignore_row_order_and_clock(table, rows):
    later = [{**row, "elapsed_ms": 999} for row in reversed(rows)]
    other = table_from_rows(later, [pa.field("input_topic", pa.string())])
    assert canonical_json_lines(other) == canonical_json_lines(table)
    rows[0]["caption"] = "changed"
    changed = table_from_rows(rows, [pa.field("input_topic", pa.string())])
    assert canonical_json_lines(changed) != canonical_json_lines(table)


def test_unknown_columns_are_refused(rows):
    with pytest.raises(ManifestError, match="colour"):
        table_from_rows([{**rows[2], "colour": "red"}])
    with pytest.raises(ManifestError, match="input_"):
        table_from_rows([], [pa.field("topic", pa.string())])
    with pytest.raises(ManifestError, match="column attempts"):
        table_from_rows([{**rows[2], "attempts": 1000}])


def test_row_groups_stay_under_64_mb(tmp_path, rows, provenance):
    wide = [
        {
            **rows[2],
            "image_id": f"{i:032x}",
            "source_row": i,
            "input_topic": os.urandom(1 << 20).hex(),
        }
        for i in range(80)
    ]
    path = tmp_path / "wide.parquet"
    write_manifest(path, table_from_rows(wide, [pa.field("input_topic", pa.string())]), provenance)
    metadata = pq.ParquetFile(path).metadata
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    assert len(sizes) > 1
    assert max(sizes) <= MAX_ROW_GROUP_BYTES


def test_rows_that_are_large_at_one_end_alone_are_cut_by_size_too(tmp_path, rows, provenance):
    uneven = [
        {
            **rows[2],
            "image_id": f"{i:032x}",
            "source_row": i,
            "input_topic": os.urandom(1 << 20).hex() if i >= 500 else "",
        }
        for i in range(540)
    ]
    path = tmp_path / "uneven.parquet"
    table = table_from_rows(uneven, [pa.field("input_topic", pa.string())])
    write_manifest(path, table, provenance)
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert max(group.total_byte_size for group in groups) <= MAX_ROW_GROUP_BYTES
    assert all(group.column(0).has_offset_index for group in groups)
    assert read_manifest(path).equals(table)


def test_the_schema_imports_numpy_and_pyarrow_alone():
    code = "import sys, annotations_schema; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "pyarrow" in loaded  # the check can see a package that is loaded
    assert not {"PIL", "torch", "ray", "cv2", "datasets", "pandas"} & set(loaded)
