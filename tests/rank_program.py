"""A small training on as many ranks as torchrun starts; the first writes what gradients travelled.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.rank_program DATA OUT \
    [KEY=VALUE ...]
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from tests.training_micro import three_phases
from training import train_tokenizer as loop
from training.config import TrainConfig
from training.distributed import Ranks, Replicas, replicate
from training.state import TrainingState
from training.typed_config import with_overrides

ROOT = Path(__file__).parent.parent
SETTINGS = ("data.stream.batch_size=4", "machine.micro_batch=1", "log.metrics_every=2")
"""Four images a step, one at a time: a rank of two has two micro batches."""


def config(settings: Sequence[str] = ()) -> TrainConfig:
    """Three steps in each of the three phases."""
    return with_overrides(three_phases(steps=3), [*SETTINGS, *settings])


def train_on_ranks(ranks: int, root: Path, out: Path, *settings: str) -> list[dict[str, int]]:
    """Train in `out` by torchrun; gradient bytes of each phase by network, on one rank."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = [f"--nproc-per-node={ranks}", "-m", "tests.rank_program", str(root), str(out)]
    done = subprocess.run(
        [*launcher, *program, *settings], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=300
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    traffic: list[dict[str, int]] = json.loads((out / "traffic.json").read_text())
    return traffic


def main() -> None:
    """Be one rank."""
    root, out, *settings = sys.argv[1:]
    traffic: list[dict[str, int]] = []

    def counted(state: TrainingState, ranks: Ranks) -> Replicas:
        replicas, sent = replicate(state, ranks), {"tokenizer": 0, "discriminator": 0}
        traffic.append(sent)

        def count(name: str, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            sent[name] += bucket.buffer().nbytes
            return allreduce_hook(None, bucket)

        if ranks.size > 1:
            replicas.tokenizer.register_comm_hook("tokenizer", count)
            replicas.discriminator.register_comm_hook("discriminator", count)
        return replicas

    loop.replicate = counted
    loop.train_tokenizer(config(settings), [Path(root)], Path(out))
    if os.environ["RANK"] == "0":
        (Path(out) / "traffic.json").write_text(json.dumps(traffic))


if __name__ == "__main__":
    main()
