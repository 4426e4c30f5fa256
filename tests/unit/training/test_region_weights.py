import torch

from tests.unit.training.test_text_loss import BOX, regions, two_layers
from training.losses.region_weights import region_weights
from training.losses.text import text_loss

AREAS = torch.tensor([0.3, 0.0, 0.1, 0.2])


def test_by_area_weights_stay_as_they_are():
    assert torch.equal(region_weights(AREAS, "area"), AREAS)


def test_equal_weights_share_the_sum_of_the_areas_and_leave_padding_out():
    torch.testing.assert_close(region_weights(AREAS, "equal"), torch.tensor([0.2, 0.0, 0.2, 0.2]))


def test_without_a_used_region_all_weights_are_zero():
    assert torch.equal(region_weights(torch.zeros(3), "equal"), torch.zeros(3))


def test_the_text_loss_asks_as_much_of_a_small_region_as_of_a_large_one():
    x, x_hat = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    x_hat[:, :, :4, :4] = 0.5  # only the first of two regions is wrong
    both = regions([BOX, (4, 4, 8, 8)], weight=[0.1, 0.7])

    by_area = text_loss(x, x_hat, both, two_layers, size=(4, 4))
    equal = text_loss(x, x_hat, both, two_layers, size=(4, 4), weighting="equal")

    torch.testing.assert_close(equal / by_area, torch.tensor(4.0))
