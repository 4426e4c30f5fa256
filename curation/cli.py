"""The command line `insight-curate`: what can be typed, and how errors leave.

Options are dataclasses; tyro makes the parser and the help from them. This module imports nothing
heavy, so that help and typing errors are quick; `commands` does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg, subcommand

from curation.options import DatasetOptions, OutputOptions, RunnerOptions, WorkerOptions

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


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
