"""Remove images and their regions from a dataset that others read already, with a receipt.

In an order that a kill at any point leaves finishable, each file published atomically:

    0. receipts of annotate that are stale already go
    1. the receipt, unfinished: ids, shards, every file with its hash as it was
    2. the list tombstones.parquet: from now on nothing of it is fetched
    3. in each shard: plan, tar, fetch table of every pass; manifests of all annotation sets;
       then their receipts
    4. the receipt, finished: every file with its hash as it is now

Each step looks at what is there and does only what is missing, so that `resume` is the same walk
again. Until 4 no run may begin (`tombstones.refuse_unfinished`). Rows stay; see
`tombstones.tombstoned` for what they still say.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from annotations_schema.codes import FailureCode
from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, write_json
from annotations_schema.seal import sealed
from annotations_schema.storage import AnyPath
from curation.config import require_config
from curation.lock import Check, exclusive
from curation.plan.urls import UrlError, canonical_url, image_id_of_url
from curation.runtime.stage import worker_name
from curation.tombstone.find import find_rows
from curation.tombstone.shard import (
    annotation_sets,
    drop_stale_receipts,
    num_images,
    remove_from_shard,
    shard_files,
)
from curation.tombstone.tombstones import (
    STAGE,
    add_tombstones,
    last_receipt,
    refuse_unfinished,
    unfinished,
)

_IMAGE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What a removal did."""

    rows: int
    """Rows that are tombstones by it."""
    already: int = 0
    """Rows asked for that were tombstones before."""
    images: int = 0
    """Images that the tars held."""
    files: int = 0
    """Files that were written anew, receipts of stages not counted."""
    copies_left: int = 0
    """Other rows whose image has the same bytes as one that was removed."""
    unknown: tuple[str, ...] = ()
    """Lines that name no row of the dataset."""
    receipt: str | None = None
    """The receipt; None where nothing was to be done."""


def read_ids(path: Path) -> dict[str, str]:
    """The image_ids that a text file asks for, each with the line that does; empty lines pass.

    Raises:
        UsageError: the file cannot be read, asks for nothing, or has a line that is neither an
            image_id nor a URL.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a text file of ids") from error
    asked = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line:
            asked[_image_id(path, number, line)] = line
    if not asked:
        raise UsageError(f"{path} is empty; write one image_id or URL on each line")
    return asked


def _image_id(path: Path, number: int, line: str) -> str:
    if _IMAGE_ID.fullmatch(line):
        return line
    try:
        return image_id_of_url(canonical_url(line, len(line.encode())))
    except UrlError as error:
        raise UsageError(
            f"{path}, line {number}: {line[:80]!r} is neither an image_id (32 hex digits) nor a "
            f"URL ({error.detail}); nothing was removed"
        ) from error


def tombstone(layout: DatasetLayout, asked: dict[str, str], *, with_copies: bool) -> Removed:
    """Remove images from a dataset; unknown ids are told, the others go.

    Rows that repeat the URL of a removed row become tombstones too.

    Args:
        layout: the dataset.
        asked: image_ids, each with what the user wrote for it.
        with_copies: also remove rows whose image has the same bytes as a removed one.

    Raises:
        UsageError: it is not a dataset, somebody works on it, or an earlier removal is unfinished.
    """
    require_config(layout)
    with exclusive(layout) as check_lock:
        refuse_unfinished(layout)
        found = find_rows(layout, asked, with_copies=with_copies)
        unknown = tuple(line for image_id, line in asked.items() if image_id not in found.known)
        if not found.by_shard:
            return Removed(rows=0, already=found.already, unknown=unknown)
        receipt = _begin(layout, found.by_shard)
        done = _carry_out(layout, receipt, check_lock)
    return Removed(
        rows=len(receipt["image_ids"]),
        already=found.already,
        images=done["images"],
        files=len(done["files"]),
        copies_left=found.copies_left,
        unknown=unknown,
        receipt=str(_receipt_path(layout, receipt["number"])),
    )


def resume(layout: DatasetLayout) -> Removed:
    """Finish the removal that was interrupted; nothing is done where there is none.

    Raises:
        UsageError: it is not a dataset, or somebody works on it.
    """
    require_config(layout)
    with exclusive(layout) as check_lock:
        receipt = unfinished(layout)
        if receipt is None:
            return Removed(rows=0)
        done = _carry_out(layout, receipt, check_lock)
    return Removed(
        rows=len(receipt["image_ids"]),
        images=done["images"],
        files=len(done["files"]),
        receipt=str(_receipt_path(layout, receipt["number"])),
    )


def _begin(layout: DatasetLayout, by_shard: dict[str, list[str]]) -> dict[str, Any]:
    last = last_receipt(layout)
    for shard in by_shard:
        drop_stale_receipts(layout, shard)
    before = {
        name: {"bytes": file.bytes, "sha256": file.sha256}
        for shard in by_shard
        for name, file in shard_files(layout, shard).items()
    }
    number = 0 if last is None else last["number"] + 1
    receipt: dict[str, Any] = {
        "number": number,
        "code": FailureCode.REMOVED_ON_REQUEST.value,
        "requested_at": time.time(),
        "finished_at": None,
        "worker": worker_name(),
        "version": version("open-insighttok"),
        "image_ids": sorted(image_id for ids in by_shard.values() for image_id in ids),
        "shards": sorted(by_shard),
        "annotation_sets": annotation_sets(layout),
        "images": _num_images(layout, by_shard),
        "before": before,
    }
    write_json(_receipt_path(layout, number), sealed(receipt))
    return receipt


def _carry_out(layout: DatasetLayout, receipt: dict[str, Any], check_lock: Check) -> dict[str, Any]:
    image_ids = pa.array(receipt["image_ids"], pa.string())
    add_tombstones(layout, receipt["image_ids"])
    for shard in receipt["shards"]:
        check_lock()
        remove_from_shard(layout, shard, image_ids)
    before = receipt["before"]
    now = {
        name: {"bytes": file.bytes, "sha256": file.sha256}
        for shard in receipt["shards"]
        for name, file in shard_files(layout, shard).items()
    }
    files = {
        name: {"before": before.get(name), "after": now.get(name)}
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    }
    finished = {name: value for name, value in receipt.items() if name != "before"} | {
        "finished_at": time.time(),
        "files": files,
        "images": receipt["images"] - _num_images(layout, receipt["shards"]),
    }
    write_json(_receipt_path(layout, receipt["number"]), sealed(finished))
    return finished


def _num_images(layout: DatasetLayout, shards: Iterable[str]) -> int:
    return sum(num_images(layout, shard) for shard in shards)


def _receipt_path(layout: DatasetLayout, number: int) -> AnyPath:
    return layout.receipt(STAGE, f"{number:06d}")
