"""Locations: what text names which place, and what a path in a store can do before it is asked."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath

import pytest

from annotations_schema.errors import UsageError
from annotations_schema.storage import RemotePath, location


@pytest.mark.parametrize("text", ["data/set", "/data/set", "a:b", "s3:/bucket/x", "1s3://x/y"])
def test_text_without_a_scheme_is_a_local_path(text: str) -> None:
    assert location(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("s3://bucket", ("s3", "bucket", "")),
        ("S3://bucket/", ("s3", "bucket", "")),
        ("s3://bucket/a/b.parquet", ("s3", "bucket", "a/b.parquet")),
        ("gs://bucket/a/", ("gs", "bucket", "a")),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("hdfs://name:8020/user/a", ("hdfs", "name:8020", "user/a")),
    ],
)
def test_a_uri_is_a_remote_path(text: str, parts: tuple[str, str, str] | None) -> None:
    found = location(text)
    assert isinstance(found, RemotePath)
    if parts is not None:
        assert (found.scheme, found.authority, found.key) == parts
    assert location(str(found)) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://", "no bucket is named"),
        ("s3:///key", "no bucket is named"),
        ("file:///tmp/x", "without file://"),
        ("s3://bucket/a b", "' ' cannot stand"),
        ("s3://bucket/a%20b", "'%' cannot stand"),
        ("s3://bucket/a?region=x", r"'\?' cannot stand"),
        ("s3://bucket/a//b", "'//' cannot stand"),
        ("s3://bucket/größe", "'ö' cannot stand"),
    ],
)
def test_a_uri_that_readers_would_take_for_another_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        location(text)
    assert "\n" not in str(raised.value)


def test_names_are_taken_apart_and_put_together_as_in_pathlib() -> None:
    path = location("s3://bucket/set") / "images" / "000001.tar"
    assert isinstance(path, RemotePath)
    assert str(path) == path.as_posix() == "s3://bucket/set/images/000001.tar"
    assert (path.name, path.stem, path.suffix) == ("000001.tar", "000001", ".tar")
    assert str(path.parent) == "s3://bucket/set/images"
    assert path.with_name("000002.tar") == path.parent / "000002.tar"
    assert path.absolute() == path
    assert RemotePath("s3", "bucket").parent == RemotePath("s3", "bucket")


def test_a_relative_path_needs_a_common_beginning() -> None:
    root = RemotePath("s3", "bucket", "set")
    assert (root / "a/b").relative_to(root) == PurePosixPath("a/b")
    for other in (RemotePath("s3", "other", "set"), RemotePath("s3", "bucket", "se")):
        with pytest.raises(ValueError, match="set/a"):
            (root / "a").relative_to(other)


def test_a_path_travels_and_serves_as_a_key_and_is_no_local_path() -> None:
    path = RemotePath("s3", "bucket", "a")
    assert pickle.loads(pickle.dumps(path)) == path
    assert len({path, RemotePath("s3", "bucket", "a"), RemotePath("s3", "bucket", "b")}) == 2
    with pytest.raises(TypeError):
        Path(path)  # type: ignore[arg-type]


def test_a_scheme_that_pyarrow_does_not_know_is_one_line() -> None:
    with pytest.raises(UsageError, match="ftp://host/x: Unrecognized filesystem") as raised:
        location("ftp://host/x").exists()
    assert "\n" not in str(raised.value)
