import pytest
import torch
from torch.nn import functional as F

from training.losses.gradients import (
    adaptive_weight,
    gradient_at,
    inject,
    last_layer_gradients,
)


def test_gradient_at_a_leaf_frees_the_graph_and_is_zero_where_nothing_depends_on_it():
    x_hat = torch.rand(1, 3, 2, 2, requires_grad=True)
    loss = x_hat.square().sum()

    torch.testing.assert_close(gradient_at(loss, x_hat), 2 * x_hat.detach())
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    assert torch.equal(gradient_at(torch.zeros(()), x_hat), torch.zeros_like(x_hat))


def test_what_was_computed_in_float32_is_differentiated_in_float32_under_autocast():
    matrix = torch.rand(8, 8) + 1.0
    x_hat = torch.rand(1, 3, 8, 8, requires_grad=True)
    (expected,) = torch.autograd.grad((x_hat @ matrix).square().sum(), x_hat)

    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            loss = (x_hat @ matrix).square().sum()
        gradient = gradient_at(loss, x_hat)

    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_last_layer_gradients_are_those_of_autograd(dtype):
    torch.manual_seed(0)
    features = torch.randn(2, 5, 6, 7).to(dtype)
    weight = torch.randn(3, 5, 3, 3).to(dtype).requires_grad_()
    outputs = F.conv2d(features, weight, padding=1)
    gradients = [torch.randn(2, 3, 6, 7).to(dtype) for _ in range(2)]

    result = last_layer_gradients(features, gradients)

    for got, gradient in zip(result, gradients, strict=True):
        (want,) = torch.autograd.grad(outputs, weight, gradient, retain_graph=True)
        tolerance = {} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.1}
        torch.testing.assert_close(got, want, check_dtype=False, **tolerance)
    assert result.dtype in (torch.float64, torch.float32)


def test_adaptive_weight_is_the_ratio_of_the_norms_and_bounded():
    features = torch.ones(1, 1, 4, 4)
    one = torch.zeros(1, 3, 4, 4)
    one[0, 0, 1, 1] = 1.0  # its weight gradient is nine ones, of norm 3

    assert adaptive_weight(features, 2 * one, one, 1e4).item() == pytest.approx(6 / (3 + 1e-4))
    assert adaptive_weight(features, 2 * one, 0 * one, 1e4).item() == pytest.approx(1e4)
    assert adaptive_weight(features, 0 * one, one, 1e4).item() == 0.0


def test_injection_adds_its_share_through_both_roots():
    weight, latent = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    x_hat, commitment = 3 * weight, 5 * latent.sum()

    for _ in range(2):
        inject(3 * weight, torch.tensor([1.0, 2.0]), 5 * latent.sum(), share=0.5)
    inject(x_hat, torch.zeros(2), commitment.detach())

    assert weight.grad.tolist() == [3.0, 6.0]
    assert latent.grad.tolist() == [5.0]


def test_reconstructions_of_every_float_type_take_their_gradient():
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.ones(2, dtype=dtype, requires_grad=True)
        inject(2 * weight, torch.ones(2, dtype=dtype), torch.zeros(()), share=0.25)
        assert weight.grad.tolist() == [0.5, 0.5]
