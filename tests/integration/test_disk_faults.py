"""A disk that fills up, breaks or may not be written, and a clock that jumps: nothing is lost.

Failures are injected into every call that changes the disk: opening a file to write, each write,
the libraries' whole-file writes, fsync of files and folders, rename, mkdir. After each, no receipt
speaks of a file that is not there whole, and the same command finishes the dataset as if nothing
had happened. A limit on the size of files (RLIMIT_FSIZE) lets a real system refuse real writes,
those of C++ included, for any user.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import resource
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from PIL import Image

from annotations_schema.layout import STAGES, DatasetLayout, read_receipt, sha256_file
from annotations_schema.manifest import canonical_json_lines, read_manifest
from curation.cli import main
from curation.demo.server import ServedFile, TroubleServer
from curation.verify.verify import verify

CLI = str(Path(sysconfig.get_path("scripts")) / "insight-curate")
SETTINGS = (
    *("--shard-size", "3", "--allow-private-network", "--retries", "0"),
    *("--text-detector", "none", "--face-detector", "none"),
)
NO_SPACE, IO_ERROR, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS


@dataclass(frozen=True)
class Road:
    """A list, the server that serves it, and the dataset of an undisturbed run."""

    server: TroubleServer
    urls: Path
    undisturbed: dict[str, str]

    def run(self, root: Path) -> int:
        return main(["run", str(self.urls), "--out", str(root), *SETTINGS])


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("road")
    noise = np.random.default_rng(0)
    files = {f"/{i}.png": ServedFile(_png(noise), "image/png") for i in range(4)}
    with TroubleServer(files) as server:
        urls = folder / "list.txt"
        urls.write_text("".join(f"{server.url(path)}\n" for path in [*files, "/gone.png"]))
        root = folder / "undisturbed"
        assert Road(server, urls, {}).run(root) == 0
        yield Road(server, urls, contents(root))


def _png(noise: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise.integers(0, 255, (100, 110, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def contents(root: Path) -> dict[str, str]:
    """Everything of a finished dataset that two runs must share."""
    layout = DatasetLayout(root)
    shards = layout.shards_planned()
    assert len(layout.manifests()) == len(shards)
    return {
        name: content
        for shard in shards
        for name, content in {
            f"plan {shard}": sha256_file(layout.plan(shard)),
            f"images {shard}": sha256_file(layout.images(shard)),
            f"fetch {shard}": canonical_json_lines(read_manifest(layout.fetch(shard))),
            f"manifest {shard}": canonical_json_lines(read_manifest(layout.annotations(shard))),
        }.items()
    }


def assert_nothing_half_published(root: Path) -> None:
    """Every file that a receipt names is there, with the receipt's size and hash."""
    layout = DatasetLayout(root)
    for stage in STAGES:
        for path in sorted((root / "receipts" / stage).glob("*.json")):
            receipt = read_receipt(layout, stage, path.stem)
            assert receipt is not None
            for name, file in receipt.outputs.items():
                assert (root / name).stat().st_size == file.bytes
                assert sha256_file(root / name) == file.sha256
    if layout.config.exists():
        assert layout.shards_planned() == ["000000", "000001"]


@dataclass
class Disk:
    """Counts what changes files below a folder, and from a call on refuses to do it."""

    root: Path
    fails_at: int | None = None
    code: int = NO_SPACE
    stays_broken: bool = True
    calls: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def was_met(self) -> bool:
        """Whether any call failed."""
        return self.fails_at is not None and len(self.calls) > self.fails_at

    def change(self, what: str, path: object) -> None:
        if isinstance(path, (str, os.PathLike)) and self.root not in Path(path).parents:
            return
        with self.lock:
            number = len(self.calls)
            self.calls.append(what)
        if self.fails_at is None or number < self.fails_at:
            return
        if number == self.fails_at or self.stays_broken:
            raise OSError(self.code, os.strerror(self.code), str(path))


class _WatchedFile:
    """A file whose writes may fail."""

    def __init__(self, file: Any, disk: Disk, path: Path) -> None:
        self._file, self._disk, self._path = file, disk, path

    def write(self, data: Any) -> int:
        self._disk.change("write", self._path)
        return int(self._file.write(data))

    def __enter__(self) -> _WatchedFile:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def watched(disk: Disk) -> Iterator[Disk]:
    """Every change of files below the disk's root goes through it while the block runs."""
    with pytest.MonkeyPatch.context() as patch:

        def before(owner: Any, name: str, path_of: Callable[..., object]) -> None:
            do = getattr(owner, name)

            def watch(*args: Any, **kwargs: Any) -> Any:
                disk.change(name, path_of(*args, **kwargs))
                return do(*args, **kwargs)

            patch.setattr(owner, name, watch)

        def watched_open(do: Callable[..., Any]) -> Callable[..., Any]:
            def watch(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
                is_ours = isinstance(file, (str, os.PathLike)) and disk.root in Path(file).parents
                # An empty lock file is no data, and a disk without space still has it.
                if not is_ours or not set(mode) & set("wax+") or str(file).endswith(".lock"):
                    return do(file, mode, *args, **kwargs)
                disk.change("open", file)
                return _WatchedFile(do(file, mode, *args, **kwargs), disk, Path(file))

            return watch

        before(os, "fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink())
        before(Path, "replace", lambda path, target: path)
        before(Path, "mkdir", lambda path, *args, **kwargs: path / ".")
        before(pa.parquet, "write_table", lambda table, where, **kwargs: where)
        before(pa.feather, "write_feather", lambda table, where, **kwargs: where)
        for owner in (io, builtins):
            patch.setattr(owner, "open", watched_open(owner.open))
        yield disk


def one_line_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("insight-")]


def fail_and_resume(road: Road, root: Path, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with a disk that fails; what it leaves; and the same command on a sound disk."""
    with watched(disk):
        code = road.run(root)
    told = one_line_of(capsys)
    # Threads make a folder or two more in one run than in another: the last calls may not come.
    assert disk.was_met or code == 0
    if disk.was_met and disk.stays_broken:
        assert code in (1, 2), disk.calls[-3:]
    assert len(told) == (code == 2), told
    assert_nothing_half_published(root)
    assert road.run(root) == 0
    assert contents(root) == road.undisturbed
    assert verify(DatasetLayout(root)).findings == ()


@pytest.fixture(scope="module")
def num_calls(road: Road, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many changes an undisturbed run makes."""
    root = tmp_path_factory.mktemp("counted") / "dataset"
    with watched(Disk(root.parent)) as disk:
        assert road.run(root) == 0
    kinds = {kind: disk.calls.count(kind) for kind in sorted(set(disk.calls))}
    # Two shards with five receipts and tables or so each; every kind of change is seen.
    assert set(kinds) == {
        "fsync",
        "mkdir",
        "open",
        "replace",
        "write",
        "write_feather",
        "write_table",
    }
    assert kinds["replace"] >= 15
    assert kinds["fsync"] >= 30
    return len(disk.calls)


@pytest.mark.parametrize("stays_broken", [True, False], ids=["stays", "once"])
@pytest.mark.parametrize("seed", range(6))
def test_a_failure_at_a_random_change_loses_nothing(
    road: Road,
    num_calls: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    seed: int,
    stays_broken: bool,
) -> None:
    choose = random.Random(f"{seed} {stays_broken}")
    # One of each sixth of the run, so that plan, fetch and annotate are all met.
    number = (seed * num_calls + choose.randrange(num_calls)) // 6
    code = choose.choice([NO_SPACE, IO_ERROR, READ_ONLY])
    disk = Disk(tmp_path, number, code, stays_broken)
    fail_and_resume(road, tmp_path / "dataset", disk, capsys)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("stays_broken", [True, False], ids=["stays", "once"])
def test_a_failure_at_every_single_change_loses_nothing(
    road: Road,
    num_calls: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stays_broken: bool,
) -> None:
    for number in range(num_calls):
        code = (NO_SPACE, IO_ERROR, READ_ONLY)[number % 3]
        folder = tmp_path / str(number)
        folder.mkdir()
        fail_and_resume(road, folder / "dataset", Disk(folder, number, code, stays_broken), capsys)


def limited_run(road: Road, root: Path, max_bytes: int) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own that may not make a file larger than `max_bytes`."""
    return subprocess.run(
        [CLI, "run", str(road.urls), "--out", str(root), *SETTINGS],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes)),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("max_bytes", "exit_code", "shards_whole"),
    [
        pytest.param(60_000, 1, ["000001"], id="a tar does not fit"),
        pytest.param(3_000, 2, [], id="a table does not fit"),
        pytest.param(0, 2, [], id="nothing fits"),
    ],
)
def test_a_system_that_refuses_real_writes_loses_nothing(
    road: Road, tmp_path: Path, max_bytes: int, exit_code: int, shards_whole: list[str]
) -> None:
    root = tmp_path / "dataset"
    ended = limited_run(road, root, max_bytes)
    assert ended.returncode == exit_code, ended.stderr
    assert "File too large" in ended.stderr
    assert_nothing_half_published(root)
    layout = DatasetLayout(root)
    assert [path.stem for path in layout.manifests()] == shards_whole
    assert road.run(root) == 0
    assert contents(root) == road.undisturbed


def test_a_tar_cut_off_by_a_full_disk_is_fetched_again_and_no_other(
    road: Road, tmp_path: Path
) -> None:
    root = tmp_path / "dataset"
    layout = DatasetLayout(root)
    assert road.run(root) == 0
    other = layout.images("000000").stat().st_mtime_ns
    os.truncate(layout.images("000001"), 5_000)
    before = len(road.server.seen)
    assert road.run(root) == 0
    asked = {request.path for request in road.server.seen[before:]} - {"/robots.txt"}
    assert asked == {"/3.png", "/gone.png"}
    assert layout.images("000000").stat().st_mtime_ns == other
    assert contents(root) == road.undisturbed
    assert verify(layout).findings == ()


@pytest.mark.parametrize("where", ["list.txt/dataset", "/proc/dataset"])
def test_a_folder_that_cannot_be_made_is_one_line(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """Below a file, and below a file system that nobody may write, root included."""
    (tmp_path / "list.txt").write_text("")
    assert road.run(tmp_path / where) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("insight-curate: ")
    assert where.rpartition("/")[0] in line


def test_a_folder_that_may_only_be_read_is_one_line(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every change is refused with the error that a read-only file system gives."""
    with watched(Disk(tmp_path, 0, READ_ONLY)):
        assert road.run(tmp_path / "dataset") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Read-only file system" in line


def test_a_clock_that_jumps_by_years_gives_valid_manifests(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock goes back and forth between any two looks at it, from 1990 to 2090."""
    choose, lock = random.Random(7), threading.Lock()

    def jumping() -> float:
        with lock:
            return choose.uniform(631_152_000, 3_786_912_000)

    class JumpingDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=jumping())

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr("curation.fetch.opener.datetime", JumpingDatetime)
    monkeypatch.setattr("curation.fetch.hops.datetime", JumpingDatetime)
    root = tmp_path / "dataset"
    assert road.run(root) == 0
    layout = DatasetLayout(root)
    assert contents(root) == road.undisturbed
    assert verify(layout).findings == ()
    tables = [read_manifest(path) for path in layout.manifests()]
    assert all(0 <= ms < 60_000 for table in tables for ms in table["elapsed_ms"].to_pylist())
    fetched_at = [at for table in tables for at in table["fetched_at"].to_pylist()]
    assert max(fetched_at) - min(fetched_at) > timedelta(days=365)
    for stage in STAGES:
        for shard in layout.shards_planned():
            receipt = read_receipt(layout, stage, shard)
            assert receipt is not None
            assert 0 <= receipt.elapsed_s < 60
