"""From typed options to configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits
from curation.annotate.config import AnnotateConfig
from curation.annotate.protocols import Provider
from curation.config import CurateConfig
from curation.fetch.config import FetchConfig
from curation.machine import MachineConfig, Runner
from curation.options import DatasetOptions, RunnerOptions, WorkerOptions
from curation.plan import PlanConfig

ConfigT = TypeVar("ConfigT")


def curate_config(dataset: DatasetOptions, worker: WorkerOptions) -> CurateConfig:
    """The configuration that was typed.

    Raises:
        UsageError: a setting is out of range, or names an unknown detector.
    """
    plan_config = _checked(
        PlanConfig,
        url_column=dataset.url_col,
        caption_column=dataset.caption_col,
        sha256_column=dataset.sha256_col,
        license_column=dataset.license_col,
        shard_size=dataset.shard_size,
    )
    fetch = _checked(
        FetchConfig,
        deadline_s=dataset.deadline_s,
        retries=dataset.retries,
        max_bytes=dataset.max_bytes,
        hash_policy=dataset.hash_policy,
        allow_private_network=dataset.allow_private_network,
        limits=DecodeLimits(max_pixels=dataset.max_pixels),
        **_given(threads=worker.fetch_threads),
    )
    annotate = _checked(
        AnnotateConfig,
        text_detector=dataset.text_detector,
        face_detector=dataset.face_detector,
        text_score_min=dataset.text_score_min,
        face_score_min=dataset.face_score_min,
        provider=Provider(dataset.provider),
        max_pixels=dataset.max_pixels,
        text_weights=absolute_path(worker.text_weights),
        face_weights=absolute_path(worker.face_weights),
        **_given(threads=worker.threads),
    )
    return CurateConfig(plan=plan_config, fetch=fetch, annotate=annotate)


def machine_config(options: RunnerOptions) -> MachineConfig:
    """Where to run, as it was typed.

    Raises:
        UsageError: a number is out of range, or an address is given to the local runner.
    """
    return MachineConfig(
        runner=Runner(options.runner),
        ray_address=options.ray_address,
        workers=options.workers,
        fetch_workers=options.fetch_workers,
    )


def _checked(make: Callable[..., ConfigT], **settings: Any) -> ConfigT:
    """A configuration; what it objects to becomes the typist's one line."""
    try:
        return make(**settings)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def absolute_path(path: Path | None) -> str | None:
    """Workers may run in another folder."""
    return None if path is None else str(path.absolute())
