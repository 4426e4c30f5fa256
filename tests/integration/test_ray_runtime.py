"""The Ray runner on a real local cluster, with small stages that really die."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from annotations_schema.errors import WeightsError
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    atomic_write,
    output_files,
    read_receipt,
    write_receipt,
)
from curation.passes.fetched import fetch_inputs
from curation.runtime.ray_runtime import available_cpus, available_gpus, cluster, run_ray
from curation.runtime.stage import MAX_ATTEMPTS, EventKind, ShardEvent

pytestmark = pytest.mark.ray

SHARDS = [f"{number:06d}" for number in range(5)]
ROWS = 10
NUM_WORKERS = {"fetch": 2, "annotate": 2}


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    # Workers cannot import a test module by name: its classes travel by value.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with cluster(num_cpus=2):
        yield


@pytest.fixture
def layout(tmp_path: Path) -> DatasetLayout:
    planned = DatasetLayout(tmp_path)
    for shard in SHARDS:
        write_receipt(
            planned,
            Receipt(stage="plan", shard=shard, config_sha256="p" * 64, outputs={}, rows=ROWS),
        )
    return planned


@dataclass
class CopyStage:
    """Writes one file per shard, and notes in `log/` which process did what."""

    root: Path
    name: str = "fetch"
    config_sha256: str = "c" * 64
    poison: tuple[str, ...] = ()
    kill_once: str = ""
    broken: str = ""

    def open(self) -> None:
        if self.broken == "weights":
            raise WeightsError("no weights")
        if self.broken == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        self._note("open")

    def run(self, shard: str) -> Receipt:
        self._note(shard)
        if shard in self.poison:
            self._fail(shard)
        layout = DatasetLayout(self.root)
        output = layout.fetch(shard) if self.name == "fetch" else layout.annotations(shard)
        text = "" if self.name == "fetch" else layout.fetch(shard).read_text()
        with atomic_write(output) as temporary:
            temporary.write_text(f"{text}{self.name} {shard}\n")
        marker = self.root / "killed"
        if shard == self.kill_once and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        receipt = Receipt(
            stage=self.name,
            shard=shard,
            config_sha256=self.config_sha256,
            outputs=output_files(layout, [output]),
            rows=ROWS,
            inputs=fetch_inputs(layout, shard) if self.name == "annotate" else {},
            counts={"ok": ROWS},
        )
        write_receipt(layout, receipt)
        return receipt

    def close(self) -> None:
        pass

    def _fail(self, shard: str) -> None:
        os._exit(3)

    def _note(self, what: str) -> None:
        folder = self.root / "log"
        folder.mkdir(exist_ok=True)
        with (folder / f"{self.name}-{os.getpid()}").open("a") as file:
            file.write(what + "\n")


class HangingStage(CopyStage):
    """Never comes back from a poisoned shard the first time."""

    def _fail(self, shard: str) -> None:
        marker = self.root / "hung"
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            time.sleep(600)


class RequeueingStage(CopyStage):
    """Leaves rows of the first shard for a further pass."""

    def run(self, shard: str) -> Receipt:
        if shard == SHARDS[0]:
            again = Receipt(
                stage="plan", shard=f"{shard}.1", config_sha256="p" * 64, outputs={}, rows=3
            )
            write_receipt(DatasetLayout(self.root), again)
        return super().run(shard)


class RaisingStage(CopyStage):
    def _fail(self, shard: str) -> None:
        raise RuntimeError(f"no luck with {shard}")


def run(
    layout: DatasetLayout,
    *stages: CopyStage,
    num_workers: dict[str, int] = NUM_WORKERS,
    hung_after_s: dict[str, float] | None = None,
) -> list[ShardEvent]:
    return list(run_ray(stages, SHARDS, layout, num_workers=num_workers, hung_after_s=hung_after_s))


def kinds(events: list[ShardEvent]) -> Counter[tuple[str, EventKind]]:
    return Counter((event.stage, event.kind) for event in events)


def notes(layout: DatasetLayout, stage: str) -> dict[str, list[str]]:
    return {
        path.name: path.read_text().split() for path in (layout.root / "log").glob(f"{stage}-*")
    }


def test_shards_pass_through_pools_that_open_each_worker_once(layout: DatasetLayout) -> None:
    stages = (CopyStage(layout.root), CopyStage(layout.root, "annotate"))
    events = run(layout, *stages)
    assert kinds(events)["annotate", EventKind.DONE] == len(SHARDS)
    assert [layout.annotations(shard).read_text() for shard in SHARDS] == [
        f"fetch {shard}\nannotate {shard}\n" for shard in SHARDS
    ]
    for stage in ("fetch", "annotate"):
        workers = notes(layout, stage)
        assert 1 <= len(workers) <= NUM_WORKERS[stage]
        assert all(lines[0] == "open" and "open" not in lines[1:] for lines in workers.values())
        assert sorted(line for lines in workers.values() for line in lines[1:]) == SHARDS
    assert str(os.getpid()) not in {name.split("-")[1] for name in notes(layout, "fetch")}

    receipts = {path: path.stat().st_mtime_ns for path in layout.root.rglob("*.json")}
    assert {event.kind for event in run(layout, *stages)} == {EventKind.SKIPPED}
    assert {path: path.stat().st_mtime_ns for path in receipts} == receipts


def test_a_worker_killed_between_data_and_receipt_is_replaced(layout: DatasetLayout) -> None:
    events = run(layout, CopyStage(layout.root, kill_once=SHARDS[1]))
    assert kinds(events) == {
        ("fetch", EventKind.STARTED): len(SHARDS) + 1,
        ("fetch", EventKind.RETRIED): 1,
        ("fetch", EventKind.DONE): len(SHARDS),
    }
    retried = next(event for event in events if event.kind is EventKind.RETRIED)
    assert retried.shard == SHARDS[1]
    assert "its worker process died" in retried.detail
    # The second attempt ran in a process that had done nothing before.
    assert ["open", SHARDS[1]] in [lines[:2] for lines in notes(layout, "fetch").values()]


def test_a_shard_that_kills_every_worker_is_set_aside_after_three(layout: DatasetLayout) -> None:
    stages = (
        CopyStage(layout.root, poison=(SHARDS[0],)),
        CopyStage(layout.root, "annotate"),
    )
    events = run(layout, *stages)
    attempts = [line for lines in notes(layout, "fetch").values() for line in lines]
    assert attempts.count(SHARDS[0]) == MAX_ATTEMPTS
    receipt = read_receipt(layout, "fetch", SHARDS[0])
    assert receipt is not None
    assert receipt.set_aside is not None
    assert receipt.set_aside.startswith("3 attempts; the last: its worker process died")
    assert receipt.outputs == {}
    assert kinds(events)["annotate", EventKind.DONE] == len(SHARDS) - 1

    again = run(layout, CopyStage(layout.root), CopyStage(layout.root, "annotate"))
    assert {event.shard for event in again if event.kind is EventKind.DONE} == {SHARDS[0]}
    assert kinds(again)["annotate", EventKind.DONE] == 1


def test_an_exception_counts_as_an_attempt_and_its_message_is_kept(layout: DatasetLayout) -> None:
    events = run(layout, RaisingStage(layout.root, poison=(SHARDS[4],)))
    assert kinds(events)["fetch", EventKind.RETRIED] == MAX_ATTEMPTS - 1
    receipt = read_receipt(layout, "fetch", SHARDS[4])
    assert receipt is not None
    assert receipt.set_aside == "3 attempts; the last: RuntimeError: no luck with 000004"
    assert kinds(events)["fetch", EventKind.DONE] == len(SHARDS) - 1


def test_a_worker_that_hangs_is_killed_and_counts_as_an_attempt(layout: DatasetLayout) -> None:
    stage = HangingStage(layout.root, poison=(SHARDS[1],))
    events = run(layout, stage, hung_after_s={"fetch": 1.5})
    assert kinds(events) == {
        ("fetch", EventKind.STARTED): len(SHARDS) + 1,
        ("fetch", EventKind.RETRIED): 1,
        ("fetch", EventKind.DONE): len(SHARDS),
    }
    (retried,) = (event for event in events if event.kind is EventKind.RETRIED)
    assert (retried.shard, retried.detail) == (SHARDS[1], "its worker hung for 1.5 s; killed")
    hung = (layout.root / "hung").read_text()
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{hung}").exists():
        assert time.monotonic() < deadline_s, "the hung worker lives"
        time.sleep(0.05)


def test_a_further_pass_comes_after_the_other_shards_and_before_annotate(
    layout: DatasetLayout,
) -> None:
    stages = (RequeueingStage(layout.root), CopyStage(layout.root, "annotate"))
    events = run(layout, *stages, num_workers={"fetch": 1, "annotate": 1})
    fetched = [
        event.shard for event in events if (event.stage, event.kind) == ("fetch", EventKind.DONE)
    ]
    assert fetched == [*SHARDS, f"{SHARDS[0]}.1"]
    done = [(event.stage, event.shard) for event in events if event.kind is EventKind.DONE]
    assert done[-1] == ("annotate", SHARDS[0])
    assert kinds(events)["fetch", EventKind.REQUEUED] == 1
    assert kinds(events)["annotate", EventKind.DONE] == len(SHARDS)
    assert {event.kind for event in run(layout, *stages)} == {
        EventKind.SKIPPED,
        EventKind.REQUEUED,
    }


def test_an_error_of_open_reaches_the_driver_as_it_was_raised(layout: DatasetLayout) -> None:
    with pytest.raises(WeightsError, match=r"^no weights$"):
        run(layout, CopyStage(layout.root, broken="weights"))


def test_workers_that_die_while_they_open_end_the_run(layout: DatasetLayout) -> None:
    with pytest.raises(Exception, match="workers of stage fetch died one after another"):
        run(layout, CopyStage(layout.root, broken="death"), num_workers={"fetch": 1})


def test_workers_claim_the_gpus_they_were_promised(layout: DatasetLayout) -> None:
    """On a cluster without GPU an actor that claims one never starts; fetch claims none."""
    events = run_ray(
        [CopyStage(layout.root), CopyStage(layout.root, "annotate")],
        SHARDS,
        layout,
        num_workers=NUM_WORKERS,
        gpus=1,
    )
    seen = list(itertools.islice(events, 2 * len(SHARDS)))
    events.close()  # type: ignore[attr-defined]
    assert {event.stage for event in seen} == {"fetch"}
    assert notes(layout, "annotate") == {}


def test_the_cluster_offers_the_cpus_it_was_given() -> None:
    assert (available_cpus(), available_gpus()) == (2, 0)


def test_a_cluster_that_never_answers_is_given_up_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        code = (
            "from curation.runtime import ray_runtime\n"
            "ray_runtime._START_S = 2.0\n"
            f"with ray_runtime.cluster({address!r}): pass\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    assert run.returncode == 1
    assert run.stderr.endswith("Ray did not start within 2 s; the same command continues\n")
