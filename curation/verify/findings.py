"""What `verify` says: one finding for each thing that is off."""

from __future__ import annotations

from typing import NamedTuple

WHOLE_DATASET = "-"


class Finding(NamedTuple):
    """One thing that is off.

    shard: six digits, or "-" where the whole dataset is meant.
    row: number in the shard's table from 0, or None where the whole shard or file is meant.
    column: of the table; or a file, relative to the dataset.
    """

    shard: str
    row: int | None
    column: str
    rule: str
    found: str

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return f"shard {self.shard}{row}, {self.column}: {self.found} (rule: {self.rule})"
