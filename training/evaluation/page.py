"""An evaluation as one HTML page: the tables, and crops side by side, largest change first.

The page is one file without scripts; the filter of the words is CSS alone.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from training.evaluation.highlights import DEFAULT_CAPACITY, Fate, Highlight
from training.evaluation.networks import NetworkRecord
from training.evaluation.page_style import STYLE
from training.evaluation.report import (
    bin_rows,
    binned_metrics,
    bins_averaged,
    difference_rows,
    format_metric,
    judged_line,
    left_out,
    metric_names,
    outside_bins,
    table,
    unknown_characters,
)
from training.evaluation.results import EvaluationResult

Image = NDArray[np.uint8]

MAX_CROP_SIDE_PX = 320

_FILTERS = (
    ("all", "all"),
    (Fate.LOST.value, "became unreadable"),
    (Fate.GAINED.value, "became readable"),
)


def page(result: EvaluationResult, words: Sequence[Highlight], faces: Sequence[Highlight]) -> str:
    """The page as HTML text; pictures are inside it, so that it is one file."""
    systems = [system.name for system in result.systems]
    config = result.config
    intervals = (
        f"Small numbers are {100 * config.confidence:g} % intervals from "
        f"{config.bootstrap_resamples} resamples of the images."
    )
    parts = [
        f"<h1>Evaluation at {config.size} px</h1><p>{html.escape(judged_line(result))}. "
        f"{intervals}</p>",
        _metric_table(result),
        _judges(result),
        _difference_table(result),
        *(_bins(result, name) for name in binned_metrics(result)),
        _left_out(result),
        _words(words, systems),
        _faces(faces, systems),
        f"<details><summary>In full</summary><pre>{html.escape(table(result))}</pre></details>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _metric_table(result: EvaluationResult) -> str:
    names, first = metric_names(result), result.systems[0].metrics
    has_codes = any(system.codebook is not None for system in result.systems)
    head = "".join(
        f"<th>{_two_lines(*_name_and_judge(name), bins_averaged(first[name]))}</th>"
        for name in names
    )
    rows = []
    for system in result.systems:
        cells = [
            _two_lines(*_value_and_interval(format_metric(n, system.metrics[n]))) for n in names
        ]
        if has_codes:
            bits, usage = system.bits, system.codebook
            cells.append("-" if bits is None else f"{bits:.0f}")
            cells.append("-" if usage is None else f"{100 * usage.used_fraction:.1f} %")
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><th>{html.escape(system.name)}</th>{row}</tr>")
    costs = "<th>bits</th><th>codes used</th>" if has_codes else ""
    return _scrolled(f"<tr><td></td>{head}{costs}</tr>{''.join(rows)}")


def _judges(result: EvaluationResult) -> str:
    if not result.networks and not result.metric_notes:
        return ""
    head = "".join(f"<th>{cell}</th>" for cell in ("", "role", "library", "weights", "licence", ""))
    rows = "".join(_judge(network) for network in result.networks)
    judges = _scrolled(f"<tr>{head}</tr>{rows}", "text") if rows else ""
    notes = "".join(
        f"<li>{html.escape(name)}: {html.escape(note)}</li>"
        for name, note in result.metric_notes.items()
    )
    return f"<h2>Judges</h2>{judges}" + (f"<ul>{notes}</ul>" if notes else "")


def _judge(network: NetworkRecord) -> str:
    role = "published protocol" if network.is_published_protocol else "<mark>substitute</mark>"
    cells = [
        role,
        html.escape(f"{network.library} {network.library_version}"),
        f"<code>{html.escape(network.weights_sha256[:12])}</code>",
        html.escape(network.weights_licence),
        html.escape(network.note),
    ]
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th>{html.escape(network.name)}</th>{row}</tr>"


def _difference_table(result: EvaluationResult) -> str:
    rows = difference_rows(result)
    if not rows:
        return ""
    note = "Images are resampled for both systems together; * the interval leaves out 0."
    return f"<h2>Differences</h2>{_cells(rows)}<p>{note}</p>"


def _bins(result: EvaluationResult, name: str) -> str:
    header, *rows = bin_rows(result, name)
    note = outside_bins(result, name)
    return f"<h2>{html.escape(header[0])}</h2>{_cells([['', *header[1:]], *rows])}" + (
        f"<p>{note}</p>" if note else ""
    )


def _left_out(result: EvaluationResult) -> str:
    lines = [*left_out(result), unknown_characters(result)]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines if line)
    return f"<h2>In no score</h2><ul>{items}</ul>" if items else ""


def _words(words: Sequence[Highlight], systems: Sequence[str]) -> str:
    if not words:
        return ""
    counts = {fate: sum(word.fate == fate for word in words) for fate in Fate}
    shown = {"all": len(words), **{fate.value: num for fate, num in counts.items()}}
    choices = "".join(
        f'<input type="radio" name="fate" id="{key}"{" checked" if key == "all" else ""}>'
        f'<label for="{key}">{label} ({shown[key]})</label>'
        for key, label in _FILTERS
    )
    note = (
        "Unreadable and readable are against the reference row resize only: some system reads the "
        f"word wrongly, or rightly, where that row does not. At most {DEFAULT_CAPACITY} words of "
        "each sort are shown."
    )
    regions = "".join(_region(word, systems, word.fate.value) for word in words)
    return (
        f"<section><h2>Words, largest change first</h2><p>{note}</p>{choices}"
        f'<div class="regions">{regions}</div></section>'
    )


def _faces(faces: Sequence[Highlight], systems: Sequence[str]) -> str:
    if not faces:
        return ""
    regions = "".join(_region(face, systems, "face") for face in faces)
    note = f"Aligned as the face net sees them; at most {DEFAULT_CAPACITY} are shown."
    return (
        f"<section><h2>Faces, largest change first</h2><p>{note}</p>"
        f'<div class="regions">{regions}</div></section>'
    )


def _region(highlight: Highlight, systems: Sequence[str], kind: str) -> str:
    marks = ["right" if v else "wrong" for v in highlight.verdicts] or [""] * len(systems)
    figures = "".join(
        f'<figure><img src="{data_uri(crop)}" alt="{html.escape(system)}">'
        f'<figcaption><b>{html.escape(system)}</b><br><span class="{mark}">'
        f"{html.escape(caption)}</span></figcaption></figure>"
        for system, crop, caption, mark in zip(
            systems, highlight.crops, highlight.captions, marks, strict=True
        )
    )
    title = (
        f'<div class="title"><b>{html.escape(highlight.title)}</b><br>'
        f"<small>{html.escape(highlight.image_id)}<br>change {highlight.change:.3f}</small></div>"
    )
    return f'<div class="region {kind}">{title}{figures}</div>'


def _name_and_judge(shown: str) -> tuple[str, str]:
    name, _, judge = shown.partition(" [")
    return name, judge.removesuffix("]")


def _value_and_interval(shown: str) -> tuple[str, str]:
    value, _, interval = shown.partition(" [")
    return value, interval.removesuffix("]").replace(", ", " to ")


def _two_lines(first: str, *small: str) -> str:
    """A cell: the first text, and the others that are not empty below it in small letters."""
    below = "".join(f"<br><small>{html.escape(text)}</small>" for text in small if text)
    return html.escape(first) + below


def _cells(rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; the first row and the first column are headings."""
    lines = []
    for number, (name, *cells) in enumerate(rows):
        tag = "th" if number == 0 else "td"
        row = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        lines.append(f"<tr><th>{html.escape(name)}</th>{row}</tr>")
    return _scrolled("".join(lines))


def _scrolled(rows: str, kind: str = "numbers") -> str:
    return f'<div class="scroll"><table class="{kind}">{rows}</table></div>'


def data_uri(crop: Image) -> str:
    """A crop as a PNG inside a URL; its longer side is at most 320 pixels."""
    picture = PillowImage.fromarray(crop)
    picture.thumbnail((MAX_CROP_SIDE_PX, MAX_CROP_SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
