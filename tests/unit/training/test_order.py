"""The order of samples is a pure function of seed, epoch and position."""

import numpy as np
import pytest

from training.data.order import sample_order


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_each_epoch_visits_every_sample_once(num_samples):
    for epoch in (0, 1, 7):
        positions = np.arange(num_samples) + epoch * num_samples
        order = sample_order(positions, num_samples=num_samples, seed=3)
        assert sorted(order.tolist()) == list(range(num_samples))


def test_an_epoch_is_not_the_identity_and_differs_from_the_next():
    first, second = sample_order(np.arange(2000), num_samples=1000, seed=0).reshape(2, 1000)
    # A random permutation has one fixed point on average, and agrees with another as rarely.
    assert (first == np.arange(1000)).sum() < 10
    assert (first == second).sum() < 10


def test_neighbours_in_the_manifest_are_spread_over_the_epoch():
    order = sample_order(np.arange(1000), num_samples=1000, seed=0)
    steps = np.abs(np.diff(order))
    # The mean distance of two random positions is a third of the range.
    assert 280 < steps.mean() < 390


def test_another_seed_gives_another_order():
    orders = [sample_order(np.arange(50), num_samples=50, seed=seed) for seed in (0, 1, -1)]
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_a_position_alone_gives_what_the_whole_epoch_gives():
    whole = sample_order(np.arange(137 * 2), num_samples=137, seed=11)
    alone = [int(sample_order(p, num_samples=137, seed=11)) for p in range(137 * 2)]
    assert alone == whole.tolist()


def test_order_is_stable_across_versions():
    # A change here breaks the resume of every run that was started before it.
    assert sample_order(np.arange(10), num_samples=10, seed=0).tolist() == [
        6, 1, 2, 9, 7, 0, 3, 8, 4, 5,
    ]  # fmt: skip


def test_a_billion_samples_need_no_array():
    assert 0 <= int(sample_order(10**15, num_samples=10**9, seed=1)) < 10**9


def test_no_samples_and_negative_positions_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        sample_order(0, num_samples=0, seed=0)
    with pytest.raises(ValueError, match="start at 0"):
        sample_order([3, -1], num_samples=5, seed=0)
