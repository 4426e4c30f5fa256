"""Photographs of a usual size in a web list, for the benchmarks."""

from __future__ import annotations

import io

from PIL import Image
from skimage import data


def photos() -> list[bytes]:
    """Four JPEG files, 448 x 320 px, some 20 to 60 kB."""
    encoded = []
    for picture in (data.astronaut(), data.coffee(), data.rocket(), data.chelsea()):
        buffer = io.BytesIO()
        Image.fromarray(picture).resize((448, 320)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded
