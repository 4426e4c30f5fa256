import json
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from annotations_schema.errors import ManifestError
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
from annotations_schema.storage import location


@dataclass(frozen=True)
class Config:
    folder: Path = Path("a/b")
    size: int = 3


@pytest.fixture
def layout(tmp_path) -> DatasetLayout:
    return DatasetLayout(tmp_path)


@pytest.fixture
def receipt(layout) -> Receipt:
    with atomic_write(layout.fetch("000001")) as temporary:
        temporary.write_bytes(b"rows")
    outputs = output_files(layout, [layout.fetch("000001")])
    receipt = Receipt(
        stage="fetch", shard="000001", config_sha256="c", outputs=outputs, rows=7, counts={"ok": 7}
    )
    write_receipt(layout, receipt)
    return receipt


def test_paths_stand_where_the_specification_says(layout, tmp_path):
    relative = [
        path.relative_to(tmp_path).as_posix()
        for path in (
            layout.config,
            layout.plan("000123"),
            layout.images("000123"),
            layout.fetch("000123"),
            layout.annotations("000123"),
            layout.receipt("annotate", "000123"),
        )
    ]
    assert relative == [
        "config.json",
        "plan/000123.parquet",
        "images/000123.tar",
        "fetch/000123.parquet",
        "annotations/000123.parquet",
        "receipts/annotate/000123.json",
    ]


def test_a_receipt_reads_back(layout, receipt):
    assert read_receipt(layout, "fetch", "000001") == receipt
    assert read_receipt(layout, "fetch", "000002") is None


def test_done_needs_receipt_configuration_and_outputs(layout, receipt):
    assert is_done(layout, "fetch", "000001", "c")
    assert not is_done(layout, "fetch", "000001", "other configuration")
    assert not is_done(layout, "annotate", "000001", "c")
    layout.fetch("000001").write_bytes(b"rows and more")
    assert not is_done(layout, "fetch", "000001", "c")
    layout.fetch("000001").unlink()
    assert not is_done(layout, "fetch", "000001", "c")


def test_a_shard_set_aside_is_not_done(layout):
    write_receipt(
        layout,
        Receipt(
            stage="fetch", shard="000001", config_sha256="c", outputs={}, rows=0, set_aside="x"
        ),
    )
    assert not is_done(layout, "fetch", "000001", "c")


def test_manifests_without_receipt_or_set_aside_are_not_listed(layout):
    receipt = Receipt(stage="annotate", shard="000001", config_sha256="c", outputs={}, rows=1)
    for shard in ("000000", "000001", "000002"):
        layout.annotations(shard).parent.mkdir(exist_ok=True)
        layout.annotations(shard).write_bytes(b"x")
    write_receipt(layout, receipt)
    write_receipt(layout, replace(receipt, shard="000002", set_aside="its worker died"))
    assert layout.manifests() == [layout.annotations("000001")]


def test_a_damaged_receipt_is_named(layout, receipt):
    path = layout.receipt("fetch", "000001")
    for text in ("{", "[]", json.dumps({"outputs": {}, "colour": 1})):
        path.write_text(text)
        with pytest.raises(ManifestError, match=r"000001\.json: not a receipt"):
            read_receipt(layout, "fetch", "000001")


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_and_fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_and_fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    # The real calls are made; only their order is noted down.
    events = []
    sync, rename = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("sync folder" if is_folder else "sync file")
        sync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert events == ["sync file", "rename", "sync folder"]
    assert (tmp_path / "file").read_text() == "new"


def test_hashes_are_of_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_file(path).startswith("ba7816bf8f01cfea")
    assert config_sha256(Config()) == config_sha256(Config())
    assert config_sha256(Config()) != config_sha256(Config(size=4))


def test_a_working_folder_lies_in_the_dataset_and_goes_with_its_block(layout):
    with layout.working_folder("fetch-000001") as folder:
        assert folder.parent == layout.root
        (folder / "spool").write_bytes(b"x")
    assert list(layout.root.iterdir()) == []
    with pytest.raises(ZeroDivisionError), layout.working_folder("fetch-000001"):
        raise ZeroDivisionError
    assert list(layout.root.iterdir()) == []


def test_a_working_folder_clears_what_a_killed_run_left_under_its_name_alone(layout):
    for name in (".fetch-000001-abc", ".fetch-000001.1-abc", ".fetch-0000011-abc"):
        (layout.root / name).mkdir()
    with layout.working_folder("fetch-000001"):
        pass
    left = sorted(path.name for path in layout.root.iterdir())
    assert left == [".fetch-000001.1-abc", ".fetch-0000011-abc"]


def test_a_working_folder_of_a_store_is_a_local_one():
    with DatasetLayout(location("s3://bucket/set")).working_folder("plan") as folder:
        (folder / "rows").write_bytes(b"x")
    assert not folder.exists()


@pytest.mark.parametrize("root", ["/data/set", "s3://bucket/set", "s3://bucket"])
def test_receipts_name_files_relative_to_the_root_wherever_it_is(root):
    layout = DatasetLayout(location(root))
    assert layout.relative(layout.images("000001")) == "images/000001.tar"
