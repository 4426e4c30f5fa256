"""What `calibrate` found: lengths of gradients by term, and the weights that follow from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from annotations_schema.errors import UsageError
from training.config import Phase

SUBSETS = ("all", "with_text", "with_face")
"""All images of the batches, those with a text region, those with a face."""

PROPOSED_ON: Mapping[str, str] = {"text": "with_text", "face": "with_face", "global_text": "all"}
"""The terms whose weight is proposed, and the subset whose gradients decide."""


class Spread(NamedTuple):
    """One figure over the batches that had it: median, least and largest, and their number."""

    median: float
    least: float
    largest: float
    batches: int


class Measured(NamedTuple):
    """One batch: squared gradient lengths (B,) by term, float64; members (B,) bool by subset."""

    squares: Mapping[str, Tensor]
    members: Mapping[str, Tensor]


class Calibration(NamedTuple):
    """What was measured and what follows.

    measured_on: what took the place of x_hat.
    reference: the term that others are compared with, at `reference_weight`.
    images: number of images measured, by subset.
    norms: [subset][term], lengths of the gradients of the unweighted terms.
    weights: [subset]["text_weight" | "face_weight" | "global_text_weight"], proposals.
    assignments: the proposals from the subsets of `PROPOSED_ON`, for `--set`.
    """

    recipe: str
    phase: str
    measured_on: str
    reference: str
    reference_weight: float
    target: float
    images: dict[str, int]
    norms: dict[str, dict[str, Spread]]
    weights: dict[str, dict[str, Spread]]
    assignments: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        plain = self._asdict()
        for name in ("norms", "weights"):
            plain[name] = {
                subset: {term: spread._asdict() for term, spread in by_term.items()}
                for subset, by_term in plain[name].items()
            }
        return plain

    def lines(self) -> Iterator[str]:
        """A table for people, then the assignments."""
        yield f"recipe {self.recipe}, phase {self.phase}, measured on {self.measured_on}"
        yield "length of the gradient at x_hat of each term of weight 1: median (least..largest)"
        headings = [f"{subset} ({self.images[subset]} images)" for subset in SUBSETS]
        yield _row("", headings)
        for term in self.norms["all"]:
            yield _row(term, [_cell(self.norms[subset].get(term)) for subset in SUBSETS])
        reference = f"{self.reference} loss's at its weight {self.reference_weight:g}"
        yield f"weights that make it {self.target:g} of the {reference}:"
        for name in dict.fromkeys(name for found in self.weights.values() for name in found):
            yield _row(name, [_cell(self.weights[subset].get(name)) for subset in SUBSETS])
        yield f"--set {' '.join(self.assignments)}"


def summarised(
    measured: Sequence[Measured],
    phases: Sequence[Phase],
    *,
    recipe: str,
    measured_on: str,
    target: float,
) -> Calibration:
    """Lengths and proposals from the batches that were measured.

    Args:
        measured: at least one batch, with the same terms in all.
        phases: those that get a proposal; the first is the one that was measured.
        recipe: its name.
        measured_on: what took the place of x_hat.
        target: length of a weighted gradient as a share of the reference's.

    Raises:
        UsageError: a term that a phase has was nowhere to be measured.
    """
    objective = phases[0].objective
    reference = "perceptual" if objective.perceptual_weight else "reconstruction"
    reference_weight = getattr(objective, f"{reference}_weight")
    aim = target * reference_weight
    terms = tuple(measured[0].squares)
    norms: dict[str, dict[str, Spread]] = {}
    weights: dict[str, dict[str, Spread]] = {}
    for subset in SUBSETS:
        rows = [
            {term: math.sqrt(float(m.squares[term][m.members[subset]].sum())) for term in terms}
            for m in measured
            if m.members[subset].any()
        ]
        norms[subset] = {term: _spread([row[term] for row in rows]) for term in terms if rows}
        weights[subset] = {
            # A batch without such a region has nothing to say about its weight.
            f"{term}_weight": _spread(
                [aim * row[reference] / row[term] for row in rows if row[term]]
            )
            for term in PROPOSED_ON
            if any(row.get(term) for row in rows)
        }
    return Calibration(
        recipe=recipe,
        phase=phases[0].name,
        measured_on=measured_on,
        reference=reference,
        reference_weight=reference_weight,
        target=target,
        images={s: sum(int(m.members[s].sum()) for m in measured) for s in SUBSETS},
        norms=norms,
        weights=weights,
        assignments=_assignments(phases, weights),
    )


def _assignments(
    phases: Sequence[Phase], weights: Mapping[str, Mapping[str, Spread]]
) -> tuple[str, ...]:
    """For `--set`, for every phase that has the loss."""
    found = []
    for phase in phases:
        for term, subset in PROPOSED_ON.items():
            name, proposed = f"{term}_weight", weights[subset]
            if not getattr(phase.objective, name):
                continue
            if name not in proposed:
                raise UsageError(_nothing_measured(term, name, subset))
            found.append(f"phases.{phase.name}.objective.{name}={proposed[name].median:.3g}")
    return tuple(found)


def _nothing_measured(term: str, name: str, subset: str) -> str:
    if subset == "all":
        return f"the {term} loss has no gradient in any window that was measured: set {name} to 0"
    return (
        f"no window that was measured shows a {term} region, or the {term} loss has no gradient "
        f"there: raise --batches, or set {name} to 0"
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<20}" + "".join(f"{cell:<34}" for cell in cells).rstrip()


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.median:.3g} ({spread.least:.3g}..{spread.largest:.3g})"
