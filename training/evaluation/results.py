"""The result of an evaluation: numbers with intervals, and everything needed to judge them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from training.evaluation.aggregate import ONE_BIN, MetricSummary, Scores, summarise
from training.evaluation.annotations import Problem
from training.evaluation.config import EvaluateConfig
from training.evaluation.fidelity import SETTINGS
from training.evaluation.measure import Measurements
from training.evaluation.networks import NetworkRecord
from training.evaluation.scorers import counts_by_code
from training.evaluation.tokenizers import CodebookUsage

PSNR, SSIM = "PSNR", "SSIM"
T_ACC, T_NED, F_SIM = "T-ACC", "T-NED", "F-Sim"
FACE_DISTANCE = "face distance"


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemResult:
    """One row of the table."""

    name: str
    metrics: Mapping[str, MetricSummary]
    """By metric name; a metric whose network is not TokBench's carries the network's name."""
    codebook: CodebookUsage | None
    """For checkpoints: which codes the images used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Everything that an evaluation found."""

    config: EvaluateConfig
    sources: tuple[str, ...]
    checkpoints: Mapping[str, str]
    """Name -> sha256 of the checkpoint file."""
    networks: tuple[NetworkRecord, ...]
    """The judges."""
    fidelity_settings: Mapping[str, str]
    metric_notes: Mapping[str, str]
    """Metrics that could not be computed: name -> reason."""
    counts: Mapping[str, int]
    """Images, words and faces: how many there are, how many are judged."""
    problem_counts: Mapping[str, int]
    """What is in no score, by code."""
    systems: tuple[SystemResult, ...]
    problems: tuple[Problem, ...]
    seconds: Mapping[str, float]

    def system(self, name: str) -> SystemResult:
        """The row of that name; KeyError where there is none."""
        return {system.name: system for system in self.systems}[name]

    def metric(self, system: str, metric: str) -> MetricSummary:
        """One metric of one system, by its bare name, such as "T-NED" or "F-Sim"."""
        metrics = self.system(system).metrics
        return next(m for name, m in metrics.items() if bare_name(name) == metric)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values; numbers that are not finite become strings."""
        value = _json_value(self)
        assert isinstance(value, dict)
        return value


def metric_name(name: str, network: NetworkRecord | None, *, against_original: bool = False) -> str:
    """The name under which a metric is shown.

    A metric judged by another network than TokBench's is another metric: it carries the network's
    name. Text metrics whose reference is the reading of the original carry `(original)`.
    """
    shown = f"{name}(original)" if against_original else name
    is_published = network is None or network.is_published_protocol
    return shown if is_published or network is None else f"{shown} [{network.name}]"


def bare_name(shown: str) -> str:
    """The name without what `metric_name` added."""
    return shown.split(" [")[0].removesuffix("(original)")


def collect(
    found: Measurements,
    config: EvaluateConfig,
    *,
    sources: Sequence[str],
    checkpoints: Mapping[str, str],
    usage: Mapping[str, CodebookUsage],
    rows_not_ok: int,
    notes: Mapping[str, str],
) -> EvaluationResult:
    """Summarise measurements."""
    systems = tuple(
        SystemResult(name=name, metrics=_metrics(found, index, config), codebook=usage.get(name))
        for index, name in enumerate(found.systems)
    )
    problems = tuple(found.all_problems)
    return EvaluationResult(
        config=config,
        sources=tuple(sources),
        checkpoints=checkpoints,
        networks=_networks(found),
        fidelity_settings=SETTINGS,
        metric_notes=notes,
        counts=_counts(found, rows_not_ok),
        problem_counts=counts_by_code(problems),
        systems=systems,
        problems=problems,
        seconds={
            "total": found.total_s,
            "reconstruct": found.reconstruct_s,
            "text recogniser": found.words.network_s if found.words else 0.0,
            "face net": found.faces.network_s if found.faces else 0.0,
        },
    )


def detail_rows(found: Measurements) -> list[dict[str, Any]]:
    """One flat row per word, face or image and system: every number before any mean."""
    rows: list[dict[str, Any]] = []
    for index, system in enumerate(found.systems):
        rows.extend(
            {"kind": "image", "system": system, "image_id": image_id, **scores[index]._asdict()}
            for image_id, scores in zip(found.image_ids, found.fidelity, strict=True)
        )
        for word in found.words.measurements if found.words else ():
            of_word = {"reference": word.reference, "ratio": word.ratio, "region": word.word}
            score = word.scores[index]._asdict()
            image_id = found.image_ids[word.image]
            row = {"kind": "word", "system": system, "image_id": image_id}
            rows.append({**row, **of_word, **score})
        for face in found.faces.measurements if found.faces else ():
            image_id = found.image_ids[face.image]
            row = {"kind": "face", "system": system, "image_id": image_id}
            of_face = {"ratio": face.ratio, "region": face.face}
            rows.append({**row, **of_face, **face.scores[index]._asdict()})
    return [_json_value(row) for row in rows]


def _metrics(found: Measurements, index: int, config: EvaluateConfig) -> dict[str, MetricSummary]:
    return {
        **_text_metrics(found, index, config),
        **_face_metrics(found, index, config),
        **_fidelity_metrics(found, index, config),
    }


def _text_metrics(
    found: Measurements, index: int, config: EvaluateConfig
) -> dict[str, MetricSummary]:
    if found.words is None:
        return {}
    words = found.words.measurements
    ratio, image = [w.ratio for w in words], [w.image for w in words]
    values = {
        T_ACC: [float(w.scores[index].is_exact) for w in words],
        T_NED: [w.scores[index].similarity for w in words],
    }
    record, against_original = found.words.recogniser.record, config.text_reference == "original"
    return {
        metric_name(name, record, against_original=against_original): summarise(
            Scores.of(value, ratio, image), config.text_bin_edges, config.bootstrap
        )
        for name, value in values.items()
    }


def _face_metrics(
    found: Measurements, index: int, config: EvaluateConfig
) -> dict[str, MetricSummary]:
    if found.faces is None:
        return {}
    faces = found.faces.measurements
    ratio, image = [f.ratio for f in faces], [f.image for f in faces]
    values = {
        F_SIM: [f.scores[index].similarity for f in faces],
        FACE_DISTANCE: [f.scores[index].distance for f in faces],
    }
    return {
        metric_name(name, found.faces.net.record): summarise(
            Scores.of(value, ratio, image), config.face_bin_edges, config.bootstrap
        )
        for name, value in values.items()
    }


def _fidelity_metrics(
    found: Measurements, index: int, config: EvaluateConfig
) -> dict[str, MetricSummary]:
    psnr = [(i, scores[index].psnr_db) for i, scores in enumerate(found.fidelity)]
    ssim = [(i, scores[index].ssim) for i, scores in enumerate(found.fidelity)]
    return {
        name: summarise(
            Scores.of([v for _, v in values], [0.0] * len(values), [i for i, _ in values]),
            ONE_BIN,
            config.bootstrap,
        )
        for name, values in ((PSNR, psnr), (SSIM, [(i, v) for i, v in ssim if not math.isnan(v)]))
    }


def _networks(found: Measurements) -> tuple[NetworkRecord, ...]:
    text = (found.words.recogniser.record,) if found.words is not None else ()
    face = (found.faces.net.record,) if found.faces is not None else ()
    return text + face


def _counts(found: Measurements, rows_not_ok: int) -> dict[str, int]:
    words, faces = found.words, found.faces
    return {
        "images": len(found.image_ids),
        "images_unreadable": found.num_unreadable,
        "manifest_rows_not_ok": rows_not_ok,
        "images_without_ssim": sum(math.isnan(scores[0].ssim) for scores in found.fidelity),
        "words_annotated": words.num_annotated if words else 0,
        "words_judged": len(words.measurements) if words else 0,
        "faces_annotated": faces.num_annotated if faces else 0,
        "faces_judged": len(faces.measurements) if faces else 0,
    }


def _json_value(value: Any) -> Any:
    """Plain JSON: named tuples and dataclasses as objects, paths as text, infinities as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _json_value(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _json_value(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value
