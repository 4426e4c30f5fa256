"""Whether a manifest's regions are meant as the trainer reads them: its frame and transform."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from annotations_schema.errors import UsageError
from annotations_schema.provenance import FOOTER_KEY, FRAME
from annotations_schema.storage import AnyPath

# The template itself is told by its hash.
_TRANSFORM_KEYS = ("name", "direction", "layout", "canvas_px", "template_sha256")


def check_conventions(schema: pa.Schema, path: AnyPath) -> None:
    """Refuse a manifest whose footer states another frame, box order or face transform.

    Its geometry would be read as ours, and every region would lie somewhere else.

    Args:
        schema: of a manifest's table; its footer is known to be one.
        path: of the manifest, for the message.

    Raises:
        UsageError: the first convention that is not known.
    """
    stated = json.loads(schema.metadata[FOOTER_KEY])
    for key, known in _flat(FRAME).items():
        if (found := _flat(stated).get(key)) != known:
            raise UsageError(
                f"{path}: {key} is {found!r}, the trainer knows {known!r}; write the manifest "
                "again with insight-curate"
            )


def _flat(frame: Any) -> dict[str, Any]:
    transform = frame.get("transform")
    stated = transform if isinstance(transform, dict) else {}
    flat = {f"transform {key}": stated.get(key) for key in _TRANSFORM_KEYS}
    return {key: frame.get(key) for key in FRAME if key != "transform"} | flat
