"""Fast and small on one machine: compile by region, channels_last, checkpointing by level.

Nothing here changes what a module computes or the names of its state; only speed and memory.
"""

from __future__ import annotations

import torch
from torch import nn

from annotations_schema.errors import UsageError
from training.machine import MachineConfig
from training.models.autoencoder import AttnBlock, Decoder, Encoder, Level, ResBlock

# What repeats is compiled, not the whole network: a block of each shape once, in seconds. Inside a
# compiled block the norms are part of its graph, so only the last norm of each half stands alone.
_REGIONS = (ResBlock, AttnBlock)
# Graphs that may be kept of one kind of block: about a dozen shapes in a network of five levels,
# for training, evaluation and a frozen encoder. Above torch's default of 8 it would quietly stop
# compiling.
_MAX_GRAPHS = 64


def make_lean(module: nn.Module, machine: MachineConfig) -> None:
    """Prepare a module for training on this machine, in place.

    Channels_last moves the weights; a convolution then makes channels_last of whatever comes in. A
    copy that is averaged or compared tensor by tensor should be given the same memory format, or
    every such operation pays for the difference.

    Args:
        module: a Tokenizer, or any module that may hold convolutions and blocks.
        machine: `compile`, `channels_last` and `checkpoint_levels` (0 = finest) are read.

    Raises:
        UsageError: a level that the module does not have.
    """
    for part in module.modules():
        if isinstance(part, Encoder | Decoder):
            _checkpoint(part, machine.checkpoint_levels)
    if machine.channels_last:
        module.to(memory_format=torch.channels_last)
    if machine.compile:
        torch._dynamo.config.recompile_limit = _MAX_GRAPHS
        for part in _regions(module):
            # Shapes are few and fixed: a graph with open sizes would be slower for each.
            part.compile(dynamic=False)


def _checkpoint(part: Encoder | Decoder, chosen: tuple[int, ...]) -> None:
    levels = part.down if isinstance(part, Encoder) else part.up
    if not set(chosen) <= set(range(len(levels))):
        raise UsageError(
            f"machine.checkpoint_levels {chosen} must lie in 0..{len(levels) - 1}, the levels of "
            "the network, 0 the finest"
        )
    for i, level in enumerate(levels):
        if isinstance(level, Level):
            level.is_checkpointed = i in chosen


def _regions(module: nn.Module) -> list[nn.Module]:
    ends = [part.norm_out for part in module.modules() if isinstance(part, Encoder | Decoder)]
    return [part for part in module.modules() if isinstance(part, _REGIONS) or part in ends]
