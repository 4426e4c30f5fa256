"""Checkpoints: one file, published atomically, read without running code from it.

A tokenizer checkpoint is a dict of plain data and tensors:

    format, version   "open-insighttok tokenizer", 1
    model             the tokenizer's weights under the names of the published InsightTok file
    ema               {"module": averaged weights under the same names, "num_updates"}
    config            the training configuration as plain data
    step              optimizer steps done; with the configuration it gives the data position
    training          optimizers, discriminator, random states: what only a resume needs

The published `insight_tok.pt` holds "model" alone and is read too.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from annotations_schema.errors import UsageError, VersionError
from annotations_schema.layout import atomic_write
from training.models.tokenizer import CONFIGS, Tokenizer, TokenizerConfig
from training.typed_config import from_plain

FORMAT = "open-insighttok tokenizer"
VERSION = 1

# What torch.load raises on files of other kinds.
_NOT_A_CHECKPOINT = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Publish a state atomically; a reader sees the old file or the new one, never half of one.

    Args:
        path: the file.
        state: "model", "config" and whatever else; "format" and "version" are added.
    """
    with atomic_write(path) as temporary:
        torch.save({"format": FORMAT, "version": VERSION, **state}, temporary)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state of a checkpoint; only plain data and tensors are unpickled.

    Raises:
        UsageError: the file is missing, or is no tokenizer checkpoint.
        VersionError: it was written by a newer version.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint; give a run's checkpoint.pt")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are refused a moment later
            state = torch.load(path, map_location=device, weights_only=True)
    except _NOT_A_CHECKPOINT as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UsageError(
            f"{path} is no tokenizer checkpoint ({reason}); give a run's checkpoint.pt"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UsageError(f"{path} is no tokenizer checkpoint: it holds no 'model'")
    if state.get("version", VERSION) > VERSION:
        raise VersionError(
            f"{path} is a checkpoint of version {state['version']}, this program reads {VERSION}; "
            "update open-insighttok"
        )
    return state


def load_tokenizer(path: Path, device: str | torch.device = "cpu") -> Tokenizer:
    """The tokenizer of a checkpoint, averaged weights where it has them, in evaluation mode.

    Raises:
        UsageError: the file is missing or is no tokenizer checkpoint.
        VersionError: it was written by a newer version.
    """
    state = load_checkpoint(path, device)
    weights = state["ema"]["module"] if "ema" in state else state["model"]
    tokenizer = Tokenizer(_tokenizer_config(state, weights, path))
    try:
        tokenizer.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit its tokenizer configuration: {reason}") from error
    return tokenizer.to(device).eval()


def _tokenizer_config(
    state: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path
) -> TokenizerConfig:
    if "config" in state:
        return from_plain(TokenizerConfig, state["config"]["tokenizer"])
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    for config in CONFIGS.values():
        if _parameter_shapes(config).items() <= shapes.items():
            return config
    raise UsageError(
        f"{path} names no configuration, and its weights have the shapes of none of "
        f"{', '.join(CONFIGS)}"
    )


def _parameter_shapes(config: TokenizerConfig) -> dict[str, tuple[int, ...]]:
    # The meta device gives shapes without the memory of 426 million weights.
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in Tokenizer(config).named_parameters()}
