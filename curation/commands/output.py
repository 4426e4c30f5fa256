"""How commands speak: text on stderr, one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

from curation.options import OutputOptions

EXIT_DONE = 0
EXIT_OFF = 1


def say(text: str) -> None:
    """A line for people."""
    sys.stderr.write(text + "\n")


def print_json(output: OutputOptions, value: dict[str, Any]) -> None:
    """One JSON object, where --json asks for it."""
    if output.json:
        sys.stdout.write(json.dumps(value) + "\n")
