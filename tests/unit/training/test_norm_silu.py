"""GroupNorm + SiLU that keeps its input alone: same values, same gradients, fewer bytes."""

import pytest
import torch
from torch.nn import functional as F

from tests.benchmarks.activations import (
    PlainNorm,
    SigmoidNorm,
    activation_bytes_per_image,
    kept_bytes,
)
from training.models.norm_silu import NormSiLU, norm_silu
from training.models.tokenizer import CONFIGS

FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)


def layer(channels=16, groups=4):
    torch.manual_seed(0)
    norm = NormSiLU(groups, channels, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


def two_layers(norm, x):
    return F.silu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps))


def images(dtype, memory_format):
    x = torch.randn(2, 16, 5, 7, generator=torch.Generator().manual_seed(1)) * 2 + 1
    return x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()


def test_derivatives_are_those_of_finite_differences():
    norm = layer(8, 2).double()
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(
        lambda *inputs: norm_silu(inputs[0], 2, *inputs[1:], 1e-6), (x, norm.weight, norm.bias)
    )


@FORMATS
def test_value_and_every_gradient_equal_the_two_layers(memory_format):
    norm, x = layer(), images(torch.float32, memory_format)
    wanted = [x, norm.weight, norm.bias]

    out, expected = norm(x), two_layers(norm, x)
    seed = torch.randn_like(expected)

    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, wanted, seed),
        torch.autograd.grad(expected, wanted, seed),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@FORMATS
def test_a_narrow_input_is_treated_in_float32_and_comes_back_as_it_was(memory_format):
    norm, x = layer(), images(torch.bfloat16, memory_format)
    wide = x.detach().float().requires_grad_()

    out, expected = norm(x), two_layers(norm, wide)
    seed = torch.randn_like(out)
    grads = torch.autograd.grad(out, [x, norm.weight, norm.bias], seed)
    exact = torch.autograd.grad(expected, [wide, norm.weight, norm.bias], seed.float())

    assert out.dtype == grads[0].dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=memory_format)
    assert grads[0].is_contiguous(memory_format=memory_format)
    # One rounding to bfloat16, no more: parameters' gradients are not rounded at all.
    torch.testing.assert_close(out, expected.bfloat16())
    torch.testing.assert_close(grads[0], exact[0].bfloat16())
    torch.testing.assert_close(grads[1:], exact[1:])


def test_statistics_of_a_narrow_input_far_from_zero_are_not_narrow():
    norm = NormSiLU(1, 1, affine=True)
    x = 1000 + 8 * torch.arange(4.0).reshape(1, 1, 2, 2)

    torch.testing.assert_close(norm(x.bfloat16()), two_layers(norm, x).bfloat16())


@pytest.mark.parametrize("frozen", [("weight", "bias"), ("weight",)], ids=["both", "weight"])
def test_frozen_parameters_get_no_gradient_and_the_input_its_own(frozen):
    norm, x = layer(), images(torch.float32, torch.contiguous_format)
    for name in frozen:
        getattr(norm, name).requires_grad_(False)

    norm(x).square().sum().backward()
    (expected,) = torch.autograd.grad(two_layers(norm, x).square().sum(), x)

    assert all(getattr(norm, name).grad is None for name in frozen)
    torch.testing.assert_close(x.grad, expected)


def test_names_are_those_of_a_group_norm():
    assert set(NormSiLU(4, 16).state_dict()) == set(torch.nn.GroupNorm(4, 16).state_dict())


def test_only_the_input_is_kept():
    norm, x = layer(), images(torch.bfloat16, torch.contiguous_format)
    with kept_bytes() as kept:
        norm(x)
    # x, a mean and a deviation for each of 2 x 4 groups, weight and bias.
    assert sum(kept.values()) == 2 * x.numel() + 4 * 2 * (2 * 4) + 4 * 2 * 16


@pytest.mark.parametrize(
    ("kind", "gigabytes"), [(SigmoidNorm, 6.5), (PlainNorm, 4.7), (NormSiLU, 1.97)]
)
def test_the_large_network_keeps_less_than_two_and_a_half_gigabytes_an_image(kind, gigabytes):
    kept = activation_bytes_per_image(CONFIGS["insight_426m"], 256, kind) / 1e9

    assert kept == pytest.approx(gigabytes, rel=0.03)
    assert (kept <= 2.5) == (kind is NormSiLU)
