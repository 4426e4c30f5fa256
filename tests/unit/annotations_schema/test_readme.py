"""The specification names everything that the code writes, with its Arrow type's nullability."""

from __future__ import annotations

import re
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import annotations_schema
from annotations_schema.codes import DropReason, FailureCode, Flag, RegionState, Stage, Status
from annotations_schema.columns import MANIFEST_SCHEMA, SUBSET_FIELDS
from annotations_schema.layout import Receipt

PAGE = (Path(annotations_schema.__file__).parent / "README.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([a-z0-9_]+\*?)`", PAGE)


def column_types() -> dict[str, str]:
    """From the table of section 3: by column what stands in its second cell."""
    types = {}
    for line in PAGE.partition("## 3.")[2].partition("## 4.")[0].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        names = re.findall(r"`([a-z0-9_]+)`", cells[0]) if len(cells) == 3 else []
        if names:
            kinds = re.split(r", (?![^\[]*\])", re.sub(r" (each|\.\.\.)$", "", cells[1]))
            kinds += [kinds[-1]] * (len(names) - len(kinds))
            types |= dict(zip(names, kinds, strict=True))
    return types


def test_every_column_stands_in_the_table_with_what_may_be_null() -> None:
    types = column_types()
    assert [name for name in types if name not in MANIFEST_SCHEMA.names] == []
    documented = {name: kind.endswith("?") for name, kind in types.items()}
    assert documented == {field.name: field.nullable for field in MANIFEST_SCHEMA}
    assert [field.name for field in SUBSET_FIELDS if field.name not in NAMED] == []


@pytest.mark.parametrize("vocabulary", [Status, RegionState, DropReason, Flag, FailureCode])
def test_every_word_of_the_vocabularies_is_named(vocabulary: type) -> None:
    words = [member.value for member in vocabulary]
    assert [one for one in words if not any(fnmatchcase(one, name) for name in NAMED)] == []


def test_stages_and_keys_of_a_receipt_are_named() -> None:
    assert f"({', '.join(Stage)})" in PAGE
    listed = PAGE.partition("A receipt is written last: `")[2].partition("`")[0]
    named = re.findall(r"[a-z0-9_]+", re.sub(r"\{.*?\}", "", listed.replace("\n", " ")))
    assert named == [field.name for field in fields(Receipt)]
