"""The report of 100,000 rows: small, quick, and shown by a real browser as it is meant."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from PIL import Image

from annotations_schema.codes import FailureCode, RegionState, Stage, Status
from annotations_schema.columns import MANIFEST_SCHEMA
from annotations_schema.images import decode, perceptual_hash
from annotations_schema.layout import DatasetLayout, Receipt, output_files, write_receipt
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import Provenance
from annotations_schema.regions import FaceRegions, TextRegions
from curation.annotate.config import AnnotateConfig
from curation.config import CurateConfig
from curation.passes.fetched import fetch_inputs
from curation.plan.plan import PlanConfig
from curation.report.report import ReportConfig, Written, write_report
from curation.run import plan_dataset

NUM_ROWS = 100_000
SHARD_SIZE = 1000
NUM_HOSTS = 7_000
MAX_PAGE_BYTES = 15_000_000
MAGENTA = (230, 0, 200)
CODES = (FailureCode.HTTP_404, FailureCode.HTTP_503, FailureCode.DNS_NOT_FOUND)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """A dataset of 100,000 rows in 100 shards: 60 % magenta photos with noise, 40 % failures."""
    folder = tmp_path_factory.mktemp("big")
    urls = [f"http://host{n % NUM_HOSTS}.example/{n}.jpg" for n in range(NUM_ROWS)]
    pa_csv.write_csv(pa.table({"url": urls}), folder / "list.csv")
    layout = DatasetLayout(folder / "dataset")
    config = plan_dataset(
        folder / "list.csv",
        layout,
        CurateConfig(
            plan=PlanConfig(shard_size=SHARD_SIZE),
            annotate=AnnotateConfig(text_detector="none", face_detector="none"),
        ),
    )
    picture = _noisy_magenta()
    template = table_from_rows([_row(number, picture) for number in range(SHARD_SIZE)])
    counts = Counter(str(status) for status in template.column("status").to_pylist())
    for number, shard in enumerate(layout.shards_planned()):
        offsets = _write_tar(layout.images(shard), picture)
        table = _moved(template, urls[number * SHARD_SIZE :][:SHARD_SIZE], number, shard, offsets)
        path = layout.annotations(shard)
        write_manifest(path, table, Provenance(config_sha256="c" * 64, creator="a test"))
        write_manifest(layout.fetch(shard), table, Provenance(config_sha256="c" * 64, creator="t"))
        of_fetch = [layout.images(shard), layout.fetch(shard)]
        for stage, outputs in (("fetch", of_fetch), ("annotate", [path])):
            write_receipt(
                layout,
                Receipt(
                    stage=stage,
                    shard=shard,
                    config_sha256=config.stages[stage],
                    outputs=output_files(layout, outputs),
                    rows=SHARD_SIZE,
                    inputs={} if stage == "fetch" else fetch_inputs(layout, shard),
                    counts=dict(counts),
                    started_at=1.7e9 + 30 * number + (20 if stage == "annotate" else 0),
                    elapsed_s=40.0,
                    worker=f"{stage}-{number % 4}:1",
                ),
            )
    return layout


@pytest.fixture(scope="module")
def page(big: DatasetLayout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, float]:
    """The page, and how long it took, seconds."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    started = time.monotonic()
    written = write_report(big, out, ReportConfig())
    return written, time.monotonic() - started


@pytest.mark.slow
def test_the_page_of_100_000_rows_is_one_file_under_15_megabytes(
    page: tuple[Written, float],
) -> None:
    written, elapsed_s = page
    assert written.rows == NUM_ROWS
    assert written.num_images == 48
    assert written.num_bytes < MAX_PAGE_BYTES
    assert elapsed_s < 60
    html = Path(written.path).read_text(encoding="utf-8")
    assert "of 7,000." in html  # hosts: the worst are listed, all are counted
    assert "60 %" in html


@pytest.mark.slow
def test_a_sheet_of_many_images_stays_under_15_megabytes(
    big: DatasetLayout, tmp_path: Path
) -> None:
    written = write_report(big, tmp_path / "report.html", ReportConfig(num_images=600))
    assert written.num_bytes < MAX_PAGE_BYTES
    assert 48 < written.num_images < 600
    assert "to keep the page small" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_shows_the_page_without_complaint(
    page: tuple[Written, float], tmp_path: Path
) -> None:
    dom, complaints = _browse(Path(page[0].path), tmp_path)
    assert complaints == []
    assert dom.count('<article class="tile') == 48
    for section in ("outcome", "sources", "timeline", "regions", "sheet", "failed", "provenance"):
        assert f'<section id="{section}"' in dom


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_paints_pictures_and_boxes(
    page: tuple[Written, float], tmp_path: Path, width: int
) -> None:
    shot = _screenshot(Path(page[0].path), tmp_path, width, height=6000)
    distance = np.abs(shot.astype(int) - MAGENTA).max(axis=2)
    magenta = distance < 80
    assert magenta.mean() > 0.05  # the contact sheet's pictures
    # The quad is drawn in the report's blue over the picture: blue with magenta around it.
    blue = np.abs(shot.astype(int) - (0x1F, 0x7A, 0xE0)).max(axis=2) < 40
    rows, columns = np.nonzero(magenta)
    inside = blue[rows.min() : rows.max(), columns.min() : columns.max()]
    assert inside.sum() > 50


def _noisy_magenta() -> bytes:
    noise = np.random.default_rng(0).integers(-25, 25, (360, 480, 3))
    pixels = np.clip(np.array(MAGENTA) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _row(number: int, picture: bytes) -> dict[str, Any]:
    states = {"text_state": RegionState.NOT_RUN, "face_state": RegionState.NOT_RUN}
    row: dict[str, Any] = {
        **{"image_id": f"{number:032x}", "source_row": number, "source_name": "list.csv"},
        **{"attempts": 1, "elapsed_ms": 20 + number, "status": Status.OK, **states},
    }
    if number % 5 >= 3:
        code = CODES[number % len(CODES)]
        verdict = {"status": code.status, "stage": Stage.FETCH, "failure_code": code}
        return {**row, **verdict, "failure_detail": "as the test says " * 4}
    image, header = decode(picture)
    height, width = image.shape[:2]
    quads = [[[40, 40], [400, 40], [400, 120], [40, 120]]] * (1 + number % 3)
    text = TextRegions.from_quads(quads, [0.9] * len(quads), width, height)
    return {
        **row,
        **header._asdict(),
        **{"sha256": "a" * 64, "sha256_received": "a" * 64, "phash": perceptual_hash(image)},
        **{"received_width": width, "received_height": height},
        **{"bytes": len(picture), "shard": "000000", "offset": 512, "length": len(picture)},
        **{"text_state": RegionState.FOUND, "text_regions": text},
        **{"face_state": RegionState.NONE, "face_regions": FaceRegions.empty()},
    }


def _moved(template: pa.Table, urls: list[str], number: int, shard: str, offset: int) -> pa.Table:
    """The template's rows as those of another shard."""
    ids = [f"{number * SHARD_SIZE + i:032x}" for i in range(SHARD_SIZE)]
    is_ok = [status == Status.OK for status in template.column("status").to_pylist()]
    columns = {
        "image_id": ids,
        "source_row": [number * SHARD_SIZE + i for i in range(SHARD_SIZE)],
        "url": urls,
        "shard": [shard if ok else None for ok in is_ok],
        "offset": [offset if ok else None for ok in is_ok],
    }
    for name, values in columns.items():
        index = MANIFEST_SCHEMA.get_field_index(name)
        field = MANIFEST_SCHEMA.field(name)
        template = template.set_column(index, field, pa.array(values, field.type))
    return template


def _write_tar(path: Path, picture: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("picture.jpg")
        member.size = len(picture)
        tar.addfile(member, io.BytesIO(picture))
    return tarfile.BLOCKSIZE


def _chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    assert found, "no Chromium on PATH: install Debian's package chromium, or run without browser"
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
    alone = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
    profile = f"--user-data-dir={folder / 'profile'}"
    return subprocess.run(
        [found[0], *alone, *quiet, profile, *arguments],
        capture_output=True,
        timeout=120,
        check=True,
    )


def _browse(path: Path, folder: Path) -> tuple[str, list[str]]:
    """The page's elements once it is loaded, and what the browser's console holds."""
    done = _chromium(folder, "--enable-logging=stderr", "--dump-dom", path.as_uri())
    log = done.stderr.decode(errors="replace").splitlines()
    return done.stdout.decode(), [line for line in log if "CONSOLE" in line]


def _screenshot(path: Path, folder: Path, width: int, height: int) -> np.ndarray:
    out = folder / "shot.png"
    _chromium(folder, f"--screenshot={out}", f"--window-size={width},{height}", path.as_uri())
    with Image.open(out) as image:
        return np.array(image.convert("RGB"))
