"""`evaluate`: from checkpoints and data to a result folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
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
from training.evaluation.folder import from_folders
from training.evaluation.frechet import MIN_IMAGES, load_frechet_net
from training.evaluation.jpeg import JpegAtBits
from training.evaluation.measure import Judges, Measurements, measure
from training.evaluation.page import page
from training.evaluation.peers import load_peers
from training.evaluation.perceptual import load_perceptual_net
from training.evaluation.pictures import MIN_SIDE_PX
from training.evaluation.protocol import ORIGINAL, RESIZE_ONLY, Reconstruct
from training.evaluation.report import table
from training.evaluation.results import EvaluationResult, collect, detail_rows
from training.evaluation.text import load_text_recogniser
from training.evaluation.tokbench import from_tokbench
from training.evaluation.tokenizers import CheckpointTokenizer, load_tokenizers, load_untrained

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
        tokenizers: systems beside `config.peers`, by name: callables (H, W, 3) uint8 RGB -> the
            same shape.

    Raises:
        UsageError: no data, a file that is no tokenizer checkpoint, an unknown judge, no readable
            image. Nothing is written then.
        WeightsError: a judge's weights are absent or wrong.
    """
    data = _data(config)
    for option in ("jpeg", "untrained"):
        if getattr(config, option) and not checkpoints:
            raise UsageError(f"--{option} needs a checkpoint to be compared with; name one")
    loaded = load_tokenizers(checkpoints, config.device)
    untrained = load_untrained(checkpoints, config.device) if config.untrained else {}
    jpegs = _jpegs(loaded, config)
    peers: dict[str, Reconstruct] = {**(tokenizers or {})}
    peers.update(load_peers(config.peers))
    _check(loaded, [*untrained, *jpegs], peers, config)
    systems: dict[str, Reconstruct] = {**jpegs, **untrained, **loaded, **peers}
    found = measure(data.images[: config.max_images], systems, _judges(config), config)
    if not found.image_ids:
        first = found.problems[0].detail if found.problems else "the set is empty"
        raise UsageError(
            f"none of {len(data.images)} images can be read (first: {first}); check "
            f"{_options_of_data(config)}"
        )
    networks = {**untrained, **loaded}
    result = collect(
        found,
        config,
        sources=data.sources,
        checkpoints=dict(zip(loaded, map(sha256_file, checkpoints), strict=True)),
        usage={name: tokenizer.usage() for name, tokenizer in networks.items()},
        bits={
            **{name: one.bits_per_square(config.size) for name, one in networks.items()},
            **{name: jpeg.mean_bits for name, jpeg in jpegs.items()},
        },
        codecs=tuple(jpegs),
        baseline=next(iter([*loaded, *peers]), None),
        rows_not_ok=data.rows_not_ok,
        notes={**_notes(found, data, config), **_jpeg_notes(jpegs)},
    )
    _write(out, result, found)
    sys.stderr.write(table(result))
    return result


def _data(config: EvaluateConfig) -> EvaluationSet:
    sets = [from_manifests(config.data, config.images_root)] if config.data else []
    pairs = zip(config.tokbench, config.tokbench_images, strict=True)
    sets += [from_tokbench(annotations, folder) for annotations, folder in pairs]
    sets += [from_folders(config.images)] if config.images else []
    return joined(sets)


def _options_of_data(config: EvaluateConfig) -> str:
    """The options that named the data."""
    given = {"--data": config.data, "--tokbench-images": config.tokbench, "--images": config.images}
    return ", ".join(option for option, paths in given.items() if paths)


def _judges(config: EvaluateConfig) -> Judges:
    # Folders of images have no words and no faces: nothing is loaded to judge them.
    text = config.text_recogniser if config.has_annotations else NONE
    face = config.face_net if config.has_annotations else NONE
    device = config.device
    return Judges(
        text=None
        if text == NONE
        else load_text_recogniser(text, config.text_weights, download=config.text_download),
        face=None
        if face == NONE
        else load_face_net(face, config.face_weights, download=config.face_download),
        perceptual=None
        if config.perceptual == NONE
        else load_perceptual_net(
            config.perceptual,
            config.perceptual_weights,
            download=config.perceptual_download,
            device=device,
        ),
        frechet=None
        if config.fid == NONE
        else load_frechet_net(
            config.fid, config.fid_weights, download=config.fid_download, device=device
        ),
    )


def _check(
    checkpoints: Mapping[str, CheckpointTokenizer],
    others: Sequence[str],
    peers: Mapping[str, Reconstruct],
    config: EvaluateConfig,
) -> None:
    for name, tokenizer in checkpoints.items():
        if config.size % tokenizer.downsampling:
            raise UsageError(
                f"size {config.size} is no multiple of the {tokenizer.downsampling} px per token "
                f"of {name}; choose another size"
            )
    taken = [ORIGINAL, RESIZE_ONLY, *others, *checkpoints]
    clashes = sorted({name for name in [*taken, *peers] if [*taken, *peers].count(name) > 1})
    if clashes:
        raise UsageError(f"tokenizer name '{clashes[0]}' is taken; choose another name")


def _jpegs(
    checkpoints: Mapping[str, CheckpointTokenizer], config: EvaluateConfig
) -> dict[str, JpegAtBits]:
    if not config.jpeg:
        return {}
    budgets = sorted({c.bits_per_square(config.size) for c in checkpoints.values()})
    return {f"JPEG within {bits:.0f} bits": JpegAtBits(budget_bits=bits) for bits in budgets}


def _jpeg_notes(jpegs: Mapping[str, JpegAtBits]) -> dict[str, str]:
    """Where JPEG overspends: its row is then no comparison at equal bits."""
    return {
        name: (
            f"{jpeg.num_over} of {len(jpeg.spent_bits)} images need more than this, at 1/16 of the "
            f"size and quality 1: spent {jpeg.mean_bits:.0f} bits on average"
        )
        for name, jpeg in jpegs.items()
        if jpeg.num_over
    }


def _notes(found: Measurements, data: EvaluationSet, config: EvaluateConfig) -> dict[str, str]:
    """Why a metric has no value: text and faces are never silently absent."""
    notes = _picture_notes(found)
    if not config.has_annotations:
        left_out = "left out: folders of images (--images) have no annotations"
        return {**notes, "text": left_out, "faces": left_out}
    if found.words is None:
        notes["text"] = "left out (text_recogniser none)"
    elif found.words.num_annotated == 0:
        notes["text"] = _no_words(data, config)
    if found.faces is None:
        notes["faces"] = "left out (face_net none)"
    elif found.faces.num_annotated == 0:
        notes["faces"] = "no faces: no image of the data has an annotated face"
    return notes


def _picture_notes(found: Measurements) -> dict[str, str]:
    """What the networks for whole pictures could not do."""
    notes, compared = {}, found.pictures
    num = len(compared.images)
    if compared.num_too_thin and (compared.perceptual or compared.frechet):
        notes["thin images"] = (
            f"{compared.num_too_thin} images are below {MIN_SIDE_PX} px on a side at the size the "
            "tokenizers see; networks do not compare them"
        )
    if compared.frechet is not None and num <= compared.frechet.num_features:
        notes[compared.frechet.metric] = (
            f"{num} images are too few for {compared.frechet.num_features} features: "
            + ("no value" if num < MIN_IMAGES else "biased, compare it only between these rows")
        )
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
