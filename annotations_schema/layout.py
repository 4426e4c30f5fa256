"""A dataset folder: the only place that builds a path, and the receipts that say what is done.

    ROOT/config.json                   the dataset's configuration
    ROOT/plan/000123.parquet           planned rows of shard 000123
    ROOT/images/000123.tar             original bytes
    ROOT/fetch/000123.parquet          one row per planned row
    ROOT/annotations/000123.parquet    the manifest
    ROOT/receipts/STAGE/000123.json    written last: the stage is done with the shard
    ROOT/tombstones.parquet            image_ids that were removed for good

A dataset may hold further annotation sets, made by other detectors from the same images:

    ROOT/annotation_sets/NAME/config.json      how the set is annotated
    ROOT/annotation_sets/NAME/000123.parquet   its manifest of shard 000123
    ROOT/receipts/annotate.NAME/000123.json    its receipt

ROOT is a local path or a place in an object store (annotations_schema.storage). Everything is
published atomically: written beside its target, synced, renamed; in a store, sent as one object.
Nobody reads a shard without its receipt.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from annotations_schema.errors import ManifestError, UsageError
from annotations_schema.listing import Listing
from annotations_schema.seal import SEAL, json_text, sealed
from annotations_schema.storage import AnyPath, RemotePath, ask_many, location

DEFAULT_SET = "default"
"""The annotation set in ROOT/annotations, which every dataset has."""

_SET_NAME = re.compile(r"[a-z0-9_-]{1,64}")

STAGES = ("plan", "fetch", "annotate")
"""Stages of curation, in order."""


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """Paths of one dataset. Shards are named by six-digit strings."""

    root: AnyPath
    annotation_set: str = DEFAULT_SET
    """Whose manifests and annotate receipts are meant."""
    listing: Listing | None = field(default=None, compare=False, repr=False)
    """What is known of the files already; see `as_found`."""

    def __post_init__(self) -> None:
        if not _SET_NAME.fullmatch(self.annotation_set):
            raise UsageError(
                f"annotation set {self.annotation_set!r} is no name; use 1 to 64 of a-z, 0-9, _, -"
            )

    @property
    def config(self) -> AnyPath:
        """The dataset's configuration file."""
        return self.root / "config.json"

    def plan(self, shard: str) -> AnyPath:
        """The planned rows of a shard."""
        return self.root / "plan" / f"{shard}.parquet"

    def images(self, shard: str) -> AnyPath:
        """The tar file with a shard's image bytes."""
        return self.root / "images" / f"{shard}.tar"

    def fetch(self, shard: str) -> AnyPath:
        """The fetched rows of a shard."""
        return self.root / "fetch" / f"{shard}.parquet"

    def annotations(self, shard: str) -> AnyPath:
        """The manifest of a shard."""
        if self.annotation_set == DEFAULT_SET:
            return self.root / "annotations" / f"{shard}.parquet"
        return self.set_config.with_name(f"{shard}.parquet")

    @property
    def set_config(self) -> AnyPath:
        """How the annotation set is annotated; the default set has it in `config` instead."""
        return self.root / "annotation_sets" / self.annotation_set / "config.json"

    def receipt(self, stage: str, shard: str) -> AnyPath:
        """The proof that a stage is done with a shard."""
        is_of_set = stage == "annotate" and self.annotation_set != DEFAULT_SET
        folder = f"{stage}.{self.annotation_set}" if is_of_set else stage
        return self.root / "receipts" / folder / f"{shard}.json"

    def as_found(self) -> DatasetLayout:
        """The same dataset for looking at many shards at rest: as its files are found once.

        What appears or goes later is not seen; see annotations_schema.listing.
        """
        return replace(self, listing=Listing())

    def size(self, path: AnyPath) -> int | None:
        """Bytes of a file of the dataset, or None where there is none."""
        if self.listing is not None:
            return self.listing.size(path)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    @property
    def tombstones(self) -> AnyPath:
        """The image_ids that were removed for good; absent where none was."""
        return self.root / "tombstones.parquet"

    def shards_planned(self) -> list[str]:
        """Shards with a plan receipt, in order; passes after the first are no shards."""
        return [name for name in self._shards_with_receipt("plan") if base_shard(name) == name]

    def manifests(self) -> list[AnyPath]:
        """Manifests that are published, in order: their annotate receipt stands and gives them."""

        found = self.as_found()

        def published(shard: str) -> AnyPath | None:
            receipt = read_receipt(found, "annotate", shard)
            path = found.annotations(shard)
            is_there = receipt is not None and receipt.set_aside is None
            return path if is_there and found.size(path) is not None else None

        paths = ask_many(self.root, published, self._shards_with_receipt("annotate"))
        return [path for path in paths if path is not None]

    def planned_passes(self, shard: str) -> list[str]:
        """The passes of fetch that a planned shard has, the first one first, done or not.

        The first pass has the shard's own name, `000123`; rows that are fetched again are in
        `000123.1`, `000123.2`, ...: each pass has its own plan, tar, fetch table and receipt, and
        touches nothing of the others. A later pass replaces the rows it holds.
        """

        def is_planned(name: str) -> bool:
            return self.size(self.receipt("plan", name)) is not None

        names = (pass_name(shard, number) for number in itertools.count())
        return list(itertools.takewhile(is_planned, names))

    def fetch_passes(self, shard: str) -> list[str]:
        """The passes of fetch that are done with a planned shard, the first one first."""
        receipts = (read_receipt(self, "fetch", one) for one in self.planned_passes(shard))
        return [one.shard for one in receipts if one is not None and one.set_aside is None]

    @contextmanager
    def working_folder(self, name: str) -> Iterator[Path]:
        """A private local folder that goes when the block ends, however it ends.

        Beside the data where that is local, so that a file moves out of it by a rename; what a
        killed run left under the same name goes first. For an object store it lies where the
        system keeps temporary files.

        Args:
            name: one holder at a time; the run lock and the shard's name see to that.
        """
        prefix = f".{name}-"
        if isinstance(self.root, RemotePath):
            with tempfile.TemporaryDirectory(prefix=f"insight-curate{prefix}") as folder:
                yield Path(folder)
            return
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(f"{prefix}*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.root) as folder:
            yield Path(folder)

    def relative(self, path: AnyPath) -> str:
        """A path below the root as receipts name it, with `/`."""
        return path.as_posix().removeprefix(self.root.as_posix()).removeprefix("/")

    def _shards_with_receipt(self, stage: str) -> list[str]:
        folder = self.receipt(stage, "000000").parent
        return sorted(path.stem for path in folder.glob("*.json"))


def subset_root(dataset: str, folder: AnyPath) -> AnyPath:
    """The dataset's root that the column `dataset` means, in a subset that lies in `folder`."""
    is_whole = "://" in dataset or Path(dataset).is_absolute()
    return location(dataset) if is_whole else folder / dataset


def base_shard(name: str) -> str:
    """The planned shard that a pass belongs to: `000123` of `000123.2`."""
    return name.partition(".")[0]


def pass_number(name: str) -> int:
    """Which pass of its shard a name is: 0 of `000123`, 2 of `000123.2`."""
    return int(name.partition(".")[2] or 0)


def pass_name(shard: str, number: int) -> str:
    """The name of a pass of a planned shard; the inverse of the two above."""
    return f"{shard}.{number}" if number else shard


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


def output_file(path: AnyPath) -> OutputFile:
    """Size and sha256 of a file. Of one in a store it costs reading it back."""
    return OutputFile(bytes=path.stat().st_size, sha256=sha256_file(path))


def output_files(layout: DatasetLayout, paths: Iterable[AnyPath]) -> dict[str, OutputFile]:
    """`output_file` of each published path, keyed by its path relative to the root."""
    return {layout.relative(path): output_file(path) for path in paths}


def write_receipt(layout: DatasetLayout, receipt: Receipt) -> None:
    """Publish a receipt; its outputs must stand already."""
    write_json(layout.receipt(receipt.stage, receipt.shard), sealed(asdict(receipt)))


def read_receipt(layout: DatasetLayout, stage: str, shard: str) -> Receipt | None:
    """The receipt, or None where the stage has not finished the shard.

    Raises:
        ManifestError: the file is no receipt.
    """
    path = layout.receipt(stage, shard)
    try:
        text = path.read_text() if layout.listing is None else layout.listing.read_text(path)
        fields = json.loads(text)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ManifestError(
            f"{path}: not a receipt ({error}); delete it to redo the shard"
        ) from error
    try:
        fields.pop(SEAL, None)  # `verify` compares it
        outputs = {name: OutputFile(**file) for name, file in fields.pop("outputs").items()}
        return Receipt(outputs=outputs, **fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"{path}: not a receipt ({error}); delete it to redo the shard"
        ) from error


def is_done(layout: DatasetLayout, stage: str, shard: str, config_sha256: str) -> bool:
    """Whether a receipt of this configuration stands and its outputs have their sizes."""
    receipt = read_receipt(layout, stage, shard)
    return receipt is not None and holds(layout, receipt, config_sha256)


def holds(layout: DatasetLayout, receipt: Receipt, config_sha256: str) -> bool:
    """Whether a receipt is of this configuration and its outputs have their sizes.

    Sizes only, so that a finished dataset of thousands of shards resumes in seconds; `verify`
    compares the hashes.
    """
    if receipt.set_aside is not None or receipt.config_sha256 != config_sha256:
        return False
    return all(
        layout.size(layout.root / name) == file.bytes for name, file in receipt.outputs.items()
    )


def config_sha256(config: Any) -> str:
    """sha256 of a dataclass instance as canonical JSON (sorted keys, paths as strings)."""
    text = json.dumps(asdict(config), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: AnyPath, value: Any) -> None:
    """Publish a value as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json_text(value))


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary local path; on success its file is at `path`, whole and lasting.

    Beside `path`, then synced, renamed over it, and the folder synced; for an object store, where
    the system keeps temporary files, then sent as one object. On an error the temporary file is
    removed and `path` is as it was.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="insight-curate-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.put(temporary)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: AnyPath) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
