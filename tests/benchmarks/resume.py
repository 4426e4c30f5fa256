"""What safety costs: resuming a finished dataset, and receipts and fsync within a fetch."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

from annotations_schema import layout as layout_module
from annotations_schema import manifest as manifest_module
from annotations_schema.layout import DatasetLayout, OutputFile
from curation.annotate import stage as annotate_module
from curation.annotate.config import AnnotateConfig
from curation.annotate.stage import AnnotateStage
from curation.demo.server import ServedFile, TroubleServer
from curation.fetch import stage as fetch_module
from curation.fetch import tar as tar_module
from curation.fetch.config import FetchConfig
from curation.fetch.stage import FetchStage
from curation.plan.plan import PlanConfig, plan
from curation.runtime.stage import Stage
from tests.benchmarks.photos import photos
from tests.benchmarks.timing import interleaved, show

NUM_SHARDS = 1000
NUM_IMAGES = 200
NUM_ANNOTATED = 50
ROUNDS = 5
FETCH_ROUNDS = 41
"""A round takes a third of a second, so chance weighs more."""
_SAFETY: list[tuple[ModuleType, str, object]] = [
    (layout_module, "_sync", None),
    (manifest_module, "output_file", OutputFile(bytes=0, sha256="0" * 64)),
    (tar_module, "output_file", OutputFile(bytes=0, sha256="0" * 64)),
    (fetch_module, "write_receipt", None),
    (annotate_module, "write_receipt", None),
]
"""What the benchmark does without, and what is answered instead: fsync, hashes, receipts."""
_CLI = str(Path(sysconfig.get_path("scripts")) / "insight-curate")


def bench_resume() -> None:
    """`insight-curate run` on a finished dataset of 1,000 shards, a process each time."""
    folder = Path(tempfile.mkdtemp(prefix="bench-resume-"))
    try:
        # Rows that planning refuses: every stage really runs, and no request is made.
        urls = folder / "list.txt"
        urls.write_text("".join(f"ftp://host/{row}.jpg\n" for row in range(2 * NUM_SHARDS)))
        typed = [_CLI, "run", str(urls), "--out", str(folder / "dataset"), "--shard-size", "2"]
        typed += ["--text-detector", "none", "--face-detector", "none"]

        def again() -> None:
            subprocess.run(typed, check=True, capture_output=True)

        again()
        timings = interleaved(
            {
                "insight-curate run, all done before": again,
                "insight-curate --help": lambda: subprocess.run(
                    [_CLI, "--help"], check=True, capture_output=True
                ),
            },
            rounds=ROUNDS,
        )
    finally:
        shutil.rmtree(folder)
    show(f"Resume a finished dataset of {NUM_SHARDS:,} shards", timings)


def bench_receipts() -> None:
    """What fsync, the hashes in receipts and receipts add to the wall time."""
    pictures = photos()
    files = {f"/{i}.jpg": ServedFile(pictures[i % len(pictures)]) for i in range(NUM_IMAGES)}
    folder = Path(tempfile.mkdtemp(prefix="bench-receipts-"))
    try:
        with TroubleServer(files) as server:
            urls = [server.url(path) for path in files]
            layout = _planned(folder / "fetch", urls)
            fetch = FetchStage(layout.root, FetchConfig(threads=16, allow_private_network=True))
            with contextlib.closing(fetch):
                fetch.open()
                _show_share("Safety in fetch from loopback", layout, [fetch], FETCH_ROUNDS)
            layout = _planned(folder / "both", urls[:NUM_ANNOTATED])
            fetch = FetchStage(layout.root, FetchConfig(threads=16, allow_private_network=True))
            annotate = AnnotateStage(layout.root, AnnotateConfig())
            with contextlib.closing(fetch), contextlib.closing(annotate):
                fetch.open()
                annotate.open()
                _show_share(
                    "Safety in fetch and annotate, one thread", layout, [fetch, annotate], ROUNDS
                )
    finally:
        shutil.rmtree(folder)


def _planned(root: Path, urls: Sequence[str]) -> DatasetLayout:
    """One shard of `urls`."""
    root.mkdir()
    (root / "list.txt").write_text("\n".join(urls))
    layout = DatasetLayout(root / "dataset")
    plan(root / "list.txt", layout, PlanConfig(shard_size=len(urls)))
    return layout


def _show_share(title: str, layout: DatasetLayout, stages: Sequence[Stage], rounds: int) -> None:
    """Wall time with and without, in turn; what overlaps with other work costs nothing."""
    (shard,) = layout.shards_planned()

    def run() -> None:
        # Annotate would look at no image that an earlier manifest has.
        layout.annotations(shard).unlink(missing_ok=True)
        for stage in stages:
            stage.run(shard)

    def run_without() -> None:
        with contextlib.ExitStack() as patched:
            for module, name, answer in _SAFETY:
                nothing = mock.Mock(return_value=answer)
                patched.enter_context(mock.patch.object(module, name, nothing))
            run()

    timings = interleaved({"with": run, "without": run_without}, rounds=rounds)
    pairs = zip(timings["with"].seconds, timings["without"].seconds, strict=True)
    shares = [1 - without / whole for whole, without in pairs]
    show(title, timings)
    low, high = min(shares), max(shares)
    print(f"  share of wall time {statistics.median(shares):6.2%}  ({low:.2%}..{high:.2%})")
