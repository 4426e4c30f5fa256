from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.codes import FailureCode
from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits, probe
from annotations_schema.layout import DatasetLayout, is_done, read_receipt, sha256_file
from annotations_schema.manifest import canonical_json_lines, read_manifest, read_provenance
from annotations_schema.validation import validate
from curation.demo.pictures import plain_jpeg
from curation.demo.server import ServedFile, TroubleServer
from curation.demo.troubles import BAD_ROWS, TROUBLES
from curation.fetch import passthrough
from curation.fetch.config import FetchConfig
from curation.fetch.stage import DownloaderError, FetchStage, import_downloader
from curation.plan.plan import PlanConfig, plan

SHARD = "000000"
PICTURES = {f"/p/{i}.jpg": ServedFile(plain_jpeg(64 + i, 48)) for i in range(12)}
# Met by both runs that are compared; those that only time ends would make the test slow.
QUICK = [trouble for trouble in TROUBLES if trouble.code is not FailureCode.DEADLINE_EXCEEDED]


@pytest.fixture(scope="module")
def gallery() -> Iterator[TroubleServer]:
    with TroubleServer(PICTURES, slow_s=20, huge_bytes=2**22) as running:
        yield running


@contextmanager
def opened(root: Path, config: FetchConfig) -> Iterator[FetchStage]:
    stage = FetchStage(root, config)
    stage.open()
    try:
        yield stage
    finally:
        stage.close()


def planned(folder: Path, urls: Sequence[str | None], **columns: Any) -> DatasetLayout:
    source = folder / "list.parquet"
    pq.write_table(pa.table({"url": pa.array(urls, pa.string()), **columns}), str(source))
    layout = DatasetLayout(folder / "dataset")
    sha256_column = "sha256" if "sha256" in columns else None
    plan(source, layout, PlanConfig(sha256_column=sha256_column))
    return layout


def fetched(layout: DatasetLayout, config: FetchConfig) -> list[dict[str, Any]]:
    with opened(layout.root, config) as stage:
        stage.run(SHARD)
    rows: list[dict[str, Any]] = read_manifest(layout.fetch(SHARD)).to_pylist()
    return rows


def test_every_trouble_and_every_bad_row_ends_in_one_row(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    urls = [gallery.trouble_url(trouble) for trouble in TROUBLES]
    duplicate = gallery.trouble_url(TROUBLES[0]) + "#again"
    layout = planned(tmp_path, [*urls, *(bad.url for bad in BAD_ROWS), duplicate])
    rows = fetched(layout, replace(config, deadline_s=2.5, respect_robots_txt=True))
    expected = [
        *((None if t.needs_decoding else t.code, t.attempts) for t in TROUBLES),
        *((bad.code, 0) for bad in BAD_ROWS),
        (FailureCode.URL_DUPLICATE, 0),
    ]
    assert [(row["failure_code"], row["attempts"]) for row in rows] == expected
    assert [row["source_row"] for row in rows] == list(range(len(expected)))
    assert all(
        row["status"] == (code.status if code else "ok")
        for row, (code, _) in zip(rows, expected, strict=True)
    )
    assert validate(read_manifest(layout.fetch(SHARD))) == []


def test_addresses_lead_to_the_original_bytes(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url(path) for path in PICTURES])
    rows = fetched(layout, config)
    stored = layout.images(SHARD).read_bytes()
    for row, file in zip(rows, PICTURES.values(), strict=True):
        assert stored[row["offset"] : row["offset"] + row["length"]] == file.data
        assert row["sha256"] == hashlib.sha256(file.data).hexdigest()
        assert (row["shard"], row["bytes"]) == (SHARD, len(file.data))
        assert (row["format"], row["width"], row["height"]) == ("jpeg", *_size(file.data))
        assert (row["text_state"], row["face_state"]) == ("not_run", "not_run")
        assert row["text_regions"] is None
        assert row["http_status"] == 200
        assert row["fetched_at"] is not None


def _size(jpeg: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        return image.size


def test_the_tar_is_in_the_order_of_the_list_and_free_of_time_and_user(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url(path) for path in PICTURES])
    rows = fetched(layout, config)
    with tarfile.open(layout.images(SHARD)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [f"{row['image_id']}.jpg" for row in rows]
    assert [member.offset_data for member in members] == [row["offset"] for row in rows]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, 0, "", "", 0o644)
    }


def test_exif_orientation_turns_the_frame(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url("/trouble/exif-rotated.jpg")])
    row = fetched(layout, config)[0]
    assert row["exif_orientation"] == 6
    assert (row["width"], row["height"]) == (160, 120)
    assert (row["stored_width"], row["stored_height"]) == (120, 160)
    assert (row["received_width"], row["received_height"]) == (160, 120)


def test_two_runs_with_other_threads_give_the_same_bytes_and_rows(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    paths = [trouble.path for trouble in QUICK] + list(PICTURES)
    urls = [gallery.url(path) for path in paths]
    results = []
    for threads in (1, 16):
        folder = tmp_path / str(threads)
        folder.mkdir()
        layout = planned(folder, urls)
        fetched(layout, replace(config, threads=threads))
        rows = canonical_json_lines(read_manifest(layout.fetch(SHARD)))
        results.append((layout.images(SHARD).read_bytes(), rows))
    assert results[0] == results[1]


def test_downloads_end_in_another_order_than_the_tar_is_in(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    # The flaky row comes first and ends last.
    urls = [gallery.url("/trouble/flaky.jpg"), *(gallery.url(path) for path in PICTURES)]
    layout = planned(tmp_path, urls)
    rows = fetched(layout, replace(config, backoff_s=0.2))
    assert rows[0]["fetched_at"] > max(row["fetched_at"] for row in rows[1:])
    offsets = [row["offset"] for row in rows]
    assert offsets == sorted(offsets)


def test_receipt_matches_what_was_written(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [*(gallery.url(path) for path in list(PICTURES)[:3]), None, "x"])
    with opened(layout.root, config) as stage:
        receipt = stage.run(SHARD)
        assert is_done(layout, "fetch", SHARD, stage.config_sha256)
    assert receipt == read_receipt(layout, "fetch", SHARD)
    assert receipt.rows == 5
    assert receipt.worker == f"{socket.gethostname()}:{os.getpid()}"
    assert 0 <= time.time() - receipt.started_at < 60
    assert receipt.counts == {"ok": 3, "failed": 2, "url_missing": 1, "url_relative": 1}
    assert set(receipt.outputs) == {"images/000000.tar", "fetch/000000.parquet"}
    assert receipt.outputs["images/000000.tar"].sha256 == sha256_file(layout.images(SHARD))
    provenance = read_provenance(layout.fetch(SHARD))
    assert provenance.config_sha256 == receipt.config_sha256
    assert provenance.text_detector is None


def test_running_again_gives_the_same_files(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url(path) for path in PICTURES])
    with opened(layout.root, config) as stage:
        stage.run(SHARD)
        first = sha256_file(layout.images(SHARD))
        rows = canonical_json_lines(read_manifest(layout.fetch(SHARD)))
        stage.run(SHARD)
    assert sha256_file(layout.images(SHARD)) == first
    assert canonical_json_lines(read_manifest(layout.fetch(SHARD))) == rows


@pytest.mark.parametrize(
    ("policy", "is_kept", "flags"),
    [("drop", False, None), ("flag", True, ["sha256_mismatch"]), ("keep", True, None)],
)
def test_both_hashes_stay_on_a_mismatch(
    tmp_path: Path,
    gallery: TroubleServer,
    config: FetchConfig,
    policy: Any,
    is_kept: bool,
    flags: list[str] | None,
) -> None:
    path, file = next(iter(PICTURES.items()))
    found, wrong = hashlib.sha256(file.data).hexdigest(), "0" * 64
    urls = [gallery.url(path), gallery.url("/p/1.jpg")]
    expected = [wrong, hashlib.sha256(PICTURES["/p/1.jpg"].data).hexdigest()]
    layout = planned(tmp_path, urls, sha256=expected)
    row, matching = fetched(layout, replace(config, hash_policy=policy))
    assert (row["sha256"], row["sha256_received"], row["sha256_expected"]) == (found, found, wrong)
    assert row["flags"] == flags
    assert (matching["status"], matching["flags"]) == ("ok", None)
    assert matching["sha256_received"] == matching["sha256_expected"]
    with tarfile.open(layout.images(SHARD)) as tar:
        assert len(tar.getnames()) == 1 + is_kept
    if is_kept:
        assert (row["status"], row["failure_code"]) == ("ok", None)
        assert row["offset"] is not None
    else:
        assert (row["status"], row["stage"]) == ("filtered", "fetch")
        assert row["failure_code"] == "sha256_mismatch"
        assert (row["shard"], row["offset"], row["length"]) == (None, None, None)


def test_bytes_that_are_no_image_leave_their_hash(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url("/trouble/html.jpg"), gallery.url("/none.jpg")])
    page, missing = fetched(layout, config)
    assert page["failure_code"] == "not_an_image"
    with urllib.request.urlopen(gallery.url("/trouble/html.jpg")) as response:
        assert page["sha256_received"] == hashlib.sha256(response.read()).hexdigest()
    assert page["sha256"] is None
    assert missing["sha256_received"] is None


def test_the_rule_that_refused_a_row_is_kept(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    (trouble,) = (one for one in TROUBLES if one.name == "optout_noai")
    layout = planned(tmp_path, [gallery.trouble_url(trouble), gallery.url("/p/1.jpg")])
    refused, ok = fetched(layout, config)
    assert "noai" in refused["optout_rule"]
    assert ok["optout_rule"] is None


def test_a_cap_of_the_side_stores_frames_and_keeps_what_came(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    paths = ["/p/11.jpg", "/p/1.jpg", "/trouble/exif-rotated.jpg"]
    layout = planned(tmp_path, [gallery.url(path) for path in paths])
    large, small, turned = fetched(layout, replace(config, max_side=70))
    data = PICTURES["/p/11.jpg"].data
    tar = layout.images(SHARD).read_bytes()
    stored = tar[large["offset"] : large["offset"] + large["length"]]
    assert (large["width"], large["height"]) == (70, 45)
    assert (large["received_width"], large["received_height"]) == (75, 48)
    assert large["sha256_received"] == hashlib.sha256(data).hexdigest()
    assert large["sha256"] == hashlib.sha256(stored).hexdigest() != large["sha256_received"]
    assert (large["format"], large["bytes"], large["exif_orientation"]) == ("jpeg", len(stored), 0)
    assert probe(stored).width == 70
    assert (small["width"], small["sha256"]) == (65, small["sha256_received"])
    assert (turned["width"], turned["height"], turned["exif_orientation"]) == (70, 52, 0)
    assert (turned["received_width"], turned["received_height"]) == (160, 120)
    with tarfile.open(layout.images(SHARD)) as archive:
        assert archive.getnames() == [f"{row['image_id']}.jpg" for row in (large, small, turned)]
    assert validate(read_manifest(layout.fetch(SHARD))) == []


def test_the_expected_hash_is_that_of_the_bytes_before_they_are_encoded_again(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    expected = hashlib.sha256(PICTURES["/p/11.jpg"].data).hexdigest()
    layout = planned(tmp_path, [gallery.url("/p/11.jpg")], sha256=[expected])
    (row,) = fetched(layout, replace(config, max_side=32))
    assert (row["status"], row["sha256_received"]) == ("ok", expected)
    assert row["sha256"] != expected


def test_a_row_that_img2dataset_loses_becomes_a_failed_row(
    tmp_path: Path,
    gallery: TroubleServer,
    config: FetchConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # An exception in img2dataset's sample loop drops the row there: it is printed, no more.
    unlucky = PICTURES["/p/3.jpg"].data

    def failing_probe(data: bytes, limits: DecodeLimits) -> Any:
        if data == unlucky:
            raise RuntimeError("a defect in a decoder")
        return probe(data, limits)

    monkeypatch.setattr(passthrough, "probe", failing_probe)
    layout = planned(tmp_path, [gallery.url(path) for path in PICTURES])
    rows = fetched(layout, config)
    lost = [row for row in rows if row["failure_code"] is not None]
    assert [(row["source_row"], row["failure_code"]) for row in lost] == [(3, "row_lost")]
    assert (lost[0]["status"], lost[0]["stage"], lost[0]["http_status"]) == ("failed", "fetch", 200)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a defect in a decoder" in printed.err


def test_a_disk_that_cannot_be_written_fails_the_shard_not_the_rows(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: io.BufferedWriter, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    class FullSpool(passthrough.Spool):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._file.close()
            self._file = type("Full", (io.BytesIO,), {"write": full})()

    monkeypatch.setattr("curation.fetch.stage.Spool", FullSpool)
    layout = planned(tmp_path, [gallery.url(path) for path in PICTURES])
    with (
        opened(layout.root, config) as stage,
        pytest.raises(DownloaderError, match="No space left"),
    ):
        stage.run(SHARD)
    assert read_receipt(layout, "fetch", SHARD) is None
    assert not layout.images(SHARD).exists()
    assert list(layout.root.glob(".fetch-*")) == []


def test_img2dataset_failing_as_a_whole_fails_the_shard(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_writer(*args: object) -> None:
        raise RuntimeError("no writer today")

    monkeypatch.setattr("curation.fetch.stage.SpoolWriter", broken_writer)
    layout = planned(tmp_path, [gallery.url("/p/1.jpg")])
    with opened(layout.root, config) as stage, pytest.raises(DownloaderError, match=SHARD):
        stage.run(SHARD)
    assert read_receipt(layout, "fetch", SHARD) is None


def test_a_shard_without_a_usable_url_asks_nobody(tmp_path: Path, config: FetchConfig) -> None:
    layout = planned(tmp_path, [None, "x", "file:///a"])
    rows = fetched(layout, config)
    assert [row["failure_code"] for row in rows] == ["url_missing", "url_relative", "url_scheme"]
    with tarfile.open(layout.images(SHARD)) as tar:
        assert tar.getnames() == []


def test_user_columns_pass_through_with_their_types(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    columns = {
        "score": pa.array([0.25, None], pa.float16()),
        "when": pa.array([1, 2], pa.timestamp("ns")),
        "tags": pa.array([[{"k": "a"}], None], pa.list_(pa.struct({"k": pa.string()}))),
    }
    layout = planned(tmp_path, [gallery.url("/p/1.jpg"), "x"], **columns)
    fetched(layout, config)
    table = read_manifest(layout.fetch(SHARD))
    for name, values in columns.items():
        assert table.schema.field(f"input_{name}").type == values.type
        assert table.column(f"input_{name}").combine_chunks().equals(values)


def test_private_networks_are_refused_by_default(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    before = len(gallery.seen)
    layout = planned(tmp_path, [gallery.url("/p/1.jpg")])
    row = fetched(layout, replace(config, allow_private_network=False))[0]
    assert (row["status"], row["failure_code"]) == ("refused", "address_blocked")
    assert len(gallery.seen) == before


def test_leftovers_of_a_killed_run_are_removed(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url("/p/1.jpg")])
    leftovers = [
        layout.root / ".fetch-000000-killed" / "images.spool",
        layout.images(SHARD).with_name(".000000.tar.0123456789ab.tmp"),
        layout.fetch(SHARD).with_name(".000000.parquet.0123456789ab.tmp"),
    ]
    other = layout.root / ".fetch-000001-at-work" / "images.spool"
    for path in (*leftovers, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    fetched(layout, config)
    assert not any(path.exists() for path in leftovers)
    assert other.exists()
    assert {path.name for path in layout.root.iterdir()} == {
        ".fetch-000001-at-work",
        "fetch",
        "images",
        "plan",
        "receipts",
    }


def test_a_shard_without_plan_and_a_stage_not_opened_are_misuse(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    layout = planned(tmp_path, [gallery.url("/p/1.jpg")])
    with opened(layout.root, config) as stage, pytest.raises(UsageError, match="not planned"):
        stage.run("000007")
    with pytest.raises(UsageError, match="open"):
        FetchStage(layout.root, config).run(SHARD)


def test_the_stage_travels_and_its_hash_ignores_threads_only(config: FetchConfig) -> None:
    stage: FetchStage = pickle.loads(pickle.dumps(FetchStage(Path("/data"), config)))
    assert (stage.root, stage.config, stage.name) == (Path("/data"), config, "fetch")
    other_threads = FetchStage(Path("/elsewhere"), replace(config, threads=3))
    assert other_threads.config_sha256 == stage.config_sha256
    other_cap = FetchStage(Path("/data"), replace(config, max_bytes=7))
    assert other_cap.config_sha256 != stage.config_sha256


def test_several_stages_run_one_after_another_in_one_process(
    tmp_path: Path, gallery: TroubleServer, config: FetchConfig
) -> None:
    tars = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        layout = planned(tmp_path / name, [gallery.url(path) for path in PICTURES])
        fetched(layout, config)
        tars.append(layout.images(SHARD).read_bytes())
    assert tars[0] == tars[1]


def in_fresh_process(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


def test_a_worker_loads_neither_torch_nor_ray_nor_albumentations() -> None:
    loaded = in_fresh_process(
        "import json, sys\n"
        "from curation.fetch.stage import import_downloader\n"
        "import_downloader()\n"
        "print(json.dumps(sorted(name for name in sys.modules if '.' not in name)))"
    )
    assert not {"torch", "ray", "albumentations", "pandas", "cv2", "img2dataset"} & set(loaded)


def test_the_downloader_is_img2datasets_own() -> None:
    downloader: Callable[..., Any] = import_downloader()
    assert (downloader.__module__, downloader.__name__) == ("img2dataset.downloader", "Downloader")
