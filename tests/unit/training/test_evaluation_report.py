"""Cells, columns, the page's parts, and which regions are kept for it."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from training.evaluation.aggregate import BinSummary, MetricSummary
from training.evaluation.config import EvaluateConfig
from training.evaluation.highlights import Fate, Highlight, Highlights
from training.evaluation.networks import NetworkRecord
from training.evaluation.page import data_uri, page
from training.evaluation.report import aligned, format_metric, format_value
from training.evaluation.results import EvaluationResult, SystemResult, bare_name, metric_name

COUNTS = {
    "images": 1,
    "images_unreadable": 0,
    "images_with_words": 1,
    "images_with_faces": 0,
    "words_annotated": 3,
    "words_judged": 1,
    "faces_annotated": 0,
    "faces_judged": 0,
    "manifest_rows_not_ok": 0,
}


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
        if tag not in ("meta", "img", "br", "input"):
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
        counts=COUNTS,
        problem_counts={},
        systems=systems,
        problems=(),
        seconds={"total": 2.0, "networks": 1.5},
    )
    text = page(result, [region(0.5, "<script>alert(1)</script>")], [region(0.1)])
    parser = _Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert "<script>" not in text
    assert "&lt;b&gt;&amp;" in text


def shown(**changes):
    """A page of two systems with one binned metric, one bin empty."""
    bins = (BinSummary(0.0, 0.1, 0, None), BinSummary(0.1, 1.0, 1, 0.5))
    metric = MetricSummary(0.5, (0.25, 0.75), 0.5, bins, 1, 2, 1)
    systems = tuple(
        SystemResult(
            name=name, metrics={"T-ACC [net]": metric, "rFID": summary(3.25)}, codebook=None
        )
        for name in ("original", "resize only", "ours")
    )
    values = {
        "config": EvaluateConfig(data=("x",)),
        "sources": (),
        "checkpoints": {},
        "networks": (network(published=False),),
        "fidelity_settings": {},
        "metric_notes": {"faces": "left out"},
        "counts": COUNTS,
        "problem_counts": {"word_empty": 2},
        "systems": systems,
        "problems": (),
        "seconds": {"total": 2.0, "networks": 1.5},
        "unknown_characters": {"<": 2},
        **changes,
    }
    return EvaluationResult(**values)


def read(verdicts, change=0.5):
    crops = tuple(np.zeros((8, 20, 3), np.uint8) for _ in verdicts)
    return Highlight("word", "image", crops, tuple("x" for _ in verdicts), change, verdicts)


@pytest.mark.parametrize(
    ("verdicts", "fate"),
    [
        ((True, True, False), Fate.LOST),
        ((True, True, True, False), Fate.LOST),
        ((True, False, True), Fate.GAINED),
        ((True, True, True), Fate.OTHER),
        ((True, False, False), Fate.OTHER),
        ((True, False), Fate.LOST),
        ((False, True), Fate.GAINED),
        ((True,), Fate.OTHER),
        ((), Fate.OTHER),
    ],
)
def test_a_words_fate_is_against_the_row_resize_only(verdicts, fate):
    assert read(verdicts).fate == fate


def test_small_changes_that_made_a_word_readable_are_not_crowded_out():
    kept = Highlights(capacity=2)
    for change in (0.9, 0.8, 0.7):
        kept.add(read((True, True, False), change))
    kept.add(read((True, False, True), 0.1))
    assert [(h.fate, h.change) for h in kept.largest_first()] == [
        (Fate.LOST, 0.9),
        (Fate.LOST, 0.8),
        (Fate.GAINED, 0.1),
    ]


def test_the_page_names_judges_licences_substitutes_bins_and_what_is_left_out():
    text = page(shown(), [read((True, True, False)), read((True, False, True))], [])
    for expected in (
        "<mark>substitute</mark>",
        "<td>lib 1</td>",
        "<td>MIT</td>",
        "mean of 1 of 2 bins",
        "<td>empty</td>",
        "2 outside the bins, only in the mean of all",
        "50.0 %<br><small>25.0 to 75.0</small>",
        "<td>3.250</td>",
        "faces: left out",
        "2 word_empty",
        "&#x27;&lt;&#x27; in 2",
        "1 of 3 words (1 images have any)",
    ):
        assert expected in text
    assert "http" not in text
    assert "<script" not in text


def test_the_words_of_the_page_can_be_filtered_by_what_became_of_them():
    words = [read((True, True, False)), read((True, False, True)), read((True, True, True))]
    text = page(shown(), words, [])
    for label in ("all (3)", "became unreadable (1)", "became readable (1)"):
        assert f">{label}</label>" in text
    for kind in ("lost", "gained", "other"):
        assert text.count(f'<div class="region {kind}">') == 1
    # Only CSS hides: each choice hides the regions of another sort.
    assert "#lost:checked ~ .regions > :not(.lost)" in text
    assert "#gained:checked ~ .regions > :not(.gained)" in text
    assert text.count('<span class="wrong">') == 2
