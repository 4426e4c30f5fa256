"""Annotation sets: other detectors over the same images, beside what stands.

A set has its own manifests, receipts and configuration; it reads images and fetch tables and writes
neither. What a person does not choose is taken from the dataset's own annotation, but for what
belongs to one detector alone: its weights, threshold and input sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from annotations_schema.errors import UsageError
from annotations_schema.layout import DEFAULT_SET, DatasetLayout
from curation.annotate.config import AnnotateConfig, result_sha256
from curation.annotate.stage import check_detectors
from curation.config import (
    AnnotationSet,
    check_same,
    read_annotation_set,
    require_config,
    write_annotation_set,
)

_OF_A_DETECTOR = ("weights", "score_min", "input_sides_px")


def begin_annotation_set(layout: DatasetLayout, given: Mapping[str, Any]) -> None:
    """See that the layout's annotation set exists and is annotated as `given`; begin a new one.

    Args:
        layout: the dataset, with the name of the set.
        given: settings of AnnotateConfig by name; None where nothing was chosen.

    Raises:
        UsageError: no dataset; settings for the default set; or other settings than the set has.
        WeightsError: absent or wrong weights. Nothing is written then.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    dataset = require_config(replace(layout, annotation_set=DEFAULT_SET))
    if layout.annotation_set == DEFAULT_SET:
        if chosen:
            raise UsageError(
                f"{next(iter(chosen))} of {layout.root} is that of its config.json; add "
                "--annotation-set NAME to annotate its images in another way beside it"
            )
        return
    found = read_annotation_set(layout)
    base = dataset.curate.annotate if found is None else found.annotate
    annotate = with_settings(base, chosen)
    wanted = AnnotationSet(annotate=annotate, stage_sha256=result_sha256(annotate))
    if found is None:
        check_detectors(layout.root, annotate)
        write_annotation_set(layout, wanted)
    else:
        where = f"annotation set {layout.annotation_set!r} of {layout.root}"
        check_same(found, wanted, where, option="--annotation-set")


def with_settings(base: AnnotateConfig, chosen: Mapping[str, Any]) -> AnnotateConfig:
    """`base` with the chosen settings; another detector begins with its own defaults."""
    settings = dict(chosen)
    for kind in ("text", "face"):
        name = f"{kind}_detector"
        if settings.get(name, getattr(base, name)) != getattr(base, name):
            settings = {f"{kind}_{one}": None for one in _OF_A_DETECTOR} | settings
    return replace(base, **settings)
