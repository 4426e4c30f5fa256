"""Reading a URL list in batches, whatever its format.

- `.parquet`: any columns; read page by page, never a whole row group.
- `.csv`: a header line, UTF-8, every column read as text, an empty field is null.
- `.txt`: one URL a line; a blank line is a row without a URL, so line numbers are row numbers.

Columns with a role come out in one type each, whatever the list has: the URL as bytes, which may
not be UTF-8; other text as string. A role may name a field of a struct, `image.url`: it becomes a
column of its own and leaves its struct. All other columns come out as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from annotations_schema.errors import UsageError
from annotations_schema.storage import AnyPath, RemotePath
from curation.plan.list_columns import check_roles, with_roles

URL_COLUMN_OF_TEXT = "url"
"""Name of the only column of a txt list."""

_BATCH_ROWS = 8192
_MAX_LINE_BYTES = 2**20
_CSV_BLOCK_BYTES = 2**22  # a row must fit into a block
_PARQUET_BUFFER_BYTES = 2**20  # else a column of a row group is read whole


class UrlList(NamedTuple):
    """A list that is there and has the columns it needs."""

    path: AnyPath
    num_rows: int | None
    """Rows, where the file says so before it is read."""
    batches: Batches
    """All columns."""
    url_batches: Batches
    """The URL column alone."""


Batches = Callable[[], Iterator[pa.Table]]
"""Reads a list from its beginning in tables of consecutive rows."""


def open_list(path: AnyPath, url_column: str, other_columns: Sequence[str]) -> UrlList:
    """Look at a list's columns; no row is read yet.

    Args:
        path: a local .parquet, .csv or .txt file.
        url_column: must be there and hold text.
        other_columns: must be there too and hold values that can be shown as text.

    Raises:
        UsageError: unknown suffix, unreadable, a column absent, twice or of a type that cannot be
            used. `batches` raises it too, where the file breaks off in the middle or other text
            is not UTF-8.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"URL list {path}: its name must end in {', '.join(_READERS)}")
    try:
        opened = reader(path, url_column)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    check_roles(path, opened.schema, url_column, other_columns)

    def read(roles: Sequence[str], only: Sequence[str] | None) -> Iterator[pa.Table]:
        for batch in opened.read(only):
            table = with_roles(batch, url_column, roles)
            table.validate(full=True)  # Parquet does not promise that its text is UTF-8
            yield table

    return UrlList(
        path,
        opened.num_rows,
        lambda: _explained(path, read(other_columns, None)),
        lambda: _explained(path, read((), [url_column])),
    )


class _Opened(NamedTuple):
    schema: pa.Schema
    num_rows: int | None
    read: Callable[[Sequence[str] | None], Iterator[pa.Table]]
    """All columns, or those that are named; of a struct's field, the struct with it alone."""


_UNREADABLE = (OSError, pa.ArrowException)


def _parquet(path: AnyPath, url_column: str) -> _Opened:
    def read(only: Sequence[str] | None) -> Iterator[pa.Table]:
        with pq.ParquetFile(str(path), buffer_size=_PARQUET_BUFFER_BYTES) as file:
            columns = None if only is None else list(only)
            for group in range(file.num_row_groups):  # a reader of many keeps pages of each
                for batch in file.iter_batches(_BATCH_ROWS, [group], columns):
                    yield pa.Table.from_batches([batch])

    with pq.ParquetFile(str(path)) as file:
        return _Opened(file.schema_arrow, file.metadata.num_rows, read)


def _csv(path: AnyPath, url_column: str) -> _Opened:
    if path.stat().st_size == 0:
        raise UsageError(f"URL list {path} is empty; give a list with a header and URLs")
    options = pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    with pa_csv.open_csv(_bytes_of(path), read_options=options, parse_options=parse) as first:
        names = first.schema.names
    # An empty line is no row, except where it may be a row of one empty field.
    parse.ignore_empty_lines = len(names) > 1
    # Types guessed from the first rows would fail, or change the text, further down.
    kinds = dict.fromkeys(names, pa.string()) | {url_column: pa.binary()}

    def read(only: Sequence[str] | None) -> Iterator[pa.Table]:
        convert = pa_csv.ConvertOptions(
            column_types=kinds,
            null_values=[""],
            strings_can_be_null=True,
            include_columns=only,
        )
        with pa_csv.open_csv(
            _bytes_of(path), read_options=options, parse_options=parse, convert_options=convert
        ) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])

    return _Opened(pa.schema([(name, kinds[name]) for name in names]), None, read)


def _bytes_of(path: AnyPath) -> str | pa.NativeFile:
    """What the CSV reader takes: unlike that of Parquet it knows no URIs."""
    return path.stream() if isinstance(path, RemotePath) else str(path)


def _text(path: AnyPath, url_column: str) -> _Opened:
    schema = pa.schema([(URL_COLUMN_OF_TEXT, pa.large_binary())])

    def read(only: Sequence[str] | None) -> Iterator[pa.Table]:
        rows: list[bytes | None] = []
        for line in _lines(path):
            rows.append(line or None)
            if len(rows) == _BATCH_ROWS:
                yield pa.table([rows], schema=schema)
                rows = []
        if rows:
            yield pa.table([rows], schema=schema)

    return _Opened(schema, None, read)


def _lines(path: AnyPath) -> Iterator[bytes]:
    """Lines without their ends; of a line beyond the limit its beginning, so memory is bounded."""
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            kept = line
            while line and not line.endswith(b"\n"):
                line = file.readline(_MAX_LINE_BYTES)
            yield kept.removesuffix(b"\n").removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf")


_READERS: dict[str, Callable[[AnyPath, str], _Opened]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _text,
}


def _explained(path: AnyPath, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    while True:
        try:
            batch = next(batches, None)
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
        if batch is None:
            return
        yield batch


def _unreadable(path: AnyPath, error: Exception) -> UsageError:
    words = " ".join(str(error).split())[:200]
    return UsageError(f"URL list {path} cannot be read ({words}); check the file and its encoding")
