"""SIGKILL at random moments: after a resume the manifests equal those of an undisturbed run.

A seed draws whom to kill and when: the driver of a local run, the driver of a run on Ray, a worker
on Ray, the raylet (a whole Ray node). `make test` draws one, `make test-all` thirty-five more.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import canonical_json_lines, read_manifest
from curation.demo.server import ServedFile, TroubleServer

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CLI = str(Path(sysconfig.get_path("scripts")) / "insight-curate")
NUM_PICTURES = 96
SETTINGS = ("--shard-size", "8", "--allow-private-network", "--text-detector", "none")
ON_RAY = ("--runner", "ray", "--workers", "2", "--fetch-workers", "1")
LONGEST_RUN_S = 120.0
SHORT_SEEDS = (1,)
LONG_SEEDS = (0, *range(2, 36))


class Process(NamedTuple):
    pid: int
    command: str


@dataclass(frozen=True)
class Victim:
    """Whom a seed kills: the run's further options, and how to find the process."""

    name: str
    options: tuple[str, ...]
    find: Callable[[int], list[Process]]
    ends_by_itself: bool
    """Whether the run must go on to its end without the victim."""


def descendants(pid: int) -> list[Process]:
    """All living processes below `pid`, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[Process] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            found.append(Process(child, command_of(child)))
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def named(*parts: str) -> Callable[[int], list[Process]]:
    """Finds descendants whose command line begins with, or whose program is, one of `parts`."""
    return lambda pid: [
        one
        for one in descendants(pid)
        if any(one.command.startswith(part) or f"/{part} " in one.command for part in parts)
    ]


VICTIMS = (
    Victim("driver of a local run", (), lambda pid: [Process(pid, "")], False),
    Victim("driver on Ray", ON_RAY, lambda pid: [Process(pid, "")], False),
    Victim("worker", ON_RAY, named("ray::_Worker"), True),
    Victim("raylet", ON_RAY, named("raylet"), False),
)


@dataclass(frozen=True)
class Undisturbed:
    urls: Path
    manifests: dict[str, str]
    elapsed_s: dict[tuple[str, ...], float]
    """How long a run takes, by its further options."""


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, coffee: np.ndarray
) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    files = {
        f"/{number}.jpg": ServedFile(jpeg(shifted(number, (astronaut, coffee)[number % 2])))
        for number in range(NUM_PICTURES)
    }
    with TroubleServer(files, picture=files["/0.jpg"].data) as server:
        urls = folder / "list.txt"
        listed = [server.url(path) for path in files]
        # Bad rows and missing pictures are rows too.
        listed += [server.url("/absent.jpg"), "ftp://a.example/x.jpg", listed[0]]
        urls.write_text("\n".join(listed) + "\n")
        elapsed_s = {}
        for options in ((), ON_RAY):
            started = time.monotonic()
            root = folder / f"dataset{len(options)}"
            run = subprocess.run(typed(urls, root, options), capture_output=True, check=False)
            assert run.returncode == 0, run.stderr.decode()
            elapsed_s[options] = time.monotonic() - started
        manifests = contents(DatasetLayout(folder / "dataset0"))
        assert contents(DatasetLayout(folder / f"dataset{len(ON_RAY)}")) == manifests
        yield Undisturbed(urls, manifests, elapsed_s)


def shifted(number: int, photo: np.ndarray) -> np.ndarray:
    """A picture of its own for each number, so that no two rows have the same bytes."""
    return np.roll(photo[::2, ::2], number, axis=1)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def typed(urls: Path, root: Path, options: Sequence[str]) -> list[str]:
    return [CLI, "run", str(urls), "--out", str(root), *SETTINGS, *options]


def contents(layout: DatasetLayout) -> dict[str, str]:
    """The manifest of each shard in its canonical form, and its images."""
    shards = layout.shards_planned()
    assert [path.stem for path in layout.manifests()] == shards
    return {
        shard: canonical_json_lines(read_manifest(layout.annotations(shard)))
        + layout.images(shard).read_bytes().hex()
        for shard in shards
    }


def run_and_kill(
    command: Sequence[str], victim: Victim, moment_s: float, draw: random.Random, said: Path
) -> int:
    """Start the run, kill the victim once, wait for the end; its exit code. `said` is its stderr.

    A victim that is not there yet at the moment drawn is waited for: the run may still be loading.
    """
    started = time.monotonic()
    # Not a pipe: agents of a dead raylet live on for a while and would hold it open.
    with said.open("wb") as told:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
    try:
        while time.monotonic() - started < moment_s and process.poll() is None:
            time.sleep(0.01)
        found: list[Process] = []
        while not found and process.poll() is None:
            found = victim.find(process.pid)
            time.sleep(0.01)
        family = descendants(process.pid)
        if found and process.poll() is None:
            os.kill(draw.choice(found).pid, signal.SIGKILL)
        process.wait(timeout=LONGEST_RUN_S)
    finally:
        process.kill()
    wait_for_end(family)
    return process.returncode


def wait_for_end(family: Sequence[Process]) -> None:
    """Ray's workers end with their driver; until then they could still write.

    An agent of Ray's dashboard, where it is installed, may outlive them: it is ended here.
    """
    deadline = time.monotonic() + 30
    while left := [one for one in family if command_of(one.pid) == one.command]:
        if not any(one.command.startswith("ray::_Worker") for one in left):
            for one in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


def check_seed(seed: int, undisturbed: Undisturbed, root: Path) -> None:
    draw = random.Random(seed)
    victim = VICTIMS[seed % len(VICTIMS)]
    moment_s = draw.uniform(0.2, 1.0) * undisturbed.elapsed_s[victim.options]
    command = typed(undisturbed.urls, root, victim.options)
    log = root.with_name("stderr.txt")
    code = run_and_kill(command, victim, moment_s, draw, log)
    said = log.read_text(errors="replace")
    if victim.ends_by_itself:
        assert code == 0, said
    else:
        assert code != 0 or len(list((root / "annotations").iterdir())) > 0, said
        resumed = subprocess.run(
            typed(undisturbed.urls, root, ()), capture_output=True, check=False
        )
        assert resumed.returncode == 0, resumed.stderr.decode()
    assert contents(DatasetLayout(root)) == undisturbed.manifests
    verified = subprocess.run([CLI, "verify", str(root)], capture_output=True, check=False)
    assert verified.returncode == 0, verified.stderr.decode()


@pytest.mark.parametrize("seed", SHORT_SEEDS)
def test_a_kill_at_a_random_moment_changes_nothing(
    seed: int, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    check_seed(seed, undisturbed, tmp_path / "dataset")


@pytest.mark.long
@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_thirty_five_kills_at_random_moments_change_nothing(
    seed: int, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    check_seed(seed, undisturbed, tmp_path / "dataset")
