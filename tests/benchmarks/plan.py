"""Planning of long lists: rows per second, and the peak memory of a process that does nothing else.

As a program it plans one list in this process and prints both as JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotations_schema.layout import DatasetLayout
from curation.plan.plan import PlanConfig, plan

NUM_ROWS = 1_000_000
_ROW_GROUP = 1_000_000


def bench_plan(num_rows: int = NUM_ROWS) -> None:
    """A tenth of the rows and all of them, each in a process of its own: memory must not grow."""
    print(f"\nPlan a Parquet list of URLs and captions, 2 % of them duplicates, {num_rows:,} rows")
    for rows in (num_rows // 10, num_rows):
        folder = Path(tempfile.mkdtemp(prefix="bench-plan-"))
        try:
            source = folder / "list.parquet"
            write_list(source, rows)
            child = [sys.executable, "-m", "tests.benchmarks.plan", str(source)]
            told = subprocess.run(child, check=True, capture_output=True, text=True).stdout
        finally:
            shutil.rmtree(folder)
        found = json.loads(told)
        print(
            f"  {rows:>11,} rows {found['seconds']:8.1f} s {rows / found['seconds']:10,.0f} rows/s"
            f"   peak RSS {found['peak_rss_mib']:,.0f} MiB ({found['start_rss_mib']:,.0f} MiB "
            f"before), {found['num_shards']:,} shards"
        )


def write_list(path: Path, num_rows: int) -> None:
    """A list as crawls have them: 95 % plain URLs, 3 % that need parsing, 2 % seen before."""
    with pq.ParquetWriter(str(path), pa.schema([("url", "string"), ("alt", "string")])) as writer:
        for first in range(0, num_rows, _ROW_GROUP):
            rows = range(first, min(first + _ROW_GROUP, num_rows))
            urls = list(_urls(rows))
            alt = [f"a picture of something, number {row}" for row in rows]
            writer.write_table(pa.table({"url": urls, "alt": alt}), row_group_size=_ROW_GROUP)


def _urls(rows: range) -> Iterator[str]:
    random = np.random.default_rng(rows.start)
    kinds, tokens = random.random(len(rows)), random.bytes(8 * len(rows)).hex()
    for place, (row, kind) in enumerate(zip(rows, kinds.tolist(), strict=True)):
        if kind < 0.02:
            yield f"https://cdn.example.com/often/{row % 1000}.jpg"
            continue
        token = tokens[16 * place : 16 * place + 16]
        host = f"img{row % 997}.example.com" if kind > 0.03 else "Img.EXAMPLE.com"
        name = "photo" if kind > 0.05 else "caf\u00e9 au lait"
        yield f"https://{host}/uploads/2024/{token}/{name}-{row}.jpg?w=1024"


def _peak_rss_mib() -> float:
    # Not getrusage: what it tells of a child begins with the peak of its parent.
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak_kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak_kib) / 1024


def _plan_here(source: Path) -> None:
    start_rss_mib, started = _peak_rss_mib(), time.perf_counter()
    shards = plan(
        source, DatasetLayout(source.parent / "dataset"), PlanConfig(caption_column="alt")
    )
    found = {
        "seconds": time.perf_counter() - started,
        "start_rss_mib": start_rss_mib,
        "peak_rss_mib": _peak_rss_mib(),
        "num_shards": len(shards),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    _plan_here(Path(sys.argv[1]))
