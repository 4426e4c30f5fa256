"""Regions of images, text and faces, in Parquet: the format of Open InsightTok, version 1.

Needs numpy and pyarrow only. `annotations_schema.images`, the one decoder, needs Pillow too and is
imported by those who decode. The specification is README.md beside this file.
"""

from annotations_schema.codes import FailureCode, RegionState, Stage, Status
from annotations_schema.columns import MANIFEST_SCHEMA, SCHEMA_VERSION
from annotations_schema.errors import (
    GeometryError,
    InsightTokError,
    ManifestError,
    UsageError,
    VersionError,
    WeightsError,
)
from annotations_schema.layout import DatasetLayout, Receipt
from annotations_schema.manifest import (
    canonical_json_lines,
    read_manifest,
    read_provenance,
    table_from_rows,
    write_manifest,
)
from annotations_schema.provenance import DetectorRecord, Provenance
from annotations_schema.region_columns import (
    face_regions_at,
    flatten_faces,
    flatten_text,
    text_regions_at,
)
from annotations_schema.regions import FaceRegions, TextRegions
from annotations_schema.validation import Problem, validate

__all__ = [
    "MANIFEST_SCHEMA",
    "SCHEMA_VERSION",
    "DatasetLayout",
    "DetectorRecord",
    "FaceRegions",
    "FailureCode",
    "GeometryError",
    "InsightTokError",
    "ManifestError",
    "Problem",
    "Provenance",
    "Receipt",
    "RegionState",
    "Stage",
    "Status",
    "TextRegions",
    "UsageError",
    "VersionError",
    "WeightsError",
    "canonical_json_lines",
    "face_regions_at",
    "flatten_faces",
    "flatten_text",
    "read_manifest",
    "read_provenance",
    "table_from_rows",
    "text_regions_at",
    "validate",
    "write_manifest",
]
