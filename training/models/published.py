"""The layout of the published InsightTok checkpoint: {"model": weights}, everything float32.

Our networks have its names. What differs is the window of recent indices: ours are integers, -1
where none is yet; the published buffer holds floats, 0 from the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from training.models.tokenizer import CONFIGS, Tokenizer, TokenizerConfig

Shapes = Mapping[str, tuple[int, ...]]

_WINDOW = "quantize.codebook_used"
_NUM_SHOWN = 3


def published_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tokenizer's state as the published code loads it: float32, contiguous, under its names."""
    state = {name: weight.detach().float().contiguous() for name, weight in weights.items()}
    return state | {_WINDOW: state[_WINDOW].clamp(min=0)}


def tokenizer_of(config: TokenizerConfig, weights: Mapping[str, Tensor]) -> Tokenizer:
    """A tokenizer that holds these weights, published or ours, without a copy where types agree.

    Raises:
        ValueError: one line that names what differs.
    """
    shapes = expected_shapes(config)
    if difference := differences(shapes, shapes_of(weights)):
        raise ValueError(difference)
    with torch.device("meta"):
        tokenizer = Tokenizer(config)
    dtypes = {name: tensor.dtype for name, tensor in tokenizer.state_dict().items()}
    # Assigned, not copied: initial weights of a large network take longer to draw than to replace.
    state = {name: weight.to(dtypes[name]) for name, weight in weights.items()}
    tokenizer.load_state_dict(state, assign=True)
    return tokenizer


def nearest_named(weights: Mapping[str, Tensor]) -> str:
    """The name of the configuration whose state these weights resemble most, often exactly."""
    found = set(shapes_of(weights).items())
    common = {name: len(found ^ set(expected_shapes(c).items())) for name, c in CONFIGS.items()}
    return min(common, key=lambda name: common[name])


def expected_shapes(config: TokenizerConfig) -> Shapes:
    """Shapes of a tokenizer's state."""
    # The meta device gives shapes without the memory of 426 million weights.
    with torch.device("meta"):
        return shapes_of(Tokenizer(config).state_dict())


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """Shapes of a state."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def differences(expected: Shapes, found: Shapes) -> str:
    """What differs between two states, some names and all counts in one line; empty if nothing."""
    common = expected.keys() & found.keys()
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {found[name]} instead of {expected[name]}"
            for name in expected
            if name in common and expected[name] != found[name]
        ],
    }
    return "; ".join(_some(kind, names) for kind, names in kinds.items() if names)


def _some(kind: str, names: list[str]) -> str:
    more = len(names) - _NUM_SHOWN
    shown = ", ".join(names[:_NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{len(names)} {kind} ({shown})"
