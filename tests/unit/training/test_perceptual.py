import warnings

import lpips
import pytest
import torch
import torchvision
from torch.nn import functional as F

from annotations_schema.errors import UsageError, WeightsError
from training.models.frozen.perceptual import PerceptualDistance, load_perceptual


def picture(photo, side=64):
    """A piece of a photograph, (1, 3, side, side) in [-1, 1]."""
    piece = torch.from_numpy(photo[60 : 60 + side, 180 : 180 + side].copy())
    return piece.permute(2, 0, 1)[None].float() / 127.5 - 1


def blurred(x, width):
    pad = [width // 2] * 4
    return F.avg_pool2d(F.pad(x, pad, mode="replicate"), width, stride=1)


@pytest.fixture(scope="module")
def perceptual():
    return load_perceptual("vgg16_keras")


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    """A file as torchvision publishes it, with random weights of the trunk."""
    torch.manual_seed(0)
    state = {
        f"features.{name}": value
        for name, value in torchvision.models.vgg16(weights=None).features.state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "vgg16-random.pth"
    torch.save(state, path)
    return path


def test_distance_of_an_image_to_itself_is_zero(perceptual, astronaut):
    x = picture(astronaut)

    assert perceptual(x, x).item() == 0.0


def test_distance_grows_with_the_damage(perceptual, astronaut):
    x = picture(astronaut)
    other = torch.flip(x, (2,))

    damage = [perceptual(x, y).item() for y in (blurred(x, 3), blurred(x, 7), other)]

    assert 0 < damage[0] < damage[1] < damage[2]


def test_distance_is_the_mean_over_images(perceptual, astronaut):
    x = picture(astronaut).repeat(2, 1, 1, 1)
    y = torch.cat([x[:1], blurred(x[1:], 5)])

    torch.testing.assert_close(perceptual(x, y), perceptual(x[1:], y[1:]) / 2)


def test_a_step_against_the_gradient_lowers_the_distance(perceptual, astronaut):
    x = picture(astronaut)
    y = blurred(x, 5).requires_grad_()
    before = perceptual(x, y)

    (gradient,) = torch.autograd.grad(before, y)

    assert (
        perceptual(x, y - 0.05 * F.normalize(gradient.flatten(), dim=0).reshape(y.shape)) < before
    )


def test_formula_by_hand():
    distance = PerceptualDistance(torch.nn.Identity(), [torch.tensor([1.0, 0.5])])
    # Identity stands for a network of one layer; two channels, two positions.
    distance.net = OneLayer()
    x = torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]]]])
    x_hat = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]])

    # Unit vectors (.6, .8) and (0, 1) differ by (.36, .04) squared; the second position not at all.
    assert distance(x, x_hat).item() == pytest.approx((0.36 + 0.5 * 0.04) / 2)


class OneLayer(torch.nn.Module):
    def forward(self, x):
        return (x,)


def test_gradient_is_finite_where_all_features_are_zero():
    distance = PerceptualDistance(OneLayer())
    x_hat = torch.zeros(1, 2, 1, 1, requires_grad=True)

    distance(torch.ones(1, 2, 1, 1), x_hat).backward()

    assert torch.isfinite(x_hat.grad).all()


def test_no_gradient_reaches_the_original(perceptual, astronaut):
    x = picture(astronaut, 32).requires_grad_()
    y = picture(astronaut, 32).mul(0.9).requires_grad_()

    perceptual(x, y).backward()

    assert x.grad is None
    assert y.grad.abs().max() > 0


def test_fewer_layers_give_a_part_of_the_distance(perceptual, astronaut):
    x = picture(astronaut)
    y = blurred(x, 5)

    parts = [
        load_perceptual("vgg16_keras", layers=[layer])(x, y) for layer in ("relu1_2", "relu5_3")
    ]

    assert 0 < sum(parts) < perceptual(x, y)


@pytest.fixture(scope="module")
def published(vgg16_file):
    """The package's own network, given the file's weights by torchvision's order of layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    weights = torch.load(vgg16_file, weights_only=True)
    for part in network.net.children():
        for index, layer in part.named_children():
            if hasattr(layer, "weight"):
                layer.weight.data.copy_(weights[f"features.{index}.weight"])
                layer.bias.data.copy_(weights[f"features.{index}.bias"])
    return network


@pytest.fixture(scope="module")
def lpips_distance(vgg16_file):
    return load_perceptual("lpips", vgg16_file)


def test_lpips_is_the_package_s_own_number(published, lpips_distance, astronaut):
    x = picture(astronaut)
    y = blurred(x, 5)

    ours = lpips_distance(x, y)

    torch.testing.assert_close(ours, published(x, y).mean(), rtol=1e-4, atol=1e-6)
    assert ours > 0


def test_lpips_has_the_package_s_own_gradient(published, lpips_distance, astronaut):
    x = picture(astronaut, 32)
    y = blurred(x, 5).requires_grad_()

    (ours,) = torch.autograd.grad(lpips_distance(x, y), y)
    (expected,) = torch.autograd.grad(published(x, y).mean(), y)

    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_lpips_of_features_that_are_all_zero_has_a_finite_gradient(vgg16_file, tmp_path):
    weights = torch.load(vgg16_file, weights_only=True)
    dead = tmp_path / "dead.pth"
    # Below zero in front of every ReLU: no layer says anything.
    torch.save({n: torch.full_like(w, -1e-3 * w.ndim) for n, w in weights.items()}, dead)
    distance = load_perceptual("lpips", dead)
    y = torch.full((1, 3, 32, 32), 0.9, requires_grad=True)

    assert all((f == 0).all() for f in distance.net(y))
    distance(torch.zeros(1, 3, 32, 32), y).backward()

    assert torch.isfinite(y.grad).all()


def test_lpips_refuses_a_choice_of_layers(vgg16_file):
    with pytest.raises(UsageError, match=r"layers relu1_2: lpips compares all of relu1_2, relu2"):
        load_perceptual("lpips", vgg16_file, layers=["relu1_2"])


@pytest.mark.parametrize("name", ["lpips", "vgg16_keras"])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(name):
    known = "relu1_2, relu2_2, relu3_3, relu4_3, relu5_3"
    with pytest.raises(UsageError, match=f"layer 'relu9' is unknown, known are {known}"):
        load_perceptual(name, layers=["relu9"])


def test_a_vgg16_of_another_hash_than_the_pinned_one_is_refused(vgg16_file):
    with pytest.raises(WeightsError, match=r"lpips: .* has sha256 .*, expected 0000000000000000"):
        load_perceptual("lpips", vgg16_file, sha256="0" * 64)


def test_a_download_lands_in_torch_s_cache_and_only_when_asked_for(
    vgg16_file, tmp_path, monkeypatch, lpips_distance, astronaut
):
    """torch's cache holds the file already, so the real code runs and nothing is fetched."""
    cached = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    cached.parent.mkdir()
    cached.write_bytes(vgg16_file.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path.parent / "elsewhere"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    x = picture(astronaut, 32)

    with pytest.raises(WeightsError):
        load_perceptual("lpips")
    ours = load_perceptual("lpips", download=True)(x, blurred(x, 5))

    assert torch.equal(ours, lpips_distance(x, blurred(x, 5)))


def test_lpips_without_weights_says_what_to_do():
    with pytest.raises(WeightsError, match=r"lpips: .*vgg16-397923af.pth.*download"):
        load_perceptual("lpips")


def test_lpips_refuses_a_file_of_another_network(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)

    with pytest.raises(WeightsError, match=r"lpips: .*other.pth holds no weights of it"):
        load_perceptual("lpips", path)


def test_unknown_distance_is_refused_with_the_choice():
    with pytest.raises(UsageError, match=r"'ssim' is unknown: choose one of vgg16_keras, lpips"):
        load_perceptual("ssim")
