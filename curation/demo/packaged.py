"""Files inside installed packages, found without importing the packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from annotations_schema.errors import UsageError

FONT_FILES: tuple[str, ...] = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "cmb10.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)
"""Text fonts in the matplotlib wheel: DejaVu, STIX and Computer Modern."""


def packaged_file(package: str, path: str) -> Path:
    """Returns the file at a path inside a top-level package.

    Raises:
        UsageError: the package is not installed, or has no such file.
    """
    mend = "install the extras [curation,training,embedded]"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"package {package!r}: must be installed; {mend}")
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.is_file():
        raise UsageError(f"{file}: must be part of package {package!r}; {mend}")
    return file


def font_files() -> tuple[Path, ...]:
    """Returns the TrueType files that posters are set in."""
    return tuple(packaged_file("matplotlib", f"mpl-data/fonts/ttf/{name}") for name in FONT_FILES)
