"""The machine of a run: in this process or on Ray, and how wide; never what comes out of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from curation.annotate.config import AnnotateConfig
from curation.annotate.protocols import Provider
from curation.config import CurateConfig
from curation.runtime.local import run_local
from curation.runtime.stage import ShardEvent, Stage, first_steps

CONNECT_S = 5.0


class Runner(StrEnum):
    """What carries the stages over the shards."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Where and how wide a run works; never what comes out of it."""

    runner: Runner = Runner.LOCAL
    """In this process, or on Ray."""
    ray_address: str | None = None
    """A cluster to join, `HOST:PORT` or `auto`; None starts one on this machine."""
    workers: int | None = None
    """Annotate workers on Ray; None: as many as the cluster has CPUs for."""
    fetch_workers: int | None = None
    """Fetch workers on Ray; None: one for four annotate workers, or `workers` without annotate."""
    gpus_per_worker: float = 1.0
    """GPUs that each annotate worker claims on Ray where it computes on one; with 0.25 four share
    one."""

    def __post_init__(self) -> None:
        for name in ("workers", "fetch_workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        gpus = self.gpus_per_worker
        # Ray's own rule: a worker has a share of one GPU, or whole ones.
        if not (0 < gpus <= 1 or (gpus > 1 and gpus.is_integer())):
            raise UsageError(f"gpus_per_worker is {gpus:g}; give a share of one, or a whole number")
        if self.ray_address is not None and self.runner is not Runner.RAY:
            raise UsageError(f"ray_address {self.ray_address!r} is for --runner ray; add it")


def check_cluster(machine: MachineConfig) -> None:
    """See that something listens at the cluster's address: Ray itself would try for minutes.

    Raises:
        UsageError: not `auto` or HOST:PORT, or nothing listens there.
    """
    address = _ray_address(machine)
    if machine.runner is not Runner.RAY or address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"Ray address {address!r} is not HOST:PORT; give that, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"nothing answers at the Ray address {address} ({error}); start a cluster there with "
            "`ray start --head`, or leave --ray-address away"
        ) from error


def events(
    stages: Sequence[Stage],
    shards: Sequence[str],
    layout: DatasetLayout,
    machine: MachineConfig,
    curate: CurateConfig,
) -> Generator[ShardEvent, None, None]:
    """What happens while the machine carries `shards` through `stages`.

    Args:
        stages: in the order a shard passes through them.
        shards: six-digit ids.
        layout: the dataset.
        machine: where to run.
        curate: says what a worker of each stage needs, and how long fetch may take.

    Raises:
        UsageError: no Ray cluster at the address, or none with the CPUs or GPUs of a worker.
    """
    if machine.runner is Runner.LOCAL or not _has_work(stages, shards, layout):
        yield from run_local(stages, shards, layout)
        return
    from curation.runtime import ray_runtime

    threads = curate.annotate.threads
    num_cpus = None if machine.workers is None else machine.workers * threads
    with ray_runtime.cluster(_ray_address(machine), num_cpus=num_cpus):
        _check_room(stages, threads, ray_runtime.largest_node_cpus())
        available = ray_runtime.available_gpus()
        gpus = _gpus_per_worker(stages, curate.annotate, machine, available)
        room = int(available / gpus) if gpus else ray_runtime.available_cpus() // threads
        workers = machine.workers or max(1, room)
        # Fetch waits for the network, so a few of its workers keep many annotate workers busy.
        fetch_workers = machine.fetch_workers or (max(1, workers // 4) if stages[1:] else workers)
        yield from ray_runtime.run_ray(
            stages,
            shards,
            layout,
            num_workers={"fetch": fetch_workers, "annotate": workers},
            threads=threads,
            gpus=gpus,
            hung_after_s={"fetch": curate.fetch.hung_after_s},
        )


def _has_work(stages: Sequence[Stage], shards: Sequence[str], layout: DatasetLayout) -> bool:
    """Whether a cluster is worth its start: a finished dataset needs none."""
    return any(step.index < len(stages) for step, _ in first_steps(layout, stages, shards))


def _check_room(stages: Sequence[Stage], threads: int, largest: int) -> None:
    """Ray waits for ever, without a word, for a node that has the CPUs of a worker."""
    if largest < threads and any(stage.name == "annotate" for stage in stages):
        raise UsageError(
            f"an annotate worker claims --threads {threads} CPUs, and the largest node of the Ray "
            f"cluster has {largest}; give fewer threads, or join a cluster with larger nodes"
        )


def _gpus_per_worker(
    stages: Sequence[Stage], annotate: AnnotateConfig, machine: MachineConfig, available: int
) -> float:
    if annotate.provider is Provider.CPU or all(stage.name != "annotate" for stage in stages):
        return 0.0
    if available < machine.gpus_per_worker:
        raise UsageError(
            f"the Ray cluster has {available} GPUs, and --provider cuda needs "
            f"{machine.gpus_per_worker:g} for a worker; join one that has"
        )
    return machine.gpus_per_worker


def _ray_address(machine: MachineConfig) -> str | None:
    return machine.ray_address or os.environ.get("RAY_ADDRESS")
