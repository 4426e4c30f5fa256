"""The command line `insight-curate`: what can be typed, and how errors leave.

Options are dataclasses; tyro makes the parser and the help from them. This module imports nothing
heavy, so that help and typing errors are quick; `commands` does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What a command prints."""

    json: bool = False
    """Print one JSON object on stdout; text and progress stay on stderr."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What the dataset will be; the same for its whole life."""

    url_col: str = "url"
    """Column with the URL; a txt list has one URL a line."""
    caption_col: str | None = None
    """Column with the caption."""
    sha256_col: str | None = None
    """Column with the expected sha256 of the image file."""
    license_col: str | None = None
    """Column with the licence."""
    shard_size: int = 1000
    """Rows in a shard, the unit of work."""
    text_detector: str = "ppocr_v6_small"
    """Text detector; see `insight-curate detectors`; "none" looks for no text."""
    face_detector: str = "retinaface_mnet025"
    """Face detector; "none" looks for no faces."""
    text_score_min: float | None = None
    """Leave out text regions that score less; default: the detector's own threshold."""
    face_score_min: float | None = None
    """Leave out faces that score less; default: the detector's own threshold."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Where the detectors compute."""
    deadline_s: float = 30.0
    """Total time for one URL, seconds, with redirects and retries."""
    retries: int = 2
    """Further attempts after a transient failure."""
    max_bytes: int = 33_554_432
    """Largest image file, bytes."""
    max_pixels: int = 100_000_000
    """Most pixels of an image; larger ones are refused by their header."""
    hash_policy: Literal["drop", "keep"] = "drop"
    """Images that differ from the expected sha256: leave out, or keep."""
    allow_private_network: bool = False
    """Permit loopback and private addresses (tests, intranets)."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker uses; may differ from run to run of one dataset."""

    fetch_threads: int | None = None
    """Downloads at a time in each fetch worker; default 32."""
    threads: int | None = None
    """CPU threads of each annotate worker; default 1."""
    text_weights: Path | None = None
    """Weights file of the text detector; default: embedded, or the library's own."""
    face_weights: Path | None = None
    """Weights file of the face detector; default: embedded, or the library's own."""


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where the work is done; may differ from run to run of one dataset."""

    runner: Literal["local", "ray"] = "local"
    """In this process, or on Ray."""
    ray_address: str | None = None
    """Cluster to join, HOST:PORT or auto; default: $RAY_ADDRESS, or a cluster of its own."""
    workers: int | None = None
    """Annotate workers on Ray; default: one per CPU (and per `threads`)."""
    fetch_workers: int | None = None
    """Fetch workers on Ray; default: one for four annotate workers."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Plan, fetch and annotate a URL list; the same command again continues it."""

    urls: Annotated[Positional[Path], arg(metavar="URLS")]
    """URL list: parquet, csv or txt."""
    out: Annotated[Path, arg(metavar="DIR")]
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

    root: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of the dataset."""
    urls: Path | None = None
    """URL list: parquet, csv or txt; default: the list that DIR was planned from."""
    dataset: DatasetOptions = DatasetOptions()
    worker: WorkerOptions = WorkerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Fetch only: download the planned shards that have no images yet."""

    root: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of the dataset."""
    worker: WorkerOptions = WorkerOptions()
    runner: RunnerOptions = RunnerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Annotate only: run the detectors over fetched shards that have no manifest yet."""

    root: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of the dataset."""
    worker: WorkerOptions = WorkerOptions()
    runner: RunnerOptions = RunnerOptions()
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a dataset is: shards and rows by stage, status and code."""

    root: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of the dataset."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check rows, hashes, image addresses, geometry and transforms; exit 1 where one is off."""

    root: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of the dataset."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page: counts, histograms, a contact sheet."""

    root: Annotated[Positional[Path], arg(metavar="DIR")]
    """Folder of the dataset."""
    out: Path
    """The page to write."""
    images: int = 48
    """Most images on the contact sheet."""
    seed: int = 0
    """The same seed draws the same images."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """List the detectors, their licences, and what can run here."""

    output: OutputOptions = OutputOptions()


Command = Run | Plan | Fetch | Annotate | Status | Verify | Report | Detectors

_TYPED: Any = (
    Annotated[Run, subcommand("run")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Annotate, subcommand("annotate")]
    | Annotated[Status, subcommand("status")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Report, subcommand("report")]
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
