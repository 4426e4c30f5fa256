from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

from annotations_schema.codes import FailureCode
from annotations_schema.layout import DatasetLayout, Receipt, output_files, write_receipt
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import Provenance
from annotations_schema.regions import FaceRegions, TextRegions
from curation.demo.gallery import GalleryImage, gallery
from curation.demo.listing import ListRow, image_rows, served_files, trouble_rows, write_list
from curation.demo.outcome import read_outcome
from curation.demo.server import TroubleServer
from curation.demo.troubles import BAD_ROWS, TROUBLES
from curation.plan.plan import PlanConfig, plan


@pytest.fixture(scope="module")
def images() -> tuple[GalleryImage, ...]:
    return gallery(held_out=True, num_posters=3)[-6:]


@pytest.fixture(scope="module")
def server(images: tuple[GalleryImage, ...]) -> Iterator[TroubleServer]:
    with TroubleServer(served_files("/gallery", images)) as server:
        yield server


def test_every_listed_picture_is_served_with_the_listed_hash(
    images: tuple[GalleryImage, ...], server: TroubleServer
) -> None:
    for image, row in zip(images, image_rows("/gallery", images, server), strict=True):
        assert row.url is not None
        with urlopen(row.url, timeout=5) as answer:
            data = answer.read()
            assert answer.headers["Content-Type"] in ("image/jpeg", "image/png")
        assert data == image.data
        assert hashlib.sha256(data).hexdigest() == row.sha256


def test_words_of_posters_are_listed_as_json(
    images: tuple[GalleryImage, ...], server: TroubleServer
) -> None:
    rows = image_rows("/gallery", images, server)
    for image, row in zip(images, rows, strict=True):
        if image.kind != "poster":
            assert row.words is None
            continue
        assert row.words is not None
        listed = [(word["text"], tuple(word["box_xyxy"])) for word in json.loads(row.words)]
        assert listed == [(word.text, word.box_xyxy) for word in image.words]


def test_each_trouble_and_bad_row_is_listed_once_and_one_url_twice(
    images: tuple[GalleryImage, ...], server: TroubleServer
) -> None:
    first = image_rows("/gallery", images, server)[0].url
    assert first is not None

    rows = trouble_rows(server, first)

    assert len(rows) == len(TROUBLES) + len(BAD_ROWS) + 1
    assert [row.url for row in rows].count(first) == 1
    assert {row.code for row in rows} >= {None, FailureCode.URL_DUPLICATE, FailureCode.PIXEL_CAP}


def test_the_planner_gives_bad_rows_the_codes_that_the_list_expects(
    images: tuple[GalleryImage, ...], server: TroubleServer, tmp_path: Path
) -> None:
    rows = image_rows("/gallery", images, server)
    assert rows[0].url is not None
    rows += trouble_rows(server, rows[0].url)
    write_list(tmp_path / "list.parquet", rows)
    layout = DatasetLayout(tmp_path / "dataset")
    config = PlanConfig(caption_column="caption", sha256_column="sha256", license_column="license")

    shards = plan(tmp_path / "list.parquet", layout, config)

    planned = pq.read_table(str(layout.plan(shards[0]))).to_pylist()
    assert len(planned) == len(rows)
    for row, found in zip(rows, planned, strict=True):
        if row.code is not None and row.code.startswith("url_"):
            assert found["failure_code"] == row.code, row.what
        else:
            assert found["failure_code"] is None, row.what
        assert found["input_words"] == row.words
        assert found["caption"] == row.caption


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of three rows: one ok with a text region, one failed, one refused."""
    text = TextRegions.from_quads([[[10, 10], [60, 10], [60, 30], [10, 30]]], [0.9], 200, 100)
    no_face = FaceRegions.empty()
    ok: dict[str, Any] = {
        "status": "ok",
        "text_state": "found",
        "face_state": "none",
        "text_regions": text,
        "face_regions": no_face,
        "sha256": "0" * 64,
        "phash": 7,
        "format": "jpeg",
        "bytes": 1000,
        "exif_orientation": 0,
        "width": 200,
        "height": 100,
        "stored_width": 200,
        "stored_height": 100,
        "shard": "000000",
        "offset": 512,
        "length": 1000,
    }
    failed: dict[str, Any] = {"status": "failed", "stage": "fetch", "failure_code": "http_404"}
    refused: dict[str, Any] = {
        "status": "refused",
        "stage": "fetch",
        "failure_code": "optout_x_robots",
    }
    common = {
        "source_name": "list.parquet",
        "url": "http://example.test/a.jpg",
        "text_state": "not_run",
        "face_state": "not_run",
        "attempts": 1,
        "elapsed_ms": 0,
    }
    rows = [
        {**common, "image_id": f"{i:032x}", "source_row": i, **row}
        for i, row in enumerate((ok, failed, refused))
    ]
    layout = DatasetLayout(tmp_path / "dataset")
    path = layout.annotations("000000")
    write_manifest(path, table_from_rows(rows), Provenance(config_sha256="0" * 64, creator="test"))
    receipt = Receipt(
        stage="annotate",
        shard="000000",
        config_sha256="0" * 64,
        outputs=output_files(layout, [path]),
        rows=len(rows),
    )
    write_receipt(layout, receipt)
    return layout.root


def test_the_outcome_compares_each_listed_row_with_its_manifest_row(dataset: Path) -> None:
    listed = [
        ListRow("a picture", None, "http://example.test/0.jpg"),
        ListRow("a missing page", FailureCode.HTTP_404, "http://example.test/1.jpg"),
        ListRow("a slow page", FailureCode.DEADLINE_EXCEEDED, "http://example.test/2.jpg"),
        ListRow("a row nobody planned", None, "http://example.test/3.jpg"),
    ]

    outcome = read_outcome(dataset, listed)

    assert [(row.expected, row.seen, row.is_as_expected) for row in outcome.rows] == [
        ("ok", "ok", True),
        ("http_404", "http_404", True),
        ("deadline_exceeded", "optout_x_robots", False),
        ("ok", "no row", False),
    ]
    assert {s: n for s, n in outcome.num_by_status.items() if n} == {
        "ok": 1,
        "failed": 1,
        "refused": 1,
    }
    assert (outcome.num_text, outcome.num_images_with_text) == (1, 1)
    assert (outcome.num_faces, outcome.num_images_with_faces) == (0, 0)
