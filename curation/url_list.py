"""Reading a URL list in batches, whatever its format; the URL column stays bytes or text as found.

- `.parquet`: any columns; batches come from row groups.
- `.csv`: a header line, UTF-8, every column read as text, an empty field is null.
- `.txt`: one URL a line; a blank line is a row without a URL, so line numbers are row numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from annotations_schema.errors import UsageError

URL_COLUMN_OF_TEXT = "url"
"""Name of the only column of a txt list."""

_BATCH_ROWS = 1024
_MAX_LINE_BYTES = 2**20
_CSV_BLOCK_BYTES = 2**22  # a row must fit into a block


Batches = Callable[[], Iterator[pa.Table]]
"""Reads a list from its beginning in tables of consecutive rows."""


class UrlList(NamedTuple):
    """A list that is there and has the columns it needs."""

    path: Path
    columns: tuple[str, ...]
    batches: Batches


def open_list(path: Path, url_column: str, other_columns: Collection[str]) -> UrlList:
    """Look at a list's columns; no row is read yet.

    Args:
        path: a local .parquet, .csv or .txt file.
        url_column: must be there; text in it comes as bytes, which may not be UTF-8.
        other_columns: must be there too.

    Raises:
        UsageError: unknown suffix, unreadable, a column absent or twice. `batches` raises it too,
            where the file breaks off in the middle or other text is not UTF-8.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"URL list {path}: its name must end in {', '.join(_READERS)}")
    try:
        columns, batches = reader(path, url_column)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    _check_columns(path, columns, (url_column, *other_columns))
    return UrlList(path, columns, lambda: _explained(path, batches))


class _Opened(NamedTuple):
    columns: tuple[str, ...]
    batches: Batches


_UNREADABLE = (OSError, pa.ArrowException)


def _parquet(path: Path, url_column: str) -> _Opened:
    def batches() -> Iterator[pa.Table]:
        with pq.ParquetFile(str(path)) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                table = _with_url_bytes(pa.Table.from_batches([batch]), url_column)
                table.validate(full=True)  # Parquet does not promise that its text is UTF-8
                yield table

    with pq.ParquetFile(str(path)) as file:
        return _Opened(tuple(file.schema_arrow.names), batches)


def _with_url_bytes(table: pa.Table, url_column: str) -> pa.Table:
    position = table.schema.get_field_index(url_column)
    column = table.column(position)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return table.set_column(position, url_column, column)


def _csv(path: Path, url_column: str) -> _Opened:
    if path.stat().st_size == 0:
        raise UsageError(f"URL list {path} is empty; give a list with a header and URLs")
    read = pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    with pa_csv.open_csv(str(path), read_options=read, parse_options=parse) as first:
        columns = tuple(first.schema.names)
    # An empty line is no row, except where it may be a row of one empty field.
    parse.ignore_empty_lines = len(columns) > 1
    # Types guessed from the first rows would fail, or change the text, further down.
    kinds = {name: pa.string() for name in columns} | {url_column: pa.binary()}
    convert = pa_csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True)

    def batches() -> Iterator[pa.Table]:
        with pa_csv.open_csv(
            str(path), read_options=read, parse_options=parse, convert_options=convert
        ) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])

    return _Opened(columns, batches)


def _text(path: Path, url_column: str) -> _Opened:
    def batches() -> Iterator[pa.Table]:
        rows: list[bytes | None] = []
        for line in _lines(path):
            rows.append(line or None)
            if len(rows) == _BATCH_ROWS:
                yield pa.table({URL_COLUMN_OF_TEXT: pa.array(rows, pa.large_binary())})
                rows = []
        if rows:
            yield pa.table({URL_COLUMN_OF_TEXT: pa.array(rows, pa.large_binary())})

    return _Opened((URL_COLUMN_OF_TEXT,), batches)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends; of a line beyond the limit its beginning, so memory is bounded."""
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            kept = line
            while line and not line.endswith(b"\n"):
                line = file.readline(_MAX_LINE_BYTES)
            yield kept.removesuffix(b"\n").removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf")


_READERS: dict[str, Callable[[Path, str], _Opened]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _text,
}


def _check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in columns:
            raise UsageError(
                f"URL list {path} has no column {name!r}; it has {', '.join(columns) or 'none'}"
            )
    twice = sorted({name for name in columns if list(columns).count(name) > 1})
    if twice:
        raise UsageError(f"URL list {path} has column {twice[0]!r} twice; rename one")


def _explained(path: Path, batches: Callable[[], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    rows = batches()
    while True:
        try:
            batch = next(rows, None)
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
        if batch is None:
            return
        yield batch


def _unreadable(path: Path, error: Exception) -> UsageError:
    words = " ".join(str(error).split())[:200]
    return UsageError(f"URL list {path} cannot be read ({words}); check the file and its encoding")
