"""One self-contained HTML page about a dataset: what came, what failed and why, what was found.

No script, no external file: styles, charts (SVG) and images (data: URIs) are in the page, and its
Content-Security-Policy forbids everything else. Whatever a list or a server wrote is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from annotations_schema.codes import Status
from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, atomic_write, read_receipt
from annotations_schema.provenance import FRAME
from curation.config import DatasetConfig, require_config
from curation.report.charts import Chart, count_histogram, histogram, quantity
from curation.report.facts import (
    FAILED_ROWS_PER_CODE,
    DomainFacts,
    Facts,
    gather,
    is_transient,
    meaning_of,
)
from curation.report.integrity import IntegrityConfig, check_integrity
from curation.report.sheet import draw, make_sheet
from curation.report.timeline import STAGES, Timeline, timeline
from curation.runtime.progress import duration
from curation.runtime.stage import DISTRIBUTION
from curation.status import DatasetStatus, status

MAX_SHEET_BYTES = 12 * 2**20
MAX_DOMAINS = 20
MAX_TEXT_CHARACTERS = 400
_TEMPLATES = Path(__file__).parent / "templates"
# Characters that a page may not hold, and those that turn the direction of what follows.
_UNPRINTABLE = dict.fromkeys(
    [*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "\N{REPLACEMENT CHARACTER}",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What the page shows."""

    num_images: int = 48
    """Most images on the contact sheet."""
    seed: int = 0
    """Of the draw of images: the same seed shows the same images."""
    integrity: IntegrityConfig = field(default_factory=IntegrityConfig)
    """Evidence on images that differ from what the list expects."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_images <= 1000:
            raise UsageError(f"--images {self.num_images}: choose 0 to 1000")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A page that was written."""

    path: str
    num_bytes: int
    rows: int
    num_images: int


def write_report(layout: DatasetLayout, out: Path, config: ReportConfig) -> Written:
    """Write the page about the dataset at `layout` to `out`.

    Raises:
        UsageError: it is not a dataset, or it has no published manifest yet.
    """
    dataset = require_config(layout)
    if not layout.manifests():
        raise UsageError(
            f"{layout.root} has no finished shard yet; see `insight-curate status`, run it again"
        )
    facts = gather(layout, num_images=config.num_images, seed=config.seed)
    page = render(layout, dataset, status(layout), facts, config)
    with atomic_write(out) as temporary:
        temporary.write_text(page.html, encoding="utf-8")
    return Written(
        path=str(out), num_bytes=out.stat().st_size, rows=facts.rows, num_images=page.num_images
    )


@dataclass(frozen=True, slots=True)
class Page:
    """The page's text, and how many images it shows."""

    html: str
    num_images: int


def render(
    layout: DatasetLayout,
    dataset: DatasetConfig,
    found: DatasetStatus,
    facts: Facts,
    config: ReportConfig,
) -> Page:
    """The page from what was gathered."""
    sheet = make_sheet(
        layout,
        draw(facts.candidates, config.num_images),
        dataset.curate.fetch.limits,
        MAX_SHEET_BYTES,
    )
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clean": clean,
        "clean_block": clean_block,
        "quantity": quantity,
        "duration": duration,
        "size": size,
        "number_of": number_of,
        "share": share,
        "meaning": meaning_of,
    }
    html = environment.get_template("report.html.j2").render(
        title=layout.root.absolute().name,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        creator=f"{DISTRIBUTION} {version(DISTRIBUTION)}",
        dataset=dataset,
        config=config,
        status=found,
        facts=facts,
        statuses=[(one.value, facts.by_status[one.value]) for one in Status],
        codes=_codes(facts),
        domains=_worst_domains(facts),
        num_domains=len(facts.domains),
        times=_times(facts),
        charts=_charts(facts),
        timeline=_timeline(layout),
        integrity=check_integrity(layout, config.integrity),
        sheet=sheet,
        failed_per_code=FAILED_ROWS_PER_CODE,
        detectors=_detectors(facts),
        frame=FRAME,
        settings=_settings(dataset),
        formats=facts.by_format.most_common(),
        licenses=facts.by_license.most_common(8),
    )
    return Page(html, len(sheet.tiles))


def clean(text: object) -> str:
    """Text of the outside world, fit to be shown: bounded, no control or direction characters."""
    shown = str(text).translate(_UNPRINTABLE)
    cut = shown[:MAX_TEXT_CHARACTERS]
    return cut if len(shown) <= MAX_TEXT_CHARACTERS else cut + "…"


def clean_block(text: str) -> str:
    """Text of several lines, each as `clean` makes it; none is cut."""
    return "\n".join(line.translate(_UNPRINTABLE) for line in text.split("\n"))


def number_of(count: int, one: str, many: str) -> str:
    """A count with its noun: 1 face, 2 faces."""
    return f"{count:,} {one if count == 1 else many}"


def size(num_bytes: float) -> str:
    """Bytes as a person says them, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def share(part: float, whole: float) -> str:
    """A part as a percentage; never 0 % or 100 % where that is not exact."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %".replace(".0 %", " %")


def _codes(facts: Facts) -> list[dict[str, Any]]:
    return [
        {
            "code": code,
            "count": count,
            "is_transient": is_transient(code),
            "stage": facts.failed_rows[code][0]["stage"],
            "status": facts.failed_rows[code][0]["status"],
            "rows": facts.failed_rows[code],
        }
        for code, count in facts.by_code.most_common()
    ]


def _worst_domains(facts: Facts) -> list[DomainFacts]:
    """Domains by number of failed rows, then by size."""
    ranked = sorted(facts.domains.values(), key=lambda one: (-one.not_ok, -one.rows, one.host))
    return ranked[:MAX_DOMAINS]


def _times(facts: Facts) -> list[tuple[str, float]]:
    """Seconds of waiting for servers by outcome, longest first."""
    waits = facts.elapsed_ms_by_outcome.most_common(8)
    return [(outcome, elapsed_ms / 1000) for outcome, elapsed_ms in waits if elapsed_ms]


def _charts(facts: Facts) -> list[Chart]:
    values = facts.values
    return [
        count_histogram("Text regions per image", values("num_text").astype(int), tone="text"),
        histogram("Text height", values("text_height_px"), unit=" px", is_log=True, tone="text"),
        histogram(
            "Share of the image that is text",
            100 * values("text_area_fraction"),
            unit=" %",
            tone="text",
        ),
        count_histogram("Faces per image", values("num_faces").astype(int), tone="face"),
        histogram("Longer side of a face", values("face_side_px"), unit=" px", tone="face"),
        histogram("Longer side of an image", values("image_side_px"), unit=" px", is_log=True),
        histogram("Size of an image file", values("bytes"), unit="B", is_log=True),
        histogram("Time of a fetch, all attempts", values("elapsed_ms"), unit=" ms", is_log=True),
    ]


def _timeline(layout: DatasetLayout) -> Timeline | None:
    paths = (
        (s, path) for s in STAGES for path in layout.receipt(s, "000000").parent.glob("*.json")
    )
    found = (read_receipt(layout, stage, path.stem) for stage, path in paths)
    return timeline(receipt for receipt in found if receipt is not None)


def _detectors(facts: Facts) -> list[tuple[str, Mapping[str, Any] | None]]:
    found = facts.provenance
    records = {"text": found and found.text_detector, "face": found and found.face_detector}
    return [(kind, asdict(one) if one else None) for kind, one in records.items()]


def _settings(dataset: DatasetConfig) -> str:
    return json.dumps(asdict(dataset.curate), indent=2, default=str)
