"""The order of training samples: a pure function of (seed, epoch, position).

The stream of samples is endless: stream position p lies in epoch p // N at position p % N, and each
epoch visits every sample once. Nothing is stored but the stream position, one integer, so a run
resumes anywhere at once, and the order is the same for any number of workers.

The permutation is a Feistel network on a power-of-four domain with cycle walking (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): O(1) memory where a shuffled index array of
a billion rows would need 8 GB per process.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15  # odd fraction of the golden ratio, the increment of splitmix64
_MASK_64 = (1 << 64) - 1


def sample_order(stream_positions: ArrayLike, *, num_samples: int, seed: int) -> Int64:
    """Sample indices (...,) int64 in [0, num_samples) at these stream positions (...,), >= 0.

    Within one epoch the indices are a permutation of range(num_samples); another epoch or another
    seed gives an unrelated permutation.

    Raises:
        ValueError: `num_samples` is not positive, or a position is negative.
    """
    positions = np.asarray(stream_positions, dtype=np.int64)
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: an order needs at least one sample")
    if positions.size and positions.min() < 0:
        raise ValueError(f"stream position {positions.min()}: positions start at 0")
    # One-dimensional: numpy warns about the wanted overflow of scalars, not of arrays.
    epochs = (positions.ravel() // num_samples).astype(np.uint64)
    walking = (positions.ravel() % num_samples).astype(np.uint64)
    half_bits = max(1, (max(num_samples - 1, 1).bit_length() + 1) // 2)
    keys = _mix(epochs ^ _mix(np.full_like(epochs, seed & _MASK_64)))
    indices = _feistel(walking, keys, half_bits)
    # Cycle walking: the domain is at most 4 N, so the expected number of walks is below four.
    while (outside := indices >= num_samples).any():
        indices = np.where(outside, _feistel(indices, keys, half_bits), indices)
    return indices.astype(np.int64).reshape(positions.shape)


def uniform_numbers(counters: ArrayLike, *, seed: int) -> NDArray[np.float64]:
    """Numbers (...,) in [0, 1) that belong to these counters (...,), >= 0, and this seed."""
    values = np.atleast_1d(np.asarray(counters, dtype=np.int64)).astype(np.uint64)
    mixed = _mix(values ^ _mix(np.full_like(values, ~seed & _MASK_64)))
    uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform.reshape(np.shape(counters))


def _feistel(values: UInt64, keys: UInt64, half_bits: int) -> UInt64:
    """A keyed bijection of [0, 4 ** half_bits)."""
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for round_number in range(_ROUNDS):
        scrambled = _mix(right ^ _mix(keys ^ np.uint64(round_number * _GOLDEN & _MASK_64)))
        left, right = right, left ^ (scrambled & mask)
    return (left << shift) | right


def _mix(values: UInt64) -> UInt64:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014); arithmetic modulo 2^64."""
    x = values + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
