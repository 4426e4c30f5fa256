"""Which rows of some manifests SQL chooses, and how heavy each weighs; nothing is written.

DuckDB asks the manifests through Arrow, so that a question reads the columns it names and skips row
groups by their statistics. It may touch nothing else: no file, no network, no setting. What a
predicate is true for is kept as (source, source_row, weight), on disk where memory runs out.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from annotations_schema.codes import Status
from annotations_schema.errors import UsageError
from annotations_schema.storage import AnyPath, RemotePath

MEMORY_LIMIT = "1GB"
"""Most that DuckDB holds before it spills to the system's temporary folder."""
MAX_STRATA = 10_000
MAX_MESSAGE_CHARACTERS = 300
# Besides DuckDB's volatile functions: words that it binds to the clock, and what takes the rows
# that happen to come first.
_UNSTEADY = {
    *("current_time", "current_timestamp", "localtime", "localtimestamp"),
    *("limit", "any_value", "arbitrary"),
}
_BATCH_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Which rows, how many, how weighted. SQL expressions are DuckDB's."""

    where: str
    """A row with a usable image is chosen where this is true."""
    weight: str | None = None
    """Weight of a chosen row, not negative; scaled to a mean of 1."""
    balance: str | None = None
    """Rows with equal values of this are a stratum; every stratum weighs the same in all."""
    limit: int | None = None
    """Most rows; a random choice where there are more."""
    seed: int = 0
    """The same seed makes the same choice, and a smaller limit a part of it."""

    def __post_init__(self) -> None:
        if self.weight is not None and self.balance is not None:
            raise UsageError("--weight and --balance both set the weights; give one")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit} must be at least 1")


class SourceManifest(NamedTuple):
    """A published manifest as its receipt names it: path from the dataset's root, hash, rows."""

    path: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A dataset to select from."""

    root: AnyPath
    dataset: str
    """The root as the subset names it."""
    config_sha256: str
    """Identity of the dataset's configuration."""
    manifests: tuple[SourceManifest, ...]

    def files(self) -> list[AnyPath]:
        """The manifests in the order of their rows."""
        return [self.root / one.path for one in self.manifests]

    def to_json(self) -> dict[str, Any]:
        """What a lock says of it: nothing that depends on where it lies by chance."""
        return {
            "dataset": self.dataset,
            "config_sha256": self.config_sha256,
            "manifests": [one._asdict() for one in self.manifests],
        }


class Keys(NamedTuple):
    """Chosen rows, ascending: number of the source, source_row, weight; (N,) each."""

    source: NDArray[np.int64]
    source_row: NDArray[np.int64]
    weight: NDArray[np.float64]

    def part(self, rows: slice) -> Keys:
        """Some of the keys."""
        return Keys(self.source[rows], self.source_row[rows], self.weight[rows])


class Picked:
    """The chosen rows, while the connection is open."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, counts: dict[str, Any]) -> None:
        self._connection = connection
        self.counts = counts

    def rows(self) -> Iterator[Keys]:
        """The chosen rows in the order of the sources and their lists, in batches."""
        ordered = "select source, source_row, weight from weighed order by source, source_row"
        for batch in self._connection.sql(ordered).to_arrow_reader(_BATCH_ROWS):
            yield Keys(*(np.asarray(column) for column in batch.columns))


@contextmanager
def picked_rows(sources: Sequence[Source], question: Question) -> Iterator[Picked]:
    """The rows that a question chooses.

    Raises:
        UsageError: SQL that is no single expression, that DuckDB refuses, or whose result may
            differ from run to run; weights that are none; or no row is chosen.
    """
    with (
        tempfile.TemporaryDirectory(prefix="insight-select-") as folder,
        duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": folder}) as con,
    ):
        for name in ("where", "weight", "balance"):
            _check_expression(con, name, getattr(question, name))
        try:
            _open(con, sources)
            yield Picked(con, _pick(con, sources, question))
        except duckdb.Error as error:
            raise UsageError(_refused(question, error)) from error


def _check_expression(con: duckdb.DuckDBPyConnection, name: str, sql: str | None) -> None:
    """Refuse what is more than an expression, and what is another one every time."""
    if sql is None:
        return
    try:
        # DuckDB's own parser: a second statement or an early bracket does not pass.
        parsed = str(duckdb.SQLExpression(sql)).lower()
    except duckdb.Error as error:
        raise UsageError(f"--{name} {sql!r} is not one SQL expression: {_line(error)}") from error
    volatile = con.execute(
        "select distinct function_name from duckdb_functions() where stability <> 'CONSISTENT'"
    ).fetchall()
    without_text = re.sub(r"'(?:[^']|'')*'", "", parsed)
    unsteady = _UNSTEADY | {one for (one,) in volatile}
    called = set(re.findall(r"\w+", without_text)) & unsteady
    if called:
        raise UsageError(
            f"--{name} {sql!r} calls {min(called)}, whose result differs from run to run; "
            "for a random part use --limit and --seed"
        )


def _open(con: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
    """The view `manifest` over all sources; then nothing else can be reached or set."""
    parts = []
    for number, source in enumerate(sources):
        con.register(f"source_{number}", _dataset(source))
        name = source.dataset.replace("'", "''")
        parts.append(f"select *, '{name}' as dataset, {number} as source from source_{number}")
    con.execute(f"create view manifest as {' union all by name '.join(parts)}")
    con.execute("set enable_external_access = false")
    con.execute("set lock_configuration = true")


def _dataset(source: Source) -> ds.Dataset:
    if not isinstance(source.root, RemotePath):
        return ds.dataset([str(one) for one in source.files()])
    filesystem, root = FileSystem.from_uri(str(source.root))
    return ds.dataset([f"{root}/{one.path}" for one in source.manifests], filesystem=filesystem)


def _pick(
    con: duckdb.DuckDBPyConnection, sources: Sequence[Source], question: Question
) -> dict[str, Any]:
    where = f"(\n{question.where}\n)"  # a comment in it ends with its line
    by_status = f"select status, count(*) from manifest where {where} group by status order by 1"
    matched = dict(con.execute(by_status).fetchall())
    value = "null" if question.balance is None else f"(\n{question.balance}\n)::varchar"
    weight = "1" if question.weight is None else f"(\n{question.weight}\n)"
    con.execute(
        f"create temp table chosen as select source, source_row, image_id, {value} as stratum, "
        f"{weight}::double as weight from manifest where status = 'ok' and {where}"
    )
    found = matched.get(Status.OK.value, 0)
    distinct = _drop_repeated(con) if len(sources) > 1 else found
    if question.limit is not None:
        _draw(con, question.limit, question.seed)
    (rows,) = _one(con, "select count(*) from chosen")
    counts = {
        "seen": sum(one.rows for source in sources for one in source.manifests),
        "matched": matched,
        "not_ok": sum(matched.values()) - found,
        "repeated": found - distinct,
        "beyond_limit": distinct - rows,
        "rows": rows,
    }
    if not rows:
        raise UsageError(
            f"no row is chosen: of {counts['seen']:,} rows --where {question.where!r} is true for "
            f"{sum(matched.values()):,}, none of them with a usable image; change --where"
        )
    return counts | _weigh(con, question, rows)


def _drop_repeated(con: duckdb.DuckDBPyConnection) -> int:
    """An image_id is one URL: where several datasets have it, the first one's row stays."""
    con.execute(
        "create temp table first as select * from chosen qualify "
        "row_number() over (partition by image_id order by source, source_row) = 1"
    )
    con.execute("drop table chosen")
    con.execute("alter table first rename to chosen")
    (rows,) = _one(con, "select count(*) from chosen")
    return int(rows)


def _draw(con: duckdb.DuckDBPyConnection, limit: int, seed: int) -> None:
    # The lowest hashes: a choice that needs no generator and does not depend on the order of rows.
    con.execute(
        "create temp table drawn as select * from chosen "
        f"order by md5(concat({seed:d}, ' ', image_id)), image_id limit {limit:d}"
    )
    con.execute("drop table chosen")
    con.execute("alter table drawn rename to chosen")


def _weigh(con: duckdb.DuckDBPyConnection, question: Question, rows: int) -> dict[str, Any]:
    """Table `weighed`: the chosen rows with weights of mean 1."""
    if question.balance is None:
        mean = 1.0 if question.weight is None else _mean_weight(con, question.weight, rows)
        con.execute(
            "create temp view weighed as select source, source_row, "
            f"weight / {mean!r}::double as weight from chosen"
        )
        return {}
    by_size = "select stratum, count(*) as rows from chosen group by stratum"
    (num_strata,) = _one(con, f"select count(*) from ({by_size})")
    if num_strata > MAX_STRATA:
        raise UsageError(
            f"--balance {question.balance!r} makes {num_strata:,} strata of {rows:,} rows; at most "
            f"{MAX_STRATA:,} are balanced: round or group the value"
        )
    con.execute(f"create temp table strata as {by_size}")
    con.execute(
        "create temp view weighed as select source, source_row, "
        f"{rows}::double / ({num_strata} * strata.rows) as weight from chosen join strata "
        "on chosen.stratum is not distinct from strata.stratum"
    )
    strata = con.execute("select stratum, rows from strata order by stratum nulls last").fetchall()
    return {"strata": {str(stratum): count for stratum, count in strata}}


def _mean_weight(con: duckdb.DuckDBPyConnection, sql: str, rows: int) -> float:
    is_bad = "weight is null or not isfinite(weight) or weight < 0"
    bad, example = _one(con, f"select count(*), min(image_id) from chosen where {is_bad}")
    if bad:
        raise UsageError(
            f"--weight {sql!r} is null, negative or not finite in {bad:,} of {rows:,} rows, one is "
            f"image_id {example}; leave them out with --where, or give them a weight with coalesce"
        )
    # An exact sum: it depends neither on threads nor on the order of rows.
    batches = con.sql("select weight from chosen").to_arrow_reader(_BATCH_ROWS)
    try:
        mean = math.fsum(one for batch in batches for one in batch.column(0).to_pylist()) / rows
    except OverflowError as error:
        raise UsageError(f"--weight {sql!r} adds up to infinity; scale it down") from error
    if mean < sys.float_info.min:
        raise UsageError(f"--weight {sql!r} is 0 in every row; some row must weigh something")
    return mean


def _one(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    (row,) = con.execute(sql).fetchall()
    return tuple(row)


def _refused(question: Question, error: duckdb.Error) -> str:
    asked = {name: sql for name, sql in asdict(question).items() if isinstance(sql, str)}
    given = " ".join(f"--{name} {sql!r}" for name, sql in asked.items())
    return f"DuckDB refuses {given}: {_line(error)}"


def _line(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without its drawing of where."""
    text = str(error).partition("\n\nLINE ")[0].partition("\nLINE ")[0]
    return " ".join(text.split())[:MAX_MESSAGE_CHARACTERS]
