"""A dataset folder: the only place that builds a path, and the receipts that say what is done.

    ROOT/config.json                   the dataset's configuration
    ROOT/plan/000123.parquet           planned rows of shard 000123
    ROOT/images/000123.tar             original bytes
    ROOT/fetch/000123.parquet          one row per planned row
    ROOT/annotations/000123.parquet    the manifest
    ROOT/receipts/STAGE/000123.json    written last: the stage is done with the shard

Everything is published atomically: written beside its target, synced, renamed. Nobody reads a
shard without its receipt.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from annotations_schema.errors import ManifestError

STAGES = ("plan", "fetch", "annotate")
"""Stages of curation, in order."""


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """Paths of one dataset. Shards are named by six-digit strings."""

    root: Path

    @property
    def config(self) -> Path:
        """The dataset's configuration file."""
        return self.root / "config.json"

    def plan(self, shard: str) -> Path:
        """The planned rows of a shard."""
        return self.root / "plan" / f"{shard}.parquet"

    def images(self, shard: str) -> Path:
        """The tar file with a shard's image bytes."""
        return self.root / "images" / f"{shard}.tar"

    def fetch(self, shard: str) -> Path:
        """The fetched rows of a shard."""
        return self.root / "fetch" / f"{shard}.parquet"

    def annotations(self, shard: str) -> Path:
        """The manifest of a shard."""
        return self.root / "annotations" / f"{shard}.parquet"

    def receipt(self, stage: str, shard: str) -> Path:
        """The proof that a stage is done with a shard."""
        return self.root / "receipts" / stage / f"{shard}.json"

    def shards_planned(self) -> list[str]:
        """Shards with a plan receipt, in order."""
        return self._shards_with_receipt("plan")

    def manifests(self) -> list[Path]:
        """Manifests that are published, in order: their annotate receipt stands and gives them."""
        receipts = (
            read_receipt(self, "annotate", shard) for shard in self._shards_with_receipt("annotate")
        )
        published = (r.shard for r in receipts if r is not None and r.set_aside is None)
        return [path for path in map(self.annotations, published) if path.exists()]

    def fetch_passes(self, shard: str) -> list[str]:
        """The passes of fetch that are done with a planned shard, the first one first.

        The first pass has the shard's own name, `000123`; rows that were fetched again are in
        `000123.1`, `000123.2`, ...: each pass has its own tar, fetch table and receipt, and touches
        nothing of the others. A later pass replaces the rows it holds.
        """
        names = [name for name in self._shards_with_receipt("fetch") if base_shard(name) == shard]
        return sorted(names, key=_pass_number)

    def _shards_with_receipt(self, stage: str) -> list[str]:
        folder = self.receipt(stage, "000000").parent
        return sorted(path.stem for path in folder.glob("*.json"))


def base_shard(name: str) -> str:
    """The planned shard that a pass belongs to: `000123` of `000123.2`."""
    return name.partition(".")[0]


def _pass_number(name: str) -> int:
    return int(name.partition(".")[2] or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFile:
    """A file that a stage wrote."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The proof that a stage is done with a shard; written after its outputs."""

    stage: str
    """One of STAGES."""
    shard: str
    """Six-digit shard name."""
    config_sha256: str
    """Hash of the stage's configuration: another configuration makes the shard undone."""
    outputs: Mapping[str, OutputFile]
    """Files by path relative to the dataset's root."""
    rows: int
    """Rows in the shard."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows by status, failure code and whatever else the stage counts."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """What the stage read: hex sha256 by name; another input makes the shard undone."""
    started_at: float = 0.0
    """When the stage began with the shard, seconds since 1970 on its machine's clock."""
    elapsed_s: float = 0.0
    """Wall time of the stage for this shard, seconds."""
    worker: str = ""
    """The process that did it, `HOST:PID`."""
    version: str = ""
    """Version of the software that wrote it."""
    set_aside: str | None = None
    """Why the shard was given up, or None. A shard set aside has no outputs."""


def output_files(layout: DatasetLayout, paths: Iterable[Path]) -> dict[str, OutputFile]:
    """Size and sha256 of each path, keyed by its path relative to the root."""
    return {
        path.relative_to(layout.root).as_posix(): OutputFile(
            bytes=path.stat().st_size, sha256=sha256_file(path)
        )
        for path in paths
    }


def write_receipt(layout: DatasetLayout, receipt: Receipt) -> None:
    """Publish a receipt; its outputs must stand already."""
    write_json(layout.receipt(receipt.stage, receipt.shard), asdict(receipt))


def read_receipt(layout: DatasetLayout, stage: str, shard: str) -> Receipt | None:
    """The receipt, or None where the stage has not finished the shard.

    Raises:
        ManifestError: the file is no receipt.
    """
    path = layout.receipt(stage, shard)
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ManifestError(
            f"{path}: not a receipt ({error}); delete it to redo the shard"
        ) from error
    try:
        outputs = {name: OutputFile(**file) for name, file in fields.pop("outputs").items()}
        return Receipt(outputs=outputs, **fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"{path}: not a receipt ({error}); delete it to redo the shard"
        ) from error


def is_done(layout: DatasetLayout, stage: str, shard: str, config_sha256: str) -> bool:
    """Whether a receipt of this configuration stands and its outputs have their sizes.

    Sizes only, so that a finished dataset of thousands of shards resumes in seconds; `verify`
    compares the hashes.
    """
    receipt = read_receipt(layout, stage, shard)
    if receipt is None or receipt.set_aside is not None or receipt.config_sha256 != config_sha256:
        return False
    return all(
        _size_or_none(layout.root / name) == file.bytes for name, file in receipt.outputs.items()
    )


def config_sha256(config: Any) -> str:
    """sha256 of a dataclass instance as canonical JSON (sorted keys, paths as strings)."""
    text = json.dumps(asdict(config), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Publish a value as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it, rename it over, sync the folder.

    On an error the temporary file is removed and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size_or_none(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
