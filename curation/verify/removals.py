"""The rules of `verify` over removals: what was removed on request is gone, in every place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotations_schema.codes import FailureCode
from annotations_schema.errors import ManifestError, VersionError
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from curation.tombstone.shard import annotation_sets
from curation.tombstone.tombstones import receipt_paths, tombstoned, tombstoned_ids
from curation.verify.files import check_sealed
from curation.verify.findings import WHOLE_DATASET, Finding


class Removals:
    """The dataset's list of removed images, and what may not be there because of it."""

    def __init__(self, layout: DatasetLayout) -> None:
        self.layout = layout
        self.removed = pa.array([], pa.string())

    def check_list(self) -> Iterator[Finding]:
        """The list can be read, and holds what the removals' receipts name; all are finished."""
        column = self.layout.relative(self.layout.tombstones)
        try:
            self.removed = tombstoned_ids(self.layout)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            found = " ".join(str(error).split())
            yield Finding(WHOLE_DATASET, None, column, "it can be read", found)
            return
        asked: set[str] = set()
        for number, path in enumerate(receipt_paths(self.layout)):
            name = self.layout.relative(path)
            yield from check_sealed(self.layout, path, WHOLE_DATASET)
            try:
                receipt = json.loads(path.read_bytes())
                is_finished = receipt["finished_at"] is not None
                asked.update(receipt["image_ids"])
            except (ValueError, KeyError, TypeError) as error:
                found = f"{type(error).__name__}: {' '.join(str(error).split())}"
                yield Finding(WHOLE_DATASET, None, name, "a receipt can be read", found)
                continue
            if path.stem != f"{number:06d}":
                rule = "removals are numbered from 000000 on"
                yield Finding(WHOLE_DATASET, None, name, rule, f"{number:06d} is not there")
            if not is_finished:
                rule = "a removal is finished: `insight-curate tombstone DIR --resume`"
                yield Finding(WHOLE_DATASET, None, name, rule, "it was interrupted")
        for image_id in sorted(asked ^ set(self.removed.to_pylist())):
            rule = "the list holds the image_ids of the removals' receipts"
            state = "is not on it" if image_id in asked else "is in no receipt"
            yield Finding(WHOLE_DATASET, None, column, rule, f"{image_id} {state}")

    def check_table(self, shard: str, name: str, table: pa.Table) -> Iterator[Finding]:
        """The rows of removed images say no more than that, and no other row says it."""
        ids = table.column("image_id")
        is_listed = np.asarray(pc.is_in(ids, value_set=self.removed), dtype=np.bool_)
        code = table.column("failure_code").cast(pa.string())
        says_removed = pc.fill_null(pc.equal(code, FailureCode.REMOVED_ON_REQUEST.value), False)
        for image_id in ids.filter(pc.and_not(says_removed, pa.array(is_listed))).to_pylist():
            rule = "a row that says removed_on_request is on the list"
            yield Finding(shard, None, name, rule, f"image_id {image_id} is not")
        rows = table.filter(pa.array(is_listed))
        rights = tombstoned(rows, self.removed).to_pylist()
        for row, right in zip(rows.to_pylist(), rights, strict=True):
            more = [column for column in right if row[column] != right[column]]
            if more:
                rule = "nothing but the verdict is left of a removed image"
                found = f"image_id {row['image_id']} has {', '.join(more)}"
                yield Finding(shard, None, name, rule, found)

    def check_tar(self, shard: str, name: str) -> Iterator[Finding]:
        """No member of a pass's tar is a removed image."""
        path = self.layout.images(name)
        if not len(self.removed) or not path.exists():
            return
        removed = set(self.removed.to_pylist())
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                members = [member.name for member in tar]
        except (tarfile.TarError, OSError):
            return  # its hash is not its receipt's either
        for member in members:
            if member.partition(".")[0] in removed:
                column = self.layout.relative(path)
                yield Finding(shard, None, column, "it holds no removed image", member)

    def check_other_sets(self, shard: str) -> Iterator[Finding]:
        """The manifests of the annotation sets that are not looked at otherwise."""
        if not len(self.removed):
            return
        for name in annotation_sets(self.layout):
            other = replace(self.layout, annotation_set=name)
            path = other.annotations(shard)
            if name == self.layout.annotation_set or not path.exists():
                continue
            try:
                table = read_manifest(path)
            except (ManifestError, VersionError, pa.ArrowException, OSError, ValueError):
                continue  # `verify --annotation-set` names it
            yield from self.check_table(shard, self.layout.relative(path), table)
