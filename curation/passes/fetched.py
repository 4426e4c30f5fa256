"""What fetch has published of a shard over all of its passes, and which receipts still hold.

A shard is fetched in passes (`annotations_schema.layout`): the first holds every planned row, each
later one only the rows that were fetched again. Nothing here is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    STAGES,
    DatasetLayout,
    Receipt,
    base_shard,
    holds,
    pass_number,
    read_receipt,
)
from annotations_schema.manifest import read_manifest

REPLACES = "replaces_"
"""In the counts of a pass's plan receipt: before a status or code, how many rows of the earlier
passes with that status or code it takes the place of."""

REQUEUED_ROWS = "requeued"
"""In the counts of a fetch receipt: how many of its rows a further pass will fetch."""


def fetched_rows(layout: DatasetLayout, shard: str) -> pa.Table:
    """The rows of a planned shard as fetch last saw each, in planned order.

    Raises:
        UsageError: the first pass is not done.
        ManifestError: a fetch table cannot be read.
    """
    passes = [receipt.shard for receipt in done_passes(layout, shard)]
    return overlaid([read_manifest(layout.fetch(name)) for name in passes])


def overlaid(tables: Sequence[pa.Table]) -> pa.Table:
    """The fetch tables of a shard's passes, in order, as one: each row as it was last seen."""
    if len(tables) == 1:
        return tables[0]
    rows = pa.concat_tables(tables).unify_dictionaries()
    latest: dict[int, int] = {}  # keeps the order in which the first pass names the rows
    for position, source_row in enumerate(rows.column("source_row").to_pylist()):
        latest[source_row] = position
    return rows.take(pa.array(list(latest.values()), pa.int64())).combine_chunks()


def fetch_inputs(layout: DatasetLayout, shard: str) -> dict[str, str]:
    """What annotate reads of a planned shard: hex sha256 of each done pass's fetch table, by name.

    Raises:
        UsageError: the first pass is not done.
    """
    return {
        receipt.shard: receipt.outputs[_relative(layout, receipt.shard)].sha256
        for receipt in done_passes(layout, shard)
    }


def done_passes(layout: DatasetLayout, shard: str) -> list[Receipt]:
    """The fetch receipts of a planned shard's passes that published something, in order.

    Raises:
        UsageError: the first pass is not among them.
    """
    receipts = [read_receipt(layout, "fetch", name) for name in layout.planned_passes(shard)]
    done = [one for one in receipts if one is not None and one.set_aside is None]
    if not done or pass_number(done[0].shard):
        first = read_receipt(layout, "fetch", shard)
        why = "has no fetch receipt" if first is None else "was set aside by fetch"
        raise UsageError(
            f"shard {shard!r} of {layout.root} {why}; "
            f"run `insight-curate fetch {layout.root}` first"
        )
    return done


def fetched_counts(layout: DatasetLayout, shard: str, *, since: int = 0) -> Counter[str]:
    """Rows of a planned shard by status and by code, each row as fetch last saw it.

    From receipts alone.

    Args:
        layout: the dataset.
        shard: a planned shard.
        since: number of the pass from which on rows are looked at: only those that it holds.

    Raises:
        UsageError: the first pass is not done.
    """
    counts: Counter[str] = Counter()
    for receipt in done_passes(layout, shard):
        number = pass_number(receipt.shard)
        if number >= since:
            counts.update(receipt.counts)
        if number > since:
            counts.subtract(_replaced(layout, receipt.shard))
    return +counts


def _replaced(layout: DatasetLayout, name: str) -> dict[str, int]:
    planned = read_receipt(layout, "plan", name)
    counts = planned.counts if planned is not None else {}
    return {
        of.removeprefix(REPLACES): count for of, count in counts.items() if of.startswith(REPLACES)
    }


def finished_receipt(
    layout: DatasetLayout, stage: str, shard: str, config_sha256: str
) -> Receipt | None:
    """The receipt of a shard, or pass, with which a stage is done; None where there is work.

    It holds where it is of this configuration, its outputs stand, and annotate has seen every pass
    of fetch that is done. A shard that an earlier run set aside is work.
    """
    receipt = read_receipt(layout, stage, shard)
    return receipt if receipt is not None and is_finished(layout, receipt, config_sha256) else None


def is_finished(layout: DatasetLayout, receipt: Receipt, config_sha256: str) -> bool:
    """Whether a receipt that was read speaks of finished work, as `finished_receipt` says."""
    if not holds(layout, receipt, config_sha256):
        return False
    return receipt.stage != STAGES[-1] or _has_read_all(layout, receipt)


def _has_read_all(layout: DatasetLayout, receipt: Receipt) -> bool:
    try:
        return dict(receipt.inputs) == fetch_inputs(layout, base_shard(receipt.shard))
    except UsageError:
        return False


def _relative(layout: DatasetLayout, name: str) -> str:
    return layout.relative(layout.fetch(name))
