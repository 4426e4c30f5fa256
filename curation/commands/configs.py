"""From typed options to configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits
from annotations_schema.layout import DEFAULT_SET
from curation.annotate.config import AnnotateConfig
from curation.annotate.protocols import Provider
from curation.config import CurateConfig
from curation.fetch.config import FetchConfig
from curation.machine import MachineConfig, Runner
from curation.options import AnnotationOptions, DatasetOptions, RunnerOptions, WorkerOptions
from curation.plan.plan import PlanConfig

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
        max_side=dataset.max_side,
        quality=dataset.quality,
        shard_deadline_s=dataset.shard_deadline_s,
        allow_private_network=dataset.allow_private_network,
        limits=DecodeLimits(max_pixels=dataset.max_pixels),
        min_bytes_per_s=dataset.min_bytes_per_s,
        respect_robots_txt=not dataset.ignore_robots_txt,
        **_given(
            threads=worker.fetch_threads,
            user_agent=dataset.user_agent,
            host_connections=worker.host_connections,
            host_requests_per_s=worker.host_requests_per_s,
        ),
    )
    annotate = _checked(
        AnnotateConfig,
        text_detector=dataset.text_detector,
        face_detector=dataset.face_detector,
        text_score_min=dataset.text_score_min,
        face_score_min=dataset.face_score_min,
        text_side_min_px=dataset.text_side_min_px,
        face_side_min_px=dataset.face_side_min_px,
        provider=Provider(dataset.provider),
        max_pixels=dataset.max_pixels,
        text_weights=absolute_path(worker.text_weights),
        face_weights=absolute_path(worker.face_weights),
        **_given(threads=worker.threads, batch_size=worker.batch_size),
    )
    return CurateConfig(plan=plan_config, fetch=fetch, annotate=annotate)


def annotation_settings(given: AnnotationOptions, worker: WorkerOptions) -> dict[str, Any]:
    """Settings of AnnotateConfig that were typed for an annotation set; None where none was."""
    settings = asdict(given)
    is_named = settings.pop("annotation_set") != DEFAULT_SET
    provider = settings.pop("provider")
    settings["provider"] = None if provider is None else Provider(provider)
    if is_named:  # weights of the default set may move: they are settings of the machine there
        settings["text_weights"] = absolute_path(worker.text_weights)
        settings["face_weights"] = absolute_path(worker.face_weights)
    return settings


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
        gpus_per_worker=options.gpus_per_worker,
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
