"""The command line `insight-train`: what can be typed, and how errors leave.

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
from tyro.conf import Positional, UseAppendAction, arg, subcommand

EXIT_FAILED = 1
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
class Tokenizer:
    """Train a tokenizer; Ctrl-C writes a checkpoint, --resume goes on from it."""

    recipe: str
    """Name of a recipe; see `insight-train recipes`."""
    data: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], arg(metavar="DIR|MANIFEST")]
    """Dataset folders or manifest files."""
    out: Annotated[Path, arg(metavar="RUN")]
    """Folder of the run."""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE")] = ()
    """Change the recipe: seed=1 data.crop.size_px=128 phases.base.steps=1000; a star stands for
    every phase: phases.*.objective.perceptual_weight=0."""
    resume: bool = False
    """Go on with the run in --out; where there is none it is started."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge checkpoints: PSNR, SSIM, T-ACC, T-NED, F-Sim, by the crop rules of TokBench."""

    checkpoints: Annotated[Positional[tuple[Path, ...]], arg(metavar="CHECKPOINT")]
    """Files checkpoint.pt of runs; several make several rows."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of the result."""
    data: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], arg(metavar="DIR|MANIFEST")] = ()
    """Dataset folders or manifest files; words are read from the column input_words."""
    images_root: Path | None = None
    """The dataset folder that manifest files address, where they lie elsewhere."""
    tokbench: tuple[Path, ...] = ()
    """TokBench annotation files: text_*.json or face_meta.json."""
    tokbench_images: tuple[Path, ...] = ()
    """The image folder of each TokBench file, in order."""
    size: Literal[256, 512, 1024] = 256
    """Side of the square that tokenizers see, pixels."""
    text_recogniser: str = "easyocr_english_g2"
    """easyocr_english_g2, doctr_parseq (by path), or none."""
    text_weights: Path | None = None
    """Weights of the text recogniser, where they are not in an installed package."""
    text_reference: Literal["transcriptions", "original"] = "transcriptions"
    """original: judge against what is read in the original, where nobody transcribed it."""
    refine: bool = False
    """Leave out words that the recogniser does not read in the original."""
    face_net: str = "dlib_resnet_v1"
    """dlib_resnet_v1, insightface_antelopev2 (by path), or none."""
    face_weights: Path | None = None
    """Weights of the face net, where they are not in an installed package."""
    jpeg: bool = False
    """Also judge JPEG at the bits of each checkpoint's tokens."""
    max_images: int | None = None
    """Judge only the first images."""
    seed: int = 0
    """Seed of the intervals' resamples."""
    device: str = "cpu"
    """Where checkpoints run: cpu, cuda, cuda:1 ..."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Send pictures through a tokenizer and write what comes back beside them."""

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """File checkpoint.pt of a run, or the published insight_tok.pt."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGES")]
    """Image files."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of the reconstructions."""
    size: int | None = None
    """Scale each picture so that its longer side has this many pixels; default: its own size."""
    side_by_side: bool = True
    """Write the reconstructions alone, not beside their originals as well."""
    device: str = "cpu"
    """Where the tokenizer runs: cpu, cuda, cuda:1 ..."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes: networks, phases, losses."""

    output: OutputOptions = OutputOptions()


Command = Tokenizer | Evaluate | Reconstruct | Recipes

_TYPED: Any = (
    Annotated[Tokenizer, subcommand("tokenizer")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Reconstruct, subcommand("reconstruct")]
    | Annotated[Recipes, subcommand("recipes")]
)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command that was typed.

    Raises:
        SystemExit: 0 after help, 2 after a typing error, which is explained on stderr.
    """
    command: Command = tyro.cli(
        _TYPED,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        prog="insight-train",
        description="Trains and judges image tokenizers on annotated datasets.",
        args=arguments,
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0 done; 1 stopped or finished with failures; 2 bad usage, configuration or input;
    130 interrupted (a training wrote its checkpoint).
    """
    command = parse(arguments)
    try:
        return _execute(command)
    except KeyboardInterrupt:
        if command.output.debug:
            raise
        _say("interrupted")
        return EXIT_INTERRUPTED


def _execute(command: Command) -> int:
    from annotations_schema.errors import InsightTokError
    from training.commands import execute, exit_code_of

    try:
        return execute(command)
    except (InsightTokError, OSError) as error:
        if command.output.debug:
            raise
        _say(" ".join(str(error).split()))
        return exit_code_of(error)


def _say(text: str) -> None:
    sys.stderr.write(f"insight-train: {text}\n")
