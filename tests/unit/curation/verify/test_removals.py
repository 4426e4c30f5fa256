"""What was removed on request is gone: `verify` finds what is left of it, and a damaged list."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from annotations_schema.layout import DatasetLayout, output_files, read_receipt, write_receipt
from annotations_schema.manifest import read_manifest
from annotations_schema.seal import sealed
from curation.cli import main
from curation.tombstone.tombstone import tombstone
from curation.verify.verify import verify

SHARD = "000000"


@pytest.fixture
def before(curated: DatasetLayout, tmp_path: Path) -> DatasetLayout:
    """The dataset with a second annotation set, as it was before the removal."""
    typed = ["annotate", str(curated.root), "--annotation-set", "second"]
    assert main([*typed, "--face-detector", "retinaface_mnet025"]) == 0
    shutil.copytree(curated.root, tmp_path / "before")
    return DatasetLayout(tmp_path / "before")


@pytest.fixture
def removed(curated: DatasetLayout, before: DatasetLayout) -> DatasetLayout:
    """The dataset after its first image was removed."""
    image_id = read_manifest(before.annotations(SHARD)).column("image_id")[0].as_py()
    assert tombstone(curated, {image_id: image_id}, with_copies=False).images == 1
    return curated


def vouch(layout: DatasetLayout, stage: str) -> None:
    """Make a receipt fit the files that stand."""
    receipt = read_receipt(layout, stage, SHARD)
    assert receipt is not None
    outputs = output_files(layout, [layout.root / name for name in receipt.outputs])
    write_receipt(layout, replace(receipt, outputs=outputs))


def bring_back(path: Path, layout: DatasetLayout, before: DatasetLayout) -> None:
    shutil.copyfile(before.root / layout.relative(path), path)


def bring_back_tar(layout: DatasetLayout, before: DatasetLayout) -> None:
    bring_back(layout.images(SHARD), layout, before)
    vouch(layout, "fetch")


def bring_back_plan(layout: DatasetLayout, before: DatasetLayout) -> None:
    bring_back(layout.plan(SHARD), layout, before)
    vouch(layout, "plan")


def bring_back_fetched(layout: DatasetLayout, before: DatasetLayout) -> None:
    bring_back(layout.fetch(SHARD), layout, before)
    vouch(layout, "fetch")


def bring_back_manifest(layout: DatasetLayout, before: DatasetLayout) -> None:
    bring_back(layout.annotations(SHARD), layout, before)
    vouch(layout, "annotate")


def bring_back_other_set(layout: DatasetLayout, before: DatasetLayout) -> None:
    bring_back_manifest(replace(layout, annotation_set="second"), before)


def edit_receipt(path: Path, **changes: object) -> None:
    fields = json.loads(path.read_text()) | changes
    fields.pop("sealed_sha256")
    path.write_text(json.dumps(sealed(fields), indent=2, sort_keys=True) + "\n")


def only_receipt(layout: DatasetLayout) -> Path:
    return Path(str(layout.receipt("tombstone", "000000")))


def lose_list(layout: DatasetLayout, before: DatasetLayout) -> None:
    layout.tombstones.unlink()


def spoil_list(layout: DatasetLayout, before: DatasetLayout) -> None:
    layout.tombstones.write_bytes(b"no Parquet")


def lose_receipt(layout: DatasetLayout, before: DatasetLayout) -> None:
    only_receipt(layout).unlink()


def spoil_receipt(layout: DatasetLayout, before: DatasetLayout) -> None:
    only_receipt(layout).write_text("{")


def change_receipt(layout: DatasetLayout, before: DatasetLayout) -> None:
    path = only_receipt(layout)
    path.write_text(path.read_text().replace('"images": 1', '"images": 2'))


def unfinish(layout: DatasetLayout, before: DatasetLayout) -> None:
    edit_receipt(only_receipt(layout), finished_at=None)


def renumber(layout: DatasetLayout, before: DatasetLayout) -> None:
    only_receipt(layout).rename(layout.receipt("tombstone", "000001"))


def test_a_dataset_after_a_removal_is_clean_in_every_set(removed: DatasetLayout) -> None:
    for name in ("default", "second"):
        assert verify(replace(removed, annotation_set=name)).findings == ()


@pytest.mark.parametrize(
    ("spoil", "column", "found"),
    [
        (bring_back_tar, "images/000000.tar", ".png"),
        (bring_back_plan, "plan/000000.parquet", "url, caption"),
        (bring_back_fetched, "fetch/000000.parquet", "offset"),
        (bring_back_manifest, "annotations/000000.parquet", "face_regions"),
        (bring_back_other_set, "annotation_sets/second/000000.parquet", "face_regions"),
        (lose_list, "tombstones.parquet", "is not on it"),
        (lose_list, "plan/000000.parquet", "is not"),
        (spoil_list, "tombstones.parquet", "Parquet"),
        (lose_receipt, "tombstones.parquet", "is in no receipt"),
        (spoil_receipt, "receipts/tombstone/000000.json", "JSONDecodeError"),
        (change_receipt, "receipts/tombstone/000000.json", "it was changed"),
        (unfinish, "receipts/tombstone/000000.json", "it was interrupted"),
        (renumber, "receipts/tombstone/000001.json", "000000 is not there"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_is_left_of_a_removed_image_is_found(
    removed: DatasetLayout,
    before: DatasetLayout,
    spoil: Callable[[DatasetLayout, DatasetLayout], None],
    column: str,
    found: str,
) -> None:
    spoil(removed, before)
    findings = [one for one in verify(removed).findings if one.column == column]
    assert any(found in one.found for one in findings), verify(removed).findings


def test_a_list_grows_by_removals_only(removed: DatasetLayout, before: DatasetLayout) -> None:
    table = pq.read_table(str(removed.tombstones))
    other = read_manifest(before.annotations(SHARD)).column("image_id")[1].as_py()
    table = table.from_pylist([*table.to_pylist(), {"image_id": other}], schema=table.schema)
    pq.write_table(table, str(removed.tombstones))
    found = [one.found for one in verify(removed).findings]
    assert f"{other} is in no receipt" in found
    assert any(one.startswith(f"image_id {other} has ") for one in found)
