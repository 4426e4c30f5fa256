"""`python -m curation.demo --out DIR`: the main job of this project on real pictures, offline."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from annotations_schema.errors import InsightTokError, UsageError
from curation.demo import road
from curation.demo.findings import (
    curation_section,
    quality_section,
    training_section,
    trouble_section,
)
from curation.demo.folder import DemoFolder
from curation.demo.outcome import RowOutcome, read_outcome, read_training
from curation.demo.table import Section, render_table

DISAGREES = 1
BAD_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Walks the whole road and prints one table; returns the exit code.

    0: done. 1: a step failed, or a row ended otherwise than it must. 2: bad usage.
    """
    parser = argparse.ArgumentParser(prog="python -m curation.demo", description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for everything the demo makes; a demo's own folder is emptied first",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes of both training recipes, such as phases.*.steps=2000",
    )
    typed = parser.parse_args(arguments)
    try:
        return _demo(DemoFolder(typed.out), typed.set)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    except InsightTokError as error:
        print(f"\nThe demo stops: {error}", file=sys.stderr)
        return DISAGREES


def _demo(folder: DemoFolder, changes: Sequence[str]) -> int:
    started_s = time.monotonic()
    folder.begin()
    images = road.assemble()
    _say(
        f"A gallery of {len(images.train)} pictures to train on and {len(images.held_out)} held out"
        ": other people, words, pages and backgrounds."
    )
    lists = road.curate(folder, images)
    road.inspect(folder)
    elapsed_s = {recipe: road.train(folder, recipe, changes).elapsed_s for recipe in road.RECIPES}
    result = road.evaluate(folder)
    road.reconstruct(folder, images)

    train = read_outcome(folder.dataset, lists.train)
    held_out = read_outcome(folder.held_out, lists.held_out)
    runs = {recipe: read_training(folder.metrics(recipe)) for recipe in road.RECIPES}
    table = render_table(
        [
            trouble_section(train),
            curation_section({"train": train, "held out": held_out}),
            training_section(runs, elapsed_s),
            quality_section(result, ("resize only", *road.RECIPES)),
            _places(folder),
        ]
    )
    folder.table.write_text(table + "\n")
    print(table)
    return _verdict((*train.rows, *held_out.rows), time.monotonic() - started_s)


def _places(folder: DemoFolder) -> Section:
    places = {
        "report, open it in a browser": folder.report,
        "before and after, side by side": folder.comparison,
        "annotated dataset": folder.dataset,
        "held-out dataset": folder.held_out,
        "checkpoints and logs": folder.runs,
        "evaluation": folder.evaluation,
        "this table": folder.table,
    }
    return Section(
        "Where everything is",
        ("what", "where"),
        tuple((what, str(path)) for what, path in places.items()),
    )


def _verdict(rows: Sequence[RowOutcome], elapsed_s: float) -> int:
    """Says in one line whether the crawl went as it must, and returns the exit code."""
    agreeing = sum(row.is_as_expected for row in rows)
    print(
        f"{agreeing} of {len(rows)} rows ended as they must; "
        f"{int(elapsed_s) // 60} min {int(elapsed_s) % 60:02d} s in all."
    )
    return 0 if agreeing == len(rows) else DISAGREES


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
