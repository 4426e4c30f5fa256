"""A list in which every fifth row is trouble: every row is accounted for, with the right code."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from curation.cli import main
from curation.demo.server import ServedFile, TroubleServer
from curation.demo.troubles import TROUBLES

pytestmark = pytest.mark.slow

SETTINGS = ("--allow-private-network", "--text-detector", "none", "--deadline-s", "4")
LIMITS = ("--max-bytes", "1000000", "--fetch-threads", "32")
# Their answer depends on how often they were asked, over all rows.
STATEFUL = {"flaky", "changing", "rate_limited_once"}
STEADY = [trouble for trouble in TROUBLES if trouble.name not in STATEFUL]


@pytest.fixture(scope="module")
def server(astronaut: np.ndarray, coffee: np.ndarray) -> Iterator[TroubleServer]:
    pictures = {"/astronaut.jpg": jpeg(astronaut[::4, ::4]), "/coffee.jpg": jpeg(coffee[::4, ::4])}
    files = {path: ServedFile(data) for path, data in pictures.items()}
    with TroubleServer(files, picture=pictures["/coffee.jpg"], slow_s=8, huge_bytes=2**21) as made:
        yield made


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def listed_rows(server: TroubleServer, num_rows: int) -> list[tuple[str, str]]:
    """(URL, how it must end) of each row: four fifths pictures, one fifth troubles, shuffled."""
    rows = []
    for number in range(num_rows):
        if number % 5:
            path = ("/astronaut.jpg", "/coffee.jpg")[number % 2]
            rows.append((f"{server.url(path)}?n={number}", "ok"))
        else:
            trouble = STEADY[number // 5 % len(STEADY)]
            rows.append((f"{server.trouble_url(trouble)}?n={number}", str(trouble.code or "ok")))
    random.Random(0).shuffle(rows)
    return rows


@pytest.mark.parametrize(
    "num_rows", [pytest.param(250), pytest.param(5000, marks=pytest.mark.long)]
)
def test_every_row_ends_once_and_as_its_trouble_says(
    num_rows: int, server: TroubleServer, tmp_path: Path
) -> None:
    rows = listed_rows(server, num_rows)
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{url}\n" for url, _ in rows))
    root = tmp_path / "dataset"
    shard_size = str(num_rows // 10)
    typed = ["run", str(source), "--out", str(root), "--shard-size", shard_size]
    assert main([*typed, *SETTINGS, *LIMITS]) == 0
    ended: dict[int, str] = {}
    for path in DatasetLayout(root).manifests():
        table = read_manifest(path, ["source_row", "url", "status", "failure_code"])
        for row in table.to_pylist():
            assert row["source_row"] not in ended
            assert row["url"] == rows[row["source_row"]][0]
            ended[row["source_row"]] = row["failure_code"] or row["status"]
    assert sorted(ended) == list(range(num_rows))
    wrong = {
        f"{rows[number][0]} is {code} and should be {rows[number][1]}"
        for number, code in ended.items()
        if code != rows[number][1]
    }
    assert not wrong, f"{len(wrong)}, some: {sorted(wrong)[:5]}"
    assert Counter(ended.values())["ok"] >= 0.8 * num_rows
    assert main(["verify", str(root)]) == 0
