"""Rendered pages as an ordinary dataset: planned, stored and annotated like one from the web.

The list of a rendered dataset names its pages (`https://rendered.invalid/...`, an address that can
never be asked) and holds their words; the real planner plans it. What fetch would download is
drawn, and what a detector would find is known. A page is a pure function of the settings, the seed
and its number, so any shard can be made anew, by itself and alike.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from annotations_schema.codes import RegionState
from annotations_schema.columns import INPUT_PREFIX
from annotations_schema.errors import UsageError
from annotations_schema.images import ImageDecodeError, decode, perceptual_hash, probe
from annotations_schema.layout import (
    DatasetLayout,
    OutputFile,
    Receipt,
    atomic_write,
    is_done,
    sha256_file,
    write_receipt,
)
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import DetectorRecord, Provenance
from annotations_schema.regions import TextRegions
from curation.annotate.config import AnnotateConfig
from curation.config import CurateConfig, DatasetConfig
from curation.fetch.tar import Member, data_offsets, member_name, write_tar
from curation.lock import exclusive
from curation.passes.fetched import fetch_inputs
from curation.plan.plan import PlanConfig
from curation.render_text.fonts import font_files, fonts_that_write
from curation.render_text.page import Image, Page, PageConfig, render_page
from curation.run import plan_dataset

RENDERED = "rendered"
"""Name of the "detector" in the manifests' footer: the boxes are those that were drawn."""

LIST_NAME = "rendered_text.parquet"
_DISTRIBUTION = "open-insighttok"
_WORDS = "words"

OnShard = Callable[[str, int, int], None]
"""Shard, how many are done, how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """What is rendered."""

    images: int
    """Pages."""
    seed: int = 0
    """Of every choice."""
    page: PageConfig = field(default_factory=PageConfig)
    """How words are set."""
    jpeg_quality: int = 92
    """Of the stored images, 4:4:4, so that small letters keep their colour."""
    shard_size: int = 1000
    """Pages in a shard."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UsageError(f"images {self.images}: render at least 1")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} must not be negative")
        if not 30 <= self.jpeg_quality <= 100:
            raise UsageError(f"jpeg_quality {self.jpeg_quality} must lie between 30 and 100")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What pages are made of."""

    words: tuple[str, ...]
    fonts: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    unsuitable_fonts: int = 0
    """Fonts that lack a letter of the words, or are none."""

    def sha256(self) -> str:
        """Hash of words, fonts and backgrounds: their content, not their place."""
        digest = hashlib.sha256(json.dumps(self.words).encode())
        for path in (*self.fonts, *self.backgrounds):
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()


def load_sources(
    words: Sequence[str], fonts: Sequence[Path], backgrounds: Sequence[Path]
) -> Sources:
    """Find fonts and backgrounds.

    Args:
        words: the vocabulary; each is used as it is, in capitals and capitalised.
        fonts: folders or files.
        backgrounds: folders or files of images; text that is in them gets no box.

    Raises:
        UsageError: no words, no font that can write all of them, no image, or one that cannot be
            decoded.
    """
    vocabulary = tuple(dict.fromkeys(word for word in words if word))
    if not vocabulary:
        raise UsageError("no words: give a file with a word a line, or leave --words out")
    found = font_files(fonts)
    suitable = fonts_that_write(found, vocabulary)
    if not suitable:
        raise UsageError(
            f"none of {len(found)} fonts has all letters of the words; give others with --fonts"
        )
    images = _image_files(backgrounds)
    for path in images:
        _decoded(path)
    return Sources(
        words=vocabulary,
        fonts=tuple(suitable),
        backgrounds=tuple(images),
        unsuitable_fonts=len(found) - len(suitable),
    )


def render_dataset(
    layout: DatasetLayout,
    sources: Sources,
    config: RenderConfig,
    on_shard: OnShard = lambda shard, done, total: None,
) -> DatasetConfig:
    """Render a dataset; finished shards stay, so the same call goes on after a kill.

    Raises:
        UsageError: the folder holds another dataset.
    """
    curate = CurateConfig(
        plan=PlanConfig(shard_size=config.shard_size),
        annotate=AnnotateConfig(text_detector="none", face_detector="none"),
    )
    with tempfile.TemporaryDirectory(prefix="insight-render-") as folder:
        source = Path(folder) / LIST_NAME
        _write_list(source, sources, config)
        dataset = plan_dataset(source, layout, curate)
    shards = layout.shards_planned()
    with exclusive(layout):
        for number, shard in enumerate(shards):
            first = number * config.shard_size
            if not is_done(layout, "annotate", shard, dataset.stages["annotate"]):
                _render_shard(layout, shard, first, sources, config, dataset)
            on_shard(shard, number + 1, len(shards))
    return dataset


def page_of(number: int, sources: Sources, config: RenderConfig) -> Page:
    """A page by its number."""
    rng = np.random.default_rng([config.seed, number])
    background = sources.backgrounds[int(rng.integers(len(sources.backgrounds)))]
    return render_page(_decoded(background), sources.words, sources.fonts, config.page, rng)


def words_json(page: Page) -> str:
    """The words of a page as `evaluate` reads them from the column `input_words`."""
    return json.dumps(
        [
            {
                "text": word.text,
                "box_xyxy": [*word.quad.min(0).tolist(), *word.quad.max(0).tolist()],
                "font": word.font,
            }
            for word in page.words
        ]
    )


def _write_list(path: Path, sources: Sources, config: RenderConfig) -> None:
    facts = json.dumps([asdict(config.page), config.seed, config.jpeg_quality, sources.sha256()])
    name = hashlib.sha256(facts.encode()).hexdigest()[:32]
    schema = pa.schema([("url", pa.string()), (_WORDS, pa.string())])
    with atomic_write(path) as temporary, pq.ParquetWriter(str(temporary), schema) as writer:
        for first in range(0, config.images, config.shard_size):
            numbers = range(first, min(first + config.shard_size, config.images))
            urls = [f"https://rendered.invalid/{name}/{number}.jpg" for number in numbers]
            words = [words_json(page_of(number, sources, config)) for number in numbers]
            writer.write_table(pa.table([urls, words], schema=schema))


def _render_shard(
    layout: DatasetLayout,
    shard: str,
    first: int,
    sources: Sources,
    config: RenderConfig,
    dataset: DatasetConfig,
) -> None:
    started, clock = time.time(), time.monotonic()
    planned = pq.read_table(str(layout.plan(shard)))
    names = [name for name in planned.column_names if not name.startswith(INPUT_PREFIX)]
    rows, regions, members = [], [], []
    with layout.working_folder(f"render-{shard}") as folder:
        spool = folder / "images.spool"
        with spool.open("wb") as file:
            for number, row in enumerate(planned.select(names).to_pylist(), start=first):
                page = page_of(number, sources, config)
                data = _jpeg(page.image, config.jpeg_quality)
                header = probe(data)
                members.append(
                    Member(member_name(row["image_id"], header.format), file.tell(), len(data))
                )
                file.write(data)
                rows.append(
                    {
                        **row,
                        **header._asdict(),
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "bytes": len(data),
                        "attempts": 0,
                        "elapsed_ms": 0,
                        "shard": shard,
                        "length": len(data),
                        "text_state": RegionState.NOT_RUN,
                        "face_state": RegionState.NOT_RUN,
                    }
                )
                regions.append((_regions(page), perceptual_hash(decode(data)[0])))
        for row, offset in zip(rows, data_offsets(members), strict=True):
            row["offset"] = offset
        tar = write_tar(layout.images(shard), spool, members)
    fetched = Provenance(config_sha256=dataset.stages["fetch"], creator=_creator())
    table = write_manifest(layout.fetch(shard), _with_words(rows, planned), fetched)
    outputs = {
        layout.relative(layout.images(shard)): tar,
        layout.relative(layout.fetch(shard)): table,
    }
    _receive(layout, "fetch", shard, dataset, outputs, rows, {"ok": len(rows)}, {}, started, clock)
    known = [
        {
            **row,
            "phash": phash,
            "text_regions": text,
            "text_state": RegionState.FOUND if len(text) else RegionState.NONE,
        }
        for row, (text, phash) in zip(rows, regions, strict=True)
    ]
    annotated = Provenance(
        config_sha256=dataset.stages["annotate"],
        creator=_creator(),
        text_detector=DetectorRecord(
            name=RENDERED,
            library=_DISTRIBUTION,
            library_version=version(_DISTRIBUTION),
            weights_sha256=None,
            weights_licence="none: the boxes are those that were drawn",
        ),
    )
    manifest = write_manifest(layout.annotations(shard), _with_words(known, planned), annotated)
    counts = {
        "ok": len(known),
        "text_regions": sum(len(text) for text, _ in regions),
        "text_found": sum(len(text) > 0 for text, _ in regions),
        "text_none": sum(len(text) == 0 for text, _ in regions),
        "face_not_run": len(known),
    }
    inputs = fetch_inputs(layout, shard)
    path = layout.relative(layout.annotations(shard))
    _receive(
        layout, "annotate", shard, dataset, {path: manifest}, known, counts, inputs, started, clock
    )


def _receive(
    layout: DatasetLayout,
    stage: str,
    shard: str,
    dataset: DatasetConfig,
    outputs: dict[str, OutputFile],
    rows: Sequence[dict[str, Any]],
    counts: dict[str, int],
    inputs: dict[str, str],
    started: float,
    clock: float,
) -> None:
    write_receipt(
        layout,
        Receipt(
            stage=stage,
            shard=shard,
            config_sha256=dataset.stages[stage],
            outputs=outputs,
            rows=len(rows),
            counts=counts,
            inputs=inputs,
            started_at=started,
            elapsed_s=time.monotonic() - clock,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            version=version(_DISTRIBUTION),
        ),
    )


def _regions(page: Page) -> TextRegions:
    if not page.words:
        return TextRegions.empty()
    side = page.image.shape[0]
    quads = np.stack([word.quad for word in page.words]).clip(0, side)
    return TextRegions.from_quads(quads, np.ones(len(quads)), side, side)


def _with_words(rows: Sequence[dict[str, Any]], planned: pa.Table) -> pa.Table:
    table = table_from_rows(rows)
    for field_ in planned.schema:
        if field_.name.startswith(INPUT_PREFIX):
            table = table.append_column(field_, planned.column(field_.name))
    return table


def _image_files(places: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UsageError(f"backgrounds {place} does not exist; give a folder of images")
        files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
        found.extend(sorted(files))
    if not found:
        raise UsageError("no background: give a folder of images with --backgrounds")
    return found


def _decoded(path: Path) -> Image:
    try:
        return decode(path.read_bytes())[0]
    except ImageDecodeError as error:
        raise UsageError(f"background {path} is no image ({error.code}); take it out") from error


def _jpeg(image: Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _creator() -> str:
    return f"{_DISTRIBUTION} {version(_DISTRIBUTION)}"
