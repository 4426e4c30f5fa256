"""How far a dataset is: shards and rows by stage, status and code, and how fast it went.

Everything is read from receipts, so it is quick for thousands of shards and safe while a run is
going on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from annotations_schema.codes import FailureCode, Status
from annotations_schema.layout import STAGES, DatasetLayout, Receipt, read_receipt
from annotations_schema.storage import ask_many
from curation.config import DatasetConfig, require_config
from curation.passes.fetched import fetched_counts, is_finished

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
    """Rows that its workers dealt with; one that was fetched again counts each time."""
    images: int
    """Those of them whose status became ok."""
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
    layout = layout.as_found()
    shards = layout.shards_planned()
    held = {stage: _held(layout, config, stage, shards) for stage in STAGES}
    by_status, by_code = _rows(layout, shards, held)
    return DatasetStatus(
        root=str(layout.root),
        num_shards=config.num_shards,
        num_rows=config.num_rows,
        stages=tuple(
            _stage_status(name, held[name].values(), config.num_shards) for name in STAGES
        ),
        rows_by_status=by_status,
        rows_by_code=by_code,
        set_aside={
            f"{stage}/{receipt.shard}": receipt.set_aside
            for stage in STAGES
            for one in held[stage].values()
            for receipt in one.receipts
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


class _Held(NamedTuple):
    """What a stage has of one shard: its receipts that count, and how many passes it has."""

    receipts: list[Receipt]
    num_passes: int

    @property
    def done(self) -> list[Receipt]:
        """The receipts of what is published."""
        return [receipt for receipt in self.receipts if receipt.set_aside is None]

    @property
    def is_done(self) -> bool:
        """Whether every pass is published."""
        return len(self.done) == self.num_passes

    @property
    def is_set_aside(self) -> bool:
        """Whether a pass was given up."""
        return len(self.done) < len(self.receipts)


def _held(
    layout: DatasetLayout, config: DatasetConfig, stage: str, shards: Sequence[str]
) -> dict[str, _Held]:
    """By shard the receipts of this configuration, with their outputs in place, or set aside."""

    def hold(shard: str) -> _Held:
        names = layout.planned_passes(shard) if stage == "fetch" else [shard]
        receipts = [_counting_receipt(layout, config, stage, name) for name in names]
        return _Held([one for one in receipts if one is not None], len(names))

    return dict(zip(shards, ask_many(layout.root, hold, shards), strict=True))


def _counting_receipt(
    layout: DatasetLayout, config: DatasetConfig, stage: str, name: str
) -> Receipt | None:
    receipt = read_receipt(layout, stage, name)
    if receipt is None or receipt.set_aside is not None:
        return receipt
    return receipt if is_finished(layout, receipt, config.stages[stage]) else None


def _stage_status(name: str, shards: Iterable[_Held], num_shards: int) -> StageStatus:
    held = list(shards)
    done = [receipt for one in held for receipt in one.done]
    num_done = sum(one.is_done for one in held)
    num_set_aside = sum(one.is_set_aside for one in held)
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
        shards_done=num_done,
        shards_left=num_shards - num_done - num_set_aside,
        shards_set_aside=num_set_aside,
        rows_done=sum(receipt.rows for receipt in done),
        images=sum(receipt.counts.get(Status.OK.value, 0) for receipt in done),
        worker_s=sum(receipt.elapsed_s for receipt in done),
        parts_s={part: ms / 1000 for part, ms in parts_ms.most_common()},
    )


def _rows(
    layout: DatasetLayout, shards: Iterable[str], held: dict[str, dict[str, _Held]]
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows by status and by code: each row once, as the last stage that finished it has it."""
    counts: Counter[str] = Counter()
    for shard in shards:
        plan, fetch, annotate = (held[stage][shard].done for stage in STAGES)
        if annotate:
            counts.update(annotate[0].counts)
        elif fetch and fetch[0].shard == shard:
            counts.update(fetched_counts(layout, shard))
        elif plan:  # its ok rows are work, not results
            waiting = Counter(plan[0].counts)
            waiting["waiting"] = waiting.pop(Status.OK.value, 0)
            counts.update(waiting)
    by_status = {name: counts[name] for name in (*_STATUSES, "waiting") if counts[name]}
    by_code = {name: count for name, count in counts.most_common() if name in _CODES and count}
    return by_status, by_code
