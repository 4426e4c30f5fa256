"""What annotate takes from Ray: no byte of the object store, and its share of a GPU."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    atomic_write,
    output_files,
    write_receipt,
)
from annotations_schema.manifest import read_manifest
from curation.cli import main
from curation.demo.server import ServedFile, TroubleServer
from curation.passes.fetched import fetch_inputs
from curation.runtime.ray_runtime import cluster, run_ray
from tests.fetched_datasets import write_pass

pytestmark = pytest.mark.ray

MEBIBYTE = 1 << 20
SHARDS = ["000000", "000001"]


@pytest.fixture(scope="module", autouse=True)
def two_cpus_and_a_gpu() -> Iterator[None]:
    """Two CPUs, and one GPU that Ray only counts; the raylet writes its statistics often."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_event_stats_print_interval_ms", "200")
        patch.setattr(ray, "init", _with_a_gpu(ray.init))
        with cluster(num_cpus=2):
            yield


def _with_a_gpu(init):
    return lambda **options: init(**options, num_gpus=1)


def created_bytes() -> int:
    """Bytes that the object store was ever asked to hold, as the raylet tells."""
    time.sleep(1.0)  # several of its intervals
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    found = re.findall(r"num bytes created total: (\d+)", (logs / "raylet.out").read_text())
    return int(found[-1])


def test_the_gauge_sees_what_is_put_into_the_store() -> None:
    before = created_bytes()
    held = ray.put(np.zeros(MEBIBYTE, np.uint8))
    assert created_bytes() - before >= MEBIBYTE
    del held


def test_images_never_pass_through_the_object_store(tmp_path: Path, astronaut: np.ndarray) -> None:
    files = {f"/{n}.png": ServedFile(png(np.roll(astronaut, 9 * n, axis=1))) for n in range(12)}
    with TroubleServer(files) as server:
        source = tmp_path / "list.txt"
        source.write_text("\n".join(server.url(path) for path in files))
        layout = DatasetLayout(tmp_path / "dataset")
        typed = ["run", str(source), "--out", str(layout.root), "--shard-size", "4"]
        before = created_bytes()
        options = ["--allow-private-network", "--text-detector", "none", "--runner", "ray"]
        assert main([*typed, *options]) == 0
        created = created_bytes() - before
    stored = sum(layout.images(shard).stat().st_size for shard in layout.shards_planned())
    assert sum(sum(read_manifest(path)["num_faces"].to_pylist()) for path in layout.manifests()) > 9
    assert stored > 4 * MEBIBYTE
    assert created < 64 * 1024


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class MeetingStage:
    """Each worker waits until the other is there: both must run at the same time."""

    root: Path
    name: str = "annotate"
    config_sha256: str = "c" * 64

    def open(self) -> None:
        pass

    def run(self, shard: str) -> Receipt:
        (self.root / f"here-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while len(list(self.root.glob("here-*"))) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError("the other worker never came")
            time.sleep(0.05)
        layout = DatasetLayout(self.root)
        with atomic_write(layout.annotations(shard)) as temporary:
            temporary.write_text(shard)
        receipt = Receipt(
            stage=self.name,
            shard=shard,
            config_sha256=self.config_sha256,
            outputs=output_files(layout, [layout.annotations(shard)]),
            rows=1,
            inputs=fetch_inputs(layout, shard),
        )
        write_receipt(layout, receipt)
        return receipt

    def close(self) -> None:
        pass


def test_two_workers_share_one_gpu(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    for number, shard in enumerate(SHARDS):
        write_pass(layout, shard, {f"{shard}.png": None}, {f"{shard}.png": number})
    stage = MeetingStage(tmp_path)
    events = list(run_ray([stage], SHARDS, layout, num_workers={"annotate": 2}, gpus=0.5))
    assert sorted(event.shard for event in events if event.kind == "done") == SHARDS
    assert len(list(tmp_path.glob("here-*"))) == 2
