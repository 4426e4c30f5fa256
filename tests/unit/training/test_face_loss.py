import pytest
import torch
from torch.nn import functional as F

from training.data.batch import RegionBatch
from training.losses.face import face_loss
from training.models.frozen.recognisers import load_face_recogniser

WHOLE = torch.eye(2, 3)


def regions(thetas, image=None, weight=None):
    count = len(thetas)
    return RegionBatch(
        text_boxes=torch.zeros(0, 4),
        text_image=torch.zeros(0, dtype=torch.int64),
        text_weight=torch.zeros(0),
        face_theta=torch.stack(thetas) if thetas else torch.zeros(0, 2, 3),
        face_image=torch.tensor([0] * count if image is None else image, dtype=torch.int64),
        face_weight=torch.tensor([1.0] * count if weight is None else weight),
    )


def two_layers(crops):
    """Layer 1: the crop itself. Layer 2: twice the mean of its quarters."""
    return crops, 2 * F.avg_pool2d(crops, 2)


def test_value_by_hand():
    x, x_hat = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    x_hat[1, 2] = -0.25

    loss = face_loss(x, x_hat, regions([WHOLE], image=[1], weight=[0.5]), two_layers, size=(8, 8))

    assert loss.item() == pytest.approx(0.5 * (0.25 + 0.5) / 2)


def test_channel_mean_divides_each_layer_by_its_channels():
    x, x_hat = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)

    loss = face_loss(x, x_hat, regions([WHOLE]), two_layers, size=(8, 8), channels="mean")

    assert loss.item() == pytest.approx(0.3)


def test_without_faces_the_loss_is_exactly_zero():
    x = torch.rand(2, 3, 8, 8)

    loss = face_loss(x, x.clone().requires_grad_(), regions([]), two_layers)

    assert loss.item() == 0.0
    assert loss.ndim == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_face_of_weight_zero_is_out_whatever_its_map(bad):
    x, x_hat = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    alone, together = x_hat.clone().requires_grad_(), x_hat.clone().requires_grad_()
    broken = torch.full((2, 3), bad)

    expected = face_loss(x, alone, regions([WHOLE]), two_layers)
    loss = face_loss(x, together, regions([broken, WHOLE], weight=[0.0, 1.0]), two_layers)
    torch.autograd.backward([expected, loss])

    assert loss.item() == expected.item()
    torch.testing.assert_close(together.grad, alone.grad)


def test_a_face_of_weight_zero_is_out_even_on_pixels_that_are_not_finite():
    x, x_hat = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    x_hat[1] = float("inf")
    x_hat.requires_grad_()

    loss = face_loss(x, x_hat, regions([WHOLE, WHOLE], image=[0, 1], weight=[1.0, 0.0]), two_layers)
    loss.backward()

    assert torch.isfinite(loss)
    assert torch.isfinite(x_hat.grad).all()


def test_a_face_outside_of_the_image_weighs_nothing():
    x, x_hat = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8, requires_grad=True)
    outside = torch.tensor([[0.2, 0.0, 5.0], [0.0, 0.2, 5.0]])

    loss = face_loss(x, x_hat, regions([outside]), two_layers)
    loss.backward()

    assert loss.item() == 0.0
    assert not x_hat.grad.any()


def test_no_gradient_reaches_the_original():
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    x_hat = torch.rand(1, 3, 8, 8, requires_grad=True)

    face_loss(x, x_hat, regions([WHOLE]), two_layers).backward()

    assert x.grad is None
    assert x_hat.grad.abs().max() > 0


def test_gradcheck():
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    x_hat = (x + 1 + torch.rand_like(x)).requires_grad_()

    assert torch.autograd.gradcheck(
        lambda y: face_loss(x, y, regions([0.6 * WHOLE]), two_layers, size=(4, 4)), x_hat
    )


def test_with_a_real_recogniser_descent_brings_a_blurred_face_back(astronaut):
    net = load_face_recogniser("sface", layers=["stage2", "stage3"])
    x = torch.from_numpy(astronaut[60:172, 170:282].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    x_hat = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    losses = []

    for _ in range(3):
        x_hat = x_hat.detach().requires_grad_()
        loss = face_loss(x, x_hat, regions([WHOLE]), net)
        (gradient,) = torch.autograd.grad(loss, x_hat)
        x_hat = x_hat - 0.3 * gradient / gradient.norm()
        losses.append(loss.item())

    assert losses == sorted(losses, reverse=True)
    assert face_loss(x, x, regions([WHOLE]), net).item() == 0.0
