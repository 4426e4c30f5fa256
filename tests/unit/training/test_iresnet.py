import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from annotations_schema.errors import WeightsError
from tests.frozen_checkpoints import prefixed, randomise_norms, saved
from tests.gradient_check import directional_error
from training.models.frozen.batch_norm import ScaleShift, fold_batch_norm
from training.models.frozen.cards import CARDS
from training.models.frozen.iresnet import IRESNET_PARTS, IResNet50, load_iresnet50
from training.models.frozen.recognisers import load_face_recogniser

CARD = CARDS["iresnet50"]


@pytest.fixture(scope="module")
def whole():
    """The network as in an official checkpoint: batch norms not folded, all parts."""
    torch.manual_seed(0)
    return randomise_norms(IResNet50(IRESNET_PARTS))


@pytest.fixture(scope="module")
def checkpoint(whole, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("iresnet") / "backbone.pth", whole.state_dict())


def faces(count=1, side=112):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_parts_have_the_published_shapes(whole):
    shapes = [tuple(part.shape[1:]) for part in whole(faces())]

    expected = [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (512,)]
    assert shapes == expected


def test_the_number_of_parameters_is_the_published_one(whole):
    assert sum(p.numel() for p in whole.parameters()) == 43_590_848


def test_names_are_the_published_ones(whole):
    names = {n for n in whole.state_dict() if not n.endswith("num_batches_tracked")}

    first = {n.removeprefix("layer3.0.") for n in names if n.startswith("layer3.0.")}
    norm = ("weight", "bias", "running_mean", "running_var")
    assert first == {
        *(f"{bn}.{kind}" for bn in ("bn1", "bn2", "bn3", "downsample.1") for kind in norm),
        *(f"{layer}.weight" for layer in ("conv1", "conv2", "prelu", "downsample.0")),
    }
    assert {n for n in names if not n.startswith("layer")} == {
        "conv1.weight",
        "prelu.weight",
        "fc.weight",
        "fc.bias",
        *(f"{bn}.{kind}" for bn in ("bn1", "bn2", "features") for kind in norm),
    }
    assert [
        len({n.split(".")[1] for n in names if n.startswith(f"layer{i}.")}) for i in (1, 2, 3, 4)
    ] == [3, 4, 14, 3]


def test_folded_network_computes_what_the_batch_norms_did(whole):
    reference = copy.deepcopy(whole).double()
    folded = copy.deepcopy(reference)
    x = faces().double()

    fold_batch_norm(folded)

    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in folded.modules())
    # Each block's first norm, and the one ahead of the embedding, have no layer to go into.
    assert sum(isinstance(m, ScaleShift) for m in folded.modules()) == 3 + 4 + 14 + 3 + 1
    for name, mine, expected in zip(IRESNET_PARTS, folded(x), reference(x), strict=True):
        assert (mine - expected).abs().max() < 1e-9 * expected.abs().max(), name


@pytest.mark.parametrize(
    "wrap",
    [lambda state: prefixed(state, "module."), lambda state: {"state_dict_backbone": state}],
    ids=["wrapped for several devices", "beside an optimizer"],
)
def test_other_forms_of_the_checkpoint_load(whole, tmp_path, wrap):
    path = saved(tmp_path / "backbone.pth", wrap(whole.state_dict()))
    x = faces(side=48)

    (layer1,) = load_iresnet50(CARD, path, ("layer1",))(x)

    torch.testing.assert_close(layer1, whole_layer1(whole, x), rtol=1e-4, atol=1e-4)


def whole_layer1(whole, x):
    return whole.layer1(whole.prelu(whole.bn1(whole.conv1(x))))


def test_features_are_of_faces_as_they_are(whole, checkpoint):
    net = load_face_recogniser("iresnet50", checkpoint)

    features = net(faces())

    assert net.layers == ("layer1", "layer2", "layer3", "layer4")
    for mine, reference in zip(features, whole(faces())[:4], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3)


def test_an_embedding_is_a_map_of_one_position(checkpoint):
    net = load_face_recogniser("iresnet50", checkpoint, layers=["embedding"])

    assert net(faces())[0].shape == (1, 512, 1, 1)


def test_what_lies_behind_the_deepest_tap_is_neither_built_nor_asked_for(whole, tmp_path):
    state = {n: t for n, t in whole.state_dict().items() if not n.startswith(("layer4", "fc"))}
    path = saved(tmp_path / "half.pth", state)

    net = load_iresnet50(CARD, path, ("layer2",))

    assert sum(p.numel() for p in net.parameters()) < 2_000_000
    with pytest.raises(WeightsError, match=r"iresnet50: .* layer4.0.bn1.weight is missing"):
        load_iresnet50(CARD, path, ("layer4",))


@pytest.mark.parametrize("batch", [1, 2])
def test_input_gradient_is_right(checkpoint, batch):
    net = load_iresnet50(CARD, checkpoint, ("layer1", "layer4")).double()
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()

    assert directional_error(net, x, step=1e-6) < 1e-4


def test_nothing_of_it_trains(checkpoint):
    net = load_face_recogniser("iresnet50", checkpoint, layers=["layer1"])
    x = faces().requires_grad_()
    before = net(x)[0].detach()

    net.train()(x)[0].sum().backward()

    assert not any(p.requires_grad for p in net.parameters())
    assert (x.grad != 0).float().mean() > 0.99
    assert torch.equal(net(x)[0], before)


def test_narrow_features_arrive_in_float32_near_the_full_ones(checkpoint):
    net = load_face_recogniser("iresnet50", checkpoint, layers=["layer1", "layer4"])

    full = net(faces())
    with torch.autocast("cpu", torch.bfloat16):
        narrow = net(faces())

    for wide, features in zip(full, narrow, strict=True):
        assert features.dtype == torch.float32
        assert 0 < F.l1_loss(features, wide) < 0.05 * wide.abs().mean()


def test_one_graph_holds_the_network(checkpoint):
    net = load_face_recogniser("iresnet50", checkpoint, layers=["layer1"])

    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)

    for ours, expected in zip(compiled(faces()), net(faces()), strict=True):
        torch.testing.assert_close(ours, expected)
