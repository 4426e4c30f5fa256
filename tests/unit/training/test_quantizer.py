import math

import pytest
import torch
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from training.models import quantizer as quantizer_module
from training.models.quantizer import (
    USAGE_WINDOW,
    EmaQuantizer,
    QuantizerConfig,
    codebook_perplexity,
    codebook_usage,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(size=16, dim=4, **options):
    torch.manual_seed(0)
    return EmaQuantizer(QuantizerConfig(codebook_size=size, codebook_dim=dim, **options))


def flat_latents(quantizer, rows):
    """z whose latents, in raster order, are the rows."""
    rows = torch.as_tensor(rows, dtype=torch.float32)
    return rows.T.reshape(1, quantizer.config.codebook_dim, 1, len(rows))


def plane_quantizer(**options):
    """Four codes on the axes of the plane, decay 0.9."""
    quantizer = make(4, 2, decay=0.9, **options)
    codes = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    quantizer.embedding.weight.copy_(codes)
    quantizer.embed_avg.copy_(codes)
    return quantizer


def update(quantizer, random):
    quantizer.update_codebook(quantizer.take_statistics(random))


def state_of(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


@pytest.mark.parametrize("is_normalized", [True, False], ids=["cosine", "euclidean"])
def test_nearest_is_the_argmin_of_distance(is_normalized):
    quantizer = make(50, 6, is_normalized=is_normalized).double()
    z = torch.randn(200, 6, dtype=torch.float64)
    z = F.normalize(z, dim=1) if is_normalized else z * 0.01

    expected = torch.cdist(z, quantizer.embedding.weight).argmin(1)

    assert torch.equal(quantizer.nearest(z), expected)
    assert len(expected.unique()) > 5


def test_searching_in_chunks_changes_nothing(monkeypatch):
    quantizer, z = make(50, 6), F.normalize(torch.randn(101, 6), dim=1)
    whole = quantizer.nearest(z)

    monkeypatch.setattr(quantizer_module, "_MAX_SIMILARITIES", {False: 50 * 7})

    assert torch.equal(quantizer.nearest(z), whole)


def test_output_is_the_nearest_unit_code_per_position():
    quantizer = make().eval()
    z = torch.randn(2, 4, 3, 5) * 7

    out = quantizer(z)

    assert out.z_q.shape == z.shape
    assert out.indices.shape == (2, 3, 5)
    torch.testing.assert_close(out.z_q, quantizer.codes_at(out.indices))
    torch.testing.assert_close(out.z_q.norm(dim=1), torch.ones(2, 3, 5))


def test_gradient_passes_straight_through_to_the_scaled_latent():
    quantizer = make(beta=0.0).eval()
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    direction = torch.randn(1, 4, 2, 2)

    (quantizer(z).z_q * direction).sum().backward()
    through_quantizer, z.grad = z.grad, None
    (F.normalize(z, dim=1) * direction).sum().backward()

    torch.testing.assert_close(through_quantizer, z.grad)


def test_commitment_is_beta_times_the_mean_square_and_pulls_towards_the_code():
    quantizer = plane_quantizer(beta=0.5, is_normalized=False).eval()
    z = flat_latents(quantizer, [[0.6, 0.2]]).requires_grad_()

    commitment = quantizer(z).commitment
    commitment.backward()

    # The nearest code is (1, 0): squares 0.16 and 0.04, mean 0.1.
    assert commitment.item() == pytest.approx(0.05)
    assert z.grad.flatten().tolist() == pytest.approx([-0.2, 0.1])


def test_update_is_the_moving_average_by_hand():
    quantizer = plane_quantizer(restart="none")
    latents = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]

    quantizer(flat_latents(quantizer, latents))
    update(quantizer, generator())

    # Codes 0, 0 and 1 were hit: counts 0.9 + 0.1 n, sums 0.9 e + 0.1 sum(z).
    assert quantizer.cluster_size.tolist() == pytest.approx([1.1, 1.0, 0.9, 0.9])
    assert quantizer.embed_avg[0].tolist() == pytest.approx([0.9 + 0.18, 0.06])
    length = math.hypot(1.08, 0.06)
    assert quantizer.embedding.weight[0].tolist() == pytest.approx([1.08 / length, 0.06 / length])
    assert quantizer.embedding.weight[2].tolist() == pytest.approx([-1.0, 0.0])


def test_euclidean_codes_become_the_mean_of_their_latents():
    quantizer = plane_quantizer(restart="none", is_normalized=False)

    quantizer(flat_latents(quantizer, [[3.0, 0.0]]))
    update(quantizer, generator())

    assert quantizer.embedding.weight[0].tolist() == pytest.approx([0.9 + 0.3, 0.0])


def test_accumulated_steps_update_like_one_large_step():
    once, twice = make(), make()
    z = torch.randn(4, 4, 3, 3)

    once(z)
    twice(z[:2])
    twice(z[2:])
    for quantizer in (once, twice):
        update(quantizer, generator())

    for name, value in once.state_dict().items():
        torch.testing.assert_close(value, twice.state_dict()[name], msg=name)


@pytest.mark.parametrize("restart", ["reset", "release", "none"])
@pytest.mark.parametrize("size", [16, 300], ids=["fewer codes", "more codes"])
@pytest.mark.parametrize("micro_steps", [1, 2])
def test_two_ranks_update_like_one_with_the_double_batch(restart, size, micro_steps):
    alone, *ranks = (make(size, 4, restart=restart, decay=0.5) for _ in range(3))
    randoms = [generator() for _ in range(3)]
    for step in range(3):
        z = torch.randn(8, 4, 3, 5, generator=generator(step))
        alone(z)
        update(alone, randoms[0])
        for quantizer, half in zip(ranks, z.split(4), strict=True):
            for part in half.split(4 // micro_steps):
                quantizer(part)
        statistics = torch.stack(
            [
                quantizer.take_statistics(random, rank=rank, ranks=2)
                for rank, (quantizer, random) in enumerate(zip(ranks, randoms[1:], strict=True))
            ]
        ).sum(0)
        for quantizer in ranks:
            quantizer.update_codebook(statistics.clone())

        for name, value in state_of(alone).items():
            torch.testing.assert_close(value, ranks[0].state_dict()[name], msg=name)
            assert torch.equal(ranks[0].state_dict()[name], ranks[1].state_dict()[name]), name
    assert alone.usage() > 0


def test_a_closed_gate_leaves_every_tensor_bit_equal_and_an_open_one_changes_nothing():
    closed, opened, plain = make(), make(), make()
    before = state_of(closed)
    for quantizer in (closed, opened, plain):
        quantizer(torch.randn(2, 4, 3, 3, generator=generator()))
    statistics = [quantizer.take_statistics(generator()) for quantizer in (closed, opened, plain)]

    closed.update_codebook(statistics[0] * float("nan"), torch.tensor(False))
    opened.update_codebook(statistics[1], torch.tensor(True))
    plain.update_codebook(statistics[2])

    for name, value in before.items():
        assert torch.equal(closed.state_dict()[name], value), name
        assert torch.equal(opened.state_dict()[name], plain.state_dict()[name]), name
        assert not torch.equal(plain.state_dict()[name], value), name


def test_statistics_are_the_sums_of_the_one_hot_form_and_so_are_the_indices():
    quantizer = make(200, 16)
    z = torch.randn(3, 16, 7, 5, generator=generator())
    flat = F.normalize(z, dim=1).movedim(1, -1).reshape(-1, 16)
    codes = quantizer.codes()
    distances = flat.square().sum(1, keepdim=True) - 2 * flat @ codes.T + codes.square().sum(1)
    one_hot = F.one_hot(distances.argmin(1), 200).float()

    indices = quantizer(z).indices
    statistics = quantizer.take_statistics(generator())

    assert torch.equal(indices.flatten(), distances.argmin(1))
    assert torch.equal(statistics[:200], one_hot.sum(0))
    torch.testing.assert_close(statistics[200:3400].reshape(200, 16), one_hot.T @ flat)


def test_an_update_draws_the_same_amount_whatever_the_latents():
    states = set()
    for seed in range(3):
        quantizer, random = make(64, 4), generator()
        quantizer(torch.randn(2, 4, 8, 8, generator=generator(seed)))
        update(quantizer, random)
        states.add(bytes(random.get_state().tolist()))

    assert len(states) == 1


def test_no_similarity_is_kept_for_the_backward_pass():
    quantizer = make(1024, 4)
    kept = []
    z = torch.randn(1, 4, 8, 8, requires_grad=True)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        quantizer(z)

    assert kept
    assert max(kept) <= z.numel()


@pytest.mark.parametrize("silence", ["eval", "frozen"])
def test_nothing_moves_in_evaluation_or_when_frozen(silence):
    quantizer = make()
    before = state_of(quantizer)
    quantizer.train(silence != "eval")
    quantizer.frozen = silence == "frozen"

    quantizer(torch.randn(1, 4, 3, 3))
    update(quantizer, generator())

    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_second_update_without_new_latents_does_nothing():
    quantizer = make()
    quantizer(torch.randn(1, 4, 3, 3))
    update(quantizer, generator())
    before = quantizer.embed_avg.clone()

    update(quantizer, generator())

    assert torch.equal(quantizer.embed_avg, before)


def test_restart_puts_dead_codes_on_latents_and_restarts_their_sums():
    quantizer = plane_quantizer(restart="reset")
    latents = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]]), dim=1)

    quantizer(flat_latents(quantizer, latents))
    update(quantizer, generator())

    # Codes 2 and 3 were not hit and fall to 0.9, below the threshold 1.
    for code in (2, 3):
        fresh = quantizer.embedding.weight[code]
        assert torch.isclose(latents, fresh).all(1).any()
        torch.testing.assert_close(quantizer.embed_avg[code], fresh)
        assert quantizer.cluster_size[code] == 1.0
    assert quantizer.cluster_size[:2].tolist() == pytest.approx([1.1, 1.1])


def test_release_restart_replaces_the_code_but_keeps_its_stale_sums():
    quantizer = plane_quantizer(restart="release")
    latents = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]]), dim=1)

    quantizer(flat_latents(quantizer, latents))
    update(quantizer, generator())

    assert torch.isclose(latents, quantizer.embedding.weight[2]).all(1).any()
    assert quantizer.embed_avg[2].tolist() == pytest.approx([-0.9, 0.0])
    assert quantizer.cluster_size[2] == pytest.approx(0.9)


def test_restart_with_fewer_latents_than_codes_tells_them_apart_by_noise():
    quantizer = make(64, 4)

    quantizer(torch.randn(1, 4, 1, 2))
    update(quantizer, generator())

    codes = quantizer.embedding.weight
    assert len(codes.unique(dim=0)) == 64
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(64))


def test_restart_draws_no_latent_twice_while_there_are_enough():
    quantizer = make(32, 4)

    quantizer(torch.randn(1, 4, 6, 6))
    update(quantizer, generator())

    dead = quantizer.cluster_size == 1.0
    assert len(quantizer.embedding.weight[dead].unique(dim=0)) == int(dead.sum())


def test_restart_uses_the_whole_codebook_where_latents_fill_a_cone():
    torch.manual_seed(0)
    centers = F.normalize(torch.randn(64, 8) + 3 * torch.eye(8)[0], dim=1)

    def perplexity_after_training(restart):
        quantizer = make(64, 8, restart=restart, decay=0.9)
        random = generator()
        for _ in range(80):
            rows = centers[torch.randint(64, (512,), generator=random)]
            rows = rows + 0.1 * torch.randn(512, 8, generator=random)
            quantizer(rows.T.reshape(1, 8, 16, 32))
            update(quantizer, random)
        return codebook_perplexity(quantizer.codebook_used[-4096:], 64)

    assert perplexity_after_training("reset") > 1.5 * perplexity_after_training("none")


def test_same_generator_gives_the_same_codebook_and_another_does_not():
    def trained(seed):
        quantizer = make(64, 4)
        random = generator(seed)
        for step in range(3):
            torch.manual_seed(step)
            quantizer(torch.randn(1, 4, 8, 8))
            update(quantizer, random)
        return quantizer.embedding.weight

    assert torch.equal(trained(5), trained(5))
    assert not torch.equal(trained(5), trained(6))


def test_a_code_unused_for_ten_thousand_updates_stays_finite():
    quantizer = plane_quantizer(restart="none")
    z = flat_latents(quantizer, [[1.0, 0.0]])

    for _ in range(1500):
        quantizer(z)
        update(quantizer, generator())

    assert quantizer.cluster_size[2] < 1e-30
    assert torch.isfinite(quantizer.embedding.weight).all()
    assert quantizer.embedding.weight[2].tolist() == pytest.approx([-1.0, 0.0], abs=1e-3)


def test_autocast_leaves_the_quantizer_in_float32():
    quantizer = make().eval()
    z = torch.randn(1, 4, 3, 3)

    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z.bfloat16())

    assert out.z_q.dtype == out.commitment.dtype == torch.float32
    assert torch.equal(out.indices, quantizer(z.bfloat16().float()).indices)


def test_state_has_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in make(16, 4).state_dict().items()}

    assert shapes == {
        "embedding.weight": (16, 4),
        "embed_avg": (16, 4),
        "cluster_size": (16,),
        "codebook_used": (65_536,),
    }


def test_usage_counts_the_codes_of_the_window():
    quantizer = plane_quantizer()
    assert (quantizer.usage(), quantizer.perplexity()) == (0.0, 0.0)

    quantizer(flat_latents(quantizer, [[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    update(quantizer, generator())

    assert quantizer.usage() == 0.5
    assert quantizer.perplexity() == pytest.approx(2.0)


def test_window_keeps_the_latest_indices_when_one_step_overfills_it():
    quantizer = plane_quantizer()
    rows = torch.zeros(USAGE_WINDOW + 10, 2)
    rows[:10, 0], rows[10:, 1] = 1.0, 1.0

    quantizer(flat_latents(quantizer, rows))
    update(quantizer, generator())

    assert quantizer.codebook_used.unique().tolist() == [1]


def test_usage_and_perplexity_by_hand():
    indices = torch.tensor([[0, 0, 3, -1]])

    assert codebook_usage(indices, 8) == 0.25
    assert codebook_perplexity(indices, 8) == pytest.approx(3 / 2 ** (2 / 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"decay 1\.0 must be in \[0, 1\)"),
        ({"codebook_size": 0}, r"codebook of 0 x 256"),
        ({"restart": "often"}, r"restart 'often' must be reset, release or none"),
    ],
    ids=["decay", "size", "restart"],
)
def test_impossible_configuration_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        QuantizerConfig(**options)
