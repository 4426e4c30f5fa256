"""The recognisers that text and face loss look through, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from annotations_schema.errors import UsageError
from annotations_schema.weights import WeightsCard, resolve
from training.models.frozen.abinet import ABINET_PARTS, load_abinet
from training.models.frozen.cards import pinned_card
from training.models.frozen.feature_net import FeatureNet, InputRule, check_layers
from training.models.frozen.iresnet import IRESNET_PARTS, load_iresnet50


@dataclass(frozen=True, kw_only=True, slots=True)
class Recogniser:
    """What there is to know about a network beside its file."""

    rule: InputRule
    """Its input."""
    on_offer: tuple[str, ...]
    """Layers that can be compared, finest first."""
    layers: tuple[str, ...]
    """Those that a loss compares unless told otherwise."""
    load: Callable[[WeightsCard, Path, Sequence[str]], nn.Module]
    """Card, file, layers -> the network."""
    at_own_width: tuple[str, ...] = ()
    """Layers that exist at the network's own width alone."""


def _onnx(rule: InputRule, tensors: Mapping[str, str], layers: tuple[str, ...]) -> Recogniser:
    """A network inside an ONNX file; `tensors` are its tensors by layer."""
    load = partial(_load_onnx, tensors)
    return Recogniser(rule=rule, on_offer=tuple(tensors), layers=layers, load=load)


def _load_onnx(
    tensors: Mapping[str, str], card: WeightsCard, file: Path, layers: Sequence[str]
) -> nn.Module:
    # Imported here: the native networks do without the library onnx.
    from training.models.frozen.onnx_net import OnnxNet

    return OnnxNet(file.read_bytes(), [tensors[layer] for layer in layers])


TEXT_RECOGNISERS: Mapping[str, Recogniser] = {
    # Banners are 32 x 128, so 48 x 192 is the network's own height at the banner's aspect. The
    # network's usual padding to 48 x 320 costs 1.7 times as much, for columns of grey.
    "ppocr_v6_small": _onnx(
        InputRule(size=(48, 192), is_bgr=True),
        {
            "stem": "p2o.pd_op.relu.4.0",  # 96 x 12 x 48
            "stage1": "p2o.pd_op.add.18.0",  # 96 x 12 x 48
            "stage2": "p2o.pd_op.add.51.0",  # 192 x 6 x 48
            "stage3": "p2o.pd_op.add.64.0",  # 384 x 3 x 48
            "sequence": "p2o.pd_op.add.78.0",  # 120 x 1 x 24, what the character classifier reads
        },
        layers=("stage1", "stage2", "stage3", "sequence"),
    ),
    # The paper names no layers; its figure draws four maps. layer1..layer4 are the counterpart of
    # the face network's, hold the strokes of letters at 1/2 and 1/4, and cost 0.4 of what
    # layer2..layer5 do; summed over channels, layer5's 512 would outvote the rest.
    "abinet": Recogniser(
        rule=InputRule(
            size=(32, 128),
            # (x + 1) / 2 lies in [0, 1]; from that ImageNet's mean, over its deviation.
            scale=(0.5 / 0.229, 0.5 / 0.224, 0.5 / 0.225),
            shift=(0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225),
        ),
        on_offer=ABINET_PARTS[:-1],
        layers=("layer1", "layer2", "layer3", "layer4"),
        load=load_abinet,
        # Its positional encoding counts through rows of this width.
        at_own_width=("transformer",),
    ),
}
"""Maps in comments are channels x height x width at the default input size."""

FACE_RECOGNISERS: Mapping[str, Recogniser] = {
    "sface": _onnx(
        InputRule(size=(112, 112), scale=(127.5, 127.5, 127.5), shift=(127.5, 127.5, 127.5)),
        {
            "stage1": "conv_4_relu",  # 128 x 56 x 56
            "stage2": "conv_6_relu",  # 256 x 28 x 28
            "stage3": "conv_12_relu",  # 512 x 14 x 14
            "stage4": "conv_14_relu",  # 1024 x 7 x 7
            "embedding": "fc1",  # 128
        },
        layers=("stage1", "stage2", "stage3", "stage4"),
    ),
    "iresnet50": Recogniser(
        rule=InputRule(size=(112, 112)),
        on_offer=IRESNET_PARTS,
        layers=("layer1", "layer2", "layer3", "layer4"),
        load=load_iresnet50,
    ),
}
"""SFace's stages have the sizes of the IResNet50 stages that the paper compares."""


def load_text_recogniser(
    name: str,
    path: Path | None = None,
    *,
    layers: Sequence[str] | None = None,
    width: int | None = None,
    sha256: str | None = None,
) -> FeatureNet:
    """A text recogniser of `TEXT_RECOGNISERS`.

    Args:
        name: key of the table.
        path: the weights file, where it is not the installed package's.
        layers: layers to return; the recogniser's own choice when None.
        width: input width in pixels; a smaller one is cheaper in proportion.
        sha256: what the weights file must be, in place of the card's own.

    Raises:
        UsageError: the name or a layer is unknown, the width does not suit, or `sha256` is none.
        WeightsError: the file is absent or is not the right one.
    """
    recogniser = _named(TEXT_RECOGNISERS, name, "text recogniser")
    if width is not None and recogniser.rule.size is not None:
        height, own_width = recogniser.rule.size
        fixed = set(recogniser.at_own_width) & set(layers or recogniser.layers)
        if width != own_width and fixed:
            raise UsageError(
                f"width {width}: {name} has layer {', '.join(sorted(fixed))} at {own_width} px "
                "alone; leave the width or that layer out"
            )
        if width < height:
            raise UsageError(f"width {width}: banners are wider than {height} px, their height")
        recogniser = replace(recogniser, rule=replace(recogniser.rule, size=(height, width)))
    return _load(recogniser, name, path, layers, sha256)


def load_face_recogniser(
    name: str,
    path: Path | None = None,
    *,
    layers: Sequence[str] | None = None,
    sha256: str | None = None,
) -> FeatureNet:
    """A face recogniser of `FACE_RECOGNISERS`; arguments and errors as `load_text_recogniser`."""
    return _load(_named(FACE_RECOGNISERS, name, "face recogniser"), name, path, layers, sha256)


def _named(table: Mapping[str, Recogniser], name: str, role: str) -> Recogniser:
    if name not in table:
        raise UsageError(f"{role} {name!r} is unknown: choose one of {', '.join(table)}")
    return table[name]


def _load(
    recogniser: Recogniser,
    name: str,
    path: Path | None,
    layers: Sequence[str] | None,
    sha256: str | None,
) -> FeatureNet:
    wanted = recogniser.layers if layers is None else tuple(layers)
    check_layers(wanted, recogniser.on_offer, name)
    card = pinned_card(name, sha256)
    net = recogniser.load(card, resolve(card, path), wanted)
    return FeatureNet(net, recogniser.rule, wanted)
