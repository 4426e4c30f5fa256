"""Run the benchmarks: python -m tests.benchmarks [NAME ...]. Every figure is of this run.

`--rows` says how long a list `plan` plans. `quality` runs only where it is named: it needs a folder
of annotated photographs, by `--data` or INSIGHTTOK_DATA, and takes `--limit` images of each kind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

from annotations_schema.errors import UsageError
from tests.benchmarks import (
    adaptive,
    annotate,
    curation,
    evaluate,
    fetch,
    loader,
    online,
    plan,
    quality,
    quantizer,
    ranks,
    regions,
    resume,
    step,
)
from tests.benchmarks.timing import machine

BENCHMARKS: dict[str, Callable[[], None]] = {
    "decode": curation.bench_decode,
    "fetch": fetch.bench_fetch,
    "fetch_courtesy": fetch.bench_fetch_courtesy,
    "annotate": annotate.bench_annotate,
    "plan": plan.bench_plan,
    "resume": resume.bench_resume,
    "receipts": resume.bench_receipts,
    "region_crops": regions.bench_region_crops,
    "quantizer": quantizer.bench_quantizer,
    "region_losses": regions.bench_region_losses,
    "online": online.bench_online,
    "step": step.bench_step,
    "adaptive": adaptive.bench_adaptive,
    "loader": loader.bench_loader,
    "ranks": ranks.bench_ranks,
    "evaluate": evaluate.bench_evaluate,
}


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rows", type=int, default=plan.NUM_ROWS)
    parser.add_argument("--data", help="folder of annotated photographs, for `quality`")
    parser.add_argument("--limit", type=int, help="most images of each kind, for `quality`")
    typed = parser.parse_args(arguments)
    names = typed.names
    BENCHMARKS["plan"] = partial(plan.bench_plan, typed.rows)
    if "quality" in names:
        BENCHMARKS["quality"] = partial(quality.bench_quality, typed.data, typed.limit)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(
            f"no benchmark {unknown}: choose from {', '.join(BENCHMARKS)}, quality", file=sys.stderr
        )
        return 2
    print(machine())
    for name, bench in BENCHMARKS.items():
        if names and name not in names:
            continue
        try:
            bench()
        except UsageError as error:
            print(error, file=sys.stderr)
            return 2
    print(f"\n{machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
