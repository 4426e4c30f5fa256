"""Training on several processes: which one this is, and the little they tell each other.

`torchrun --nproc-per-node N -m training tokenizer ...` starts N ranks and tells each its place in
the environment; without it there is one rank, and nothing here costs anything. Gradients travel in
DistributedDataParallel, tokenizer and discriminator each in its own, so that the discriminator's
are not sent in the generator's half of a step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from annotations_schema.errors import UsageError

if TYPE_CHECKING:
    from training.state import TrainingState

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that train together.

    What takes a tensor works on the tensor's device and does not make the host wait for a GPU; what
    takes plain values travels between the hosts.
    """

    rank: int = 0
    """Of this process."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Of this process on its machine."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor, which now holds the sum over ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank; no rank goes on before all have asked."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag))).item())

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        self.any(False)

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over ranks of each value; all ranks must have the same names in one order."""
        if self.size == 1 or not values:
            return dict(values)
        packed = self.sum(torch.tensor(list(values.values()), dtype=torch.float64)) / self.size
        return dict(zip(values, packed.tolist(), strict=True))

    def gather(self, value: _T) -> list[_T]:
        """The value of every rank, by rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered


@contextlib.contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started together; one rank where it started none.

    Args:
        device: of the machine settings; decides between NCCL and gloo.

    Raises:
        UsageError: several ranks were told to share one GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if ":" in device:
        raise UsageError(
            f"machine.device={device} is one device for {size} ranks; write cuda, and each rank "
            "takes the GPU of its own number"
        )
    is_cuda = device != "cpu" and torch.cuda.is_available()
    # Plain values go by gloo even on GPU machines: NCCL would make the host wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
    try:
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        yield Ranks(rank=rank, size=size, local_rank=local_rank)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class Replicas:
    """The networks as a step calls them: themselves on one rank, else replicas in step.

    tokenizer: x -> TokenizerOutput.
    discriminator: images -> logits for the discriminator's own loss.
    """

    ranks: Ranks
    tokenizer: nn.Module
    discriminator: nn.Module | None

    @contextlib.contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        """Inside, gradients stay on this rank; those of the last micro batch bring all together."""
        with contextlib.ExitStack() as stack:
            for part in (self.tokenizer, self.discriminator):
                if isinstance(part, DistributedDataParallel) and not is_last:
                    stack.enter_context(part.no_sync())
            yield


def replicate(state: TrainingState, ranks: Ranks) -> Replicas:
    """Connect the networks of all ranks; to be called anew when other parameters are trained.

    Only parameters that require a gradient now take part. All ranks get the first rank's weights.
    """
    tokenizer, discriminator = state.tokenizer, state.discriminator
    if ranks.size == 1:
        return Replicas(ranks, tokenizer, discriminator)
    return Replicas(
        ranks,
        _parallel(tokenizer),
        None if discriminator is None else _parallel(discriminator),
    )


def _parallel(module: nn.Module) -> nn.Module:
    replica = DistributedDataParallel(module, gradient_as_bucket_view=True)
    # Buffers stay equal by themselves: the codebook moves by sums over ranks. Broadcasting them
    # before each forward pass would overwrite what autograd still needs of the pass before. Set
    # here, since the argument's name differs between versions of torch.
    replica.broadcast_buffers = False
    return replica
