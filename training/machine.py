"""Settings of the machine: they change speed and memory of a run, not what it computes.

They are no part of a run's identity (`training.run_folder`): a run may go on on another machine, or
on another number of ranks, up to the rounding of its arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from annotations_schema.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Where a training runs, and what it spends there."""

    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1 ...; under torchrun each rank takes the GPU
    of its own number."""
    threads: int = 0
    """Threads of torch on the CPU; 0 leaves torch's own choice."""
    num_workers: int = 0
    """Processes of each rank that decode ahead; 0 decodes in the training process."""
    micro_batch: int = 16
    """Images at a time on one rank, the lever of memory; at most a rank's share of the batch."""
    compile: bool = False
    """torch.compile, by residual and attention block; the first step takes minutes longer."""
    channels_last: bool = False
    """Memory order of weights and activations that the tensor cores of a GPU read directly."""
    checkpoint_levels: tuple[int, ...] = ()
    """Resolution levels, 0 the finest, whose activations are computed again in the backward pass
    instead of being kept: a third more arithmetic there for much less memory."""
    static_regions: bool = False
    """Pad every batch to the caps of `data.stream` by regions of weight 0, so that no shape changes
    from step to step: compiled code is then not compiled again."""

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("num_workers", 0), ("micro_batch", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"machine.{name}={getattr(self, name)} must be at least {least}")
        if any(level < 0 for level in self.checkpoint_levels):
            raise UsageError(
                f"machine.checkpoint_levels={self.checkpoint_levels}: levels count from 0"
            )
