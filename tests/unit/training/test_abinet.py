import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from annotations_schema.errors import UsageError, WeightsError
from tests.frozen_checkpoints import prefixed, randomise_norms, saved
from tests.gradient_check import directional_error
from training.models.frozen.abinet import ABINET_PARTS, AbinetVision, load_abinet, sinusoids
from training.models.frozen.batch_norm import ScaleShift, fold_batch_norm
from training.models.frozen.cards import CARDS
from training.models.frozen.recognisers import load_text_recogniser

CARD = CARDS["abinet"]


@pytest.fixture(scope="module")
def whole():
    """The network as in an official checkpoint: batch norms not folded, all parts."""
    torch.manual_seed(0)
    return randomise_norms(AbinetVision(ABINET_PARTS))


@pytest.fixture(scope="module")
def checkpoint(whole, tmp_path_factory):
    """A full model's file: other parts beside the vision model, an optimizer beside the model."""
    state = prefixed(whole.state_dict(), "vision.")
    # The published model saves its positional encodings too.
    state["vision.backbone.pos_encoder.pe"] = torch.zeros(256, 1, 512)
    state["language.proj.weight"] = torch.zeros(512, 37)
    path = tmp_path_factory.mktemp("abinet") / "best-train-abinet.pth"
    return saved(path, {"model": state, "opt": {"state": {0: {"step": torch.zeros(1)}}}})


def banners(count=2, width=128):
    return torch.rand(count, 3, 32, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalised(x):
    """By the published recipe: [0, 1], ImageNet's mean and deviation."""
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    return ((x + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]


def test_parts_have_the_published_shapes_and_sizes(whole):
    shapes = [tuple(part.shape[1:]) for part in whole(banners(1))]

    assert dict(zip(ABINET_PARTS, shapes, strict=True)) == {
        "stem": (32, 32, 128),
        "layer1": (32, 16, 64),
        "layer2": (64, 16, 64),
        "layer3": (128, 8, 32),
        "layer4": (256, 8, 32),
        "layer5": (512, 8, 32),
        "transformer": (512, 8, 32),
        "logits": (26, 37),
    }
    count = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in whole.backbone.named_children()
    }
    assert count["resnet"] == pytest.approx(12.99, abs=0.01)
    assert count["transformer"] == pytest.approx(9.46, abs=0.01)


def test_names_are_the_published_ones(whole):
    names = set(whole.state_dict())

    assert len([n for n in names if n.startswith("backbone.resnet.layer3.")]) == 6 * 12 + 6
    assert {
        "backbone.resnet.conv1.weight",
        "backbone.resnet.bn1.running_var",
        "backbone.resnet.layer1.0.downsample.1.running_mean",
        "backbone.resnet.layer5.2.bn2.weight",
        "backbone.transformer.layers.2.self_attn.in_proj_weight",
        "backbone.transformer.layers.0.linear2.bias",
        "attention.k_encoder.3.1.running_var",
        "attention.k_decoder.0.1.weight",
        "attention.project.bias",
        "cls.weight",
    } <= names
    # Blocks of equal width and stride 1 have no shortcut convolution.
    assert not any(n.startswith("backbone.resnet.layer1.1.downsample") for n in names)


def test_folded_network_computes_what_the_batch_norms_did(whole):
    reference = copy.deepcopy(whole).double()
    folded = copy.deepcopy(reference)
    x = banners(1).double()

    fold_batch_norm(folded)

    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert not any(isinstance(m, ScaleShift) for m in folded.modules())
    for name, mine, expected in zip(ABINET_PARTS, folded(x), reference(x), strict=True):
        assert (mine - expected).abs().max() < 1e-9 * expected.abs().max(), name


def test_encoder_layer_is_torch_s_own(whole):
    reference = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True, dropout=0.0).train()
    layer = whole.backbone.transformer.layers[0]
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 20, 512, generator=torch.Generator().manual_seed(2))

    torch.testing.assert_close(layer(x), reference(x), rtol=1e-4, atol=1e-5)


def test_positional_encoding_by_hand():
    table = sinusoids(26, 512)

    assert table.shape == (26, 512)
    expected = torch.tensor([7 / 10_000 ** (10 / 512)])
    torch.testing.assert_close(table[7, 10:12], torch.cat([expected.sin(), expected.cos()]))


def test_the_transformer_tells_positions_apart(whole):
    flat = whole(torch.zeros(1, 3, 32, 128))[ABINET_PARTS.index("transformer")]

    # Far from the border, the convolutions of a flat picture are the same everywhere.
    assert (flat[0, :, 4, 14] - flat[0, :, 4, 18]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": prefixed(state, "vision."), "opt": {}},
        lambda state: {"model": state},
        lambda state: prefixed(state, "module.vision."),
        lambda state: {
            name.removeprefix("backbone."): tensor
            for name, tensor in state.items()
            if name.startswith("backbone.")
        },
    ],
    ids=["full model", "vision model", "wrapped for several devices", "backbone alone"],
)
def test_every_form_of_the_checkpoint_loads(whole, tmp_path, wrap):
    path = saved(tmp_path / "abinet.pth", wrap(whole.state_dict()))
    taps = ("layer2", "transformer")

    ours = load_abinet(CARD, path, taps)(banners(1))

    expected = dict(zip(ABINET_PARTS, whole(banners(1)), strict=True))
    for tap, mine in zip(taps, ours, strict=True):
        torch.testing.assert_close(mine, expected[tap], rtol=1e-4, atol=1e-4)


def test_features_are_of_banners_normalised_as_published(whole, checkpoint):
    net = load_text_recogniser("abinet", checkpoint)

    features = net(banners())

    expected = whole(normalised(banners()))[1:5]
    assert net.layers == ("layer1", "layer2", "layer3", "layer4")
    for mine, reference in zip(features, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3)


def test_what_lies_behind_the_deepest_tap_is_neither_built_nor_asked_for(whole, tmp_path):
    state = {n: t for n, t in whole.state_dict().items() if "layer4" not in n and "layer5" not in n}
    path = saved(tmp_path / "half.pth", {"model": state})

    net = load_abinet(CARD, path, ("layer3", "stem"))

    assert [tuple(f.shape[1:]) for f in net(banners(1))] == [(128, 8, 32), (32, 32, 128)]
    assert not any("layer4" in name or "transformer" in name for name, _ in net.named_modules())
    with pytest.raises(WeightsError, match=r"resnet.layer4.0.conv1.weight is missing"):
        load_abinet(CARD, path, ("layer4",))


def test_a_tensor_of_another_shape_is_named_in_one_line(whole, tmp_path):
    state = whole.state_dict() | {
        "backbone.resnet.layer2.0.conv2.weight": torch.zeros(64, 64, 1, 1)
    }
    path = saved(tmp_path / "other.pth", {"model": state})

    with pytest.raises(WeightsError) as caught:
        load_abinet(CARD, path, ("layer2",))

    message = str(caught.value)
    assert "abinet: " in message
    assert "1 of 85 tensors differ" in message
    assert "backbone.resnet.layer2.0.conv2.weight has [64, 64, 1, 1], not [64, 64, 3, 3]" in message
    assert "\n" not in message


@pytest.mark.parametrize("batch", [1, 2])
def test_input_gradient_is_right(checkpoint, batch):
    net = load_abinet(CARD, checkpoint, ("layer1", "layer4")).double()
    x = torch.randn(batch, 3, 16, 32, generator=torch.Generator().manual_seed(3)).double()

    assert directional_error(net, x, step=1e-6) < 1e-4


def test_input_gradient_of_the_transformer_is_right(whole):
    layer = copy.deepcopy(whole.backbone.transformer.layers[1]).double()
    x = torch.randn(1, 6, 512, generator=torch.Generator().manual_seed(3)).double()

    assert directional_error(lambda sequence: (layer(sequence),), x) < 1e-6


def test_nothing_of_it_trains(checkpoint):
    net = load_text_recogniser("abinet", checkpoint, layers=["layer1"])
    x = banners(1).requires_grad_()
    before = net(x)[0].detach()

    net.train()(x)[0].sum().backward()

    assert not any(p.requires_grad for p in net.parameters())
    assert (x.grad != 0).float().mean() > 0.99
    assert torch.equal(net(x)[0], before)


def test_an_image_does_not_differ_from_itself_whether_or_not_gradients_are_asked_for(checkpoint):
    net = load_text_recogniser("abinet", checkpoint, layers=["transformer"])

    with torch.no_grad():
        (target,) = net(banners(1))
    (features,) = net(banners(1).requires_grad_())

    assert torch.equal(features, target)


def test_narrow_features_arrive_in_float32_near_the_full_ones(checkpoint):
    net = load_text_recogniser("abinet", checkpoint, layers=["layer4", "transformer"])

    full = net(banners())
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(banners())

    for wide, features in zip(full, narrow, strict=True):
        assert features.dtype == torch.float32
        assert 0 < F.l1_loss(features, wide) < 0.05 * wide.abs().mean()


@pytest.mark.parametrize("part", ["layer2", "encoder layer"])
def test_one_graph_holds_a_part(whole, checkpoint, part):
    if part == "layer2":
        net, x = load_text_recogniser("abinet", checkpoint, layers=["stem", part]), banners(1)
    else:
        net, x = whole.backbone.transformer.layers[0], torch.rand(1, 6, 512)

    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)

    for ours, expected in zip(compiled(x), net(x), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_narrower_banner_is_for_convolutions_alone(checkpoint):
    net = load_text_recogniser("abinet", checkpoint, layers=["layer4"], width=96)

    assert net(banners(1))[0].shape == (1, 256, 8, 24)
    with pytest.raises(UsageError, match=r"width 96: abinet has layer transformer at 128 px alone"):
        load_text_recogniser("abinet", checkpoint, layers=["transformer"], width=96)
