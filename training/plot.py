"""The curves of runs as one picture: a panel per metric, a colour per run, the phases marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from annotations_schema.errors import UsageError
from annotations_schema.layout import atomic_write
from training.metrics import METRIC_GROUPS
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
"""Kinds of pictures, by the file's suffix."""

_PER_ROW = 4
_PANEL_INCHES = (4.6, 2.7)
_LOG_FROM = 20.0  # largest over least: from here on a linear axis hides the end of the curve
_SMOOTH_FROM = 200  # lines: from here on the noise hides the curve
_SMOOTH_SHARE = 50  # the mean runs over this part of the lines


class Curves(NamedTuple):
    """What a run's metrics.jsonl says.

    name: the run, as the legend names it.
    steps: (N,) int64, ascending.
    values: metric -> (N,) float64, not a number where a line does not have it.
    phases: (step, name) of the last line before each phase, of its first line where none is.
    broken_lines: lines that are no metrics and were left out.
    """

    name: str
    steps: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    phases: tuple[tuple[int, str], ...]
    broken_lines: int


def plot_runs(runs: Sequence[Path], out: Path) -> list[Curves]:
    """Draw the metrics of run folders over their steps and publish the picture atomically.

    Args:
        runs: folders of runs.
        out: PNG, SVG or PDF by suffix.

    Returns:
        What was drawn, one per run.

    Raises:
        UsageError: no metrics in a folder, or another suffix; nothing is written.
    """
    if out.suffix not in SUFFIXES or out.is_dir():
        raise UsageError(f"--out {out} is no picture's name; end it in {', '.join(SUFFIXES)}")
    names = [path.name for path in runs]
    is_clear = len(set(names)) == len(names)
    curves = [
        read_curves(path, name if is_clear else str(path))
        for path, name in zip(runs, names, strict=True)
    ]
    figure = _draw(curves)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:], dpi=110)
    return curves


def read_curves(run: Path, name: str) -> Curves:
    """The metrics of a run folder; broken lines are counted and left out.

    Raises:
        UsageError: there is no metrics.jsonl, or not one good line in it.
    """
    path = RunFolder(run).metrics
    if not path.is_file():
        raise UsageError(f"{run} holds no {path.name}; name the folder of a run")
    raw = path.read_bytes().splitlines()
    by_step = {line["step"]: line for line in map(_parsed, raw) if line is not None}
    if not by_step:
        raise UsageError(
            f"{path} has no line yet ({len(raw)} broken); one comes every log.metrics_every steps"
        )
    lines = [by_step[step] for step in sorted(by_step)]
    metrics = dict.fromkeys(key for line in lines for key in line if key not in ("step", "phase"))
    changes = [
        ((before or line)["step"], line["phase"])
        for before, line in zip([None, *lines], lines, strict=False)
        if before is None or before["phase"] != line["phase"]
    ]
    return Curves(
        name=name,
        steps=np.array([line["step"] for line in lines], np.int64),
        values={m: np.array([line.get(m, np.nan) for line in lines], float) for m in metrics},
        phases=tuple(changes),
        broken_lines=sum(_parsed(line) is None for line in raw),
    )


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """A line of metrics, or None: a number for every key but the phase, which is a string."""
    try:
        line = json.loads(raw)
    except ValueError:  # no JSON, or no UTF-8
        return None
    if not isinstance(line, dict) or not isinstance(line.get("phase"), str):
        return None
    numbers = [value for key, value in line.items() if key != "phase"]
    is_good = isinstance(line.get("step"), int) and all(
        isinstance(number, int | float) for number in numbers
    )
    return line if is_good else None


def _panels(curves: Sequence[Curves]) -> list[str]:
    """Metrics to draw, watched ones in their order and then the rest; none that is always 0."""
    watched = [name for names in METRIC_GROUPS.values() for name in names]
    others = sorted({name for one in curves for name in one.values} - set(watched))
    return [name for name in [*watched, *others] if any(_points(c, name)[1].any() for c in curves)]


def _draw(curves: Sequence[Curves]) -> Figure:
    # Not pyplot: a figure alone leaves no global state and needs no screen.
    from matplotlib.figure import Figure

    names = _panels(curves)
    num_rows = max(1, -(-len(names) // _PER_ROW))
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(_PER_ROW * width, num_rows * height + 0.5), layout="constrained")
    panels = figure.subplots(num_rows, _PER_ROW, squeeze=False).flat
    for number, axes in enumerate(panels):
        if number >= len(names):
            axes.set_axis_off()
            continue
        _draw_panel(axes, names[number], curves)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
    return figure


def _draw_panel(axes: Axes, metric: str, curves: Sequence[Curves]) -> None:
    drawn = []
    for number, one in enumerate(curves):
        steps, values = _points(one, metric)
        drawn.append(values)
        colour, marker = f"C{number}", "o" if len(values) == 1 else None
        if len(values) >= _SMOOTH_FROM:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
            values = running_mean(values, len(values) // _SMOOTH_SHARE)
        axes.plot(steps, values, color=colour, label=one.name, linewidth=1.4, marker=marker)
    of_all = np.concatenate(drawn)
    if of_all.min() > 0 and of_all.max() > _LOG_FROM * of_all.min():
        axes.set_yscale("log")
    axes.set_title(metric.replace("_", " "), fontsize=10)
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.02)
    _mark_phases(axes, curves)


def _points(one: Curves, metric: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Steps and values that are numbers; a loss of exactly 0 was not computed and is none."""
    values = one.values.get(metric, np.full(len(one.steps), np.nan))
    is_point = np.isfinite(values)
    if metric in METRIC_GROUPS["loss"]:
        is_point &= values != 0
    return one.steps[is_point], values[is_point]


def _mark_phases(axes: Axes, curves: Sequence[Curves]) -> None:
    """A line where a phase begins, its name beside; the same phase of several runs once."""
    marks = dict.fromkeys(mark for one in curves for mark in one.phases)
    for step, phase in marks:
        axes.axvline(step, color="black", alpha=0.35, linewidth=0.8, linestyle="--")
        axes.annotate(
            phase, (step, 1), xycoords=("data", "axes fraction"), xytext=(2, -2),
            textcoords="offset points", va="top", fontsize=7, alpha=0.7,
        )  # fmt: skip


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Means (N,) over the last `width` of values (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    mean: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return mean
