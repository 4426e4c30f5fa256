"""The training of a tokenizer, from top to bottom.

One optimizer step: reconstruct a batch; the generator's losses and gradients; the discriminator's
on the same reconstruction; one check that everything is finite; both optimizers; the codebook; the
averaged weights. Where a run stands is one integer, the number of steps done: phase, data position
and learning rate follow from it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from annotations_schema.errors import InsightTokError
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import Phase, PhaseStep, TrainConfig
from training.data.batch import Batch
from training.data.loader import LoadedBatch, SampleStream, batches
from training.data.manifest import ManifestDataset
from training.losses.objective import FrozenNets, discriminator_objective, generator_objective
from training.models.tokenizer import Tokenizer
from training.preview import write_preview
from training.run_folder import RunFolder, check_folder, claim_folder, identity_of
from training.run_log import RunLog
from training.setup import (
    choose_device,
    images_of,
    load_frozen_nets,
    open_dataset,
    preview_batch,
    summary,
)
from training.state import (
    TrainingState,
    checkpoint_of,
    initial_state,
    own_random_numbers,
    restore,
)

# Apart, so that no two phases show the same windows.
_PHASE_SEED = 1_000_003


class NonFiniteError(InsightTokError):
    """A loss or gradient norm is infinite or not a number; no weight was changed by it."""


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

    Ctrl-C ends the step at hand, writes a checkpoint and returns.

    Args:
        config: a recipe's configuration.
        sources: dataset folders or manifest files.
        out: the run's folder.
        resume: go on with the run in `out`; where there is none it is started.

    Raises:
        UsageError: data, weights, device or folder do not fit; nothing is written.
        NonFiniteError: before the optimizer step; the last checkpoint stands.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    dataset = open_dataset(config, sources)
    nets = load_frozen_nets(config, device)
    folder = RunFolder(out)
    identity = identity_of(config, dataset.manifest_hashes())
    is_known = check_folder(folder, identity, resume=resume)
    state = initial_state(config, device)
    if is_known and folder.checkpoint.exists():
        restore(state, load_checkpoint(folder.checkpoint, device))
    preview = preview_batch(config, dataset)
    claim_folder(folder, config, identity)
    with (
        RunLog(folder, start_step=state.step, total_steps=config.total_steps) as log,
        own_random_numbers(state, device),
        _interruption() as is_interrupted,
    ):
        log.say(f"{out}: {summary(config, dataset, device)}")
        while state.step < config.total_steps and not is_interrupted():
            place = config.phase_at(state.step)
            phase_end = state.step - place.step + place.phase.steps
            log.event(state.step, "phase", f"{place.phase.name}, until step {phase_end}")
            set_trainable(state.tokenizer, place.phase)
            for loaded in _optimizer_batches(config, dataset, place, device):
                values = optimize(state, config, nets, [item.batch.to(device) for item in loaded])
                state.window.add({**values, **_region_counts(loaded)})
                state.step += 1
                log.advance(sum(len(item.batch.images) for item in loaded))
                for error in itertools.chain.from_iterable(item.bad_images for item in loaded):
                    log.event(state.step, "bad_image", f"replaced: {error}")
                if state.step % config.log.metrics_every == 0:
                    log.metrics(state.step, place.phase.name, _metrics(state))
                    state.window.reset()
                if state.step % config.log.preview_every == 0:
                    _draw(state, preview, folder, device)
                if state.step % config.log.checkpoint_every == 0:
                    save_checkpoint(folder.checkpoint, checkpoint_of(state, config, device))
                if is_interrupted():
                    break
            if state.step == phase_end:
                path = folder.phase_checkpoint(place.phase.name)
                save_checkpoint(path, checkpoint_of(state, config, device))
                _draw(state, preview, folder, device)
        save_checkpoint(folder.checkpoint, checkpoint_of(state, config, device))
        is_finished = state.step == config.total_steps
        log.event(state.step, "finished" if is_finished else "interrupted", str(folder.checkpoint))
    return TrainingResult(folder.checkpoint, state.step, is_finished)


def optimize(
    state: TrainingState, config: TrainConfig, nets: FrozenNets, micro_batches: Sequence[Batch]
) -> dict[str, Tensor | float]:
    """One optimizer step over these batches; returns the terms, means over the batches.

    Raises:
        NonFiniteError: before any weight is changed.
    """
    place = config.phase_at(state.step)
    share = 1.0 / len(micro_batches)
    terms: dict[str, Tensor | float] = {}
    for batch in micro_batches:
        for name, value in _add_gradients(state, config, nets, place, batch, share).items():
            terms[name] = terms.get(name, 0.0) + share * value
    clip, rate = config.optimizer.clip_norm, learning_rate_share(config, state.step)
    terms["gradient_norm"] = nn.utils.clip_grad_norm_(state.tokenizer.parameters(), clip)
    if "discriminator" in terms and state.discriminator is not None:
        norm = nn.utils.clip_grad_norm_(state.discriminator.parameters(), clip)
        terms["discriminator_gradient_norm"] = norm
    _require_finite(terms, state.step, place.phase)
    _apply(state.optimizer, config.optimizer.learning_rate * rate)
    if "discriminator" in terms and state.discriminator_optimizer is not None:
        _apply(state.discriminator_optimizer, config.optimizer.discriminator_learning_rate * rate)
    if place.phase.train_codebook:
        state.tokenizer.update_codebook(state.codebook_generator)
    state.ema.update(state.tokenizer)
    return {**terms, "learning_rate": config.optimizer.learning_rate * rate}


def _add_gradients(
    state: TrainingState,
    config: TrainConfig,
    nets: FrozenNets,
    place: PhaseStep,
    batch: Batch,
    share: float,
) -> dict[str, Tensor]:
    """Add a share of both networks' gradients on one batch; returns the unweighted terms."""
    objective, discriminator = place.phase.objective, state.discriminator
    device_type, is_narrow = batch.images.device.type, config.precision == "bfloat16"
    with torch.autocast(device_type, torch.bfloat16, is_narrow), _frozen(discriminator):
        output = state.tokenizer(batch.images)
        terms = generator_objective(
            objective,
            x=batch.images,
            output=output,
            regions=batch.regions,
            nets=nets,
            discriminator=discriminator,
            step=place.step,
        )
    torch.autograd.backward(terms.total * share)
    values = {**terms._asdict(), "total": terms.total.detach()}
    if discriminator is None or not objective.trains_discriminator_at(place.step):
        return values
    # On the reconstruction from before the optimizer step, so one check serves both networks.
    with torch.autocast(device_type, torch.bfloat16, is_narrow):
        judged = discriminator_objective(discriminator, batch.images, output.x_hat)
    torch.autograd.backward(judged.total * share)
    logits = {"logits_real": judged.logits_real, "logits_fake": judged.logits_fake}
    return {**values, "discriminator": judged.total.detach(), **logits}


def _require_finite(terms: Mapping[str, Tensor | float], step: int, phase: Phase) -> None:
    """Stop before the optimizers do harm.

    The one place in a step where the host waits for the device: what has not been computed yet
    cannot be refused.
    """
    scalars = {name: torch.as_tensor(value) for name, value in terms.items()}
    if bool(torch.isfinite(torch.stack([s.double() for s in scalars.values()])).all()):
        return
    bad = ", ".join(f"{name} = {s.item()}" for name, s in scalars.items() if not s.isfinite())
    raise NonFiniteError(
        f"step {step} of phase {phase.name}: {bad}; no weight was changed and the last checkpoint "
        "stands; lower optimizer.learning_rate or the weight of that term"
    )


def _apply(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Learning rate at a step as a share of its peak: linear rise, then a cosine or constant."""
    o = config.optimizer
    rise = min(1.0, (step + 1) / (o.warmup_steps + 1))
    span = max(1, config.total_steps - o.warmup_steps)
    along = min(1.0, max(0.0, (step - o.warmup_steps) / span))
    return rise * (o.final_rate + (1.0 - o.final_rate) * 0.5 * (1.0 + math.cos(math.pi * along)))


def set_trainable(tokenizer: Tokenizer, phase: Phase) -> None:
    """Freeze and thaw the parts of the tokenizer as a phase asks."""
    tokenizer.encoder.requires_grad_(phase.train_encoder)
    tokenizer.quant_conv.requires_grad_(phase.train_encoder)
    tokenizer.quantize.frozen = not phase.train_codebook
    # Gradients of the phase before would still be seen by clipping and the optimizer.
    tokenizer.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _frozen(discriminator: nn.Module | None) -> Iterator[None]:
    """In the generator's step the discriminator passes gradients on and collects none."""
    if discriminator is None:
        yield
        return
    discriminator.requires_grad_(False)
    try:
        yield
    finally:
        discriminator.requires_grad_(True)


def _optimizer_batches(
    config: TrainConfig, dataset: ManifestDataset, place: PhaseStep, device: torch.device
) -> Iterator[list[LoadedBatch]]:
    """The remaining batches of a phase, as many at a time as make one optimizer step."""
    seed = config.seed + _PHASE_SEED * place.number
    stream = SampleStream(dataset, images_of(dataset, place.phase), config.data.crop, seed)
    accumulate = config.optimizer.accumulate
    loaded = batches(
        stream,
        config.data.stream,
        start=place.step * accumulate * config.data.stream.batch_size,
        num_batches=(place.phase.steps - place.step) * accumulate,
        pin_memory=device.type == "cuda",
    )
    while group := list(itertools.islice(loaded, accumulate)):
        yield group


def _draw(state: TrainingState, preview: Batch, folder: RunFolder, device: torch.device) -> None:
    with torch.inference_mode():
        x_hat = state.ema.module(preview.images.to(device)).x_hat.float().cpu()
    write_preview(folder.preview(state.step), preview, x_hat)


def _metrics(state: TrainingState) -> dict[str, float]:
    quantizer = state.tokenizer.quantize
    return {
        **state.window.means(),
        "codebook_usage": quantizer.usage(),
        "codebook_perplexity": quantizer.perplexity(),
    }


def _region_counts(loaded: Sequence[LoadedBatch]) -> dict[str, float]:
    """Regions in an optimizer step, what the caps left out, images that were replaced."""
    return {
        "num_text": sum(len(item.batch.regions.text_weight) for item in loaded),
        "num_faces": sum(len(item.batch.regions.face_weight) for item in loaded),
        "dropped_text": sum(item.dropped.num_text for item in loaded),
        "dropped_faces": sum(item.dropped.num_faces for item in loaded),
        "bad_images": sum(len(item.bad_images) for item in loaded),
    }


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
