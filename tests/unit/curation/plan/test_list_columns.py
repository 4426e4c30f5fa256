"""URL lists of every Arrow type: roles are unified, all else reaches the manifest as it was."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.codes import RegionState
from annotations_schema.columns import INPUT_PREFIX
from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest, table_from_rows, write_manifest
from annotations_schema.provenance import Provenance
from curation.plan.plan import PlanConfig, plan

URLS = ["http://h/a", None, "http://h/b", "http://h/a"]
CODES = [None, "url_missing", None, "url_duplicate"]
SHA256 = "ab" * 32


class _Tagged(pa.ExtensionType):  # type: ignore[misc]
    """A text type of somebody's own."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "test.tagged")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> _Tagged:
        return cls()


def planned(folder: Path, table: pa.Table, **config: Any) -> pa.Table:
    """The plan of a Parquet list, in shards that cut through it."""
    source, layout = folder / "list.parquet", DatasetLayout(folder / "dataset")
    pq.write_table(table, str(source), store_schema=True)
    shards = plan(source, layout, PlanConfig(shard_size=3, **config))
    return pa.concat_tables([pq.read_table(str(layout.plan(shard))) for shard in shards])


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(10),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.large_string()),
]


def column(kind: pa.DataType, values: list[str | None]) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_string_view(kind):
        return pa.array(values, kind)
    return pa.array([None if v is None else v.encode() for v in values], kind)


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_a_url_column_may_be_any_text(tmp_path: Path, kind: pa.DataType) -> None:
    table = planned(tmp_path, pa.table({"url": column(kind, URLS)}))
    assert table.column("url").to_pylist() == URLS
    assert table.column("failure_code").to_pylist() == CODES


@pytest.mark.parametrize("kind", TEXT_TYPES[:6] + TEXT_TYPES[7:], ids=str)
def test_captions_hashes_and_licences_may_be_any_text(tmp_path: Path, kind: pa.DataType) -> None:
    listed = pa.table(
        {
            "url": URLS,
            "alt": column(kind, ["a cat", None, "", "é"]),
            "hash": column(kind, [SHA256, None, "", "no"]),
            "by": column(kind, ["MIT", "CC0", None, "x"]),
        }
    )
    roles = {"caption_column": "alt", "sha256_column": "hash", "license_column": "by"}
    table = planned(tmp_path, listed, **roles)
    assert table.column("caption").to_pylist() == ["a cat", None, "", "é"]
    assert table.column("sha256_expected").to_pylist() == [SHA256, None, None, None]
    assert table.column("license").to_pylist() == ["MIT", "CC0", None, "x"]
    assert not [name for name in table.column_names if name.startswith(INPUT_PREFIX)]


def test_an_extension_type_is_read_as_its_storage(tmp_path: Path) -> None:
    tagged = pa.ExtensionArray.from_storage(_Tagged(), pa.array(URLS))
    pa.register_extension_type(_Tagged())
    try:
        table = planned(tmp_path, pa.table({"url": tagged, "again": tagged}))
        assert table.schema.field("input_again").type == _Tagged()
    finally:
        pa.unregister_extension_type("test.tagged")
    assert table.column("failure_code").to_pylist() == CODES


def test_a_column_of_nothing_but_null_is_rows_without_url(tmp_path: Path) -> None:
    table = planned(tmp_path, pa.table({"url": pa.nulls(2)}))
    assert table.column("failure_code").to_pylist() == ["url_missing"] * 2


def test_numbers_and_dates_may_be_captions(tmp_path: Path) -> None:
    listed = pa.table({"url": URLS[:2], "n": [1.5, None]})
    assert planned(tmp_path, listed, caption_column="n").column("caption").to_pylist() == [
        "1.5",
        None,
    ]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pa.list_(pa.string()), "one URL a row"),
        (pa.int64(), "is int64, not text"),
        (pa.map_(pa.string(), pa.string()), "not text"),
        (pa.struct([("link", pa.string()), ("w", pa.int32())]), "url.link, url.w"),
    ],
    ids=str,
)
def test_a_url_column_that_is_no_text_is_one_line_with_its_type(
    tmp_path: Path, kind: pa.DataType, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        planned(tmp_path, pa.table({"url": pa.nulls(2, kind)}))
    assert f"is {str(kind).partition('<')[0]}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("role", ["caption_column", "sha256_column", "license_column"])
def test_another_role_is_not_for_nested_columns(tmp_path: Path, role: str) -> None:
    listed = pa.table({"url": URLS, "tags": [["a"]] * 4})
    with pytest.raises(UsageError, match=r"'tags' is list<.*choose another column"):
        planned(tmp_path, listed, **{role: "tags"})


NESTED = pa.struct(
    [
        ("url", pa.string()),
        ("size", pa.struct([("w", pa.int32()), ("sha", pa.string())])),
        ("alt", pa.string()),
    ]
)


def nested_list() -> pa.Table:
    rows = [
        {"url": "http://h/a", "size": {"w": 1, "sha": SHA256}, "alt": "x"},
        None,
        {"url": "http://me:secret@h/b", "size": None, "alt": None},
        {"url": "http://h/a", "size": {"w": 2, "sha": None}, "alt": "y"},
    ]
    return pa.table({"image": pa.array(rows, NESTED), "n": [1, 2, 3, 4]})


def test_roles_may_be_fields_of_structs_and_leave_them(tmp_path: Path) -> None:
    table = planned(
        tmp_path,
        nested_list(),
        url_column="image.url",
        caption_column="image.alt",
        sha256_column="image.size.sha",
    )
    assert table.column("failure_code").to_pylist() == [
        *(None, "url_missing", "url_invalid", "url_duplicate")
    ]
    assert table.column("caption").to_pylist() == ["x", None, None, "y"]
    assert table.column("sha256_expected").to_pylist() == [SHA256, None, None, None]
    assert table.column("input_image").to_pylist() == [
        {"size": {"w": 1}},
        None,
        {"size": None},
        {"size": {"w": 2}},
    ]
    assert "secret" not in str(table.to_pylist())


def test_a_struct_that_holds_nothing_but_roles_goes(tmp_path: Path) -> None:
    rows = [{"url": "http://h/a"}, None]
    listed = pa.table({"image": pa.array(rows, pa.struct([("url", pa.string())]))})
    table = planned(tmp_path, listed, url_column="image.url")
    assert table.column("failure_code").to_pylist() == [None, "url_missing"]
    assert "input_image" not in table.column_names


def test_a_column_whose_name_has_a_dot_comes_before_a_field(tmp_path: Path) -> None:
    listed = nested_list().append_column("image.url", pa.array([f"http://o/{i}" for i in range(4)]))
    table = planned(tmp_path, listed, url_column="image.url")
    assert table.column("url").to_pylist() == [f"http://o/{i}" for i in range(4)]
    assert table.column("input_image").type == NESTED


@pytest.mark.parametrize("name", ["image.link", "image.url.more", "imag.url", "n.url", "."])
def test_a_field_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="it has image, n"):
        planned(tmp_path, nested_list(), url_column=name)


def test_a_column_twice_is_one_line(tmp_path: Path) -> None:
    listed = pa.Table.from_arrays([pa.array(URLS)] * 3, names=["url", "a", "a"])
    with pytest.raises(UsageError, match="has column 'a' twice"):
        planned(tmp_path, listed)


_DAY = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
USER_COLUMNS: dict[str, pa.Array] = {
    "bool": pa.array([True, None, False, True]),
    "half": pa.array([1, None, 2, 3], pa.float16()),
    "uint64": pa.array([2**64 - 1, None, 0, 1], pa.uint64()),
    "decimal": pa.array([decimal.Decimal("1.50"), None, None, None], pa.decimal128(20, 2)),
    "large_decimal": pa.array([decimal.Decimal("-7.5")] * 4, pa.decimal256(50, 1)),
    "date": pa.array([_DAY.date(), None, None, None], pa.date32()),
    "time": pa.array([_DAY.time(), None, None, None], pa.time64("us")),
    "timestamp": pa.array([_DAY, None, _DAY, None], pa.timestamp("ns", "Europe/Berlin")),
    "duration": pa.array([1, None, 3, 4], pa.duration("us")),
    "dictionary": pa.array(["x", None, "y", "x"]).dictionary_encode(),
    "large_string": pa.array(["x", None, "y", ""], pa.large_string()),
    "string_view": pa.array(["x", None, "a text of more than twelve bytes", ""], pa.string_view()),
    "binary": pa.array([b"\xff\x00", None, b"", b"x"]),
    "fixed": pa.array([b"ab", None, b"cd", b"ef"], pa.binary(2)),
    "list": pa.array([[1, None], None, [], [3]]),
    "large_list": pa.array([["a"], None, [], [None]], pa.large_list(pa.string())),
    "fixed_list": pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int8(), 2)),
    "struct": pa.array([{"a": {"b": [1]}}, None, {"a": None}, {"a": {"b": None}}]),
    "map": pa.array([[("k", 1)], None, [], [("l", None)]], pa.map_(pa.string(), pa.int32())),
    "null": pa.nulls(4),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([bytes(range(16))] * 4, pa.binary(16))
    ),
    "a name, \"with' odd\nsigns; é.b/c": pa.array([1, 2, 3, 4]),
    "": pa.array([1, 2, 3, 4]),
    "input_x": pa.array([1, 2, 3, 4]),
    "image_id": pa.array(["mine"] * 4),
}


@pytest.mark.parametrize("name", USER_COLUMNS)
def test_a_user_column_of_any_type_reaches_the_manifest(tmp_path: Path, name: str) -> None:
    listed = pa.table({"url": URLS, name: USER_COLUMNS[name]})
    table = planned(tmp_path, listed)
    kept = f"{INPUT_PREFIX}{name}"
    assert table.column(kept).to_pylist() == USER_COLUMNS[name].to_pylist()
    # As fetch and annotate do it: core columns from rows, user columns as Arrow columns.
    core = [one for one in table.column_names if not one.startswith(INPUT_PREFIX)]
    states = {"text_state": RegionState.NOT_RUN, "face_state": RegionState.NOT_RUN}
    rows = [
        row
        | {"attempts": 0, "elapsed_ms": 0, **states}
        | ({} if row["failure_code"] else {"status": "failed", "stage": "fetch"})
        | {"failure_code": row["failure_code"] or "http_404"}
        for row in table.select(core).to_pylist()
    ]
    manifest = table_from_rows(rows).append_column(table.schema.field(kept), table.column(kept))
    path = tmp_path / "manifest.parquet"
    write_manifest(path, manifest, Provenance(config_sha256="0" * 64, creator="a test"))
    read = read_manifest(path)
    assert read.column(kept).to_pylist() == USER_COLUMNS[name].to_pylist()
    assert read.schema.field(kept).type == table.schema.field(kept).type
    listed_as = pq.read_schema(tmp_path / "list.parquet").field(name).type
    assert read.schema.field(kept).type == listed_as


def test_a_user_text_that_is_not_utf8_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "list.parquet"
    broken = pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\x00\x00\x00\x00\x01\x00\x00\x00"), pa.py_buffer(b"\xff")
    )
    pq.write_table(pa.table({"url": URLS[:1], "alt": broken}), str(source))
    with pytest.raises(UsageError, match="cannot be read"):
        plan(source, DatasetLayout(tmp_path / "dataset"), PlanConfig())
    assert not (tmp_path / "dataset").exists()
