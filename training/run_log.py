"""What a training run tells: metrics and events as JSON lines, a progress bar for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from annotations_schema.layout import atomic_write
from training.run_folder import RunFolder

TIMING_KEYS = ("images_per_s",)
"""Keys of a metrics line that differ between two equal runs."""

_ON_THE_BAR = ("total", "reconstruction", "perceptual", "adversarial", "text", "face")


class MetricWindow:
    """Means of scalars since the last reset; sums stay on the device, so adding never waits."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Add one step's scalars: 0-d tensors, or plain numbers."""
        for name, value in values.items():
            scalar = torch.as_tensor(value, dtype=torch.float64).detach()
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The mean of each scalar over the steps that had it; here the host waits."""
        return {name: total.item() / self._counts[name] for name, total in self._sums.items()}

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, so that a resume inside a window ends it with the same line."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])


class RunLog:
    """Writes metrics.jsonl and events.jsonl and moves the progress bar.

    Lines of steps after `start_step`, left by a run that was killed behind its checkpoint, are
    taken out first, so that every step is logged once.

    Args:
        folder: of the run.
        start_step: steps done already.
        total_steps: of all phases.
    """

    def __init__(self, folder: RunFolder, *, start_step: int, total_steps: int) -> None:
        self._folder = folder
        folder.root.mkdir(parents=True, exist_ok=True)
        _forget_after(folder, start_step)
        self._bar = tqdm(
            total=total_steps, initial=start_step, unit="step", disable=None, file=sys.stderr
        )
        self._images, self._since = 0, time.perf_counter()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def advance(self, num_images: int) -> None:
        """One step more on the bar."""
        self._images += num_images
        self._bar.update()

    def metrics(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Write one line of means, with images per second since the line before."""
        now = time.perf_counter()
        rate = self._images / (now - self._since)
        self._images, self._since = 0, now
        line = {"step": step, "phase": phase, **values, "images_per_s": round(rate, 2)}
        _append(self._folder.metrics, line)
        shown = {name: f"{values[name]:.4g}" for name in _ON_THE_BAR if values.get(name)}
        self._bar.set_postfix(phase=phase, **shown, images_per_s=f"{rate:.1f}")
        if self._bar.disable:  # no terminal: lines instead of a bar
            terms = " ".join(f"{name} {text}" for name, text in shown.items())
            self.say(f"step {step}/{self._bar.total} {phase}: {terms}, {rate:.1f} images/s")

    def event(self, step: int, event: str, detail: str) -> None:
        """Write a happening to events.jsonl and to the console."""
        _append(self._folder.events, {"step": step, "event": event, "detail": detail})
        self.say(f"step {step}: {event}: {detail}")

    def say(self, text: str) -> None:
        """A line on stderr that leaves the bar whole."""
        tqdm.write(text, file=sys.stderr)


def _append(path: Any, line: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _forget_after(folder: RunFolder, step: int) -> None:
    for path in (folder.metrics, folder.events):
        if not path.exists():
            continue
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            with atomic_write(path) as temporary:
                temporary.write_text("".join(kept))


def _step_of(line: str) -> float:
    """The step of a line; a line that a kill cut in half belongs to no step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
