"""What each command of `insight-train` does."""

from __future__ import annotations

import difflib
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from annotations_schema.errors import UsageError
from training.cli import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Command,
    Evaluate,
    Recipes,
    Reconstruct,
    Tokenizer,
)
from training.config import Phase, TrainConfig
from training.recipes import RECIPES
from training.train_tokenizer import NonFiniteError, train_tokenizer
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
    options["data"] = tuple(itertools.chain.from_iterable(command.data))
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
        o.reconstruction: 1.0,
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
