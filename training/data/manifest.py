"""Random access to the images and regions of annotated manifests.

A manifest names, for every image, a tar file and a byte range; one image is one seek and one read
away. Regions are kept as flat arrays with offsets, so that ten million images cost a few numpy
arrays and not ten million Python objects. No detector and no Ray is involved: what was annotated
offline is what the trainer sees.
"""

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
    InsightTokError,
    RegionState,
    Status,
    UsageError,
    flatten_faces,
    flatten_text,
    images,
    read_manifest,
)
from annotations_schema.layout import sha256_file, subset_root
from annotations_schema.storage import AnyPath
from training.data.transforms import AnnotatedImage

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
)


class BadImageError(InsightTokError):
    """An image that was fine when it was annotated and cannot be used now; names image and tar."""

    def __init__(self, image_id: str, tar: AnyPath, reason: str) -> None:
        self.image_id, self.tar, self.reason = image_id, tar, reason
        super().__init__(f"image {image_id} in {tar}: {reason}")

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, AnyPath, str]]:
        return type(self), (self.image_id, self.tar, self.reason)


class DatasetCounts(NamedTuple):
    """What the manifests hold and what of it is used; regions are counted in used images."""

    rows: int
    not_ok: int
    too_small: int
    used: int
    text_regions: int
    faces: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Addresses:
    """Where the images are, one element per image."""

    tar: NDArray[np.int32]
    offset: Int64
    length: Int64
    width: Int64
    height: Int64
    is_text_free: Bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Regions:
    """The regions of image i are [start[i], start[i + 1]) of the flat arrays."""

    text_start: Int64
    text_boxes: Float32
    face_start: Int64
    face_boxes: Float32
    crop_from_image: Float64


class _Part(NamedTuple):
    """The used rows of one manifest."""

    ids: pa.Array
    tars: tuple[AnyPath, ...]
    addresses: _Addresses
    regions: _Regions
    counts: DatasetCounts


class ManifestDataset:
    """The usable images of one or more dataset folders or manifest files, in manifest order.

    Args:
        sources: dataset folders (all their finished shards), or manifest files. A manifest file
            lies in ROOT/annotations/ or in ROOT itself, where ROOT/images/ holds its tar files; a
            subset lies anywhere and names the datasets of its images.
        min_side_px: images with a shorter side are left out and counted.
        images_root: the dataset folder whose images/ the manifest files address, where they lie
            elsewhere.

    Raises:
        UsageError: a source is missing or holds no manifest, a tar file is missing or too short, or
            no row is usable. One line.
        ManifestError: a file is no manifest; VersionError: one of a newer major version.
    """

    def __init__(
        self,
        sources: Sequence[AnyPath],
        *,
        min_side_px: int = 1,
        images_root: AnyPath | None = None,
    ) -> None:
        if not sources:
            raise UsageError("no data given: name dataset folders or manifest files with --data")
        self.manifests: tuple[AnyPath, ...] = tuple(p for s in sources for p in _manifests_of(s))
        parts = [_read_part(p, sources, images_root, min_side_px) for p in self.manifests]
        self._tars: tuple[AnyPath, ...] = tuple(t for part in parts for t in part.tars)
        self._ids = pa.chunked_array([part.ids for part in parts], type=pa.string())
        self._addresses = _join_addresses(parts)
        self._regions = _join_regions([part.regions for part in parts])
        self.counts = DatasetCounts(*np.sum([part.counts for part in parts], axis=0).tolist())
        if self.counts.used == 0:
            raise UsageError(
                f"no usable image in {_named(sources)}: {self.counts.rows} rows, "
                f"{self.counts.not_ok} not ok, {self.counts.too_small} with a side under "
                f"{min_side_px} px; curate more images or lower data.min_side_px"
            )

    def __len__(self) -> int:
        return self.counts.used

    def image_id(self, index: int) -> str:
        """The 32 hex digits of one image."""
        return str(self._ids[index].as_py())

    def read_bytes(self, index: int) -> bytes:
        """The stored bytes of one image: one open, one seek, one read.

        Raises:
            BadImageError: the tar file is gone or ends before the image does.
        """
        a, tar = self._addresses, self._tar(index)
        try:
            with tar.open("rb") as file:
                file.seek(int(a.offset[index]))
                data = file.read(int(a.length[index]))
        except OSError as error:
            raise BadImageError(self.image_id(index), tar, str(error)) from error
        if len(data) != a.length[index]:
            reason = f"{len(data)} of {a.length[index]} bytes at {a.offset[index]}: the tar is cut"
            raise BadImageError(self.image_id(index), tar, reason)
        return data

    def read(self, index: int) -> AnnotatedImage:
        """One decoded image with its regions.

        Raises:
            BadImageError: the bytes cannot be read or decoded, or the image is not as large as the
                manifest says, so that its regions would lie elsewhere.
        """
        data = self.read_bytes(index)
        a, r = self._addresses, self._regions
        tar = self._tar(index)
        try:
            pixels, header = images.decode(data)
        except images.ImageDecodeError as error:
            raise BadImageError(self.image_id(index), tar, str(error)) from error
        if (header.width, header.height) != (a.width[index], a.height[index]):
            annotated_as = f"{a.width[index]}x{a.height[index]}"
            reason = f"{header.width}x{header.height}, annotated as {annotated_as}"
            raise BadImageError(self.image_id(index), tar, reason)
        text = slice(r.text_start[index], r.text_start[index + 1])
        faces = slice(r.face_start[index], r.face_start[index + 1])
        return AnnotatedImage(
            image_id=self.image_id(index),
            image=pixels,
            text_boxes=r.text_boxes[text],
            face_boxes=r.face_boxes[faces],
            crop_from_image=r.crop_from_image[faces],
            is_text_free=bool(a.is_text_free[index]),
        )

    def _tar(self, index: int) -> AnyPath:
        return self._tars[int(self._addresses.tar[index])]

    def with_regions(self) -> Int64:
        """Indices (N',) of the images that have a text region or a valid face."""
        r = self._regions
        return np.flatnonzero((np.diff(r.text_start) > 0) | (np.diff(r.face_start) > 0))

    def manifest_hashes(self) -> dict[str, str]:
        """sha256 of every manifest file, by path: what a run was trained on."""
        return {str(path): sha256_file(path) for path in self.manifests}


def _named(sources: Sequence[AnyPath]) -> str:
    return ", ".join(str(source) for source in sources)


def _manifests_of(source: AnyPath) -> list[AnyPath]:
    if source.is_dir():
        found = DatasetLayout(source).manifests()
        if not found:
            raise UsageError(
                f"{source} holds no finished annotation manifest; run insight-curate on it first, "
                "or name a dataset folder"
            )
        return found
    if not source.is_file():
        raise UsageError(f"{source} does not exist; --data takes dataset folders or manifest files")
    return [source]


def _images_root(path: AnyPath, sources: Sequence[AnyPath], given: AnyPath | None) -> AnyPath:
    """The dataset folder whose images a manifest addresses."""
    if path not in sources:
        return path.parent.parent  # listed by DatasetLayout
    candidates = (path.parent.parent, path.parent) if given is None else (given,)
    for candidate in candidates:
        if (candidate / "images").is_dir():
            return candidate
    raise UsageError(
        f"no images/ folder for {path} in {_named(candidates)}; set data.images_root to the "
        "dataset folder that the manifest was made from"
    )


def _read_part(
    path: AnyPath, sources: Sequence[AnyPath], images_root: AnyPath | None, min_side_px: int
) -> _Part:
    table = read_manifest(path, columns=_COLUMNS)
    is_ok = _bool(pc.equal(table["status"].cast(pa.string()), Status.OK.value))
    ok = table.filter(pa.array(is_ok))
    is_large = np.minimum(_int64(ok["width"]), _int64(ok["height"])) >= min_side_px
    used = ok.filter(pa.array(is_large)).combine_chunks()
    regions = _regions_of(used)
    tars, tar_index = _tars_of(used, path, sources, images_root)
    text_state = used["text_state"].cast(pa.string())
    addresses = _Addresses(
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
        not_ok=table.num_rows - ok.num_rows,
        too_small=ok.num_rows - used.num_rows,
        used=used.num_rows,
        text_regions=len(regions.text_boxes),
        faces=len(regions.face_boxes),
    )
    ids = pa.concat_arrays(used["image_id"].cast(pa.string()).chunks or [pa.array([], pa.string())])
    return _Part(ids, tars, addresses, regions, counts)


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


def _check_tars(path: AnyPath, tars: tuple[AnyPath, ...], addresses: _Addresses) -> None:
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


def _regions_of(used: pa.Table) -> _Regions:
    text, faces = flatten_text(used), flatten_faces(used)
    valid = faces.regions.is_valid
    face_rows = np.repeat(np.arange(used.num_rows), np.diff(faces.offsets))[valid]
    return _Regions(
        text_start=text.offsets,
        text_boxes=text.regions.box_xyxy,
        face_start=_starts(np.bincount(face_rows, minlength=used.num_rows)),
        face_boxes=faces.regions.box_xyxy[valid],
        crop_from_image=faces.regions.crop_from_image[valid],
    )


def _starts(lengths: Int64) -> Int64:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _int64(column: pa.ChunkedArray) -> Int64:
    return np.asarray(column, dtype=np.int64)


def _bool(column: pa.ChunkedArray | pa.Array) -> Bool:
    """A boolean column; null is False."""
    return np.asarray(pc.fill_null(column, False), dtype=np.bool_)


def _join_addresses(parts: Sequence[_Part]) -> _Addresses:
    first_tar = _starts(np.array([len(part.tars) for part in parts]))
    tars = [p.addresses.tar + np.int32(start) for p, start in zip(parts, first_tar, strict=False)]
    return _Addresses(
        tar=np.concatenate(tars),
        offset=np.concatenate([p.addresses.offset for p in parts]),
        length=np.concatenate([p.addresses.length for p in parts]),
        width=np.concatenate([p.addresses.width for p in parts]),
        height=np.concatenate([p.addresses.height for p in parts]),
        is_text_free=np.concatenate([p.addresses.is_text_free for p in parts]),
    )


def _join_regions(parts: Sequence[_Regions]) -> _Regions:
    return _Regions(
        text_start=_starts(np.concatenate([np.diff(p.text_start) for p in parts])),
        text_boxes=np.concatenate([p.text_boxes for p in parts]),
        face_start=_starts(np.concatenate([np.diff(p.face_start) for p in parts])),
        face_boxes=np.concatenate([p.face_boxes for p in parts]),
        crop_from_image=np.concatenate([p.crop_from_image for p in parts]),
    )
