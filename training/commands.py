"""What each command of `insight-train` does."""

from __future__ import annotations

import difflib
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from annotations_schema.errors import UsageError
from annotations_schema.layout import atomic_write
from training.cli import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Calibrate,
    Command,
    Evaluate,
    Export,
    Plot,
    Recipes,
    Reconstruct,
    Tokenizer,
)
from training.config import Phase, TrainConfig
from training.finite import NonFiniteError
from training.recipes import RECIPES
from training.train_tokenizer import train_tokenizer
from training.typed_config import to_plain, with_overrides


def execute(command: Command) -> int:
    """Run a command; returns its exit code.

    Raises:
        InsightTokError: what `exit_code_of` gives an exit code for.
        OSError: a file or folder cannot be read or written.
    """
    if isinstance(command, Tokenizer):
        return _train(command)
    if isinstance(command, Evaluate):
        return _evaluate(command)
    if isinstance(command, Reconstruct):
        return _reconstruct(command)
    if isinstance(command, Plot):
        return _plot(command)
    if isinstance(command, Calibrate):
        return _calibrate(command)
    if isinstance(command, Export):
        return _export(command)
    return _list_recipes(command)


def exit_code_of(error: Exception) -> int:
    """1 where a run stopped by itself, else 2: usage, configuration or input."""
    return EXIT_FAILED if isinstance(error, NonFiniteError) else EXIT_USAGE


def resolved_config(recipe: str, assignments: tuple[str, ...]) -> TrainConfig:
    """The configuration of a recipe with `--set` values.

    Raises:
        UsageError: an unknown recipe or key, or a value that does not fit.
    """
    if recipe not in RECIPES:
        near = difflib.get_close_matches(recipe, RECIPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--recipe {recipe!r} is unknown; {hint}known: {', '.join(RECIPES)}")
    return with_overrides(RECIPES[recipe](), assignments)


def _train(command: Tokenizer) -> int:
    config = resolved_config(command.recipe, tuple(itertools.chain.from_iterable(command.set)))
    if command.where is not None:
        config = replace(config, data=replace(config.data, where=command.where))
    if command.init is not None:
        config = replace(config, init=command.init)
    if command.weights:
        config = replace(config, data=replace(config.data, weights=command.weights))
    sources = list(itertools.chain.from_iterable(command.data))
    result = train_tokenizer(config, sources, command.out, resume=command.resume)
    if command.output.json:
        _print_json({**result._asdict(), "checkpoint": str(result.checkpoint)})
    return 0 if result.is_finished else EXIT_INTERRUPTED


def _evaluate(command: Evaluate) -> int:
    # Imported here: the judges' libraries take seconds that a training does not need.
    from training.evaluation.config import EvaluateConfig
    from training.evaluation.evaluator import evaluate

    names = {field.name for field in fields(EvaluateConfig)} & set(command.__dataclass_fields__)
    options = {name: getattr(command, name) for name in names}
    for name in ("data", "images"):
        options[name] = tuple(itertools.chain.from_iterable(getattr(command, name)))
    options["peers"] = tuple(itertools.chain.from_iterable(command.peer))
    result = evaluate(command.checkpoints, command.out, EvaluateConfig(**options))
    if command.output.json:
        _print_json(result.to_json())
    return 0


def _reconstruct(command: Reconstruct) -> int:
    from training.reconstruct import ReconstructConfig, reconstruct

    config = ReconstructConfig(
        size=command.size, side_by_side=command.side_by_side, device=command.device
    )
    result = reconstruct(command.checkpoint, command.images, command.out, config)
    if command.output.json:
        pictures = [picture._asdict() for picture in result.pictures]
        _print_json({"pictures": pictures})
    return result.exit_code


def _plot(command: Plot) -> int:
    from training.plot import plot_runs

    curves = plot_runs(command.runs, command.out)
    for one in curves:
        broken = f", {one.broken_lines} broken lines left out" if one.broken_lines else ""
        sys.stderr.write(f"{one.name}: {len(one.steps)} lines{broken}\n")
    sys.stderr.write(f"drawn in {command.out}\n")
    if command.output.json:
        runs = [
            {"run": str(run), "lines": len(one.steps), "broken_lines": one.broken_lines}
            for run, one in zip(command.runs, curves, strict=True)
        ]
        _print_json({"out": str(command.out), "runs": runs})
    return 0


def _calibrate(command: Calibrate) -> int:
    from training.calibrate import CalibrateConfig, calibrate

    config = resolved_config(command.recipe, tuple(itertools.chain.from_iterable(command.set)))
    sources = list(itertools.chain.from_iterable(command.data))
    chosen = CalibrateConfig(
        checkpoint=command.checkpoint, batches=command.batches, target=command.target
    )
    result = calibrate(config, sources, chosen)
    if command.out is not None:
        with atomic_write(command.out) as temporary:
            temporary.write_text(json.dumps(result.to_json(), indent=2) + "\n")
    for line in result.lines():
        sys.stderr.write(f"{line}\n")
    if command.output.json:
        _print_json(result.to_json())
    return 0


def _export(command: Export) -> int:
    from training.export import export

    result = export(command.checkpoint, command.out, command.weights)
    sys.stderr.write(
        f"{result.out}: {result.weights} weights of {result.network}, "
        f"{result.num_tensors} tensors under the published names\n"
    )
    if command.output.json:
        _print_json(result._asdict())
    return 0


def _list_recipes(command: Recipes) -> int:
    if command.output.json:
        _print_json({name: to_plain(recipe()) for name, recipe in RECIPES.items()})
        return 0
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").split("\n", 1)[0]
        sys.stderr.write(f"{name}: {summary}\n")
        for phase in recipe().phases:
            sys.stderr.write(f"    {phase.name:<10}{phase.steps:>8} steps  {_losses(phase)}\n")
    return 0


def _losses(phase: Phase) -> str:
    """The terms of a phase with their weights, and what is frozen."""
    o = phase.objective
    terms = {
        o.reconstruction: o.reconstruction_weight,
        "perceptual": o.perceptual_weight,
        "adversarial": o.adversarial_weight,
        "text": o.text_weight,
        "face": o.face_weight,
    }
    shown = ", ".join(f"{name} {weight:g}" for name, weight in terms.items() if weight)
    frozen = "" if phase.train_encoder else "; encoder and codebook frozen"
    return shown + frozen


def _print_json(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
