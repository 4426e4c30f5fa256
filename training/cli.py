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
    where: str | None = None
    """Train only on images for which this SQL predicate over the manifests' columns is true:
    "num_text > 0 and width >= 512"."""
    weights: tuple[float, ...] = ()
    """How often each source of --data is drawn, one positive number each: 3 1. Without, every image
    of all sources is drawn once an epoch."""
    init: Annotated[Path | None, arg(metavar="CHECKPOINT")] = None
    """Start from a checkpoint's averaged weights: a run's checkpoint.pt, or insight_tok.pt."""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE")] = ()
    """Change the recipe: seed=1 data.crop.size_px=128 phases.base.steps=1000; a star stands for
    every phase: phases.*.objective.perceptual_weight=0."""
    resume: bool = False
    """Go on with the run in --out; where there is none it is started."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge checkpoints and other tokenizers: PSNR, SSIM, LPIPS, rFID, T-ACC, T-NED, F-Sim, by the
    rules of TokBench."""

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
    images: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], arg(metavar="DIR")] = ()
    """Folders of images without annotations: PSNR, SSIM, LPIPS and rFID alone."""
    size: Literal[256, 512, 1024] = 256
    """Side of the square that tokenizers see, pixels."""
    text_recogniser: str = "easyocr_english_g2"
    """easyocr_english_g2, doctr_parseq (by path or download), or none."""
    text_weights: Path | None = None
    """Weights of the text recogniser, where they are not in an installed package."""
    text_download: bool = False
    """Let docTR download parseq's weights."""
    text_reference: Literal["transcriptions", "original"] = "transcriptions"
    """original: judge against what is read in the original, where nobody transcribed it."""
    refine: bool = False
    """Leave out words that the recogniser does not read in the original."""
    face_net: str = "dlib_resnet_v1"
    """dlib_resnet_v1, insightface_antelopev2 (by path or download), or none."""
    face_weights: Path | None = None
    """Weights of the face net, where they are not in an installed package."""
    face_download: bool = False
    """Let insightface download antelopev2 (for non-commercial research only)."""
    perceptual: str = "vgg16_keras"
    """vgg16_keras (a distance that is not LPIPS), lpips (by path or download), or none."""
    perceptual_weights: Path | None = None
    """torchvision's vgg16-397923af.pth, for lpips."""
    perceptual_download: bool = False
    """Let torchvision download that file."""
    fid: str = "vgg16_keras"
    """vgg16_keras (a Frechet distance that is not rFID), inception_v3 (rFID, by path or download),
    or none."""
    fid_weights: Path | None = None
    """torch-fidelity's weights-inception-2015-12-05-6726825d.pth, for inception_v3."""
    fid_download: bool = False
    """Let torch download that file."""
    jpeg: bool = False
    """Also judge JPEG at the bits of each checkpoint's tokens."""
    untrained: bool = False
    """Also judge each checkpoint's network as it was before its first step."""
    peer: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="NAME=MODULE:CALLABLE")
    ] = ()
    """Also judge another tokenizer: a callable image -> image, (H, W, 3) uint8, or a factory of
    one, in a module of the current folder or an installed one."""
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
class Plot:
    """Draw the curves of runs: losses, gradient norms, codebook, speed, memory over steps."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Folders of runs; several are drawn over each other."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("curves.png")
    """The picture: .png, .svg or .pdf; one that is there is replaced."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Measure the losses' gradients on real batches; propose weights of text and face loss."""

    recipe: str
    """Name of a recipe; see `insight-train recipes`."""
    data: Annotated[UseAppendAction[tuple[tuple[Path, ...], ...]], arg(metavar="DIR|MANIFEST")]
    """Dataset folders or manifest files."""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE")] = ()
    """Change the recipe, as for `tokenizer`."""
    checkpoint: Annotated[Path | None, arg(metavar="CHECKPOINT")] = None
    """A run's checkpoint.pt, whose reconstructions are measured; default: blurred originals."""
    batches: int = 16
    """Batches to measure."""
    target: float = 0.5
    """Length of a region loss's weighted gradient as a share of the perceptual loss's."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Also write the JSON object to this file; one that is there is replaced."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a checkpoint's weights in the layout of the published insight_tok.pt."""

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """File checkpoint.pt of a run."""
    out: Annotated[Path, arg(metavar="FILE")]
    """The new file, .pt."""
    weights: Literal["averaged", "trained"] = "averaged"
    """The averaged weights, which are evaluated, or those of the last step."""
    output: OutputOptions = OutputOptions()


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes: networks, phases, losses."""

    output: OutputOptions = OutputOptions()


Command = Tokenizer | Evaluate | Reconstruct | Plot | Calibrate | Export | Recipes

_TYPED: Any = (
    Annotated[Tokenizer, subcommand("tokenizer")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Reconstruct, subcommand("reconstruct")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Calibrate, subcommand("calibrate")]
    | Annotated[Export, subcommand("export")]
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
