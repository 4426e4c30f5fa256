"""The fetch stage: a planned shard becomes a tar of images and one row per planned row.

img2dataset's Downloader runs the shard loop (threads, order, memory bound); our opener is its
network, our writer its disk. What it loses is found by comparing with the plan. A further pass of
a shard goes the same way: its plan holds the rows that are fetched again, with their history.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import OpenerDirector

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from annotations_schema.codes import Status
from annotations_schema.columns import INPUT_PREFIX
from annotations_schema.errors import InsightTokError, UsageError
from annotations_schema.layout import (
    DatasetLayout,
    OutputFile,
    Receipt,
    base_shard,
    config_sha256,
    write_receipt,
)
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import Provenance
from annotations_schema.storage import AnyPath
from curation.fetch.closing import ClosingOpener
from curation.fetch.config import FetchConfig
from curation.fetch.connection import Origin
from curation.fetch.hosts import spread
from curation.fetch.log import FetchFacts, FetchLog
from curation.fetch.mismatch import hash_mismatches
from curation.fetch.opener import SafeOpener, installed
from curation.fetch.passthrough import Passthrough, Spool, Spooled, SpoolWriter
from curation.fetch.rows import Row, count_rows, reconcile
from curation.fetch.tar import Member, data_offsets, member_name, write_tar
from curation.fetch.web import Web, open_web
from curation.passes.fetched import REQUEUED_ROWS
from curation.passes.passes import requeue
from curation.plan.urls import canonical_url
from curation.runtime.stage import worker_name
from curation.tombstone.tombstones import tombstoned, tombstoned_ids

_DISTRIBUTION = "open-insighttok"
_IMG2DATASET = "img2dataset"
_COLUMNS_FOR_IMG2DATASET = ("url", "image_id")


class DownloaderError(InsightTokError):
    """img2dataset gave up on a whole shard, or the spool could not be written."""


class FetchStage:
    """Downloads one shard at a time. Cheap and picklable until opened.

    Args:
        root: the dataset's folder.
        config: limits and policies.
    """

    name = "fetch"

    def __init__(self, root: AnyPath, config: FetchConfig) -> None:
        self.root = root
        self.config = config
        self.config_sha256 = config_sha256(config.for_results)
        self._web: Web | None = None
        self._downloader_class: Callable[..., Any] | None = None

    def open(self) -> None:
        """Import img2dataset and load the certificates."""
        self._downloader_class = import_downloader()
        self._web = open_web(self.config)

    def close(self) -> None:
        """Close the connections that were kept."""
        if self._web is not None:
            self._web.close()
        self._web = None
        self._downloader_class = None

    def run(self, shard: str) -> Receipt:
        """Fetch a shard, or a further pass of one, from scratch: tar, manifest, then the receipt.

        Rows that the shard's deadline left are planned as the next pass before the receipt stands.

        Raises:
            UsageError: the shard is not planned.
            DownloaderError: img2dataset failed as a whole.
        """
        started, started_at = time.monotonic(), time.time()
        layout = DatasetLayout(self.root)
        plan = _read_plan(layout, shard)
        planned = plan.select(_core_names(plan)).to_pylist()
        _remove_leftovers(layout, shard)
        with layout.working_folder(f"fetch-{shard}") as folder:
            urls = {row["image_id"]: request_url(row) for row in planned if _is_fetched(row)}
            spool, log = self._download(shard, urls, folder)
            rows = reconcile(
                planned, partial(_facts_of, log, urls), spool.entries, self.config.hash_policy
            )
            hash_mismatches(rows, spool, self.config.limits)
            outputs = self._publish(layout, shard, rows, plan, spool)
        num_requeued = requeue(layout, shard, plan, rows)
        receipt = Receipt(
            stage=self.name,
            shard=shard,
            config_sha256=self.config_sha256,
            outputs=outputs,
            rows=len(rows),
            counts={**count_rows(rows), **({REQUEUED_ROWS: num_requeued} if num_requeued else {})},
            started_at=started_at,
            elapsed_s=time.monotonic() - started,
            worker=worker_name(),
            version=version(_DISTRIBUTION),
        )
        write_receipt(layout, receipt)
        return receipt

    def _download(
        self, shard: str, urls: Mapping[str, str], folder: Path
    ) -> tuple[Spool, FetchLog]:
        if self._web is None or self._downloader_class is None:
            raise UsageError("FetchStage.run before open(); a stage is opened once per process")
        log = FetchLog()
        spool = Spool(folder / "images.spool")
        requests = [(url, image_id) for image_id, url in urls.items()]
        with contextlib.closing(spool):
            if requests:
                downloader = self._downloader_class(**self._settings(spool, folder, requests))
                opener: OpenerDirector = SafeOpener(self.config, log, self._web)
                if self.config.shard_deadline_s is not None:
                    closes_at_s = time.monotonic() + self.config.shard_deadline_s
                    opener = ClosingOpener(opener, log, closes_at_s)
                path = _write_requests(folder, spread(requests, _host_of))
                _run_img2dataset(downloader, opener, shard, path, spool)
        return spool, log

    def _publish(
        self,
        layout: DatasetLayout,
        shard: str,
        rows: list[dict[str, Any]],
        plan: pa.Table,
        spool: Spool,
    ) -> dict[str, OutputFile]:
        """Write the tar and the table side by side: disk and hashes wait for no Python."""
        members = place_in_tar(rows, spool, shard)
        tar, table = layout.images(shard), layout.fetch(shard)
        provenance = Provenance(config_sha256=self.config_sha256, creator=_creator())
        with ThreadPoolExecutor(1) as beside:
            tar_written = beside.submit(write_tar, tar, spool.path, members)
            written = write_manifest(table, _with_user_columns(rows, plan), provenance)
        return {layout.relative(tar): tar_written.result(), layout.relative(table): written}

    def _settings(
        self, spool: Spool, folder: Path, requests: Sequence[tuple[str, str]]
    ) -> dict[str, Any]:
        """Arguments of img2dataset's Downloader: its loop and our parts, its other jobs off."""
        return {
            "sample_writer_class": partial(SpoolWriter, spool),
            "resizer": Passthrough(self.config.limits, self.config.max_side, self.config.quality),
            "thread_count": min(self.config.threads, len(requests)),
            "save_caption": False,
            "extract_exif": False,
            "output_folder": str(folder),
            "column_list": list(_COLUMNS_FOR_IMG2DATASET),
            "timeout": self.config.deadline_s,
            "number_sample_per_shard": len(requests),
            "oom_shard_count": 6,
            "compute_hash": None,
            "verify_hash_type": None,
            "encode_format": "original",
            "retries": 0,  # the opener retries, within one deadline
            "user_agent_token": None,
            "disallowed_header_directives": None,  # the opener checks, before the body
        }


def _run_img2dataset(
    downloader: Callable[[tuple[int, str]], tuple[bool, object]],
    opener: OpenerDirector,
    shard: str,
    requests: Path,
    spool: Spool,
) -> None:
    # img2dataset prints; standard output belongs to the command line.
    with installed(opener), contextlib.redirect_stdout(sys.stderr):
        is_done, _ = downloader((int(base_shard(shard)), str(requests)))
    if spool.error is not None:
        raise DownloaderError(f"shard {shard}: {spool.error}; nothing was published")
    if not is_done:
        raise DownloaderError(f"shard {shard}: img2dataset failed; its traceback is on stderr")


def import_downloader() -> Callable[..., Any]:
    """img2dataset's Downloader class.

    Importing the package runs its `__init__`, which loads torch, Ray, pandas and albumentations
    (ten seconds of CPU, hundreds of megabytes, and a request for albumentations' newest version).
    The one module we need wants none of them, so the package is entered without its `__init__`.
    """
    is_loaded = _IMG2DATASET in sys.modules
    if not is_loaded:
        spec = importlib.util.find_spec(_IMG2DATASET)
        if spec is None:
            raise UsageError("img2dataset is not installed; install open-insighttok[curation]")
        sys.modules[_IMG2DATASET] = importlib.util.module_from_spec(spec)
    try:
        module = importlib.import_module(f"{_IMG2DATASET}.downloader")
    finally:
        if not is_loaded:  # whoever imports the package later gets it whole
            del sys.modules[_IMG2DATASET]
    downloader_class: Callable[..., Any] = module.Downloader
    return downloader_class


def request_url(row: Row) -> str:
    """The URL that is requested for an ok row, and the key of its facts in the log."""
    url = row["url"]
    return canonical_url(url, len(url.encode()))


def _host_of(request: tuple[str, str]) -> str:
    return Origin.of(request[0]).authority


def place_in_tar(rows: Sequence[dict[str, Any]], spool: Spool, shard: str) -> list[Member]:
    """The images of ok rows as members of the tar, in the order of the rows.

    The rows get their addresses.
    """
    stored = [row for row in rows if row["status"] == Status.OK]
    members = [_member(row["image_id"], spool.entries[row["image_id"]]) for row in stored]
    for row, member, offset in zip(stored, members, data_offsets(members), strict=True):
        row.update(shard=shard, offset=offset, length=member.length)
    return members


def _member(image_id: str, entry: object) -> Member:
    assert isinstance(entry, Spooled)
    return Member(member_name(image_id, entry.header.format), entry.offset, entry.length)


def _is_fetched(row: Row) -> bool:
    return bool(row["status"] == Status.OK)


def _facts_of(log: FetchLog, urls: Mapping[str, str], row: Row) -> FetchFacts | None:
    return log.get(urls[row["image_id"]])


def _read_plan(layout: DatasetLayout, shard: str) -> pa.Table:
    path = layout.plan(shard)
    if not path.exists():
        raise UsageError(f"shard {shard!r} of {layout.root} is not planned; run plan first")
    return tombstoned(pq.read_table(str(path)), tombstoned_ids(layout))


def _core_names(plan: pa.Table) -> list[str]:
    return [name for name in plan.column_names if not name.startswith(INPUT_PREFIX)]


def _with_user_columns(rows: Sequence[Mapping[str, Any]], plan: pa.Table) -> pa.Table:
    # User columns are carried over as Arrow columns: no type of theirs passes through Python.
    table = table_from_rows(rows)
    for field in plan.schema:
        if field.name.startswith(INPUT_PREFIX):
            table = table.append_column(field, plan.column(field.name))
    return table


def _write_requests(folder: Path, requests: Sequence[tuple[str, str]]) -> Path:
    path = folder / "requests.feather"
    columns = [pa.array(values, pa.string()) for values in zip(*requests, strict=True)]
    table = pa.Table.from_arrays(columns, names=list(_COLUMNS_FOR_IMG2DATASET))
    feather.write_feather(table, str(path), compression="uncompressed")
    return path


def _remove_leftovers(layout: DatasetLayout, shard: str) -> None:
    """Remove the temporary outputs of a killed run of this shard."""
    for temporary in _temporaries(layout.images(shard), layout.fetch(shard)):
        temporary.unlink(missing_ok=True)


def _temporaries(*paths: AnyPath) -> Iterator[AnyPath]:
    for path in paths:
        yield from path.parent.glob(f".{path.name}.*.tmp")


def _creator() -> str:
    return f"{_DISTRIBUTION} {version(_DISTRIBUTION)}"
