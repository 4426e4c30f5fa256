from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, read_receipt, write_receipt
from annotations_schema.manifest import read_manifest
from annotations_schema.region_columns import face_regions_at
from curation.report.charts import count_histogram, histogram, quantity
from curation.report.report import ReportConfig, clean, share, size, write_report
from curation.report.sheet import Candidate, candidate, draw

VOID = {"meta", "input", "img"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html(finished_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(DatasetLayout(finished_dataset), out, ReportConfig())
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_elements_nest(page: Page) -> None:
    assert page.open == []
    assert len(page.all("section")) == 6


def test_hostile_captions_and_urls_stay_text(page: Page) -> None:
    assert page.all("script") == []
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    text = "".join(page.text)
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in text
    assert "javascript:alert(3)" in text
    assert "\u202e" not in text


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    links = [
        value
        for _, found in page.elements
        for name, value in found.items()
        if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    ]
    assert links
    assert all(link is not None and link.startswith("data:image/jpeg;base64,") for link in links)
    assert page.all("link") == page.all("iframe") == page.all("a") == []
    assert "url(" not in "".join(page.text)
    policy = next(
        meta["content"]
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_counts_and_codes_are_those_of_the_dataset(page: Page) -> None:
    text = " ".join("".join(page.text).split())
    assert "6 rows of list.csv: 3 images (50 %), 2 text regions, 1 face." in text
    assert "The server does not have it." in text
    assert "the server answered 404" in text
    assert "a_text_detector" in text


def test_regions_are_drawn_in_the_frame_of_their_image(page: Page) -> None:
    boxes = {box["viewbox"] for box in page.all("svg") if "photo" in (box.get("class") or "")}
    assert boxes == {"0 0 256 256", "0 0 300 200", "0 0 60 40"}
    quads = [found for found in page.all("polygon") if found["class"] == "quad"]
    assert [quad["points"] for quad in quads] == [
        "10.0,10.0 90.0,14.0 89.0,34.0 9.0,30.0",
        "20.0,50.0 60.0,50.0 60.0,62.0 20.0,62.0",
    ]
    (face,) = [found for found in page.all("rect") if found.get("class") == "face"]
    assert [face[name] for name in ("x", "y", "width", "height")] == [
        "90.0",
        "30.0",
        "44.0",
        "62.0",
    ]


def test_landmarks_are_drawn_half_a_pixel_from_their_pixel_centres(
    page: Page, finished_dataset: Path
) -> None:
    table = read_manifest(DatasetLayout(finished_dataset).annotations("000000"))
    faces = face_regions_at(table, 0)
    assert faces is not None
    x, y = faces.landmarks_5[0, 0] + 0.5
    dots = [found["d"] for found in page.all("path") if found["class"] == "dot"]
    assert len(dots) == 5
    assert dots[0] == f"M{x:.1f} {y:.1f}h0"


def test_the_aligned_crop_is_a_picture_of_112_by_112(page: Page) -> None:
    (crop,) = page.all("img")
    assert crop["src"] is not None
    data = base64.b64decode(crop["src"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (112, 112)
        assert np.asarray(picture).std() > 20


def test_the_same_seed_gives_the_same_sheet(finished_dataset: Path, tmp_path: Path) -> None:
    def tiles(name: str, seed: int) -> list[str | None]:
        config = ReportConfig(num_images=2, seed=seed)
        written = write_report(DatasetLayout(finished_dataset), tmp_path / name, config)
        assert written.num_images == 2
        page = Page((tmp_path / name).read_text())
        return [image["href"] for image in page.all("image")]

    assert tiles("a.html", 1) == tiles("b.html", 1)


def test_a_page_can_do_without_images(finished_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    written = write_report(DatasetLayout(finished_dataset), out, ReportConfig(num_images=0))
    assert written.num_images == 0
    assert Page(out.read_text()).all("image") == []


def test_an_unfinished_dataset_says_so(curated: DatasetLayout, tmp_path: Path) -> None:
    receipt = read_receipt(curated, "annotate", "000001")
    assert receipt is not None
    curated.annotations("000001").unlink()
    write_receipt(curated, replace(receipt, outputs={}, set_aside="3 attempts; <b>boom</b>"))
    out = tmp_path / "r.html"
    assert write_report(curated, out, ReportConfig()).rows == 4
    text = out.read_text()
    assert "Not complete." in text
    assert "3 attempts; &lt;b&gt;boom&lt;/b&gt;" in text


def test_images_that_cannot_be_read_are_counted_and_not_shown(
    curated: DatasetLayout, tmp_path: Path
) -> None:
    curated.images("000000").unlink()
    out = tmp_path / "r.html"
    assert write_report(curated, out, ReportConfig()).num_images == 1
    assert "2 drawn images could not be read" in out.read_text()


def test_a_dataset_without_manifest_has_no_report(curated: DatasetLayout, tmp_path: Path) -> None:
    for shard in ("000000", "000001"):
        curated.receipt("annotate", shard).unlink()
    with pytest.raises(UsageError, match="no finished shard yet"):
        write_report(curated, tmp_path / "r.html", ReportConfig())
    assert not (tmp_path / "r.html").exists()


def test_the_draw_takes_kinds_in_turn_and_ignores_the_order_of_rows() -> None:
    rows = [
        candidate(5, f"{number:032x}", "000000", number, num_text=number % 2, num_faces=0)
        for number in range(40)
    ]
    rows.append(candidate(5, "f" * 32, "000001", 0, num_text=0, num_faces=2))
    drawn = draw(rows, 5)
    assert [one.kind for one in drawn] == ["face", "text", "neither", "text", "neither"]
    assert draw(rows[::-1], 5) == drawn
    assert len(draw(rows, 100)) == 41


def test_the_seed_changes_the_draw() -> None:
    def first(seed: int) -> list[int]:
        rows = [candidate(seed, f"{n:032x}", "000000", n, 0, 0) for n in range(50)]
        return [one.row for one in draw(rows, 6)]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_kinds_follow_from_counts() -> None:
    kinds = [candidate(0, "a", "s", 0, *counts).kind for counts in ((1, 1), (0, 1), (1, 0), (0, 0))]
    assert kinds == ["both", "face", "text", "neither"]
    assert isinstance(candidate(0, "a", "s", 0, 1, 1), Candidate)


def test_histogram_bars_hold_every_value() -> None:
    chart = histogram("h", np.array([0.0, 1.0, 1.0, 24.0]), unit=" px")
    counts = [int(bar.label.rpartition(": ")[2]) for bar in chart.bars]
    assert sum(counts) == 4
    assert [bar.height for bar in chart.bars] == [count / 2 for count in counts]
    assert chart.note == "4 values, median 1 px"
    assert chart.median_at == pytest.approx(1 / 24)
    assert [tick.label for tick in chart.ticks] == ["0 px", "10 px", "20 px"]


def test_a_logarithmic_histogram_spans_whole_decades() -> None:
    chart = histogram("h", np.array([3.0, 40.0, 7000.0]), is_log=True)
    assert [tick.label for tick in chart.ticks] == ["1", "10", "100", "1k", "10k"]
    assert chart.median_at == pytest.approx(np.log10(40) / 4)


def test_histograms_of_nothing_and_of_one_value_are_drawn() -> None:
    assert histogram("h", np.zeros(0)).note == "no values"
    assert len(histogram("h", np.array([5.0, 5.0])).bars) == 1
    assert len(histogram("h", np.zeros(3)).bars) == 1


def test_count_histogram_joins_large_counts() -> None:
    chart = count_histogram("h", np.array([0, 0, 1, 7, 9, 500]))
    assert [bar.label for bar in chart.bars] == [
        "0: 2 images",
        "1: 1 images",
        "5-9: 2 images",
        "20+: 1 images",
    ]


@pytest.mark.parametrize(
    ("value", "said"), [(0.03111, "0.0311"), (412, "412"), (1234, "1.23k"), (3.4e6, "3.4M")]
)
def test_quantities_are_short(value: float, said: str) -> None:
    assert quantity(value) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 0, "0 %"),
        (1, 3, "33.3 %"),
        (1, 10**6, "< 0.1 %"),
        (10**6 - 1, 10**6, "> 99.9 %"),
        (2, 2, "100 %"),
    ],
)
def test_shares_are_never_rounded_to_all_or_nothing(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


def test_sizes_are_said_in_binary_units() -> None:
    assert [size(n) for n in (12, 2048, 5 * 2**20)] == ["12 B", "2.0 KiB", "5.0 MiB"]


def test_text_of_the_outside_is_bounded_and_printable() -> None:
    assert clean("a\x00b\x85c\u2066d") == "a\ufffdb\ufffdc\ufffdd"
    assert len(clean("x" * 10_000)) == 401


@pytest.mark.parametrize("num_images", [-1, 1001])
def test_an_absurd_number_of_images_is_misuse(num_images: int) -> None:
    with pytest.raises(UsageError, match="choose 0 to 1000"):
        ReportConfig(num_images=num_images)
