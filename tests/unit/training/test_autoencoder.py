import math

import pytest
import torch
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from training.models.autoencoder import (
    AttnBlock,
    AutoencoderConfig,
    Decoder,
    Downsample,
    Encoder,
    ResBlock,
    Upsample,
    initialise,
)

SMALL = AutoencoderConfig(
    channels=8,
    channel_multipliers=(1, 2, 4),
    num_res_blocks=2,
    attention_levels=(2,),
    z_channels=6,
    norm_groups=4,
)


@pytest.mark.parametrize("size", [(16, 16), (8, 20)], ids=["square", "wide"])
def test_round_trip_divides_and_restores_height_and_width(size):
    x = torch.randn(2, 3, *size)

    z = Encoder(SMALL)(x)

    assert z.shape == (2, 6, size[0] // 4, size[1] // 4)
    assert Decoder(SMALL)(z).shape == x.shape


def test_downsample_pads_right_and_below_only():
    down = Downsample(1)
    torch.nn.init.ones_(down.conv.weight)
    torch.nn.init.zeros_(down.conv.bias)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)

    out = down(x)

    # The first window starts at the first pixel; the last ones reach one pixel past the image.
    expected = [[x[0, 0, :3, :3].sum(), x[0, 0, :3, 2:].sum()]]
    expected += [[x[0, 0, 2:, :3].sum(), x[0, 0, 2:, 2:].sum()]]
    assert torch.equal(out[0, 0], torch.tensor(expected))


def test_upsample_repeats_pixels_before_its_convolution():
    up = Upsample(1)
    torch.nn.init.dirac_(up.conv.weight)
    torch.nn.init.zeros_(up.conv.bias)

    out = up(torch.tensor([[[[1.0, 2.0]]]]))

    assert out.tolist() == [[[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]]


def test_attention_is_the_published_single_head_formula():
    block = AttnBlock(SMALL, 8).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)

    h = block.norm(x)
    q, k, v = (conv(h).flatten(2) for conv in (block.q, block.k, block.v))
    weights = torch.softmax(torch.einsum("bcs,bct->bst", q, k) / math.sqrt(8), dim=2)
    attended = torch.einsum("bct,bst->bcs", v, weights).reshape(x.shape)

    torch.testing.assert_close(block(x), x + block.proj_out(attended))


def test_residual_block_is_the_identity_when_its_last_convolution_is_zero():
    block = ResBlock(SMALL, 8, 8)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    x = torch.randn(1, 8, 4, 4)

    assert torch.equal(block(x), x)


def test_residual_block_follows_its_formula_where_channels_change():
    block = ResBlock(SMALL, 8, 16)
    x = torch.randn(1, 8, 4, 4)

    def norm_silu(norm, x):
        return F.silu(F.group_norm(x, SMALL.norm_groups, norm.weight, norm.bias, 1e-6))

    h = block.conv1(norm_silu(block.norm1, x))
    expected = block.nin_shortcut(x) + block.conv2(norm_silu(block.norm2, h))

    torch.testing.assert_close(block(x), expected)


def test_every_parameter_receives_a_gradient():
    encoder, decoder = Encoder(SMALL), Decoder(SMALL)

    decoder(encoder(torch.randn(1, 3, 8, 8))).square().mean().backward()

    for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert parameter.grad is not None, name
        # A bias on attention's keys shifts all scores of a query alike, which softmax ignores.
        assert name.endswith("k.bias") or parameter.grad.abs().max() > 0, name


def test_without_middle_attention_no_block_sees_the_whole_image():
    config = AutoencoderConfig(
        channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_levels=(),
        middle_attention=False,
        norm_groups=8,
    )
    names = [name for name, _ in Encoder(config).named_modules()]

    assert not [name for name in names if "attn_1" in name]


def test_norm_groups_that_do_not_divide_are_refused_with_level_and_rule():
    with pytest.raises(UsageError, match=r"level 1 has 24 channels.*norm_groups = 16"):
        AutoencoderConfig(
            channels=8, channel_multipliers=(2, 3), attention_levels=(), norm_groups=16
        )


def test_attention_at_a_level_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match=r"attention_levels \(4,\) must lie in 0..1"):
        AutoencoderConfig(channels=32, channel_multipliers=(1, 1))


def test_initialisation_lets_the_image_through_a_new_network():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)

    def influence(is_initialised):
        """Spread of the output between images, in spreads of the input."""
        encoder, decoder = Encoder(SMALL), Decoder(SMALL)
        if is_initialised:
            initialise(encoder)
            initialise(decoder)
        return (decoder(encoder(x)).std(0) / x.std(0)).mean()

    assert influence(is_initialised=True) > 1.5 * influence(is_initialised=False)


def test_initialisation_keeps_the_variance_of_a_convolution():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 64, 3)
    initialise(conv)

    assert conv(torch.randn(4, 64, 12, 12)).var().item() == pytest.approx(1.0, rel=0.1)
