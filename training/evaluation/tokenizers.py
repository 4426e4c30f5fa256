"""A checkpoint as a callable image -> image that counts the codes it uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from annotations_schema.errors import UsageError
from training.checkpoint import load_checkpoint, load_tokenizer
from training.data.batch import to_model_range, to_pixels
from training.models.tokenizer import Tokenizer, TokenizerConfig

Image = NDArray[np.uint8]


class CodebookUsage(NamedTuple):
    """Codes that a tokenizer used over a set of images.

    used_fraction: share of the codebook that occurs, in [0, 1].
    perplexity: exp of the entropy of the codes' frequencies; at most codebook_size.
    """

    codebook_size: int
    num_tokens: int
    used_fraction: float
    perplexity: float


class CheckpointTokenizer:
    """A tokenizer in evaluation mode as a `Reconstruct`, with counts of its codes."""

    def __init__(self, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self._tokenizer = tokenizer.to(device).eval()
        self._device = device
        self._codebook_size = tokenizer.config.quantizer.codebook_size
        self._counts = torch.zeros(self._codebook_size, dtype=torch.int64)

    @property
    def downsampling(self) -> int:
        """Pixels per token along each axis."""
        return self._tokenizer.downsampling

    def bits_per_square(self, side: int) -> float:
        """(side / f)^2 log2(K): what a square of `side` pixels costs in tokens."""
        return (side // self.downsampling) ** 2 * math.log2(self._codebook_size)

    def __call__(self, image: Image) -> Image:
        """The reconstruction of (H, W, 3) uint8 RGB, H and W multiples of `downsampling`."""
        with torch.inference_mode():
            output = self._tokenizer(to_model_range(image[None]).to(self._device))
        self._counts += torch.bincount(output.indices.flatten().cpu(), minlength=len(self._counts))
        image_hat: Image = to_pixels(output.x_hat)[0]
        return image_hat

    def usage(self) -> CodebookUsage:
        """Usage over every call so far; zeros before the first."""
        counts = self._counts.to(torch.float64)
        total = int(counts.sum())
        share = counts[counts > 0] / max(total, 1)
        return CodebookUsage(
            codebook_size=self._codebook_size,
            num_tokens=total,
            used_fraction=len(share) / self._codebook_size,
            perplexity=float(torch.exp(-(share * share.log()).sum())) if total else 0.0,
        )


def load_tokenizers(checkpoints: Sequence[Path], device: str) -> dict[str, CheckpointTokenizer]:
    """Checkpoints by short distinct names, in order.

    Raises:
        UsageError: a file is no tokenizer checkpoint, or one is named twice.
    """
    return {
        name: CheckpointTokenizer(load_tokenizer(path, device), device)
        for name, path in zip(short_names(checkpoints), checkpoints, strict=True)
    }


def load_untrained(checkpoints: Sequence[Path], device: str) -> dict[str, CheckpointTokenizer]:
    """The networks of checkpoints as they were before their first step, by name, in order.

    A run draws its first weights from its seed, and so do these. Checkpoints of the same network
    and seed have one such network; it is `untrained` where there is one, else `untrained NAME` by
    the first checkpoint that has it. A file without a configuration counts as seed 0.

    Raises:
        UsageError: as `load_tokenizers`.
    """
    found: dict[tuple[str, int], tuple[str, TokenizerConfig]] = {}
    for name, path in zip(short_names(checkpoints), checkpoints, strict=True):
        seed = int(load_checkpoint(path).get("config", {}).get("seed", 0))
        config = load_tokenizer(path).config
        found.setdefault((repr(config), seed), (name, config))
    is_only_one = len(found) == 1
    return {
        "untrained" if is_only_one else f"untrained {name}": CheckpointTokenizer(
            initial_tokenizer(config, seed), device
        )
        for (_, seed), (name, config) in found.items()
    }


def initial_tokenizer(config: TokenizerConfig, seed: int) -> Tokenizer:
    """The tokenizer as a training with that seed starts it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tokenizer(config)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart: `base` for runs/base/checkpoint.pt.

    Raises:
        UsageError: the same path twice.
    """
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"checkpoint {path} is named twice; name each checkpoint once")
    parts = [_telling_parts(path) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _telling_parts(path: Path) -> tuple[str, ...]:
    """A path's parts without suffix and without the file name that every run has."""
    is_run = path.stem == "checkpoint" and path.parent.name
    return path.parent.parts if is_run else path.with_suffix("").parts
