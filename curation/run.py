"""The pipeline: plan a list, then carry its shards through fetch and annotate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    config_sha256,
    read_receipt,
)
from annotations_schema.storage import AnyPath, ask_many
from curation.annotate.stage import AnnotateStage, check_detectors
from curation.config import (
    CurateConfig,
    DatasetConfig,
    ListSource,
    check_same,
    read_config,
    require_config,
    write_config,
)
from curation.fetch.stage import FetchStage
from curation.lock import exclusive
from curation.machine import MachineConfig, events
from curation.passes.fetched import finished_receipt
from curation.passes.retry import finish_planning
from curation.plan.plan import PlanIdentity, plan
from curation.runtime.stage import DISTRIBUTION, EventKind, ShardEvent, Stage
from curation.tombstone.tombstones import refuse_unfinished

Listener = Callable[[ShardEvent], None]


@dataclass(slots=True)
class StageTally:
    """What one run did in one stage, in shards and further passes of shards."""

    done: int = 0
    requeued: int = 0
    """Further passes that waited or were put off; they count as done or set aside too."""
    skipped: int = 0
    retried: int = 0
    set_aside: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What one run did."""

    root: str
    num_shards: int
    num_rows: int
    stages: dict[str, StageTally]
    elapsed_s: float

    @property
    def num_set_aside(self) -> int:
        """Shards that this run gave up."""
        return sum(tally.set_aside for tally in self.stages.values())

    def to_json(self) -> dict[str, Any]:
        """The summary as one JSON object."""
        return asdict(self)


def plan_dataset(
    source: AnyPath, layout: DatasetLayout, curate: CurateConfig, *, must_exist: bool = False
) -> DatasetConfig:
    """Plan a list into a dataset folder, or find it planned already under the same configuration.

    The detectors are loaded once before a new dataset is begun: what cannot run writes nothing.

    Args:
        source: the URL list.
        layout: where the dataset is or will be.
        curate: the whole configuration.
        must_exist: refuse to begin a new dataset.

    Raises:
        UsageError: a bad list, or a folder of another list or configuration, or one that another
            run works on. Nothing is written.
        WeightsError: a detector's weights are absent or wrong. Nothing is written.
    """
    existing = read_config(layout)
    if existing is None and must_exist:
        raise UsageError(f"{layout.root} holds no dataset to resume; run without --resume")
    wanted = _configure(source, layout, curate)
    if existing is not None:
        check_same(existing, wanted, layout.root)
        if len(layout.shards_planned()) != existing.num_shards:
            with exclusive(layout):
                plan(source, layout, curate.plan)
        return replace(existing, curate=curate)
    check_detectors(layout.root, curate.annotate)
    with exclusive(layout):
        shards = plan(source, layout, curate.plan)
        planned = replace(
            wanted,
            num_shards=len(shards),
            num_rows=sum(_plan_receipt(layout, shard).rows for shard in shards),
        )
        write_config(layout, planned)
    return planned


def run_stages(
    layout: DatasetLayout,
    config: DatasetConfig,
    names: Sequence[str],
    machine: MachineConfig,
    listener: Listener = lambda event: None,
    *,
    shards: Sequence[str] | None = None,
) -> RunSummary:
    """Carry the shards of a planned dataset through the named stages.

    Shards that are done are skipped; shards that an earlier run set aside are tried again; what a
    retry planned and did not finish is finished.

    Args:
        layout: the dataset.
        config: its configuration, with this machine's settings.
        names: "fetch", "annotate" or both, in this order.
        machine: where to run.
        listener: told of everything that happens, as it happens.
        shards: only these; None: all that are planned.

    Raises:
        UsageError: another run works on the dataset; annotate alone, and nothing is fetched; no
            Ray cluster at the address.
        InsightTokError: what a stage raised while it opened.
    """
    started = time.monotonic()
    stages = _stages(layout, config, names)
    tallies = {stage.name: StageTally() for stage in stages}
    with exclusive(layout) as check_lock:
        refuse_unfinished(layout)
        finish_planning(layout, config, check_lock)
        wanted = _ready(layout, config, names) if shards is None else shards
        with contextlib.closing(
            events(stages, wanted, layout, machine, config.curate)
        ) as happening:
            for event in happening:
                check_lock()
                _count(tallies[event.stage], event.kind)
                listener(event)
    return RunSummary(
        root=str(layout.root),
        num_shards=config.num_shards,
        num_rows=config.num_rows,
        stages=tallies,
        elapsed_s=round(time.monotonic() - started, 3),
    )


def planned_rows(config: DatasetConfig) -> dict[str, int]:
    """Rows of each planned shard."""
    size = config.curate.plan.shard_size
    starts = range(0, config.num_rows, size)
    return {f"{start // size:06d}": min(size, config.num_rows - start) for start in starts}


def existing_dataset(layout: DatasetLayout, machine_settings: dict[str, Any]) -> DatasetConfig:
    """The configuration of a planned dataset, with settings of this machine put into it.

    Args:
        layout: the dataset.
        machine_settings: `threads`, `text_weights`, `face_weights` of annotate and `fetch_threads`;
            None leaves what `config.json` says.

    Raises:
        UsageError: it is not a dataset.
    """
    config = require_config(layout)
    given = {name: value for name, value in machine_settings.items() if value is not None}
    fetch = config.curate.fetch
    if "fetch_threads" in given:
        fetch = replace(fetch, threads=given.pop("fetch_threads"))
    annotate = replace(config.curate.annotate, **given)
    return replace(config, curate=replace(config.curate, fetch=fetch, annotate=annotate))


def _configure(source: AnyPath, layout: DatasetLayout, curate: CurateConfig) -> DatasetConfig:
    """The configuration that planning would write, before anything is counted."""
    listed = ListSource.of(source)
    identity = PlanIdentity(
        source_name=listed.name, source_sha256=listed.sha256, config=curate.plan
    )
    return DatasetConfig(
        creator=f"{DISTRIBUTION} {version(DISTRIBUTION)}",
        source=listed,
        curate=curate,
        stages={
            "plan": config_sha256(identity),
            "fetch": FetchStage(layout.root, curate.fetch).config_sha256,
            "annotate": AnnotateStage(layout.root, curate.annotate).config_sha256,
        },
        num_shards=0,
        num_rows=0,
    )


def _stages(layout: DatasetLayout, config: DatasetConfig, names: Sequence[str]) -> list[Stage]:
    """The named stages; refuses weights other than those the dataset was begun with."""
    root = layout.root.absolute()
    make: dict[str, Callable[[], Stage]] = {
        "fetch": lambda: FetchStage(root, config.curate.fetch),
        "annotate": lambda: AnnotateStage(root, config.curate.annotate, layout.annotation_set),
    }
    stages = [make[name]() for name in names]
    for stage in stages:
        if stage.config_sha256 != config.stages[stage.name]:
            raise UsageError(
                f"{layout.root}: the {stage.name} settings or weights are not those of its "
                "config.json; give the weights it was made with, or start in another folder"
            )
    return stages


def _ready(layout: DatasetLayout, config: DatasetConfig, names: Sequence[str]) -> list[str]:
    """The shards that the named stages can work on: annotate alone needs fetched ones."""
    shards = layout.shards_planned()
    if names[0] != "annotate":
        return shards
    expected, found = config.stages["fetch"], layout.as_found()
    receipts = ask_many(
        layout.root, lambda one: finished_receipt(found, "fetch", one, expected), shards
    )
    fetched = [receipt.shard for receipt in receipts if receipt is not None]
    if not fetched:
        raise UsageError(
            f"{layout.root}: no shard is fetched; run `insight-curate fetch {layout.root}` first"
        )
    return fetched


def _count(tally: StageTally, kind: EventKind) -> None:
    if kind is not EventKind.STARTED:
        setattr(tally, kind.value, getattr(tally, kind.value) + 1)


def _plan_receipt(layout: DatasetLayout, shard: str) -> Receipt:
    receipt = read_receipt(layout, "plan", shard)
    assert receipt is not None, f"shard {shard} came from its plan receipt"
    return receipt
