"""Cells, columns, the page's parts, and which regions are kept for it."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from training.evaluation.aggregate import MetricSummary
from training.evaluation.config import EvaluateConfig
from training.evaluation.highlights import Highlight, Highlights
from training.evaluation.networks import NetworkRecord
from training.evaluation.page import data_uri, page
from training.evaluation.report import aligned, format_metric, format_value
from training.evaluation.results import EvaluationResult, SystemResult, bare_name, metric_name


def region(change, title="word"):
    crop = np.full((8, 20, 3), 7, np.uint8)
    return Highlight(title, "image", (crop, crop), ("a", "b"), change)


def network(*, published):
    return NetworkRecord(
        name="net",
        library="lib",
        library_version="1",
        weights_sha256="0" * 64,
        weights_licence="MIT",
        is_published_protocol=published,
    )


def summary(value, interval=None):
    return MetricSummary(value, interval, value, (), 1, 0, 1)


def test_highlights_keep_the_largest_changes_in_order():
    kept = Highlights(capacity=3)
    for change in (0.1, 0.5, 0.0, 0.9, 0.3, 0.2):
        kept.add(region(change, title=str(change)))
    assert [h.title for h in kept.largest_first()] == ["0.9", "0.5", "0.3"]


def test_of_equal_changes_the_earlier_stay():
    kept = Highlights(capacity=2)
    for title in "abcd":
        kept.add(region(0.5, title))
    assert [h.title for h in kept.largest_first()] == ["a", "b"]


def test_kept_crops_do_not_hold_on_to_their_image():
    image = np.zeros((100, 100, 3), np.uint8)
    kept = Highlights(capacity=1)
    kept.add(Highlight("w", "i", (image[:5, :5],), ("",), 1.0))
    image[:] = 255
    assert kept.largest_first()[0].crops[0].max() == 0
    assert kept.largest_first()[0].crops[0].base is None


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("T-ACC [x]", 0.1234, "12.3 %"),
        ("T-NED(original) [x]", 1.0, "100.0 %"),
        ("PSNR", 23.456, "23.46"),
        ("PSNR", float("inf"), "inf"),
        ("F-Sim", 0.98765, "0.988"),
        ("T-ACC", None, "-"),
    ],
)
def test_values_are_shown_in_their_units(name, value, shown):
    assert format_value(name, value) == shown


def test_intervals_stand_beside_their_value():
    assert format_metric("T-ACC", summary(0.5, (0.25, 0.75))) == "50.0 % [25.0, 75.0]"
    assert format_metric("T-ACC", summary(0.5)) == "50.0 %"
    assert format_metric("T-ACC", summary(None)) == "-"


def test_columns_are_aligned():
    assert aligned([["", "x"], ["long", "1"], ["a", "23"]]) == "       x\nlong   1\na     23"


@pytest.mark.parametrize("against_original", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_only_the_published_network_gives_a_metric_its_bare_name(published, against_original):
    shown = metric_name("T-NED", network(published=published), against_original=against_original)
    assert ("[net]" in shown) is not published
    assert ("(original)" in shown) is against_original
    assert bare_name(shown) == "T-NED"


def test_pictures_in_the_page_are_the_crops_themselves():
    crop = np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)
    data = base64.b64decode(data_uri(crop).split(",")[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), crop)
    wide = base64.b64decode(data_uri(np.zeros((30, 4000, 3), np.uint8)).split(",")[1])
    assert Image.open(io.BytesIO(wide)).width == 320


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_texts_are_escaped():
    metrics = {"T-ACC <i>": summary(0.5)}
    systems = tuple(
        SystemResult(name=name, metrics=metrics, codebook=None) for name in ("original", "<b>&")
    )
    result = EvaluationResult(
        config=EvaluateConfig(data=("x",)),
        sources=(),
        checkpoints={},
        networks=(network(published=True),),
        fidelity_settings={},
        metric_notes={},
        counts={"images": 1, "words_judged": 1, "faces_judged": 0, "manifest_rows_not_ok": 0},
        problem_counts={},
        systems=systems,
        problems=(),
        seconds={},
    )
    text = page(result, [region(0.5, "<script>alert(1)</script>")], [region(0.1)])
    parser = _Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert "<script>" not in text
    assert "&lt;b&gt;&amp;" in text
