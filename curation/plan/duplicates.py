"""Which rows of a list repeat an earlier one, found on disk: memory does not grow with the list.

    add(image_ids, rows) ...   ->  one file of (image_id, row) per leading byte of the image_id
    find()                     ->  each of these files alone: the later rows of equal ids
    among(first, stop)         ->  the duplicates of a stretch of the list

Equal ids meet in one file, and a file holds a 256th of the list: 100 MB at a billion rows. The
rows found are filed by stretches of the list, so that looking them up in order reads each once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ENTRY = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<i8")])
_ROWS_IN_MEMORY = 2**20
_ROWS_OF_STRETCH = 2**22


class Duplicates:
    """The rows of a list whose image_id an earlier row has.

    Args:
        folder: an empty local folder for the files; 24 bytes a row of the list.
    """

    def __init__(self, folder: Path) -> None:
        self._ids, self._rows = folder / "ids", folder / "rows"
        self._ids.mkdir()
        self._rows.mkdir()
        self._waiting: list[NDArray[np.void]] = []
        self._num_waiting = 0
        self._stretch = -1
        self._in_stretch = np.empty(0, np.int64)

    def add(self, image_ids: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Take the ids (N, 16) uint8 of rows (N,), which follow those of earlier calls."""
        entries = np.empty(len(rows), _ENTRY)
        halves = np.ascontiguousarray(image_ids).view(">u8")
        entries["high"], entries["low"], entries["row"] = halves[:, 0], halves[:, 1], rows
        self._waiting.append(entries)
        self._num_waiting += len(rows)
        if self._num_waiting >= _ROWS_IN_MEMORY:
            self._flush()

    def find(self) -> int:
        """Look for duplicates among all rows that were added; returns how many there are."""
        num_found = 0
        for entries in self._sorted():
            found = np.sort(entries["row"][np.flatnonzero(_repeats(entries)) + 1])
            num_found += len(found)
            _append(self._rows, found, found // _ROWS_OF_STRETCH)
        return num_found

    def repeated(self) -> Iterator[tuple[str, int]]:
        """Every image_id that stands in several rows, with each of these rows, the first too."""
        for entries in self._sorted():
            repeats = _repeats(entries)
            is_one = np.append(repeats, False) | np.append(False, repeats)
            for high, low, row in entries[is_one].tolist():
                yield f"{high:016x}{low:016x}", row

    def among(self, first: int, stop: int) -> NDArray[np.bool_]:
        """(stop - first,) bool: which of the rows from `first` to before `stop` are duplicates."""
        is_duplicate = np.zeros(stop - first, np.bool_)
        for stretch in range(first // _ROWS_OF_STRETCH, (stop - 1) // _ROWS_OF_STRETCH + 1):
            if stretch != self._stretch:
                path = self._rows / str(stretch)
                rows = np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)
                self._stretch, self._in_stretch = stretch, np.sort(rows)
            begin, end = np.searchsorted(self._in_stretch, [first, stop])
            is_duplicate[self._in_stretch[begin:end] - first] = True
        return is_duplicate

    def _sorted(self) -> Iterator[NDArray[np.void]]:
        """All entries, a part at a time: equal ids are neighbours, in the order of their rows."""
        self._flush()
        for path in sorted(self._ids.iterdir()):
            entries = np.fromfile(path, _ENTRY)
            path.unlink()
            yield entries[np.lexsort((entries["low"], entries["high"]))]

    def _flush(self) -> None:
        if self._waiting:
            entries = np.concatenate(self._waiting)
            _append(self._ids, entries, (entries["high"] >> 56).astype(np.int64))
        self._waiting, self._num_waiting = [], 0


def _repeats(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    """(N - 1,) bool: whether an entry is followed by one of the same id."""
    same: NDArray[np.bool_] = (entries["high"][1:] == entries["high"][:-1]) & (
        entries["low"][1:] == entries["low"][:-1]
    )
    return same


def _append(
    folder: Path, entries: NDArray[np.void] | NDArray[np.int64], keys: NDArray[np.int64]
) -> None:
    """Append each entry to the file named by its key, in order."""
    order = np.argsort(keys, kind="stable")
    values, begins = np.unique(keys[order], return_index=True)
    for key, part in zip(values.tolist(), np.split(entries[order], begins[1:]), strict=False):
        with (folder / str(key)).open("ab") as file:
            file.write(part.tobytes())
