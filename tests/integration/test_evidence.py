"""The evidence's road in miniature: real commands, real judges, no result worth reading."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from annotations_schema import FaceRegions, TextRegions
from curation.demo.words import WORDS
from curation.render_text.fonts import font_files, fonts_that_write
from curation.render_text.page import PageConfig, render_page
from tests.benchmarks.evidence_data import Picture, write_pictures
from tests.training_datasets import photo, portrait
from training.evidence.__main__ import main

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    fonts = fonts_that_write(font_files([Path(matplotlib.get_data_path())]), WORDS)
    pages = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        page = render_page(photo("coffee").image, WORDS, fonts, PageConfig(), rng)
        quads = [word.quad for word in page.words]
        regions = TextRegions.from_quads(quads, np.ones(len(quads)), 256, 256)
        words = [
            {"box_xyxy": [*q.min(0).tolist(), *q.max(0).tolist()], "text": word.text}
            for word, q in zip(page.words, quads, strict=True)
        ]
        pages.append(Picture(f"page/{seed}", page.image, regions, FaceRegions.empty(), words))
    face = portrait(256)
    assert face.faces is not None
    write_pictures(root / "words", pages)
    write_pictures(
        root / "faces", [Picture("face", face.image, TextRegions.empty(), face.faces, [])]
    )
    return root


def test_one_command_trains_judges_and_writes_the_page_and_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(data / "words"), str(data / "faces")]
    words = ["--train", *both, "--held-out", *both, "--out", str(tmp_path), "--scale", "dry"]

    assert main([*words, "--seeds", "1", "--minutes", "0"]) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "results.md").exists()
    assert main([*words, "--seeds", "1"]) == 0

    page = (tmp_path / "results.md").read_text()
    assert all(f"({letter})" in page for letter in "abcdef")
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["verdict"]["differences"]) >= {"T-NED", "F-Sim", "PSNR"}
    assert results["trained_against"]["d_seed0"]["text"] > 0
    assert (tmp_path / "samples.png").stat().st_size > 10_000
    capsys.readouterr()
    assert main([*words, "--seeds", "1"]) == 0
    assert capsys.readouterr().err.count("done before") == 9
