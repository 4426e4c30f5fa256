"""The whole pipeline on an object store: a real S3 server on loopback, in a process of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow.fs import FileSelector, FileSystem

from annotations_schema.layout import DatasetLayout, sha256_file
from annotations_schema.manifest import canonical_json_lines, read_manifest
from annotations_schema.storage import RemotePath, location
from curation.cli import main
from curation.demo.server import ServedFile, TroubleServer
from curation.demo.troubles import BAD_ROWS, TROUBLES
from curation.lock import LEASE_TIMES, exclusive
from tests.changing_server import ChangingServer
from training.data.manifest import ManifestDataset

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CLI = str(Path(sysconfig.get_path("scripts")) / "insight-curate")
BUCKET = "pictures"
SETTINGS = (
    *("--shard-size", "4", "--caption-col", "caption", "--allow-private-network"),
    *("--text-detector", "none", "--face-detector", "none", "--deadline-s", "5"),
)
# Those that give the same answer however often they are asked.
STEADY = [one for one in TROUBLES if one.name in ("not_found", "forbidden")]


@dataclass(frozen=True)
class Listed:
    """A served list, on this machine and in the store."""

    local: Path
    remote: str
    rows: int


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    """An empty bucket of moto's S3 server, which this process and its children are told of."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    told = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        try:
            _wait_for(int(port), server)
            filesystem, path = FileSystem.from_uri(f"s3://{BUCKET}?allow_bucket_creation=true")
            filesystem.create_dir(path)
            yield f"s3://{BUCKET}"
        finally:
            server.kill()
            server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.poll() is None, "the S3 server ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the S3 server does not answer")


@pytest.fixture(scope="module")
def listed(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listed]:
    pictures = {f"/{number}.jpg": ServedFile(picture(number)) for number in range(10)}
    with TroubleServer(pictures) as server:
        urls = [server.url(path) for path in pictures]
        urls += [server.trouble_url(one) for one in STEADY]
        urls += [one.url for one in BAD_ROWS]
        urls.append(urls[0])
        table = pa.table({"url": urls, "caption": [f"row {n}" for n in range(len(urls))]})
        local = tmp_path_factory.mktemp("list") / "urls.parquet"
        pq.write_table(table, str(local))
        remote = f"{store}/lists/urls.parquet"
        filesystem, path = FileSystem.from_uri(remote)
        with filesystem.open_output_stream(path) as stream:
            stream.write(local.read_bytes())
        yield Listed(local, remote, len(urls))


@pytest.fixture(scope="module")
def on_disk(listed: Listed, tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """What a run on a local path makes of the list."""
    root = tmp_path_factory.mktemp("on_disk") / "dataset"
    assert main(["run", str(listed.local), "--out", str(root), *SETTINGS]) == 0
    return DatasetLayout(root)


@pytest.fixture(scope="module")
def in_store(listed: Listed, store: str) -> DatasetLayout:
    """The same list run from the store into the store; do not change it."""
    root = f"{store}/run/dataset"
    assert main(["run", listed.remote, "--out", root, *SETTINGS]) == 0
    return DatasetLayout(location(root))


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def canonical(layout: DatasetLayout) -> dict[str, object]:
    """Everything of a dataset that two runs over the same list must share."""
    shards = layout.shards_planned()
    assert len(layout.manifests()) == len(shards) > 1
    return {
        f"{kind} {shard}": content
        for shard in shards
        for kind, content in {
            "annotations": canonical_json_lines(read_manifest(layout.annotations(shard))),
            "fetch": canonical_json_lines(read_manifest(layout.fetch(shard))),
            "images": layout.images(shard).read_bytes(),
        }.items()
    }


def objects(root: RemotePath) -> list[str]:
    """Names of all objects of a dataset, relative to its root."""
    filesystem, path = FileSystem.from_uri(str(root))
    found = filesystem.get_file_info(FileSelector(path, recursive=True))
    return sorted(one.path.removeprefix(f"{path}/") for one in found if one.is_file)


def json_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(capsys.readouterr().out)
    return loaded


def test_a_run_in_the_store_makes_what_a_run_on_disk_makes(
    on_disk: DatasetLayout, in_store: DatasetLayout, listed: Listed
) -> None:
    assert canonical(in_store) == canonical(on_disk)
    table = pa.concat_tables([read_manifest(path) for path in in_store.manifests()])
    assert table.column("source_row").to_pylist() == list(range(listed.rows))
    assert table.column("status").to_pylist().count("ok") == 10


def test_nothing_but_the_dataset_is_left_in_the_store(
    on_disk: DatasetLayout, in_store: DatasetLayout
) -> None:
    on_local = {
        path.relative_to(on_disk.root).as_posix()
        for path in on_disk.root.glob("**/*")
        if path.is_file()
    }
    assert isinstance(in_store.root, RemotePath)
    assert objects(in_store.root) == sorted(on_local - {".lock"})


def test_stage_by_stage_gives_the_same(
    listed: Listed, store: str, in_store: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"{store}/steps"
    assert main(["plan", root, "--urls", listed.remote, *SETTINGS]) == 0
    assert main(["plan", root]) == 0, "the list is found again by its URI"
    assert main(["fetch", root]) == 0
    assert main(["annotate", root]) == 0
    assert canonical(DatasetLayout(location(root))) == canonical(in_store)


def test_a_finished_dataset_is_recognised_verified_and_reported(
    in_store: DatasetLayout, listed: Listed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, num_shards = str(in_store.root), len(in_store.shards_planned())
    assert main(["run", listed.remote, "--out", root, *SETTINGS, "--resume", "--json"]) == 0
    stages = json_of(capsys)["stages"]
    assert isinstance(stages, dict)
    assert {(one["done"], one["skipped"]) for one in stages.values()} == {(0, num_shards)}
    assert main(["status", root, "--json"]) == 0
    assert json_of(capsys)["is_complete"]
    assert main(["verify", root]) == 0
    page = tmp_path / "report.html"
    assert main(["report", root, "--out", str(page)]) == 0
    assert "row 3" in page.read_text()


def test_a_shard_whose_object_is_gone_is_done_again(
    listed: Listed, store: str, in_store: DatasetLayout
) -> None:
    root = f"{store}/gone"
    assert main(["run", listed.remote, "--out", root, *SETTINGS]) == 0
    layout = DatasetLayout(location(root))
    layout.images("000001").unlink()
    assert main(["verify", root]) == 1
    assert main(["run", listed.remote, "--out", root, *SETTINGS, "--resume"]) == 0
    assert canonical(layout) == canonical(in_store)


def test_plain_pyarrow_and_duckdb_read_it_as_users_would(
    in_store: DatasetLayout, listed: Listed
) -> None:
    manifests = pads.dataset(f"{in_store.root}/annotations", format="parquet")
    assert manifests.count_rows() == listed.rows
    query = "select count(*), count(length) from manifests where status = 'ok'"
    with duckdb.connect() as connection:
        connection.register("manifests", manifests)
        assert connection.sql(query).fetchall() == [(10, 10)]


def test_a_csv_list_in_the_store_is_planned_and_failed_rows_are_fetched_again(
    store: str,
) -> None:
    root = f"{store}/retried/dataset"
    with ChangingServer() as server:
        server.answers = {"/here.png": picture(1), "/late.png": 503}
        listed = ["url,caption", *(f"{server.url(one)},a" for one in server.answers)]
        filesystem, path = FileSystem.from_uri(f"{store}/lists/urls.csv")
        with filesystem.open_output_stream(path) as stream:
            stream.write("".join(f"{line}\n" for line in listed).encode())
        typed = ["run", f"{store}/lists/urls.csv", "--out", root, *SETTINGS, "--retries", "0"]
        assert main(typed) == 0
        server.answers["/late.png"] = picture(2)
        assert main(["retry", root, "--codes", "http_503"]) == 0
    (manifest,) = DatasetLayout(location(root)).manifests()
    rows = read_manifest(manifest, ["status", "shard", "history"]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert [row["shard"] for row in rows] == ["000000", "000000.1"]
    assert [one["failure_code"] for one in rows[1]["history"]] == ["http_503"]
    assert main(["verify", root]) == 0


@pytest.mark.long
def test_the_ray_runner_gives_the_same(
    listed: Listed, store: str, in_store: DatasetLayout, tmp_path: Path
) -> None:
    root = f"{store}/ray"
    typed = [CLI, "run", listed.remote, "--out", root, *SETTINGS, "--runner", "ray"]
    subprocess.run([*typed, "--workers", "1"], check=True, capture_output=True, timeout=300)
    assert canonical(DatasetLayout(location(root))) == canonical(in_store)


@pytest.mark.long
def test_a_killed_run_is_waited_for_and_then_finished(
    listed: Listed, store: str, in_store: DatasetLayout
) -> None:
    root = f"{store}/killed"
    layout = DatasetLayout(location(root))
    typed = [CLI, "run", listed.remote, "--out", root, *SETTINGS]
    with subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not layout.receipt("fetch", "000000").exists():
            assert running.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL)
    assert (layout.root / "run.lock").exists()
    assert len(layout.manifests()) < len(layout.shards_planned())
    again = subprocess.run(typed, check=False, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert f"waiting {LEASE_TIMES.lease_s:g} s to see whether it lives" in again.stderr
    assert canonical(layout) == canonical(in_store)
    assert not (layout.root / "run.lock").exists()


def test_a_second_run_at_the_same_time_is_refused(
    in_store: DatasetLayout, listed: Listed, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sha256_file(in_store.config)
    with exclusive(in_store):
        started = time.monotonic()
        assert main(["run", listed.remote, "--out", str(in_store.root), *SETTINGS]) == 2
        assert time.monotonic() - started < LEASE_TIMES.lease_s
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("another run is working on it; wait for it or stop it")
    assert sha256_file(in_store.config) == before


def test_the_trainer_reads_a_dataset_where_it_lies(in_store: DatasetLayout) -> None:
    dataset = ManifestDataset([in_store.root])
    assert len(dataset) == 10
    stored = [picture(number) for number in range(10)]
    assert [dataset.read_bytes(index) for index in range(10)] == stored


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("s3://no-such-bucket/x", "NO_SUCH_BUCKET"),
        ("https://127.0.0.1/x", "Unrecognized filesystem type"),
        ("s3://pictures/a b", "cannot stand in the name"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(
    listed: Listed, root: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", root, "--urls", str(listed.local), *SETTINGS]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("insight-curate: ")
    assert says in line


def test_an_endpoint_that_does_not_answer_is_one_line_within_seconds(listed: Listed) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{closed.getsockname()[1]}"
        started = time.monotonic()
        done = subprocess.run(
            [CLI, "status", "s3://anything/x"],
            env={**os.environ, "AWS_ENDPOINT_URL": silent},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "AWS Error NETWORK_CONNECTION" in done.stderr
    assert time.monotonic() - started < 30


def test_a_subset_and_a_removal_work_in_the_store(
    listed: Listed, store: str, in_store: DatasetLayout, tmp_path: Path
) -> None:
    root, subset = f"{store}/removal", f"{store}/subsets/wide.parquet"
    assert main(["run", listed.remote, "--out", root, *SETTINGS]) == 0
    where = ["--where", "width = 120 and source_row < 6"]
    assert main(["select", root, *where, "--out", subset]) == 0
    table = read_manifest(location(subset))
    assert table.column("source_row").to_pylist() == list(range(6))
    assert set(table.column("dataset").to_pylist()) == {root}
    assert main(["select", root, *where, "--out", str(tmp_path / "wide.parquet")]) == 0
    assert read_manifest(tmp_path / "wide.parquet").equals(table)
    assert main(["select", "--out", subset, "--check"]) == 0
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{table.column('image_id')[2].as_py()}\n")
    assert main(["tombstone", root, str(ids)]) == 0
    assert main(["verify", root]) == 0
    assert main(["select", "--out", subset, "--check"]) == 1
    layout = DatasetLayout(location(root))
    gone = picture(2)[200:300]
    assert gone in b"".join(in_store.images(shard).read_bytes() for shard in ("000000", "000001"))
    assert isinstance(layout.root, RemotePath)
    left = [layout.root / name for name in objects(layout.root)]
    assert not any(gone in path.read_bytes() for path in left)


def test_the_doctor_asks_the_store(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    none = ("--text-detector", "none", "--face-detector", "none", "--host", "localhost")
    assert main(["doctor", f"{store}/new", *none]) == 0
    assert "put, get and delete of a small object take" in capsys.readouterr().err
    assert main(["doctor", "s3://no-such-bucket/new", *none]) == 1
    assert "fail object store" in capsys.readouterr().err
