"""The configuration of a dataset: its recipe, what of it decides the results, and its file.

`config.json` is written once planning is complete: a folder that has one is a planned dataset.
Its identity is everything that changes rows or regions. What belongs to a machine (runner,
workers, threads, where weights lie) is kept for convenience and may differ from run to run.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotations_schema.columns import SCHEMA_VERSION
from annotations_schema.errors import UsageError
from annotations_schema.layout import DEFAULT_SET, DatasetLayout, sha256_file, write_json
from annotations_schema.provenance import check_version
from annotations_schema.seal import SEAL, sealed
from annotations_schema.storage import AnyPath
from curation.annotate.config import AnnotateConfig
from curation.fetch.config import MACHINE_SETTINGS as FETCH_MACHINE_SETTINGS
from curation.fetch.config import FetchConfig
from curation.plan.plan import PlanConfig

MACHINE_SETTINGS = frozenset(
    {
        *(f"fetch.{name}" for name in FETCH_MACHINE_SETTINGS),
        "annotate.threads",
        "annotate.batch_size",
        # A file may move; its sha256 is part of the annotate stage's own hash.
        "annotate.text_weights",
        "annotate.face_weights",
    }
)
"""Settings that may differ from run to run of one dataset."""

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig:
    """Everything that a run of the pipeline is told."""

    plan: PlanConfig = field(default_factory=PlanConfig)
    """How the list is read and cut into shards."""
    fetch: FetchConfig = field(default_factory=FetchConfig)
    """How images are downloaded."""
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)
    """Which detectors look at them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListSource:
    """The list a dataset was planned from."""

    path: str
    """Where it was, an absolute path or a URI; it may have moved."""
    name: str
    """File name: it stands in every row as `source_name`."""
    sha256: str
    """Hex sha256 of its bytes."""

    @classmethod
    def of(cls, path: AnyPath) -> ListSource:
        """The identity of the list at `path`.

        Raises:
            UsageError: there is no such file, or it cannot be read.
        """
        try:
            return cls(path=str(path.absolute()), name=path.name, sha256=sha256_file(path))
        except OSError as error:
            raise UsageError(
                f"{path}: the URL list cannot be read ({error.strerror}); "
                "give the path of a parquet, csv or txt file"
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """What `config.json` holds."""

    schema_version: str = SCHEMA_VERSION
    """Version of the manifest format."""
    creator: str
    """Software and version that planned the dataset."""
    source: ListSource
    """The planned list."""
    curate: CurateConfig
    """The configuration as it was resolved."""
    stages: Mapping[str, str]
    """The hash that receipts of each stage carry."""
    num_shards: int
    """Planned shards."""
    num_rows: int
    """Planned rows."""

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that decides the results, by dotted name."""
        settings = {
            "source.name": self.source.name,
            "source.sha256": self.source.sha256,
            **_flat("", asdict(self.curate)),
            **{f"stages.{stage}": sha256 for stage, sha256 in self.stages.items()},
        }
        return {name: v for name, v in sorted(settings.items()) if name not in MACHINE_SETTINGS}

    @property
    def sha256(self) -> str:
        """Hex sha256 of the identity as canonical JSON."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationSet:
    """How an annotation set beside the default one is annotated: its `config.json`."""

    annotate: AnnotateConfig
    """Its detectors and rules."""
    stage_sha256: str
    """The hash that its receipts carry."""

    @property
    def identity(self) -> dict[str, Any]:
        """Every setting that decides its regions, by dotted name."""
        settings = _flat("", asdict(self))
        return {name: v for name, v in sorted(settings.items()) if name not in MACHINE_SETTINGS}


def check_same(
    found: DatasetConfig | AnnotationSet,
    wanted: DatasetConfig | AnnotationSet,
    where: object,
    *,
    option: str = "--out",
) -> None:
    """Refuse to continue a dataset, or a set, under settings that make other rows or regions.

    Args:
        found: what stands.
        wanted: what is asked for now.
        where: the dataset or the set, for the message.
        option: what a person types to begin another one.

    Raises:
        UsageError: names the first setting that differs.
    """
    was, now = found.identity, wanted.identity
    # A setting explains more than the hash of the stage that it changes.
    for name in sorted({*was, *now}, key=lambda name: (name.startswith("stage"), name)):
        if was.get(name) != now.get(name):
            raise UsageError(
                f"{where} belongs to another configuration: {name} was {was.get(name)!r} and is "
                f"now {now.get(name)!r}; use the same setting, or another {option}"
            )


def write_config(layout: DatasetLayout, config: DatasetConfig) -> None:
    """Publish `config.json`, atomically."""
    write_json(layout.config, sealed({"config_sha256": config.sha256, **asdict(config)}))


def read_config(layout: DatasetLayout) -> DatasetConfig | None:
    """The configuration of the dataset, or None where there is no `config.json`.

    Raises:
        UsageError: the file cannot be read as a configuration.
        VersionError: the dataset is of a newer major version.
    """
    try:
        values = json.loads(layout.config.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(_unreadable(layout.config, error)) from error
    try:
        check_version(values["schema_version"])
        recorded = values.pop("config_sha256")
        values.pop(SEAL, None)  # `verify` compares it
        _check_settings(layout.config, values["creator"], _flat("", values["curate"]))
        config = _build(DatasetConfig, values)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(_unreadable(layout.config, error)) from error
    if config.sha256 != recorded:
        raise UsageError(
            f"{layout.config}: was edited (config_sha256 does not match); restore it, "
            "or start again in another folder"
        )
    return config


def require_config(layout: DatasetLayout) -> DatasetConfig:
    """The configuration of an existing dataset, with that of the layout's annotation set.

    Raises:
        UsageError: there is none, or it has no such annotation set; or as `read_config`.
    """
    config = read_config(layout)
    if config is None:
        raise UsageError(
            f"{layout.root} is not a planned dataset (no config.json); "
            "make one with `insight-curate run URLS --out DIR`"
        )
    if layout.annotation_set == DEFAULT_SET:
        return config
    found = read_annotation_set(layout)
    if found is None:
        raise UsageError(
            f"{layout.root} has no annotation set {layout.annotation_set!r}; make it with "
            f"`insight-curate annotate {layout.root} --annotation-set {layout.annotation_set}`"
        )
    return with_annotation(config, found)


def with_annotation(config: DatasetConfig, found: AnnotationSet) -> DatasetConfig:
    """The dataset's configuration as if `found` were its annotation."""
    return replace(
        config,
        curate=replace(config.curate, annotate=found.annotate),
        stages={**config.stages, "annotate": found.stage_sha256},
    )


def read_annotation_set(layout: DatasetLayout) -> AnnotationSet | None:
    """How the layout's annotation set is annotated, or None before it is begun.

    Raises:
        UsageError: its file cannot be read as a configuration.
    """
    try:
        values = json.loads(layout.set_config.read_text())
        values.pop(SEAL, None)
        return _build(AnnotationSet, values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(_unreadable(layout.set_config, error)) from error


def write_annotation_set(layout: DatasetLayout, wanted: AnnotationSet) -> None:
    """Publish the configuration of the layout's annotation set, atomically."""
    write_json(layout.set_config, sealed(asdict(wanted)))


def _check_settings(path: AnyPath, creator: str, found: Mapping[str, Any]) -> None:
    """Refuse a dataset of a version with other settings: it would not say how rows were made."""
    known = _flat("", asdict(CurateConfig()))
    for name in sorted((found.keys() ^ known.keys()) - MACHINE_SETTINGS):
        what = "is absent" if name in known else "is unknown to this version"
        raise UsageError(
            f"{path}: the setting {name} {what}: the dataset was made by another one ({creator}); "
            "go on with that, or start again in another folder"
        )


def _unreadable(path: AnyPath, error: Exception) -> str:
    return (
        f"{path}: not a dataset configuration ({type(error).__name__}: {error}); "
        "restore it, or start again in another folder"
    )


def _flat(prefix: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, by dotted name; tuples as JSON gives them back."""
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        dotted = f"{prefix}{name}"
        if isinstance(inner, Mapping):
            flat |= _flat(f"{dotted}.", inner)
        else:
            flat[dotted] = list(inner) if isinstance(inner, tuple) else inner
    return flat


def _build(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """A dataclass from its `asdict` after a trip through JSON."""
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise TypeError(f"unknown setting {unknown[0]!r}")
    return kind(**{name: _restore(hints[name], value) for name, value in values.items()})


def _restore(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _restore(next(one for one in arguments if one is not type(None)), value)
    if origin is tuple:
        return tuple(_restore(arguments[0], one) for one in value)
    if is_dataclass(kind):
        return _build(kind, value)  # type: ignore[arg-type]
    if isinstance(kind, type) and issubclass(kind, (Path, Enum)):
        return kind(value)
    return value
