"""What safety costs: resuming a finished dataset, and receipts and fsync within a fetch."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from annotations_schema import layout as layout_module
from annotations_schema.layout import DatasetLayout
from curation.annotate import stage as annotate_module
from curation.annotate.config import AnnotateConfig
from curation.annotate.stage import AnnotateStage
from curation.demo.server import ServedFile, TroubleServer
from curation.fetch import stage as fetch_module
from curation.fetch.config import FetchConfig
from curation.fetch.stage import FetchStage
from curation.plan.plan import PlanConfig, plan
from curation.runtime.stage import Stage
from tests.benchmarks.photos import photos
from tests.benchmarks.timing import interleaved, show

NUM_SHARDS = 1000
NUM_IMAGES = 200
ROUNDS = 5
_PARTS = {
    "fsync": [(layout_module, "_sync")],
    "hashes of outputs": [(fetch_module, "output_files"), (annotate_module, "output_files")],
    "receipts": [(fetch_module, "write_receipt"), (annotate_module, "write_receipt")],
}
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
    """The share of wall time that goes to fsync, to the hashes in receipts and to receipts."""
    pictures = photos()
    files = {f"/{i}.jpg": ServedFile(pictures[i % len(pictures)]) for i in range(NUM_IMAGES)}
    folder = Path(tempfile.mkdtemp(prefix="bench-receipts-"))
    try:
        with TroubleServer(files) as server:
            (folder / "list.txt").write_text("\n".join(server.url(path) for path in files))
            layout = DatasetLayout(folder / "dataset")
            plan(folder / "list.txt", layout, PlanConfig(shard_size=NUM_IMAGES))
            fetch = FetchStage(layout.root, FetchConfig(threads=16, allow_private_network=True))
            annotate = AnnotateStage(layout.root, AnnotateConfig())
            with contextlib.closing(fetch), contextlib.closing(annotate):
                fetch.open()
                annotate.open()
                print(f"\nSafety's share of wall time, {NUM_IMAGES} images, {ROUNDS} rounds")
                _show_shares("fetch from loopback", layout, [fetch])
                _show_shares(
                    "fetch and annotate, text and faces, one thread", layout, [fetch, annotate]
                )
    finally:
        shutil.rmtree(folder)


def _show_shares(title: str, layout: DatasetLayout, stages: Sequence[Stage]) -> None:
    (shard,) = layout.shards_planned()
    shares: dict[str, list[float]] = {part: [] for part in (*_PARTS, "together")}
    for number in range(ROUNDS + 1):
        # Annotate would look at no image that an earlier manifest has.
        layout.annotations(shard).unlink(missing_ok=True)
        started = time.perf_counter()
        with _counted() as spent:
            for stage in stages:
                stage.run(shard)
        took = time.perf_counter() - started
        if number:  # the first one warms up
            for part, seconds in {**spent, "together": sum(spent.values())}.items():
                shares[part].append(seconds / took)
    print(f"  {title}")
    for part, of_part in shares.items():
        spread = f"{min(of_part):.2%}..{max(of_part):.2%}"
        print(f"    {part:20s} {statistics.median(of_part):6.2%}  ({spread})")


@contextlib.contextmanager
def _counted() -> Iterator[dict[str, float]]:
    """Seconds spent in each part; fsync within a receipt counts as fsync."""
    spent = dict.fromkeys(_PARTS, 0.0)

    def counted(part: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started, before = time.perf_counter(), sum(spent.values())
            try:
                return do(*args, **kwargs)
            finally:
                within = sum(spent.values()) - before
                spent[part] += time.perf_counter() - started - within

        return timed

    with contextlib.ExitStack() as patched:
        for part, places in _PARTS.items():
            for module, name in places:
                do = counted(part, getattr(module, name))
                patched.enter_context(mock.patch.object(module, name, do))
        yield spent
