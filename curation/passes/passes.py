"""Further passes of fetch: which rows are fetched again, planned before anything is fetched.

The plan of a pass is a table like the shard's own plan, with only the rows that are fetched again
and one more column: `history`, to which the outcome that is about to be replaced was added. Its
receipt makes the pass exist; until its fetch receipt stands, the pass is work for every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotations_schema.codes import FailureCode, Status
from annotations_schema.columns import MANIFEST_SCHEMA
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    atomic_write,
    base_shard,
    output_file,
    pass_name,
    pass_number,
    read_receipt,
    write_receipt,
)
from curation.passes.fetched import REPLACES

MAX_REQUEUES = 3
"""How often a row that met its shard's deadline is put off before it stays failed."""

Row = Mapping[str, Any]
_HISTORY = MANIFEST_SCHEMA.field("history")
_DISTRIBUTION = "open-insighttok"


def plan_pass(
    layout: DatasetLayout,
    name: str,
    plan: pa.Table,
    outcomes: Sequence[Row],
    fetched: Sequence[Row],
) -> Receipt:
    """Plan a further pass of a shard and publish it.

    Args:
        layout: the dataset.
        name: of the pass, the one after the shard's last.
        plan: planned rows of the shard, or of an earlier pass, that include the wanted ones.
        outcomes: of each wanted row `source_row`, `failure_code`, `http_status`, `attempts` and
            perhaps `history`, as the dataset has them now; at least one.
        fetched: of each wanted row `status` and `failure_code` as fetch has them now: other than
            the outcome where an image was fetched and annotate could not decode it.
    """
    by_row = {row["source_row"]: [*(row.get("history") or []), _outcome(row)] for row in outcomes}
    source_rows = plan.column("source_row").to_pylist()
    kept = [number for number, source_row in enumerate(source_rows) if source_row in by_row]
    table = plan.take(pa.array(kept, pa.int64()))
    if _HISTORY.name in table.column_names:
        table = table.drop_columns([_HISTORY.name])
    history = [by_row[source_rows[number]] for number in kept]
    table = table.append_column(_HISTORY, pa.array(history, _HISTORY.type))
    with atomic_write(layout.plan(name)) as temporary:
        pq.write_table(table, str(temporary), compression="zstd")
        written = output_file(temporary)
    receipt = Receipt(
        stage="plan",
        shard=name,
        config_sha256=_plan_sha256(layout, name),
        outputs={layout.relative(layout.plan(name)): written},
        rows=len(table),
        counts={Status.OK.value: len(table), **_replaced(fetched)},
        version=version(_DISTRIBUTION),
    )
    write_receipt(layout, receipt)
    return receipt


def requeue(layout: DatasetLayout, name: str, plan: pa.Table, rows: Sequence[Row]) -> int:
    """Plan the pass that follows one which met its deadline; returns how many rows it has.

    Rows that were put off `MAX_REQUEUES` times already stay failed; where no other row met the
    deadline, nothing is planned.
    """
    late = [row for row in rows if row["failure_code"] == FailureCode.SHARD_DEADLINE]
    again = [row for row in late if _times_put_off(row) < MAX_REQUEUES]
    if again:
        further = pass_name(base_shard(name), pass_number(name) + 1)
        plan_pass(layout, further, plan, again, again)
    return len(again)


def _times_put_off(row: Row) -> int:
    codes = [earlier["failure_code"] for earlier in row.get("history") or []]
    return codes.count(FailureCode.SHARD_DEADLINE)


def _outcome(row: Row) -> dict[str, Any]:
    return {
        "failure_code": str(row["failure_code"]),
        "http_status": row["http_status"],
        "attempts": row["attempts"],
    }


def _replaced(fetched: Sequence[Row]) -> dict[str, int]:
    names = [str(row[key]) for row in fetched for key in ("status", "failure_code") if row[key]]
    return {f"{REPLACES}{name}": count for name, count in Counter(names).items()}


def _plan_sha256(layout: DatasetLayout, name: str) -> str:
    planned = read_receipt(layout, "plan", base_shard(name))
    assert planned is not None, f"a pass of shard {base_shard(name)} needs its plan"
    return planned.config_sha256
