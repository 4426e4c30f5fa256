"""Which font files there are, and which can write a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError

from annotations_schema.errors import UsageError

SUFFIXES = (".ttf", ".otf")


def font_files(folders: Sequence[Path]) -> list[Path]:
    """Font files below folders (or files themselves), by name.

    Raises:
        UsageError: a folder does not exist, or there is no font in any.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"fonts {folder} does not exist; give a folder of .ttf or .otf files")
        files = [folder] if folder.is_file() else folder.rglob("*")
        found.extend(path for path in files if path.suffix.lower() in SUFFIXES)
    if not found:
        places = ", ".join(map(str, folders))
        raise UsageError(f"no font in {places}; give a folder of .ttf or .otf files with --fonts")
    return sorted(found, key=lambda path: (path.name, str(path)))


def fonts_that_write(fonts: Iterable[Path], words: Iterable[str]) -> list[Path]:
    """The fonts that have a glyph for every letter of all words, as they are and in capitals.

    A font without one would draw an empty box, which nobody can read. Files that are no fonts are
    left out too.
    """
    needed = {ord(letter) for word in words for letter in word + word.upper() + word.capitalize()}
    return [font for font in fonts if needed <= _letters(font)]


def _letters(font: Path) -> set[int]:
    try:
        with font.open("rb") as file, TTFont(file, lazy=True, fontNumber=0) as opened:
            return set(opened.getBestCmap() or ())
    except (TTLibError, OSError):
        return set()
