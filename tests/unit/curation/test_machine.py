"""What a worker claims of a machine, from options to Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from curation.annotate.config import AnnotateConfig
from curation.annotate.protocols import Provider
from curation.annotate.stage import AnnotateStage
from curation.cli import parse
from curation.commands.configs import curate_config, machine_config
from curation.fetch.config import FetchConfig
from curation.fetch.stage import FetchStage
from curation.machine import MachineConfig, Runner, _check_room, _gpus_per_worker


@pytest.mark.parametrize("gpus", [0.25, 0.5, 1.0, 2.0])
def test_a_worker_claims_the_share_of_a_gpu_that_was_typed(gpus: float, tmp_path: Path) -> None:
    typed = ["run", "list.txt", "--out", str(tmp_path), "--provider", "cuda", "--threads", "3"]
    command = parse([*typed, "--runner", "ray", "--gpus-per-worker", str(gpus)])
    annotate = curate_config(command.dataset, command.worker).annotate  # type: ignore[union-attr]
    machine = machine_config(command.runner)  # type: ignore[union-attr]
    stage = AnnotateStage(tmp_path, annotate)
    assert annotate.threads == 3
    assert _gpus_per_worker([stage], annotate, machine, 2) == gpus


def test_no_gpu_is_claimed_without_need(tmp_path: Path) -> None:
    machine = MachineConfig(runner=Runner.RAY, gpus_per_worker=0.25)
    on_cpu, on_gpu = AnnotateConfig(), AnnotateConfig(provider=Provider.CUDA)
    annotate, fetch = AnnotateStage(tmp_path, on_cpu), FetchStage(tmp_path, FetchConfig())
    assert _gpus_per_worker([annotate], on_cpu, machine, 4) == 0
    assert _gpus_per_worker([fetch], on_gpu, machine, 4) == 0


def test_a_cluster_without_the_gpus_is_refused(tmp_path: Path) -> None:
    config = AnnotateConfig(provider=Provider.CUDA)
    machine = MachineConfig(runner=Runner.RAY, gpus_per_worker=0.5)
    with pytest.raises(UsageError, match=r"cluster has 0 GPUs.*needs 0\.5 for a worker"):
        _gpus_per_worker([AnnotateStage(tmp_path, config)], config, machine, 0)


def test_a_cluster_of_nodes_too_small_for_a_worker_is_refused(tmp_path: Path) -> None:
    annotate = AnnotateStage(tmp_path, AnnotateConfig())
    fetch = FetchStage(tmp_path, FetchConfig())
    _check_room([fetch, annotate], 4, 4)
    _check_room([fetch], 8, 4)  # waits for the network, and claims none
    with pytest.raises(UsageError, match=r"--threads 8 CPUs, and the largest node .* has 4; give"):
        _check_room([fetch, annotate], 8, 4)


@pytest.mark.parametrize("gpus", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_a_share_that_ray_cannot_give_is_refused(gpus: float) -> None:
    with pytest.raises(UsageError, match="give a share of one, or a whole number"):
        MachineConfig(runner=Runner.RAY, gpus_per_worker=gpus)
