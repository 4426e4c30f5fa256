"""Subsets of the small finished dataset, chosen by SQL; what is written, counted and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from annotations_schema.columns import MANIFEST_SCHEMA, SUBSET_FIELDS
from annotations_schema.errors import ManifestError, UsageError
from annotations_schema.layout import (
    DatasetLayout,
    output_files,
    read_receipt,
    sha256_file,
    write_receipt,
)
from annotations_schema.manifest import read_manifest, read_provenance, write_manifest
from annotations_schema.validation import validate
from curation.cli import main
from curation.config import AnnotationSet, require_config, write_annotation_set
from curation.select.query import Question
from curation.select.select import Selected, check_lock, lock_path, select
from training.data.manifest import ManifestDataset

ASTRONAUT, COFFEE, NOTHING = range(3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "subset.parquet"


def choose(layout: DatasetLayout, out: Path, where: str = "true", **more: Any) -> Selected:
    return select([layout.root], Question(where=where, **more), out, "default")


def captions(out: Path) -> list[str]:
    return [caption.split(" ")[0] for caption in read_manifest(out).column("caption").to_pylist()]


def urls(out: Path) -> list[str]:
    names = read_manifest(out).column("url").to_pylist()
    return [url.rpartition("/")[2].partition(".")[0] for url in names]


def weights(out: Path) -> list[float]:
    values: list[float] = read_manifest(out).column("sampling_weight").to_pylist()
    return values


def test_a_subset_is_a_manifest_with_rows_as_they_are_and_counts(
    curated: DatasetLayout, out: Path
) -> None:
    selected = choose(curated, out)
    table = read_manifest(out)
    assert urls(out) == ["astronaut", "coffee", "nothing"]
    assert validate(table) == []
    assert table.column_names == [
        *MANIFEST_SCHEMA.names,
        *(field.name for field in SUBSET_FIELDS),
    ]
    whole = pa.concat_tables([read_manifest(path) for path in curated.manifests()])
    ok = whole.filter(pa.compute.equal(whole.column("status").cast(pa.string()), "ok"))
    assert table.select(MANIFEST_SCHEMA.names).to_pylist() == ok.to_pylist()
    assert selected.counts == {
        "seen": 6,
        "matched": {"failed": 2, "filtered": 1, "ok": 3},
        "not_ok": 3,
        "repeated": 0,
        "beyond_limit": 0,
        "rows": 3,
        "text_regions": 2,
        "faces": 1,
    }
    assert (
        read_provenance(out).face_detector == read_provenance(curated.manifests()[0]).face_detector
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("num_faces > 0", ["astronaut"]),
        ("len(text_regions) >= 2 -- two words", ["coffee"]),
        (
            "len(list_filter(face_regions, lambda f: f.score > 0.5 and f.is_valid)) > 0",
            ["astronaut"],
        ),
        ("text_regions[1].box_xyxy[3] > 30", ["coffee"]),
        ("text_state = 'none' and face_state = 'none'", ["nothing"]),
        (
            "caption ilike '%text%' or url = 'now' or width > 200",
            ["astronaut", "coffee", "nothing"],
        ),
        ("image_id in (select image_id from manifest where num_text = 2)", ["coffee"]),
    ],
)
def test_a_predicate_reaches_plain_and_nested_columns(
    curated: DatasetLayout, out: Path, where: str, expected: list[str]
) -> None:
    choose(curated, out, where)
    assert urls(out) == expected


def test_the_trainer_reads_a_subset_of_two_datasets_that_lie_elsewhere(
    curated: DatasetLayout, tmp_path: Path
) -> None:
    other = DatasetLayout(tmp_path / "elsewhere" / "other")
    shutil.copytree(curated.root, other.root)
    rename_images(other)
    out = tmp_path / "subsets" / "both.parquet"
    selected = select([curated.root, other.root], Question(where="true"), out, "default")
    assert selected.counts["repeated"] == 0
    used = ManifestDataset([out])
    assert len(used) == 6
    shapes = [used.read(number).image.shape for number in range(6)]
    assert shapes[:3] == shapes[3:]
    assert read_manifest(out).column("dataset").to_pylist() == [
        *["../dataset"] * 3,
        *["../elsewhere/other"] * 3,
    ]
    # The whole folder may move, and the subset finds its images.
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    assert ManifestDataset([moved / "subsets" / "both.parquet"]).read(3).image.shape == shapes[3]


def test_images_root_stands_in_for_the_one_dataset_of_a_subset(
    curated: DatasetLayout, out: Path, tmp_path: Path
) -> None:
    choose(curated, out)
    root = curated.root.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="is missing"):
        ManifestDataset([out])
    assert len(ManifestDataset([out], images_root=root)) == 3


def test_images_root_cannot_stand_in_for_two(curated: DatasetLayout, tmp_path: Path) -> None:
    other = DatasetLayout(tmp_path / "other")
    shutil.copytree(curated.root, other.root)
    rename_images(other)
    out = tmp_path / "both.parquet"
    select([curated.root, other.root], Question(where="true"), out, "default")
    with pytest.raises(UsageError, match="has images of 2"):
        ManifestDataset([out], images_root=curated.root)


def test_a_row_of_several_datasets_is_taken_from_the_first(
    curated: DatasetLayout, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(curated.root, other)
    out = tmp_path / "both.parquet"
    counts = select([other, curated.root], Question(where="true"), out, "default").counts
    assert (counts["seen"], counts["repeated"], counts["rows"]) == (12, 3, 3)
    assert set(read_manifest(out).column("dataset").to_pylist()) == {"other"}


def test_a_limit_draws_by_seed_and_a_smaller_one_a_part_of_it(
    curated: DatasetLayout, tmp_path: Path
) -> None:
    drawn = {}
    for seed in range(6):
        for limit in (1, 2):
            out = tmp_path / f"{seed}-{limit}.parquet"
            assert choose(curated, out, limit=limit, seed=seed).counts["beyond_limit"] == 3 - limit
            drawn[seed, limit] = urls(out)
        assert set(drawn[seed, 1]) < set(drawn[seed, 2])
    assert len({tuple(names) for (_, limit), names in drawn.items() if limit == 1}) > 1


def test_the_same_question_gives_the_same_bytes(curated: DatasetLayout, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copytree(curated.root, folder / "set")
        out = folder / "subset.parquet"
        question = Question(where="true", balance="num_faces > 0", limit=2)
        select([folder / "set"], question, out, "default")
        written.append((out.read_bytes(), lock_path(out).read_text()))
    assert written[0] == written[1]


def test_weights_are_scaled_to_a_mean_of_one(curated: DatasetLayout, out: Path) -> None:
    choose(curated, out, weight="1 + num_text")
    assert weights(out) == pytest.approx([0.6, 1.8, 0.6])
    assert np.mean(weights(out)) == pytest.approx(1)


def test_without_a_weight_every_row_weighs_one(curated: DatasetLayout, out: Path) -> None:
    choose(curated, out)
    assert weights(out) == [1, 1, 1]


def test_balanced_strata_weigh_the_same_in_all(curated: DatasetLayout, out: Path) -> None:
    counts = choose(curated, out, balance="case when num_text > 0 then 'text' end").counts
    assert counts["strata"] == {"text": 1, "None": 2}
    assert weights(out) == [0.75, 1.5, 0.75]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"where": "num_txt > 1"}, 'Referenced column "num_txt" not found.*num_text'),
        ({"where": "sum(num_faces) > 1"}, "WHERE clause cannot contain aggregates"),
        ({"where": "row_number() over () = 1"}, "WHERE clause cannot contain window functions"),
        ({"where": "true; drop view manifest"}, "not one SQL expression"),
        ({"where": "true) or (true"}, "not one SQL expression"),
        ({"where": "copy manifest to 'x.csv'"}, "not one SQL expression"),
        ({"where": "num_faces > 'many'"}, "Could not convert"),
        ({"where": "exists (select * from read_text('/etc/hostname'))"}, "operations are disabled"),
        ({"where": "random() < 0.5"}, "calls random, whose result differs"),
        ({"where": "fetched_at < now()"}, "calls now, whose result differs"),
        ({"where": "fetched_at < current_date"}, "whose result differs"),
        ({"where": "fetched_at < current_timestamp"}, "whose result differs"),
        ({"where": "fetched_at::timestamp < localtimestamp"}, "whose result differs"),
        (
            {"where": "image_id in (select image_id from manifest limit 1)"},
            "calls limit, whose result differs",
        ),
        (
            {"where": "image_id = (select any_value(image_id) from manifest)"},
            "calls any_value, whose result differs",
        ),
        ({"where": "num_faces > 7"}, "no row is chosen: of 6 rows.*true for 0"),
        (
            {"where": "status = 'failed'"},
            "no row is chosen.*true for 2, none of them with a usable",
        ),
        ({"weight": "num_text - 1"}, "null, negative or not finite in 2 of 3 rows"),
        ({"weight": "null"}, "null, negative or not finite in 3 of 3 rows"),
        ({"weight": "1 / 0.0"}, "not finite in 3 of 3 rows"),
        ({"weight": "0"}, "is 0 in every row"),
        ({"weight": "1e308"}, "adds up to infinity"),
        ({"weight": "1e-320"}, "is 0 in every row"),
        ({"weight": "1", "balance": "1"}, "give one"),
        ({"limit": 0}, "must be at least 1"),
    ],
)
def test_bad_questions_are_refused_in_one_line_and_write_nothing(
    curated: DatasetLayout, out: Path, question: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        choose(curated, out, **question)
    assert "\n" not in str(refused.value)
    assert list(out.parent.iterdir()) == [curated.root]


def test_the_database_cannot_write_or_be_unlocked(curated: DatasetLayout, out: Path) -> None:
    written = out.with_name("written.csv")
    for sql in (
        f"(select 1 from query('copy manifest to ''{written}''')) = 1",
        "getenv('HOME') is null",
    ):
        with pytest.raises(UsageError):
            choose(curated, out, sql)
    assert not written.exists()


def test_a_manifest_that_is_not_as_its_receipt_says_is_refused(
    curated: DatasetLayout, out: Path
) -> None:
    with curated.annotations("000000").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ManifestError, match="not as its receipt says"):
        choose(curated, out)


def test_regions_of_different_detectors_do_not_mix(curated: DatasetLayout, tmp_path: Path) -> None:
    other = DatasetLayout(tmp_path / "other")
    shutil.copytree(curated.root, other.root)
    path = other.annotations("000000")
    found = read_provenance(path)
    assert found.text_detector is not None
    changed = replace(found, text_detector=replace(found.text_detector, name="another"))
    write_manifest(path, read_manifest(path), changed)
    refresh(other, "000000")
    with pytest.raises(UsageError, match=r"different text_detectors \(a_text_detector.*another"):
        select(
            [curated.root, other.root], Question(where="true"), tmp_path / "b.parquet", "default"
        )


def test_user_columns_of_all_sources_are_kept(curated: DatasetLayout, tmp_path: Path) -> None:
    other = DatasetLayout(tmp_path / "other")
    shutil.copytree(curated.root, other.root)
    rename_images(other, note=True)
    out = tmp_path / "both.parquet"
    select([curated.root, other.root], Question(where="num_faces > 0"), out, "default")
    assert read_manifest(out).column("input_note").to_pylist() == [None, "a note"]


def test_the_lock_says_what_was_asked_of_what(curated: DatasetLayout, out: Path) -> None:
    selected = choose(curated, out, "num_text > 0", seed=3)
    lock = json.loads(selected.lock.read_text())
    assert selected.lock.name == "subset.lock.json"
    assert lock["subset"] == {"path": out.name, "sha256": sha256_file(out), "rows": 1}
    assert lock["question"]["where"] == "num_text > 0"
    assert lock["counts"] == selected.counts
    (source,) = lock["sources"]
    assert source["dataset"] == "dataset"
    assert source["manifests"] == [
        {
            "path": f"annotations/{shard}.parquet",
            "sha256": sha256_file(curated.annotations(shard)),
            "rows": rows,
        }
        for shard, rows in (("000000", 4), ("000001", 2))
    ]
    assert lock["provenance"]["detectors"]["text"]["name"] == "a_text_detector"
    assert set(lock["versions"]) == {"open-insighttok", "duckdb", "pyarrow"}


def test_a_lock_is_checked_against_what_is_there_now(curated: DatasetLayout, out: Path) -> None:
    lock = choose(curated, out).lock
    assert check_lock(lock) == []
    path = curated.annotations("000001")
    write_manifest(path, read_manifest(path).slice(0, 1), read_provenance(path))
    assert [one.partition(":")[0] for one in check_lock(lock)] == [
        str(out.parent / "dataset" / "annotations" / "000001.parquet")
    ]
    path.unlink()
    out.write_bytes(b"x")
    assert [one.rpartition("/")[2][:22] for one in check_lock(lock)] == [
        "subset.parquet: sha256",
        "000001.parquet: absent",
    ]


def test_a_shard_published_since_is_a_difference(curated: DatasetLayout, out: Path) -> None:
    receipt = curated.receipt("annotate", "000001")
    kept = receipt.read_text()
    receipt.unlink()
    lock = choose(curated, out).lock
    assert check_lock(lock) == []
    receipt.write_text(kept)
    (found,) = check_lock(lock)
    assert found.endswith("annotations/000001.parquet: published since")


def test_another_annotation_set_is_asked_by_its_name(curated: DatasetLayout, out: Path) -> None:
    other = DatasetLayout(curated.root, annotation_set="second")
    with pytest.raises(UsageError, match="annotation set 'second'"):
        select([curated.root], Question(where="true"), out, "second")
    config = require_config(curated)
    write_annotation_set(
        other,
        AnnotationSet(annotate=config.curate.annotate, stage_sha256=config.stages["annotate"]),
    )
    path = other.annotations("000001")
    write_manifest(
        path,
        read_manifest(curated.annotations("000001")),
        read_provenance(curated.annotations("000001")),
    )
    receipt = read_receipt(curated, "annotate", "000001")
    assert receipt is not None
    write_receipt(other, replace(receipt, outputs=output_files(other, [path])))
    select([curated.root], Question(where="true"), out, "second")
    assert urls(out) == ["nothing"]
    assert check_lock(lock_path(out)) == []


def test_on_the_command_line(
    curated: DatasetLayout, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["select", str(curated.root), "--where", "num_text > 0 or num_faces > 0"]
    assert main([*typed, "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["counts"]["rows"] == 2
    assert "2 of 6 rows, 2 text regions, 1 faces" in said.err
    assert main(["select", "--out", str(out), "--check"]) == 0
    curated.annotations("000000").write_bytes(b"x")
    assert main(["select", "--out", str(out), "--check", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["differences"]) == 1
    assert main(["select", "--out", str(out)]) == 2
    assert main(["select", str(curated.root), "--out", "subset.csv"]) == 2


def rename_images(layout: DatasetLayout, *, note: bool = False) -> None:
    """Other image_ids in every manifest, as if the URLs were others."""
    for path in layout.manifests():
        table = read_manifest(path)
        others = [image_id[::-1] for image_id in table.column("image_id").to_pylist()]
        table = table.set_column(0, table.schema.field(0), pa.array(others))
        if note:
            table = table.append_column("input_note", pa.array(["a note"] * len(table)))
        write_manifest(path, table, read_provenance(path))
        refresh(layout, path.stem)


def refresh(layout: DatasetLayout, shard: str) -> None:
    """A receipt that knows the manifest as it is now."""
    receipt = read_receipt(layout, "annotate", shard)
    assert receipt is not None
    outputs = output_files(layout, [layout.annotations(shard)])
    write_receipt(layout, replace(receipt, outputs=outputs))
