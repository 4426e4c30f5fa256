"""One and two processes with the same images a step: speed, and what travels between them."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import torch

from tests.rank_program import config, train_on_ranks
from tests.training_datasets import few_pictures, write_dataset
from training.state import initial_state

ROUNDS = 3
STEPS = 8
# One thread for each rank, so that one rank has one core of the two that two ranks have.
SETTINGS = (f"phases.*.steps={STEPS}", "log.metrics_every=1", "data.stream.batch_size=8")


def bench_ranks() -> None:
    """Steps of the smallest training on 1 and 2 gloo ranks, 8 images a step, a thread each."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    losses: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = write_dataset(Path(folder) / "dataset", few_pictures(96))
        for number in range(ROUNDS):
            for ranks, found in rates.items():
                out = Path(folder) / f"{ranks} {number}"
                traffic = train_on_ranks(ranks, root, out, *SETTINGS)
                lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
                losses[ranks] = [line["total"] for line in lines]
                # The first step of a phase loads and connects.
                found.append(
                    statistics.median(x["images_per_s"] for x in lines if x["step"] % STEPS != 1)
                )
    gap = max(abs(a - b) / abs(a) for a, b in zip(losses[1], losses[2], strict=True))
    assert gap < 2e-2, gap
    print(f"\nRanks, {STEPS} steps in each phase of 8 images at 32 px, gloo, one thread each")
    for ranks, found in rates.items():
        spread = f"{min(found):.1f}..{max(found):.1f}"
        print(f"  {ranks} rank(s): {statistics.median(found):8.1f} images/s ({spread})")
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(
        f"  two over one: {statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f}), "
        f"largest gap of a loss {gap:.1e}"
    )
    _print_traffic(traffic)


def _print_traffic(traffic: list[dict[str, int]]) -> None:
    state = initial_state(config(), torch.device("cpu"))
    quantizer = state.tokenizer.quantize
    latents = 8 * 16 * 16
    size, dim = quantizer.embed_avg.shape
    statistics_bytes = 4 * (size * (2 * dim + 1) + latents)
    for phase, sent in zip(config().phases, traffic, strict=True):
        codebook = statistics_bytes if phase.train_codebook else 0
        print(
            f"  {phase.name}: a step sends {sent['tokenizer'] / STEPS / 1024:.1f} KiB of tokenizer "
            f"gradients, {sent['discriminator'] / STEPS / 1024:.1f} KiB of discriminator's, "
            f"{codebook / 1024:.1f} KiB of codebook statistics (all latents of the step would be "
            f"{4 * dim * latents / 1024:.1f} KiB) and 12 bytes of losses"
        )
