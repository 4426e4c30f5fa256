"""What is run: every piece is one command line of `insight-train`, that can be typed as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from annotations_schema.errors import UsageError

BASE = "base"
PHASE = "train"
"""The one phase of the evidence recipes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A continuation of the base."""

    letter: str
    """As in tables."""
    title: str
    """What it adds to the standard losses."""
    weights: tuple[str, ...]
    """The terms of `Scale.weights` that it has."""
    settings: tuple[str, ...] = ()
    """Further settings of its objective."""
    has_all_seeds: bool = False
    """Run with every seed; the others with the first alone."""


ARMS: tuple[Arm, ...] = (
    Arm(letter="a", title="standard losses", weights=(), has_all_seeds=True),
    Arm(letter="b", title="+ text", weights=("text_weight",)),
    Arm(letter="c", title="+ face", weights=("face_weight",)),
    Arm(letter="d", title="+ both", weights=("text_weight", "face_weight"), has_all_seeds=True),
    Arm(letter="e", title="+ OCR features of the whole image", weights=("global_text_weight",)),
    Arm(
        letter="f",
        title="+ both, without area weights",
        weights=("text_weight", "face_weight"),
        settings=("region_weighting=equal",),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How large the experiment is."""

    recipe: str
    """Recipe with one phase."""
    base_steps: int
    """Steps of the base."""
    arm_steps: int
    """Steps of each continuation."""
    arm_learning_rate: float
    """Its peak rate."""
    arm_settings: tuple[str, ...]
    """Further settings of all continuations."""
    weights: Mapping[str, float]
    """Weights of the terms; how they were chosen stands in training/RESULTS.md."""
    size: int
    """Side of the square that evaluation shows, pixels."""
    judged_images: int
    """Most images of each held-out dataset that are judged, the first ones."""
    judging: tuple[str, ...]
    """Further options of `evaluate`."""
    side_by_side: int
    """Pieces that run at once; on a CPU each has one thread."""
    machine: tuple[str, ...]
    """Settings of the machine."""
    device: str
    """Of the evaluation."""


# Early layers only: their gradients agree from batch to batch, those of the deep layers hardly do,
# and with a few images a step that decides (training/LOG.md).
_EARLY_LAYERS = ("nets.text_layers=stem", "nets.face_layers=stage1,stage2")

SCALES: Mapping[str, Scale] = {
    "cpu": Scale(
        recipe="evidence_cpu",
        base_steps=2400,
        arm_steps=450,
        arm_learning_rate=1e-3,
        arm_settings=_EARLY_LAYERS,
        weights={"text_weight": 0.025, "face_weight": 0.01, "global_text_weight": 0.03},
        size=256,
        judged_images=120,
        judging=("--perceptual", "none", "--fid", "none"),  # slower on a CPU than all readings
        side_by_side=2,
        machine=("machine.device=cpu", "machine.threads=1"),
        device="cpu",
    ),
    "gpu": Scale(
        recipe="evidence_gpu",
        base_steps=12_000,
        arm_steps=2_000,
        arm_learning_rate=5e-5,
        arm_settings=(),
        weights={"text_weight": 0.005, "face_weight": 0.01, "global_text_weight": 0.1},
        size=256,
        judged_images=1000,
        judging=(),
        side_by_side=1,
        machine=("machine.device=cuda", "machine.num_workers=8", "machine.static_regions=true"),
        device="cuda",
    ),
    "dry": Scale(
        recipe="evidence_cpu",
        base_steps=4,
        arm_steps=2,
        arm_learning_rate=1e-3,
        arm_settings=_EARLY_LAYERS,
        weights={"text_weight": 0.025, "face_weight": 0.01, "global_text_weight": 0.03},
        size=256,
        judged_images=120,
        judging=("--perceptual", "none", "--fid", "none"),  # slower on a CPU than all readings
        side_by_side=2,
        machine=("machine.device=cpu", "machine.threads=1"),
        device="cpu",
    ),
}
"""cpu: under an hour on two cores. gpu: the 72M network at 256 px, in pieces. dry: the road."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One command."""

    name: str
    """Folder below the output, and name in messages."""
    arguments: tuple[str, ...]
    """After `insight-train`."""
    done: Path
    """The file that stands when it is done."""


def base_piece(
    scale: Scale, train: tuple[Path, ...], weights: tuple[float, ...], out: Path
) -> Piece:
    """The training that all arms continue."""
    return _training(scale, train, weights, out, BASE, None, scale.base_steps, ())


def arm_pieces(
    scale: Scale, train: tuple[Path, ...], weights: tuple[float, ...], out: Path, num_seeds: int
) -> list[Piece]:
    """The continuations: arms in order, seeds inside; the first seed of all arms comes first.

    Raises:
        UsageError: no seed.
    """
    if num_seeds < 1:
        raise UsageError(f"seeds {num_seeds}: at least 1")
    return [
        _training(
            scale,
            train,
            weights,
            out,
            run_name(arm.letter, seed),
            out / BASE / "checkpoint.pt",
            scale.arm_steps,
            (
                f"optimizer.learning_rate={scale.arm_learning_rate}",
                f"seed={seed + 1}",  # the base had 0
                *scale.arm_settings,
                *(f"phases.{PHASE}.objective.{w}={scale.weights[w]}" for w in arm.weights),
                *(f"phases.{PHASE}.objective.{setting}" for setting in arm.settings),
            ),
        )
        for seed in range(num_seeds)
        for arm in ARMS
        if seed == 0 or arm.has_all_seeds
    ]


def judging_pieces(
    scale: Scale, held_out: tuple[Path, ...], out: Path, num_seeds: int
) -> list[Piece]:
    """One evaluation of all checkpoints for each held-out dataset."""
    names = [BASE, *runs(num_seeds)]
    checkpoints = [str(out / name / "checkpoint.pt") for name in names]
    pieces = []
    for dataset in held_out:
        folder = out / judged_name(dataset)
        arguments = (
            "evaluate", *checkpoints, "--data", str(dataset), "--out", str(folder),
            "--size", str(scale.size), "--device", scale.device,
            "--max-images", str(scale.judged_images), *scale.judging,
        )  # fmt: skip
        pieces.append(Piece(name=folder.name, arguments=arguments, done=folder / "result.json"))
    return pieces


def runs(num_seeds: int) -> list[str]:
    """The names of all continuations, arms in order."""
    return [
        run_name(arm.letter, seed)
        for arm in ARMS
        for seed in range(num_seeds if arm.has_all_seeds else 1)
    ]


def run_name(letter: str, seed: int) -> str:
    """The folder of an arm's run."""
    return f"{letter}_seed{seed}"


def judged_name(dataset: Path) -> str:
    """The folder of an evaluation."""
    return f"judged_{dataset.name}"


def _training(
    scale: Scale,
    train: tuple[Path, ...],
    weights: tuple[float, ...],
    out: Path,
    name: str,
    start: Path | None,
    steps: int,
    settings: tuple[str, ...],
) -> Piece:
    arguments = (
        "tokenizer", "--recipe", scale.recipe, "--data", *map(str, train),
        *(("--weights", *map(str, weights)) if weights else ()),
        *(("--init", str(start)) if start is not None else ()),
        "--out", str(out / name), "--resume",
        "--set", f"phases.{PHASE}.steps={steps}", *scale.machine, *settings,
    )  # fmt: skip
    return Piece(name=name, arguments=arguments, done=out / name / f"phase_{PHASE}.pt")
