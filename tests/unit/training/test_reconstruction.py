import pytest
import torch

from annotations_schema.errors import UsageError
from training.losses.reconstruction import reconstruction_loss


@pytest.mark.parametrize(("norm", "expected"), [("l1", 0.75), ("l2", 0.625)])
def test_value_by_hand(norm, expected):
    x, x_hat = torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 0.0]])

    assert reconstruction_loss(x, x_hat, norm).item() == expected


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gradient_points_away_from_the_original(norm):
    x = torch.zeros(1, 3, 2, 2)
    x_hat = torch.full_like(x, 0.5).requires_grad_()

    reconstruction_loss(x, x_hat, norm).backward()

    assert (x_hat.grad > 0).all()


def test_unknown_norm_is_refused():
    with pytest.raises(UsageError, match=r"'huber' must be l1 or l2"):
        reconstruction_loss(torch.zeros(1), torch.zeros(1), "huber")
