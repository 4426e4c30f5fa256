"""The evidence as Markdown: tables with intervals, and what held, said by the numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from training.evaluation.aggregate import FACE_BIN_EDGES, TEXT_BIN_EDGES, Bootstrap
from training.evidence.plan import ARMS, BASE, Arm, Scale, run_name
from training.evidence.scores import (
    Difference,
    MetricScores,
    difference,
    mean,
    mean_of_bins,
)

COLUMNS = ("T-ACC", "T-NED", "F-Sim", "face distance", "PSNR", "SSIM")
HIGHEST_PSNR_LOSS_DB = 0.2
ORIGINAL, RESIZE_ONLY = "original", "resize only"
_DIGITS = {"T-ACC": 3, "T-NED": 3, "F-Sim": 4, "face distance": 4, "PSNR": 2, "SSIM": 4}


class Verdict(NamedTuple):
    """Whether (d) beats (a): each part, and how far."""

    text: bool
    face: bool
    fidelity: bool
    differences: Mapping[str, Difference]


def systems_of(arm: Arm, num_seeds: int) -> list[str]:
    """The runs of an arm, by seed."""
    return [run_name(arm.letter, seed) for seed in range(num_seeds if arm.has_all_seeds else 1)]


def verdict(scores: Mapping[str, MetricScores], num_seeds: int, bootstrap: Bootstrap) -> Verdict:
    """(d) against (a): text or words, and faces, beyond the interval; fidelity within 0.2 dB."""
    a, d = (systems_of(arm, num_seeds) for arm in ARMS if arm.letter in "ad")
    found = {
        name: gap
        for name in COLUMNS
        if (gap := difference(scores[name], d, a, bootstrap)) is not None
    }
    above = {name: gap.low > 0 for name, gap in found.items()}
    return Verdict(
        text=above.get("T-ACC", False) or above.get("T-NED", False),
        face=above.get("F-Sim", False),
        fidelity="PSNR" in found and found["PSNR"].value >= -HIGHEST_PSNR_LOSS_DB,
        differences=found,
    )


def markdown(
    scores: Mapping[str, MetricScores],
    against: Mapping[str, Mapping[str, float]],
    scale: Scale,
    num_seeds: int,
    bootstrap: Bootstrap,
    facts: Sequence[str],
) -> str:
    """The page; `facts` are lines on commit, machine, commands and data."""
    counts = {name: len(scores[name].image) for name in ("T-NED", "F-Sim", "PSNR")}
    found = verdict(scores, num_seeds, bootstrap)
    parts = [
        "\n".join(f"- {fact}" for fact in facts),
        f"Held out: {counts['PSNR']} images, {counts['T-NED']} words, {counts['F-Sim']} faces, "
        f"shown at {scale.size} px.",
        "### Means over all held-out regions\n\n" + _table(_means(scores, against, num_seeds)),
        f"### Beside (a): difference of means, with {100 * bootstrap.confidence:g} % intervals\n\n"
        + _table(_differences(scores, num_seeds, bootstrap)),
        "### (d) beside (a), seed by seed\n\n" + _table(_by_seed(found)),
        "### The protocol's headline: unweighted mean of the bins' means\n\n"
        + _table(_headline(scores, scale, num_seeds)),
        *(
            f"### {group.removeprefix('judged_')} alone: difference to (a)\n\n{_table(rows)}"
            for group, rows in _groups(scores, num_seeds, bootstrap).items()
        ),
        "### What held\n\n" + _said(found),
    ]
    return "\n\n".join(parts) + "\n"


def _means(
    scores: Mapping[str, MetricScores], against: Mapping[str, Mapping[str, float]], num_seeds: int
) -> list[list[str]]:
    rows = [["", "seeds", *COLUMNS, "text loss", "face loss", "perceptual loss"]]
    listed = [(ORIGINAL, [ORIGINAL]), (RESIZE_ONLY, [RESIZE_ONLY]), ("base", [BASE])]
    listed += [(f"({arm.letter}) {arm.title}", systems_of(arm, num_seeds)) for arm in ARMS]
    for title, systems in listed:
        cells = [_number(name, mean(scores[name], systems)) for name in COLUMNS]
        if systems[0] in against:
            cells += [
                f"{sum(against[s][term] for s in systems) / len(systems):.{digits}f}"
                for term, digits in (("text", 2), ("face", 2), ("perceptual", 4))
            ]
        else:
            cells += ["", "", ""]
        rows.append([title, str(len(systems)) if systems[0] in against else "", *cells])
    return rows


def _differences(
    scores: Mapping[str, MetricScores], num_seeds: int, bootstrap: Bootstrap
) -> list[list[str]]:
    first = ARMS[0]
    rows = [["", *COLUMNS]]
    for arm in ARMS[1:]:
        runs = systems_of(arm, num_seeds)
        others = systems_of(first, num_seeds)[: len(runs)]
        gaps = [difference(scores[name], runs, others, bootstrap) for name in COLUMNS]
        cells = [_gap(name, gap) for name, gap in zip(COLUMNS, gaps, strict=True)]
        rows.append([f"({arm.letter}) {arm.title}", *cells])
    return rows


def _by_seed(found: Verdict) -> list[list[str]]:
    num_seeds = max(len(gap.per_seed) for gap in found.differences.values())
    rows = [["seed", *found.differences]]
    for seed in range(num_seeds):
        cells = [_signed(name, gap.per_seed[seed]) for name, gap in found.differences.items()]
        rows.append([str(seed), *cells])
    return rows


def _headline(scores: Mapping[str, MetricScores], scale: Scale, num_seeds: int) -> list[list[str]]:
    edges = {
        "T-ACC": TEXT_BIN_EDGES[scale.size],
        "T-NED": TEXT_BIN_EDGES[scale.size],
        "F-Sim": next(iter(FACE_BIN_EDGES.values()))[scale.size],
    }
    rows = [["", *edges]]
    listed = [(ORIGINAL, [ORIGINAL]), (RESIZE_ONLY, [RESIZE_ONLY]), ("base", [BASE])]
    listed += [(f"({arm.letter})", systems_of(arm, num_seeds)) for arm in ARMS]
    for title, systems in listed:
        values = [_number(n, mean_of_bins(scores[n], systems, e)) for n, e in edges.items()]
        rows.append([title, *values])
    return rows


def _groups(
    scores: Mapping[str, MetricScores], num_seeds: int, bootstrap: Bootstrap
) -> dict[str, list[list[str]]]:
    groups = list(dict.fromkeys(scores["PSNR"].group.tolist()))
    if len(groups) < 2:
        return {}
    return {
        group: _differences(
            {name: one.only(group) for name, one in scores.items()}, num_seeds, bootstrap
        )
        for group in groups
    }


def _said(found: Verdict) -> str:
    def says(holds: bool) -> str:
        return "**yes**" if holds else "**no**"

    return "\n".join(
        [
            f"- T-ACC or T-NED of (d) above (a) beyond the interval: {says(found.text)}",
            f"- F-Sim of (d) above (a) beyond the interval: {says(found.face)}",
            f"- PSNR of (d) not more than {HIGHEST_PSNR_LOSS_DB} dB below (a): "
            f"{says(found.fidelity)}",
        ]
    )


def _number(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{_DIGITS[name]}f}"


def _signed(name: str, value: float) -> str:
    return f"{value:+.{_DIGITS[name]}f}"


def _gap(name: str, gap: Difference | None) -> str:
    if gap is None:
        return "-"
    bold = "**" if gap.low > 0 or gap.high < 0 else ""
    return (
        f"{bold}{_signed(name, gap.value)}{bold} "
        f"({_signed(name, gap.low)} to {_signed(name, gap.high)})"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
