"""Columns of a URL list that have a role (URL, caption, hash, licence): found, checked, unified.

Arrow has many types for the same text: string, large, view, binary, dictionary, extension. Those
of roles are unified; a field of a struct is found by its dotted name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from annotations_schema.errors import UsageError
from annotations_schema.storage import AnyPath

_STRINGS = (kinds.is_string, kinds.is_large_string, kinds.is_string_view)
_BYTES = (
    *(kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view),
    *(kinds.is_fixed_size_binary, kinds.is_null),
)


def check_roles(
    path: AnyPath, schema: pa.Schema, url_column: str, other_columns: Sequence[str]
) -> None:
    """Refuse a list whose columns cannot have their roles.

    Raises:
        UsageError: a column is absent, stands there twice, or has a type that is no text.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise UsageError(f"URL list {path} has column {twice[0]!r} twice; rename one")
    for name in (url_column, *other_columns):
        place = _place(schema, name)
        if place is None:
            listed = ", ".join(schema.names) or "none"
            raise UsageError(f"URL list {path} has no column {name!r}; it has {listed}")
        kind = _type_at(schema, place)
        if name == url_column and not _is_text(kind):
            raise UsageError(
                f"URL list {path}: column {name!r} is {kind}, not text; give a column with one "
                f"URL a row{_mend(name, kind)}"
            )
        if name != url_column and kinds.is_nested(_plain(kind)):
            raise UsageError(
                f"URL list {path}: column {name!r} is {kind}, not text; choose another column"
                f"{_mend(name, kind)}"
            )


def with_roles(table: pa.Table, url_column: str, other_columns: Sequence[str]) -> pa.Table:
    """The table with its URL column as large_binary and other text of a role as string.

    A role's field of a struct becomes a column and leaves the struct.
    """
    for name in (url_column, *other_columns):
        table = _hoisted(table, name)
        column = table.column(name)
        if isinstance(column.type, pa.BaseExtensionType):
            column = pa.chunked_array(
                [chunk.storage for chunk in column.chunks], column.type.storage_type
            )
        if kinds.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name == url_column:
            column = column.cast(pa.large_binary())
        elif any(is_kind(column.type) for is_kind in _STRINGS):
            column = column.cast(pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _place(schema: pa.Schema, name: str) -> tuple[str, ...] | None:
    """Where a column is: its name, then those of struct fields; the longest column name wins."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        place = (".".join(parts[:split]), *parts[split:])
        if place[0] in schema.names and _type_at(schema, place) is not None:
            return place
    return None


def _type_at(schema: pa.Schema, place: Sequence[str]) -> pa.DataType | None:
    kind = schema.field(place[0]).type
    for name in place[1:]:
        if not kinds.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type behind an extension or a dictionary."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    return _plain(kind.value_type) if kinds.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and any(is_kind(_plain(kind)) for is_kind in (*_STRINGS, *_BYTES))


def _mend(name: str, kind: pa.DataType | None) -> str:
    if kind is not None and kinds.is_struct(kind):
        fields = ", ".join(f"{name}.{field.name}" for field in kind)
        return f"; a field of it is named {fields}"
    return ""


def _hoisted(table: pa.Table, name: str) -> pa.Table:
    place = _place(table.schema, name)
    assert place is not None, f"{name} was there when the list was opened"
    if len(place) == 1:
        return table
    top = table.schema.get_field_index(place[0])
    whole = table.column(top)
    table = table.append_column(name, pc.struct_field(whole, list(place[1:])))
    rest = [_without(chunk, place[1:]) for chunk in whole.chunks]
    if any(chunk is None for chunk in rest):
        return table.remove_column(top)
    return table.set_column(top, place[0], pa.chunked_array(rest))


def _without(array: pa.StructArray, place: Sequence[str]) -> pa.StructArray | None:
    """The array without one of its fields; None where no field is left."""
    fields = list(array.type)
    arrays = [array.field(number) for number in range(len(fields))]
    position = array.type.get_field_index(place[0])
    inner = _without(arrays[position], place[1:]) if len(place) > 1 else None
    if inner is None:
        del fields[position], arrays[position]
    else:
        fields[position], arrays[position] = fields[position].with_type(inner.type), inner
    if not fields:
        return None
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=array.is_null())
