"""`evaluate`: from checkpoints and data to a result folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from annotations_schema.errors import UsageError
from annotations_schema.layout import atomic_write, sha256_file
from training.evaluation.annotations import (
    WORDS_COLUMN,
    EvaluationSet,
    from_manifests,
    joined,
)
from training.evaluation.config import NONE, EvaluateConfig
from training.evaluation.face import load_face_net
from training.evaluation.jpeg import jpeg_at_bits
from training.evaluation.measure import Judges, Measurements, measure
from training.evaluation.page import page
from training.evaluation.protocol import ORIGINAL, RESIZE_ONLY, Reconstruct
from training.evaluation.report import table
from training.evaluation.results import EvaluationResult, collect, detail_rows
from training.evaluation.text import load_text_recogniser
from training.evaluation.tokbench import from_tokbench
from training.evaluation.tokenizers import CheckpointTokenizer, load_tokenizers

RESULT, DETAILS, TABLE, PAGE = "result.json", "details.jsonl", "table.txt", "report.html"
"""Files of a result folder; `result.json` is written last."""


def evaluate(
    checkpoints: Sequence[Path],
    out: Path,
    config: EvaluateConfig,
    *,
    tokenizers: Mapping[str, Reconstruct] | None = None,
) -> EvaluationResult:
    """Judge checkpoints, and any other tokenizers, on one set of images.

    The rows `original` and `resize only` are always there. Prints progress and the table to
    stderr; writes result.json, details.jsonl, table.txt and report.html into `out`, each
    atomically.

    Args:
        checkpoints: files of `training.checkpoint.save_checkpoint`.
        out: folder of the result; made if needed, files of an earlier result are replaced.
        config: what to judge and how.
        tokenizers: further systems by name: callables (H, W, 3) uint8 RGB -> the same shape.

    Raises:
        UsageError: no data, a file that is no tokenizer checkpoint, an unknown judge, no readable
            image. Nothing is written then.
        WeightsError: a judge's weights are absent or wrong.
    """
    data = _data(config)
    loaded = load_tokenizers(checkpoints, config.device)
    systems = _systems(loaded, tokenizers or {}, config)
    found = measure(data.images[: config.max_images], systems, _judges(config), config)
    if not found.image_ids:
        first = found.problems[0].detail if found.problems else "the set is empty"
        raise UsageError(
            f"none of {len(data.images)} images can be read (first: {first}); check --data"
        )
    result = collect(
        found,
        config,
        sources=data.sources,
        checkpoints=dict(zip(loaded, map(sha256_file, checkpoints), strict=True)),
        usage={name: tokenizer.usage() for name, tokenizer in loaded.items()},
        rows_not_ok=data.rows_not_ok,
        notes=_notes(found, data, config),
    )
    _write(out, result, found)
    sys.stderr.write(table(result))
    return result


def _data(config: EvaluateConfig) -> EvaluationSet:
    sets = [from_manifests(config.data, config.images_root)] if config.data else []
    pairs = zip(config.tokbench, config.tokbench_images, strict=True)
    return joined([*sets, *(from_tokbench(annotations, folder) for annotations, folder in pairs)])


def _judges(config: EvaluateConfig) -> Judges:
    text, face = config.text_recogniser, config.face_net
    return Judges(
        text=None if text == NONE else load_text_recogniser(text, config.text_weights),
        face=None if face == NONE else load_face_net(face, config.face_weights),
    )


def _systems(
    checkpoints: Mapping[str, CheckpointTokenizer],
    others: Mapping[str, Reconstruct],
    config: EvaluateConfig,
) -> dict[str, Reconstruct]:
    for name, tokenizer in checkpoints.items():
        if config.size % tokenizer.downsampling:
            raise UsageError(
                f"size {config.size} is no multiple of the {tokenizer.downsampling} px per token "
                f"of {name}; choose another size"
            )
    clashes = {ORIGINAL, RESIZE_ONLY, *checkpoints} & set(others)
    if clashes:
        raise UsageError(f"tokenizer name '{min(clashes)}' is taken; choose another name")
    return {**checkpoints, **others, **_jpeg_peers(checkpoints, config)}


def _jpeg_peers(
    checkpoints: Mapping[str, CheckpointTokenizer], config: EvaluateConfig
) -> dict[str, Reconstruct]:
    if not config.jpeg:
        return {}
    if not checkpoints:
        raise UsageError("--jpeg needs a checkpoint, whose bits JPEG may spend; name one")
    budgets = sorted({c.bits_per_square(config.size) for c in checkpoints.values()})
    return {f"JPEG at {bits:.0f} bits": partial(jpeg_at_bits, budget_bits=bits) for bits in budgets}


def _notes(found: Measurements, data: EvaluationSet, config: EvaluateConfig) -> dict[str, str]:
    """Why a metric has no value: text and faces are never silently absent."""
    notes = {}
    if found.words is None:
        notes["text"] = "left out (text_recogniser none)"
    elif found.words.num_annotated == 0:
        notes["text"] = _no_words(data, config)
    if found.faces is None:
        notes["faces"] = "left out (face_net none)"
    elif found.faces.num_annotated == 0:
        notes["faces"] = "no faces: no image of the data has a valid annotated face"
    return notes


def _no_words(data: EvaluationSet, config: EvaluateConfig) -> str:
    if config.text_reference == "original":
        return "no text: no image of the data has a detected text box"
    if data.has_transcriptions:
        return "no transcriptions: the data can hold words and holds none"
    return (
        f"no transcriptions: the data has no column {WORDS_COLUMN}; --text-reference original "
        "compares with what the recogniser reads in the original"
    )


def _write(out: Path, result: EvaluationResult, found: Measurements) -> None:
    words = found.words.highlights.largest_first() if found.words else []
    faces = found.faces.highlights.largest_first() if found.faces else []
    details = "".join(json.dumps(row, sort_keys=True) + "\n" for row in detail_rows(found))
    texts = {
        DETAILS: details,
        TABLE: table(result),
        PAGE: page(result, words, faces),
        RESULT: json.dumps(result.to_json(), indent=2) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_text(text)
