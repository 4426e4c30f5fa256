"""The whole road, as a person would walk it: lists, curation, training, evaluation.

Every step is a command of the two command line tools, run as a subprocess: what the demo does, a
person can type. The numbers of the final table are read from what those commands wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curation.demo.commands import Step, run_step
from curation.demo.comparison import comparison_sheet
from curation.demo.folder import DemoFolder
from curation.demo.gallery import GalleryImage, gallery, rotated_copy
from curation.demo.listing import (
    ListRow,
    image_rows,
    served_files,
    trouble_rows,
    write_list,
)
from curation.demo.server import TroubleServer

RECIPES = ("tiny", "tiny_regions")
"""The same tiny tokenizer without and with region losses."""

NUM_TRAIN_POSTERS = 36
NUM_HELD_OUT_POSTERS = 16
SHARD_SIZE = 40
DEADLINE_S = 4.0
"""Seconds that one URL may take: the slow servers of the list are meant to run into it."""

PICTURE_SIZE_PX = 256
"""Longer side at which the pictures below are reconstructed and shown."""

PICTURES_TO_SHOW = (
    "officer-variant-1.jpg",
    "card-table-right-variant-1.jpg",
    "card-table-right-variant-5.png",
    "poster-01.jpg",
    "poster-03.jpg",
    "poster-06.jpg",
    "page.png",
    "dahlia.jpg",
)
"""Held-out pictures whose reconstructions are put side by side."""


class Gallery(NamedTuple):
    """What the demo serves."""

    train: tuple[GalleryImage, ...]
    held_out: tuple[GalleryImage, ...]


class Lists(NamedTuple):
    """The two URL lists, with what must become of each row."""

    train: tuple[ListRow, ...]
    held_out: tuple[ListRow, ...]


def assemble() -> Gallery:
    """Returns the gallery: photographs, variants and posters, two of them stored on their side."""
    train = gallery(held_out=False, num_posters=NUM_TRAIN_POSTERS)
    by_name = {image.name: image for image in train}
    on_their_side = [
        rotated_copy(by_name[name]) for name in ("poster-01.jpg", "astronaut-variant-1.jpg")
    ]
    return Gallery(
        train=(*train, *on_their_side),
        held_out=gallery(held_out=True, num_posters=NUM_HELD_OUT_POSTERS),
    )


def curate(folder: DemoFolder, images: Gallery) -> Lists:
    """Serves the gallery with every trouble, writes both lists and curates them."""
    files = served_files("/train", images.train) | served_files("/held-out", images.held_out)
    picture = next(image.data for image in images.train if image.name == "coffee-variant-1.jpg")
    with TroubleServer(files, picture=picture, slow_s=4 * DEADLINE_S) as server:
        train = image_rows("/train", images.train, server)
        assert train[0].url is not None
        lists = Lists(
            train=(*train, *trouble_rows(server, twice=train[0].url)),
            held_out=tuple(image_rows("/held-out", images.held_out, server)),
        )
        _curate_list(folder, "train.parquet", lists.train, folder.dataset, "ray")
        _curate_list(folder, "held_out.parquet", lists.held_out, folder.held_out, "local")
    return lists


def _curate_list(
    folder: DemoFolder, name: str, rows: Sequence[ListRow], out: Path, runner: str
) -> None:
    write_list(folder.lists / name, rows)
    columns = ("--caption-col", "caption", "--sha256-col", "sha256", "--license-col", "license")
    limits = ("--shard-size", str(SHARD_SIZE), "--deadline-s", str(DEADLINE_S))
    where = ("--runner", runner, "--allow-private-network")
    source = folder.lists / name
    run_step("insight-curate", "run", source, "--out", out, *columns, *limits, *where)


def inspect(folder: DemoFolder) -> None:
    """Writes the HTML report and verifies both datasets."""
    run_step("insight-curate", "report", folder.dataset, "--out", folder.report)
    for dataset in (folder.dataset, folder.held_out):
        run_step("insight-curate", "verify", dataset)


def train(folder: DemoFolder, recipe: str, changes: Sequence[str] = ()) -> Step:
    """Trains the tokenizer of a recipe on the training dataset.

    Args:
        folder: where everything lies.
        recipe: its name.
        changes: KEY=VALUE settings that change the recipe.
    """
    where = ("--data", folder.dataset, "--out", folder.runs / recipe)
    settings = ("--set", *changes) if changes else ()
    return run_step("insight-train", "tokenizer", "--recipe", recipe, *where, *settings)


def evaluate(folder: DemoFolder) -> Mapping[str, Any]:
    """Judges both tokenizers on the held-out dataset and returns the result."""
    checkpoints = map(folder.checkpoint, RECIPES)
    judged = ("--data", folder.held_out, "--out", folder.evaluation)
    return run_step("insight-train", "evaluate", *checkpoints, *judged, "--json").json()


def reconstruct(folder: DemoFolder, images: Gallery) -> None:
    """Reconstructs some held-out pictures with both tokenizers, and puts them side by side."""
    by_name = {image.name: image for image in images.held_out}
    folder.pictures.mkdir()
    pictures = [folder.pictures / name for name in PICTURES_TO_SHOW]
    for path in pictures:
        path.write_bytes(by_name[path.name].data)
    for recipe in RECIPES:
        out = folder.reconstructions / recipe
        size = ("--size", str(PICTURE_SIZE_PX))
        checkpoint = folder.checkpoint(recipe)
        run_step("insight-train", "reconstruct", checkpoint, *pictures, "--out", out, *size)
    columns = {recipe: folder.reconstructions / recipe for recipe in RECIPES}
    sheet = comparison_sheet(pictures, columns, PICTURE_SIZE_PX)
    sheet.save(folder.comparison)
