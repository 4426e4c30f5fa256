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
    """Column with the URL; a txt list has one URL a line."""
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
    provider: Literal["cpu", "cuda"] = "cpu"
    """Where the detectors compute."""
    deadline_s: float = 30.0
    """Total time for one URL, seconds, with redirects and retries."""
    retries: int = 2
    """Further attempts after a transient failure."""
    max_bytes: int = 33_554_432
    """Largest image file, bytes."""
    max_pixels: int = 100_000_000
    """Most pixels of an image; larger ones are refused by their header."""
    hash_policy: Literal["drop", "keep"] = "drop"
    """Images that differ from the expected sha256: leave out, or keep."""
    allow_private_network: bool = False
    """Permit loopback and private addresses (tests, intranets)."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker uses; may differ from run to run of one dataset."""

    fetch_threads: int | None = None
    """Downloads at a time in each fetch worker; default 32."""
    threads: int | None = None
    """CPU threads of each annotate worker; default 1."""
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
