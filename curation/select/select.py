"""A part of one or more datasets as a manifest of its own, with a lock that says what it is of.

    SUBSET.parquet      the chosen rows, as a manifest with two further columns (SUBSET_FIELDS)
    SUBSET.lock.json    written last: sources with their hashes, what was asked, what came out

No image is copied: `dataset` and `shard` of a row name the tar that holds it. The same manifests
and the same question give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from annotations_schema.errors import ManifestError, UsageError
from annotations_schema.layout import (
    DatasetLayout,
    holds,
    read_receipt,
    sha256_file,
    subset_root,
    write_json,
)
from annotations_schema.manifest import read_provenance
from annotations_schema.provenance import Provenance
from annotations_schema.storage import AnyPath
from curation.config import require_config
from curation.select.query import Question, Source, SourceManifest, picked_rows
from curation.select.write import write_subset
from curation.tombstone.tombstones import refuse_unfinished

_DISTRIBUTION = "open-insighttok"
_LIBRARIES = (_DISTRIBUTION, "duckdb", "pyarrow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """What was written."""

    path: AnyPath
    """The subset."""
    lock: AnyPath
    """Its lock."""
    rows: int
    counts: dict[str, Any]
    """Rows and regions by stage of the choice; see `select`."""


def lock_path(subset: AnyPath) -> AnyPath:
    """The lock of a subset: SUBSET.lock.json beside SUBSET.parquet."""
    return subset.with_name(f"{subset.stem}.lock.json")


def select(
    roots: Sequence[AnyPath], question: Question, out: AnyPath, annotation_set: str
) -> Selected:
    """Write the rows with a usable image that a predicate is true for.

    `counts` holds: `seen` (rows of all sources), `matched` (rows by status that the predicate is
    true for), `not_ok` (matched, without a usable image: left out), `repeated` (left out, because
    an earlier source has the same image_id), `beyond_limit`, `rows`, `text_regions`, `faces` and,
    where the rows were balanced, `strata`.

    Args:
        roots: dataset folders; the subset keeps their order.
        question: which rows, how many, how weighted.
        out: the Parquet file to write.
        annotation_set: whose regions.

    Raises:
        UsageError: no rows, sources by other detectors, or SQL that DuckDB refuses.
        ManifestError: a manifest is not as its receipt says.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out} must end in .parquet; its lock is written beside it")
    sources = [_source(root, out.parent, annotation_set) for root in roots]
    provenance = _provenance(sources, question)
    with picked_rows(sources, question) as picked:
        regions = write_subset(out, sources, picked.rows(), provenance)
    counts = {**picked.counts, **regions}
    write_json(
        lock_path(out),
        {
            "subset": {"path": out.name, "sha256": sha256_file(out), "rows": counts["rows"]},
            "question": asdict(question),
            "annotation_set": annotation_set,
            "counts": counts,
            "sources": [source.to_json() for source in sources],
            "provenance": json.loads(provenance.to_json()),
            "versions": {name: version(name) for name in _LIBRARIES},
        },
    )
    return Selected(path=out, lock=lock_path(out), rows=counts["rows"], counts=counts)


def check_lock(path: AnyPath) -> list[str]:
    """What is no longer as it was when a subset was selected; empty: all is the same.

    Every file is hashed: the subset and every manifest it was selected from.

    Raises:
        UsageError: the file is no lock.
    """
    try:
        lock = json.loads(path.read_text())
        files = [(lock["subset"]["path"], lock["subset"]["sha256"])]
        sources = [
            (source["dataset"], {one["path"]: one["sha256"] for one in source["manifests"]})
            for source in lock["sources"]
        ]
        annotation_set = lock["annotation_set"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: not a lock of `insight-curate select` ({type(error).__name__}: {error}); "
            "select again"
        ) from error
    problems = [*_changed(path.parent, dict(files))]
    for dataset, manifests in sources:
        root = subset_root(dataset, path.parent)
        problems.extend(_changed(root, manifests))
        layout = DatasetLayout(root, annotation_set=annotation_set)
        now = {_relative(layout, shard) for shard in layout.shards_planned() if _has(layout, shard)}
        problems.extend(f"{root / name}: published since" for name in sorted(now - set(manifests)))
    return problems


def _changed(root: AnyPath, files: dict[str, str]) -> Iterator[str]:
    for name, expected in files.items():
        path = root / name
        if not path.exists():
            yield f"{path}: absent"
        elif (found := sha256_file(path)) != expected:
            yield f"{path}: sha256 {found[:16]}..., was {expected[:16]}..."


def _source(root: AnyPath, folder: AnyPath, annotation_set: str) -> Source:
    """The published manifests of a dataset as its receipts name them."""
    layout = DatasetLayout(root, annotation_set=annotation_set)
    config = require_config(layout)
    refuse_unfinished(layout)
    manifests = tuple(_published(layout))
    if not manifests:
        raise UsageError(
            f"{root} holds no finished manifest of annotation set {annotation_set!r}; "
            f"run `insight-curate annotate {root}` first"
        )
    return Source(
        root=root,
        dataset=_named_from(root, folder),
        config_sha256=config.sha256,
        manifests=manifests,
    )


def _published(layout: DatasetLayout) -> Iterator[SourceManifest]:
    for shard in layout.shards_planned():
        receipt = read_receipt(layout, "annotate", shard)
        if receipt is None or receipt.set_aside is not None:
            continue
        name = _relative(layout, shard)
        if not holds(layout, receipt, receipt.config_sha256):
            raise ManifestError(
                f"{layout.root / name} is not as its receipt says; run "
                f"`insight-curate verify {layout.root}`"
            )
        yield SourceManifest(path=name, sha256=receipt.outputs[name].sha256, rows=receipt.rows)


def _has(layout: DatasetLayout, shard: str) -> bool:
    receipt = read_receipt(layout, "annotate", shard)
    return receipt is not None and receipt.set_aside is None


def _relative(layout: DatasetLayout, shard: str) -> str:
    return layout.relative(layout.annotations(shard))


def _named_from(root: AnyPath, folder: AnyPath) -> str:
    """A dataset's place as the subset names it: from the subset's folder, so both may move."""
    if isinstance(root, Path) and isinstance(folder, Path):
        return Path(os.path.relpath(root, folder)).as_posix()
    return str(root.absolute())


def _provenance(sources: Sequence[Source], question: Question) -> Provenance:
    """Whose regions these are; one footer can only speak of one text and one face detector."""
    found = [read_provenance(source.files()[0]) for source in sources]
    for source, other in zip(sources, found, strict=True):
        for kind in ("text_detector", "face_detector"):
            ours, theirs = getattr(found[0], kind), getattr(other, kind)
            if ours != theirs:
                raise UsageError(
                    f"{sources[0].root} and {source.root} were annotated by different {kind}s "
                    f"({_name(ours)}, {_name(theirs)}); make a subset of each, the trainer takes "
                    "several"
                )
    asked = {"question": asdict(question), "sources": [source.to_json() for source in sources]}
    return Provenance(
        config_sha256=hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        creator=f"{_DISTRIBUTION} {version(_DISTRIBUTION)}",
        text_detector=found[0].text_detector,
        face_detector=found[0].face_detector,
    )


def _name(record: Any) -> str:
    return "none" if record is None else f"{record.name} at {dict(record.thresholds)}"
