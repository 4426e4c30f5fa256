"""The whole road in small, by the commands a user types: URL list to judged reconstructions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotations_schema import DatasetLayout, read_manifest, read_provenance
from annotations_schema.layout import sha256_file
from curation.demo.gallery import GalleryImage, gallery
from curation.demo.server import ServedFile, TroubleServer

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FEW_STEPS = (
    "phases.*.steps=3",
    "data.stream.batch_size=2",
    "log.metrics_every=1",
    "machine.threads=1",
)


class Road(NamedTuple):
    folder: Path
    seen: list[str]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `insight-curate ...` or `insight-train ...` in a process of its own."""
    script = Path(sys.executable).with_name(str(words[0]))
    return subprocess.run(
        [str(script), *map(str, words[1:])], capture_output=True, text=True, check=False
    )


def must(*words: object) -> subprocess.CompletedProcess[str]:
    done = command(*words)
    assert done.returncode == 0, done.stderr
    return done


def few_images() -> list[GalleryImage]:
    """Two photos with a face, one with neither text nor face, two posters."""
    images = gallery(held_out=False, num_posters=2, seed=5)
    photos = [image for image in images if "variant" not in image.name]
    faces = [image for image in photos if image.kind == "face"]
    return [*faces[:2], next(i for i in photos if i.kind == "neither"), *images[-2:]]


def as_json(image: GalleryImage) -> str | None:
    words = [{"text": word.text, "box_xyxy": list(word.box_xyxy)} for word in image.words]
    return json.dumps(words) if words else None


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Road:
    folder = tmp_path_factory.mktemp("road")
    images = few_images()
    files = {f"/{image.name}": ServedFile(image.data) for image in images}
    with TroubleServer(files) as server:
        urls = [*(server.url(path) for path in files), server.url("/nothing-here.jpg")]
        words = [*(as_json(image) for image in images), None]
        pq.write_table(pa.table({"url": urls, "words": words}), folder / "urls.parquet")
        run = ("insight-curate", "run", folder / "urls.parquet", "--out", folder / "dataset")
        options = ("--runner", "ray", "--workers", 1, "--allow-private-network", "--shard-size", 3)
        must(*run, *options)
        must(*run, *options)
        seen = [one.path for one in server.seen if one.path != "/robots.txt"]
    for recipe in ("tiny", "tiny_regions"):
        training = ("insight-train", "tokenizer", "--recipe", recipe, "--data", folder / "dataset")
        overrides = [word for setting in FEW_STEPS for word in ("--set", setting)]
        must(*training, "--out", folder / recipe, *overrides)
    return Road(folder, seen)


def test_every_url_is_one_row_and_nothing_is_fetched_twice(road):
    layout = DatasetLayout(road.folder / "dataset")
    rows = pa.concat_tables([read_manifest(path) for path in layout.manifests()])
    assert rows.column("status").to_pylist() == ["ok"] * 5 + ["failed"]
    assert rows.column("failure_code").to_pylist()[-1] == "http_404"
    assert len(road.seen) == len(set(road.seen)) == 6
    num_faces = rows.column("num_faces").to_pylist()
    assert min(num_faces[:2]) >= 1
    assert num_faces[2] == 0
    assert min(rows.column("num_text").to_pylist()[3:5]) >= 1
    record = read_provenance(layout.manifests()[0]).text_detector
    assert record is not None
    assert record.weights_sha256


def test_the_dataset_verifies_and_reports(road):
    verified = must("insight-curate", "verify", road.folder / "dataset", "--json")
    assert json.loads(verified.stdout)
    page = road.folder / "report.html"
    must("insight-curate", "report", road.folder / "dataset", "--out", page)
    html = page.read_text()
    assert "http_404" in html
    assert "data:image/jpeg;base64," in html
    tar = DatasetLayout(road.folder / "dataset").images("000000")
    before = tar.read_bytes()
    tar.write_bytes(before[:2000] + bytes([before[2000] ^ 1]) + before[2001:])
    try:
        damaged = command("insight-curate", "verify", road.folder / "dataset")
        assert damaged.returncode == 1
        assert "000000" in damaged.stderr
    finally:
        tar.write_bytes(before)


def test_both_trainings_saw_the_same_images_and_only_one_paid_for_regions(road):
    lines = {
        recipe: [
            json.loads(line)
            for line in (road.folder / recipe / "metrics.jsonl").read_text().splitlines()
        ]
        for recipe in ("tiny", "tiny_regions")
    }
    steps = {recipe: [x for x in found if "reconstruction" in x] for recipe, found in lines.items()}
    first = [steps[recipe][0]["reconstruction"] for recipe in steps]
    assert first[0] == first[1]
    assert all(line["text"] == line["face"] == 0 for line in steps["tiny"])
    assert any(line["text"] + line["face"] > 0 for line in steps["tiny_regions"])


def test_the_checkpoints_are_judged_and_reconstruct(road):
    checkpoints = [road.folder / recipe / "checkpoint.pt" for recipe in ("tiny", "tiny_regions")]
    out = road.folder / "evaluation"
    evaluate = ("insight-train", "evaluate", checkpoints[1], "--data", road.folder / "dataset")
    must(*evaluate, "--out", out)
    result = (out / "result.json").read_text()
    for name in ("PSNR", "SSIM", "T-ACC", "T-NED", "F-Sim", "resize only", "easyocr_english_g2"):
        assert name in result
    pictures = road.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    Image.new("RGB", (90, 70), "teal").save(pictures / "teal.png")
    must(
        "insight-train",
        "reconstruct",
        checkpoints[1],
        pictures / "teal.png",
        "--out",
        road.folder / "reconstructed",
    )
    (made,) = (p for p in (road.folder / "reconstructed").rglob("teal.png"))
    with Image.open(made) as reconstruction:
        assert reconstruction.size == (90, 70)
    assert sha256_file(made) != sha256_file(pictures / "teal.png")
