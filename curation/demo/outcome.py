"""What the steps left behind, read from their files: curated rows, training metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import NamedTuple

import pyarrow as pa

from annotations_schema.codes import Status
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from curation.demo.listing import ListRow

_COLUMNS = ("source_row", "status", "failure_code", "num_text", "num_faces")
OK = "ok"


class RowOutcome(NamedTuple):
    """How one row of the list ended."""

    what: str
    expected: str
    """A failure code, or "ok"."""
    seen: str
    """A failure code, "ok", or "no row" where the manifest has none."""

    @property
    def is_as_expected(self) -> bool:
        """Whether the row ended as the list's author knows it must."""
        return self.expected == self.seen


class DatasetOutcome(NamedTuple):
    """A curated dataset in numbers."""

    rows: tuple[RowOutcome, ...]
    """In the order of the list."""
    num_by_status: dict[str, int]
    num_text: int
    num_faces: int
    num_images_with_text: int
    num_images_with_faces: int


def read_outcome(root: Path, listed: Sequence[ListRow]) -> DatasetOutcome:
    """Returns what became of a list, read from the manifests of the dataset."""
    manifests = DatasetLayout(root).manifests()
    table = pa.concat_tables([read_manifest(path, _COLUMNS) for path in manifests])
    found = {row["source_row"]: row for row in table.to_pylist()}
    statuses = Counter(row["status"] for row in found.values())
    texts = [row["num_text"] or 0 for row in found.values()]
    faces = [row["num_faces"] or 0 for row in found.values()]
    return DatasetOutcome(
        rows=tuple(
            RowOutcome(row.what, str(row.code) if row.code else OK, _seen(found.get(index)))
            for index, row in enumerate(listed)
        ),
        num_by_status={status.value: statuses[status.value] for status in Status},
        num_text=sum(texts),
        num_faces=sum(faces),
        num_images_with_text=sum(number > 0 for number in texts),
        num_images_with_faces=sum(number > 0 for number in faces),
    )


class TrainingOutcome(NamedTuple):
    """A training run in numbers."""

    steps: int
    images_per_s: float
    """Over the whole run, without loading of weights."""
    losses: Mapping[str, float]
    """Mean of each term over the last phase."""


def read_training(metrics: Path) -> TrainingOutcome:
    """Returns what a run's metrics.jsonl says; each of its lines covers equally many images."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    last = [line for line in lines if line["phase"] == lines[-1]["phase"]]
    terms = [name for name, value in lines[-1].items() if isinstance(value, float)]
    return TrainingOutcome(
        steps=lines[-1]["step"],
        images_per_s=harmonic_mean([line["images_per_s"] for line in lines]),
        losses={name: fmean(line[name] for line in last) for name in terms},
    )


def _seen(row: dict[str, str | None] | None) -> str:
    if row is None:
        return "no row"
    return OK if row["status"] == Status.OK else str(row["failure_code"])
