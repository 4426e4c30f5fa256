"""Fetching, side by side: img2dataset's own command, our stage, and what each courtesy costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import trustme

from annotations_schema.layout import DatasetLayout
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Guard, tls_context
from curation.fetch.log import FetchLog
from curation.fetch.opener import SafeOpener
from curation.fetch.stage import FetchStage
from curation.fetch.web import Web, address_rule
from curation.plan.plan import PlanConfig, plan
from tests.benchmarks.image_server import serving
from tests.benchmarks.photos import photos
from tests.benchmarks.timing import Timing, interleaved, ratio, show

NUM_IMAGES = 1000
NUM_POLITE = 480
THREADS = 16
ROUNDS = 5
CONFIG = FetchConfig(threads=THREADS, allow_private_network=True)
THEIRS = "img2dataset's command (its shard)"
OURS = "insight-curate, every guard"
VARIANTS = {
    OURS: CONFIG,
    "  without robots.txt": replace(CONFIG, respect_robots_txt=False),
    "  without keep-alive": replace(CONFIG, keep_alive=False),
}


def bench_fetch() -> None:
    """Our stage, receipts and fsync included, against img2dataset's command line.

    Of both only the time for the shard counts: of the command what it notes itself, without its
    start and its imports.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-fetch-"))
    with serving(_files(NUM_IMAGES)) as port:
        urls = [f"http://127.0.0.1:{port}/{i}.jpg" for i in range(NUM_IMAGES)]
        (folder / "urls.txt").write_text("\n".join(urls))
        runs = {name: _stage(folder, name, config) for name, config in VARIANTS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in (THEIRS, *runs)}
        starts: list[float] = []
        for run in runs.values():
            run()
        for _ in range(ROUNDS):
            started = time.perf_counter()
            seconds[THEIRS].append(_img2dataset(folder))
            starts.append(time.perf_counter() - started - seconds[THEIRS][-1])
            for name, run in runs.items():
                seconds[name].append(run())
    timings = {name: Timing(times) for name, times in seconds.items()}
    title = f"Fetch {NUM_IMAGES} images from a loopback server, {THREADS} threads"
    show(title, timings, dict.fromkeys(timings, float(NUM_IMAGES)))
    print(f"  URLs/s, ours over img2dataset's: {ratio(timings, THEIRS, OURS)}")
    print(f"  its start, not counted: {Timing(starts).median_s:.1f} s")
    for name in list(VARIANTS)[1:]:
        print(f"  every guard over{name.replace('  ', ' ')}: {ratio(timings, OURS, name)} the time")
    shutil.rmtree(folder)


def bench_fetch_courtesy() -> None:
    """What robots.txt costs by the number of hosts, and what keep-alive saves over TLS."""
    with tempfile.TemporaryDirectory(prefix="bench-fetch-") as name:
        folder = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "authority.pem")
        key_and_chain = folder / "server.pem"
        authority.issue_cert("host0.test").private_key_and_cert_chain_pem.write_to_path(
            key_and_chain
        )
        tls = tls_context(folder / "authority.pem")
        guard = Guard(lambda host, port: ["127.0.0.1"], address_rule(CONFIG), tls)
        files = _files(NUM_POLITE)
        with serving(files) as plain, serving(files, key_and_chain) as secure:
            contestants: dict[str, Callable[[], None]] = {}
            for hosts in (NUM_POLITE, NUM_POLITE // 20, 1):
                urls = [f"http://host{i % hosts}.test:{plain}/{i}.jpg" for i in range(NUM_POLITE)]
                for label, config in list(VARIANTS.items())[:2]:
                    contestants[f"{hosts} hosts, {label.strip()}"] = partial(
                        _open_all, urls, config, guard
                    )
            urls = [f"https://host0.test:{secure}/{i}.jpg" for i in range(NUM_POLITE)]
            contestants["TLS, keep-alive"] = partial(_open_all, urls, CONFIG, guard)
            no_reuse = replace(CONFIG, keep_alive=False)
            contestants["TLS, without keep-alive"] = partial(_open_all, urls, no_reuse, guard)
            timings = interleaved(contestants, rounds=ROUNDS)
    title = f"Courtesy: {NUM_POLITE} URLs, {THREADS} threads, the opener alone"
    show(title, timings, dict.fromkeys(timings, float(NUM_POLITE)))
    names = list(timings)
    for polite, rude in zip(names[0:6:2], names[1:6:2], strict=True):
        print(f"  {polite.split(',')[0]}: robots.txt costs {ratio(timings, polite, rude)} the time")
    print(f"  over TLS keep-alive is {ratio(timings, names[7], names[6])} as fast")


def _files(number: int) -> dict[str, bytes]:
    pictures = photos()
    return {f"/{i}.jpg": pictures[i % len(pictures)] for i in range(number)}


def _stage(folder: Path, name: str, config: FetchConfig) -> Callable[[], float]:
    layout = DatasetLayout(folder / name.strip())
    (shard,) = plan(folder / "urls.txt", layout, PlanConfig())
    stage = FetchStage(layout.root, config)

    def run() -> float:
        stage.open()  # anew: what a worker remembers of hosts must not help the next round
        started = time.perf_counter()
        receipt = stage.run(shard)
        seconds = time.perf_counter() - started
        stage.close()
        assert receipt.counts == {"ok": NUM_IMAGES}
        return seconds

    return run


def _img2dataset(folder: Path) -> float:
    """Seconds that img2dataset's command took for the shard, as it noted itself."""
    out = folder / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    options = {
        "url_list": folder / "urls.txt",
        "input_format": "txt",
        "output_folder": out,
        "output_format": "webdataset",
        "processes_count": 1,
        "thread_count": THREADS,
        "number_sample_per_shard": NUM_IMAGES,
        "resize_mode": "no",
        "disable_all_reencoding": True,
        "timeout": 10,
    }
    command = [str(Path(sys.executable).with_name("img2dataset"))]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}  # it would ask the network
    subprocess.run(command, check=True, env=quiet, capture_output=True)
    stats = json.loads((out / "00000_stats.json").read_text())
    assert stats["successes"] == NUM_IMAGES
    return float(stats["end_time"] - stats["start_time"])


def _open_all(urls: list[str], config: FetchConfig, guard: Guard) -> None:
    web = Web(config, guard)
    opener = SafeOpener(config, FetchLog(), web)
    with ThreadPool(THREADS) as threads:
        assert all(threads.imap_unordered(lambda url: opener.open(url).read(), urls))
    web.close()
