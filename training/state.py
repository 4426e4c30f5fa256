"""Everything that changes during a training: built from the seed, saved, restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from annotations_schema.errors import UsageError
from training.checkpoint import averaged_weights, load_checkpoint
from training.config import TrainConfig
from training.ema import WeightEma
from training.finite import FiniteGate
from training.metrics import MetricWindow
from training.models.discriminator import PatchDiscriminator
from training.models.lean import make_lean
from training.models.published import differences, shapes_of, tokenizer_of
from training.models.tokenizer import Tokenizer
from training.typed_config import to_plain


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """Networks, optimizers and the number of steps done; random numbers follow from the latter."""

    tokenizer: Tokenizer
    """The trained weights."""
    ema: WeightEma
    """Their average."""
    optimizer: torch.optim.Optimizer
    """Of the tokenizer."""
    discriminator: PatchDiscriminator | None
    """None where no phase has an adversarial term."""
    discriminator_optimizer: torch.optim.Optimizer | None
    """None with the discriminator."""
    logit_anchors: Tensor
    """(2,) float32, moving mean logits of real and made images, see `lecam_anchors`."""
    gate: FiniteGate
    """Closed for good by the first number that is not finite."""
    window: MetricWindow = field(default_factory=MetricWindow)
    """Means since the last metrics line."""
    step: int = 0
    """Optimizer steps done; phase, data position and learning rate follow from it."""


def initial_state(config: TrainConfig, device: torch.device) -> TrainingState:
    """A new state; weights are drawn from the seed, whatever this process drew before.

    Raises:
        UsageError: the checkpoint to start from is none, or is one of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer(config.tokenizer).to(device).train()
        if config.init is not None:
            _start_from(tokenizer, config.init)
        discriminator = None
        if config.uses_discriminator:
            discriminator = PatchDiscriminator(config.discriminator).to(device).train()
            make_lean(discriminator, config.machine)
    ema = WeightEma(tokenizer, config.ema_decay, copied=("quantize.",))
    make_lean(tokenizer, config.machine)
    # What is compared tensor by tensor has one memory order.
    make_lean(ema.module, replace(config.machine, compile=False, checkpoint_levels=()))
    rates = config.optimizer
    return TrainingState(
        tokenizer=tokenizer,
        ema=ema,
        optimizer=_adamw(tokenizer, config, rates.learning_rate),
        discriminator=discriminator,
        discriminator_optimizer=None
        if discriminator is None
        else _adamw(discriminator, config, rates.discriminator_learning_rate),
        logit_anchors=torch.zeros(2, device=device),
        gate=FiniteGate(device),
    )


def checkpoint_of(state: TrainingState, config: TrainConfig) -> dict[str, Any]:
    """The state as plain data and tensors; see `training.checkpoint`."""
    return {
        "model": state.tokenizer.state_dict(),
        "ema": state.ema.state_dict(),
        "config": to_plain(config),
        "step": state.step,
        "training": {
            "optimizer": state.optimizer.state_dict(),
            "discriminator": _state_or_none(state.discriminator),
            "discriminator_optimizer": _state_or_none(state.discriminator_optimizer),
            "logit_anchors": state.logit_anchors,
            "window": state.window.state_dict(),
        },
    }


def restore(state: TrainingState, saved: Mapping[str, Any]) -> None:
    """Bring a new state of the same configuration to where `checkpoint_of` left the old one.

    Raises:
        UsageError: the saved state is of another network; the line names the weights that differ.
    """
    training = saved.get("training", {})
    own = {"": state.tokenizer, "discriminator.": state.discriminator}
    there = {"": saved["model"], "discriminator.": training.get("discriminator")}
    difference = differences(_shapes(own), _shapes(there))
    if difference or not training:
        raise UsageError(
            f"the run's checkpoint.pt is one of another network: {difference or 'weights alone'}; "
            "put its own back, or name another folder with --out"
        )
    state.tokenizer.load_state_dict(saved["model"])
    state.ema.load_state_dict(saved["ema"])
    _load(state.optimizer, training["optimizer"])
    if state.discriminator is not None and state.discriminator_optimizer is not None:
        state.discriminator.load_state_dict(training["discriminator"])
        _load(state.discriminator_optimizer, training["discriminator_optimizer"])
    state.logit_anchors.copy_(training["logit_anchors"])
    state.window.load_state_dict(training["window"])
    state.step = int(saved["step"])


def _start_from(tokenizer: Tokenizer, checkpoint: Path) -> None:
    weights = averaged_weights(load_checkpoint(checkpoint))
    try:
        start = tokenizer_of(tokenizer.config, weights)
    except ValueError as error:
        raise UsageError(
            f"init {checkpoint} is a checkpoint of another network: {error}; give one of the "
            "recipe's network"
        ) from error
    tokenizer.load_state_dict(start.state_dict())


def _shapes(parts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of modules or states, None for a part that is absent."""
    states = {p: x.state_dict() if isinstance(x, nn.Module) else x for p, x in parts.items()}
    return {
        f"{part}{name}": shape
        for part, state in states.items()
        for name, shape in shapes_of(state or {}).items()
    }


def _adamw(module: nn.Module, config: TrainConfig, learning_rate: float) -> torch.optim.AdamW:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        # One pass over all weights, and the only kind that can be told by the device to do nothing.
        fused=True,
    )


def _load(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimizer's state in the memory order of its weights.

    A checkpoint has the order of the machine that wrote it; a fused step takes both for equal.
    """
    optimizer.load_state_dict(dict(saved))
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


def _state_or_none(part: nn.Module | torch.optim.Optimizer | None) -> dict[str, Any] | None:
    return None if part is None else part.state_dict()
