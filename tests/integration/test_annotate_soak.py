"""Annotate holds its memory: a flat line over thousands of images in one process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from annotations_schema.layout import DatasetLayout
from tests.fetched_datasets import write_pass

MEBIBYTE = 1 << 20
NUM_PICTURES = 48
"""Pictures that come again and again, nearly every one of another size."""

CHILD = """
import json, os, sys
from pathlib import Path
from annotations_schema.layout import DatasetLayout
from curation.annotate.config import AnnotateConfig
from curation.annotate.stage import AnnotateStage

root = Path(sys.argv[1])
stage = AnnotateStage(root, AnnotateConfig())
stage.open()
samples = []
for shard in DatasetLayout(root).shards_planned():
    counts = stage.run(shard).counts
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    samples.append([counts["text_regions"], pages * os.sysconf("SC_PAGE_SIZE")])
print(json.dumps(samples))
"""


def pictures() -> list[bytes]:
    """Small pictures with and without a word; sides of 48 to 160 px."""
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(NUM_PICTURES):
        width, height = rng.integers(48, 161, 2).tolist()
        image = Image.new("RGB", (width, height), tuple(rng.integers(128, 256, 3).tolist()))
        if number % 2:
            draw = ImageDraw.Draw(image)
            draw.text((4, height // 3), f"word {number}", fill=(0, 0, 0), font_size=18)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def memory_by_shard(root: Path, *, num_shards: int, shard_size: int) -> np.ndarray:
    """Resident bytes of a process of its own after each of its shards, (num_shards,)."""
    layout, encoded = DatasetLayout(root), pictures()
    for shard in range(num_shards):
        numbers = {f"{n}.png": n for n in range(shard * shard_size, (shard + 1) * shard_size)}
        images = {name: encoded[n % NUM_PICTURES] for name, n in numbers.items()}
        write_pass(layout, f"{shard:06d}", images, numbers)
    command = [sys.executable, "-c", CHILD, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    samples = json.loads(done.stdout)
    assert len(samples) == num_shards
    assert all(num_text for num_text, _ in samples)
    return np.array([resident for _, resident in samples], np.float64)


def growth(samples: np.ndarray) -> float:
    """How much a straight line through the samples rises from the first to the last, bytes."""
    return float(np.polyfit(np.arange(len(samples)), samples, 1)[0] * (len(samples) - 1))


def test_the_measure_sees_a_leak() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, MEBIBYTE, 30)
    assert abs(growth(500 * MEBIBYTE + noise)) < 4 * MEBIBYTE
    leak = np.linspace(0, 3000 * 10_240, 30)  # 10 KiB an image
    assert growth(500 * MEBIBYTE + noise + leak) > 24 * MEBIBYTE


@pytest.mark.slow
def test_memory_is_flat_over_two_hundred_images(tmp_path: Path) -> None:
    samples = memory_by_shard(tmp_path, num_shards=10, shard_size=24)
    assert growth(samples[4:]) < 16 * MEBIBYTE
    assert samples.max() < 1500 * MEBIBYTE


@pytest.mark.long
@pytest.mark.slow
def test_memory_is_flat_over_three_thousand_images(tmp_path: Path) -> None:
    samples = memory_by_shard(tmp_path, num_shards=40, shard_size=80)
    assert growth(samples[10:]) < 16 * MEBIBYTE
