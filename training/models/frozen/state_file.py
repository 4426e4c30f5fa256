"""Checkpoints of other projects: found inside their files, loaded as far as they are needed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from annotations_schema.errors import WeightsError
from annotations_schema.weights import WeightsCard

# What torch.load raises on files of other kinds, and on files that would run code.
_NOT_A_STATE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
)
_NAMED_KEYS = 3


def read_state(card: WeightsCard, file: Path, landmarks: Sequence[str]) -> dict[str, Tensor]:
    """The state dict of one network, without the prefix of its names.

    A file holds it at once or one level down ({"model": ..., "opt": ...}), and its names may stand
    below a prefix ("vision.", "module."). Both are found by a landmark.

    Args:
        card: whose file it is, for messages.
        file: a file of torch; only plain data and tensors are unpickled.
        landmarks: ends of a name that a network has once; the first that is found counts.

    Raises:
        WeightsError: the file is not torch's, or no name in it ends in a landmark.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are refused a moment later
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except _NOT_A_STATE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise WeightsError(
            f"{card.name}: {file} holds no weights ({reason}); {card.hint}"
        ) from error
    inside = list(loaded.values()) if isinstance(loaded, dict) else []
    levels = [level for level in (loaded, *inside) if isinstance(level, dict)]
    for landmark in landmarks:
        for level in levels:
            names = [name for name in level if f".{name}".endswith(f".{landmark}")]
            if names:
                return _below(level, names[0].removesuffix(landmark))
    raise WeightsError(
        f"{card.name}: {file} holds no weights of it: no name ends in {landmarks[-1]}; {card.hint}"
    )


def load_needed(net: nn.Module, state: Mapping[str, Tensor], card: WeightsCard, file: Path) -> None:
    """Loads what `net` has; what else is in the state stays unread.

    Raises:
        WeightsError: a tensor of `net` is missing from the state or has another shape there.
    """
    # The counter of batches is new in torch 0.4.1 and means nothing to a frozen network.
    expected = {
        name: tensor
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    wrong = [
        f"{name} has {list(state[name].shape)}, not {list(tensor.shape)}"
        if name in state
        else f"{name} is missing"
        for name, tensor in expected.items()
        if name not in state or state[name].shape != tensor.shape
    ]
    if wrong:
        named = "; ".join(wrong[:_NAMED_KEYS])
        raise WeightsError(
            f"{card.name}: {file} does not fit, {len(wrong)} of {len(expected)} tensors differ: "
            f"{named}{'; ...' if len(wrong) > _NAMED_KEYS else ''}; {card.hint}"
        )
    net.load_state_dict({name: state[name] for name in expected}, strict=False)


def _below(level: Mapping[str, object], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in level.items()
        if isinstance(value, Tensor) and name.startswith(prefix)
    }
