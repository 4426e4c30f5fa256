"""Random access to the images and regions of annotated manifests.

A manifest names, for every image, a tar file and a byte range; one image is one seek and one read
away. Regions are kept as flat arrays with offsets, so that ten million images cost a few numpy
arrays and not ten million Python objects. No detector and no Ray is involved: what was annotated
offline is what the trainer sees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotations_schema import DatasetLayout, InsightTokError, UsageError, images
from annotations_schema.layout import sha256_file
from annotations_schema.storage import AnyPath
from training.data.manifest_part import (
    DatasetCounts,
    join_addresses,
    join_regions,
    named,
    read_part,
)
from training.data.mixture import Mixture, Part
from training.data.transforms import AnnotatedImage, Annotation, Window
from training.data.where import Where

Int64 = NDArray[np.int64]


class BadImageError(InsightTokError):
    """An image that was fine when it was annotated and cannot be used now; names image and tar."""

    def __init__(self, image_id: str, tar: AnyPath, reason: str) -> None:
        self.image_id, self.tar, self.reason = image_id, tar, reason
        super().__init__(f"image {image_id} in {tar}: {reason}")

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, AnyPath, str]]:
        return type(self), (self.image_id, self.tar, self.reason)


class ManifestDataset:
    """The usable images of one or more dataset folders or manifest files, in manifest order.

    Args:
        sources: dataset folders (all their finished shards), or manifest files. A manifest file
            lies in ROOT/annotations/ or in ROOT itself, where ROOT/images/ holds its tar files; a
            subset lies anywhere and names the datasets of its images.
        min_side_px: images with a shorter side are left out and counted.
        images_root: the dataset folder whose images/ the manifest files address, where they lie
            elsewhere.
        where: only images for which this SQL predicate over the manifests' columns is true.
        weights: how often each source is drawn, one positive number each; None: every image of all
            sources alike. Inside a source, the column sampling_weight of a subset decides.

    Raises:
        UsageError: a source is missing or holds no manifest, its conventions are unknown, a tar
            file is missing or too short, `where` or `weights` do not fit, or no row is usable. One
            line.
        ManifestError: a file is no manifest; VersionError: one of a newer major version.
    """

    def __init__(
        self,
        sources: Sequence[AnyPath],
        *,
        min_side_px: int = 1,
        images_root: AnyPath | None = None,
        where: str | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not sources:
            raise UsageError("no data given: name dataset folders or manifest files with --data")
        _check_weights(weights, sources)
        self._sources, self._shares = tuple(sources), weights
        found = [_manifests_of(source) for source in sources]
        self.manifests: tuple[AnyPath, ...] = tuple(path for paths in found for path in paths)
        with contextlib.ExitStack() as stack:
            predicate = None if where is None else stack.enter_context(Where(where))
            parts = [
                read_part(path, sources, images_root, min_side_px, predicate)
                for path in self.manifests
            ]
        used = [part.counts.used for part in parts]
        numbers = np.repeat(np.arange(len(sources)), [len(paths) for paths in found])
        self._source_of = np.repeat(numbers, used)
        self._weights = np.concatenate([part.weights for part in parts])
        self._tars: tuple[AnyPath, ...] = tuple(t for part in parts for t in part.tars)
        self._ids = pa.chunked_array([part.ids for part in parts], type=pa.string())
        self._addresses = join_addresses(parts)
        self._regions = join_regions([part.regions for part in parts])
        self.counts = DatasetCounts(*np.sum([part.counts for part in parts], axis=0).tolist())
        if self.counts.used == 0:
            chosen = "" if where is None else f"{self.counts.not_chosen} not chosen by --where, "
            raise UsageError(
                f"no usable image in {named(sources)}: {self.counts.rows} rows, "
                f"{self.counts.not_ok} not ok, {chosen}{self.counts.too_small} with a side under "
                f"{min_side_px} px; curate more images{', change --where' if chosen else ''} or "
                "lower data.min_side_px"
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
        pixels = self._decoded(index, None)
        known = self.annotation(index)
        return AnnotatedImage(
            image_id=known.image_id,
            image=pixels,
            text_boxes=known.text_boxes,
            face_boxes=known.face_boxes,
            crop_from_image=known.crop_from_image,
            is_text_free=known.is_text_free,
        )

    def annotation(self, index: int) -> Annotation:
        """Size and regions of one image, from memory."""
        a, r = self._addresses, self._regions
        text = slice(r.text_start[index], r.text_start[index + 1])
        faces = slice(r.face_start[index], r.face_start[index + 1])
        return Annotation(
            image_id=self.image_id(index),
            width=int(a.width[index]),
            height=int(a.height[index]),
            text_boxes=r.text_boxes[text],
            face_boxes=r.face_boxes[faces],
            crop_from_image=r.crop_from_image[faces],
            is_text_free=bool(a.is_text_free[index]),
        )

    def read_window(self, index: int, window: Window) -> NDArray[np.uint8]:
        """The pixels of a window inside the image, (side, side, 3) uint8 RGB, not mirrored.

        Raises:
            BadImageError: as `read`.
        """
        x0, y0, side_px, _ = window
        return self._decoded(index, (x0, y0, x0 + side_px, y0 + side_px))

    def _decoded(self, index: int, window: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
        data, a, tar = self.read_bytes(index), self._addresses, self._tar(index)
        try:
            pixels, header = images.decode(data, window=window)
        except images.ImageDecodeError as error:
            raise BadImageError(self.image_id(index), tar, str(error)) from error
        if (header.width, header.height) != (a.width[index], a.height[index]):
            annotated_as = f"{a.width[index]}x{a.height[index]}"
            reason = f"{header.width}x{header.height}, annotated as {annotated_as}"
            raise BadImageError(self.image_id(index), tar, reason)
        return pixels

    def _tar(self, index: int) -> AnyPath:
        return self._tars[int(self._addresses.tar[index])]

    def with_regions(self) -> Int64:
        """Indices (N',) of the images that have a text region or a valid face."""
        r = self._regions
        return np.flatnonzero((np.diff(r.text_start) > 0) | (np.diff(r.face_start) > 0))

    def mixture(self, *, only_with_regions: bool = False) -> Mixture:
        """What a stream draws from: all images, or those of `with_regions`.

        Raises:
            UsageError: a source has none of them, though it has a weight; or no weight is positive.
        """
        indices = self.with_regions() if only_with_regions else np.arange(len(self))
        if self._shares is None:
            return Mixture.of(indices, self._weights_of(indices, self._sources))
        parts = []
        for number, source in enumerate(self._sources):
            own = indices[self._source_of[indices] == number]
            if not len(own):
                regions = " with a text region or a valid face" if only_with_regions else ""
                raise UsageError(
                    f"--weights gives {source} {self._shares[number]:g}, but it has no usable "
                    f"image{regions}; leave it away"
                )
            parts.append(Part.of(own, self._weights_of(own, [source])))
        return Mixture.shared(parts, self._shares)

    def _weights_of(self, indices: Int64, sources: Sequence[AnyPath]) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = self._weights[indices]
        if len(weights) and not weights.any():
            raise UsageError(
                f"sampling_weight is 0 in every usable image of {named(sources)}; select a subset "
                "with other weights"
            )
        return weights

    def manifest_hashes(self) -> dict[str, str]:
        """sha256 of every manifest file, by path: what a run was trained on."""
        return {str(path): sha256_file(path) for path in self.manifests}


def _check_weights(weights: Sequence[float] | None, sources: Sequence[AnyPath]) -> None:
    if weights is None:
        return
    given = " ".join(f"{weight:g}" for weight in weights)
    if len(weights) != len(sources):
        raise UsageError(
            f"--weights {given}: {len(weights)} numbers for {len(sources)} sources; give one for "
            f"each of {named(sources)}"
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise UsageError(f"--weights {given}: each must be above 0 and finite")


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
