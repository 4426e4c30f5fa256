"""The loader beside WebDataset and Hugging Face streaming: same files, same cuts, one core.

Every contestant reads the same JPEGs with the same boxes and makes the same kind of batch: a window
cut, brought to 256 px, with its regions, collated. The others decode with Pillow to an array, as
their own readers do; windows and regions are then made by our functions for all of them. They
stream shards in stored order, their fastest; ours reads in its random order, so that what each
reads is compared as a set. Pillow's decoding alone, from memory and with nothing after it, is timed
beside them: no loader with this decoder can be faster. About two minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset as wds  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from annotations_schema import (
    DatasetLayout,
    FaceRegions,
    Provenance,
    Receipt,
    TextRegions,
    table_from_rows,
    write_manifest,
)
from annotations_schema.layout import output_files, write_receipt
from tests.benchmarks.timing import interleaved, ratio, show
from training.data.batch import collate
from training.data.loader import SampleStream, StreamConfig, batches
from training.data.manifest import ManifestDataset
from training.data.split import BatchSplit
from training.data.transforms import AnnotatedImage, CropConfig, random_sample

OURS, BARE = "ours, random order", "Pillow's decoding alone"
NUM_IMAGES, SIDE_PX, BATCH = 576, 512, 16
PLAIN = CropConfig(size_px=256, min_window=0.5, max_window=0.5)  # 512 -> a window of 256, as it is
RESIZED = CropConfig(size_px=256)
ROUNDS = 5
CONFIG = StreamConfig(batch_size=BATCH)
SPLIT = BatchSplit(batch_size=BATCH, micro_batch=BATCH)


def bench_loader() -> None:
    """Images per second and core, time to resume, order over ranks."""
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        root = Path(folder)
        files = [_file(number) for number in range(NUM_IMAGES)]
        _write_dataset(root, files)
        _write_webdataset(root / "web.tar", files)
        _write_parquet(root / "hf.parquet", files)
        dataset = ManifestDataset([root])
        with _one_core():
            for title, crop in (("crop of 256", PLAIN), ("window of 256..512", RESIZED)):
                _race(root, dataset, f"JPEG {SIDE_PX} Q90 -> {title} -> 256 px + regions", crop)
            _resume(dataset)
        _order(dataset)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)


def _race(root: Path, dataset: ManifestDataset, title: str, crop: CropConfig) -> None:
    runs: dict[str, Callable[[], list[str]]] = {
        OURS: lambda: _ours(dataset, crop),
        "WebDataset": lambda: _collated(_webdataset(root / "web.tar"), crop),
        "HF datasets streaming": lambda: _collated(_hf(root / "hf.parquet"), crop),
    }
    stored = [dataset.read_bytes(index) for index in range(NUM_IMAGES)]
    # The gate: every image once, its whole pixels equal, its regions equal.
    for read in (_webdataset(root / "web.tar"), _hf(root / "hf.parquet")):
        for index, theirs in zip(range(0, NUM_IMAGES), read, strict=True):
            if index % 97 == 0:
                mine = dataset.read(index)
                assert mine.image_id == theirs.image_id
                np.testing.assert_array_equal(mine.image, theirs.image)
                np.testing.assert_array_equal(mine.text_boxes, theirs.text_boxes)
                np.testing.assert_allclose(mine.crop_from_image, theirs.crop_from_image)
    assert len({tuple(sorted(run())) for run in runs.values()}) == 1
    timings = interleaved({**runs, BARE: lambda: _decoded(stored)}, rounds=ROUNDS)
    show(f"{title}, 1 core, 0 workers", timings, dict.fromkeys(timings, NUM_IMAGES))
    for name in list(runs)[1:]:
        print(f"  {name} / ours: {ratio(timings, name, OURS)}")
    print(f"  ours / {BARE}: {ratio(timings, OURS, BARE)}")


def _decoded(stored: list[bytes]) -> None:
    for encoded in stored:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()


def _ours(dataset: ManifestDataset, crop: CropConfig) -> list[str]:
    """Makes every batch, lets it go, and returns the images it had; as the others."""
    stream = SampleStream(dataset, dataset.mixture(), crop, 0)
    made = batches(stream, CONFIG, SPLIT, start_step=0, num_steps=NUM_IMAGES // BATCH)
    return [image_id for batch in made for image_id in batch.image_ids]


def _collated(images: Iterator[AnnotatedImage], crop: CropConfig) -> list[str]:
    samples = (
        random_sample(image, crop, seed=0, stream_position=position)
        for position, image in enumerate(images)
    )
    made = []
    while group := list(itertools.islice(samples, BATCH)):
        batch = collate(group, max_text=CONFIG.max_text, max_faces=CONFIG.max_faces)
        made.extend(batch.image_ids)
    return made


def _webdataset(path: Path) -> Iterator[AnnotatedImage]:
    pipeline = wds.WebDataset(str(path), shardshuffle=False).decode("pil")
    for sample in pipeline:
        yield _annotated(sample["__key__"], np.asarray(sample["jpg"]), sample["json"])


def _hf(path: Path) -> Iterator[AnnotatedImage]:
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    for row in rows.cast_column("image", datasets.Image()):
        yield _annotated(row["key"], np.asarray(row["image"].convert("RGB")), row)


def _annotated(key: str, image: NDArray[np.uint8], regions: Any) -> AnnotatedImage:
    return AnnotatedImage(
        image_id=key,
        image=image,
        text_boxes=np.asarray(regions["text_boxes"], np.float32).reshape(-1, 4),
        face_boxes=np.asarray(regions["face_boxes"], np.float32).reshape(-1, 4),
        crop_from_image=np.asarray(regions["crop_from_image"], np.float64).reshape(-1, 2, 3),
        is_text_free=not len(regions["text_boxes"]),
    )


def _resume(dataset: ManifestDataset) -> None:
    """Seconds until the first batch, from the start and at 37 % of a long run."""
    print("\ntime to the first batch")
    steps = 1_000_000
    for share in (0.0, 0.37):
        started = time.perf_counter()
        stream = SampleStream(dataset, dataset.mixture(), PLAIN, 0)
        start = int(share * steps)
        next(batches(stream, CONFIG, SPLIT, start_step=start, num_steps=steps - start))
        print(
            f"  at {share:4.0%} of {steps:,} steps {1000 * (time.perf_counter() - started):8.1f} ms"
        )


def _order(dataset: ManifestDataset) -> None:
    """The same images in every step with 1 rank and 2 workers as with 2 ranks and 1 worker."""
    steps, found = 6, []
    most = min(2, len(os.sched_getaffinity(0)))  # torch warns of more workers than cores
    for ranks, workers in ((1, most), (2, 1)):
        by_step: list[list[str]] = [[] for _ in range(steps)]
        for rank in range(ranks):
            split = BatchSplit(batch_size=BATCH, micro_batch=BATCH, rank=rank, ranks=ranks)
            stream = SampleStream(dataset, dataset.mixture(), PLAIN, 0)
            own = batches(stream, CONFIG, split, start_step=0, num_steps=steps, num_workers=workers)
            for step, batch in enumerate(own):
                by_step[step].extend(batch.image_ids)
        found.append(by_step)
    assert found[0] == found[1]
    print(f"  1 rank x {most} workers and 2 ranks x 1 worker: the same images in the same order")


class _File:
    """A JPEG and its regions."""

    def __init__(self, number: int, jpeg: bytes, boxes: NDArray[np.float64]) -> None:
        self.key = hashlib.sha256(f"https://example.org/{number}".encode()).hexdigest()[:32]
        self.jpeg = jpeg
        quads = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes]
        self.text = TextRegions.from_quads(quads, np.full(len(quads), 0.9), SIDE_PX, SIDE_PX)
        eyes = np.array([[150.0, 170], [190, 172], [171, 195], [154, 214], [187, 215]])
        self.faces = FaceRegions.from_landmarks(
            [np.array([130.0, 130, 210, 240])], [0.9], [eyes + number % 200], SIDE_PX, SIDE_PX
        )

    def regions(self) -> dict[str, Any]:
        return {
            "text_boxes": self.text.box_xyxy.tolist(),
            "face_boxes": self.faces.box_xyxy.tolist(),
            "crop_from_image": self.faces.crop_from_image.reshape(-1, 6).tolist(),
        }


def _file(number: int) -> _File:
    """A crop of a photograph, a little enlarged and with a little noise of its own."""
    rng = np.random.default_rng(number)
    names = ("astronaut", "coffee", "chelsea")
    photos = [*(getattr(data, name)() for name in names), *load_sample_images().images]
    photo = Image.fromarray(photos[number % len(photos)])
    scale = SIDE_PX / min(photo.size) * rng.uniform(1.0, 1.4)
    photo = photo.resize([max(SIDE_PX, round(side * scale)) for side in photo.size])
    left, top = (int(rng.integers(0, side - SIDE_PX, endpoint=True)) for side in photo.size)
    pixels = np.asarray(photo.crop((left, top, left + SIDE_PX, top + SIDE_PX)), np.float64)
    noisy = np.clip(pixels + rng.normal(0, 1.5, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "jpeg", quality=90)
    corners = rng.uniform(0, 380, (int(rng.integers(1, 5)), 2))
    return _File(
        number, buffer.getvalue(), np.hstack([corners, corners + rng.uniform(20, 130, (1, 2))])
    )


def _write_dataset(root: Path, files: list[_File]) -> None:
    layout, rows = DatasetLayout(root), []
    layout.images("000000").parent.mkdir(parents=True)
    with tarfile.open(str(layout.images("000000")), "w") as tar:
        for number, file in enumerate(files):
            member = tarfile.TarInfo(f"{file.key}.jpg")
            member.size = len(file.jpeg)
            offset = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(member, io.BytesIO(file.jpeg))
            rows.append(_row(number, file, offset))
    layout.annotations("000000").parent.mkdir(parents=True)
    provenance = Provenance(config_sha256="0" * 64, creator="benchmark")
    write_manifest(layout.annotations("000000"), table_from_rows(rows), provenance)
    outputs = output_files(layout, [layout.annotations("000000")])
    receipt = Receipt(
        stage="annotate", shard="000000", config_sha256="0" * 64, outputs=outputs, rows=len(files)
    )
    write_receipt(layout, receipt)


def _row(number: int, file: _File, offset: int) -> dict[str, Any]:
    sides = dict.fromkeys(("width", "height", "stored_width", "stored_height"), SIDE_PX)
    return {
        **sides,
        "image_id": file.key,
        "source_row": number,
        "source_name": "benchmark",
        "url": f"https://example.org/{number}",
        "status": "ok",
        "attempts": 1,
        "elapsed_ms": 0,
        "sha256": hashlib.sha256(file.jpeg).hexdigest(),
        "phash": 0,
        "format": "jpeg",
        "bytes": len(file.jpeg),
        "exif_orientation": 0,
        "shard": "000000",
        "offset": offset,
        "length": len(file.jpeg),
        "text_state": "found",
        "face_state": "found",
        "text_regions": file.text,
        "face_regions": file.faces,
    }


def _write_webdataset(path: Path, files: list[_File]) -> None:
    with wds.TarWriter(str(path)) as writer:
        for file in files:
            writer.write({"__key__": file.key, "jpg": file.jpeg, "json": file.regions()})


def _write_parquet(path: Path, files: list[_File]) -> None:
    rows = [{"key": f.key, "image": {"bytes": f.jpeg, "path": None}, **f.regions()} for f in files]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
