import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from annotations_schema.manifest import table_from_rows
from annotations_schema.validation import TABLE_ROW, validate

TOPIC = [pa.field("input_topic", pa.string())]


def test_a_good_table_has_no_problem(table):
    assert validate(table) == []


@pytest.mark.parametrize(
    ("row", "change", "column", "rule"),
    [
        (0, {"image_id": "XYZ"}, "image_id", "hex"),
        (0, {"sha256": "abc"}, "sha256", "64"),
        (0, {"sha256": None}, "sha256", "given where status is ok"),
        (0, {"offset": None}, "offset", "given where status is ok"),
        (0, {"status": "perhaps"}, "status", "one of"),
        (0, {"failure_code": "http_404"}, "failure_code", "null where status is ok"),
        (2, {"failure_code": None}, "failure_code", "given where status is not ok"),
        (2, {"failure_code": "bad_luck"}, "failure_code", "one of"),
        (2, {"failure_detail": "x" * 257}, "failure_detail", "256"),
        (0, {"width": 0}, "width", "greater than 0"),
        (0, {"width": 100}, "width", "turned by exif_orientation"),
        (0, {"exif_orientation": 9}, "exif_orientation", "between 0 and 8"),
        (0, {"text_state": "not_run"}, "text_regions", "null where"),
        (0, {"text_state": "none"}, "text_regions", "empty where"),
        (1, {"text_state": "found"}, "text_regions", "not empty where"),
        (1, {"face_state": "none"}, "face_regions", "empty where"),
        (0, {"width": 50, "stored_height": 50}, "text_regions", "boxes lie in the image"),
        (0, {"width": 400, "stored_height": 400}, "face_regions", "area_fraction is"),
    ],
)
def test_each_broken_rule_is_named_with_its_row_and_column(rows, row, change, column, rule):
    rows[row].update(change)
    problems = validate(table_from_rows(rows, TOPIC))
    assert any(p.row == row and p.column == column and rule in p.rule for p in problems), problems


def dropped(**other) -> dict:
    box = [1.0, 2.0, 3.0, 4.0]
    region = {"kind": "text", "box_xyxy": box, "score": 0.25, "reason": "score_below_min"}
    return {"dropped_regions": [{**region, **other}]}


def test_dropped_regions_are_checked_one_by_one(rows):
    rows[0].update(dropped())
    assert validate(table_from_rows(rows, TOPIC)) == []
    for change, rule in (
        ({"kind": "cat"}, "text or face"),
        ({"reason": "ugly"}, "one of score_below_min"),
        ({"score": 1.5}, "in [0, 1]"),
        ({"box_xyxy": [0.0, 0.0, float("inf"), 1.0]}, "finite"),
    ):
        rows[0].update(dropped(**change))
        (problem,) = validate(table_from_rows(rows, TOPIC))
        assert (problem.row, problem.column) == (0, "dropped_regions")
        assert rule in problem.rule


def test_dropped_regions_are_unknown_where_no_detector_looked(rows):
    rows[2].update(dropped())  # a failed fetch
    (problem,) = validate(table_from_rows(rows, TOPIC))
    assert (problem.row, problem.column) == (2, "dropped_regions")
    assert problem.rule == "null where no detector looked"


def test_the_same_image_id_twice_is_a_problem(rows):
    rows[1]["image_id"] = rows[0]["image_id"]
    (problem,) = validate(table_from_rows(rows, TOPIC))
    assert (problem.row, problem.column) == (1, "image_id")
    assert "unique" in str(problem)


def test_absent_and_mistyped_columns_are_problems_of_the_table(table):
    assert [p.column for p in validate(table.drop_columns(["phash"]))] == ["phash"]
    index = table.column_names.index("width")
    mistyped = table.set_column(index, "width", table.column("width").cast(pa.int64()))
    (problem,) = validate(mistyped)
    assert problem.row == TABLE_ROW
    assert "int32" in problem.rule
    (unknown,) = validate(table.append_column("topic", pa.nulls(len(table))))
    assert "input_" in unknown.rule


def test_a_region_with_a_value_out_of_range_is_a_problem(table):
    column = table.column("text_regions").combine_chunks()
    structs = column.values
    scores = pc.add(structs.field("score"), pa.scalar(1.0, pa.float32()))
    fields = [structs.type.field(i) for i in range(structs.type.num_fields)]
    changed = pa.StructArray.from_arrays(
        [scores if f.name == "score" else structs.field(f.name) for f in fields], fields=fields
    )
    lists = pa.ListArray.from_arrays(
        column.offsets, changed, type=column.type, mask=column.is_null()
    )
    index = table.column_names.index("text_regions")
    (problem,) = validate(table.set_column(index, table.schema.field("text_regions"), lists))
    assert problem.column == "text_regions"
    assert "[0, 1]" in problem.value


def test_validation_of_an_empty_table_is_quiet():
    assert validate(table_from_rows([])) == []


def test_problems_come_in_row_order(rows):
    rows[3]["sha256"] = None
    rows[0]["offset"] = None
    problems = validate(table_from_rows(rows, TOPIC))
    assert np.all(np.diff([p.row for p in problems]) >= 0)
