"""Options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from annotations_schema.errors import UsageError
from training.evaluation.aggregate import FACE_BIN_EDGES, TEXT_BIN_EDGES, Bootstrap

NONE = "none"
"""Name that leaves a judge out."""

PERCEPTUAL_NETS = ("vgg16_keras", "lpips")
FRECHET_NETS = ("vgg16_keras", "inception_v3")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What to judge, with what, and how."""

    data: tuple[Path, ...] = ()
    """Dataset folders or manifest files: their images, valid faces, and the words of the column
    input_words, a JSON list of {"box_xyxy": [x0, y0, x1, y1], "text": "..."}."""
    images_root: Path | None = None
    """The dataset folder that the manifest files address, where they lie elsewhere."""
    tokbench: tuple[Path, ...] = ()
    """TokBench annotation files: text_*.json or face_meta.json."""
    tokbench_images: tuple[Path, ...] = ()
    """The image folder of each TokBench file, in order."""
    images: tuple[Path, ...] = ()
    """Folders of images without annotations: fidelity alone is measured on them."""
    size: Literal[256, 512, 1024] = 256
    """Side of the square that tokenizers see, pixels; it also selects the ratio bins."""
    text_recogniser: str = "easyocr_english_g2"
    """easyocr_english_g2 (installed), doctr_parseq (as TokBench, by path or download), or none."""
    text_weights: Path | None = None
    """Weights of the recogniser, where they are not in an installed package."""
    text_download: bool = False
    """Let docTR download parseq's weights."""
    text_reference: Literal["transcriptions", "original"] = "transcriptions"
    """original: the truth is what the recogniser reads in the original at the detected boxes; the
    metrics are then named T-ACC(original) and T-NED(original)."""
    refine: bool = False
    """Leave out words that the recogniser does not read in the original (TokBench's --refine)."""
    face_net: str = "dlib_resnet_v1"
    """dlib_resnet_v1 (installed), insightface_antelopev2 (as TokBench, by path or download), or
    none."""
    face_weights: Path | None = None
    """Weights of the face net, where they are not in an installed package."""
    face_download: bool = False
    """Let insightface download antelopev2; its licence allows non-commercial research alone."""
    face_bins: Literal["tokbench_a77070c", "tokbench_855802d"] = "tokbench_a77070c"
    """Which published version of TokBench's face bins: its two commits differ."""
    perceptual: str = "vgg16_keras"
    """vgg16_keras (installed, an unweighted distance that is not LPIPS), lpips (by path or
    download), or none."""
    perceptual_weights: Path | None = None
    """torchvision's vgg16-397923af.pth for lpips."""
    perceptual_download: bool = False
    """Let torchvision download that file."""
    fid: str = "vgg16_keras"
    """vgg16_keras (installed, a Frechet distance that is not rFID), inception_v3 (rFID by
    torch-fidelity, by path or download), or none."""
    fid_weights: Path | None = None
    """torch-fidelity's weights-inception-2015-12-05-6726825d.pth for inception_v3."""
    fid_download: bool = False
    """Let torch download that file."""
    jpeg: bool = False
    """Also judge JPEG at the bits of each checkpoint's tokens."""
    untrained: bool = False
    """Also judge each checkpoint's network as it was before its first step."""
    peers: tuple[str, ...] = ()
    """Other tokenizers, NAME=module:callable each; see `training.evaluation.peers`."""
    max_images: int | None = None
    """Judge only the first images."""
    batch_size: int = 256
    """Crops that a judge sees at once."""
    bootstrap_resamples: int = 1000
    """Resamples of the images for each interval."""
    confidence: float = 0.95
    """Confidence of the intervals, in (0, 1)."""
    seed: int = 0
    """Seed of the resamples."""
    device: str = "cpu"
    """Where checkpoints run: cpu, cuda, cuda:1 ..."""

    def __post_init__(self) -> None:
        if self.size not in TEXT_BIN_EDGES:
            sizes = ", ".join(map(str, TEXT_BIN_EDGES))
            raise UsageError(f"size {self.size} has no ratio bins; choose one of {sizes}")
        if self.face_bins not in FACE_BIN_EDGES:
            known = ", ".join(FACE_BIN_EDGES)
            raise UsageError(f"face_bins '{self.face_bins}' does not exist; choose one of {known}")
        if not self.data and not self.tokbench and not self.images:
            raise UsageError(
                "no data given: name dataset folders with --data, --tokbench files, or folders of "
                "images with --images"
            )
        if len(self.tokbench) != len(self.tokbench_images):
            raise UsageError(
                f"{len(self.tokbench)} TokBench files and {len(self.tokbench_images)} image "
                "folders; give one folder for each file with --tokbench-images"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not 0.0 < self.confidence < 1.0:
            raise UsageError(f"confidence {self.confidence} must lie between 0 and 1, such as 0.95")
        for name in ("batch_size", "bootstrap_resamples", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")

    @property
    def has_annotations(self) -> bool:
        """Whether any source can hold words and faces; folders of images hold none."""
        return bool(self.data or self.tokbench)

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.bootstrap_resamples, self.confidence, self.seed)

    @property
    def text_bin_edges(self) -> tuple[float, ...]:
        """Edges of the character ratio's bins."""
        return TEXT_BIN_EDGES[self.size]

    @property
    def face_bin_edges(self) -> tuple[float, ...]:
        """Edges of the face ratio's bins."""
        return FACE_BIN_EDGES[self.face_bins][self.size]
