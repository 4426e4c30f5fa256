"""Run the benchmarks: python -m tests.benchmarks [NAME ...]. Every figure is of this run."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.benchmarks import curation, training
from tests.benchmarks.timing import machine

BENCHMARKS: dict[str, Callable[[], None]] = {
    "decode": curation.bench_decode,
    "fetch": curation.bench_fetch,
    "annotate": curation.bench_annotate,
    "region_crops": training.bench_region_crops,
    "quantizer": training.bench_quantizer,
    "region_losses": training.bench_region_losses,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark {unknown}: choose from {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    print(machine())
    for name, bench in BENCHMARKS.items():
        if not names or name in names:
            bench()
    print(f"\n{machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
