"""`reconstruct`: pictures through a tokenizer, at their own aspect, beside their originals."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from tqdm import tqdm

from annotations_schema import images
from annotations_schema.errors import UsageError
from annotations_schema.layout import atomic_write
from training.checkpoint import load_tokenizer
from training.data.batch import to_model_range, to_pixels
from training.evaluation.fidelity import psnr_db
from training.models.tokenizer import Tokenizer

Image = NDArray[np.uint8]

SIDE_BY_SIDE_GAP_PX = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructConfig:
    """How pictures are reconstructed."""

    size: int | None = None
    """Scale each picture so that its longer side has this many pixels; its own size if unset."""
    side_by_side: bool = True
    """Also write NAME.side_by_side.png: the picture left, its reconstruction right."""
    device: str = "cpu"
    """Where the tokenizer runs: cpu, cuda, cuda:1 ..."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"size {self.size} must be at least 1 pixel")


class ReconstructedImage(NamedTuple):
    """One picture: where its reconstruction is and how close it is, or why there is none.

    output: the PNG that was written, None for a bad picture.
    psnr_db: of the reconstruction against the picture at the reconstructed size.
    num_tokens: tokens that stand for the picture, padding included.
    error: why there is no reconstruction.
    """

    source: Path
    output: Path | None = None
    psnr_db: float | None = None
    num_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructResult:
    """All pictures, in the order they were named."""

    pictures: tuple[ReconstructedImage, ...]

    @property
    def num_failed(self) -> int:
        """Pictures without a reconstruction."""
        return sum(picture.error is not None for picture in self.pictures)

    @property
    def exit_code(self) -> int:
        """0, or 1 where a picture has no reconstruction."""
        return 1 if self.num_failed else 0


def reconstruct(
    checkpoint: Path,
    pictures: Sequence[Path],
    out: Path,
    config: ReconstructConfig,
) -> ReconstructResult:
    """Reconstruct pictures and write NAME.png, NAME.side_by_side.png into `out`.

    A picture is padded to a multiple of the tokenizer's pixels per token by repeating its last row
    and column, and cut again. One line per picture goes to stderr; a bad picture is such a line
    and a failed row of the result, not an error.

    Args:
        checkpoint: file of `training.checkpoint.save_checkpoint`.
        pictures: image files.
        out: folder; made if needed.
        config: size and device.

    Raises:
        UsageError: no pictures, two of the same name, or the checkpoint holds no tokenizer.
    """
    outputs = _outputs(pictures, out)
    tokenizer = load_tokenizer(checkpoint, config.device).eval()
    results = []
    for picture, output in zip(tqdm(pictures, unit="image"), outputs, strict=True):
        result = _reconstruct_one(tokenizer, picture, output, config)
        tqdm.write(_line(result), file=sys.stderr)
        results.append(result)
    return ReconstructResult(pictures=tuple(results))


def reconstruct_image(tokenizer: Tokenizer, image: Image, device: str = "cpu") -> Image:
    """The reconstruction of (H, W, 3) uint8 RGB of any size, the same shape."""
    height, width = image.shape[:2]
    padded = pad_to_multiple(image, tokenizer.downsampling)
    with torch.inference_mode():
        x_hat = tokenizer(to_model_range(padded[None]).to(device)).x_hat
    return to_pixels(x_hat)[0, :height, :width]


def pad_to_multiple(image: Image, multiple: int) -> Image:
    """The image with its last row and column repeated until both sides are multiples."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")


def scale_to(image: Image, longer_side: int) -> Image:
    """The image scaled so that its longer side is as given, its aspect kept; LANCZOS."""
    height, width = image.shape[:2]
    scale = longer_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.LANCZOS))


def side_by_side(image: Image, reconstruction: Image) -> Image:
    """Both images of one shape, the first on the left, with a white gap."""
    gap = np.full((image.shape[0], SIDE_BY_SIDE_GAP_PX, 3), 255, np.uint8)
    return np.concatenate([image, gap, reconstruction], axis=1)


def _outputs(pictures: Sequence[Path], out: Path) -> list[Path]:
    """Where each reconstruction goes; names that differ in their suffix alone would collide."""
    if not pictures:
        raise UsageError("no pictures given; name image files")
    names = [f"{picture.stem}.png" for picture in pictures]
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UsageError(f"{times} pictures would become {out / name}; reconstruct them separately")
    return [out / name for name in names]


def _reconstruct_one(
    tokenizer: Tokenizer, source: Path, output: Path, config: ReconstructConfig
) -> ReconstructedImage:
    try:
        image, _ = images.decode(source.read_bytes())
    except OSError as error:
        return ReconstructedImage(source, error=str(error.strerror))
    except images.ImageDecodeError as error:
        return ReconstructedImage(source, error=str(error))
    if config.size is not None:
        image = scale_to(image, config.size)
    reconstruction = reconstruct_image(tokenizer, image, config.device)
    _write_png(output, reconstruction)
    if config.side_by_side:
        beside = output.with_suffix(".side_by_side.png")
        _write_png(beside, side_by_side(image, reconstruction))
    tokens = math.prod(math.ceil(side / tokenizer.downsampling) for side in image.shape[:2])
    return ReconstructedImage(source, output, psnr_db(image, reconstruction), tokens)


def _write_png(path: Path, image: Image) -> None:
    with atomic_write(path) as temporary:
        PillowImage.fromarray(image).save(temporary, "PNG")


def _line(result: ReconstructedImage) -> str:
    if result.error is not None:
        return f"{result.source}: not reconstructed: {result.error}"
    return (
        f"{result.source}: {result.psnr_db:.2f} dB, {result.num_tokens} tokens -> {result.output}"
    )
