"""Annotation side by side: the stage, a bare loop over its detectors, the script a user writes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2

from annotations_schema import DatasetLayout
from annotations_schema.images import decode
from annotations_schema.manifest import read_manifest
from curation.annotate.config import AnnotateConfig
from curation.annotate.detectors import load_face_detector, load_text_detector
from curation.annotate.onnx_session import session_options
from curation.annotate.stage import AnnotateStage
from tests.benchmarks.photos import photos
from tests.benchmarks.timing import Timing, interleaved, ratio, show
from tests.fetched_datasets import SHARD, write_pass

ROUNDS = 5
RAY_SHARDS, RAY_SHARD_SIZE = 16, 3

PEAK_OF_A_WORKER = """
import sys
from pathlib import Path
from curation.annotate.config import AnnotateConfig
from curation.annotate.stage import AnnotateStage
stage = AnnotateStage(Path(sys.argv[1]), AnnotateConfig(threads=int(sys.argv[2])))
stage.open()
stage.run(sys.argv[3])
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""


def pictures() -> list[bytes]:
    """Four photographs of 448 x 320 px, a printed page, photographed words, six faces."""
    files = [
        ("skimage", "data/page.png"),
        ("skimage", "data/text.png"),
        ("insightface", "data/images/t1.jpg"),
    ]
    encoded = photos()
    for package, relative in files:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        encoded.append(Path(spec.origin).with_name("data").parent.joinpath(relative).read_bytes())
    return encoded


def bench_annotate() -> None:
    """One thread, two threads, the memory of a worker, and two Ray workers beside one."""
    folder = Path(tempfile.mkdtemp(prefix="bench-annotate-"))
    try:
        layout = DatasetLayout(folder / "dataset")
        encoded = pictures()
        named = {f"{number}.jpg": data for number, data in enumerate(encoded)}
        write_pass(layout, SHARD, named, {name: n for n, name in enumerate(named)})
        paths = [folder / name for name in named]
        for path, data in zip(paths, encoded, strict=True):
            path.write_bytes(data)
        for threads in (1, 2):
            _bench_threads(layout, paths, threads)
        for threads in (1, 2):
            command = [
                sys.executable,
                "-c",
                PEAK_OF_A_WORKER,
                str(layout.root),
                str(threads),
                SHARD,
            ]
            _forget(layout)
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"  peak RSS of a worker, {threads} threads: {int(done.stdout) / 1024:.0f} MiB")
        _bench_ray_workers(DatasetLayout(folder / "ray"))
    finally:
        shutil.rmtree(folder)


def _bench_threads(layout: DatasetLayout, paths: Sequence[Path], threads: int) -> None:
    stage = AnnotateStage(layout.root, AnnotateConfig(threads=threads))
    stage.open()

    def ours() -> None:
        cv2.setNumThreads(1)  # as the stage sets it; the scripts get what they were given
        _forget(layout)
        assert stage.run(SHARD).counts["reused"] == 0

    contestants: dict[str, Callable[[], object]] = {}
    if threads == 1:
        contestants["bare loop over the same detectors"] = _bare_loop(layout)
        contestants["script: rapidocr's predictor, faces"] = _script(paths, threads, {})
    contestants["script: rapidocr without reading, faces"] = _script(
        paths, threads, {"use_cls": False, "use_rec": False}
    )
    contestants["annotate stage"] = ours
    timings = interleaved(contestants, rounds=ROUNDS)
    title = f"Annotate {len(paths)} images, text and faces, {threads} threads each"
    show(title, timings, dict.fromkeys(timings, float(len(paths))))
    for name in contestants:
        if name != "annotate stage":
            print(f"  {name} over ours: {ratio(timings, name, 'annotate stage')}")


def _forget(layout: DatasetLayout) -> None:
    """Without its receipt a manifest vouches for nothing: every image is looked at again."""
    layout.receipt("annotate", SHARD).unlink(missing_ok=True)


def _bare_loop(layout: DatasetLayout) -> Callable[[], None]:
    config = AnnotateConfig()
    text = load_text_detector(config.text_detector, config.text_options)
    faces = load_face_detector(config.face_detector, config.face_options)
    assert text is not None
    assert faces is not None
    tar = layout.images(SHARD).read_bytes()
    rows = read_manifest(layout.fetch(SHARD)).select(["offset", "length"]).to_pylist()

    def bare() -> None:
        for row in rows:
            image, _ = decode(tar[row["offset"] : row["offset"] + row["length"]])
            text.detect(image)
            faces.detect(image)

    return bare


def _script(paths: Sequence[Path], threads: int, how: dict[str, bool]) -> Callable[[], None]:
    """What a user writes from the libraries' own pages; only the threads are pinned as ours."""
    import onnxruntime
    import retinaface
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    face_session = onnxruntime.InferenceSession(
        retinaface.weights.WEIGHTS, sess_options=session_options(threads)
    )

    def script() -> None:
        # The package keeps its session in a global and would give it every core.
        retinaface.ONNX_SESSION = face_session
        cv2.setNumThreads(threads)
        for path in paths:
            engine(str(path), **how)
            retinaface.detect_faces(retinaface.read_image(str(path)))

    return script


def _bench_ray_workers(layout: DatasetLayout) -> None:
    from curation.runtime.ray_runtime import cluster

    encoded = photos()
    shards = [f"{number:06d}" for number in range(RAY_SHARDS)]
    for number, shard in enumerate(shards):
        numbers = {f"{shard}-{n}.jpg": RAY_SHARD_SIZE * number + n for n in range(RAY_SHARD_SIZE)}
        images = {name: encoded[n % len(encoded)] for name, n in numbers.items()}
        write_pass(layout, shard, images, numbers)
    seconds: dict[str, list[float]] = {"1 worker": [], "2 workers": []}
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    with cluster(num_cpus=2):
        for _ in range(ROUNDS):
            seconds["1 worker"].append(_working_time_s(layout, shards, 1))
            seconds["2 workers"].append(_working_time_s(layout, shards, 2))
    timings = {name: Timing(times) for name, times in seconds.items()}
    images_each = float(RAY_SHARDS * RAY_SHARD_SIZE)
    show("Annotate on Ray, workers of one thread", timings, dict.fromkeys(timings, images_each))
    print(f"  one worker's time over two's: {ratio(timings, '1 worker', '2 workers')}")


def _working_time_s(layout: DatasetLayout, shards: Sequence[str], num_workers: int) -> float:
    """From the first shard's start to the last one's end: how long workers take to open is not
    of interest here, and they open together.
    """
    from curation.runtime.ray_runtime import run_ray

    for shard in shards:
        layout.receipt("annotate", shard).unlink(missing_ok=True)
    stage = AnnotateStage(layout.root, AnnotateConfig())
    first = last = 0.0
    for event in run_ray([stage], shards, layout, num_workers={"annotate": num_workers}):
        last = time.perf_counter()
        first = first or last
        assert event.kind in ("started", "done"), event
    return last - first
