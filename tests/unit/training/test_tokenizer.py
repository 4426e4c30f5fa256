import dataclasses

import pytest
import torch

from annotations_schema.errors import UsageError
from training.models.autoencoder import AutoencoderConfig
from training.models.quantizer import QuantizerConfig
from training.models.tokenizer import CONFIGS, Tokenizer, TokenizerConfig, num_parameters

SMALL = TokenizerConfig(
    autoencoder=AutoencoderConfig(
        channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_levels=(1,),
        z_channels=6,
        norm_groups=4,
    ),
    quantizer=QuantizerConfig(codebook_size=32, codebook_dim=5),
)


def without_memory(config):
    """Shapes only: the large networks need gigabytes."""
    with torch.device("meta"):
        return Tokenizer(config)


@pytest.mark.parametrize(
    ("name", "parameters", "downsampling"),
    [
        # 184.534M encoder + 237.117M decoder + 0.132M 1x1 convolutions + 4.194M codebook.
        ("insight_426m", 425_976_835, 16),
        ("insight_111m", 110_982_019, 16),
        ("llamagen_72m", 71_883_403, 16),
        ("tiny", 684_147, 4),
    ],
)
def test_configuration_has_the_published_size(name, parameters, downsampling):
    tokenizer = without_memory(CONFIGS[name])

    assert num_parameters(tokenizer) == parameters
    assert tokenizer.downsampling == downsampling


@pytest.mark.parametrize(
    ("part", "millions"),
    [("encoder", 184.534), ("decoder", 237.117), ("quantize", 4.194)],
)
def test_parts_of_the_large_tokenizer_have_the_published_sizes(part, millions):
    tokenizer = without_memory(CONFIGS["insight_426m"])

    assert num_parameters(tokenizer.get_submodule(part)) / 1e6 == pytest.approx(millions, abs=5e-4)


def res_block(prefix, has_shortcut=False):
    layers = ["norm1", "conv1", "norm2", "conv2"] + ["nin_shortcut"] * has_shortcut
    return [f"{prefix}.{layer}" for layer in layers]


def attention(prefix):
    return [f"{prefix}.{layer}" for layer in ("norm", "q", "k", "v", "proj_out")]


def middle(prefix):
    return [
        *res_block(f"{prefix}.block_1"),
        *attention(f"{prefix}.attn_1"),
        *res_block(f"{prefix}.block_2"),
    ]


def published_layers():
    """Layers of the published checkpoint of the large tokenizer, written out by its rules."""
    layers = ["quant_conv", "post_quant_conv"]
    for part in ("encoder", "decoder"):
        layers += [f"{part}.{layer}" for layer in ("conv_in", "norm_out", "conv_out")]
        layers += middle(f"{part}.mid")
    for level in range(5):
        for block in range(4):
            # Channels 256, 256, 512, 512, 1024: they change on entering levels 2 and 4.
            widens = block == 0 and level in (2, 4)
            layers += res_block(f"encoder.down.{level}.block.{block}", widens)
        for block in range(5):
            # From above they change on entering levels 3 and 1.
            narrows = block == 0 and level in (3, 1)
            layers += res_block(f"decoder.up.{level}.block.{block}", narrows)
        if level < 4:
            layers.append(f"encoder.down.{level}.downsample.conv")
        if level > 0:
            layers.append(f"decoder.up.{level}.upsample.conv")
    for block in range(4):
        layers += attention(f"encoder.down.4.attn.{block}")
    for block in range(5):
        layers += attention(f"decoder.up.4.attn.{block}")
    return layers


def test_state_has_the_names_of_the_published_checkpoint():
    expected = {f"{layer}.{kind}" for layer in published_layers() for kind in ("weight", "bias")}
    expected |= {
        f"quantize.{name}"
        for name in ("embedding.weight", "embed_avg", "cluster_size", "codebook_used")
    }

    assert set(without_memory(CONFIGS["insight_426m"]).state_dict()) == expected


def test_a_checkpoint_with_a_float_usage_window_loads():
    torch.manual_seed(0)
    state = Tokenizer(SMALL).state_dict()
    state["quantize.codebook_used"] = torch.full((65_536,), 3.0)
    tokenizer = Tokenizer(SMALL)

    tokenizer.load_state_dict(state, strict=True)

    assert tokenizer.quantize.usage() == 1 / 32
    assert torch.equal(tokenizer.encoder.conv_in.weight, state["encoder.conv_in.weight"])


@pytest.mark.parametrize("size", [(16, 16), (6, 22)], ids=["square", "wide"])
def test_round_trip_keeps_the_size_at_any_multiple_of_the_factor(size):
    x = torch.rand(2, 3, *size) * 2 - 1

    out = Tokenizer(SMALL)(x)

    assert out.x_hat.shape == x.shape
    assert out.indices.shape == (2, size[0] // 2, size[1] // 2)
    assert out.z_q.shape == (2, 5, size[0] // 2, size[1] // 2)
    assert out.commitment.ndim == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 15), r"images of 16 x 15 px.*multiples of 2, pad or crop"),
        ((1, 3, 0, 16), r"images of 0 x 16 px"),
        ((1, 1, 16, 16), r"shape \(1, 1, 16, 16\): expected \(B, 3, H, W\)"),
        ((3, 16, 16), r"shape \(3, 16, 16\): expected"),
    ],
    ids=["odd width", "empty", "grey", "no batch"],
)
def test_images_of_a_wrong_shape_are_refused_with_value_and_rule(shape, message):
    with pytest.raises(UsageError, match=message):
        Tokenizer(SMALL).encode(torch.zeros(shape))


def test_indices_decode_to_the_reconstruction():
    tokenizer = Tokenizer(SMALL).eval()
    x = torch.rand(1, 3, 8, 8) * 2 - 1

    with torch.no_grad():
        out = tokenizer(x)

    torch.testing.assert_close(tokenizer.decode_indices(out.indices), out.x_hat)


def test_reconstruction_trains_encoder_and_decoder_but_not_the_codebook():
    tokenizer = Tokenizer(SMALL)

    tokenizer(torch.rand(1, 3, 8, 8)).x_hat.square().mean().backward()

    assert tokenizer.encoder.conv_in.weight.grad.abs().max() > 0
    assert tokenizer.decoder.conv_out.weight.grad.abs().max() > 0
    assert tokenizer.quantize.embedding.weight.grad is None


def test_codebook_moves_only_when_told():
    tokenizer = Tokenizer(SMALL)
    before = tokenizer.quantize.embedding.weight.clone()

    tokenizer(torch.rand(1, 3, 8, 8))
    assert torch.equal(tokenizer.quantize.embedding.weight, before)
    tokenizer.update_codebook(torch.Generator().manual_seed(0))

    assert not torch.equal(tokenizer.quantize.embedding.weight, before)


def test_state_round_trip_reconstructs_bit_for_bit():
    torch.manual_seed(1)
    tokenizer = Tokenizer(SMALL)
    copy = Tokenizer(SMALL)
    copy.load_state_dict(tokenizer.state_dict())
    x = torch.rand(1, 3, 8, 8)

    assert torch.equal(tokenizer.eval()(x).x_hat, copy.eval()(x).x_hat)


def test_tiny_overfits_one_picture(astronaut):
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        dataclasses.replace(
            CONFIGS["tiny"], quantizer=QuantizerConfig(codebook_size=128, codebook_dim=16)
        )
    )
    x = torch.from_numpy(astronaut[60:124, 190:254].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)

    errors = []
    for _ in range(40):
        out = tokenizer(x)
        error = (out.x_hat - x).abs().mean()
        optimizer.zero_grad()
        (error + out.commitment).backward()
        optimizer.step()
        tokenizer.update_codebook(random)
        errors.append(error.item())

    assert errors[-1] < 0.4 * errors[0]
