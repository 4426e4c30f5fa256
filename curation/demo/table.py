"""One table in plain text: sections of aligned columns, to be read on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Cell = str | int | float | None


class Section(NamedTuple):
    """Rows under one title; each row has one cell per heading."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    """One line below the rows."""


def render_table(sections: Sequence[Section]) -> str:
    """Returns sections below each other, all as wide as the widest, without a final line break.

    Text stands left, numbers stand right; a float shows three digits after the point, None a dash.
    """
    blocks = [[*_aligned(section), *filter(None, [section.note])] for section in sections]
    width = max(len(line) for block in blocks for line in block)
    width = max(width, *(len(section.title) + 4 for section in sections))
    lines: list[str] = []
    for section, block in zip(sections, blocks, strict=True):
        lines += [f"== {section.title} ".ljust(width, "="), *block, ""]
    return "\n".join([*lines[:-1], "=" * width])


def _aligned(section: Section) -> list[str]:
    texts = [section.headings, *(tuple(map(_text, row)) for row in section.rows)]
    columns = list(zip(*texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [
        any(isinstance(row[index], int | float) for row in section.rows)
        for index in range(len(section.headings))
    ]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in texts
    ]


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
