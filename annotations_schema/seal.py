"""Sealed JSON: a mapping that carries the sha256 of all else in it, in one canonical form of text.

A file that was edited, or in which a byte changed, no longer fits its seal; whitespace included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sealed_sha256"
"""Key of the seal."""


def json_text(value: Any) -> str:
    """The form of text in which every JSON file of a dataset is written."""
    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with its seal."""
    return {**fields, SEAL: hashlib.sha256(json_text(fields).encode()).hexdigest()}


def is_intact(data: bytes) -> bool:
    """Whether a file's bytes are those of a sealed mapping, to the letter."""
    try:
        text = data.decode()
        fields = json.loads(text)
        seal = fields.pop(SEAL)
    except (ValueError, KeyError, AttributeError, TypeError):
        return False
    is_canonical = json_text({**fields, SEAL: seal}) == text
    return is_canonical and sealed(fields)[SEAL] == seal
