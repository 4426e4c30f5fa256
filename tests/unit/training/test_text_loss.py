import pytest
import torch
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from training.data.batch import RegionBatch
from training.losses.text import text_loss
from training.models.frozen.recognisers import load_text_recogniser


def regions(boxes, image=None, weight=None):
    count = len(boxes)
    return RegionBatch(
        text_boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        text_image=torch.tensor([0] * count if image is None else image, dtype=torch.int64),
        text_weight=torch.tensor([1.0] * count if weight is None else weight),
        face_theta=torch.zeros(0, 2, 3),
        face_image=torch.zeros(0, dtype=torch.int64),
        face_weight=torch.zeros(0),
    )


def two_layers(crops):
    """Layer 1: the crop itself. Layer 2: three times its channel sums, on half the positions."""
    return crops, 3 * F.avg_pool2d(crops.sum(1, keepdim=True), 2)


BOX = (0, 0, 4, 4)


def test_value_by_hand():
    x, x_hat = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    x_hat[0, 0] = 0.5

    loss = text_loss(x, x_hat, regions([BOX], weight=[0.25]), two_layers, size=(4, 4))

    # Layer 1: 0.5 in one channel of three, summed. Layer 2: 3 * 0.5. Weight 1/4, two images.
    assert loss.item() == pytest.approx(0.25 * (0.5 + 1.5) / 2)


def test_channel_mean_divides_each_layer_by_its_channels():
    x, x_hat = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    x_hat[0, 0] = 0.5

    loss = text_loss(x, x_hat, regions([BOX]), two_layers, size=(4, 4), channels="mean")

    assert loss.item() == pytest.approx(0.5 / 3 + 1.5)


def test_unknown_channel_reduction_is_refused():
    x = torch.zeros(1, 3, 8, 8)

    with pytest.raises(UsageError, match=r"'max' must be sum or mean"):
        text_loss(x, x, regions([BOX]), two_layers, channels="max")


def test_without_regions_the_loss_is_exactly_zero():
    x = torch.rand(2, 3, 8, 8)

    loss = text_loss(x, x.clone().requires_grad_(), regions([]), two_layers)

    assert loss.item() == 0.0
    assert loss.ndim == 0
    assert torch.isfinite(loss + 1.0)


def test_batches_are_averaged_over_images_and_summed_over_regions():
    x, x_hat = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    one = text_loss(x, x_hat, regions([BOX]), two_layers)

    twice = text_loss(x, x_hat, regions([BOX, BOX]), two_layers)
    pair = text_loss(x.repeat(2, 1, 1, 1), x_hat.repeat(2, 1, 1, 1), regions([BOX]), two_layers)

    torch.testing.assert_close(twice, 2 * one)
    torch.testing.assert_close(pair, one / 2)


@pytest.mark.parametrize("box", [(float("nan"),) * 4, (0, 0, float("inf"), 4), (90, 90, 99, 99)])
def test_a_region_of_weight_zero_is_out_whatever_its_box(box):
    x, x_hat = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    alone, together = x_hat.clone().requires_grad_(), x_hat.clone().requires_grad_()

    expected = text_loss(x, alone, regions([BOX]), two_layers)
    loss = text_loss(x, together, regions([box, BOX], weight=[0.0, 1.0]), two_layers)
    torch.autograd.backward([expected, loss])

    assert loss.item() == expected.item()
    assert torch.equal(together.grad, alone.grad)


def test_a_region_of_weight_zero_is_out_even_on_pixels_that_are_not_finite():
    x = torch.rand(2, 3, 8, 8)
    x_hat = torch.rand(2, 3, 8, 8)
    x_hat[1] = float("nan")
    x_hat.requires_grad_()

    loss = text_loss(x, x_hat, regions([BOX, BOX], image=[0, 1], weight=[1.0, 0.0]), two_layers)
    loss.backward()

    assert torch.isfinite(loss)
    assert torch.isfinite(x_hat.grad).all()
    assert not x_hat.grad[1].any()


def test_gradient_stays_inside_the_boxes():
    x, x_hat = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16, requires_grad=True)

    text_loss(x, x_hat, regions([(2, 3, 9, 8)]), two_layers).backward()

    assert x_hat.grad[:, :, 3:8, 2:9].abs().min() > 0
    x_hat.grad[:, :, 3:8, 2:9] = 0
    assert not x_hat.grad.any()


def test_no_gradient_reaches_the_original():
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    x_hat = torch.rand(1, 3, 8, 8, requires_grad=True)

    text_loss(x, x_hat, regions([BOX]), two_layers).backward()

    assert x.grad is None


def test_gradcheck():
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    # Away from x everywhere, since |.| has no derivative at zero.
    x_hat = (x + 1 + torch.rand_like(x)).requires_grad_()

    assert torch.autograd.gradcheck(
        lambda y: text_loss(x, y, regions([(1, 0, 5, 6)]), two_layers, size=(4, 4)), x_hat
    )


def test_with_a_real_recogniser_descent_brings_a_blurred_word_back(coffee):
    net = load_text_recogniser("ppocr_v6_small", width=64)
    x = torch.from_numpy(coffee[100:164, 200:264].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    x_hat = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    box = regions([(8, 16, 56, 40)])
    losses = []

    for _ in range(4):
        x_hat = x_hat.detach().requires_grad_()
        loss = text_loss(x, x_hat, box, net)
        (gradient,) = torch.autograd.grad(loss, x_hat)
        x_hat = x_hat - 0.05 * gradient / gradient.norm()
        losses.append(loss.item())

    assert losses == sorted(losses, reverse=True)
    assert text_loss(x, x, box, net).item() == 0.0
