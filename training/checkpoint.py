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
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from annotations_schema.errors import UsageError, VersionError
from annotations_schema.layout import atomic_write
from training.models.published import nearest_named, tokenizer_of
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
    LookupError,
    struct.error,
)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Publish a state atomically; a reader sees the old file or the new one, never half of one.

    Args:
        path: the file.
        state: "model", "config" and whatever else; "format" and "version" are added.

    Raises:
        UsageError: it cannot be written, for one because the disk is full; what was there stands.
    """
    save_weights(path, {"format": FORMAT, "version": VERSION, **state})


def save_weights(path: Path, content: Mapping[str, Any]) -> None:
    """`save_checkpoint` of exactly this content; raises as it does."""
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:
        # torch reports what went wrong in the file as an error of its own archive.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UsageError(
            f"{path} cannot be written ({cause.strerror}); what was there before stands: "
            "make room or mend its folder, then go on from it"
        ) from cause


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
        UsageError: the file is missing, is no tokenizer checkpoint, or is one of another network,
            in which case the line names the weights that differ.
        VersionError: it was written by a newer version.
    """
    state = load_checkpoint(path, device)
    weights = averaged_weights(state)
    name, config = _tokenizer_config(state, weights)
    try:
        return tokenizer_of(config, weights).to(device).eval()
    except ValueError as error:
        raise UsageError(
            f"{path} is a checkpoint of another network than {name}: {error}"
        ) from error


def averaged_weights(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The averaged weights of a checkpoint's state where it has them, else the trained ones."""
    weights: Mapping[str, Tensor] = state["ema"]["module"] if "ema" in state else state["model"]
    return weights


def _tokenizer_config(
    state: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[str, TokenizerConfig]:
    if "config" in state:
        return "its configuration", from_plain(TokenizerConfig, state["config"]["tokenizer"])
    name = nearest_named(weights)
    return f"{name}, the nearest by its weights", CONFIGS[name]
