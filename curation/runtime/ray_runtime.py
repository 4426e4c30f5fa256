"""The Ray runner: a pool of actors per stage; the only file that imports Ray.

Ray Core rather than Ray Data, because a shard that kills its worker must be seen, counted and set
aside one by one: each actor holds one shard at a time, so a dead actor names its shard. Ray
carries shard names one way and receipts the other; rows and pixels stay in files. Fetch and
annotate overlap: a shard moves to the annotate queue when its fetch receipt arrives.

On a cluster of several machines the dataset folder must be a path that all of them see, and this
package must be installed on every node (the driver sends no code).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from annotations_schema.errors import InsightTokError, UsageError
from annotations_schema.layout import DatasetLayout
from curation.runtime.stage import (
    MAX_ATTEMPTS,
    Attempt,
    EventKind,
    ShardEvent,
    Stage,
    Step,
    attempt,
    begin,
    failed_attempt,
    first_steps,
    next_step,
    one_line,
)

OBJECT_STORE_BYTES = 100 * 2**20
_WAIT_S = 1.0
_START_S = 90.0
# Ray may not restart or repeat by itself: it would hide a death from the count.
_NO_RESTART = {"max_restarts": 0, "max_task_retries": 0}


@contextlib.contextmanager
def cluster(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """A connection to Ray: the one this process has, the cluster at `address`, or a new local one.

    While it lasts, standard output goes to standard error: Ray prints deaths of workers there.

    Args:
        address: `HOST:PORT`, `auto` (a cluster running on this machine), or None to start one.
        num_cpus: CPUs of a new local cluster; None takes all that this machine offers.

    Raises:
        UsageError: no cluster answers at `address`.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield
            return
        _connect(address, num_cpus)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None, num_cpus: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray warns of a coming change in how it hides GPUs from CPU tasks; this is the new behaviour.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # "local" and not None: None would join whatever cluster runs on this machine.
    local: dict[str, Any] = {
        "address": "local",
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    options = {"address": address} if address else local
    overdue = threading.Timer(_START_S, _abandon_start)
    overdue.daemon = True
    overdue.start()
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # a node that does not start raises a bare Exception
        if address is None:
            raise InsightTokError(f"Ray did not start: {one_line(str(error))}") from error
        raise UsageError(
            f"no Ray cluster at {address!r} ({one_line(str(error))}); start one with "
            "`ray start --head`, or leave --ray-address away"
        ) from error
    finally:
        overdue.cancel()


def _abandon_start() -> None:
    """End this process: where a node dies while Ray connects, Ray may wait for it for ever.

    Nothing is under way yet, and the run's lock goes with the process.
    """
    sys.stderr.write(
        f"insight-curate: Ray did not start within {_START_S:g} s; the same command continues\n"
    )
    sys.stderr.flush()
    os._exit(1)


def available_cpus() -> int:
    """CPUs of the connected cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


def largest_node_cpus() -> int:
    """CPUs of the node of the connected cluster that has most."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return max((int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]), default=0)


def available_gpus() -> int:
    """GPUs of the connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def run_ray(
    stages: Sequence[Stage],
    shards: Sequence[str],
    layout: DatasetLayout,
    *,
    num_workers: Mapping[str, int],
    threads: int = 1,
    gpus: float = 0.0,
    hung_after_s: Mapping[str, float] | None = None,
) -> Iterator[ShardEvent]:
    """Run `stages` over `shards` on the connected cluster and yield what happens, as it happens.

    Args:
        stages: in the order a shard passes through them.
        shards: six-digit ids.
        layout: the dataset; the same path on every node.
        num_workers: most actors per stage name; fewer start where there is less work.
        threads: threads of the numeric libraries in each actor.
        gpus: GPUs, or the share of one, that each annotate actor claims.
        hung_after_s: per stage name, how long a shard may take before its worker is killed and an
            attempt is counted, seconds; stages that it does not name have all the time.

    Raises:
        InsightTokError: what `Stage.open` raised, or that workers die while they open.
    """
    pool = _Pool(stages, layout, num_workers, threads, gpus, hung_after_s or {})
    for step, found in first_steps(layout, stages, shards):
        yield from found
        if step.index < len(stages):
            pool.waiting[step.index].append(step.name)
    try:
        yield from pool.run()
    finally:
        pool.close()


class _Worker:
    """What runs in an actor process: one opened stage."""

    def __init__(self, stage: Stage, threads: int) -> None:
        # Here and not by Ray's runtime_env, which costs every actor a fresh interpreter (1.2 s):
        # the numeric libraries read these when `open` loads them.
        os.environ.update(thread_environment(threads))
        self.stage = stage

    def open(self) -> int:
        """The process id, once the stage is ready."""
        self.stage.open()
        return os.getpid()

    def run(self, shard: str) -> Attempt:
        return attempt(self.stage, shard)


@dataclass(slots=True, eq=False)
class _Slot:
    """An actor, the stage it serves, and the shard it holds (or will hold once it is open)."""

    actor: Any
    index: int
    shard: str | None
    is_open: bool = False
    started_s: float = math.inf
    """When its call began, on the monotonic clock; infinite before the first."""


class _Pool:
    """The state of a run: shards waiting per stage, idle slots, one call in each busy slot."""

    def __init__(
        self,
        stages: Sequence[Stage],
        layout: DatasetLayout,
        num_workers: Mapping[str, int],
        threads: int,
        gpus: float,
        hung_after_s: Mapping[str, float],
    ) -> None:
        self.stages = stages
        self.layout = layout
        self.num_workers = [max(1, num_workers[stage.name]) for stage in stages]
        self.threads = threads
        self.gpus = gpus
        self.hung_after_s = [hung_after_s.get(stage.name, math.inf) for stage in stages]
        self.waiting: list[deque[str]] = [deque() for _ in stages]
        self.idle: list[list[_Slot]] = [[] for _ in stages]
        self.busy: dict[Any, _Slot] = {}
        self.num_failed: Counter[tuple[int, str]] = Counter()
        self.num_open_deaths = 0

    def run(self) -> Iterator[ShardEvent]:
        """Drive the pool until every shard has a receipt of some kind."""
        while True:
            for index in range(len(self.stages)):
                yield from self._assign(index)
            if not self._has_work():
                return
            ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=_WAIT_S)
            if not ready:
                _check_alive()
            for call in ready:
                yield from self._finish(call, self.busy.pop(call))
            for call in [call for call, slot in self.busy.items() if self._is_hung(slot)]:
                yield from self._give_up(self.busy.pop(call))

    def close(self) -> None:
        """Stop every actor; shards they hold are done again by a later run."""
        for slot in [*self.busy.values(), *(slot for idle in self.idle for slot in idle)]:
            ray.kill(slot.actor)
        self.busy.clear()

    def _has_work(self) -> bool:
        # An actor that still waits for a free CPU holds no shard and must not hold up the end.
        return any(self.waiting) or any(slot.shard is not None for slot in self.busy.values())

    def _assign(self, index: int) -> Iterator[ShardEvent]:
        waiting, idle = self.waiting[index], self.idle[index]
        while waiting and idle:
            yield self._submit(idle.pop(), waiting.popleft())
        slots = [slot for slot in self.busy.values() if slot.index == index]
        opening = sum(not slot.is_open and slot.shard is None for slot in slots)
        wanted = min(self.num_workers[index] - len(slots) - len(idle), len(waiting) - opening)
        for _ in range(wanted):
            self._start(index, shard=None)

    def _start(self, index: int, *, shard: str | None) -> None:
        """A fresh actor; `shard` is kept for it, so that a retry meets a clean process."""
        stage = self.stages[index]
        # Fetch waits for the network: it must not take the CPUs that annotate counts on, and
        # without a CPU to claim it would crowd on one node.
        options = (
            {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
            if stage.name == "fetch"
            else {"num_cpus": self.threads, "num_gpus": self.gpus}
        )
        worker: Any = ray.remote(_Worker)
        actor = worker.options(**_NO_RESTART, **options).remote(stage, self.threads)
        self.busy[actor.open.remote()] = _Slot(actor, index, shard)

    def _submit(self, slot: _Slot, shard: str) -> ShardEvent:
        event = begin(self.layout, self.stages[slot.index], shard)
        slot.shard = shard
        slot.started_s = time.monotonic()
        self.busy[slot.actor.run.remote(shard)] = slot
        return event

    def _finish(self, call: Any, slot: _Slot) -> Iterator[ShardEvent]:
        if not slot.is_open:
            yield from self._finish_open(call, slot)
            return
        shard = slot.shard
        assert shard is not None
        slot.shard = None
        try:
            receipt, error = ray.get(call)
        except RayError as death:
            receipt, error = None, f"its worker process died: {_cause(death)}"
        if receipt is None:
            yield from self._retry(slot, shard, error)
            return
        self.idle[slot.index].append(slot)
        yield ShardEvent(
            stage=self.stages[slot.index].name, shard=shard, kind=EventKind.DONE, receipt=receipt
        )
        yield from self._go_on(slot.index, shard, is_done=True)

    def _finish_open(self, call: Any, slot: _Slot) -> Iterator[ShardEvent]:
        try:
            ray.get(call)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except RayError as death:
            self._count_open_death(slot, death)
            self._start(slot.index, shard=slot.shard)
            return
        slot.is_open = True
        self.num_open_deaths = 0
        if slot.shard is None:
            self.idle[slot.index].append(slot)
        else:
            yield self._submit(slot, slot.shard)

    def _count_open_death(self, slot: _Slot, death: RayError) -> None:
        self.num_open_deaths += 1
        if self.num_open_deaths >= MAX_ATTEMPTS:
            raise InsightTokError(
                f"{self.num_open_deaths} workers of stage {self.stages[slot.index].name} died one "
                f"after another before they were ready ({_cause(death)}): see memory and Ray's logs"
            )

    def _retry(self, slot: _Slot, shard: str, error: str) -> Iterator[ShardEvent]:
        ray.kill(slot.actor)
        self.num_failed[slot.index, shard] += 1
        event = failed_attempt(
            self.layout,
            self.stages[slot.index],
            shard,
            num_attempts=self.num_failed[slot.index, shard],
            error=error,
        )
        yield event
        if event.kind is EventKind.RETRIED:
            self._start(slot.index, shard=shard)
        else:
            yield from self._go_on(slot.index, shard, is_done=False)

    def _is_hung(self, slot: _Slot) -> bool:
        return time.monotonic() - slot.started_s > self.hung_after_s[slot.index]

    def _give_up(self, slot: _Slot) -> Iterator[ShardEvent]:
        """Kill a worker that has been silent for far longer than its shard may take."""
        assert slot.shard is not None
        patience_s = self.hung_after_s[slot.index]
        yield from self._retry(slot, slot.shard, f"its worker hung for {patience_s:g} s; killed")

    def _go_on(self, index: int, name: str, *, is_done: bool) -> Iterator[ShardEvent]:
        step, events = next_step(self.layout, self.stages, Step(index, name), is_done=is_done)
        yield from events
        if step is not None:
            self.waiting[step.index].append(step.name)


def _check_alive() -> None:
    """See that a node is left: without one no call ends, and Ray would wait for another for ever.

    Raises:
        InsightTokError: every node has died.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if not any(node["Alive"] for node in nodes):
        raise InsightTokError(
            "every node of the Ray cluster has died; what is done stays, the same command continues"
        )


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that keep the numeric libraries of a worker to `threads` threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def _cause(error: RayError) -> str:
    """What Ray says of a death, without its advice."""
    text = one_line(str(error))
    _, found, detail = text.partition("Worker exit detail: ")
    return (detail if found else text).split(" Some common causes")[0]
