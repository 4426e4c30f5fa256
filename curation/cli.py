"""The command line `insight-curate`: what can be typed, and how errors leave.

Options are dataclasses; tyro makes the parser and the help from them. This module imports nothing
heavy, so that help and typing errors are quick; `commands` does the work. A dataset or a URL list
is a path or a URI such as `s3://bucket/name`, so these are text here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from curation.options import (
    AnnotationOptions,
    DatasetOptions,
    OutputOptions,
    RunnerOptions,
    WorkerOptions,
)

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Run:
    """Plan, fetch and annotate a URL list; the same command again continues it."""

    urls: Annotated[Positional[str], arg(metavar="URLS")]
    """URL list: parquet, csv or txt."""
    out: Annotated[str, arg(metavar="DIR")]
    """Folder of the dataset."""
    resume: bool = False
    """Only continue: refuse to begin a new dataset."""
    dataset: DatasetOptions = DatasetOptions()
    worker: WorkerOptions = WorkerOptions()
    runner: RunnerOptions = RunnerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan only: read the list, cut it into shards, write no image."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    urls: str | None = None
    """URL list: parquet, csv or txt; default: the list that DIR was planned from."""
    dataset: DatasetOptions = DatasetOptions()
    worker: WorkerOptions = WorkerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Fetch only: download the planned shards that have no images yet."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    worker: WorkerOptions = WorkerOptions()
    runner: RunnerOptions = RunnerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Annotate only: run the detectors over fetched shards that have no manifest yet."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    annotation: AnnotationOptions = AnnotationOptions()
    worker: WorkerOptions = WorkerOptions()
    runner: RunnerOptions = RunnerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Fetch failed rows again, and annotate what came; no other row is touched."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    codes: str = "transient"
    """Which rows: failure codes and patterns with a comma between, as http_503,dns_*; "transient"
    stands for all codes that are worth another try."""
    worker: WorkerOptions = WorkerOptions()
    runner: RunnerOptions = RunnerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a dataset is: shards and rows by stage, status and code."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    annotation_set: str = "default"
    """Whose annotation."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check rows, hashes, image addresses, geometry and transforms; exit 1 where one is off."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    annotation_set: str = "default"
    """Whose annotation."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page: counts, histograms, a contact sheet."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    out: Path
    """The page to write."""
    images: int = 48
    """Most images on the contact sheet."""
    seed: int = 0
    """The same seed draws the same images."""
    phash_col: str | None = None
    """Column of the list with the expected perceptual hash: tells re-encoded images from others."""
    width_col: str | None = None
    """Column of the list with the expected width; goes with --height-col."""
    height_col: str | None = None
    """Column of the list with the expected height."""
    annotation_set: str = "default"
    """Whose annotation."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Select:
    """Write the rows that SQL chooses as a manifest of its own, with counts, weights and a lock."""

    roots: Annotated[Positional[tuple[str, ...]], arg(metavar="DIR")] = ()
    """Folders of finished datasets, or URIs."""
    out: Annotated[str, arg(metavar="SUBSET.parquet")]
    """The subset to write; SUBSET.lock.json is written beside it."""
    where: str = "true"
    """A row with a usable image is chosen where this SQL expression is true."""
    weight: str | None = None
    """Sampling weight of a chosen row, a SQL expression such as "1 / (1 + num_text)"."""
    balance: str | None = None
    """Weigh rows so that every value of this SQL expression counts the same in all."""
    limit: int | None = None
    """Most rows; a random choice where there are more."""
    seed: int = 0
    """Seed of the random choice."""
    annotation_set: str = "default"
    """Whose regions."""
    check: bool = False
    """Write nothing: see whether the subset and its sources are as its lock says; exit 1 if not."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """Remove images and their regions from a finished dataset, for good, with a receipt."""

    root: Annotated[Positional[str], arg(metavar="DIR")]
    """Folder of the dataset."""
    ids: Annotated[Positional[Path | None], arg(metavar="IDS")] = None
    """Text file: one image_id or URL a line."""
    copies: bool = False
    """Also remove rows whose image has the same bytes as one of them."""
    resume: bool = False
    """Finish a removal that was interrupted; takes no IDS."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class RenderText:
    """Write an ordinary dataset of words rendered on photographs, with exact boxes."""

    out: Annotated[str, arg(metavar="DIR")]
    """Folder of the dataset; the same command goes on after a kill."""
    images: int
    """Pages."""
    backgrounds: Annotated[tuple[Path, ...], arg(metavar="DIR|FILE")] = ()
    """Images to print on, text in them gets no box; default: photographs without text from
    installed packages."""
    fonts: Annotated[tuple[Path, ...], arg(metavar="DIR|FILE")] = ()
    """Fonts, .ttf or .otf; default: those of the matplotlib package."""
    words: Annotated[Path | None, arg(metavar="FILE")] = None
    """A word a line, UTF-8; default: 190 common English words and numbers."""
    seed: int = 0
    """Of every choice: the same seed and sources give the same pictures and manifests."""
    size_px: int = 256
    """Side of a page, pixels."""
    letter_px: tuple[int, int] = (16, 40)
    """Least and largest font size, pixels."""
    words_per_page: tuple[int, int] = (2, 7)
    """Least and largest number of words."""
    max_angle_deg: float = 4.0
    """Half of the words are turned by up to so many degrees."""
    min_contrast: float = 3.0
    """Least contrast ratio of ink and background, from 1 to 10 (WCAG 2.1)."""
    jpeg_quality: int = 92
    """Of the stored images."""
    shard_size: int = 1000
    """Pages in a shard."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check this machine and a dataset's folder before a long run; exit 1 where something fails."""

    root: Annotated[Positional[str], arg(metavar="DIR")] = "."
    """Folder of the dataset, or where one will be."""
    host: UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Host names to resolve; default: a few of the dataset's own, else localhost."""
    text_detector: str = "ppocr_v6_small"
    """Text detector to load and run; "none" skips it."""
    face_detector: str = "retinaface_mnet025"
    """Face detector to load and run; "none" skips it."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Where the detectors must compute."""
    fetch_threads: int = 32
    """Downloads at a time in each fetch worker."""
    fetch_workers: int = 1
    """Fetch workers on this machine."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """List the detectors, their licences, and what can run here."""

    output: OutputOptions = OutputOptions()


Command = (
    Run
    | Plan
    | Fetch
    | Annotate
    | Retry
    | Status
    | Verify
    | Report
    | Select
    | Tombstone
    | RenderText
    | Doctor
    | Detectors
)

_TYPED: Any = (
    Annotated[Run, subcommand("run")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Annotate, subcommand("annotate")]
    | Annotated[Retry, subcommand("retry")]
    | Annotated[Status, subcommand("status")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Select, subcommand("select")]
    | Annotated[Tombstone, subcommand("tombstone")]
    | Annotated[RenderText, subcommand("render-text")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Detectors, subcommand("detectors")]
)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command that was typed.

    Raises:
        SystemExit: 0 after help, 2 after a typing error, which is explained on stderr.
    """
    command: Command = tyro.cli(
        _TYPED,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        prog="insight-curate",
        description="Builds datasets of images with text and face regions from URL lists.",
        args=arguments,
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0 done; 1 finished but shards were set aside or a check is off; 2 bad usage, configuration or
    input; 130 interrupted.
    """
    command = parse(arguments)
    try:
        return _execute(command)
    except KeyboardInterrupt:
        return _interrupted(command)


def _execute(command: Command) -> int:
    from annotations_schema.errors import InsightTokError
    from curation.commands import execute

    try:
        return execute(command)
    except (InsightTokError, OSError) as error:
        if command.output.debug:
            raise
        _say(f"insight-curate: {' '.join(str(error).split())}")
        return EXIT_USAGE


def _interrupted(command: Command) -> int:
    _say("insight-curate: interrupted; what is done stays, the same command continues")
    if command.output.debug:
        raise KeyboardInterrupt
    return EXIT_INTERRUPTED


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
