"""What a training leaves behind while it runs: metrics, events, pictures, checkpoints.

All ranks come here at the same steps, since what is written is of all of them; the first writes.
Between the steps at which something is due the host asks nothing of the device.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from training.checkpoint import save_checkpoint
from training.config import Phase, TrainConfig
from training.data.batch import Batch, LoadedBatch, RegionCounts
from training.distributed import Ranks
from training.finite import NonFiniteError
from training.preview import preview_sheet
from training.run_folder import RunFolder
from training.run_log import RunLog
from training.state import TrainingState, checkpoint_of

_T = TypeVar("_T")


class Recorder:
    """Writes what is due after a step; a context manager.

    Args:
        state: what is trained.
        config: of the run; `config.log` says how often.
        folder: of the run.
        preview: images that are drawn.
        ranks: this process and the others.
        device: of the training.
    """

    def __init__(
        self,
        state: TrainingState,
        config: TrainConfig,
        folder: RunFolder,
        *,
        preview: Batch,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self._state, self._config, self._folder = state, config, folder
        self._preview, self._ranks, self._device = preview, ranks, device
        self._bad_images: list[tuple[int, str]] = []
        self._log: RunLog | None = None
        if ranks.is_first:
            self._log = RunLog(
                folder, start_step=state.step, total_steps=config.total_steps, device=device
            )

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._log is not None:
            self._log.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """A line for people."""
        if self._log is not None:
            self._log.say(text)

    def event(self, event: str, detail: str) -> None:
        """A happening after the present step."""
        if self._log is not None:
            self._log.event(self._state.step, event, detail)

    def waiting_for(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items; the time until each is there is logged as waiting for data."""
        return iter(items) if self._log is None else self._log.waiting_for(items)

    def add(self, values: Mapping[str, Tensor | float], loaded: Sequence[LoadedBatch]) -> None:
        """Count one step in: this rank's terms and batches."""
        size = self._ranks.size
        bad = [error for item in loaded for error in item.bad_images]
        sums = (sum(column) for column in zip(*(item.counts for item in loaded), strict=True))
        counts = dict(zip(RegionCounts._fields, sums, strict=True))
        # Times the ranks, so that the mean over ranks is what the whole step had.
        of_step = {name: size * count for name, count in {**counts, "bad_images": len(bad)}.items()}
        self._state.window.add({**values, **of_step})
        self._bad_images += [(self._state.step, error) for error in bad]
        if self._log is not None:
            self._log.advance(size * sum(len(item.image_ids) for item in loaded))

    def write_due(self, phase: Phase, *, is_phase_end: bool, is_last: bool) -> None:
        """Write what is due after this step.

        Args:
            phase: of the step.
            is_phase_end: it ends with this step, so its checkpoint and picture are due.
            is_last: the run ends with this step, finished or not; its checkpoint is due.

        Raises:
            NonFiniteError: a number was not finite since the last time; nothing is written but an
                event.
        """
        step, every = self._state.step, self._config.log
        has_metrics = step % every.metrics_every == 0
        has_preview = step % every.preview_every == 0 or is_phase_end
        has_checkpoint = step % every.checkpoint_every == 0 or is_last
        if not (has_metrics or has_preview or has_checkpoint):
            return
        self._settle()
        if has_metrics:
            self._write_metrics(phase)
        if has_preview:
            self._draw()
        # First: a run that goes on from the other one never comes here again.
        if is_phase_end:
            self._save(self._folder.phase_checkpoint(phase.name))
        if has_checkpoint:
            self._save(self._folder.checkpoint)

    def _settle(self) -> None:
        """Bring the ranks' accounts together; here the host waits for the device."""
        state, ranks = self._state, self._ranks
        try:
            state.gate.check(ranks)
        except NonFiniteError as error:
            self.event("not_finite", str(error))
            raise
        bad_images = sorted(bad for part in ranks.gather(self._bad_images) for bad in part)
        self._bad_images = []
        if self._log is not None:
            for step, reason in bad_images:
                self._log.event(step, "bad_image", f"replaced: {reason}")
        if ranks.size > 1:
            window = state.window.state_dict()
            means = ranks.means({name: value.item() for name, value in window["sums"].items()})
            sums = {name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()}
            state.window.load_state_dict({**window, "sums": sums})

    def _write_metrics(self, phase: Phase) -> None:
        quantizer = self._state.tokenizer.quantize
        if self._log is not None:
            codebook = {
                "codebook_usage": quantizer.usage(),
                "codebook_perplexity": quantizer.perplexity(),
            }
            values = self._state.window.means() | codebook
            self._log.metrics(self._state.step, phase.name, values)
        self._state.window.reset()

    def _draw(self) -> None:
        if self._log is None:
            return
        with torch.inference_mode():
            x_hat = self._state.ema.module(self._preview.images.to(self._device)).x_hat
        self._log.preview(self._state.step, preview_sheet(self._preview, x_hat.float().cpu()))

    def _save(self, path: Path) -> None:
        if self._ranks.is_first:
            save_checkpoint(path, checkpoint_of(self._state, self._config))
