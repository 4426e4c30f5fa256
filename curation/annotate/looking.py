"""From images' bytes to the columns that annotation changes, by as many threads as were given.

A worker of N threads looks at N images side by side, each network on one thread: that uses N cores
better than one image on N threads (decoding and post-processing do not scale with a network's
threads), and an image's result depends on nothing but its bytes.

On a CPU one batch of four costs what four runs cost (measured: 1,081 ms and 4 x 274 ms for PP-OCRv6
at 1024 x 736 on one core), so a batch is one image there; a GPU is fed with more.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from annotations_schema.codes import RegionState, Stage
from annotations_schema.errors import GeometryError
from annotations_schema.images import (
    DecodeLimits,
    ImageDecodeError,
    ImageHeader,
    decode,
    perceptual_hash,
)
from curation.annotate.protocols import Detector, Dropped, FaceDetector, RegionsT, TextDetector
from curation.annotate.tally import Tally

MAX_DROPPED = 100
"""Most dropped regions of one kind that a row holds, the best ones; the receipt counts all."""

_log = logging.getLogger(__name__)

Row = dict[str, Any]
Image = NDArray[np.uint8]
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Loaded(NamedTuple):
    """The detectors that are open; None where a kind is not run."""

    text: TextDetector | None
    face: FaceDetector | None


class Look(NamedTuple):
    """What became of one image for one kind: a state, regions where a detector looked."""

    state: RegionState
    regions: Any
    dropped: Sequence[Dropped]


def annotate_images(
    images: Iterable[bytes],
    loaded: Loaded,
    limits: DecodeLimits,
    tally: Tally,
    *,
    threads: int,
    batch_size: int,
) -> Iterator[Row]:
    """The columns that annotation changes in the row of each image, in order.

    Memory holds `threads * batch_size` decoded images, and the bytes of twice as many.
    """

    def work(batch: Sequence[bytes]) -> tuple[list[Row], Tally]:
        own = Tally()
        return _annotate_batch(batch, loaded, limits, own), own

    batches = _batches(images, batch_size)
    for rows, own in map_in_order(work, batches, threads):
        tally.add(own)
        yield from rows


def _batches(images: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    rest = iter(images)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def map_in_order(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], threads: int
) -> Iterator[ResultT]:
    """`map`, by several threads; takes at most twice as many items ahead as there are threads."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="annotate") as pool:
        waiting: deque[Future[ResultT]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _annotate_batch(
    batch: Sequence[bytes], loaded: Loaded, limits: DecodeLimits, tally: Tally
) -> list[Row]:
    rows: list[Row] = []
    images: dict[int, Image] = {}
    for place, data in enumerate(batch):
        try:
            with tally.timed("decode"):
                image, header = decode(data, limits)
                rows.append(image_facts(image, header))
                images[place] = image
        except ImageDecodeError as error:
            rows.append(decode_failure(error))
    seen = list(images.values())
    with tally.timed("text"):
        texts = look(loaded.text, seen)
    with tally.timed("face"):
        faces = look(loaded.face, seen)
    for place, text, face in zip(images, texts, faces, strict=True):
        rows[place] |= {
            "text_state": text.state,
            "face_state": face.state,
            "text_regions": text.regions,
            "face_regions": face.regions,
            "dropped_regions": dropped_regions({"text": text, "face": face}, tally),
        }
    return rows


def image_facts(image: Image, header: ImageHeader) -> Row:
    """The columns that follow from the decoded image alone."""
    return {**header._asdict(), "phash": perceptual_hash(image)}


def decode_failure(error: ImageDecodeError) -> Row:
    """The columns of an image that does not decode."""
    return {
        "status": error.code.status,
        "stage": Stage.DECODE,
        "failure_code": error.code,
        "failure_detail": error.detail,
    }


def look(detector: Detector[RegionsT] | None, images: Sequence[Image]) -> list[Look]:
    """What a detector finds in each image; one that breaks it costs the others nothing."""
    if detector is None:
        return [Look(RegionState.NOT_RUN, None, ()) for _ in images]
    if not images:
        return []
    expected: tuple[type[Exception], ...] = (GeometryError, *detector.errors)
    try:
        found = detector.find(images)
    except expected as error:
        if len(images) > 1:
            return [one for image in images for one in look(detector, [image])]
        height, width = images[0].shape[:2]
        _log.warning("%s failed on %d x %d: %s", detector.record.name, width, height, error)
        return [Look(RegionState.FAILED, None, ())]
    return [
        Look(RegionState.FOUND if len(regions) else RegionState.NONE, regions, dropped)
        for regions, dropped in found
    ]


def dropped_regions(looks: dict[str, Look], tally: Tally) -> list[Row] | None:
    """The column `dropped_regions`: null where no detector looked."""
    if all(one.regions is None for one in looks.values()):
        return None
    rows = []
    for kind, one in looks.items():
        tally.counts.update(f"{kind}_{region.reason}" for region in one.dropped)
        rows += [{"kind": kind, **region._asdict()} for region in one.dropped[:MAX_DROPPED]]
    return rows
