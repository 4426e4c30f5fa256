"""Groups of options that several commands of `insight-curate` share.

This module imports nothing heavy, so that help and typing errors are quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What a command prints."""

    json: bool = False
    """Print one JSON object on stdout; text and progress stay on stderr."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What the dataset will be; the same for its whole life."""

    url_col: str = "url"
    """Column with the URL, or as a.b the field of a struct; a txt list has one URL a line."""
    caption_col: str | None = None
    """Column with the caption."""
    sha256_col: str | None = None
    """Column with the expected sha256 of the image file."""
    license_col: str | None = None
    """Column with the licence."""
    shard_size: int = 1000
    """Rows in a shard, the unit of work."""
    text_detector: str = "ppocr_v6_small"
    """Text detector; see `insight-curate detectors`; "none" looks for no text."""
    face_detector: str = "retinaface_mnet025"
    """Face detector; "none" looks for no faces."""
    text_score_min: float | None = None
    """Leave out text regions that score less; default: the detector's own threshold."""
    face_score_min: float | None = None
    """Leave out faces that score less; default: the detector's own threshold."""
    text_side_min_px: float = 0.0
    """Leave out text regions with a shorter side, pixels of the image."""
    face_side_min_px: float = 0.0
    """Leave out faces with a shorter side, pixels of the image."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Where the detectors compute."""
    deadline_s: float = 30.0
    """Total time for one URL, seconds, with redirects and retries."""
    retries: int = 2
    """Further attempts after a transient failure."""
    min_bytes_per_s: float = 1024.0
    """Least average rate of a body after its first seconds, bytes a second; 0 for none."""
    max_bytes: int = 33_554_432
    """Largest image file, bytes."""
    max_pixels: int = 100_000_000
    """Most pixels of an image; larger ones are refused by their header."""
    hash_policy: Literal["drop", "flag", "keep"] = "drop"
    """Images that differ from the expected sha256: leave out, keep and flag, or keep."""
    max_side: int | None = None
    """Longest side of a stored image, pixels: larger and turned ones are encoded again; default:
    all are stored as received."""
    quality: int = 95
    """JPEG quality of images that are encoded again."""
    shard_deadline_s: float | None = 1800.0
    """When a shard closes, seconds; the URLs not begun come after the other shards. None: never."""
    user_agent: str | None = None
    """Who asks, as NAME/VERSION (contact); robots.txt is read for NAME. Default: this software."""
    ignore_robots_txt: bool = False
    """Do not ask robots.txt, for hosts that are your own. Headers that opt out still count."""
    allow_private_network: bool = False
    """Permit loopback and private addresses (tests, intranets)."""


@dataclass(frozen=True, kw_only=True)
class AnnotationOptions:
    """Another way to look at the same images, kept beside the dataset's own annotation."""

    annotation_set: str = "default"
    """Name of the set that is written; the options below begin a new one, and belong to it."""
    text_detector: str | None = None
    """Text detector; default: that of the dataset."""
    face_detector: str | None = None
    """Face detector; default: that of the dataset."""
    text_score_min: float | None = None
    """Leave out text regions that score less."""
    face_score_min: float | None = None
    """Leave out faces that score less."""
    text_side_min_px: float | None = None
    """Leave out text regions with a shorter side, pixels of the image."""
    face_side_min_px: float | None = None
    """Leave out faces with a shorter side, pixels of the image."""
    provider: Literal["cpu", "cuda"] | None = None
    """Where the detectors compute."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker uses; may differ from run to run of one dataset."""

    fetch_threads: int | None = None
    """Downloads at a time in each fetch worker; default 32."""
    host_connections: int | None = None
    """Requests at a time from one fetch worker to one host; default 8."""
    host_requests_per_s: float | None = None
    """Requests a second from one fetch worker to one host; default: no limit."""
    threads: int | None = None
    """CPU threads of each annotate worker, one image on each; default 1."""
    batch_size: int | None = None
    """Most images in one run of a network that takes batches, for a GPU; default 1."""
    text_weights: Path | None = None
    """Weights file of the text detector; default: embedded, or the library's own."""
    face_weights: Path | None = None
    """Weights file of the face detector; default: embedded, or the library's own."""


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where the work is done; may differ from run to run of one dataset."""

    runner: Literal["local", "ray"] = "local"
    """In this process, or on Ray."""
    ray_address: str | None = None
    """Cluster to join, HOST:PORT or auto; default: $RAY_ADDRESS, or a cluster of its own."""
    workers: int | None = None
    """Annotate workers on Ray; default: one per CPU (and per `threads`)."""
    fetch_workers: int | None = None
    """Fetch workers on Ray; default: one for four annotate workers."""
    gpus_per_worker: float = 1.0
    """GPUs of each annotate worker on Ray where --provider is cuda; 0.25 lets four share one."""
