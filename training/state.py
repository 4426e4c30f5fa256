"""Everything that changes during a training: built from the seed, saved, restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from training.config import TrainConfig
from training.ema import WeightEma
from training.models.discriminator import PatchDiscriminator
from training.models.tokenizer import Tokenizer
from training.run_log import MetricWindow
from training.typed_config import to_plain


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """Networks, optimizers, random generators and the number of steps done."""

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
    codebook_generator: torch.Generator
    """Picks the latents that dead codes become."""
    window: MetricWindow = field(default_factory=MetricWindow)
    """Means since the last metrics line."""
    random_states: dict[str, torch.Tensor] = field(default_factory=dict)
    """States of torch's own generators, by device type, at the begin of this run or resume."""
    step: int = 0
    """Optimizer steps done; phase, data position and learning rate follow from it."""


def initial_state(config: TrainConfig, device: torch.device) -> TrainingState:
    """A new state; weights are drawn from the seed, whatever this process drew before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer(config.tokenizer).to(device).train()
        discriminator = None
        if config.uses_discriminator:
            discriminator = PatchDiscriminator(config.discriminator).to(device).train()
    rates = config.optimizer
    return TrainingState(
        tokenizer=tokenizer,
        ema=WeightEma(tokenizer, config.ema_decay, copied=("quantize.",)),
        optimizer=_adamw(tokenizer, config, rates.learning_rate),
        discriminator=discriminator,
        discriminator_optimizer=None
        if discriminator is None
        else _adamw(discriminator, config, rates.discriminator_learning_rate),
        codebook_generator=torch.Generator().manual_seed(config.seed),
        random_states={
            kind: torch.Generator(kind).manual_seed(config.seed).get_state()
            for kind in {"cpu", device.type}
        },
    )


@contextlib.contextmanager
def own_random_numbers(state: TrainingState, device: torch.device) -> Iterator[None]:
    """Inside, torch draws the training's random numbers; outside, the caller's are as before."""
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.random.set_rng_state(state.random_states["cpu"])
        if is_cuda:
            torch.cuda.set_rng_state(state.random_states["cuda"], device)
        yield


def checkpoint_of(
    state: TrainingState, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """The state as plain data and tensors; see `training.checkpoint`."""
    random_states = {"cpu": torch.random.get_rng_state()}
    if device.type == "cuda":
        random_states["cuda"] = torch.cuda.get_rng_state(device)
    return {
        "model": state.tokenizer.state_dict(),
        "ema": state.ema.state_dict(),
        "config": to_plain(config),
        "step": state.step,
        "training": {
            "optimizer": state.optimizer.state_dict(),
            "discriminator": _state_or_none(state.discriminator),
            "discriminator_optimizer": _state_or_none(state.discriminator_optimizer),
            "codebook_generator": state.codebook_generator.get_state(),
            "random_states": random_states,
            "window": state.window.state_dict(),
        },
    }


def restore(state: TrainingState, saved: Mapping[str, Any]) -> None:
    """Bring a new state of the same configuration to where `checkpoint_of` left the old one."""
    training = saved["training"]
    state.tokenizer.load_state_dict(saved["model"])
    state.ema.load_state_dict(saved["ema"])
    state.optimizer.load_state_dict(training["optimizer"])
    if state.discriminator is not None and state.discriminator_optimizer is not None:
        state.discriminator.load_state_dict(training["discriminator"])
        state.discriminator_optimizer.load_state_dict(training["discriminator_optimizer"])
    state.codebook_generator.set_state(training["codebook_generator"].cpu())
    state.random_states.update({k: v.cpu() for k, v in training["random_states"].items()})
    state.window.load_state_dict(training["window"])
    state.step = int(saved["step"])


def _adamw(module: nn.Module, config: TrainConfig, learning_rate: float) -> torch.optim.AdamW:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        fused=parameters[0].device.type == "cuda",
    )


def _state_or_none(part: nn.Module | torch.optim.Optimizer | None) -> dict[str, Any] | None:
    return None if part is None else part.state_dict()
