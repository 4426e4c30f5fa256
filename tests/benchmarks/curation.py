"""The one decoder on photographs."""

from __future__ import annotations

import numpy as np

from annotations_schema.images import decode
from tests.benchmarks.photos import photos
from tests.benchmarks.timing import interleaved, show


def bench_decode() -> None:
    """The one decoder on photographs."""
    pictures = photos()
    timings = interleaved({"decode 448x320 JPEG": lambda: [decode(p) for p in pictures]}, repeat=20)
    show("Decode", timings, dict.fromkeys(timings, float(len(pictures))))
    assert decode(pictures[0])[0].dtype == np.uint8
