"""The training of a tokenizer, from top to bottom.

Where a run stands is one integer, the number of steps done: phase, data position, learning rate and
random numbers follow from it. What one step does is in `training.step`, what is written after it in
`training.recorder`.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from training.checkpoint import load_checkpoint
from training.config import PhaseStep, TrainConfig
from training.data.batch import LoadedBatch
from training.data.loader import SampleStream, batches
from training.data.manifest import ManifestDataset
from training.data.split import BatchSplit
from training.distributed import joined_ranks, replicate
from training.recorder import Recorder
from training.run_folder import RunFolder, check_folder, claim_folder, identity_of
from training.setup import (
    frozen_net_hashes,
    images_of,
    load_frozen_nets,
    open_dataset,
    prepare_device,
    preview_batch,
    summary,
)
from training.state import initial_state, restore
from training.step import optimize, set_trainable

# Apart, so that no two phases show the same windows.
_PHASE_SEED = 1_000_003


class TrainingResult(NamedTuple):
    """How a run ended.

    checkpoint: the file that holds its last state.
    step: optimizer steps done.
    is_finished: False where it was interrupted.
    """

    checkpoint: Path
    step: int
    is_finished: bool


def train_tokenizer(
    config: TrainConfig, sources: Sequence[Path], out: Path, *, resume: bool = False
) -> TrainingResult:
    """Train a tokenizer; resumable, and on the CPU bit-identical to an undisturbed run.

    Under torchrun this process is one rank of several. Ctrl-C ends the step at hand, writes a
    checkpoint and returns.

    Args:
        config: a recipe's configuration.
        sources: dataset folders or manifest files.
        out: the run's folder.
        resume: go on with the run in `out`; where there is none it is started.

    Raises:
        UsageError: data, weights, device or folder do not fit; nothing is written.
        NonFiniteError: no weight was changed by it, and the last checkpoint stands.
    """
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks(config.machine.device))
        device = prepare_device(config.machine, ranks)
        split = BatchSplit(
            batch_size=config.data.stream.batch_size,
            micro_batch=config.machine.micro_batch,
            rank=ranks.rank,
            ranks=ranks.size,
        )
        dataset = open_dataset(config, sources)
        nets = load_frozen_nets(config, device)
        folder = RunFolder(out)
        identity = identity_of(config, dataset.manifest_hashes(), frozen_net_hashes(config))
        is_known = check_folder(folder, identity, resume=resume)
        state = initial_state(config, device)
        if is_known and folder.checkpoint.exists():
            restore(state, load_checkpoint(folder.checkpoint, device))
        preview = preview_batch(config, dataset)
        ranks.wait()  # until all have looked at the folder
        if ranks.is_first:
            claim_folder(folder, config, identity)
        recorder = stack.enter_context(
            Recorder(state, config, folder, preview=preview, ranks=ranks, device=device)
        )
        # The caller's random numbers are afterwards as they were.
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        is_interrupted = stack.enter_context(_interruption())
        recorder.say(f"{out}: {summary(config, dataset, device)}")
        is_over = state.step == config.total_steps
        while not is_over:
            place = config.phase_at(state.step)
            phase_end = state.step - place.step + place.phase.steps
            recorder.event("phase", f"{place.phase.name}, until step {phase_end}")
            set_trainable(state.tokenizer, place.phase)
            replicas = replicate(state, ranks)
            steps = _steps(config, dataset, place, split, device.type)
            for loaded in recorder.waiting_for(steps):
                micro_batches = [item.to(device) for item in loaded]
                values = optimize(state, config, nets, micro_batches, replicas)
                state.step += 1
                recorder.add(values, loaded)
                is_over = ranks.any(is_interrupted()) or state.step == config.total_steps
                recorder.write_due(
                    place.phase, is_phase_end=state.step == phase_end, is_last=is_over
                )
                if is_over:
                    break
        is_finished = state.step == config.total_steps
        recorder.event("finished" if is_finished else "interrupted", str(folder.checkpoint))
    return TrainingResult(folder.checkpoint, state.step, is_finished)


def _steps(
    config: TrainConfig, dataset: ManifestDataset, place: PhaseStep, split: BatchSplit, kind: str
) -> Iterator[list[LoadedBatch]]:
    """The micro batches of each remaining step of a phase."""
    seed = config.seed + _PHASE_SEED * place.number
    stream = SampleStream(dataset, images_of(dataset, place.phase), config.data.crop, seed)
    loaded = batches(
        stream,
        config.data.stream,
        split,
        start_step=place.step,
        num_steps=place.phase.steps - place.step,
        num_workers=config.machine.num_workers,
        pin_memory=kind == "cuda",
        pad_regions=config.machine.static_regions,
    )
    while group := list(itertools.islice(loaded, split.micro_steps)):
        yield group


@contextlib.contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Ask for an end with Ctrl-C instead of being torn apart; a second Ctrl-C does tear."""
    asked = False

    def remember(number: int, frame: types.FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:  # signals can be handled in the main thread only
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
