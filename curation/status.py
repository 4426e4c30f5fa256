"""How far a dataset is: shards and rows by stage, status and code, and how fast it went.

Everything is read from receipts, so it is quick for thousands of shards and safe while a run is
going on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from annotations_schema.codes import FailureCode, Status
from annotations_schema.layout import STAGES, DatasetLayout, Receipt, is_done, read_receipt
from curation.config import DatasetConfig, require_config

_STATUSES = tuple(status.value for status in Status)
# Receipts count the milliseconds of a stage's parts under names that end so.
_MILLISECONDS = "_ms"
_CODES = frozenset(code.value for code in FailureCode)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """One stage over the whole dataset."""

    name: str
    shards_done: int
    shards_left: int
    """Neither done nor set aside."""
    shards_set_aside: int
    rows_done: int
    images: int
    """Rows of the shards done whose status is ok."""
    worker_s: float
    """Time that workers spent on the shards done, seconds; workers add up."""
    parts_s: dict[str, float]
    """Of that the parts that the stage measures, seconds, longest first."""

    @property
    def images_per_worker_s(self) -> float | None:
        """Images that one worker did per second; None before the first."""
        return self.images / self.worker_s if self.worker_s > 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetStatus:
    """Where a dataset stands."""

    root: str
    num_shards: int
    num_rows: int
    stages: tuple[StageStatus, ...]
    rows_by_status: dict[str, int]
    """Of each row the latest word, by status; planned rows that wait for fetch are "waiting"."""
    rows_by_code: dict[str, int]
    """Rows that are not ok by failure code, most frequent first."""
    set_aside: dict[str, str]
    """Why, by `stage/shard`."""

    @property
    def is_complete(self) -> bool:
        """Whether every shard has its manifest."""
        return self.stages[-1].shards_done == self.num_shards

    def to_json(self) -> dict[str, Any]:
        """The status as one JSON object."""
        return {
            "root": self.root,
            "is_complete": self.is_complete,
            "num_shards": self.num_shards,
            "num_rows": self.num_rows,
            "stages": {
                stage.name: {
                    "shards_done": stage.shards_done,
                    "shards_left": stage.shards_left,
                    "shards_set_aside": stage.shards_set_aside,
                    "rows_done": stage.rows_done,
                    "images": stage.images,
                    "worker_s": round(stage.worker_s, 3),
                    "images_per_worker_s": stage.images_per_worker_s,
                    "parts_s": stage.parts_s,
                }
                for stage in self.stages
            },
            "rows_by_status": self.rows_by_status,
            "rows_by_code": self.rows_by_code,
            "set_aside": self.set_aside,
        }


def status(layout: DatasetLayout) -> DatasetStatus:
    """The status of the dataset at `layout`.

    Raises:
        UsageError: it is not a dataset.
    """
    config = require_config(layout)
    shards = layout.shards_planned()
    receipts = {stage: _receipts(layout, config, stage, shards) for stage in STAGES}
    by_status, by_code = _rows(shards, receipts)
    return DatasetStatus(
        root=str(layout.root),
        num_shards=config.num_shards,
        num_rows=config.num_rows,
        stages=tuple(
            _stage_status(name, receipts[name].values(), config.num_shards) for name in STAGES
        ),
        rows_by_status=by_status,
        rows_by_code=by_code,
        set_aside={
            f"{stage}/{shard}": receipt.set_aside
            for stage in STAGES
            for shard, receipt in receipts[stage].items()
            if receipt.set_aside is not None
        },
    )


def describe(found: DatasetStatus) -> str:
    """The status as a few lines of text."""
    lines = [f"{found.root}: {found.num_rows:,} rows in {found.num_shards:,} shards"]
    for stage in found.stages:
        speed = None if stage.name == "plan" else stage.images_per_worker_s
        parts = [
            f"{stage.shards_done:,} shards done",
            f"{stage.shards_left:,} left",
            f"{stage.shards_set_aside:,} set aside",
            "" if speed is None else f"{speed:,.1f} images/s per worker",
        ]
        lines.append(f"  {stage.name:<9} " + ", ".join(filter(None, parts)))
    lines.append("  rows      " + _counts(found.rows_by_status))
    if found.rows_by_code:
        lines.append("  codes     " + _counts(found.rows_by_code))
    lines.extend(f"  set aside {name}: {why}" for name, why in found.set_aside.items())
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _receipts(
    layout: DatasetLayout, config: DatasetConfig, stage: str, shards: Iterable[str]
) -> dict[str, Receipt]:
    """Receipts that count: of this configuration, with their outputs in place, or set aside."""
    found: dict[str, Receipt] = {}
    for shard in shards:
        receipt = read_receipt(layout, stage, shard)
        if receipt is None:
            continue
        is_aside = receipt.set_aside is not None
        if is_aside or is_done(layout, stage, shard, config.stages[stage]):
            found[shard] = receipt
    return found


def _stage_status(name: str, receipts: Iterable[Receipt], num_shards: int) -> StageStatus:
    held = list(receipts)
    done = [receipt for receipt in held if receipt.set_aside is None]
    parts_ms: Counter[str] = Counter()
    for receipt in done:
        parts_ms.update(
            {
                part.removesuffix(_MILLISECONDS): ms
                for part, ms in receipt.counts.items()
                if part.endswith(_MILLISECONDS)
            }
        )
    return StageStatus(
        name=name,
        shards_done=len(done),
        shards_left=num_shards - len(held),
        shards_set_aside=len(held) - len(done),
        rows_done=sum(receipt.rows for receipt in done),
        images=sum(receipt.counts.get(Status.OK.value, 0) for receipt in done),
        worker_s=sum(receipt.elapsed_s for receipt in done),
        parts_s={part: ms / 1000 for part, ms in parts_ms.most_common()},
    )


def _rows(
    shards: Iterable[str], receipts: dict[str, dict[str, Receipt]]
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows by status and by code, from the last stage that finished each shard."""
    counts: Counter[str] = Counter()
    for shard in shards:
        for stage in reversed(STAGES):
            receipt = receipts[stage].get(shard)
            if receipt is None or receipt.set_aside is not None:
                continue
            found = Counter(receipt.counts)
            if stage == "plan":  # its ok rows are work, not results
                found["waiting"] = found.pop(Status.OK.value, 0)
            counts += found
            break
    by_status = {name: counts[name] for name in (*_STATUSES, "waiting") if counts[name]}
    by_code = {name: count for name, count in counts.most_common() if name in _CODES}
    return by_status, by_code
