"""Who made a manifest, with which detectors, in which frame: the JSON in the Parquet footer.

The footer key is `regions`, after the pattern of GeoParquet's `geo`. Readers ignore unknown keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from annotations_schema.columns import SCHEMA_VERSION
from annotations_schema.errors import ManifestError, VersionError
from annotations_schema.geometry import ARCFACE_TEMPLATE_112, CANVAS_PX

FOOTER_KEY = b"regions"
"""Key of the provenance in the Parquet footer's key-value metadata."""

TEMPLATE_SHA256 = hashlib.sha256(ARCFACE_TEMPLATE_112.astype("<f8").tobytes()).hexdigest()
"""sha256 of the template as 10 little-endian float64, row-major."""

FRAME: Mapping[str, Any] = {
    "frame": "stored image, EXIF orientation applied, absolute pixels, origin top left",
    "box": "xyxy, edges: pixel (row i, column j) covers [j, j+1) x [i, i+1)",
    "quad_order": "clockwise from the text's top left, edges",
    "landmarks": [
        "image-left eye",
        "image-right eye",
        "nose",
        "image-left mouth corner",
        "image-right mouth corner",
    ],
    "landmark_coordinates": "pixel centres: an integer coordinate is the centre of a pixel",
    "transform": {
        "name": "arcface_112",
        "direction": "canvas from image",
        "layout": "row-major 2x3, pixel centres",
        "canvas_px": CANVAS_PX,
        "template": ARCFACE_TEMPLATE_112.tolist(),
        "template_sha256": TEMPLATE_SHA256,
    },
}
"""The conventions every manifest of version 1 states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorRecord:
    """The identity of a detector: what another run needs to find the same regions."""

    name: str
    """Name on the command line."""
    library: str
    """Python distribution that ran it."""
    library_version: str
    """Its version."""
    weights_sha256: str | None
    """Hex sha256 of the weights file; None where the library does not show it."""
    weights_licence: str
    """SPDX id, or words."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Every number that decides which regions are kept."""
    input_size: str = ""
    """How an image is brought to the network's size, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Who made a manifest and how."""

    config_sha256: str
    """Hash of the configuration of the stage that wrote it."""
    creator: str
    """Software and version."""
    text_detector: DetectorRecord | None = None
    """None where no text detector ran."""
    face_detector: DetectorRecord | None = None
    """None where no face detector ran."""

    def to_json(self) -> str:
        """The footer value: conventions, detectors and origin as one JSON object."""
        return json.dumps(
            {
                "version": SCHEMA_VERSION,
                **FRAME,
                "detectors": {
                    "text": None if self.text_detector is None else asdict(self.text_detector),
                    "face": None if self.face_detector is None else asdict(self.face_detector),
                },
                "config_sha256": self.config_sha256,
                "creator": self.creator,
            },
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """Read a footer value; unknown keys are ignored.

        Raises:
            VersionError: written by a newer major version.
            ManifestError: not the JSON object that the specification asks for.
        """
        try:
            value = json.loads(text)
            check_version(str(value["version"]))
            detectors = value["detectors"]
            return cls(
                config_sha256=value["config_sha256"],
                creator=value["creator"],
                text_detector=_record(detectors["text"]),
                face_detector=_record(detectors["face"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, VersionError):
                raise
            raise ManifestError(f"footer key 'regions' is not valid: {error!r}") from error


def check_version(version: str) -> None:
    """Refuse a major version that this library does not know.

    Raises:
        VersionError: another major version.
        ManifestError: not a version.
    """
    major, _, _ = version.partition(".")
    if not major.isdigit():
        raise ManifestError(f"version {version!r} is not of the form MAJOR.MINOR")
    known = SCHEMA_VERSION.partition(".")[0]
    if int(major) != int(known):
        raise VersionError(
            f"manifest version {version}: this library reads version {known}.x; "
            "install a newer open-insighttok"
        )


def provenance_of(schema: pa.Schema, where: object) -> Provenance:
    """The provenance in a Parquet file's Arrow schema.

    Raises:
        ManifestError: the file has none, so it is no manifest.
    """
    metadata = schema.metadata or {}
    if FOOTER_KEY not in metadata:
        raise ManifestError(f"{where}: no footer key 'regions', so it is not a manifest")
    return Provenance.from_json(metadata[FOOTER_KEY])


def _record(value: Mapping[str, Any] | None) -> DetectorRecord | None:
    if value is None:
        return None
    known = DetectorRecord.__dataclass_fields__
    return DetectorRecord(**{key: item for key, item in value.items() if key in known})
