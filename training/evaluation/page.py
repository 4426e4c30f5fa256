"""An evaluation as one HTML page: the table, and crops side by side, largest change first."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from training.evaluation.highlights import Highlight
from training.evaluation.report import format_metric, metric_names, table
from training.evaluation.results import EvaluationResult

Image = NDArray[np.uint8]

MAX_CROP_SIDE_PX = 320

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c;
       margin: 2rem auto; max-width: 1200px; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } th, td { padding: .3rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #ddd }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 12px }
.region { display: flex; flex-wrap: wrap; gap: 10px; padding: .6rem 0 }
.region { border-bottom: 1px solid #eee }
.region > div { max-width: 240px } .title { width: 170px; overflow-wrap: anywhere }
.title small, figcaption { color: #555; font-size: 12px } figure { margin: 0 }
img { height: 64px; max-width: 240px; object-fit: contain; background: #eee }
img.face { height: 112px }
figcaption { max-width: 240px; overflow-wrap: anywhere }
"""


def page(result: EvaluationResult, words: Sequence[Highlight], faces: Sequence[Highlight]) -> str:
    """The page as HTML text; pictures are inside it, so that it is one file."""
    systems = [system.name for system in result.systems]
    parts = [
        f"<h1>Evaluation at {result.config.size} px</h1>",
        _metric_table(result),
        _regions("Words, largest change first", words, systems, ""),
        _regions("Faces, largest change first", faces, systems, "face"),
        f"<h2>In full</h2><pre>{html.escape(table(result))}</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _metric_table(result: EvaluationResult) -> str:
    names = metric_names(result)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["", *names])
    rows = "".join(
        f"<tr><td>{html.escape(system.name)}</td>"
        + "".join(f"<td>{format_metric(n, system.metrics[n])}</td>" for n in names)
        + "</tr>"
        for system in result.systems
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _regions(title: str, highlights: Sequence[Highlight], systems: Sequence[str], kind: str) -> str:
    if not highlights:
        return ""
    return f"<h2>{title}</h2>" + "".join(_region(h, systems, kind) for h in highlights)


def _region(highlight: Highlight, systems: Sequence[str], kind: str) -> str:
    figures = "".join(
        f'<figure><img class="{kind}" src="{data_uri(crop)}" alt="{html.escape(system)}">'
        f"<figcaption>{html.escape(system)}<br>{html.escape(caption)}</figcaption></figure>"
        for system, crop, caption in zip(systems, highlight.crops, highlight.captions, strict=True)
    )
    title = (
        f'<div class="title"><b>{html.escape(highlight.title)}</b><br>'
        f"<small>{html.escape(highlight.image_id)}<br>change {highlight.change:.3f}</small></div>"
    )
    return f'<div class="region">{title}{figures}</div>'


def data_uri(crop: Image) -> str:
    """A crop as a PNG inside a URL; its longer side is at most 320 pixels."""
    picture = PillowImage.fromarray(crop)
    picture.thumbnail((MAX_CROP_SIDE_PX, MAX_CROP_SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
