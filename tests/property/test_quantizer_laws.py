"""What holds for every codebook and every batch of latents."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from training.models.quantizer import (
    EmaQuantizer,
    QuantizerConfig,
    codebook_perplexity,
    codebook_usage,
)

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.integers(2, 24)
DIMS = st.integers(2, 6)
LAWS = settings(max_examples=30, deadline=None)


def quantizer_and_latents(seed, size, dim, **options):
    torch.manual_seed(seed)
    quantizer = EmaQuantizer(QuantizerConfig(codebook_size=size, codebook_dim=dim, **options))
    return quantizer, torch.randn(2, dim, 3, 4)


@LAWS
@given(SEEDS, SIZES, DIMS, st.floats(0.01, 100))
def test_cosine_codes_ignore_the_length_of_latents(seed, size, dim, factor):
    quantizer, z = quantizer_and_latents(seed, size, dim)
    quantizer.eval()

    short, long = quantizer(z), quantizer(z * factor)

    # Rounding may swap two codes that are equally near, and no others.
    nearness = [(F.normalize(z, dim=1) * out.z_q).sum(1) for out in (short, long)]
    torch.testing.assert_close(*nearness, rtol=0, atol=1e-5)


@LAWS
@given(SEEDS, SIZES, DIMS, st.booleans())
@example(46161, 17, 2, True)  # two codes 1.6e-4 apart, whose cosine rounds to above 1
def test_codes_quantize_to_themselves_or_to_codes_equally_near(seed, size, dim, is_normalized):
    quantizer, _ = quantizer_and_latents(seed, size, dim, is_normalized=is_normalized)
    quantizer.eval()
    codes = quantizer.codes().T.reshape(1, dim, 1, size)

    out = quantizer(codes)

    # Distances come from scalar products, which round at 1e-7 of the squared length of a code.
    squared_length = codes.square().sum(1).max()
    assert (out.z_q - codes).square().sum(1).max() <= 4e-6 * squared_length
    assert out.commitment < 1e-6


@LAWS
@given(SEEDS, SIZES, DIMS, st.sampled_from(["reset", "release", "none"]))
def test_updates_keep_cosine_codes_on_the_unit_sphere(seed, size, dim, restart):
    quantizer, z = quantizer_and_latents(seed, size, dim, restart=restart)
    random = torch.Generator().manual_seed(seed)

    for _ in range(3):
        quantizer(z)
        quantizer.update_codebook(quantizer.take_statistics(random))

    lengths = quantizer.embedding.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(size), rtol=0, atol=1e-5)


@LAWS
@given(SEEDS, SIZES, DIMS)
def test_the_order_of_images_does_not_matter_to_the_codebook(seed, size, dim):
    one, z = quantizer_and_latents(seed, size, dim, restart="none")
    other, _ = quantizer_and_latents(seed, size, dim, restart="none")

    one(z)
    other(z.flip(0))
    for quantizer in (one, other):
        quantizer.update_codebook(quantizer.take_statistics(torch.Generator()))

    torch.testing.assert_close(one.cluster_size, other.cluster_size)
    torch.testing.assert_close(one.embed_avg, other.embed_avg)


@LAWS
@given(SEEDS, SIZES, DIMS, st.floats(0, 0.999))
def test_counts_move_towards_the_number_of_latents(seed, size, dim, decay):
    quantizer, z = quantizer_and_latents(seed, size, dim, restart="none", decay=decay)

    quantizer(z)
    quantizer.update_codebook(quantizer.take_statistics(torch.Generator()))

    expected = decay * size + (1 - decay) * 24
    torch.testing.assert_close(quantizer.cluster_size.sum(), torch.tensor(expected))


@LAWS
@given(st.lists(st.integers(0, 15), min_size=1, max_size=60))
def test_usage_and_perplexity_bound_each_other(indices):
    tensor = torch.tensor(indices)

    used = codebook_usage(tensor, 16) * 16

    assert used == len(set(indices))
    assert 1 - 1e-9 <= codebook_perplexity(tensor, 16) <= used + 1e-9
