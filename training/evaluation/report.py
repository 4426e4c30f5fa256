"""An evaluation as text: the table for people."""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluation.aggregate import Difference, MetricSummary
from training.evaluation.results import FACE_DISTANCE, EvaluationResult, bare_name

_PERCENT = frozenset({"T-ACC", "T-NED"})
EMPTY = "empty"
NO_VALUE = "-"
MAX_CHARACTERS = 40
"""Characters outside the alphabet that are listed; the result file has all."""


def table(result: EvaluationResult) -> str:
    """The result as text: what was judged, one row per system, the bins, what is in no score."""
    blocks = [
        _heading(result),
        _systems(result),
        _differences(result),
        *_bins(result),
        _left_out(result),
        _speed(result),
    ]
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


def format_difference(name: str, difference: Difference) -> str:
    """A signed difference and its interval; a star where the interval leaves out zero."""
    if difference.value is None:
        return NO_VALUE
    shown = _signed(name, difference.value)
    if difference.interval is None:
        return shown
    low, high = difference.interval
    star = " *" if low > 0 or high < 0 else ""
    return f"{shown} [{_signed(name, low)}, {_signed(name, high)}]{star}"


def difference_rows(result: EvaluationResult) -> list[list[str]]:
    """Header and one row per system with its differences to the baseline; empty without any."""
    systems = [system for system in result.systems if system.differences]
    if not systems:
        return []
    names = metric_names(result)
    header = [f"difference to {result.baseline}", *(name.split(" [")[0] for name in names)]
    cells = [[format_difference(n, system.differences[n]) for n in names] for system in systems]
    return [
        header,
        *([system.name, *row] for system, row in zip(systems, cells, strict=True)),
    ]


def metric_names(result: EvaluationResult) -> list[str]:
    """The metrics of the table, in order; each system has the same."""
    return list(result.systems[0].metrics)


def judged_line(result: EvaluationResult) -> str:
    """How much of what was asked for is in the scores."""
    counts = result.counts
    asked = counts["images"] + counts["images_unreadable"]
    return (
        f"{counts['images']} of {asked} images at {result.config.size} px, "
        f"{counts['words_judged']} of {counts['words_annotated']} words "
        f"({counts['images_with_words']} images have any), "
        f"{counts['faces_judged']} of {counts['faces_annotated']} faces "
        f"({counts['images_with_faces']} images have any)"
    )


def bins_averaged(metric: MetricSummary) -> str:
    """How many of its bins a headline averages; empty for a metric without bins."""
    if len(metric.bins) < 2:
        return ""
    filled = sum(one.mean is not None for one in metric.bins)
    return f"mean of {filled} of {len(metric.bins)} bins"


def binned_metrics(result: EvaluationResult) -> list[str]:
    """The metrics whose bins are worth a table: those with bins and with a region."""
    first = result.systems[0].metrics
    return [
        name
        for name in metric_names(result)
        if len(first[name].bins) > 1
        and first[name].num + first[name].num_outside
        and bare_name(name) != FACE_DISTANCE
    ]


def bin_rows(result: EvaluationResult, name: str) -> list[list[str]]:
    """Header and one row per system with the mean of each bin; an empty bin says so."""
    header = [f"{name} by size"]
    header += [f"[{b.low:g}, {b.high:g}) n={b.num}" for b in result.systems[0].metrics[name].bins]
    rows = [[*header, "mean of bins", "mean of all"]]
    for system in result.systems:
        metric = system.metrics[name]
        cells = [EMPTY if b.mean is None else format_value(name, b.mean) for b in metric.bins]
        means = [format_value(name, mean) for mean in (metric.value, metric.plain_mean)]
        rows.append([system.name, *cells, *means])
    return rows


def outside_bins(result: EvaluationResult, name: str) -> str:
    """How many regions are too small or too large for the bins; empty where none is."""
    num = result.systems[0].metrics[name].num_outside
    return f"{num} outside the bins, only in the mean of all" if num else ""


def left_out(result: EvaluationResult) -> list[str]:
    """What is in no score, and why: one text per reason."""
    rows_not_ok = result.counts["manifest_rows_not_ok"]
    lines = [f"{count} {code}" for code, count in result.problem_counts.items()]
    lines += [f"{rows_not_ok} manifest rows without an image"] if rows_not_ok else []
    return lines


def unknown_characters(result: EvaluationResult) -> str:
    """The characters that the recogniser cannot write, most frequent first; empty without any."""
    found = list(result.unknown_characters.items())
    shown = ", ".join(f"{character!r} in {num}" for character, num in found[:MAX_CHARACTERS])
    more = f" and {len(found) - MAX_CHARACTERS} others" if len(found) > MAX_CHARACTERS else ""
    return f"characters outside the recogniser's alphabet: {shown}{more}" if found else ""


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


def _signed(name: str, value: float) -> str:
    shown = format_value(name, value).removesuffix(" %")
    return shown if shown.startswith("-") else f"+{shown}"


def _differences(result: EvaluationResult) -> str:
    rows = difference_rows(result)
    if not rows:
        return ""
    return f"{aligned(rows)}\nimages resampled for both together; * the interval leaves out 0"


def _speed(result: EvaluationResult) -> str:
    return (
        f"{result.images_per_s:.2f} images/s under {len(result.systems)} systems, "
        f"{100 * result.share_outside_networks:.0f} % of the time outside networks"
    )


def _heading(result: EvaluationResult) -> str:
    config = result.config
    confidence = f"{100 * config.confidence:g} % intervals from {config.bootstrap_resamples}"
    lines = [
        f"{judged_line(result)}; {confidence} resamples of the images",
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
    costs = ["bits", "codes used"] if has_codes else []
    header = ["", *(name.split(" [")[0] for name in names), *costs]
    judges = ["", *(_judge_of(name) for name in names), *("" for _ in costs)]
    first = result.systems[0].metrics
    averaged = ["", *(bins_averaged(first[name]) for name in names), *("" for _ in costs)]
    rows = [row for row in (header, judges, averaged) if any(row)]
    for system in result.systems:
        cells = [format_metric(name, system.metrics[name]) for name in names]
        if has_codes:
            usage = system.codebook
            cells.append(NO_VALUE if system.bits is None else f"{system.bits:.0f}")
            cells.append(NO_VALUE if usage is None else f"{100 * usage.used_fraction:.1f} %")
        rows.append([system.name, *cells])
    return aligned(rows)


def _judge_of(name: str) -> str:
    return f"[{name.split(' [')[1]}" if " [" in name else ""


def _bins(result: EvaluationResult) -> list[str]:
    return [
        "\n".join(filter(None, (aligned(bin_rows(result, name)), outside_bins(result, name))))
        for name in binned_metrics(result)
    ]


def _left_out(result: EvaluationResult) -> str:
    lines = left_out(result)
    blocks = ["in no score: " + ", ".join(lines) if lines else "", unknown_characters(result)]
    return "\n".join(filter(None, blocks))
