"""Images are removed from a dataset that was really fetched, with passes and two annotation sets.

The removal is stopped before and after every file that it publishes, and finished each time.
"""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotations_schema.codes import Status
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import canonical_json_lines, read_manifest
from curation.cli import main
from curation.passes.fetched import fetched_counts
from curation.status import status
from curation.tombstone.tombstones import tombstoned_ids, unfinished
from curation.verify.verify import verify
from training.data.manifest import ManifestDataset

SETTINGS = ("--allow-private-network", "--text-detector", "none", "--shard-size", "3")
COLUMNS = ("--caption-col", "caption", "--retries", "0")
PICTURES = ("one", "two", "three", "late", "copy", "last")
SECRET = "Jane of the portrait"


class Killed(BaseException):
    """The process ends here."""


class PictureServer(ThreadingHTTPServer):
    """Serves `files` by path; what is not in it, or no longer, is a 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: PictureServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        data = self.server.files.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@dataclass(frozen=True)
class Gallery:
    """Served pictures, the list of them and a dataset made of it."""

    server: PictureServer
    urls: Path
    layout: DatasetLayout
    bytes_of: dict[str, bytes]

    def url(self, name: str) -> str:
        return self.server.url(f"/{name}.jpg")

    def id_of(self, name: str) -> str:
        return str(row_of(self.layout, self.url(name))["image_id"])


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Iterator[Gallery]:
    """Two shards and a further pass: `late` is served only when it is asked for again."""
    folder = tmp_path_factory.mktemp("gallery")
    bytes_of = {
        name: jpeg(astronaut[:300, number * 20 : number * 20 + 220])
        for number, name in enumerate(PICTURES)
    }
    bytes_of["copy"] = bytes_of["one"]
    with PictureServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        server.files |= {f"/{name}.jpg": data for name, data in bytes_of.items()}
        late = server.files.pop("/late.jpg")
        names = [*PICTURES, "one"]
        table = {
            "url": [server.url(f"/{name}.jpg") for name in names],
            "caption": [SECRET if name in ("one", "late") else "a portrait" for name in names],
            "note": [SECRET if name == "one" else "nothing" for name in names],
        }
        urls = folder / "list.parquet"
        pq.write_table(pa.table(table), str(urls))
        root = folder / "dataset"
        assert main(["run", str(urls), "--out", str(root), *SETTINGS, *COLUMNS]) == 0
        server.files["/late.jpg"] = late
        assert main(["retry", str(root), "--codes", "http_404"]) == 0
        second = ["annotate", str(root), "--annotation-set", "strict", "--face-score-min", "0.97"]
        assert main(second) == 0
        yield Gallery(server, urls, DatasetLayout(root), bytes_of)
        server.shutdown()


@pytest.fixture
def copied(gallery: Gallery, tmp_path: Path) -> DatasetLayout:
    root = tmp_path / "dataset"
    shutil.copytree(gallery.layout.root, root)
    return DatasetLayout(root)


@pytest.fixture
def ids(gallery: Gallery, tmp_path: Path) -> Path:
    """One by its id, one by its URL."""
    path = tmp_path / "ids.txt"
    path.write_text(f"{gallery.id_of('one')}\n\n{gallery.url('late')}\n")
    return path


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def rows_of(layout: DatasetLayout) -> list[dict[str, Any]]:
    tables = [read_manifest(path) for path in layout.manifests()]
    return [row for table in tables for row in table.to_pylist()]


def row_of(layout: DatasetLayout, url: str) -> dict[str, Any]:
    return next(row for row in rows_of(layout) if row["url"] == url)


def sets_of(layout: DatasetLayout) -> list[DatasetLayout]:
    return [layout, DatasetLayout(layout.root, annotation_set="strict")]


def content(layout: DatasetLayout) -> dict[str, Any]:
    """Everything that two removals must share: all but times and the process."""
    tables = {
        str(path.relative_to(layout.root)): canonical_json_lines(pq.read_table(str(path)))
        for folder in ("plan", "fetch", "annotations", "annotation_sets")
        for path in sorted((layout.root / folder).rglob("*.parquet"))
    }
    others = {
        str(path.relative_to(layout.root)): path.read_bytes()
        for path in sorted(layout.root.rglob("*"))
        if path.suffix in (".tar", ".json") and "tombstone" not in path.parts
    }
    return tables | others


def files_with(root: Path, needle: bytes) -> list[str]:
    return [p.name for p in sorted(root.rglob("*")) if p.is_file() and needle in p.read_bytes()]


def assert_removed(layout: DatasetLayout, gallery: Gallery) -> None:
    for one in sets_of(layout):
        assert verify(one).findings == ()
        rows = rows_of(one)
        gone = [row for row in rows if row["status"] == Status.TOMBSTONED]
        assert len(rows) == 7
        assert [row["source_row"] for row in gone] == [0, 3, 6]
        for row in gone:
            assert {name for name, value in row.items() if value is not None} == {
                *("image_id", "source_row", "source_name", "status", "stage", "failure_code"),
                *("attempts", "elapsed_ms", "text_state", "face_state"),
            }
    assert files_with(layout.root, gallery.bytes_of["late"][-400:-300]) == []
    assert files_with(layout.root, SECRET.encode()) == []
    assert files_with(layout.root, gallery.url("late").encode()) == []
    assert len(ManifestDataset([layout.root])) == 4
    assert unfinished(layout) is None
    assert status(layout).rows_by_status == {"ok": 4, "tombstoned": 3}
    assert fetched_counts(layout, "000001")["tombstoned"] == 1


def test_images_regions_and_words_go_and_every_row_stays(
    gallery: Gallery, copied: DatasetLayout, ids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {row["source_row"]: row for row in rows_of(copied)}
    assert len(files_with(copied.root, gallery.bytes_of["late"][-400:-300])) == 1
    capsys.readouterr()
    assert main(["tombstone", str(copied.root), str(ids), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["images"], said["copies_left"]) == (3, 2, 1)
    assert_removed(copied, gallery)
    for row in rows_of(copied):
        if row["status"] == Status.OK:
            kept = {name: value for name, value in row.items() if name != "offset"}
            assert kept.items() <= before[row["source_row"]].items()
    receipt = json.loads(Path(said["receipt"]).read_text())
    assert receipt["image_ids"] == tombstoned_ids(copied).to_pylist()
    assert receipt["finished_at"] >= receipt["requested_at"]
    assert {"images/000000.tar", "images/000001.1.tar"} <= set(receipt["files"])
    assert "images/000001.tar" not in receipt["files"]
    assert "annotation_sets/strict/000001.parquet" in receipt["files"]
    for change in receipt["files"].values():
        assert change["before"] != change["after"]


def test_copies_of_the_same_bytes_go_where_they_are_asked_for(
    gallery: Gallery, copied: DatasetLayout, ids: Path
) -> None:
    needle = gallery.bytes_of["one"][-400:-300]
    assert main(["tombstone", str(copied.root), str(ids)]) == 0
    assert len(files_with(copied.root, needle)) == 1
    other = DatasetLayout(copied.root.with_name("other"))
    shutil.copytree(gallery.layout.root, other.root)
    assert main(["tombstone", str(other.root), str(ids), "--copies"]) == 0
    assert files_with(other.root, needle) == []
    assert verify(other).findings == ()
    assert status(other).rows_by_status == {"ok": 3, "tombstoned": 4}


def test_a_dataset_fetched_anew_with_the_list_says_the_same(
    gallery: Gallery, copied: DatasetLayout, ids: Path, tmp_path: Path
) -> None:
    assert main(["tombstone", str(copied.root), str(ids)]) == 0
    anew = DatasetLayout(tmp_path / "anew")
    typed = [str(gallery.urls), *SETTINGS, *COLUMNS]
    assert main(["plan", str(anew.root), "--urls", *typed]) == 0
    shutil.copy(copied.tombstones, anew.tombstones)
    asked = len(gallery.server.requests)
    assert main(["run", typed[0], "--out", str(anew.root), *typed[1:]]) == 0
    requested = gallery.server.requests[asked:]
    assert [path for path in requested if "/one" in path or "/late" in path] == []
    gone = [
        [row for row in rows_of(one) if row["status"] == Status.TOMBSTONED]
        for one in (anew, copied)
    ]
    assert [row["source_row"] for row in gone[0]] == [0, 3, 6]
    assert gone[0] == gone[1]


def test_a_second_removal_does_nothing_to_what_is_gone(
    gallery: Gallery, copied: DatasetLayout, ids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tombstone", str(copied.root), str(ids)]) == 0
    after = content(copied)
    capsys.readouterr()
    assert main(["tombstone", str(copied.root), str(ids), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["already"], said["receipt"]) == (0, 2, None)
    assert content(copied) == after


def test_a_run_afterwards_finds_nothing_to_do(
    gallery: Gallery, copied: DatasetLayout, ids: Path
) -> None:
    assert main(["tombstone", str(copied.root), str(ids)]) == 0
    after = content(copied)
    asked = len(gallery.server.requests)
    settings = [*SETTINGS, *COLUMNS]
    assert main(["run", str(gallery.urls), "--out", str(copied.root), *settings]) == 0
    assert main(["retry", str(copied.root), "--codes", "transient"]) == 0
    assert len(gallery.server.requests) == asked
    assert content(copied) == after


def stop_before(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """End the process before the file of this number is published; the list is of those that are.

    That is after the one before it, so the state after every file is met as well.
    """
    published: list[str] = []
    replace = Path.replace

    def publish(self: Path, target: Path) -> Path:
        if len(published) == number:
            raise Killed
        published.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", publish)
    return published


@pytest.mark.slow
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.long)])
def test_a_removal_that_is_stopped_anywhere_is_finished_by_resume(
    gallery: Gallery, copied: DatasetLayout, ids: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    whole = DatasetLayout(copied.root.with_name("whole"))
    shutil.copytree(copied.root, whole.root)
    with monkeypatch.context() as patch:
        published = stop_before(patch, 10_000)
        assert main(["tombstone", str(whole.root), str(ids)]) == 0
    expected = content(whole)
    assert len(published) > 15
    for number in range(0, len(published), stride):
        stopped = DatasetLayout(copied.root.with_name("stopped"))
        shutil.copytree(copied.root, stopped.root)
        with monkeypatch.context() as patch:
            stop_before(patch, number)
            with pytest.raises(Killed):
                main(["tombstone", str(stopped.root), str(ids)])
        if number == 0:  # before the promise: nothing has happened
            assert content(stopped) == content(copied)
            assert main(["tombstone", str(stopped.root), str(ids)]) == 0
        else:
            assert main(["tombstone", str(stopped.root), "--resume"]) == 0
        assert content(stopped) == expected, published[number]
        shutil.rmtree(stopped.root)
    assert_removed(whole, gallery)


def test_nothing_else_works_on_a_dataset_until_the_removal_is_finished(
    gallery: Gallery,
    copied: DatasetLayout,
    ids: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_before(patch, 5)
        with pytest.raises(Killed):
            main(["tombstone", str(copied.root), str(ids)])
    root = str(copied.root)
    capsys.readouterr()
    for typed in (
        ["run", str(gallery.urls), "--out", root, *SETTINGS, *COLUMNS],
        ["fetch", root],
        ["annotate", root],
        ["retry", root],
        ["select", root, "--out", str(copied.root.with_name("s.parquet"))],
        ["tombstone", root, str(ids)],
    ):
        assert main(typed) == 2
        assert "a removal was interrupted; finish it with" in capsys.readouterr().err
    assert main(["tombstone", root, "--resume"]) == 0
    assert_removed(copied, gallery)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 6, 12])
def test_a_killed_process_leaves_a_removal_that_resumes(
    gallery: Gallery, copied: DatasetLayout, ids: Path, step: int
) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from curation.cli import main
replace, left = Path.replace, [{step}]
def publish(self, target):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return replace(self, target)
Path.replace = publish
main(["tombstone", {str(copied.root)!r}, {str(ids)!r}])
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert main(["tombstone", str(copied.root), "--resume"]) == 0
    assert_removed(copied, gallery)


def test_unknown_lines_are_told_and_the_known_ones_go(
    gallery: Gallery, copied: DatasetLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.txt"
    path.write_text(f"{'0' * 32}\nhttp://no.example/x.jpg\n{gallery.url('two')}\n")
    assert main(["tombstone", str(copied.root), str(path)]) == 1
    err = capsys.readouterr().err
    assert f"{'0' * 32}: no row of" in err
    assert "http://no.example/x.jpg: no row of" in err
    assert row_count(copied, "tombstoned") == 1


def test_where_all_lines_are_unknown_nothing_is_written(
    copied: DatasetLayout, tmp_path: Path
) -> None:
    path = tmp_path / "some.txt"
    path.write_text("http://no.example/x.jpg\n")
    before = content(copied)
    assert main(["tombstone", str(copied.root), str(path)]) == 1
    assert content(copied) == before
    assert not copied.tombstones.exists()


def row_count(layout: DatasetLayout, name: str) -> int:
    return sum(row["status"] == name for row in rows_of(layout))


def test_rows_that_are_not_fetched_yet_are_never_fetched(
    gallery: Gallery, ids: Path, tmp_path: Path
) -> None:
    layout = DatasetLayout(tmp_path / "planned")
    typed = [str(gallery.urls), *SETTINGS, *COLUMNS]
    assert main(["plan", str(layout.root), "--urls", *typed]) == 0
    assert main(["tombstone", str(layout.root), str(ids)]) == 0
    asked = len(gallery.server.requests)
    assert main(["run", typed[0], "--out", str(layout.root), *typed[1:]]) == 0
    requested = gallery.server.requests[asked:]
    assert [path for path in requested if "/one" in path or "/late" in path] == []
    assert row_count(layout, "tombstoned") == 3
    assert verify(layout).findings == ()
