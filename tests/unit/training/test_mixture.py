"""Shares of sources and weights of rows, as pure functions of the stream position."""

import numpy as np
import pytest

from annotations_schema import UsageError
from training.data.mixture import BLOCK, Mixture, Part
from training.data.order import sample_order, uniform_numbers


def two_sources(shares=(3, 1)):
    return Mixture.shared([Part.of(np.arange(100)), Part.of(np.arange(100, 137))], shares)


def test_one_source_is_drawn_in_the_order_of_samples():
    indices = np.array([4, 9, 2, 7, 5])
    drawn = Mixture.of(indices).draw(np.arange(20), 3)
    order = sample_order(np.arange(20), num_samples=5, seed=3)
    assert drawn.tolist() == indices[order].tolist()


def test_every_block_holds_every_source_by_its_share():
    drawn = two_sources().draw(np.arange(5 * BLOCK), 0).reshape(5, BLOCK)
    assert ((drawn < 100).sum(axis=1) == BLOCK * 3 // 4).all()
    # Not one source after the other: the halves of a block differ little from the whole.
    assert abs((drawn[0, : BLOCK // 2] < 100).mean() - 0.75) < 0.06


def test_each_source_goes_through_its_own_epochs():
    drawn = two_sources().draw(np.arange(4 * BLOCK), 1)
    first, second = drawn[drawn < 100], drawn[drawn >= 100]
    # Positions inside a block are mixed, so whole epochs of a source need not end with a block.
    for own, size in ((first, 100), (second, 37)):
        times = np.unique(own, return_counts=True)[1]
        assert len(times) == size
        assert times.max() - times.min() <= 1 + BLOCK // size


def test_positions_of_a_source_are_all_used_once():
    mixture = Mixture.shared([Part.of(np.arange(768)), Part.of(np.arange(768, 1024))], (3, 1))
    # 768 and 256 per block: a block is exactly one epoch of each.
    for block in (0, 3):
        drawn = mixture.draw(np.arange(BLOCK) + block * BLOCK, 5)
        assert sorted(drawn.tolist()) == list(range(1024))


def test_a_position_alone_gives_what_the_whole_stream_gives():
    weights = np.random.default_rng(0).random(100)
    parts = [Part.of(np.arange(100), weights), Part.of(np.arange(100, 137))]
    mixture = Mixture.shared(parts, (0.2, 0.5))
    whole = mixture.draw(np.arange(3000), 7)
    alone = [int(mixture.draw([p], 7)[0]) for p in range(0, 3000, 97)]
    assert alone == whole[::97].tolist()


@pytest.mark.parametrize("epoch", [0, 1, 6])
def test_rows_come_up_floor_or_ceil_of_their_expected_number(epoch):
    weights = np.random.default_rng(epoch).exponential(size=500)
    drawn = Part.of(np.arange(500), weights).draw(np.arange(500) + 500 * epoch, 2)
    times = np.bincount(drawn, minlength=500)
    expected = weights * 500 / weights.sum()
    assert times.sum() == 500
    assert (times >= np.floor(expected)).all()
    assert (times <= np.ceil(expected)).all()


def test_over_many_epochs_rows_come_up_by_weight():
    weights = np.array([0.3, 0.3, 0.1, 2.5, 1.8])
    drawn = Part.of(np.arange(5), weights).draw(np.arange(5 * 2000), 0)
    np.testing.assert_allclose(np.bincount(drawn) / 2000, weights, atol=0.05)


def test_equal_weights_draw_each_row_once_and_rows_of_weight_0_never():
    equal = Part.of(np.arange(1000), np.full(1000, 0.3))
    assert sorted(equal.draw(np.arange(1000), 0).tolist()) == list(range(1000))
    some = Part.of(np.arange(4), np.array([0.0, 1.0, 0.0, 3.0]))
    assert set(some.draw(np.arange(1000), 0).tolist()) == {1, 3}
    assert len(Mixture.of(np.arange(4), np.array([0.0, 1.0, 0.0, 3.0]))) == 2


def test_a_share_that_no_block_can_hold_is_refused():
    with pytest.raises(UsageError, match=r"data\.weights: 1 of 10001 is under 1 in 1024"):
        two_sources((10_000, 1))


def test_uniform_numbers_are_spread_and_belong_to_seed_and_counter():
    numbers = uniform_numbers(np.arange(10_000), seed=1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
    assert uniform_numbers(77, seed=1) == numbers[77]
    assert (uniform_numbers(np.arange(100), seed=2) != numbers[:100]).all()
