"""The road from a URL list to verified manifests: real server, real detectors, both runners."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, Receipt, read_receipt
from annotations_schema.manifest import canonical_json_lines, read_manifest, read_provenance
from curation.annotate.stage import AnnotateStage
from curation.cli import main, parse
from curation.commands.configs import curate_config
from curation.demo.server import ServedFile, TroubleServer
from curation.demo.troubles import BAD_ROWS, TROUBLES
from curation.fetch.stage import FetchStage
from curation.machine import MachineConfig
from curation.report.timeline import timeline
from curation.run import plan_dataset, run_stages
from curation.runtime.local import run_local
from curation.runtime.ray_runtime import cluster, run_ray
from curation.runtime.stage import EventKind, Stage

pytestmark = pytest.mark.ray

CLI = str(Path(sysconfig.get_path("scripts")) / "insight-curate")
COLUMNS = ("--caption-col", "caption", "--sha256-col", "sha256")
LIMITS = ("--shard-size", "16", "--deadline-s", "2", "--max-bytes", "1000000")
# The face detector is the quick one; one test below runs both.
SETTINGS = (*COLUMNS, *LIMITS, "--allow-private-network", "--text-detector", "none")
STAGE_MODULES = {"fetch": "curation.fetch.stage", "annotate": "curation.annotate.stage"}


@dataclass(frozen=True)
class Road:
    """A served list and how each of its rows must end."""

    server: TroubleServer
    urls: Path
    expected: tuple[str, ...]
    photos: tuple[str, ...]


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with cluster(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def road(
    tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, coffee: np.ndarray
) -> Iterator[Road]:
    """Photographs, every trouble of the server, every bad row, a duplicate."""
    photos = {
        "/astronaut.jpg": jpeg(astronaut[::2, ::2]),
        "/two-astronauts.jpg": jpeg(np.hstack([astronaut[:256], astronaut[:256, ::-1]])),
        "/coffee.jpg": jpeg(coffee[::2, ::2]),
    }
    files = {path: ServedFile(data) for path, data in photos.items()}
    small = jpeg(coffee[::4, ::4])
    with TroubleServer(files, picture=small, slow_s=8, huge_bytes=4_000_000) as server:
        urls = [server.url(path) for path in photos]
        rows = [(url, "ok") for url in urls]
        rows += [(server.trouble_url(one), one.code or "ok") for one in TROUBLES]
        rows += [(one.url, one.code) for one in BAD_ROWS]
        rows.append((urls[0], "url_duplicate"))
        source = tmp_path_factory.mktemp("list") / "road.parquet"
        listed = {
            "url": [url for url, _ in rows],
            "caption": [f"row {number}" for number in range(len(rows))],
            "sha256": pa.array([None] * len(rows), pa.string()),
            "note": [{"tags": [number, number + 1]} for number in range(len(rows))],
        }
        pq.write_table(pa.table(listed), str(source))
        yield Road(server, source, tuple(str(code) for _, code in rows), tuple(urls))


@pytest.fixture(scope="module")
def undisturbed(road: Road, tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """The road with the quick detector alone, on the local runner; do not change it."""
    layout = DatasetLayout(tmp_path_factory.mktemp("undisturbed") / "dataset")
    assert main(["run", str(road.urls), "--out", str(layout.root), *SETTINGS]) == 0
    return layout


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one JSON object of a command; this process's own cluster may print beside it."""
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return json.loads(line)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def canonical(layout: DatasetLayout) -> dict[str, object]:
    """Everything of a dataset that two runs over the same list must share."""
    shards = layout.shards_planned()
    assert len(layout.manifests()) == len(shards)
    return {
        f"{kind} {shard}": content
        for shard in shards
        for kind, content in {
            "fetch": canonical_json_lines(read_manifest(layout.fetch(shard))),
            "annotations": canonical_json_lines(read_manifest(layout.annotations(shard))),
            "provenance": read_provenance(layout.annotations(shard)),
            "images": layout.images(shard).read_bytes(),
        }.items()
    }


def snapshot(layout: DatasetLayout) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in layout.root.rglob("*") if path.is_file()}


def planned(road: Road, layout: DatasetLayout) -> tuple[Stage, Stage]:
    """The dataset, planned, with its two stages."""
    command = parse(["run", str(road.urls), "--out", str(layout.root), *SETTINGS])
    config = curate_config(command.dataset, command.worker)  # type: ignore[union-attr]
    plan_dataset(road.urls, layout, config)
    return FetchStage(layout.root, config.fetch), AnnotateStage(layout.root, config.annotate)


def test_every_row_ends_once_and_as_its_trouble_says(
    road: Road, undisturbed: DatasetLayout
) -> None:
    table = pa.concat_tables([read_manifest(path) for path in undisturbed.manifests()])
    assert table.column("source_row").to_pylist() == list(range(len(road.expected)))
    codes = zip(
        table.column("status").to_pylist(), table.column("failure_code").to_pylist(), strict=True
    )
    assert tuple("ok" if status == "ok" else code for status, code in codes) == road.expected
    assert table.column("caption").to_pylist()[3] == "row 3"
    assert table.column("input_note").to_pylist()[5] == {"tags": [5, 6]}
    assert table.column("num_faces").to_pylist()[:3] == [1, 2, 0]


def test_the_finished_dataset_verifies_and_reports(
    undisturbed: DatasetLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(undisturbed.root)]) == 0
    assert main(["status", str(undisturbed.root), "--json"]) == 0
    assert json_of(capsys)["is_complete"]
    page = tmp_path / "report.html"
    assert main(["report", str(undisturbed.root), "--out", str(page)]) == 0
    assert 50_000 < page.stat().st_size < 15 * 2**20


def test_the_timeline_shows_that_fetch_and_annotate_overlap(undisturbed: DatasetLayout) -> None:
    receipts = [
        read_receipt(undisturbed, stage, shard)
        for stage in ("fetch", "annotate")
        for shard in undisturbed.shards_planned()
    ]
    shown = timeline(receipt for receipt in receipts if receipt is not None)
    assert shown is not None
    assert {lane.stage for lane in shown.lanes} == {"fetch", "annotate"}
    assert shown.overlap_s > 0


def test_local_and_ray_agree_byte_for_byte_with_both_detectors(road: Road, tmp_path: Path) -> None:
    source = tmp_path / "photos.txt"
    source.write_text("\n".join(road.photos))
    both = {runner: DatasetLayout(tmp_path / runner) for runner in ("local", "ray")}
    for runner, layout in both.items():
        typed = ["run", str(source), "--out", str(layout.root), "--shard-size", "2"]
        assert main([*typed, "--allow-private-network", "--runner", runner]) == 0
    assert canonical(both["local"]) == canonical(both["ray"])
    table = read_manifest(both["ray"].annotations("000000"))
    assert set(table.column("face_state").to_pylist()) == {"found"}
    assert "not_run" not in table.column("text_state").to_pylist()


def test_the_same_list_twice_does_no_work_twice(
    road: Road, undisturbed: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    before, num_requests = snapshot(undisturbed), len(road.server.seen)
    for runner in ("local", "ray"):
        typed = ["run", str(road.urls), "--out", str(undisturbed.root), *SETTINGS, "--resume"]
        assert main([*typed, "--runner", runner, "--json"]) == 0
        stages = json_of(capsys)["stages"]
        num_shards = len(undisturbed.shards_planned())
        for stage in ("fetch", "annotate"):
            assert (stages[stage]["done"], stages[stage]["skipped"]) == (0, num_shards)
    assert snapshot(undisturbed) == before
    assert len(road.server.seen) == num_requests


def test_one_stage_at_a_time_and_on_another_runner_gives_the_same(
    road: Road, undisturbed: DatasetLayout, tmp_path: Path
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    root = str(layout.root)
    assert main(["plan", root, "--urls", str(road.urls), *SETTINGS]) == 0
    assert main(["fetch", root, "--fetch-threads", "3"]) == 0
    assert not layout.manifests()
    assert main(["annotate", root, "--runner", "ray", "--threads", "2"]) == 0
    assert canonical(layout) == canonical(undisturbed)


class KilledOnce:
    """A real stage whose process is killed once: its data stands, its receipt is not written."""

    def __init__(self, inner: Stage, shard: str, marker: Path) -> None:
        self.inner, self.shard, self.marker = inner, shard, marker
        self.name, self.config_sha256 = inner.name, inner.config_sha256

    def open(self) -> None:
        self.inner.open()

    def close(self) -> None:
        self.inner.close()

    def run(self, shard: str) -> Receipt:
        if shard == self.shard and not self.marker.exists():
            self.marker.touch()
            vars(sys.modules[STAGE_MODULES[self.name]])["write_receipt"] = _die
        return self.inner.run(shard)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_killed_between_data_and_receipt_leave_no_trace(
    road: Road, undisturbed: DatasetLayout, tmp_path: Path
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    shard = "000001"
    stages = [
        KilledOnce(stage, shard, tmp_path / f"killed-{stage.name}")
        for stage in planned(road, layout)
    ]
    events = list(
        run_ray(
            stages,
            layout.shards_planned(),
            layout,
            num_workers={"fetch": 1, "annotate": 1},
        )
    )
    retried = [(event.stage, event.shard) for event in events if event.kind is EventKind.RETRIED]
    assert retried == [("fetch", shard), ("annotate", shard)]
    typed = ["run", str(road.urls), "--out", str(layout.root), *SETTINGS]
    assert main([*typed, "--runner", "ray"]) == 0
    assert canonical(layout) == canonical(undisturbed)


KILLED_RUN = """
import importlib, os, signal, sys
from curation.cli import main
module = importlib.import_module(sys.argv[1])
write = module.write_receipt
def die(layout, receipt):
    if receipt.shard == "000001":
        os.kill(os.getpid(), signal.SIGKILL)
    write(layout, receipt)
module.write_receipt = die
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("stage", ["fetch", "annotate"])
def test_a_run_killed_between_data_and_receipt_continues_to_the_same_manifest(
    stage: str, road: Road, undisturbed: DatasetLayout, tmp_path: Path
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    typed = ["run", str(road.urls), "--out", str(layout.root), *SETTINGS]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, STAGE_MODULES[stage], *typed],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    data = layout.fetch("000001") if stage == "fetch" else layout.annotations("000001")
    assert data.exists()
    assert read_receipt(layout, stage, "000001") is None
    assert main(typed) == 0
    assert canonical(layout) == canonical(undisturbed)
    assert main(["verify", str(layout.root)]) == 0


class Poisoned(KilledOnce):
    """A real stage that one shard kills every time."""

    def run(self, shard: str) -> Receipt:
        if shard == self.shard:
            os._exit(3)
        return self.inner.run(shard)


def test_a_shard_that_kills_every_worker_is_set_aside_and_a_later_run_mends_it(
    road: Road,
    undisturbed: DatasetLayout,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    fetch, annotate = planned(road, layout)
    list(run_local([fetch], layout.shards_planned(), layout))
    poisoned = Poisoned(annotate, "000000", tmp_path / "unused")
    list(run_ray([poisoned], layout.shards_planned(), layout, num_workers={"annotate": 1}))
    assert main(["status", str(layout.root), "--json"]) == 1
    found = json_of(capsys)
    assert list(found["set_aside"]) == ["annotate/000000"]
    assert found["stages"]["annotate"]["shards_done"] == found["num_shards"] - 1
    assert main(["verify", str(layout.root)]) == 1
    assert "no shard is set aside" in capsys.readouterr().err
    typed = ["run", str(road.urls), "--out", str(layout.root), *SETTINGS]
    assert main(typed) == 0
    assert canonical(layout) == canonical(undisturbed)


def test_a_shard_whose_stage_raises_makes_the_run_exit_with_1(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    root = str(layout.root)
    assert main(["plan", root, "--urls", str(road.urls), *SETTINGS]) == 0
    assert main(["fetch", root]) == 0
    # Same size, other bytes: what the receipt's sizes cannot see, annotate must.
    tar = layout.images("000000")
    tar.write_bytes(bytes(tar.stat().st_size))
    capsys.readouterr()
    assert main(["annotate", root, "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["stages"]["annotate"]["set_aside"] == 1
    assert "annotate 000000 set_aside: ManifestError: " in err
    assert len(layout.manifests()) == len(layout.shards_planned()) - 1


def test_a_cluster_without_the_gpu_that_was_asked_for_is_one_line(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["run", str(road.urls), "--out", str(tmp_path / "dataset"), *SETTINGS]
    assert main([*typed, "--runner", "ray", "--provider", "cuda"]) == 2
    assert "insight-curate: the Ray cluster has 0 GPUs" in capsys.readouterr().err


def test_a_cluster_too_small_for_a_worker_is_one_line_and_not_a_wait_without_end(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["run", str(road.urls), "--out", str(tmp_path / "dataset"), *SETTINGS]
    assert main([*typed, "--runner", "ray", "--threads", "256"]) == 2
    assert "insight-curate: an annotate worker claims --threads 256" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_exit_130_and_the_dataset_resumes(
    road: Road, undisturbed: DatasetLayout, tmp_path: Path
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    typed = ["run", str(road.urls), "--out", str(layout.root), *SETTINGS]
    # A job in the background inherits an ignored SIGINT; what is typed at a terminal does not.
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        started = subprocess.Popen([CLI, *typed], stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, own)
    try:
        # The second shard holds the slow troubles: it takes its whole deadline.
        wait_for(layout.receipt("fetch", "000000"), started)
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=30)
    finally:
        started.kill()
        started.wait()
    assert started.returncode == 130, err
    assert err.splitlines()[-1] == (
        "insight-curate: interrupted; what is done stays, the same command continues"
    )
    assert "Traceback" not in err
    assert len(layout.manifests()) < len(layout.shards_planned())
    assert main([*typed, "--resume"]) == 0
    assert canonical(layout) == canonical(undisturbed)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_two_runs_cannot_work_on_one_dataset(
    road: Road, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    root = str(layout.root)
    assert main(["plan", root, "--urls", str(road.urls), *SETTINGS]) == 0
    command = parse(["run", str(road.urls), "--out", root, *SETTINGS])
    curate = curate_config(command.dataset, command.worker)  # type: ignore[union-attr]
    config = plan_dataset(road.urls, layout, curate)

    def second_run(_: object) -> None:
        run_stages(layout, config, ["fetch"], MachineConfig())

    with pytest.raises(UsageError, match="another run is working on it"):
        run_stages(layout, config, ["fetch"], MachineConfig(), second_run)


def test_a_retry_on_ray_ends_as_a_local_one(
    undisturbed: DatasetLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retried = []
    for runner in ("local", "ray"):
        layout = DatasetLayout(tmp_path / runner)
        shutil.copytree(undisturbed.root, layout.root)
        workers = ["--workers", "1"] if runner == "ray" else []
        capsys.readouterr()
        typed = ["retry", str(layout.root), "--codes", "http_500,http_404", "--json"]
        assert main([*typed, "--runner", runner, *workers]) == 0
        found = json_of(capsys)
        assert found["became"] == {"failed": 2, "http_404": 1, "http_500": 1}
        assert main(["verify", str(layout.root)]) == 0
        retried.append(canonical(layout))
    assert retried[0] == retried[1]
    assert retried[0] != canonical(undisturbed)


@pytest.mark.parametrize(
    "address", [pytest.param("own cluster", marks=pytest.mark.long), "joined cluster"]
)
def test_the_command_runs_on_a_cluster_of_its_own_and_on_one_it_joins(
    address: str, road: Road, undisturbed: DatasetLayout, tmp_path: Path
) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    typed = ["run", str(road.urls), "--out", str(layout.root), *SETTINGS]
    options = ["--runner", "ray", "--workers", "1"]
    if address == "joined cluster":
        options += ["--ray-address", ray.get_runtime_context().gcs_address]
    # Run from elsewhere: workers must find the dataset and the package all the same.
    done = subprocess.run(
        [CLI, *typed, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Warning" not in done.stderr
    assert canonical(layout) == canonical(undisturbed)
