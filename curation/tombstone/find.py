"""Which rows of a dataset a removal concerns, found by reading a few columns of every shard."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from annotations_schema.codes import FailureCode, Status
from annotations_schema.layout import DatasetLayout
from annotations_schema.storage import AnyPath
from curation.plan.urls import canonical_url, image_id_of_url


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The rows of a removal."""

    by_shard: dict[str, list[str]]
    """By planned shard the image_ids of rows that become tombstones."""
    known: frozenset[str]
    """Of the image_ids asked for those that the dataset has."""
    already: int
    """Of them those that are tombstones."""
    copies_left: int
    """Rows that are left although they have the same bytes as one of the others."""


def find_rows(layout: DatasetLayout, asked: Collection[str], *, with_copies: bool) -> Found:
    """The rows that are asked for, those that repeat their URL, and perhaps those of their bytes.

    Args:
        layout: the dataset.
        asked: image_ids.
        with_copies: whether rows whose image has the same bytes are meant too.
    """
    wanted = set(asked)
    by_shard, known, already = _planned(layout, wanted)
    copies = _copies(layout, by_shard)
    if with_copies and copies:
        more, _, _ = _planned(layout, copies)
        by_shard = {
            shard: sorted({*by_shard.get(shard, []), *more.get(shard, [])})
            for shard in sorted({*by_shard, *more})
        }
    return Found(
        by_shard=by_shard,
        known=frozenset(known),
        already=already,
        copies_left=0 if with_copies else len(copies),
    )


def _planned(layout: DatasetLayout, wanted: set[str]) -> tuple[dict[str, list[str]], set[str], int]:
    """By shard the rows with a wanted id or URL; the wanted ids that exist; how many are gone."""
    by_shard: dict[str, list[str]] = {}
    known: set[str] = set()
    already = 0
    for shard in layout.shards_planned():
        ids = []
        for row in _rows(layout.plan(shard), ["image_id", "url", "failure_code"]):
            is_asked = row["image_id"] in wanted
            if is_asked:
                known.add(row["image_id"])
            if row["failure_code"] == FailureCode.REMOVED_ON_REQUEST:
                already += is_asked
            elif is_asked or _repeats(row, wanted):
                ids.append(row["image_id"])
        if ids:
            by_shard[shard] = ids
    return by_shard, known, already


def _repeats(row: dict[str, Any], wanted: set[str]) -> bool:
    if row["failure_code"] != FailureCode.URL_DUPLICATE:
        return False
    return image_id_of_url(canonical_url(row["url"], len(row["url"].encode()))) in wanted


def _copies(layout: DatasetLayout, by_shard: dict[str, list[str]]) -> set[str]:
    """Other rows whose image has the bytes of one that goes."""
    going = {image_id for ids in by_shard.values() for image_id in ids}
    hashes = {
        row["sha256"]
        for shard in by_shard
        for row in _stored(layout, shard)
        if row["image_id"] in going
    }
    if not hashes:
        return set()
    return {
        row["image_id"]
        for shard in layout.shards_planned()
        for row in _stored(layout, shard)
        if row["sha256"] in hashes and row["image_id"] not in going
    }


def _stored(layout: DatasetLayout, shard: str) -> Iterator[dict[str, Any]]:
    for name in layout.fetch_passes(shard):
        for row in _rows(layout.fetch(name), ["image_id", "status", "sha256"]):
            if row["status"] == Status.OK:
                yield row


def _rows(path: AnyPath, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(str(path), columns=columns).to_pylist()
    return rows
