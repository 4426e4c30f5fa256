"""`python -m training.evidence`: from datasets to a page that says whether region losses help.

From one base checkpoint six continuations (standard losses; with text, face, both; with OCR
features of the whole image; both without area weights), the same steps and, seed by seed, the same
data in the same order; judged by networks that none was trained against. What is done is not done
again: the same command goes on.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import arg

from annotations_schema.errors import InsightTokError, UsageError
from annotations_schema.layout import atomic_write
from training.evaluation.aggregate import Bootstrap
from training.evidence.page import COLUMNS, markdown, verdict
from training.evidence.pieces import OutOfTimeError, forget_if_of_others, run_pieces
from training.evidence.plan import (
    ARMS,
    BASE,
    SCALES,
    arm_pieces,
    base_piece,
    judged_name,
    judging_pieces,
    run_name,
    runs,
)
from training.evidence.samples import draw_samples
from training.evidence.scores import mean, read_scores
from training.evidence.trained_against import trained_against
from training.plot import plot_runs

EXIT_UNFINISHED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what text and face loss bring, from one base, and write results.md."""

    train: Annotated[tuple[Path, ...], arg(metavar="DIR")]
    """Datasets to train on."""
    held_out: Annotated[tuple[Path, ...], arg(metavar="DIR")]
    """Datasets to judge on: other images, other persons, other words."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("evidence")
    """Folder of everything."""
    weights: tuple[float, ...] = ()
    """How often each dataset of --train is drawn; without, every image once an epoch."""
    scale: str = "cpu"
    """cpu, gpu, or dry: a few steps, which show the road and nothing else."""
    seeds: int = 3
    """Seeds of (a) and (d)."""
    minutes: float | None = None
    """Stop cleanly after so many minutes, exit code 1; the same command goes on."""


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 not finished in --minutes, 2 bad usage or input, 130 interrupted."""
    options = tyro.cli(Options, prog="python -m training.evidence", args=arguments)
    try:
        return _run(options)
    except OutOfTimeError:
        sys.stderr.write("evidence: not finished; the same command goes on\n")
        return EXIT_UNFINISHED
    except KeyboardInterrupt:
        sys.stderr.write("evidence: interrupted; the same command goes on\n")
        return EXIT_INTERRUPTED
    except (InsightTokError, OSError) as error:
        sys.stderr.write(f"evidence: {' '.join(str(error).split())}\n")
        return EXIT_USAGE


def _run(options: Options) -> int:
    started = time.monotonic()
    if options.scale not in SCALES:
        raise UsageError(f"scale {options.scale!r} is unknown; choose one of {', '.join(SCALES)}")
    scale, out, seeds = SCALES[options.scale], options.out, options.seeds
    deadline = None if options.minutes is None else started + 60 * options.minutes
    threads = max(1, torch.get_num_threads() // scale.side_by_side)
    base = base_piece(scale, options.train, options.weights, out)
    arms = arm_pieces(scale, options.train, options.weights, out, seeds)
    judging = judging_pieces(scale, options.held_out, out, seeds)
    checkpoints = {name: out / name / "checkpoint.pt" for name in (BASE, *runs(seeds))}
    for stage in ([base], arms):
        run_pieces(stage, out, scale.side_by_side, deadline, threads)
    for piece in judging:
        forget_if_of_others(piece.done, checkpoints)
    run_pieces(judging, out, scale.side_by_side, deadline, threads)
    against = trained_against(
        scale, options.held_out, list(checkpoints.values()), out / "trained_against.json"
    )
    plot_runs([out / name for name in runs(1)], out / "curves.png")
    shown = {BASE: checkpoints[BASE]} | {
        f"({arm.letter}) {arm.title}": checkpoints[run_name(arm.letter, 0)] for arm in ARMS
    }
    draw_samples(options.held_out, shown, out / "samples.png", size=scale.size, device=scale.device)
    scores = read_scores([out / judged_name(dataset) for dataset in options.held_out])
    bootstrap = Bootstrap(RESAMPLES, 0.95, 0)
    text = markdown(scores, against, scale, seeds, bootstrap, _facts(options))
    found = verdict(scores, seeds, bootstrap)
    values = {
        name: {one: mean(scores[one], [name]) for one in COLUMNS} for name in (BASE, *runs(seeds))
    }
    results = {
        "verdict": found._asdict()
        | {"differences": {name: gap._asdict() for name, gap in found.differences.items()}},
        "means": values,
        "trained_against": against,
    }
    for name, content in (("results.json", json.dumps(results, indent=2)), ("results.md", text)):
        with atomic_write(out / name) as temporary:
            temporary.write_text(content + "\n")
    sys.stderr.write(text)
    minutes = (time.monotonic() - started) / 60
    sys.stderr.write(f"evidence: {out / 'results.md'}, {minutes:.1f} min\n")
    return 0


def _facts(options: Options) -> list[str]:
    scale, out = SCALES[options.scale], options.out
    identity = json.loads((out / BASE / "run.json").read_text())
    settings = ", ".join(f"{name} {value:g}" for name, value in scale.weights.items())
    command = shlex.join(["python", "-m", "training.evidence", *sys.argv[1:]])
    return [
        f"Command: `{command}`",
        f"Code: commit {_commit()}, training/ sha256 {identity['code_sha256'][:12]}; configuration "
        f"of the base sha256 {identity['config_sha256'][:12]}",
        f"Machine: {platform.processor() or platform.machine()}, {torch.get_num_threads()} "
        f"threads, {scale.device}; Python {platform.python_version()}, torch {torch.__version__}",
        f"Recipe {scale.recipe}: base of {scale.base_steps} steps, then {scale.arm_steps} steps "
        f"each at a peak rate of {scale.arm_learning_rate:g}; weights: {settings}",
        "Trained against PP-OCRv6 small and SFace; judged by EasyOCR english_g2 and dlib's "
        "network: substitutes, not comparable with published scores",
    ]


def _commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
