"""Corruption of a finished dataset is found and named, whatever byte or file it is."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotations_schema.layout import DatasetLayout, output_files, read_receipt, write_receipt
from annotations_schema.manifest import read_manifest
from curation.cli import main
from curation.demo.server import ServedFile, TroubleServer
from curation.verify.findings import Finding
from curation.verify.verify import verify

FIRST, SECOND, FURTHER = "000000", "000001", "000001.1"
SET = "faceless"
ASTRONAUT = 0
SETTINGS = ("--shard-size", "4", "--allow-private-network", "--text-detector", "none")
SHORT_FLIPS, LONG_FLIPS = 24, 240


def jpeg(pixels: np.ndarray) -> ServedFile:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=80)
    return ServedFile(buffer.getvalue())


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, coffee: np.ndarray
) -> Path:
    """Two shards through the real stages, with faces, a further pass and a second annotation set.

    Do not change it.
    """
    folder = tmp_path_factory.mktemp("finished")
    root = folder / "dataset"
    files = {
        "/astronaut.jpg": jpeg(astronaut[::2, ::2]),
        "/coffee.jpg": jpeg(coffee[::8, ::8]),
        "/cup.jpg": jpeg(coffee[::8, ::-8]),
    }
    with TroubleServer(files, picture=jpeg(coffee[::9, ::9]).data) as server:
        paths = [*files, "/nothing.jpg", "/trouble/flaky.jpg", "/cup.jpg", "/none.jpg"]
        (folder / "list.txt").write_text("".join(f"{server.url(path)}\n" for path in paths))
        typed = ["run", str(folder / "list.txt"), "--out", str(root), *SETTINGS]
        assert main([*typed, "--retries", "0"]) == 0
        while "http_500" in codes_of(root):
            assert main(["retry", str(root), "--codes", "http_500"]) == 0
    typed = ["annotate", str(root), "--annotation-set", SET, "--face-detector", "none"]
    assert main(typed) == 0
    return root


def codes_of(root: Path) -> list[str | None]:
    return read_manifest(DatasetLayout(root).annotations(SECOND)).column("failure_code").to_pylist()


@pytest.fixture
def dataset(finished: Path, tmp_path: Path) -> DatasetLayout:
    """A copy of the finished dataset that a test may damage."""
    shutil.copytree(finished, tmp_path / "dataset")
    return DatasetLayout(tmp_path / "dataset")


def test_what_the_stages_wrote_is_clean(dataset: DatasetLayout) -> None:
    for layout in (dataset, DatasetLayout(dataset.root, SET)):
        assert verify(layout).findings == ()
    assert dataset.fetch_passes(SECOND)[-1] != SECOND
    assert verify(dataset).checked["faces"] == 1
    assert verify(dataset).checked["images"] == 4


class Plant(NamedTuple):
    """A corruption: how it is done, and a finding that must name it."""

    name: str
    do: Callable[[DatasetLayout], object]
    column: str
    rule: str
    shard: str = FIRST
    annotation_set: str = "default"


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def flip_image(layout: DatasetLayout) -> None:
    row = read_manifest(layout.annotations(FIRST)).slice(1, 1).to_pylist()[0]
    flip(layout.images(FIRST), row["offset"] + row["length"] // 2)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def swap(one: Path, other: Path) -> None:
    third = one.with_name("third")
    one.rename(third)
    other.rename(one)
    third.rename(other)


def swap_with_receipts(layout: DatasetLayout) -> None:
    swap(layout.annotations(FIRST), layout.annotations(SECOND))
    swap(layout.receipt("annotate", FIRST), layout.receipt("annotate", SECOND))


def edit(layout: DatasetLayout, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the astronaut's row of a manifest and nothing else."""
    path = layout.annotations(FIRST)
    table = read_manifest(path)
    rows = table.to_pylist()
    change(rows[ASTRONAUT])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), str(path))


def edit_and_forge(layout: DatasetLayout, change: Callable[[dict[str, Any]], object]) -> None:
    """The same, by somebody who writes a receipt to go with it."""
    edit(layout, change)
    receipt = read_receipt(layout, "annotate", FIRST)
    assert receipt is not None
    outputs = output_files(layout, [layout.annotations(FIRST)])
    write_receipt(layout, receipt_with(receipt, outputs=outputs))


def receipt_with(receipt: Any, **changes: Any) -> Any:
    return type(receipt)(**{name: getattr(receipt, name) for name in receipt.__slots__} | changes)


def widen_box(row: dict[str, Any]) -> None:
    face = row["face_regions"][0]
    x0, y0, x1, y1 = face["box_xyxy"]
    face["box_xyxy"] = [x0, y0, x1 + 2, y1]
    face["area_fraction"] *= (x1 + 2 - x0) / (x1 - x0)
    row["face_area_fraction"] = face["area_fraction"]


def shift_offset(row: dict[str, Any]) -> None:
    row["offset"] += 512


def change_receipt(stage: str, **changes: Any) -> Callable[[DatasetLayout], object]:
    def do(layout: DatasetLayout) -> None:
        receipt = read_receipt(layout, stage, FIRST)
        write_receipt(layout, receipt_with(receipt, **changes))

    return do


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


HASH, SIZE, LISTED, SEAL = "says sha256", "says", "lists existing files", "its seal fits"
PROMISED, DONE = "config.json promises 2 shards", "every shard has a"
READABLE = "can be read"
PLANTS = [
    Plant("byte of an image", flip_image, f"images/{FIRST}.tar", HASH),
    Plant("byte of an image, its row", flip_image, "sha256", "the bytes at the address hash"),
    Plant("byte of a tar header", lambda d: flip(d.images(FIRST), 3), f"images/{FIRST}.tar", HASH),
    Plant("byte of padding", lambda d: flip(d.images(FIRST), -1), f"images/{FIRST}.tar", HASH),
    Plant(
        "byte of a further pass's tar",
        lambda d: flip(d.images(FURTHER), 600),
        *(f"images/{FURTHER}.tar", HASH, SECOND),
    ),
    Plant("truncated tar", lambda d: cut(d.images(FIRST), 0.6), f"images/{FIRST}.tar", SIZE),
    Plant(
        "truncated tar, its row", lambda d: cut(d.images(FIRST), 0.6), "offset", "inside the tar"
    ),
    Plant("byte of a plan", lambda d: flip(d.plan(FIRST), 99), f"plan/{FIRST}.parquet", HASH),
    Plant(
        "byte of a fetch table", lambda d: flip(d.fetch(FIRST), 99), f"fetch/{FIRST}.parquet", HASH
    ),
    Plant(
        "byte of a manifest",
        lambda d: flip(d.annotations(FIRST), 999),
        *(f"annotations/{FIRST}.parquet", HASH),
    ),
    Plant(
        "byte of a manifest's footer",
        lambda d: flip(d.annotations(FIRST), -40),
        *(f"annotations/{FIRST}.parquet", HASH),
    ),
    Plant(
        "byte of another set's manifest",
        lambda d: flip(d.annotations(FIRST), 999),
        *(f"annotation_sets/{SET}/{FIRST}.parquet", HASH, FIRST, SET),
    ),
    Plant(
        "truncated manifest",
        lambda d: cut(d.annotations(FIRST), 0.5),
        f"annotations/{FIRST}.parquet",
        READABLE,
    ),
    Plant(
        "shifted offset",
        lambda d: edit_and_forge(d, shift_offset),
        "sha256",
        "the bytes at the address",
    ),
    Plant(
        "shifted offset, fetch knows",
        lambda d: edit_and_forge(d, shift_offset),
        "offset",
        "as fetch wrote it",
    ),
    Plant("edited box", lambda d: edit(d, widen_box), f"annotations/{FIRST}.parquet", SIZE),
    Plant(
        "edited box with a forged receipt",
        lambda d: edit_and_forge(d, lambda row: row["face_regions"][0]["box_xyxy"].reverse()),
        *("face_regions", "finite and in range"),
    ),
    Plant(
        "edited landmark with a forged receipt",
        lambda d: edit_and_forge(d, lambda row: row["face_regions"][0]["landmarks_5"].reverse()),
        *("face_regions.crop_from_image", "is the fit of landmarks_5"),
    ),
    Plant(
        "receipt of another configuration",
        change_receipt("fetch", config_sha256="0" * 64),
        *(f"receipts/fetch/{FIRST}.json", "of the dataset's configuration"),
    ),
    Plant(
        "receipt of other fetch tables",
        change_receipt("annotate", inputs={FIRST: "0" * 64}),
        *(f"receipts/annotate/{FIRST}.json", "has read the fetch tables"),
    ),
    Plant(
        "receipt of other rows",
        change_receipt("fetch", rows=9),
        f"fetch/{FIRST}.parquet",
        "counts 9 rows",
    ),
    Plant(
        "receipt without files",
        change_receipt("fetch", outputs={}),
        *(f"receipts/fetch/{FIRST}.json", "it lists"),
    ),
    Plant(
        "receipt with another size",
        lambda d: edit_json(
            d.receipt("plan", FIRST),
            lambda fields: fields["outputs"][f"plan/{FIRST}.parquet"].update(bytes=7),
        ),
        *(f"plan/{FIRST}.parquet", "says 7 bytes"),
    ),
    Plant(
        "receipt with another time",
        lambda d: edit_json(d.receipt("plan", FIRST), lambda fields: fields.update(elapsed_s=7.0)),
        *(f"receipts/plan/{FIRST}.json", SEAL),
    ),
    Plant(
        "receipt that is no JSON",
        lambda d: cut(d.receipt("fetch", FIRST), 0.5),
        *(f"receipts/fetch/{FIRST}.json", READABLE),
    ),
    Plant("no plan", lambda d: d.plan(FIRST).unlink(), f"plan/{FIRST}.parquet", LISTED),
    Plant("no fetch table", lambda d: d.fetch(FIRST).unlink(), f"fetch/{FIRST}.parquet", LISTED),
    Plant(
        "no manifest",
        lambda d: d.annotations(FIRST).unlink(),
        f"annotations/{FIRST}.parquet",
        LISTED,
    ),
    Plant("no tar", lambda d: d.images(FIRST).unlink(), f"images/{FIRST}.tar", LISTED),
    Plant(
        "no tar of a further pass",
        lambda d: d.images(FURTHER).unlink(),
        *(f"images/{FURTHER}.tar", LISTED, SECOND),
    ),
    *(
        Plant(
            f"no {stage} receipt",
            lambda d, stage=stage: d.receipt(stage, FIRST).unlink(),
            *(f"receipts/{stage}/{FIRST}.json", DONE),
        )
        for stage in ("plan", "fetch", "annotate")
    ),
    Plant(
        "no receipt of a further pass",
        lambda d: d.receipt("fetch", FURTHER).unlink(),
        *(f"receipts/fetch/{FURTHER}.json", DONE, SECOND),
    ),
    Plant(
        "tars swapped",
        lambda d: swap(d.images(FIRST), d.images(SECOND)),
        f"images/{FIRST}.tar",
        SIZE,
    ),
    Plant(
        "manifests swapped",
        lambda d: swap(d.annotations(FIRST), d.annotations(SECOND)),
        *(f"annotations/{FIRST}.parquet", SIZE),
    ),
    Plant(
        "manifests swapped with their receipts",
        swap_with_receipts,
        *(f"receipts/annotate/{FIRST}.json", "the receipt of annotate for 000000 stands here"),
    ),
    Plant(
        "an image too many",
        lambda d: (d.root / "images" / "000002.tar").touch(),
        "images/000002.tar",
        PROMISED,
        "000002",
    ),
    Plant(
        "a file too many",
        lambda d: (d.root / "fetch" / "notes.txt").touch(),
        "fetch/notes.txt",
        PROMISED,
        "-",
    ),
    Plant(
        "a pass too many",
        lambda d: shutil.copy(d.fetch(FIRST), d.root / "fetch" / f"{FIRST}.1.parquet"),
        *(f"fetch/{FIRST}.1.parquet", PROMISED),
    ),
    Plant(
        "edited setting",
        lambda d: edit_json(d.config, lambda f: f["curate"]["fetch"].update(max_bytes=5)),
        *("config.json", "was not edited", "-"),
    ),
    Plant(
        "edited note",
        lambda d: edit_json(d.config, lambda f: f.update(creator="me")),
        "config.json",
        SEAL,
        "-",
    ),
    Plant("configuration cut off", lambda d: cut(d.config, 0.5), "config.json", READABLE, "-"),
    Plant(
        "edited configuration of another set",
        lambda d: edit_json(d.set_config, lambda f: f.update(stage_sha256="0" * 64)),
        *(f"annotation_sets/{SET}/config.json", SEAL, "-", SET),
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_corruption_is_named(dataset: DatasetLayout, plant: Plant) -> None:
    layout = DatasetLayout(dataset.root, plant.annotation_set)
    plant.do(layout)
    found = verify(layout).findings
    named = [one for one in found if one.column == plant.column and plant.rule in one.rule]
    assert named, "\n".join(map(str, found))
    assert named[0].shard == plant.shard
    assert main(["verify", str(layout.root), "--annotation-set", plant.annotation_set]) == 1


def flipped(layout: DatasetLayout, seed: int) -> tuple[str, tuple[Finding, ...]]:
    """Change one random byte of one random file, verify, and put it right again."""
    choose = random.Random(seed)
    files = sorted(path for path in layout.root.rglob("*") if path.is_file())
    files = [path for path in files if path.stat().st_size and SET not in path.as_posix()]
    path = choose.choice(files)
    position, mask = choose.randrange(path.stat().st_size), choose.randrange(1, 256)
    flip(path, position, mask)
    found = verify(layout).findings
    flip(path, position, mask)
    return layout.relative(path), found


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(SHORT_FLIPS), id="short"),
        pytest.param(range(SHORT_FLIPS, LONG_FLIPS), id="long", marks=pytest.mark.long),
    ],
)
def test_any_byte_that_changes_is_found_and_its_file_named(
    dataset: DatasetLayout, seeds: range
) -> None:
    for seed in seeds:
        path, found = flipped(dataset, seed)
        assert path in {one.column for one in found}, f"seed {seed}: {path}: {found}"
    assert verify(dataset).findings == ()
