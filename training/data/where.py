"""Which rows of a manifest an SQL predicate is true for.

DuckDB answers, on a table in memory: it can reach no file, no network and no setting. The predicate
must be one expression whose value is the same every time, or a resumed run would train on others.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotations_schema import read_manifest
from annotations_schema.errors import UsageError
from annotations_schema.storage import AnyPath

_ROW = "row of this manifest"
# Bound to the clock, to chance, or to the order of rows, yet not listed by DuckDB as volatile.
_UNSTEADY = {"current_time", "current_timestamp", "localtime", "localtimestamp"}
_MAX_MESSAGE_CHARACTERS = 300


class Where:
    """A checked predicate; use it as a context.

    Args:
        predicate: an SQL expression over the columns of a manifest.

    Raises:
        UsageError: not one expression, or one whose value may change from run to run.
    """

    def __init__(self, predicate: str) -> None:
        self._predicate = predicate
        self._connection = duckdb.connect(config={"enable_external_access": False})
        try:
            self._check()
        except BaseException:
            self._connection.close()
            raise
        self._connection.execute("set lock_configuration = true")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def rows(self, path: AnyPath) -> NDArray[np.bool_]:
        """For which rows (N,) of a manifest it is true; null is not.

        Raises:
            UsageError: DuckDB refuses it, as where a column does not exist; near ones are named.
        """
        schema = pq.read_schema(str(path))
        # On no rows, against every column: a misspelt one is told before anything is read.
        self._ask(path, _numbered(schema.empty_table()))
        # A column that is meant is written out in the predicate; others need not be read.
        spelt = self._predicate.lower().replace('""', '"')
        columns = [name for name in schema.names if name.lower() in spelt]
        table = read_manifest(path, columns=columns or ["status"])
        chosen = np.zeros(table.num_rows, dtype=np.bool_)
        chosen[self._ask(path, _numbered(table))] = True
        return chosen

    def _ask(self, path: AnyPath, table: pa.Table) -> NDArray[np.int64]:
        # A line break: a comment in the predicate ends with its line.
        sql = f'select "{_ROW}" from manifest where (\n{self._predicate}\n)'
        try:
            self._connection.register("manifest", table)
            found = self._connection.execute(sql).fetchnumpy()
        except duckdb.Error as error:
            raise UsageError(
                f"--where {self._predicate!r} is refused for {path}: {_line(error)}"
            ) from error
        return np.asarray(found[_ROW], dtype=np.int64)

    def _check(self) -> None:
        try:
            # DuckDB's own parser: a second statement or an early bracket does not pass.
            parsed = str(duckdb.SQLExpression(self._predicate)).lower()
        except duckdb.Error as error:
            raise UsageError(
                f"--where {self._predicate!r} is not one SQL expression: {_line(error)}"
            ) from error
        named = "select distinct function_name from duckdb_functions() where stability <> ?"
        volatile = {name for (name,) in self._connection.execute(named, ["CONSISTENT"]).fetchall()}
        words = set(re.findall(r"\w+", re.sub(r"'(?:[^']|'')*'", "", parsed)))
        if "select" in words:
            raise UsageError(
                f"--where {self._predicate!r} asks a question of its own; it may only look at the "
                "columns of one row"
            )
        if unsteady := words & (volatile | _UNSTEADY):
            raise UsageError(
                f"--where {self._predicate!r} calls {min(unsteady)}, whose result differs from run "
                "to run; choose by columns"
            )


def _numbered(table: pa.Table) -> pa.Table:
    # Enumerations as plain text: a word that is none of them is then just unequal.
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            values = table.column(number).cast(field.type.value_type)
            table = table.set_column(number, field.name, values)
    return table.append_column(_ROW, pa.array(np.arange(table.num_rows, dtype=np.int64)))


def _line(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without its drawing of where."""
    text = re.split(r"\n+LINE ", str(error))[0]
    return " ".join(text.split())[:_MAX_MESSAGE_CHARACTERS]
