"""From a run's checkpoint to a file in the layout of the published InsightTok checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from annotations_schema.errors import UsageError
from training.checkpoint import averaged_weights, load_checkpoint, save_weights
from training.models.published import (
    differences,
    expected_shapes,
    nearest_named,
    published_state,
    shapes_of,
)
from training.models.tokenizer import CONFIGS

Weights = Literal["averaged", "trained"]


class ExportResult(NamedTuple):
    """What was written.

    out: the file.
    network: name of the network in `CONFIGS`.
    weights: which weights of the checkpoint they are.
    num_tensors: entries of "model".
    """

    out: Path
    network: str
    weights: Weights
    num_tensors: int


def export(checkpoint: Path, out: Path, weights: Weights = "averaged") -> ExportResult:
    """Write {"model": weights} as the published code and `load_tokenizer` read it.

    The layout has no place for a configuration, so the network must be one of `CONFIGS`.

    Args:
        checkpoint: of a run; a published file passes through unchanged.
        out: a new file, .pt.
        weights: "averaged", or "trained" for those of the last step. A file without an average
            has trained ones only.

    Raises:
        UsageError: out exists or is no .pt; the checkpoint is none or of an unnamed network; out
            cannot be written.
    """
    if out.suffix != ".pt":
        raise UsageError(f"--out {out} must end in .pt, the format of the published file")
    if out.exists():
        raise UsageError(f"--out {out} exists already; give the name of a new file")
    state = load_checkpoint(checkpoint)
    if "ema" not in state:
        weights = "trained"
    chosen = averaged_weights(state) if weights == "averaged" else state["model"]
    network = nearest_named(chosen)
    if difference := differences(expected_shapes(CONFIGS[network]), shapes_of(chosen)):
        raise UsageError(
            f"{checkpoint} is of none of the networks {', '.join(CONFIGS)}, which alone can be "
            f"told from their weights; nearest is {network}, but {difference}"
        )
    save_weights(out, {"model": published_state(chosen)})
    return ExportResult(out, network, weights, len(chosen))
