"""The recognisers that text and face loss look through, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from annotations_schema.errors import UsageError
from annotations_schema.weights import read_weights
from training.models.frozen.cards import CARDS
from training.models.frozen.feature_net import FeatureNet, InputRule


@dataclass(frozen=True, kw_only=True, slots=True)
class Recogniser:
    """What there is to know about a network beside its file."""

    rule: InputRule
    """Its input."""
    tensors: Mapping[str, str]
    """Name of the model's tensor for each layer on offer, finest first."""
    layers: tuple[str, ...]
    """The layers a loss compares unless told otherwise."""


TEXT_RECOGNISERS: Mapping[str, Recogniser] = {
    # Banners are 32 x 128, so 48 x 192 is the network's own height at the banner's aspect. The
    # network's usual padding to 48 x 320 costs 1.7 times as much, for columns of grey.
    "ppocr_v6_small": Recogniser(
        rule=InputRule(size=(48, 192), is_bgr=True),
        tensors={
            "stem": "p2o.pd_op.relu.4.0",  # 96 x 12 x 48
            "stage1": "p2o.pd_op.add.18.0",  # 96 x 12 x 48
            "stage2": "p2o.pd_op.add.51.0",  # 192 x 6 x 48
            "stage3": "p2o.pd_op.add.64.0",  # 384 x 3 x 48
            "sequence": "p2o.pd_op.add.78.0",  # 120 x 1 x 24, what the character classifier reads
        },
        layers=("stage1", "stage2", "stage3", "sequence"),
    ),
}
"""Maps in comments are channels x height x width at the default input size."""

FACE_RECOGNISERS: Mapping[str, Recogniser] = {
    "sface": Recogniser(
        rule=InputRule(size=(112, 112), scale=127.5, shift=(127.5, 127.5, 127.5)),
        tensors={
            "stage1": "conv_4_relu",  # 128 x 56 x 56
            "stage2": "conv_6_relu",  # 256 x 28 x 28
            "stage3": "conv_12_relu",  # 512 x 14 x 14
            "stage4": "conv_14_relu",  # 1024 x 7 x 7
            "embedding": "fc1",  # 128
        },
        layers=("stage1", "stage2", "stage3", "stage4"),
    ),
}
"""The stages have the sizes of the IResNet50 stages that the paper compares."""


def load_text_recogniser(
    name: str,
    path: Path | None = None,
    *,
    layers: Sequence[str] | None = None,
    width: int | None = None,
) -> FeatureNet:
    """A text recogniser of `TEXT_RECOGNISERS`.

    Args:
        name: key of the table.
        path: the weights file, where it is not the installed package's.
        layers: layers to return; the recogniser's own choice when None.
        width: input width in pixels; a smaller one is cheaper in proportion.

    Raises:
        UsageError: the name or a layer is unknown.
        WeightsError: the file is absent or is not the right one.
    """
    recogniser = _named(TEXT_RECOGNISERS, name, "text recogniser")
    if width is not None and recogniser.rule.size is not None:
        size = (recogniser.rule.size[0], width)
        recogniser = replace(recogniser, rule=replace(recogniser.rule, size=size))
    return _load(recogniser, name, path, layers)


def load_face_recogniser(
    name: str, path: Path | None = None, *, layers: Sequence[str] | None = None
) -> FeatureNet:
    """A face recogniser of `FACE_RECOGNISERS`; arguments and errors as `load_text_recogniser`."""
    return _load(_named(FACE_RECOGNISERS, name, "face recogniser"), name, path, layers)


def _named(table: Mapping[str, Recogniser], name: str, role: str) -> Recogniser:
    if name not in table:
        raise UsageError(f"{role} {name!r} is unknown: choose one of {', '.join(table)}")
    return table[name]


def _load(
    recogniser: Recogniser, name: str, path: Path | None, layers: Sequence[str] | None
) -> FeatureNet:
    return FeatureNet(
        read_weights(CARDS[name], path),
        recogniser.rule,
        recogniser.tensors,
        recogniser.layers if layers is None else layers,
    )
