"""Whether servers sent what the list promised: placeholders, re-encoded and replaced images.

Two questions, both from the published tables:

1. **The same bytes from many hosts.** A parked domain, a "removed" picture or a block page answers
   every URL with one file. It has one `sha256_received` under many hosts.
2. **Other bytes than the list expects.** Re-encoding by a host is harmless; another image under
   the old URL is how a dataset is poisoned. A hash alone cannot tell them apart, so a mismatch is
   judged only by evidence, in this order, and else said to be unknown:

   - the expected perceptual hash, from a column of the list, or from another row of the dataset
     that received exactly the expected bytes: near is re-encoded, far is different;
   - the expected size, from columns of the list: another shape is different.

   Perceptual hashes must be those of this format (`images.perceptual_hash`), as a list made from
   one of its manifests has them; hashes of other kinds cannot be compared with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotations_schema.columns import INPUT_PREFIX
from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from curation.report.facts import host_of

NEAR_BITS = 10
"""Most differing bits, of 64, between perceptual hashes of one picture."""
SHAPE_TOLERANCE = 0.02
"""Largest relative difference of width / height between sizes of one picture."""
_COLUMNS = (
    *("url", "status", "failure_code", "sha256_expected", "sha256_received", "phash"),
    *("received_width", "received_height"),
)
_PREFIX_DIGITS = 16  # of a sha256 in hex: 8 bytes tell 100 million files apart

Row = dict[str, Any]
Tables = Callable[[], Iterable[pa.Table]]


class Verdict(StrEnum):
    """What a mismatch is, as far as can be known."""

    RE_ENCODED = "re-encoded"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegrityConfig:
    """Which columns of the list give evidence, and what counts as repeated."""

    phash_column: str | None = None
    """Expected perceptual hash: uint64 or 16 hex digits; None: the list has none."""
    width_column: str | None = None
    """Expected width, px."""
    height_column: str | None = None
    """Expected height, px."""
    min_rows: int = 3
    """Fewest rows with the same bytes."""
    min_hosts: int = 2
    """Fewest hosts that sent them."""
    most: int = 20
    """Longest lists."""

    def __post_init__(self) -> None:
        if (self.width_column is None) != (self.height_column is None):
            raise UsageError("--width-col and --height-col belong together; give both or neither")

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns of evidence as manifests name them."""
        named = (self.phash_column, self.width_column, self.height_column)
        return tuple(f"{INPUT_PREFIX}{name}" for name in named if name is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatedBytes:
    """One file that several hosts sent."""

    sha256: str
    rows: int
    num_hosts: int
    hosts: tuple[tuple[str, int], ...]
    """Rows of the hosts that sent it most often."""
    outcome: str
    """Status or failure code of most of the rows."""
    url: str
    """One of its URLs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMismatches:
    """What one host sent in place of what the list expects."""

    host: str
    verdicts: dict[str, int]
    """Rows by verdict."""

    @property
    def rows(self) -> int:
        """Rows whose bytes are not the expected ones."""
        return sum(self.verdicts.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Integrity:
    """What the tables tell of what servers sent."""

    rows_received: int
    """Rows for which bytes arrived."""
    rows_compared: int
    """Those of them for which the list gives a hash."""
    repeated: tuple[RepeatedBytes, ...]
    """Files that several hosts sent, most rows first."""
    num_repeated: int
    """How many there are in all."""
    verdicts: dict[str, int]
    """Rows with other bytes than expected, by verdict."""
    hosts: tuple[HostMismatches, ...]
    """Hosts with most rows that are different, then with most mismatches."""

    @property
    def rows_mismatched(self) -> int:
        """Rows whose bytes are not the expected ones."""
        return sum(self.verdicts.values())


def check_integrity(layout: DatasetLayout, config: IntegrityConfig) -> Integrity:
    """Examine the published manifests of a dataset, reading each twice.

    Raises:
        UsageError: the list has no column of a given name.
    """
    paths = layout.manifests()
    for path in paths[:1]:
        known = pq.read_schema(str(path)).names
        for name in config.input_columns:
            if name not in known:
                raise UsageError(
                    f"the list has no column {name.removeprefix(INPUT_PREFIX)!r}; "
                    f"it has {', '.join(_list_columns(known)) or 'no further columns'}"
                )
    columns = [*_COLUMNS, *config.input_columns]
    return examine(lambda: (read_manifest(path, columns) for path in paths), config)


def examine(tables: Tables, config: IntegrityConfig) -> Integrity:
    """The integrity of rows in tables.

    Args:
        tables: gives the tables afresh each time: they are read twice, so that what is kept of a
            row without findings is eight bytes.
        config: evidence and limits.
    """
    first = _First()
    for table in tables():
        first.take(table)
    second = _Second(first.repeated(config.min_rows), first.expected)
    for table in tables():
        for row in table.to_pylist():
            second.take(row, config)
    repeated = _repeated(second, config)
    by_host = _by_host(second)
    total: Counter[str] = Counter()
    for one in by_host:
        total.update(one.verdicts)
    return Integrity(
        rows_received=first.rows_received,
        rows_compared=first.rows_compared,
        repeated=tuple(repeated[: config.most]),
        num_repeated=len(repeated),
        verdicts={verdict.value: total[verdict] for verdict in Verdict if total[verdict]},
        hosts=tuple(by_host[: config.most]),
    )


def verdict_of(
    phash: int | None,
    expected_phash: int | None,
    size: tuple[int | None, int | None],
    expected_size: tuple[object, object],
) -> Verdict:
    """What can be said of an image whose bytes are not the expected ones.

    Args:
        phash: of the received image; None where it was not decoded.
        expected_phash: None where nobody knows it.
        size: width and height of the received image, px, or None.
        expected_size: likewise.
    """
    if phash is not None and expected_phash is not None:
        is_near = (phash ^ expected_phash).bit_count() <= NEAR_BITS
        return Verdict.RE_ENCODED if is_near else Verdict.DIFFERENT
    ratio, expected = _ratio(*size), _ratio(*expected_size)
    if ratio is None or expected is None:
        return Verdict.UNKNOWN
    # A list may state the size before EXIF orientation turns the image.
    is_same = any(abs(ratio / one - 1) <= SHAPE_TOLERANCE for one in (expected, 1 / expected))
    return Verdict.UNKNOWN if is_same else Verdict.DIFFERENT


class _First:
    """The first reading: which hashes repeat, which are expected and did not come."""

    def __init__(self) -> None:
        self.rows_received = 0
        self.rows_compared = 0
        self.expected: set[str] = set()
        self._prefixes: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]

    def take(self, table: pa.Table) -> None:
        received = table.column("sha256_received").to_pylist()
        wanted = table.column("sha256_expected").to_pylist()
        prefixes = [int(one[:_PREFIX_DIGITS], 16) for one in received if one is not None]
        self._prefixes.append(np.array(prefixes, np.uint64))
        self.rows_received += len(prefixes)
        compared = [pair for pair in zip(received, wanted, strict=True) if None not in pair]
        self.rows_compared += len(compared)
        self.expected.update(want for came, want in compared if came != want)

    def repeated(self, min_rows: int) -> frozenset[int]:
        values, counts = np.unique(np.concatenate(self._prefixes), return_counts=True)
        return frozenset(values[counts >= min_rows].tolist())


@dataclass(slots=True)
class _Sent:
    """Who sent one file."""

    hosts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    url: str = ""


class _Second:
    """The second reading: who sent what repeats, and the evidence on each mismatch."""

    def __init__(self, repeated: frozenset[int], expected: set[str]) -> None:
        self._repeated = repeated
        self._expected = expected
        self.sent: defaultdict[str, _Sent] = defaultdict(_Sent)
        self.phash_of: dict[str, int] = {}
        self.mismatches: list[Row] = []

    def take(self, row: Row, config: IntegrityConfig) -> None:
        received, expected = row["sha256_received"], row["sha256_expected"]
        if received is None:
            return
        if int(received[:_PREFIX_DIGITS], 16) in self._repeated:
            sent = self.sent[received]
            sent.hosts[host_of(row["url"])] += 1
            sent.outcomes[row["failure_code"] or row["status"]] += 1
            sent.url = sent.url or row["url"]
        if received in self._expected and row["phash"] is not None:
            self.phash_of[received] = row["phash"]
        if expected not in (None, received):
            self.mismatches.append(_evidence(row, config))


def _evidence(row: Row, config: IntegrityConfig) -> Row:
    def given(name: str | None) -> Any:
        return None if name is None else row[f"{INPUT_PREFIX}{name}"]

    return {
        "host": host_of(row["url"]),
        "expected": row["sha256_expected"],
        "phash": row["phash"],
        "expected_phash": as_phash(given(config.phash_column)),
        "size": (row["received_width"], row["received_height"]),
        "expected_size": (given(config.width_column), given(config.height_column)),
    }


def as_phash(value: object) -> int | None:
    """A perceptual hash as a list may hold it, an integer or hex digits, in 64 bits; else None."""
    if isinstance(value, str):
        try:
            value = int(value, 16)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value % 2**64 if -(2**63) <= value < 2**64 else None


def _repeated(second: _Second, config: IntegrityConfig) -> list[RepeatedBytes]:
    found = [
        RepeatedBytes(
            sha256=sha256,
            rows=sent.hosts.total(),
            num_hosts=len(sent.hosts),
            hosts=tuple(sent.hosts.most_common(5)),
            outcome=sent.outcomes.most_common(1)[0][0],
            url=sent.url,
        )
        for sha256, sent in second.sent.items()
        if sent.hosts.total() >= config.min_rows and len(sent.hosts) >= config.min_hosts
    ]
    return sorted(found, key=lambda one: (-one.rows, one.sha256))


def _by_host(second: _Second) -> list[HostMismatches]:
    verdicts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in second.mismatches:
        expected_phash = one["expected_phash"]
        if expected_phash is None:
            expected_phash = second.phash_of.get(one["expected"])
        found = verdict_of(one["phash"], expected_phash, one["size"], one["expected_size"])
        verdicts[one["host"]][found.value] += 1
    hosts = [HostMismatches(host=host, verdicts=dict(of)) for host, of in verdicts.items()]
    return sorted(
        hosts, key=lambda one: (-one.verdicts.get(Verdict.DIFFERENT, 0), -one.rows, one.host)
    )


def _ratio(width: object, height: object) -> float | None:
    """Width by height; None where one of them is no positive number."""
    if not isinstance(width, (int, float)) or not isinstance(height, (int, float)):
        return None
    return width / height if width > 0 and height > 0 else None


def _list_columns(names: Iterable[str]) -> Iterator[str]:
    return (name.removeprefix(INPUT_PREFIX) for name in names if name.startswith(INPUT_PREFIX))
