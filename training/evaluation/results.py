"""The result of an evaluation: numbers with intervals, and everything needed to judge them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from training.evaluation import fidelity, pictures
from training.evaluation.aggregate import (
    ONE_BIN,
    Difference,
    MetricSummary,
    Scores,
    paired_difference,
    summarise,
)
from training.evaluation.annotations import Problem
from training.evaluation.config import EvaluateConfig
from training.evaluation.measure import Measurements
from training.evaluation.networks import NetworkRecord
from training.evaluation.scorers import counts_by_code
from training.evaluation.tokenizers import CodebookUsage

PSNR, SSIM = "PSNR", "SSIM"
T_ACC, T_NED, F_SIM = "T-ACC", "T-NED", "F-Sim"
FACE_DISTANCE = "face distance"


class Scored(NamedTuple):
    """Scores of one metric of one system, and the edges of its bins."""

    scores: Scores
    edges: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemResult:
    """One row of the table."""

    name: str
    metrics: Mapping[str, MetricSummary]
    """By metric name; a metric whose network is not TokBench's carries the network's name."""
    codebook: CodebookUsage | None
    """For checkpoints: which codes the images used."""
    bits: float | None = None
    """What a square costs: the tokens' bits, or the mean that JPEG really spent."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """By metric: this system minus `EvaluationResult.baseline`, resampled together; empty for the
    baseline itself."""


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
    """Wall time by part; `networks` is the sum of tokenizers, judges and other networks."""
    unknown_characters: Mapping[str, int] = field(default_factory=dict)
    """Characters of transcriptions that the recogniser cannot write: in how many words each is."""
    baseline: str | None = None
    """The system that differences are taken to: the first checkpoint, else the first peer."""

    @property
    def images_per_s(self) -> float:
        """Images judged under all systems, per second of the whole."""
        return self.counts["images"] / max(self.seconds["total"], 1e-9)

    @property
    def share_outside_networks(self) -> float:
        """Share of the wall time that no network used, in [0, 1]."""
        return 1.0 - self.seconds["networks"] / max(self.seconds["total"], 1e-9)

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
        speed = ("images_per_s", "share_outside_networks")
        return {**value, **{name: getattr(self, name) for name in speed}}


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
    bits: Mapping[str, float],
    codecs: Sequence[str],
    baseline: str | None,
    rows_not_ok: int,
    notes: Mapping[str, str],
) -> EvaluationResult:
    """Summarise measurements; `codecs` are the systems that are no network."""
    start = time.perf_counter()
    scored = [_scored(found, index, config) for index in range(len(found.systems))]
    frechet = _frechet_metrics(found)
    base = None if baseline is None else found.systems.index(baseline)
    systems = tuple(
        SystemResult(
            name=name,
            metrics=_summaries(scored[index], frechet[index], config),
            codebook=usage.get(name),
            bits=bits.get(name),
            differences={}
            if base is None or index == base
            else {
                **_differences(scored[index], scored[base], config),
                **_set_differences(frechet[index], frechet[base]),
            },
        )
        for index, name in enumerate(found.systems)
    )
    problems = tuple(found.all_problems)
    return EvaluationResult(
        config=config,
        sources=tuple(sources),
        checkpoints=checkpoints,
        networks=_networks(found),
        fidelity_settings={**fidelity.SETTINGS, **pictures.SETTINGS},
        metric_notes=notes,
        counts=_counts(found, rows_not_ok),
        problem_counts=counts_by_code(problems),
        systems=systems,
        problems=problems,
        seconds=_seconds(found, codecs, time.perf_counter() - start),
        unknown_characters=dict(found.words.unknown_characters.most_common())
        if found.words
        else {},
        baseline=baseline,
    )


def detail_rows(found: Measurements) -> list[dict[str, Any]]:
    """One flat row per word, face or image and system: every number before any mean."""
    rows: list[dict[str, Any]] = []
    compared = _perceptual_by_image(found)
    for index, system in enumerate(found.systems):
        for image, scores in enumerate(found.fidelity):
            row = {"kind": "image", "system": system, "image_id": found.image_ids[image]}
            of_networks = {} if image not in compared else {"perceptual": compared[image][index]}
            rows.append({**row, **scores[index]._asdict(), **of_networks})
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


def _scored(found: Measurements, index: int, config: EvaluateConfig) -> dict[str, Scored]:
    """Scores of one system by metric; the regions are the same for every system."""
    return {
        **_text_scores(found, index, config),
        **_face_scores(found, index, config),
        **_image_scores(found, index),
    }


def _text_scores(found: Measurements, index: int, config: EvaluateConfig) -> dict[str, Scored]:
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
        metric_name(name, record, against_original=against_original): Scored(
            Scores.of(value, ratio, image), config.text_bin_edges
        )
        for name, value in values.items()
    }


def _face_scores(found: Measurements, index: int, config: EvaluateConfig) -> dict[str, Scored]:
    if found.faces is None:
        return {}
    faces = found.faces.measurements
    ratio, image = [f.ratio for f in faces], [f.image for f in faces]
    values = {
        F_SIM: [f.scores[index].similarity for f in faces],
        FACE_DISTANCE: [f.scores[index].distance for f in faces],
    }
    return {
        metric_name(name, found.faces.net.record): Scored(
            Scores.of(value, ratio, image), config.face_bin_edges
        )
        for name, value in values.items()
    }


def _image_scores(found: Measurements, index: int) -> dict[str, Scored]:
    """Scores of whole images; what an image has no value for leaves it out of every system."""
    psnr = {i: scores[index].psnr_db for i, scores in enumerate(found.fidelity)}
    ssim = {i: scores[index].ssim for i, scores in enumerate(found.fidelity)}
    by_metric = {PSNR: psnr, SSIM: {i: v for i, v in ssim.items() if not math.isnan(v)}}
    compared = found.pictures
    if compared.perceptual is not None:
        name = metric_name(compared.perceptual.metric, compared.perceptual.record)
        by_metric[name] = {
            image: values[index] for image, values in _perceptual_by_image(found).items()
        }
    return {
        name: Scored(Scores.of(list(values.values()), [0.0] * len(values), list(values)), ONE_BIN)
        for name, values in by_metric.items()
    }


def _perceptual_by_image(found: Measurements) -> dict[int, tuple[float, ...]]:
    """Distances by image, one per system; empty without a perceptual net."""
    compared = found.pictures
    if compared.perceptual is None:
        return {}
    return dict(zip(compared.images, compared.distances, strict=True))


def _frechet_metrics(found: Measurements) -> list[dict[str, MetricSummary]]:
    """The set-level metric of every system: a value, no interval."""
    net, num = found.pictures.frechet, len(found.pictures.images)
    if net is None:
        return [{} for _ in found.systems]
    name = metric_name(net.metric, net.record)
    values = found.pictures.frechet_distances() or [None] * len(found.systems)
    return [{name: MetricSummary(value, None, value, (), num, 0, num)} for value in values]


def _summaries(
    scored: Mapping[str, Scored], frechet: Mapping[str, MetricSummary], config: EvaluateConfig
) -> dict[str, MetricSummary]:
    summaries = {
        name: summarise(one.scores, one.edges, config.bootstrap) for name, one in scored.items()
    }
    return {**summaries, **frechet}


def _differences(
    scored: Mapping[str, Scored], base: Mapping[str, Scored], config: EvaluateConfig
) -> dict[str, Difference]:
    return {
        name: paired_difference(one.scores, base[name].scores, one.edges, config.bootstrap)
        for name, one in scored.items()
    }


def _set_differences(
    metrics: Mapping[str, MetricSummary], base: Mapping[str, MetricSummary]
) -> dict[str, Difference]:
    values = {name: (metric.value, base[name].value) for name, metric in metrics.items()}
    return {
        name: Difference(None if ours is None or theirs is None else ours - theirs, None)
        for name, (ours, theirs) in values.items()
    }


def _seconds(found: Measurements, codecs: Sequence[str], summaries_s: float) -> dict[str, float]:
    """Wall time by part."""
    in_codecs = sum(found.reconstruct_s[name] for name in codecs)
    tokenizers = sum(found.reconstruct_s.values())
    judges = {
        "text recogniser": found.words.network_s if found.words else 0.0,
        "face net": found.faces.network_s if found.faces else 0.0,
        "perceptual net": found.pictures.perceptual_s,
        "frechet net": found.pictures.frechet_s,
    }
    return {
        "total": found.total_s + summaries_s,
        "reconstruct": tokenizers,
        **judges,
        "summaries": summaries_s,
        "networks": tokenizers - in_codecs + sum(judges.values()),
    }


def _networks(found: Measurements) -> tuple[NetworkRecord, ...]:
    text = (found.words.recogniser.record,) if found.words is not None else ()
    face = (found.faces.net.record,) if found.faces is not None else ()
    whole = (found.pictures.perceptual, found.pictures.frechet)
    return text + face + tuple(net.record for net in whole if net is not None)


def _counts(found: Measurements, rows_not_ok: int) -> dict[str, int]:
    words, faces = found.words, found.faces
    return {
        "images": len(found.image_ids),
        "images_unreadable": found.num_unreadable,
        "manifest_rows_not_ok": rows_not_ok,
        "images_without_ssim": sum(math.isnan(scores[0].ssim) for scores in found.fidelity),
        "images_too_thin_for_networks": found.pictures.num_too_thin,
        "images_with_words": words.num_images if words else 0,
        "images_with_faces": faces.num_images if faces else 0,
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
