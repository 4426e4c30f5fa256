"""An evaluation as text: the table for people."""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluation.aggregate import MetricSummary
from training.evaluation.results import FACE_DISTANCE, EvaluationResult, bare_name

_PERCENT = frozenset({"T-ACC", "T-NED"})
EMPTY = "empty"
NO_VALUE = "-"


def table(result: EvaluationResult) -> str:
    """The result as text: what was judged, one row per system, the bins, what is in no score."""
    blocks = [_heading(result), _systems(result), *_bins(result), _left_out(result)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def format_value(name: str, value: float | None) -> str:
    """A metric's value as people read it: shares in percent, decibels with two digits."""
    if value is None:
        return NO_VALUE
    if bare_name(name) in _PERCENT:
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if bare_name(name) == "PSNR" else f"{value:.3f}"


def format_metric(name: str, metric: MetricSummary) -> str:
    """Value and interval."""
    shown = format_value(name, metric.value)
    if metric.interval is None:
        return shown
    low, high = (format_value(name, bound).removesuffix(" %") for bound in metric.interval)
    return f"{shown} [{low}, {high}]"


def metric_names(result: EvaluationResult) -> list[str]:
    """The metrics of the table, in order; each system has the same."""
    return list(result.systems[0].metrics)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _heading(result: EvaluationResult) -> str:
    config, counts = result.config, result.counts
    confidence = f"{100 * config.confidence:g} % intervals from {config.bootstrap_resamples}"
    lines = [
        f"{counts['images']} images at {config.size} px, {counts['words_judged']} words, "
        f"{counts['faces_judged']} faces; {confidence} resamples of the images",
        *(
            f"judge: {network.name} ({network.library} {network.library_version}, weights sha256 "
            f"{network.weights_sha256[:12]})" + (f"; {network.note}" if network.note else "")
            for network in result.networks
        ),
        *(f"{name}: {reason}" for name, reason in result.metric_notes.items()),
    ]
    return "\n".join(lines)


def _systems(result: EvaluationResult) -> str:
    names = metric_names(result)
    has_codes = any(system.codebook is not None for system in result.systems)
    header = ["", *(name.split(" [")[0] for name in names), *(["codes used"] if has_codes else [])]
    judges = ["", *(_judge_of(name) for name in names), *([""] if has_codes else [])]
    rows = [header, judges]
    for system in result.systems:
        cells = [format_metric(name, system.metrics[name]) for name in names]
        if has_codes:
            usage = system.codebook
            cells.append(NO_VALUE if usage is None else f"{100 * usage.used_fraction:.1f} %")
        rows.append([system.name, *cells])
    return aligned(rows)


def _judge_of(name: str) -> str:
    return f"[{name.split(' [')[1]}" if " [" in name else ""


def _bins(result: EvaluationResult) -> list[str]:
    names = [n for n in metric_names(result) if len(result.systems[0].metrics[n].bins) > 1]
    return [_bins_of(result, name) for name in names if bare_name(name) != FACE_DISTANCE]


def _bins_of(result: EvaluationResult, name: str) -> str:
    first = result.systems[0].metrics[name]
    if first.num + first.num_outside == 0:
        return ""
    header = [f"{name} by size"]
    header += [f"[{b.low:g}, {b.high:g}) n={b.num}" for b in first.bins]
    rows = [[*header, "mean of all"]]
    for system in result.systems:
        metric = system.metrics[name]
        cells = [EMPTY if b.mean is None else format_value(name, b.mean) for b in metric.bins]
        rows.append([system.name, *cells, format_value(name, metric.plain_mean)])
    outside = f"{first.num_outside} outside the bins, only in the mean of all"
    return aligned(rows) + (f"\n{outside}" if first.num_outside else "")


def _left_out(result: EvaluationResult) -> str:
    rows_not_ok = result.counts["manifest_rows_not_ok"]
    lines = [f"{count} {code}" for code, count in result.problem_counts.items()]
    lines += [f"{rows_not_ok} manifest rows without an image"] if rows_not_ok else []
    return "in no score: " + ", ".join(lines) if lines else ""
