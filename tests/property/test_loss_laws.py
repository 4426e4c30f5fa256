"""What holds for every text and face loss, whatever the images, regions and weights."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from training.data.batch import RegionBatch
from training.losses.face import face_loss
from training.losses.text import text_loss

B, SIDE = 3, 12
LAWS = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
COUNTS = st.integers(1, 6)


def net(crops):
    """Two layers, not linear, float64 like the images."""
    return torch.tanh(crops), F.avg_pool2d(crops.square(), 2)


def case(seed, count):
    """Images, reconstructions and random regions of both kinds."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    corner = uniform(count, 2) * (SIDE - 3)
    boxes = torch.cat([corner, corner + 1 + uniform(count, 2) * 2], 1)
    turn = 0.2 * uniform(count)
    rows = [torch.stack([0.3 + turn, -turn, uniform(count) - 0.5], 1)]
    rows.append(torch.stack([turn, 0.3 + turn, uniform(count) - 0.5], 1))
    index = torch.randint(B, (count,), generator=random)
    regions = RegionBatch(
        boxes, index, uniform(count), torch.stack(rows, 1), index.flip(0), uniform(count)
    )
    return uniform(B, 3, SIDE, SIDE) * 2 - 1, uniform(B, 3, SIDE, SIDE) * 2 - 1, regions


def losses(x, x_hat, regions):
    return torch.stack(
        [
            text_loss(x, x_hat, regions, net, size=(4, 8)),
            face_loss(x, x_hat, regions, net, size=(6, 6)),
        ]
    )


def only(regions, rows):
    return RegionBatch(*(field[rows] for field in regions))


def weighted(regions, factor):
    return regions._replace(
        text_weight=regions.text_weight * factor, face_weight=regions.face_weight * factor
    )


@LAWS
@given(SEEDS, COUNTS)
def test_a_perfect_reconstruction_costs_nothing_and_another_costs_something(seed, count):
    x, x_hat, regions = case(seed, count)

    assert torch.equal(losses(x, x.clone(), regions), torch.zeros(2, dtype=torch.float64))
    assert (losses(x, x_hat, regions) > 0).all()


@LAWS
@given(SEEDS, COUNTS, st.floats(0.01, 100))
def test_losses_are_linear_in_the_weights(seed, count, factor):
    x, x_hat, regions = case(seed, count)

    torch.testing.assert_close(
        losses(x, x_hat, weighted(regions, factor)), factor * losses(x, x_hat, regions)
    )


@LAWS
@given(SEEDS, st.integers(2, 6))
def test_losses_are_sums_over_regions(seed, count):
    x, x_hat, regions = case(seed, count)

    parts = [losses(x, x_hat, only(regions, slice(i, i + 1))) for i in range(count)]

    torch.testing.assert_close(torch.stack(parts).sum(0), losses(x, x_hat, regions))


@LAWS
@given(SEEDS, st.integers(2, 6))
def test_the_order_of_regions_does_not_matter(seed, count):
    x, x_hat, regions = case(seed, count)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    torch.testing.assert_close(losses(x, x_hat, only(regions, shuffled)), losses(x, x_hat, regions))


@LAWS
@given(SEEDS, COUNTS)
def test_images_without_regions_only_dilute_the_mean(seed, count):
    x, x_hat, regions = case(seed, count)

    more, more_hat = (torch.cat([images, images]) for images in (x, x_hat))

    torch.testing.assert_close(losses(more, more_hat, regions), losses(x, x_hat, regions) / 2)


@LAWS
@given(SEEDS, COUNTS)
def test_a_region_outside_of_the_image_weighs_nothing(seed, count):
    x, x_hat, regions = case(seed, count)
    outside = regions._replace(
        text_boxes=regions.text_boxes + 10 * SIDE,
        face_theta=regions.face_theta + torch.tensor([[0.0, 0, 9], [0, 0, 9]]),
    )

    assert torch.equal(losses(x, x_hat, outside), torch.zeros(2, dtype=torch.float64))


@LAWS
@given(SEEDS, COUNTS)
def test_a_small_step_against_the_gradient_lowers_each_loss(seed, count):
    x, x_hat, regions = case(seed, count)
    for loss in (text_loss, face_loss):
        start = x_hat.clone().requires_grad_()
        before = loss(x, start, regions, net)
        (gradient,) = torch.autograd.grad(before, start)

        after = loss(x, x_hat - 1e-7 * gradient / gradient.norm(), regions, net)

        assert after < before
