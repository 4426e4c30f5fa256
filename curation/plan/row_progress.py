"""Progress of a long look at many rows, on stderr: a bar on a terminal, elsewhere a line at times.

What is done within seconds says nothing.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_EVERY_S = 15.0


class RowProgress:
    """Counts rows while its `with` block runs.

    Args:
        name: what is done with the rows.
        num_rows: how many there will be, or None.
    """

    def __init__(self, name: str, num_rows: int | None) -> None:
        self.name = name
        self.num_rows = num_rows
        self.rows = 0
        self.start_s = self.last_line_s = time.monotonic()
        is_quiet = not sys.stderr.isatty()
        self.bar = tqdm(
            total=num_rows, desc=name, unit=" rows", unit_scale=True, delay=1, disable=is_quiet
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.close()

    def add(self, rows: int) -> None:
        """So many rows more are done."""
        self.rows += rows
        self.bar.update(rows)
        now_s = time.monotonic()
        if self.bar.disable and now_s - self.last_line_s >= LINE_EVERY_S:
            self.last_line_s = now_s
            sys.stderr.write(self.line(now_s - self.start_s) + "\n")

    def line(self, elapsed_s: float) -> str:
        """One line for a log."""
        of_all = "" if self.num_rows is None else f"/{self.num_rows:,}"
        return f"{self.name}: {self.rows:,}{of_all} rows, {self.rows / elapsed_s:,.0f} rows/s"
