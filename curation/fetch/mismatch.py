"""What images look like that a hash mismatch keeps out of the dataset.

They are not stored, so nobody can look at them later; their perceptual hash is what tells a
re-encoded image from another one (`curation.report.integrity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from annotations_schema.codes import FailureCode
from annotations_schema.images import (
    DecodeLimits,
    ImageDecodeError,
    decode,
    perceptual_hash,
)
from curation.fetch.passthrough import Spool, Spooled


def hash_mismatches(rows: Sequence[dict[str, Any]], spool: Spool, limits: DecodeLimits) -> None:
    """Put `phash` into the rows that a mismatch filters, where their image can be decoded."""
    filtered = [row for row in rows if row["failure_code"] == FailureCode.SHA256_MISMATCH]
    if not filtered:
        return
    with spool.path.open("rb") as file:
        for row in filtered:
            entry = spool.entries[row["image_id"]]
            assert isinstance(entry, Spooled)
            file.seek(entry.offset)
            try:
                row["phash"] = perceptual_hash(decode(file.read(entry.length), limits)[0])
            except ImageDecodeError:
                continue
