"""Honest timings: contestants interleaved A B A B, medians and spread, ratios round by round."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds of each round of one contestant."""

    seconds: list[float]

    @property
    def median_s(self) -> float:
        """Median over rounds, seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Least and largest round, seconds."""
        return f"{min(self.seconds):.4g}..{max(self.seconds):.4g}"


def interleaved(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int = 5, repeat: int = 1
) -> dict[str, Timing]:
    """Run every contestant once to warm up, then in turn, `rounds` times.

    Args:
        contestants: name -> what to time.
        rounds: counted rounds.
        repeat: calls per round; the time is that of one call.
    """
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            for _ in range(repeat):
                run()
            seconds[name].append((time.perf_counter() - started) / repeat)
    return {name: Timing(times) for name, times in seconds.items()}


def ratio(timings: Mapping[str, Timing], slower: str, faster: str) -> str:
    """Median of the ratios round by round, with the least and the largest."""
    pairs = zip(timings[slower].seconds, timings[faster].seconds, strict=True)
    ratios = [a / b for a, b in pairs]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})"


def machine() -> str:
    """Processor, cores in use, system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.partition(":")[2].strip() for x in lines if "model name" in x), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = "/".join(f"{x:.1f}" for x in os.getloadavg())
    python = platform.python_version()
    return f"{model}, {cores} cores, {platform.system()}, Python {python}, load {load}"


def show(
    title: str, timings: Mapping[str, Timing], units: Mapping[str, float] | None = None
) -> None:
    """Print a table; `units` holds how many items a call handles, for items per second."""
    print(f"\n{title}")
    for name, timing in timings.items():
        rate = f"  {units[name] / timing.median_s:9.1f}/s" if units else ""
        print(f"  {name:44s} {timing.median_s * 1000:10.2f} ms{rate}  ({timing.spread} s)")
