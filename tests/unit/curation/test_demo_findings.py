from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curation.demo.comparison import GAP_PX, HEAD_PX, comparison_sheet
from curation.demo.findings import (
    curation_section,
    quality_section,
    training_section,
    trouble_section,
)
from curation.demo.outcome import DatasetOutcome, RowOutcome, read_training

OUTCOME = DatasetOutcome(
    rows=(
        RowOutcome("a picture", "ok", "ok"),
        RowOutcome("a picture", "ok", "ok"),
        RowOutcome("status 404", "http_404", "http_404"),
        RowOutcome("a slow body", "deadline_exceeded", "ok"),
    ),
    num_by_status={"ok": 3, "failed": 1, "refused": 0, "filtered": 0},
    num_text=5,
    num_faces=2,
    num_images_with_text=2,
    num_images_with_faces=1,
)


def test_rows_are_counted_by_status_with_the_regions_found() -> None:
    section = curation_section({"train": OUTCOME})

    assert dict(zip(section.headings, section.rows[0], strict=True)) == {
        "dataset": "train",
        "planned": 4,
        "ok": 3,
        "failed": 1,
        "refused": 0,
        "filtered": 0,
        "text regions": 5,
        "faces": 2,
    }


def test_equal_rows_are_counted_and_a_disagreement_is_loud() -> None:
    assert trouble_section(OUTCOME).rows == (
        ("a picture", "2", "ok", "ok", "yes"),
        ("status 404", "1", "http_404", "http_404", "yes"),
        ("a slow body", "1", "deadline_exceeded", "ok", "NO"),
    )


def _metric(value: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    return {"value": value, "interval": interval, "bins": [{"num": 5}, {"num": 0}]}


def test_metrics_are_shown_in_a_fixed_order_with_intervals_and_judges() -> None:
    metrics = {
        "T-NED [a reader]": _metric(0.5, (0.4, 0.6)),
        "T-ACC [a reader]": _metric(None, None),
        "PSNR": _metric(23.456, (22.0, 25.0)),
        "face distance [a net]": _metric(0.7, None),
        "F-Sim [a net]": _metric(0.25, None),
    }
    result = {
        "systems": [{"name": "resize only", "metrics": metrics}],
        "counts": {"images": 40, "words_judged": 93, "faces_judged": 13},
        "networks": [{"name": "a reader"}, {"name": "a net"}],
        "config": {"confidence": 0.95},
    }

    section = quality_section(result, ["resize only"])

    assert "40 held-out images, 93 words, 13 faces" in section.title
    assert section.headings == ("tokenizer", "PSNR", "T-ACC", "T-NED", "F-Sim", "face distance")
    assert section.rows == (
        ("resize only", "23.5 [22.0, 25.0]", None, "0.500 [0.400, 0.600]", "0.250", "0.700"),
    )
    assert "a reader, a net" in section.note
    assert "95%" in section.note
    assert "words 5, 0; faces 5, 0" in section.note


def test_training_speed_is_that_of_all_images_over_all_time(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 10, "phase": "a", "images_per_s": 10.0, "reconstruction": 0.9, "text": 0.0},
        {"step": 20, "phase": "b", "images_per_s": 30.0, "reconstruction": 0.5, "text": 1.5},
        {"step": 30, "phase": "b", "images_per_s": 30.0, "reconstruction": 0.25, "text": 3.5},
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))

    section = training_section({"tiny": read_training(metrics)}, {"tiny": 61.6})

    # Each line covers equally many images: 30 at 10 a second and twice 30 at 30 a second take 5 s.
    assert dict(zip(section.headings, section.rows[0], strict=True)) == {
        "recipe": "tiny",
        "steps": 30,
        "took": "62 s",
        "images/s": "18.0",
        "reconstruction loss": 0.375,
        "perceptual loss": None,
        "text loss": 2.5,
        "face loss": None,
    }


def test_a_comparison_sheet_has_a_row_per_picture_and_a_column_per_tokenizer(
    tmp_path: Path,
) -> None:
    colours = {"original": (250, 0, 0), "first": (0, 250, 0), "second": (0, 0, 250)}
    folders = {name: tmp_path / name for name in colours}
    for name, colour in colours.items():
        folders[name].mkdir()
        for stem in ("a", "b"):
            Image.new("RGB", (80, 40), colour).save(folders[name] / f"{stem}.png")
    pictures = [folders["original"] / "a.png", folders["original"] / "b.png"]
    reconstructions = {name: folders[name] for name in ("first", "second")}

    sheet = np.asarray(comparison_sheet(pictures, reconstructions, side_px=60))

    for row in range(2):
        for column, colour in enumerate(colours.values()):
            y = HEAD_PX + GAP_PX + row * (30 + GAP_PX) + 15
            x = GAP_PX + column * (60 + GAP_PX) + 30
            assert tuple(sheet[y, x]) == colour
    assert sheet.shape[0] == HEAD_PX + GAP_PX + 2 * (30 + GAP_PX)
    assert (sheet[:HEAD_PX] < 100).any(), "headings are written"
