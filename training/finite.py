"""The latch that keeps numbers which are not finite out of the weights, without asking the device.

A host that looks at every loss waits for the GPU at every step. Here the device decides: once a
term or gradient norm is infinite or not a number, the gate closes and nothing moves any more. The
host looks at it before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from annotations_schema.errors import InsightTokError
from training.distributed import Ranks

_MAX_NAMED = 32


class NonFiniteError(InsightTokError):
    """A loss or gradient norm is infinite or not a number; no weight was changed by it or since."""


class Seen(NamedTuple):
    """Terms (0-d each) of one micro batch, or of a whole step, and its images."""

    terms: Mapping[str, Tensor]
    image_ids: Sequence[str]


class FiniteGate:
    """Open while everything was finite.

    is_open: 0-d bool, True: weights may move.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_open = torch.ones((), dtype=torch.bool, device=device)
        self._steps: list[tuple[int, str, Sequence[Seen]]] = []

    def badness(self, step: int, phase: str, seen: Sequence[Seen]) -> Tensor:
        """0-d float32, above 0 where a term of this step is not finite; remembers the step."""
        self._steps.append((step, phase, seen))
        terms = torch.stack([term.float() for part in seen for term in part.terms.values()])
        return (~torch.isfinite(terms)).any().float()

    def close_if(self, badness: Tensor) -> None:
        """Close for good where `badness` (of all ranks together) is above 0."""
        self.is_open = self.is_open & (badness == 0)

    def check(self, ranks: Ranks) -> None:
        """Here the host waits; all ranks must call it at the same steps.

        Raises:
            NonFiniteError: on every rank, naming the first bad step, its terms and its images.
        """
        steps, self._steps = self._steps, []
        if bool(self.is_open.item()):
            return
        reports = ranks.gather(_first_bad(steps))
        number, phase = min((r.step, r.phase) for r in reports if r is not None)
        found = [r for r in reports if r is not None and r.step == number]
        terms = dict.fromkeys(term for report in found for term in report.terms)
        images = list(dict.fromkeys(image for report in found for image in report.image_ids))
        more = f" and {len(images) - _MAX_NAMED} more" if len(images) > _MAX_NAMED else ""
        raise NonFiniteError(
            f"step {number} of phase {phase}: {', '.join(terms)}; images "
            f"{', '.join(images[:_MAX_NAMED])}{more}; no weight was changed by it or since, and "
            "the last checkpoint stands; lower optimizer.learning_rate or the weight of that term"
        )


class _Report(NamedTuple):
    step: int
    phase: str
    terms: list[str]
    image_ids: list[str]


def _first_bad(steps: Sequence[tuple[int, str, Sequence[Seen]]]) -> _Report | None:
    for step, phase, seen in steps:
        terms: list[str] = []
        images: list[str] = []
        for part in seen:
            bad = [f"{n} = {t.item():g}" for n, t in part.terms.items() if not t.isfinite()]
            terms += bad
            # The norms, which come last, are of all images; a micro batch's terms know better.
            if bad and not (images and part is seen[-1]):
                images += part.image_ids
        if terms:
            return _Report(step, phase, terms, images)
    return None
