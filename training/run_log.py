"""What a training tells: metrics and events as JSON lines, to TensorBoard and to people."""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from annotations_schema.layout import atomic_write
from training.metrics import METRIC_GROUPS, TIMING_KEYS, group_of
from training.run_folder import RunFolder
from training.tensorboard_file import TensorboardFile

_T = TypeVar("_T")
_GIB = 2.0**30
_WORDS = {
    "gradient_norm": "gradient norm",
    "discriminator_gradient_norm": "of discriminator",
    "codebook_usage": "codebook usage",
    "codebook_perplexity": "perplexity",
    "logits_real": "logits real",
    "logits_fake": "fake",
}
"""What the console calls the numbers that are no losses."""


class RunLog:
    """Writes metrics.jsonl, events.jsonl, previews and tensorboard/, and moves the progress bar.

    Lines of steps after `start_step`, left by a run that was killed behind its checkpoint, are
    taken out first, so that every step is logged once.

    Args:
        folder: of the run.
        start_step: steps done already.
        total_steps: of all phases.
        device: whose memory is watched.
    """

    def __init__(
        self, folder: RunFolder, *, start_step: int, total_steps: int, device: torch.device
    ) -> None:
        self._folder, self._device = folder, device
        folder.root.mkdir(parents=True, exist_ok=True)
        _forget_after(folder, start_step)
        self._tensorboard = TensorboardFile(folder.tensorboard, start_step=start_step)
        self._bar = tqdm(
            total=total_steps, initial=start_step, unit="step", disable=None, file=sys.stderr
        )
        self._images, self._waited_s, self._since = 0, 0.0, time.perf_counter()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._tensorboard.close()

    def waiting_for(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items; the time until each is there counts as waiting for data.

        It is the host's time: a GPU with steps in its queue works on meanwhile.
        """
        rest = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(rest)
            except StopIteration:
                return
            finally:
                self._waited_s += time.perf_counter() - asked
            yield item

    def advance(self, num_images: int) -> None:
        """One step more on the bar."""
        self._images += num_images
        self._bar.update()

    def metrics(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Write one line of means, with speed and memory since the line before.

        images_per_s is of wall time, with everything that happened in it. memory_gib is the peak
        that torch allocated on a CUDA device since the line before, else the process's peak RSS.
        """
        now = time.perf_counter()
        elapsed_s = now - self._since
        timings = (
            round(self._images / elapsed_s, 2),
            round(self._waited_s / elapsed_s, 4),
            round(_peak_memory(self._device) / _GIB, 3),
        )
        self._images, self._waited_s, self._since = 0, 0.0, now
        line = {**values, **dict(zip(TIMING_KEYS, timings, strict=True))}
        _append(self._folder.metrics, {"step": step, "phase": phase, **line})
        tags = {f"{group_of(name).replace(' ', '_')}/{name}": v for name, v in line.items()}
        self._tensorboard.scalars(step, tags)
        self._bar.set_postfix(phase=phase, images_per_s=f"{timings[0]:.1f}")
        self.say(f"step {step}/{self._bar.total} {phase}: {_for_people(line)}")

    def preview(self, step: int, sheet: NDArray[np.uint8]) -> None:
        """Publish a picture (H, W, 3) uint8 RGB of this step."""
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "png")
        with atomic_write(self._folder.preview(step)) as temporary:
            temporary.write_bytes(buffer.getvalue())
        height, width = sheet.shape[:2]
        self._tensorboard.image(step, "preview", buffer.getvalue(), width, height)

    def event(self, step: int, event: str, detail: str) -> None:
        """Write a happening to events.jsonl and to the console."""
        _append(self._folder.events, {"step": step, "event": event, "detail": detail})
        self.say(f"step {step}: {event}: {detail}")

    def say(self, text: str) -> None:
        """A line on stderr that leaves the bar whole."""
        tqdm.write(text, file=sys.stderr)


def _for_people(line: Mapping[str, float]) -> str:
    """Every watched number on one line; a loss term that is 0 is not computed and left out."""
    losses = [f"{name} {line[name]:.4g}" for name in METRIC_GROUPS["loss"] if line.get(name)]
    others = [f"{words} {line[name]:.3g}" for name, words in _WORDS.items() if name in line]
    rate, wait, memory = (line[name] for name in TIMING_KEYS)
    speed = f"{rate:.1f} images/s, {wait:.0%} waiting for data, {memory:.2f} GiB"
    return "; ".join(", ".join(part) for part in (losses, others, [speed]) if part)


def _peak_memory(device: torch.device) -> int:
    """Bytes; of a CUDA device since the call before, else of the process."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _append(path: Path, line: Mapping[str, Any]) -> None:
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
