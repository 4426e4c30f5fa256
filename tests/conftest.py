"""Pictures that every test may use: real photographs from installed packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def package_file(package: str, relative: str) -> Path:
    """A file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / relative


def read_photo(package: str, relative: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    with Image.open(package_file(package, relative)) as image:
        return np.array(image.convert("RGB"))


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A portrait with one face, (512, 512, 3) uint8 RGB."""
    photo = read_photo("skimage", "data/astronaut.png")
    photo.setflags(write=False)
    return photo


@pytest.fixture(scope="session")
def coffee() -> np.ndarray:
    """A cup, no face, (400, 600, 3) uint8 RGB."""
    photo = read_photo("skimage", "data/coffee.png")
    photo.setflags(write=False)
    return photo
