"""The plan: a URL list becomes shards of rows, each with an image_id or a failure code.

    list.parquet | list.csv | list.txt  ->  plan/000000.parquet, plan/000001.parquet, ...

Deterministic: the same list and configuration give the same files. Rows are conserved: each row of
the list is one planned row, in order; a row without a usable URL, and every later row with the
same canonical URL, carries a failure code instead of being left out.

The list is read twice, in batches: the URLs alone to find the duplicates (on disk, 24 bytes a row,
see `duplicates`), then everything to write the shards. Memory does not grow with the list.

All or nothing: shards are written into a private folder and moved into place when the whole list
has been read, so a list that breaks off in the middle leaves the dataset as it was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    OutputFile,
    Receipt,
    atomic_write,
    config_sha256,
    is_done,
    read_receipt,
    sha256_file,
    write_receipt,
)
from annotations_schema.storage import AnyPath
from curation.plan.duplicates import Duplicates
from curation.plan.planned_rows import judge_urls
from curation.plan.row_progress import RowProgress
from curation.plan.table import counts_of, in_shards, plan_table
from curation.plan.url_list import URL_COLUMN_OF_TEXT, UrlList, open_list
from curation.runtime.stage import worker_name

SHARDS_IN_LIST = "shards_in_list"
"""Key in a plan receipt's counts: how many shards the whole list has."""

_STAGE = "plan"
_DISTRIBUTION = "open-insighttok"
_MAX_SHARDS = 1_000_000  # six digits
_MAX_SHARD_SIZE = 100_000
_SYNCING_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """How a URL list is read and cut into shards."""

    url_column: str = URL_COLUMN_OF_TEXT
    """Column with the URL; a txt list has one URL a line and no other column."""
    caption_column: str | None = None
    """Column with the caption, or None."""
    sha256_column: str | None = None
    """Column with the expected sha256 of the image file, hex or 32 bytes, or None."""
    license_column: str | None = None
    """Column with the image's licence, SPDX id or URL, or None."""
    shard_size: int = 1000
    """Rows in a shard."""
    max_url_bytes: int = 4096
    """Longest URL, UTF-8 bytes; a longer one is cut in the manifest and not fetched."""

    def __post_init__(self) -> None:
        if not 1 <= self.shard_size <= _MAX_SHARD_SIZE:
            raise UsageError(f"shard_size is {self.shard_size}; choose 1 to {_MAX_SHARD_SIZE} rows")
        if not 16 <= self.max_url_bytes <= 16_384:
            raise UsageError(f"max_url_bytes is {self.max_url_bytes}; choose 16 to 16384")
        named = (self.url_column, *self.other_columns)
        if len(set(named)) < len(named):
            raise UsageError(f"columns {named}: one column has two roles; name each column once")

    @property
    def other_columns(self) -> tuple[str, ...]:
        """The columns with a role beside the URL's."""
        roles = (self.caption_column, self.sha256_column, self.license_column)
        return tuple(name for name in roles if name is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanIdentity:
    """What makes two plans the same plan; its hash stands in every plan receipt."""

    source_name: str
    source_sha256: str
    config: PlanConfig


def plan(source: AnyPath, layout: DatasetLayout, config: PlanConfig) -> list[str]:
    """Plan a URL list into a dataset folder and return the shards, in order.

    A list that is planned already costs reading it once for its hash. What takes long is told on
    stderr.

    Raises:
        UsageError: the list is missing, empty, unreadable, too long for shards of this size, or
            lacks a column; or the folder holds the plan of another list or configuration.
            Nothing was written then.
    """
    identity = _identity(source, config)
    fingerprint = config_sha256(identity)
    _check_not_another_plan(layout, fingerprint, source)
    done = _finished_shards(layout, fingerprint)
    if done:
        return done
    url_list = open_list(source, config.url_column, config.other_columns)
    _check_num_shards(url_list, url_list.num_rows or 0, config.shard_size)
    with _private_folder(layout) as folder:
        duplicates = Duplicates(folder)
        num_rows = _find_duplicates(url_list, duplicates, config)
        facts = folder / "facts.jsonl"
        with facts.open("w") as lines:
            for fact in _write_shards(url_list, duplicates, num_rows, folder, config):
                lines.write(json.dumps(fact) + "\n")
        shards = [f"{number:06d}" for number in range(-(-num_rows // config.shard_size))]
        _in_threads(lambda shard: _publish(folder, layout, shard), shards)
        with facts.open() as lines:
            receipts = (_receipt(json.loads(line), fingerprint, len(shards)) for line in lines)
            _in_threads(lambda receipt: write_receipt(layout, receipt), receipts)
    return shards


def _identity(source: AnyPath, config: PlanConfig) -> PlanIdentity:
    try:
        digest = sha256_file(source)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise UsageError(f"URL list {source}: {reason}; give a readable file") from error
    return PlanIdentity(source_name=source.name, source_sha256=digest, config=config)


def _check_not_another_plan(layout: DatasetLayout, fingerprint: str, source: AnyPath) -> None:
    for shard in layout.shards_planned():
        receipt = read_receipt(layout, _STAGE, shard)
        if receipt is not None and receipt.config_sha256 != fingerprint:
            raise UsageError(
                f"{layout.root} holds the plan of another URL list or configuration than "
                f"{source.name}; choose another folder, or delete this one to plan anew"
            )


def _finished_shards(layout: DatasetLayout, fingerprint: str) -> list[str]:
    """All shards of a plan that stands complete; none where one is missing."""
    layout = layout.as_found()
    shards = layout.shards_planned()
    first = read_receipt(layout, _STAGE, shards[0]) if shards else None
    if first is None or len(shards) != first.counts[SHARDS_IN_LIST]:
        return []
    is_whole = all(is_done(layout, _STAGE, shard, fingerprint) for shard in shards)
    return shards if is_whole else []


@contextmanager
def _private_folder(layout: DatasetLayout) -> Iterator[Path]:
    """A folder for what is not published yet. On error a plan that was begun here goes again."""
    is_new, has_plan = not layout.root.exists(), bool(layout.shards_planned())
    try:
        with layout.working_folder(_STAGE) as folder:
            yield folder
    except BaseException:
        with suppress(OSError):  # the disk may be the error
            if is_new and isinstance(layout.root, Path):
                shutil.rmtree(layout.root)
            elif not has_plan:
                _remove_plan(layout)
        raise


def _remove_plan(layout: DatasetLayout) -> None:
    """Receipts first: a receipt never stands without its table."""
    for path in (layout.receipt(_STAGE, "000000"), layout.plan("000000")):
        folder = path.parent
        for published in folder.glob(f"*{path.suffix}") if folder.is_dir() else ():
            published.unlink()
        if isinstance(folder, Path) and folder.is_dir():
            folder.rmdir()


def _check_num_shards(url_list: UrlList, num_rows: int, shard_size: int) -> None:
    if num_rows <= _MAX_SHARDS * shard_size:
        return
    least = -(-num_rows // _MAX_SHARDS)
    mend = (
        f"choose --shard-size {least} or more"
        if least <= _MAX_SHARD_SIZE
        else "cut it into several lists, each with a dataset of its own"
    )
    raise UsageError(
        f"URL list {url_list.path} has {num_rows:,} rows or more, which makes over "
        f"{_MAX_SHARDS:,} shards of {shard_size:,} rows; {mend}"
    )


def _find_duplicates(url_list: UrlList, duplicates: Duplicates, config: PlanConfig) -> int:
    """Read the URLs alone; returns the number of rows."""
    num_rows = 0
    with RowProgress("reading URLs", url_list.num_rows) as progress:
        for batch in url_list.url_batches():
            for urls in batch.column(config.url_column).chunks:
                judged = judge_urls(urls, config.max_url_bytes)
                is_usable = np.ones(len(urls), np.bool_)
                is_usable[list(judged.rejections)] = False
                usable = np.flatnonzero(is_usable)
                duplicates.add(judged.image_ids[usable], usable + num_rows)
                num_rows += len(urls)
            _check_num_shards(url_list, num_rows, config.shard_size)
            progress.add(len(batch))
    if not num_rows:
        raise UsageError(f"URL list {url_list.path} has no rows; give a list with URLs")
    duplicates.find()
    return num_rows


def _write_shards(
    url_list: UrlList,
    duplicates: Duplicates,
    num_rows: int,
    folder: Path,
    config: PlanConfig,
) -> Iterator[dict[str, Any]]:
    """Write each shard into the folder, and yield what its receipt will say."""
    first_row = 0
    with RowProgress("planning", num_rows) as progress:
        for batch in in_shards(url_list.batches(), config.shard_size):
            started, started_at = time.monotonic(), time.time()
            is_duplicate = duplicates.among(first_row, first_row + len(batch))
            table = plan_table(batch, first_row, url_list.path.name, config, is_duplicate)
            shard = f"{first_row // config.shard_size:06d}"
            path = folder / f"{shard}.parquet"
            pq.write_table(table, str(path), compression="zstd")
            yield {
                "shard": shard,
                "rows": len(table),
                "counts": counts_of(table),
                "output": {"bytes": path.stat().st_size, "sha256": sha256_file(path)},
                "started_at": started_at,
                "elapsed_s": time.monotonic() - started,
            }
            first_row += len(table)
            progress.add(len(table))
    if first_row != num_rows:
        raise UsageError(
            f"URL list {url_list.path} had {num_rows} rows and then {first_row}: it changed while "
            "it was read; plan again when it is complete"
        )


def _in_threads(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do small writes side by side: each waits for its disk."""
    waiting = iter(items)
    with ThreadPoolExecutor(_SYNCING_THREADS) as pool:
        while some := list(islice(waiting, 32 * _SYNCING_THREADS)):
            list(pool.map(work, some))


def _publish(folder: Path, layout: DatasetLayout, shard: str) -> None:
    with atomic_write(layout.plan(shard)) as temporary:
        (folder / f"{shard}.parquet").replace(temporary)


def _receipt(fact: dict[str, Any], fingerprint: str, num_shards: int) -> Receipt:
    shard = fact["shard"]
    return Receipt(
        stage=_STAGE,
        shard=shard,
        config_sha256=fingerprint,
        outputs={f"plan/{shard}.parquet": OutputFile(**fact["output"])},
        rows=fact["rows"],
        counts={**fact["counts"], SHARDS_IN_LIST: num_shards},
        started_at=fact["started_at"],
        elapsed_s=fact["elapsed_s"],
        worker=worker_name(),
        version=version(_DISTRIBUTION),
    )
