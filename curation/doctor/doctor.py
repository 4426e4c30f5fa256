"""Whether a machine is fit for a long run: each check says what it found and what would mend it.

Checks here look at the machine and at a dataset's folder; `network` asks resolvers and stores,
`detectors` loads the networks. A check changes nothing but files of its own, which
it removes.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GIB = 2**30
DISK_FAIL_GIB, DISK_WARN_GIB = 1, 50
INODES_WARN = 100_000
MEMORY_FAIL_GIB, MEMORY_WARN_GIB = 1, 4
SHM_WARN_GIB = 1
FSYNC_WARN_MS = 50.0
CLOCK_WARN_S = 0.5
DESCRIPTORS_PER_DOWNLOAD = 3
"""A socket, the resolver's, and what else is open for a moment."""
DESCRIPTORS_OF_A_PROCESS = 256
"""Libraries, logs, Ray."""
LIBRARIES = ("open-insighttok", "ray", "img2dataset", "onnxruntime", "opencv-python", "pyarrow")


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    """What was found, with figures."""
    mend: str = ""
    """What to do; empty where nothing is."""

    def __str__(self) -> str:
        mend = f"; {self.mend}" if self.mend else ""
        return f"{self.verdict:<4} {self.name}: {self.detail}{mend}"


def graded(name: str, detail: str, *, fails: bool, warns: bool, mend: str) -> Check:
    """A check from two conditions; the mend is told where one holds."""
    verdict = Verdict.FAIL if fails else Verdict.WARN if warns else Verdict.OK
    return Check(name=name, verdict=verdict, detail=detail, mend=mend if verdict != "ok" else "")


def check_machine(root: Path | None, *, fetch_threads: int, fetch_workers: int) -> list[Check]:
    """Everything that needs neither network nor weights.

    Args:
        root: the dataset's folder or where it will be; None where it is in an object store.
        fetch_threads: downloads at a time in each fetch worker.
        fetch_workers: fetch workers on this machine.
    """
    checks = [
        check_libraries(LIBRARIES),
        check_ray(),
        check_descriptors(soft_limit_of_descriptors(), fetch_threads, fetch_workers),
        check_cpus(len(os.sched_getaffinity(0)), os.cpu_count() or 1, cpu_quota()),
        check_memory(available_memory_bytes()),
        check_shared_memory(Path("/dev/shm")),
        check_clock(),
        check_disk("temporary folder", Path(tempfile.gettempdir())),
    ]
    if root is None:
        return checks
    existing = nearest_existing(root)
    if not existing.is_dir():
        detail, mend = f"{existing} is a file", "give the folder of a dataset"
        return [*checks, Check(name="disk", verdict=Verdict.FAIL, detail=detail, mend=mend)]
    return [*checks, check_disk("disk", existing), check_writing(existing)]


def check_libraries(names: Sequence[str]) -> Check:
    """Every distribution the pipeline stands on, with its version."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    absent = [name for name, one in found.items() if one is None]
    listed = ", ".join(f"{name} {one or 'absent'}" for name, one in found.items())
    return graded(
        "libraries",
        f"{python}, {listed}",
        fails=bool(absent),
        warns=False,
        mend="install open-insighttok[curation,embedded] with constraints.txt",
    )


def check_ray() -> Check:
    """Whether --runner ray can be chosen; the module is found, not started."""
    is_there = importlib.util.find_spec("ray") is not None
    return graded(
        "ray",
        "can be imported" if is_there else "is not installed",
        fails=False,
        warns=not is_there,
        mend="only --runner local works; install open-insighttok[curation]",
    )


def soft_limit_of_descriptors() -> int:
    """Most open files of a process of this user."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_descriptors(soft_limit: int, fetch_threads: int, fetch_workers: int) -> Check:
    """Whether a fetch worker can keep its sockets open; the limit is per process."""
    needed = DESCRIPTORS_OF_A_PROCESS + DESCRIPTORS_PER_DOWNLOAD * fetch_threads
    on_machine = needed * fetch_workers
    return graded(
        "file descriptors",
        f"limit {soft_limit:,} a process; a fetch worker of {fetch_threads} threads needs about "
        f"{needed:,}, {fetch_workers} of them {on_machine:,}",
        fails=soft_limit < needed,
        warns=soft_limit < 2 * needed,
        mend=f"ulimit -n {max(4096, 4 * needed)}, or fewer --fetch-threads",
    )


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the control group grants, of version 2 or 1; None where it sets no limit."""
    try:
        quota, _, period = (root / "cpu.max").read_text().partition(" ")
    except OSError:
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def check_cpus(usable: int, present: int, quota: float | None) -> Check:
    """CPUs of the machine, those this process may use, and what the container grants of them."""
    grant = "no quota" if quota is None else f"quota {quota:g}"
    return graded(
        "CPUs",
        f"{present} present, {usable} usable by affinity, {grant}",
        fails=False,
        warns=quota is not None and quota < usable,
        mend=f"give --workers so that threads add up to {quota or usable:g}: libraries and Ray "
        "count the CPUs they see, not the quota",
    )


def available_memory_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Memory that may still be taken: of the machine, or of the control group where that is less.

    Raises:
        OSError: there is no such system file.
    """
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    machine = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        most = (cgroup / "memory.max").read_text().strip()
        taken = int((cgroup / "memory.current").read_text())
    except OSError:
        return machine
    return machine if most == "max" else min(machine, max(0, int(most) - taken))


def check_memory(available: int) -> Check:
    """Memory for workers: each holds its networks, some decoded images and a shard's rows."""
    return graded(
        "memory",
        f"{available / GIB:.1f} GiB available",
        fails=available < MEMORY_FAIL_GIB * GIB,
        warns=available < MEMORY_WARN_GIB * GIB,
        mend="fewer --workers (about 1 GiB each), or a larger machine",
    )


def check_shared_memory(path: Path) -> Check:
    """Room for Ray's object store; without it Ray falls back to files and is slow to start."""
    free = shutil.disk_usage(path).free if path.is_dir() else 0
    return graded(
        "shared memory",
        f"{free / GIB:.1f} GiB free in {path}",
        fails=False,
        warns=free < SHM_WARN_GIB * GIB,
        mend="start the container with --shm-size=2g",
    )


def check_clock() -> Check:
    """Whether the wall clock runs as the steady one does; deadlines use the latter."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.05)
    drift = (time.time() - wall) - (time.monotonic() - steady)
    return graded(
        "clock",
        f"wall clock {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC, {drift * 1000:+.1f} "
        "ms against the steady clock in 50 ms",
        fails=time.gmtime().tm_year < 2024,
        warns=abs(drift) > CLOCK_WARN_S,
        mend="set the clock (NTP): certificates are checked against it, receipts carry it",
    )


def nearest_existing(root: Path) -> Path:
    """The path itself, or the nearest one above that exists."""
    path = root.absolute()
    while not path.exists():
        path = path.parent
    return path


def check_disk(name: str, folder: Path) -> Check:
    """Room and inodes of the file system of a folder."""
    free = shutil.disk_usage(folder).free
    stats = os.statvfs(folder)
    has_inodes = stats.f_files > 0  # btrfs and the like count none
    few_inodes = has_inodes and stats.f_favail < INODES_WARN
    inodes = f"{stats.f_favail:,} inodes" if has_inodes else "inodes without number"
    return graded(
        name,
        f"{free / GIB:.1f} GiB and {inodes} free at {folder}",
        fails=free < DISK_FAIL_GIB * GIB,
        warns=free < DISK_WARN_GIB * GIB or few_inodes,
        mend="100 million images of 100 kB take 10 TB; choose a larger disk, or --max-side",
    )


def check_writing(folder: Path) -> Check:
    """Writes, syncs and renames a file as every publication does; says how long the sync takes."""
    path = folder / f".doctor.{uuid.uuid4().hex[:12]}"
    renamed = path.with_suffix(".renamed")
    took = []
    try:
        for _ in range(5):
            with path.open("wb") as file:
                file.write(b"x" * 65536)
                file.flush()
                started = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - started)
            path.replace(renamed)
    except OSError as error:
        return Check(
            name="writing",
            verdict=Verdict.FAIL,
            detail=f"{folder}: {error.strerror}",
            mend="make the folder writable for this user, or choose another",
        )
    finally:
        for one in (path, renamed):
            one.unlink(missing_ok=True)
    median_ms = 1000 * sorted(took)[len(took) // 2]
    return graded(
        "writing",
        f"write, fsync and rename work in {folder}; fsync of 64 KiB takes {median_ms:.1f} ms",
        fails=False,
        warns=median_ms > FSYNC_WARN_MS,
        mend="every shard syncs a handful of files: use larger shards or a faster disk",
    )
