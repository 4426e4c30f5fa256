"""A dataset's files as they were found: each folder listed once, each receipt read once.

In an object store every question is a request, and the done check of a finished shard asks a dozen
of them. A listing answers most with one request for a thousand files. It is for looking at many
shards at rest; whoever works on a shard asks what is there now.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from annotations_schema.storage import AnyPath


class Listing:
    """Remembers what it was asked first; shared by threads."""

    def __init__(self) -> None:
        self._sizes: dict[AnyPath, dict[str, int]] = {}
        self._texts: dict[AnyPath, str] = {}
        self._lock = threading.Lock()

    def size(self, path: AnyPath) -> int | None:
        """Bytes of a file, or None where there was none when its folder was listed."""
        folder = path.parent
        with self._lock:
            if folder not in self._sizes:
                self._sizes[folder] = _sizes(folder)
        return self._sizes[folder].get(path.name)

    def read_text(self, path: AnyPath) -> str:
        """A small file as text, as it was when it was first read.

        Raises:
            FileNotFoundError: it is not in the listing, or went since.
        """
        if self.size(path) is None:
            raise FileNotFoundError(f"{path}: no such file")
        if path not in self._texts:
            self._texts[path] = path.read_text()
        return self._texts[path]


def _sizes(folder: AnyPath) -> dict[str, int]:
    if not isinstance(folder, Path):
        return folder.sizes()
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
