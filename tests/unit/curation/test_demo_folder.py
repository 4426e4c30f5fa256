from __future__ import annotations

from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from curation.demo.folder import DemoFolder


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "deep" / "demo")

    folder.begin()

    assert folder.root.is_dir()


def test_a_second_demo_begins_without_the_results_of_the_first(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "demo")
    folder.begin()
    (folder.dataset / "plan").mkdir(parents=True)
    (folder.dataset / "plan" / "000000.parquet").write_bytes(b"old")
    folder.report.write_text("old")
    folder.table.write_text("old")

    folder.begin()

    assert not folder.dataset.exists()
    assert not folder.report.exists()
    assert not folder.table.exists()


def test_what_a_person_put_beside_the_results_stays(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "demo")
    folder.begin()
    note = folder.root / "my-notes.txt"
    note.write_text("keep me")

    folder.begin()

    assert note.read_text() == "keep me"


def test_a_linked_dataset_loses_the_link_and_keeps_its_files(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a.txt").write_text("keep me")
    folder = DemoFolder(tmp_path / "demo")
    folder.begin()
    folder.dataset.symlink_to(precious, target_is_directory=True)

    folder.begin()

    assert not folder.dataset.exists()
    assert (precious / "a.txt").read_text() == "keep me"


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "dataset" / "a.txt"
    theirs.parent.mkdir()
    theirs.write_text("keep me")

    with pytest.raises(UsageError, match="holds files and was not made by a demo; choose another"):
        DemoFolder(tmp_path).begin()

    assert theirs.read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    DemoFolder(tmp_path).begin()

    assert [path.name for path in tmp_path.iterdir()] == [".insight-demo"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demo"
    path.write_text("a file")

    with pytest.raises(UsageError, match="must be a folder"):
        DemoFolder(path).begin()
