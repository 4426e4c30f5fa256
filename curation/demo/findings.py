"""The final table's sections, from what the steps of the demo wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from curation.demo.outcome import DatasetOutcome, TrainingOutcome
from curation.demo.table import Cell, Section

METRICS = ("PSNR", "SSIM", "T-ACC", "T-NED", "F-Sim", "face distance")


def curation_section(outcomes: Mapping[str, DatasetOutcome]) -> Section:
    """Rows by status and regions found, one line per dataset."""
    headings = (
        "dataset",
        "planned",
        "ok",
        "failed",
        "refused",
        "filtered",
        "text regions",
        "faces",
    )
    rows: list[tuple[Cell, ...]] = []
    for name, outcome in outcomes.items():
        statuses = outcome.num_by_status
        counts = (statuses[status] for status in ("ok", "failed", "refused", "filtered"))
        rows.append((name, len(outcome.rows), *counts, outcome.num_text, outcome.num_faces))
    return Section("Curation", headings, tuple(rows))


def trouble_section(outcome: DatasetOutcome) -> Section:
    """What each kind of row must end with, and what it ended with."""
    rows = Counter(outcome.rows)
    lines = tuple(
        (row.what, str(number), row.expected, row.seen, "yes" if row.is_as_expected else "NO")
        for row, number in rows.items()
    )
    return Section("What the crawl met", ("row", "times", "expected", "seen", "agrees"), lines)


def training_section(
    runs: Mapping[str, TrainingOutcome], elapsed_s: Mapping[str, float]
) -> Section:
    """Speed and losses of each run; the seconds are those of the whole command."""
    losses = ("reconstruction", "perceptual", "text", "face")
    rows = tuple(
        (
            recipe,
            run.steps,
            f"{elapsed_s[recipe]:.0f} s",
            f"{run.images_per_s:.1f}",
            *(run.losses.get(name) or None for name in losses),
        )
        for recipe, run in runs.items()
    )
    headings = ("recipe", "steps", "took", "images/s", *(f"{name} loss" for name in losses))
    return Section("Training", headings, rows, "Losses are means over the last phase.")


def quality_section(result: Mapping[str, Any], systems: Sequence[str]) -> Section:
    """One line per system: the headline of each metric and its interval, from evaluate's JSON."""
    by_name = {
        system["name"]: {_bare(name): value for name, value in system["metrics"].items()}
        for system in result["systems"]
    }
    names = [name for name in METRICS if name in by_name[systems[0]]]
    rows = tuple(
        (system, *(_with_interval(by_name[system][name]) for name in names)) for system in systems
    )
    counts, judges = result["counts"], [network["name"] for network in result["networks"]]
    title = (
        f"Quality on {counts['images']} held-out images, {counts['words_judged']} words, "
        f"{counts['faces_judged']} faces"
    )
    share = f"{result['config']['confidence']:.0%}"
    first = by_name[systems[0]]
    note = (
        f"[{share} intervals over images]  Judges: {', '.join(judges)}; trained against neither.  "
        f"Bins by size count alike: words {_bins(first['T-ACC'])}; faces {_bins(first['F-Sim'])}."
    )
    return Section(title, ("tokenizer", *names), rows, note)


def _bins(metric: Mapping[str, Any]) -> str:
    return ", ".join(str(one["num"]) for one in metric["bins"])


def _bare(metric: str) -> str:
    """A metric's name without that of its judge."""
    return metric.split(" [")[0]


def _with_interval(metric: Mapping[str, Any]) -> str | None:
    value, interval = metric["value"], metric["interval"]
    if value is None:
        return None
    digits = 1 if abs(value) >= 10 else 3
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
