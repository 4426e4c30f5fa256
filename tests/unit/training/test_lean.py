"""Compiling, memory formats and checkpointing change no name, no value and no gradient."""

import dataclasses

import pytest
import torch

from annotations_schema.errors import UsageError
from tests.benchmarks.activations import kept_bytes
from training.machine import MachineConfig
from training.models.autoencoder import AutoencoderConfig
from training.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.models.lean import make_lean
from training.models.quantizer import QuantizerConfig
from training.models.tokenizer import Tokenizer, TokenizerConfig

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


def tokenizer(config=SMALL):
    torch.manual_seed(0)
    return Tokenizer(config)


def gradients(module, x):
    """x_hat, and the gradient of every parameter of encoder and decoder."""
    x_hat = module.decoder(module.encoder(x))
    parameters = [*module.encoder.parameters(), *module.decoder.parameters()]
    return x_hat.detach(), torch.autograd.grad(x_hat.square().sum(), parameters)


@pytest.mark.parametrize(
    "machine",
    [
        MachineConfig(checkpoint_levels=(0,)),
        MachineConfig(checkpoint_levels=(0, 1)),
        MachineConfig(channels_last=True),
        MachineConfig(channels_last=True, checkpoint_levels=(1,)),
    ],
    ids=["finest", "all", "channels_last", "both"],
)
def test_values_gradients_and_names_stay(machine):
    plain, lean = tokenizer().double(), tokenizer().double()
    make_lean(lean, machine)
    x = torch.rand(2, 3, 12, 20, dtype=torch.float64)

    torch.testing.assert_close(gradients(lean, x), gradients(plain, x))
    assert list(lean.state_dict()) == list(plain.state_dict())


def test_checkpointed_levels_keep_less():
    # Attention between all pixels would hide everything else.
    autoencoder = dataclasses.replace(
        SMALL.autoencoder, attention_levels=(), middle_attention=False
    )
    config = dataclasses.replace(SMALL, autoencoder=autoencoder)

    def kept(*levels):
        module = tokenizer(config)
        make_lean(module, MachineConfig(checkpoint_levels=levels))
        with kept_bytes() as storages:
            module.decoder(module.encoder(torch.rand(1, 3, 64, 64)))
        return sum(storages.values())

    assert kept(0, 1) < kept(0) < 0.8 * kept()


def test_dropout_is_the_same_when_a_block_is_computed_again():
    config = dataclasses.replace(
        SMALL, autoencoder=dataclasses.replace(SMALL.autoencoder, dropout=0.5)
    )
    plain, lean = tokenizer(config), tokenizer(config)
    make_lean(lean, MachineConfig(checkpoint_levels=(0, 1)))
    x = torch.rand(1, 3, 8, 8)

    torch.manual_seed(3)
    expected = gradients(plain, x)
    torch.manual_seed(3)
    torch.testing.assert_close(gradients(lean, x), expected)


def test_an_evaluation_computes_no_block_again():
    module = tokenizer()
    make_lean(module, MachineConfig(checkpoint_levels=(0, 1)))
    with torch.no_grad():
        assert module.eval()(torch.rand(1, 3, 8, 8)).x_hat.grad_fn is None


def test_channels_last_reaches_weights_and_activations():
    module = tokenizer()
    make_lean(module, MachineConfig(channels_last=True))
    z = module.encoder(torch.rand(1, 3, 16, 16))
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert not z.is_contiguous()


def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"checkpoint_levels \(0, 2\) must lie in 0..1"):
        make_lean(tokenizer(), MachineConfig(checkpoint_levels=(0, 2)))


def test_a_discriminator_takes_the_memory_format_alone():
    discriminator = PatchDiscriminator(DiscriminatorConfig(channels=8, norm_groups=8))
    make_lean(discriminator, MachineConfig(channels_last=True, checkpoint_levels=(0,)))
    assert discriminator.main[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.long
# The compiler asks for it itself, of what enters a block.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_compute_what_they_computed_under_their_old_names():
    plain, lean = tokenizer(), tokenizer()
    make_lean(lean, MachineConfig(compile=True, channels_last=True))
    x = torch.rand(2, 3, 8, 12)

    torch.testing.assert_close(gradients(lean, x), gradients(plain, x), rtol=1e-4, atol=1e-4)
    assert list(lean.state_dict()) == list(plain.state_dict())
    compiled = {type(part).__name__ for part in lean.modules() if part._compiled_call_impl}
    assert compiled == {"ResBlock", "AttnBlock", "NormSiLU"}
