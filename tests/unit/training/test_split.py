"""A step's images divide among ranks and micro batches, none twice and none left out."""

import pytest

from annotations_schema import UsageError
from training.data.split import BatchSplit


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 64])
def test_ranks_in_order_see_the_positions_in_order(ranks, micro_batch):
    splits = [
        BatchSplit(batch_size=8, micro_batch=micro_batch, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    for step in (0, 5):
        seen = [p for split in splits for micro in split.positions(step, 1) for p in micro]
        assert seen == list(range(step * 8, step * 8 + 8))
    assert len(list(splits[0].positions(3, 7))) == 7 * splits[0].micro_steps


def test_a_micro_batch_is_at_most_the_share_of_a_rank():
    split = BatchSplit(batch_size=8, micro_batch=64, ranks=2)
    assert (split.images_of_rank, split.micro_images, split.micro_steps) == (4, 4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "micro_batch": 1, "ranks": 4}, "batch_size=6 does not divide among 4"),
        ({"batch_size": 8, "micro_batch": 3}, "micro_batch=3 does not divide 8"),
        ({"batch_size": 2, "micro_batch": 1, "ranks": 4}, "does not divide among 4"),
        ({"batch_size": 0, "micro_batch": 1}, "each must be at least 1"),
        ({"batch_size": 8, "micro_batch": 0}, "each must be at least 1"),
        ({"batch_size": 8, "micro_batch": 1, "rank": 2, "ranks": 2}, r"rank=2 is outside"),
    ],
)
def test_what_does_not_divide_is_one_clear_line(options, message):
    with pytest.raises(UsageError, match=message):
        BatchSplit(**options)
