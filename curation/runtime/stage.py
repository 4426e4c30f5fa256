"""The stage Protocol and what every runner does the same way: skip, attempt, set aside.

A runner takes stages in their order (fetch, annotate) and shards in theirs, and tells what
happens as `ShardEvent`s. A shard flows from stage to stage: annotate of a shard starts when its
fetch receipt is there. Rows that fetch left for later are a further pass of the shard: it waits
behind the other shards, and annotate for it. Everything a runner knows it can read again from the
receipts, so killing one loses at most the shards in flight.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import NamedTuple, Protocol

from annotations_schema.layout import (
    STAGES,
    DatasetLayout,
    Receipt,
    base_shard,
    pass_name,
    pass_number,
    read_receipt,
    write_receipt,
)
from annotations_schema.storage import ask_many
from curation.passes.fetched import finished_receipt

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
    REQUEUED = "requeued"
    STARTED = "started"
    DONE = "done"
    RETRIED = "retried"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEvent:
    """One thing that happened to one shard, or one pass of it, in one stage."""

    stage: str
    shard: str
    kind: EventKind
    receipt: Receipt | None = None
    """The receipt found (skipped), written (done) or left in place of data (set_aside); the plan
    of a further pass (requeued)."""
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


def worker_name() -> str:
    """This process, `HOST:PID`, for a receipt."""
    return f"{socket.gethostname()}:{os.getpid()}"


def one_line(text: str) -> str:
    """`text` on one line of at most `MAX_DETAIL_CHARACTERS` characters."""
    joined = " ".join(text.split())
    if len(joined) <= MAX_DETAIL_CHARACTERS:
        return joined
    return joined[: MAX_DETAIL_CHARACTERS - 3] + "..."


@dataclass(frozen=True, slots=True)
class Step:
    """What a shard waits for: the stage at an index, with the shard or a pass of it.

    An index past the last stage means that nothing is left.
    """

    index: int
    name: str


def first_step(
    layout: DatasetLayout, stages: Sequence[Stage], shard: str
) -> tuple[Step, list[ShardEvent]]:
    """Where work on a planned shard begins, and what was found done or waiting on the way there.

    A shard or a pass that an earlier run set aside is work: a later run tries it again.
    """
    events: list[ShardEvent] = []
    for index, stage in enumerate(stages):
        passes = layout.planned_passes(shard) if stage.name == "fetch" else [shard]
        for name in passes:
            if name != shard:
                events.append(_requeued(layout, stage, name))
            receipt = finished_receipt(layout, stage.name, name, stage.config_sha256)
            if receipt is None:
                return Step(index, name), events
            events.append(
                ShardEvent(stage=stage.name, shard=name, kind=EventKind.SKIPPED, receipt=receipt)
            )
    return Step(len(stages), shard), events


def first_steps(
    layout: DatasetLayout, stages: Sequence[Stage], shards: Iterable[str]
) -> Iterator[tuple[Step, list[ShardEvent]]]:
    """`first_step` of each shard, in order, by what is found when the first is asked for."""
    found = layout.as_found()
    return ask_many(layout.root, lambda shard: first_step(found, stages, shard), shards)


def next_step(
    layout: DatasetLayout, stages: Sequence[Stage], step: Step, *, is_done: bool
) -> tuple[Step | None, list[ShardEvent]]:
    """What follows a step that was done or set aside; None where nothing can.

    Rows that a fetch left for a further pass are fetched before annotate looks at the shard. A
    further pass that was set aside replaces nothing, so annotate goes on without it.
    """
    shard, stage = base_shard(step.name), stages[step.index]
    if not is_done and step.name == shard:
        return None, []
    if is_done and stage.name == "fetch":
        further = pass_name(shard, pass_number(step.name) + 1)
        if layout.receipt("plan", further).exists():
            return Step(step.index, further), [_requeued(layout, stage, further)]
    if step.index + 1 == len(stages):
        return None, []
    return Step(step.index + 1, shard), []


def _requeued(layout: DatasetLayout, stage: Stage, name: str) -> ShardEvent:
    planned = read_receipt(layout, "plan", name)
    return ShardEvent(stage=stage.name, shard=name, kind=EventKind.REQUEUED, receipt=planned)


def begin(layout: DatasetLayout, stage: Stage, name: str) -> ShardEvent:
    """Announce work on a shard or a pass, after dropping the receipts that it makes stale.

    Fetch replaces two files one after the other, so its own receipt goes; with it the receipts and
    plans of the shard's later passes, which go on from its outcomes, and where the first pass is
    fetched, those of the later stages. Further passes and annotate, which replaces its one file at
    once, leave the manifest in force: what it has of unchanged images is used again.
    """
    if stage.name == "fetch":
        _drop_later_passes(layout, name)
        stale = STAGES[STAGES.index(stage.name) :] if base_shard(name) == name else (stage.name,)
        for one in stale:
            layout.receipt(one, name).unlink(missing_ok=True)
    return ShardEvent(stage=stage.name, shard=name, kind=EventKind.STARTED)


def _drop_later_passes(layout: DatasetLayout, name: str) -> None:
    # The last first, so that a kill in between leaves no gap in the numbers.
    for further in reversed(layout.planned_passes(base_shard(name))[pass_number(name) + 1 :]):
        layout.receipt("fetch", further).unlink(missing_ok=True)
        layout.receipt("plan", further).unlink(missing_ok=True)


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
