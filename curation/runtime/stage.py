"""The stage Protocol and what every runner does the same way: skip, attempt, set aside.

A runner takes stages in their order (fetch, annotate) and shards in theirs, and tells what
happens as `ShardEvent`s. A shard flows from stage to stage: annotate of a shard starts when its
fetch receipt is there. Everything a runner knows it can read again from the receipts, so killing
one loses at most the shards in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import NamedTuple, Protocol

from annotations_schema.layout import (
    STAGES,
    DatasetLayout,
    Receipt,
    is_done,
    read_receipt,
    write_receipt,
)

DISTRIBUTION = "open-insighttok"
MAX_ATTEMPTS = 3
MAX_DETAIL_CHARACTERS = 512


class Stage(Protocol):
    """An idempotent step over one shard; picklable until opened."""

    @property
    def name(self) -> str:
        """One of `annotations_schema.layout.STAGES`."""

    @property
    def config_sha256(self) -> str:
        """What a receipt must carry for its shard to count as done by this stage."""

    def open(self) -> None:
        """Load weights and prepare; called once in each worker process, before any `run`."""

    def run(self, shard: str) -> Receipt:
        """Do the shard from scratch; data files first (temp, fsync, rename), the receipt last."""

    def close(self) -> None:
        """Release what `open` took."""


class EventKind(StrEnum):
    """What can happen to a shard in a stage."""

    SKIPPED = "skipped"
    STARTED = "started"
    DONE = "done"
    RETRIED = "retried"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEvent:
    """One thing that happened to one shard in one stage."""

    stage: str
    shard: str
    kind: EventKind
    receipt: Receipt | None = None
    """The receipt found (skipped), written (done) or left in place of data (set_aside)."""
    detail: str = ""
    """Why an attempt failed, for `retried` and `set_aside`."""


class Attempt(NamedTuple):
    """The outcome of one try at a shard: a receipt or, where it failed, one line that says why."""

    receipt: Receipt | None
    error: str = ""


def attempt(stage: Stage, shard: str) -> Attempt:
    """The receipt of `shard`, or the message of whatever the stage raised."""
    try:
        return Attempt(stage.run(shard))
    except Exception as error:  # noqa: BLE001 - the shard boundary: one shard may not end the run
        return Attempt(None, one_line(f"{type(error).__name__}: {error}"))


def one_line(text: str) -> str:
    """`text` on one line of at most `MAX_DETAIL_CHARACTERS` characters."""
    joined = " ".join(text.split())
    if len(joined) <= MAX_DETAIL_CHARACTERS:
        return joined
    return joined[: MAX_DETAIL_CHARACTERS - 3] + "..."


def finished_receipt(layout: DatasetLayout, stage: Stage, shard: str) -> Receipt | None:
    """The receipt of a shard this stage need not do again; None where there is work.

    A shard that an earlier run set aside is work: a later run tries it again.
    """
    receipt = read_receipt(layout, stage.name, shard)
    if receipt is None or receipt.set_aside is not None:
        return None
    return receipt if is_done(layout, stage.name, shard, stage.config_sha256) else None


def first_unfinished(
    layout: DatasetLayout, stages: Sequence[Stage], shard: str
) -> tuple[int, list[ShardEvent]]:
    """Index of the first stage with work on `shard` (len(stages): none), and what was skipped."""
    skipped: list[ShardEvent] = []
    for index, stage in enumerate(stages):
        receipt = finished_receipt(layout, stage, shard)
        if receipt is None:
            return index, skipped
        skipped.append(
            ShardEvent(stage=stage.name, shard=shard, kind=EventKind.SKIPPED, receipt=receipt)
        )
    return len(stages), skipped


def begin(layout: DatasetLayout, stage: Stage, shard: str) -> ShardEvent:
    """Announce work on a shard, after dropping the receipts that this work makes stale.

    A later stage's receipt speaks of outputs that this stage is about to replace; its own
    receipt, of outputs that are about to change.
    """
    for later in STAGES[STAGES.index(stage.name) :]:
        layout.receipt(later, shard).unlink(missing_ok=True)
    return ShardEvent(stage=stage.name, shard=shard, kind=EventKind.STARTED)


def failed_attempt(
    layout: DatasetLayout, stage: Stage, shard: str, *, num_attempts: int, error: str
) -> ShardEvent:
    """What follows a failed attempt: another, or after `MAX_ATTEMPTS` a receipt that says so."""
    if num_attempts < MAX_ATTEMPTS:
        return ShardEvent(stage=stage.name, shard=shard, kind=EventKind.RETRIED, detail=error)
    planned = read_receipt(layout, "plan", shard)
    receipt = Receipt(
        stage=stage.name,
        shard=shard,
        config_sha256=stage.config_sha256,
        outputs={},
        rows=planned.rows if planned else 0,
        counts={},
        elapsed_s=0.0,
        version=version(DISTRIBUTION),
        set_aside=f"{num_attempts} attempts; the last: {error}",
    )
    write_receipt(layout, receipt)
    return ShardEvent(
        stage=stage.name, shard=shard, kind=EventKind.SET_ASIDE, receipt=receipt, detail=error
    )
