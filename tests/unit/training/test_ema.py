"""The averaged weights."""

import pytest
import torch
from torch import nn

from tests.training_micro import TOKENIZER
from training.ema import WeightEma
from training.models.tokenizer import Tokenizer


def linear(value):
    module = nn.Linear(2, 2)
    nn.init.constant_(module.weight, value)
    nn.init.constant_(module.bias, value)
    return module


def test_the_average_starts_as_a_copy_that_does_not_follow():
    module = linear(1.0)
    ema = WeightEma(module, decay=0.9)
    module.weight.data.fill_(5.0)
    assert torch.equal(ema.module.weight, torch.ones(2, 2))
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_updates_move_by_the_decay_and_the_first_ones_by_more():
    module = linear(0.0)
    ema = WeightEma(module, decay=0.5)
    module.weight.data.fill_(1.0)
    ema.update(module)  # decay min(0.5, 2 / 11)
    torch.testing.assert_close(ema.module.weight, torch.full((2, 2), 1 - 2 / 11))
    ema.num_updates = 1000
    before = ema.module.weight.clone()
    ema.update(module)
    torch.testing.assert_close(ema.module.weight, before + 0.5 * (1 - before))


def test_the_average_of_constant_weights_is_those_weights():
    module = linear(0.3)
    ema = WeightEma(module, decay=0.99)
    for _ in range(5):
        ema.update(module)
    torch.testing.assert_close(ema.module.weight, module.weight)


def test_the_codebook_is_copied_and_the_rest_is_averaged():
    tokenizer = Tokenizer(TOKENIZER)
    ema = WeightEma(tokenizer, decay=0.9, copied=("quantize.",))
    first = tokenizer.quant_conv.weight.detach().clone()
    with torch.no_grad():
        tokenizer.quant_conv.weight.add_(1.0)
        tokenizer.quantize.embedding.weight.add_(1.0)
        tokenizer.quantize.cluster_size.add_(1.0)
    ema.update(tokenizer)
    averaged = ema.module
    torch.testing.assert_close(
        averaged.quantize.embedding.weight, tokenizer.quantize.embedding.weight
    )
    torch.testing.assert_close(averaged.quantize.cluster_size, tokenizer.quantize.cluster_size)
    torch.testing.assert_close(averaged.quant_conv.weight, first + 1 - 2 / 11)


def test_a_restored_average_goes_on_like_the_first():
    module = linear(0.0)
    ema = WeightEma(module, decay=0.9)
    module.weight.data.fill_(1.0)
    for _ in range(3):
        ema.update(module)
    other = WeightEma(linear(7.0), decay=0.9)
    other.load_state_dict(ema.state_dict())
    for average in (ema, other):
        average.update(module)
    assert torch.equal(ema.module.weight, other.module.weight)


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_a_closed_gate_leaves_the_average_and_an_open_one_changes_nothing(decay):
    module = linear(0.0)
    plain, gated = WeightEma(module, decay), WeightEma(module, decay)
    module.weight.data.fill_(1.0)
    plain.update(module)
    gated.update(module, torch.tensor(True))
    torch.testing.assert_close(gated.module.weight, plain.module.weight)
    before = gated.module.weight.clone()
    gated.update(module, torch.tensor(False))
    assert torch.equal(gated.module.weight, before)
