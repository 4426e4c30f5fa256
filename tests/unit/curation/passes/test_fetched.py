from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    base_shard,
    pass_name,
    pass_number,
    read_receipt,
    write_receipt,
)
from annotations_schema.manifest import read_manifest, read_provenance, write_manifest
from curation.config import require_config
from curation.passes.fetched import fetch_inputs, fetched_counts, fetched_rows, finished_receipt
from curation.passes.passes import plan_pass

SHARD, FURTHER = "000000", "000000.1"


@pytest.fixture
def twice(curated: DatasetLayout) -> DatasetLayout:
    """The finished dataset whose row 2, a 404, was fetched again and is gone now."""
    rows = fetched_rows(curated, SHARD)
    row = rows.to_pylist()[2]
    plan_pass(curated, FURTHER, pq.read_table(str(curated.plan(SHARD))), [row], [row])
    again = rows.slice(2, 1)
    for name, value in (("failure_code", "http_410"), ("http_status", 410)):
        number = again.schema.get_field_index(name)
        field = again.schema.field(number)
        if pa.types.is_dictionary(field.type):
            column = pa.array([value]).dictionary_encode().cast(field.type)
        else:
            column = pa.array([value], field.type)
        again = again.set_column(number, field, column)
    write_manifest(curated.fetch(FURTHER), again, read_provenance(curated.fetch(SHARD)))
    first = read_receipt(curated, "fetch", SHARD)
    assert first is not None
    name = f"fetch/{FURTHER}.parquet"
    output = replace(next(iter(first.outputs.values())), sha256="a" * 64)
    output = replace(output, bytes=curated.fetch(FURTHER).stat().st_size)
    counts = {"failed": 1, "http_410": 1}
    write_receipt(
        curated, replace(first, shard=FURTHER, outputs={name: output}, rows=1, counts=counts)
    )
    return curated


def test_a_later_pass_replaces_the_rows_it_holds_in_planned_order(twice: DatasetLayout) -> None:
    first = read_manifest(twice.fetch(SHARD)).to_pylist()
    rows = fetched_rows(twice, SHARD).to_pylist()
    assert [row["source_row"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["failure_code"] == "http_410"
    assert [*rows[:2], rows[3]] == [*first[:2], first[3]]
    assert fetched_rows(twice, SHARD).schema.equals(read_manifest(twice.fetch(SHARD)).schema)


def test_a_shard_of_one_pass_is_its_table(curated: DatasetLayout) -> None:
    assert fetched_rows(curated, SHARD).equals(read_manifest(curated.fetch(SHARD)))


def test_the_inputs_are_the_tables_of_all_passes(twice: DatasetLayout) -> None:
    first = read_receipt(twice, "fetch", SHARD)
    assert first is not None
    sha256 = first.outputs[f"fetch/{SHARD}.parquet"].sha256
    assert fetch_inputs(twice, SHARD) == {SHARD: sha256, FURTHER: "a" * 64}
    assert twice.fetch_passes(SHARD) == [SHARD, FURTHER]
    assert twice.shards_planned() == ["000000", "000001"]


def test_each_row_is_counted_once_as_its_last_pass_has_it(twice: DatasetLayout) -> None:
    counts = fetched_counts(twice, SHARD)
    assert {name: counts[name] for name in ("ok", "failed", "http_404", "http_410")} == {
        "ok": 2,
        "failed": 2,
        "http_404": 0,
        "http_410": 1,
    }
    assert fetched_counts(twice, SHARD, since=1) == {"failed": 1, "http_410": 1}


def test_a_pass_that_was_set_aside_replaces_nothing(twice: DatasetLayout) -> None:
    receipt = read_receipt(twice, "fetch", FURTHER)
    assert receipt is not None
    write_receipt(twice, replace(receipt, outputs={}, set_aside="3 attempts"))
    assert fetched_rows(twice, SHARD).to_pylist()[2]["failure_code"] == "http_404"
    assert fetch_inputs(twice, SHARD).keys() == {SHARD}
    assert fetched_counts(twice, SHARD)["http_404"] == 1


def test_annotate_is_done_only_with_every_pass_that_is(twice: DatasetLayout) -> None:
    expected = require_config(twice).stages["annotate"]
    assert finished_receipt(twice, "annotate", SHARD, expected) is None
    receipt = read_receipt(twice, "annotate", SHARD)
    assert receipt is not None
    write_receipt(twice, replace(receipt, inputs=fetch_inputs(twice, SHARD)))
    assert finished_receipt(twice, "annotate", SHARD, expected) is not None
    twice.receipt("fetch", SHARD).unlink()
    assert finished_receipt(twice, "annotate", SHARD, expected) is None


@pytest.mark.parametrize("state", ["absent", "set aside"])
def test_a_shard_that_is_not_fetched_has_no_rows(curated: DatasetLayout, state: str) -> None:
    receipt = read_receipt(curated, "fetch", SHARD)
    assert receipt is not None
    curated.receipt("fetch", SHARD).unlink()
    if state == "set aside":
        write_receipt(curated, replace(receipt, outputs={}, set_aside="3 attempts"))
    why = "has no fetch receipt" if state == "absent" else "was set aside by fetch"
    with pytest.raises(UsageError, match=why):
        fetched_rows(curated, SHARD)


def test_names_of_passes() -> None:
    assert [pass_name(SHARD, number) for number in range(3)] == [SHARD, FURTHER, "000000.2"]
    assert (base_shard("000123.2"), pass_number("000123.2")) == ("000123", 2)
    assert (base_shard("000123"), pass_number("000123")) == ("000123", 0)
