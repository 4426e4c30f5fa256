"""One manifest, read for training: where its images are, and their regions as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema import (
    DatasetLayout,
    RegionState,
    Status,
    UsageError,
    flatten_faces,
    flatten_text,
    read_manifest,
)
from annotations_schema.layout import subset_root
from annotations_schema.storage import AnyPath
from training.data.conventions import check_conventions
from training.data.where import Where

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_COLUMNS = (
    "dataset",  # of a subset: whose images
    "image_id",
    "status",
    "shard",
    "offset",
    "length",
    "width",
    "height",
    "text_state",
    "text_regions",
    "face_regions",
    "sampling_weight",  # of a subset
)


class DatasetCounts(NamedTuple):
    """What the manifests hold and what of it is used; regions are counted in used images."""

    rows: int
    not_ok: int
    not_chosen: int
    too_small: int
    used: int
    text_regions: int
    faces: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where the images are, one element per image."""

    tar: NDArray[np.int32]
    offset: Int64
    length: Int64
    width: Int64
    height: Int64
    is_text_free: Bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """The regions of image i are [start[i], start[i + 1]) of the flat arrays."""

    text_start: Int64
    text_boxes: Float32
    face_start: Int64
    face_boxes: Float32
    crop_from_image: Float64


class ManifestPart(NamedTuple):
    """The used rows of one manifest."""

    ids: pa.Array
    tars: tuple[AnyPath, ...]
    addresses: Addresses
    regions: Regions
    weights: Float64
    counts: DatasetCounts


def named(sources: Sequence[AnyPath]) -> str:
    """Paths for a message."""
    return ", ".join(str(source) for source in sources)


def _images_root(path: AnyPath, sources: Sequence[AnyPath], given: AnyPath | None) -> AnyPath:
    """The dataset folder whose images a manifest addresses."""
    if path not in sources:
        return path.parent.parent  # listed by DatasetLayout
    candidates = (path.parent.parent, path.parent) if given is None else (given,)
    for candidate in candidates:
        if (candidate / "images").is_dir():
            return candidate
    raise UsageError(
        f"no images/ folder for {path} in {named(candidates)}; set data.images_root to the "
        "dataset folder that the manifest was made from"
    )


def read_part(
    path: AnyPath,
    sources: Sequence[AnyPath],
    images_root: AnyPath | None,
    min_side_px: int,
    where: Where | None,
) -> ManifestPart:
    """The rows of a manifest that can be trained on.

    Args:
        path: the manifest.
        sources: what the user named; a manifest among them was not found through its dataset.
        images_root: the dataset folder whose images/ it addresses, where it lies elsewhere.
        min_side_px: least side.
        where: only rows for which this is true.

    Raises:
        UsageError, ManifestError, VersionError: as `training.data.manifest.ManifestDataset`.
    """
    table = read_manifest(path, columns=_COLUMNS)
    check_conventions(table.schema, path)
    is_ok = _bool(pc.equal(table["status"].cast(pa.string()), Status.OK.value))
    is_chosen = is_ok if where is None else is_ok & where.rows(path)
    chosen = table.filter(pa.array(is_chosen))
    is_large = np.minimum(_int64(chosen["width"]), _int64(chosen["height"])) >= min_side_px
    used = chosen.filter(pa.array(is_large)).combine_chunks()
    regions = _regions_of(used)
    tars, tar_index = _tars_of(used, path, sources, images_root)
    text_state = used["text_state"].cast(pa.string())
    addresses = Addresses(
        tar=tar_index,
        offset=_int64(used["offset"]),
        length=_int64(used["length"]),
        width=_int64(used["width"]),
        height=_int64(used["height"]),
        is_text_free=_bool(pc.equal(text_state, RegionState.NONE.value)),
    )
    _check_tars(path, tars, addresses)
    counts = DatasetCounts(
        rows=table.num_rows,
        not_ok=int((~is_ok).sum()),
        not_chosen=int((is_ok & ~is_chosen).sum()),
        too_small=chosen.num_rows - used.num_rows,
        used=used.num_rows,
        text_regions=len(regions.text_boxes),
        faces=len(regions.face_boxes),
    )
    ids = pa.concat_arrays(used["image_id"].cast(pa.string()).chunks or [pa.array([], pa.string())])
    return ManifestPart(ids, tars, addresses, regions, _weights_of(used), counts)


def _tars_of(
    used: pa.Table, path: AnyPath, sources: Sequence[AnyPath], images_root: AnyPath | None
) -> tuple[tuple[AnyPath, ...], NDArray[np.int32]]:
    """The tar files of a manifest and, per row, which of them holds its image."""
    if "dataset" not in used.column_names:
        roots, of_root = [_images_root(path, sources, images_root)], np.zeros(len(used), np.int32)
    else:
        names, of_root = _encoded(used["dataset"])
        roots = [subset_root(name, path.parent) for name in names]
        if images_root is not None:
            if len(roots) > 1:
                raise UsageError(
                    f"data.images_root names one dataset, {path} has images of {len(roots)}; "
                    "leave it away, or select again where the datasets lie"
                )
            roots = [images_root]
    shards, of_shard = _encoded(used["shard"])
    pairs, tar_index = np.unique(of_root * len(shards) + of_shard, return_inverse=True)
    tars = tuple(
        DatasetLayout(roots[pair // len(shards)]).images(shards[pair % len(shards)])
        for pair in pairs.tolist()
    )
    return tars, tar_index.astype(np.int32)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct strings of a column and, per row, the index of its own."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices, dtype=np.int32)


def _check_tars(path: AnyPath, tars: tuple[AnyPath, ...], addresses: Addresses) -> None:
    ends = addresses.offset + addresses.length
    for index, tar in enumerate(tars):
        needed = int(ends[addresses.tar == index].max())
        if not tar.is_file():
            raise UsageError(f"{tar} is missing, {path} addresses images in it; fetch that shard")
        if tar.stat().st_size < needed:
            raise UsageError(
                f"{tar} has {tar.stat().st_size} bytes, {path} addresses byte {needed}; fetch that "
                "shard again"
            )


def _regions_of(used: pa.Table) -> Regions:
    text, faces = flatten_text(used), flatten_faces(used)
    valid = faces.regions.is_valid
    face_rows = np.repeat(np.arange(used.num_rows), np.diff(faces.offsets))[valid]
    return Regions(
        text_start=text.offsets,
        text_boxes=text.regions.box_xyxy,
        face_start=_starts(np.bincount(face_rows, minlength=used.num_rows)),
        face_boxes=faces.regions.box_xyxy[valid],
        crop_from_image=faces.regions.crop_from_image[valid],
    )


def _weights_of(used: pa.Table) -> Float64:
    """How often each row is to be drawn, relatively; 1 where the manifest does not say."""
    if "sampling_weight" not in used.column_names:
        return np.ones(used.num_rows)
    return np.asarray(pc.fill_null(used["sampling_weight"], 1.0), dtype=np.float64)


def _starts(lengths: Int64) -> Int64:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _int64(column: pa.ChunkedArray) -> Int64:
    return np.asarray(column, dtype=np.int64)


def _bool(column: pa.ChunkedArray | pa.Array) -> Bool:
    """A boolean column; null is False."""
    return np.asarray(pc.fill_null(column, False), dtype=np.bool_)


def join_addresses(parts: Sequence[ManifestPart]) -> Addresses:
    """Those of all parts, one after the other."""
    first_tar = _starts(np.array([len(part.tars) for part in parts]))
    tars = [p.addresses.tar + np.int32(start) for p, start in zip(parts, first_tar, strict=False)]
    return Addresses(
        tar=np.concatenate(tars),
        offset=np.concatenate([p.addresses.offset for p in parts]),
        length=np.concatenate([p.addresses.length for p in parts]),
        width=np.concatenate([p.addresses.width for p in parts]),
        height=np.concatenate([p.addresses.height for p in parts]),
        is_text_free=np.concatenate([p.addresses.is_text_free for p in parts]),
    )


def join_regions(parts: Sequence[Regions]) -> Regions:
    """Those of all parts, one after the other."""
    return Regions(
        text_start=_starts(np.concatenate([np.diff(p.text_start) for p in parts])),
        text_boxes=np.concatenate([p.text_boxes for p in parts]),
        face_start=_starts(np.concatenate([np.diff(p.face_start) for p in parts])),
        face_boxes=np.concatenate([p.face_boxes for p in parts]),
        crop_from_image=np.concatenate([p.crop_from_image for p in parts]),
    )
