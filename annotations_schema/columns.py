"""The columns of a manifest, version 1: Arrow types; unit and meaning in the field metadata."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1.0"
"""Major: a reader of another major must refuse. Minor: columns or vocabulary were added."""

INPUT_PREFIX = "input_"
"""Columns of the user's list that the format does not know pass through under this prefix."""

_CODE = pa.dictionary(pa.int32(), pa.string())


def _field(name: str, kind: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"meaning": meaning})


def _fixed(kind: pa.DataType, length: int) -> pa.DataType:
    # Parquet names list children "element"; so must we, for a schema equal after a round trip.
    return pa.list_(pa.field("element", kind, nullable=False), length)


def _list_of(struct: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", struct, nullable=False))


TEXT_REGION = pa.struct(
    [
        _field("box_xyxy", _fixed(pa.float32(), 4), "x0, y0, x1, y1; px, edges; hull of quad"),
        _field(
            "quad",
            _fixed(pa.float32(), 8),
            "4 corners clockwise from the text's top left; px, edges",
        ),
        _field("score", pa.float32(), "detector confidence in [0, 1]"),
        _field("area_fraction", pa.float32(), "area(box) / area(image)"),
    ]
)
"""One text region."""

FACE_REGION = pa.struct(
    [
        _field("box_xyxy", _fixed(pa.float32(), 4), "x0, y0, x1, y1; px, edges"),
        _field("score", pa.float32(), "detector confidence in [0, 1]"),
        _field(
            "landmarks_5",
            _fixed(pa.float32(), 10),
            "image-left eye, image-right eye, nose, image-left mouth corner, image-right mouth "
            "corner; px, pixel centres",
        ),
        _field(
            "crop_from_image",
            _fixed(pa.float64(), 6),
            "row-major 2x3, image px -> 112x112 canvas px, pixel centres; null where no fit exists",
            nullable=True,
        ),
        _field(
            "residual_px",
            pa.float32(),
            "root mean square landmark distance on the canvas, px; null where no fit exists",
            nullable=True,
        ),
        _field(
            "is_valid", pa.bool_(), "landmarks are distinct, not in line, not mirrored, not tiny"
        ),
        _field("area_fraction", pa.float32(), "area(box) / area(image)"),
    ]
)
"""One face region."""

EARLIER_OUTCOME = pa.struct(
    [
        _field("failure_code", pa.string(), "what ended it"),
        _field("http_status", pa.int16(), "of its last answer", nullable=True),
        _field("attempts", pa.int8(), "requests made for it"),
    ]
)
"""One earlier outcome of a row that was fetched again."""

DROPPED_REGION = pa.struct(
    [
        _field("kind", pa.string(), "text, face"),
        _field("box_xyxy", _fixed(pa.float32(), 4), "x0, y0, x1, y1; px, edges"),
        _field("score", pa.float32(), "detector confidence in [0, 1]"),
        _field("reason", pa.string(), "which rule left it out"),
    ]
)
"""A region that a detector found and a rule of the configuration left out."""

MANIFEST_SCHEMA: pa.Schema = pa.schema(
    [
        _field("image_id", pa.string(), "32 hex digits: first 16 bytes of sha256(canonical URL)"),
        _field("source_row", pa.int64(), "row of the input list, from 0"),
        _field("source_name", _CODE, "name of the input list"),
        _field("url", pa.string(), "as given", nullable=True),
        _field("caption", pa.string(), "as given", nullable=True),
        _field("status", _CODE, "ok, failed, refused, filtered, tombstoned"),
        _field("stage", _CODE, "where a row that is not ok ended", nullable=True),
        _field("failure_code", _CODE, "why a row is not ok", nullable=True),
        _field(
            "failure_detail", pa.string(), "at most 256 characters, no credentials", nullable=True
        ),
        _field("http_status", pa.int16(), "of the last answer", nullable=True),
        _field("attempts", pa.int8(), "requests made for this row"),
        _field("elapsed_ms", pa.int32(), "all attempts together, ms"),
        _field(
            "fetched_at", pa.timestamp("us", tz="UTC"), "end of the last attempt", nullable=True
        ),
        _field(
            "history",
            _list_of(EARLIER_OUTCOME),
            "earlier outcomes, oldest first; null: fetched once at most",
            nullable=True,
        ),
        _field("optout_rule", pa.string(), "the rule that refused this row", nullable=True),
        _field("sha256_expected", pa.string(), "given by the list, hex", nullable=True),
        _field("sha256_received", pa.string(), "of the bytes as received, hex", nullable=True),
        _field("sha256", pa.string(), "of the stored bytes, hex", nullable=True),
        _field(
            "flags",
            pa.list_(pa.field("element", pa.string(), nullable=False)),
            "what is odd about an image that was kept; null: nothing",
            nullable=True,
        ),
        _field("phash", pa.uint64(), "64-bit difference hash of the frame", nullable=True),
        _field("format", _CODE, "jpeg, png, webp, ...", nullable=True),
        _field("bytes", pa.int64(), "size of the image file", nullable=True),
        _field("exif_orientation", pa.int8(), "1 to 8; 0 where the file has none", nullable=True),
        _field("width", pa.int32(), "of the frame: EXIF orientation applied, px", nullable=True),
        _field("height", pa.int32(), "of the frame: EXIF orientation applied, px", nullable=True),
        _field("stored_width", pa.int32(), "as in the file header, px", nullable=True),
        _field("stored_height", pa.int32(), "as in the file header, px", nullable=True),
        _field(
            "received_width",
            pa.int32(),
            "of the received image, EXIF orientation applied, px; differs where re-encoded",
            nullable=True,
        ),
        _field("received_height", pa.int32(), "likewise", nullable=True),
        _field("shard", pa.string(), "images/SHARD.tar holds the bytes", nullable=True),
        _field("offset", pa.int64(), "of the image's first byte in the tar file", nullable=True),
        _field("length", pa.int64(), "of the image in the tar file, bytes", nullable=True),
        _field("license", pa.string(), "SPDX id or URL, as given", nullable=True),
        _field("text_state", _CODE, "not_run, none, found, failed"),
        _field("face_state", _CODE, "not_run, none, found, failed"),
        _field(
            "text_regions", _list_of(TEXT_REGION), "null: unknown; empty: none found", nullable=True
        ),
        _field(
            "face_regions", _list_of(FACE_REGION), "null: unknown; empty: none found", nullable=True
        ),
        _field(
            "dropped_regions",
            _list_of(DROPPED_REGION),
            "found, and left out by a rule; null: no detector looked",
            nullable=True,
        ),
        _field("num_text", pa.int32(), "text regions", nullable=True),
        _field(
            "text_area_fraction", pa.float32(), "sum over text regions, at most 1", nullable=True
        ),
        _field("max_text_score", pa.float32(), "0 where none", nullable=True),
        _field("max_text_height_px", pa.float32(), "mean of a quad's two sides, px", nullable=True),
        _field("num_faces", pa.int32(), "face regions", nullable=True),
        _field(
            "face_area_fraction", pa.float32(), "sum over face regions, at most 1", nullable=True
        ),
        _field("max_face_score", pa.float32(), "0 where none", nullable=True),
        _field("max_face_side_px", pa.float32(), "longer side of a box, px", nullable=True),
    ]
)
"""The core columns, in order. User columns follow them."""

SUBSET_FIELDS: tuple[pa.Field, ...] = (
    _field("dataset", _CODE, "dataset folder of the row's images: a path from here, or a URI"),
    _field("sampling_weight", pa.float64(), "at least 0; the mean over the subset is 1"),
)
"""Columns that a subset manifest has besides the core ones. They have names of the format's own,
because a user's list may have any name under `input_`."""
