"""Content-Usage: a server's preferences for what its content is used for.

IETF AIPREF (draft-ietf-aipref-vocab, draft-ietf-aipref-attach): a structured-field dictionary of
categories of use, each `y` or `n`, in a response header or in a rule of robots.txt. Of several
statements the most restrictive counts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import http_sf

USAGE_CATEGORIES = ("train-ai", "train-genai", "ai")
"""Categories of the drafts so far that training an image tokenizer falls into."""


def disallowed_usage(value: bytes, categories: Collection[str]) -> str | None:
    """The first of the categories that a statement sets to `n`, or None.

    A statement that is no dictionary says nothing, as structured fields are read.
    """
    try:
        preferences = http_sf.parse(value, tltype="dictionary")
    except http_sf.StructuredFieldError:
        return None
    for category in categories:
        member = cast("dict[str, Any]", preferences).get(category)
        if isinstance(member, tuple) and member[0] == http_sf.Token("n"):
            return category
    return None
