"""The annotate stage over a small dataset built by hand: real photographs, real detectors."""

from __future__ import annotations

import io
import os
import pickle
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from annotations_schema.codes import DropReason, RegionState
from annotations_schema.errors import ManifestError, UsageError, WeightsError
from annotations_schema.images import decode, perceptual_hash
from annotations_schema.layout import (
    DatasetLayout,
    is_done,
    output_files,
    read_receipt,
    write_receipt,
)
from annotations_schema.manifest import (
    canonical_json_lines,
    read_manifest,
    read_provenance,
    write_manifest,
)
from annotations_schema.region_columns import face_regions_at, text_regions_at
from annotations_schema.regions import TextRegions
from annotations_schema.validation import validate
from curation.annotate.config import AnnotateConfig
from curation.annotate.looking import MAX_DROPPED, Look, dropped_regions
from curation.annotate.protocols import Dropped
from curation.annotate.stage import AnnotateStage
from curation.annotate.tally import Tally
from curation.runtime.local import run_local
from curation.runtime.stage import EventKind
from tests.fetched_datasets import SHARD, Bytes, write_fetched, write_pass

FACES_ONLY = AnnotateConfig(text_detector="none")
NOTHING = AnnotateConfig(text_detector="none", face_detector="none")


def opened(layout: DatasetLayout, config: AnnotateConfig) -> AnnotateStage:
    stage = AnnotateStage(layout.root, config)
    stage.open()
    return stage


def turned_jpeg(image: np.ndarray) -> bytes:
    """The photograph stored lying on its side, with the EXIF tag that sets it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    stored.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images(
    photo: Callable[[str], np.ndarray], photo_path: Callable[[str], Path]
) -> dict[str, bytes | None]:
    hopper = photo_path("hopper").read_bytes()
    return {
        "astronaut.png": photo_path("astronaut").read_bytes(),
        "missing.jpg": None,
        "page.png": photo_path("page").read_bytes(),
        "truncated.jpg": hopper[: len(hopper) // 2],
        "turned.jpg": turned_jpeg(photo("astronaut")),
        "coffee.png": photo_path("coffee").read_bytes(),
    }


@pytest.fixture(scope="module")
def layout(images: Bytes, tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    layout = write_fetched(tmp_path_factory.mktemp("dataset"), images)
    stage = opened(layout, AnnotateConfig())
    stage.run(SHARD)
    stage.close()
    return layout


@pytest.fixture(scope="module")
def manifest(layout: DatasetLayout) -> pa.Table:
    return read_manifest(layout.annotations(SHARD))


def column(manifest: pa.Table, name: str) -> dict[str, Any]:
    urls = [url.rpartition("/")[2] for url in manifest.column("url").to_pylist()]
    return dict(zip(urls, manifest.column(name).to_pylist(), strict=True))


def test_every_fetched_row_is_in_the_manifest_and_it_is_valid(
    manifest: pa.Table, images: Bytes
) -> None:
    assert validate(manifest) == []
    assert manifest.column("source_row").to_pylist() == list(range(len(images)))


def test_states_tell_found_from_none_from_not_looked(manifest: pa.Table) -> None:
    faces, text = column(manifest, "face_state"), column(manifest, "text_state")
    assert faces == {
        "astronaut.png": "found",
        "missing.jpg": "not_run",
        "page.png": "none",
        "truncated.jpg": "not_run",
        "turned.jpg": "found",
        "coffee.png": "none",
    }
    assert text["page.png"] == "found"
    assert text["coffee.png"] == "none"
    assert text["missing.jpg"] == text["truncated.jpg"] == "not_run"
    lists = column(manifest, "face_regions")
    assert lists["coffee.png"] == []
    assert lists["truncated.jpg"] is None


def test_regions_are_those_of_the_detectors(
    manifest: pa.Table, layout: DatasetLayout, photo: Callable[[str], np.ndarray]
) -> None:
    faces = face_regions_at(manifest, 0)
    assert faces is not None
    assert faces.is_valid.tolist() == [True]
    text = text_regions_at(manifest, 2)
    assert text is not None
    assert column(manifest, "num_text")["page.png"] == len(text) >= 5
    stage = opened(layout, FACES_ONLY)
    assert stage._loaded is not None
    assert stage._loaded.face is not None
    alone = stage._loaded.face.detect(photo("astronaut"))
    np.testing.assert_array_equal(faces.landmarks_5, alone.landmarks_5)


def test_a_damaged_image_is_a_failed_row_with_its_code(manifest: pa.Table) -> None:
    name = "truncated.jpg"
    assert column(manifest, "status")[name] == "failed"
    assert column(manifest, "stage")[name] == "decode"
    assert column(manifest, "failure_code")[name] == "decode_truncated"
    assert column(manifest, "failure_detail")[name]
    assert column(manifest, "phash")[name] is None


def test_an_exif_turned_image_has_its_regions_in_the_upright_frame(manifest: pa.Table) -> None:
    upright, turned = face_regions_at(manifest, 0), face_regions_at(manifest, 4)
    assert upright is not None
    assert turned is not None
    assert column(manifest, "exif_orientation")["turned.jpg"] == 6
    assert np.abs(upright.landmarks_5 - turned.landmarks_5).max() < 2


def test_facts_are_those_of_the_decoder(manifest: pa.Table, images: Bytes) -> None:
    data = images["turned.jpg"]
    assert data is not None
    image, header = decode(data)
    assert column(manifest, "phash")["turned.jpg"] == perceptual_hash(image)
    for name, value in header._asdict().items():
        assert column(manifest, name)["turned.jpg"] == value


def test_rows_that_are_not_ok_and_user_columns_pass_untouched(
    manifest: pa.Table, layout: DatasetLayout
) -> None:
    fetched = read_manifest(layout.fetch(SHARD))
    assert manifest.slice(1, 1).to_pylist() == fetched.slice(1, 1).to_pylist()
    assert manifest.column("input_taken").equals(fetched.column("input_taken"))
    same = ["image_id", "url", "sha256", "offset", "length", "fetched_at", "source_name"]
    for name in same:
        assert manifest.column(name).to_pylist() == fetched.column(name).to_pylist()


def test_the_footer_names_both_detectors_and_their_weights(layout: DatasetLayout) -> None:
    provenance = read_provenance(layout.annotations(SHARD))
    assert provenance.text_detector is not None
    assert provenance.face_detector is not None
    assert provenance.text_detector.name == "ppocr_v6_small"
    assert provenance.face_detector.name == "retinaface_mnet025"
    assert len(str(provenance.face_detector.weights_sha256)) == 64
    assert provenance.config_sha256 == AnnotateStage(layout.root, AnnotateConfig()).config_sha256
    assert provenance.creator.startswith("open-insighttok ")


def test_the_receipt_counts_rows_regions_and_time(layout: DatasetLayout) -> None:
    receipt = read_receipt(layout, "annotate", SHARD)
    assert receipt is not None
    counts = receipt.counts
    assert receipt.rows == 6
    assert (counts["ok"], counts["failed"]) == (4, 2)
    assert counts["http_404"] == counts["decode_truncated"] == 1
    assert (counts["face_found"], counts["face_none"], counts["face_regions"]) == (2, 2, 2)
    assert counts["text_found"] + counts["text_none"] == 4
    assert counts["reused"] == 0
    spent_ms = counts["decode_ms"] + counts["text_ms"] + counts["face_ms"]
    assert 0 < spent_ms <= 1000 * receipt.elapsed_s
    assert counts["text_ms"] > counts["face_ms"] > 0
    assert set(receipt.outputs) == {f"annotations/{SHARD}.parquet"}
    assert is_done(layout, "annotate", SHARD, receipt.config_sha256)


def test_the_same_shard_twice_gives_the_same_bytes(images: Bytes, tmp_path: Path) -> None:
    few = {name: images[name] for name in ("astronaut.png", "missing.jpg", "truncated.jpg")}
    layout = write_fetched(tmp_path, few)
    stage = opened(layout, FACES_ONLY)
    stage.run(SHARD)
    first = layout.annotations(SHARD).read_bytes()
    leftover = layout.annotations(SHARD).with_name(f".{SHARD}.parquet.0123456789ab.tmp")
    leftover.write_bytes(b"of a killed run")
    stage.run(SHARD)
    assert layout.annotations(SHARD).read_bytes() == first
    assert sorted(path.name for path in layout.annotations(SHARD).parent.iterdir()) == [
        f"{SHARD}.parquet"
    ]


@pytest.mark.parametrize(
    "settings", [{"threads": 3}, {"batch_size": 4}, {"batch_size": 6}], ids=str
)
def test_threads_and_batches_do_not_change_the_manifest(
    images: Bytes, tmp_path: Path, layout: DatasetLayout, settings: dict[str, int]
) -> None:
    """To the last bit: the two portraits have one size and share a batch."""
    other = write_fetched(tmp_path, images)
    receipt = opened(other, replace(AnnotateConfig(), **settings)).run(SHARD)
    assert receipt.counts["face_regions"] == 2
    once, again = (read_manifest(one.annotations(SHARD)) for one in (layout, other))
    assert canonical_json_lines(once) == canonical_json_lines(again)


def test_without_detectors_images_are_still_decoded_and_checked(
    images: Bytes, tmp_path: Path
) -> None:
    layout = write_fetched(tmp_path, images)
    receipt = opened(layout, NOTHING).run(SHARD)
    manifest = read_manifest(layout.annotations(SHARD))
    assert set(column(manifest, "text_state").values()) == {"not_run"}
    assert column(manifest, "phash")["coffee.png"] is not None
    assert receipt.counts["decode_truncated"] == 1
    assert read_provenance(layout.annotations(SHARD)).face_detector is None


def test_an_image_over_the_cap_is_a_failed_row(images: Bytes, tmp_path: Path) -> None:
    layout = write_fetched(tmp_path, {"a.png": images["astronaut.png"]})
    receipt = opened(layout, replace(NOTHING, max_side_px=500)).run(SHARD)
    assert receipt.counts["pixel_cap"] == receipt.counts["failed"] == 1


def test_a_detector_that_fails_leaves_the_row_ok_and_is_counted(
    images: Bytes, red_cell_detector: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """insightface cannot resize a strip of 2 x 8,000 px into its square: cv2.error."""
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 2)).save(buffer, "PNG")
    layout = write_fetched(
        tmp_path, {"strip.png": buffer.getvalue(), "page.png": images["page.png"]}
    )
    config = AnnotateConfig(
        text_detector="none",
        face_detector="insightface_onnx",
        face_weights=str(red_cell_detector),
    )
    receipt = opened(layout, config).run(SHARD)
    manifest = read_manifest(layout.annotations(SHARD))
    assert validate(manifest) == []
    assert column(manifest, "status") == {"strip.png": "ok", "page.png": "ok"}
    assert column(manifest, "face_state") == {"strip.png": "failed", "page.png": "none"}
    assert column(manifest, "face_regions") == {"strip.png": None, "page.png": []}
    assert (receipt.counts["ok"], receipt.counts["face_failed"]) == (2, 1)
    assert "insightface_onnx failed on 8000 x 2" in caplog.text


def test_other_bytes_in_the_tar_are_corruption_and_nothing_is_published(
    images: Bytes, tmp_path: Path
) -> None:
    layout = write_fetched(tmp_path, {"page.png": images["page.png"], "a": images["coffee.png"]})
    tar = bytearray(layout.images(SHARD).read_bytes())
    offset = read_manifest(layout.fetch(SHARD)).column("offset")[1].as_py()
    tar[offset + 100] ^= 1
    layout.images(SHARD).write_bytes(tar)
    with pytest.raises(ManifestError, match=r"shard 000000, row 1 \(.*sha256.*fetch the shard"):
        opened(layout, NOTHING).run(SHARD)
    assert not layout.annotations(SHARD).exists()
    assert read_receipt(layout, "annotate", SHARD) is None


def test_an_absent_tar_is_named(images: Bytes, tmp_path: Path) -> None:
    layout = write_fetched(tmp_path, {"page.png": images["page.png"]})
    layout.images(SHARD).unlink()
    with pytest.raises(ManifestError, match=r"row 0 .* cannot be read .*fetch the shard again"):
        opened(layout, NOTHING).run(SHARD)


def test_a_shard_that_is_not_fetched_is_refused(images: Bytes, tmp_path: Path) -> None:
    layout = write_fetched(tmp_path, {"page.png": images["page.png"]})
    stage = opened(layout, NOTHING)
    with pytest.raises(UsageError, match=r"shard '000001' of .* has no fetch receipt"):
        stage.run("000001")
    receipt = read_receipt(layout, "fetch", SHARD)
    assert receipt is not None
    write_receipt(layout, replace(receipt, set_aside="3 attempts"))
    with pytest.raises(UsageError, match="was set aside by fetch"):
        stage.run(SHARD)


def test_run_needs_open(images: Bytes, tmp_path: Path) -> None:
    layout = write_fetched(tmp_path, {"page.png": images["page.png"]})
    with pytest.raises(UsageError, match=r"before open\(\)"):
        AnnotateStage(layout.root, NOTHING).run(SHARD)


def test_a_stage_travels_to_its_worker_before_it_is_opened(images: Bytes, tmp_path: Path) -> None:
    layout = write_fetched(tmp_path, {"a.png": images["astronaut.png"]})
    stage = AnnotateStage(layout.root, FACES_ONLY)
    arrived = pickle.loads(pickle.dumps(stage))
    arrived.open()
    assert arrived.run(SHARD).counts["face_regions"] == 1
    assert arrived.config_sha256 == stage.config_sha256


def test_wrong_weights_are_told_when_the_stage_opens(tmp_path: Path) -> None:
    weights = tmp_path / "other.onnx"
    weights.write_bytes(b"other")
    config = replace(FACES_ONLY, face_weights=str(weights))
    with pytest.raises(WeightsError, match="sha256"):
        opened(DatasetLayout(tmp_path), config)


def test_the_receipt_names_what_was_read_when_and_by_whom(layout: DatasetLayout) -> None:
    receipt, fetch = (read_receipt(layout, stage, SHARD) for stage in ("annotate", "fetch"))
    assert receipt is not None
    assert fetch is not None
    assert receipt.inputs == {SHARD: fetch.outputs[f"fetch/{SHARD}.parquet"].sha256}
    assert 0 < time.time() - receipt.started_at < 3600
    assert receipt.worker == f"{socket.gethostname()}:{os.getpid()}"


def refetched(images: Bytes, root: Path) -> DatasetLayout:
    """Annotated, then two rows fetched again: one came at last, one has other bytes."""
    layout = write_fetched(root, images)
    opened(layout, FACES_ONLY).run(SHARD)
    names = list(images)
    new = {"missing.jpg": images["astronaut.png"], "coffee.png": images["page.png"]}
    write_pass(layout, f"{SHARD}.1", new, {name: names.index(name) for name in new})
    return layout


def test_after_a_further_pass_only_its_images_meet_a_detector(
    images: Bytes, tmp_path: Path
) -> None:
    layout = refetched(images, tmp_path / "twice")
    receipt = opened(layout, FACES_ONLY).run(SHARD)
    # Reused: three images, and the damaged one, which is not decoded again.
    assert (receipt.counts["reused"], receipt.counts["ok"]) == (4, 5)
    assert set(receipt.inputs) == {SHARD, f"{SHARD}.1"}
    taken_over = read_manifest(layout.annotations(SHARD))
    assert column(taken_over, "num_faces")["missing.jpg"] == 1
    assert column(taken_over, "shard")["missing.jpg"] == f"{SHARD}.1"
    layout.annotations(SHARD).unlink()
    afresh = opened(layout, FACES_ONLY).run(SHARD)
    assert afresh.counts["reused"] == 0
    assert read_manifest(layout.annotations(SHARD)).equals(taken_over)


def test_a_runner_leaves_what_the_stage_takes_over(images: Bytes, tmp_path: Path) -> None:
    layout = refetched(images, tmp_path)
    stage = AnnotateStage(layout.root, FACES_ONLY)
    kinds = [event.kind for event in run_local([stage], [SHARD], layout)]
    assert kinds == [EventKind.STARTED, EventKind.DONE]
    receipt = read_receipt(layout, "annotate", SHARD)
    assert receipt is not None
    assert receipt.counts["reused"] == 4
    again = AnnotateStage(layout.root, FACES_ONLY)
    assert [event.kind for event in run_local([again], [SHARD], layout)] == [EventKind.SKIPPED]


def test_a_manifest_that_its_receipt_does_not_vouch_for_is_not_reused(
    images: Bytes, tmp_path: Path
) -> None:
    layout = refetched(images, tmp_path)
    data = bytearray(layout.annotations(SHARD).read_bytes())
    data[100] ^= 1
    layout.annotations(SHARD).write_bytes(data)
    assert opened(layout, FACES_ONLY).run(SHARD).counts["reused"] == 0


def test_another_configuration_reuses_nothing(images: Bytes, tmp_path: Path) -> None:
    layout = refetched(images, tmp_path)
    assert opened(layout, NOTHING).run(SHARD).counts["reused"] == 0


def test_regions_of_a_library_of_another_version_are_not_reused(
    images: Bytes, tmp_path: Path
) -> None:
    layout = refetched(images, tmp_path)
    path = layout.annotations(SHARD)
    now = read_provenance(path)
    assert now.face_detector is not None
    before = replace(now, face_detector=replace(now.face_detector, library_version="0.0.1"))
    write_manifest(path, read_manifest(path), before)
    receipt = read_receipt(layout, "annotate", SHARD)
    assert receipt is not None
    write_receipt(layout, replace(receipt, outputs=output_files(layout, [path])))
    assert opened(layout, FACES_ONLY).run(SHARD).counts["reused"] == 0
    assert read_provenance(path) == now


def test_what_the_rules_leave_out_stands_in_the_row(images: Bytes, tmp_path: Path) -> None:
    layout = write_fetched(tmp_path, {name: images[name] for name in ("page.png", "turned.jpg")})
    loose = opened(layout, AnnotateConfig())
    loose.run(SHARD)
    before = read_manifest(layout.annotations(SHARD))
    strict = replace(AnnotateConfig(), text_score_min=0.9, face_side_min_px=400.0)
    receipt = opened(layout, strict).run(SHARD)
    after = read_manifest(layout.annotations(SHARD))
    assert validate(after) == []
    dropped = column(after, "dropped_regions")
    assert [one["reason"] for one in dropped["turned.jpg"] if one["kind"] == "face"] == [
        "side_below_min"
    ]
    weak = [one for one in dropped["page.png"] if one["kind"] == "text"]
    assert weak
    assert all(one["score"] < np.float32(0.9) for one in weak)
    found = column(before, "text_regions")["page.png"]
    kept = column(after, "text_regions")["page.png"]
    # Every region of the looser run is kept or told; the rest are the detector's candidates.
    boxes = [one["box_xyxy"] for one in [*kept, *weak]]
    assert all(one["box_xyxy"] in boxes for one in found)
    assert receipt.counts["face_side_below_min"] == 1
    assert receipt.counts["text_score_below_min"] >= len(weak)


def test_dropped_regions_are_at_most_a_hundred_of_a_kind_and_all_are_counted() -> None:
    dropped = tuple(
        Dropped((0.0, 0.0, 1.0, 1.0), 0.5, DropReason.SCORE_BELOW_MIN) for _ in range(150)
    )
    tally = Tally()
    looks = {
        "text": Look(RegionState.NONE, TextRegions.empty(), dropped),
        "face": Look(RegionState.FAILED, None, ()),
    }
    rows = dropped_regions(looks, tally)
    assert rows is not None
    assert len(rows) == MAX_DROPPED == 100
    assert tally.counts["text_score_below_min"] == 150


def test_a_detector_that_breaks_on_one_image_of_a_batch_finds_in_the_others(
    images: Bytes, red_cell_detector: Path, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 2)).save(buffer, "PNG")
    layout = write_fetched(tmp_path, {"strip.png": buffer.getvalue(), "a": images["page.png"]})
    config = AnnotateConfig(
        text_detector="none",
        face_detector="insightface_onnx",
        face_weights=str(red_cell_detector),
        batch_size=2,
    )
    opened(layout, config).run(SHARD)
    states = column(read_manifest(layout.annotations(SHARD)), "face_state")
    assert states == {"strip.png": "failed", "a": "none"}
