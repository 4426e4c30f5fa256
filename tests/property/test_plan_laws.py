"""The plan of any list equals what a loop over its rows would write."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotations_schema.layout import DatasetLayout
from curation.plan.duplicates import Duplicates
from curation.plan.plan import PlanConfig, plan
from curation.plan.planned_rows import judge_urls
from curation.plan.urls import (
    PLAIN_URL,
    UrlError,
    canonical_url,
    image_id_of_row,
    image_id_of_url,
    without_credentials,
)

LAW = settings(deadline=None)
LIMIT = 64
PIECES = st.sampled_from(
    [*"aZ0./?#:@[]$&~-_\\ \t\n\x7f\x00{|'+*%é", "..", "%2e", "%2E.", "%41", "//"]
)
HOSTS = st.sampled_from(
    [
        *("h", "example.org", "a.b.c.d.e.f.g", "h.", "-", "Example.org", "h:80", "h:443", "h:8080"),
        *(
            "h:70000",
            "h:0",
            "h:",
            "[::1]",
            "1.2.3.4",
            "bücher.de",
            "u@h",
            "a..b",
            "h:99999",
            "h:5999",
        ),
        *("", "x" * 41, "x" * 64, "xn--nxasmq6b"),
    ]
)
URLS = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp"]),
    HOSTS,
    st.lists(PIECES, max_size=9).map(lambda pieces: "/" + "".join(pieces)) | st.just(""),
)
CELLS = st.one_of(st.none(), URLS.map(str.encode), st.binary(max_size=12))


@settings(LAW, max_examples=500)
@given(URLS)
@example("http://h//u@x")
@example("https://h:443/")
@example("http://h/a?")
@example("http://h/?a[]=b?c/d")
@example("http://h/\n")
@example("http://h/%2e%2e/a")
def test_a_plain_url_is_its_own_canonical_form_and_shows_itself(url: str) -> None:
    is_plain = pc.match_substring_regex(pa.scalar(url.encode(), pa.large_binary()), PLAIN_URL)
    if is_plain.as_py():
        assert canonical_url(url, len(url.encode())) == url
        assert without_credentials(url) == url


@settings(LAW, max_examples=200)
@given(st.from_regex(re.compile(PLAIN_URL.replace(r"\z", r"\Z"), re.ASCII)))
def test_every_url_of_the_pattern_is_its_own_canonical_form(url: str) -> None:
    assert canonical_url(url, len(url)) == url
    assert without_credentials(url) == url


def test_what_a_crawl_gives_is_plain() -> None:
    urls = [
        "https://i.pinimg.com/236x/0a/1b/2c/photo_of-a.cat~1.jpg",
        "http://cdn.shop.example.co.uk:8080/s/files/1/0001/a,b;c=(1)!.png?v=1,2&w=[3]",
        "https://example.org/%D0%BA%D0%BE%D1%82/a//b.jpg?u=http://other.example/x?y",
    ]
    assert all(pc.match_substring_regex(pa.array(urls), PLAIN_URL).to_pylist())


def in_a_loop(cells: list[bytes | None], source_name: str) -> list[dict[str, Any]]:
    """What a plan must say, row by row, with a dictionary of what was seen."""
    seen: set[str] = set()
    rows = []
    for number, cell in enumerate(cells):
        row: dict[str, Any] = {"source_row": number, "status": "ok", "failure_code": None}
        row |= {"image_id": image_id_of_row(source_name, number), "failure_detail": None}
        try:
            text = (cell or b"").decode()
            image_id = image_id_of_url(canonical_url(text, LIMIT))
        except UnicodeDecodeError:
            row |= {"status": "failed", "failure_code": "url_invalid"}
            row["failure_detail"] = "the URL's bytes are not UTF-8"
        except UrlError as error:
            row |= {"status": "failed", "failure_code": str(error.code)}
            row["failure_detail"] = error.detail
        else:
            if image_id in seen:
                row |= {"status": "filtered", "failure_code": "url_duplicate"}
                row["failure_detail"] = f"same URL as image_id {image_id}"
            else:
                row["image_id"] = image_id
            seen.add(image_id)
        rows.append(row)
    return rows


@settings(LAW, max_examples=60)
@given(st.lists(CELLS, min_size=1, max_size=40), st.integers(1, 9))
def test_a_plan_equals_a_loop_over_its_rows(cells: list[bytes | None], shard_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, layout = Path(folder) / "list.parquet", DatasetLayout(Path(folder) / "dataset")
        pq.write_table(pa.table({"url": pa.array(cells, pa.binary())}), str(source))
        shards = plan(source, layout, PlanConfig(shard_size=shard_size, max_url_bytes=LIMIT))
        tables = [pq.read_table(str(layout.plan(shard))) for shard in shards]
    assert [len(table) for table in tables[:-1]] == [shard_size] * (len(tables) - 1)
    expected = in_a_loop(cells, "list.parquet")
    names = list(expected[0])
    assert pa.concat_tables(tables).select(names).to_pylist() == expected


@settings(LAW, max_examples=60)
@given(st.lists(CELLS, max_size=30), st.integers(1, 30))
def test_a_url_is_judged_the_same_in_any_company(cells: list[bytes | None], size: int) -> None:
    whole = judge_urls(pa.array(cells, pa.large_binary()), LIMIT)
    for first in range(0, len(cells), size):
        part = judge_urls(pa.array(cells[first : first + size], pa.large_binary()), LIMIT)
        rows = slice(first, first + size)
        assert np.array_equal(part.image_ids, whole.image_ids[rows])
        assert part.shown.to_pylist() == whole.shown.to_pylist()[rows]
        for row in range(len(part.shown)):
            assert part.rejections.get(row) == whole.rejections.get(first + row)


@settings(LAW, max_examples=40)
@given(st.lists(st.integers(0, 12), max_size=200), st.integers(1, 50), st.integers(1, 50))
def test_duplicates_are_all_but_the_first_of_equal_ids(
    keys: list[int], written: int, asked: int
) -> None:
    ids = np.zeros((len(keys), 16), np.uint8)
    ids[:, 0], ids[:, 15] = [key % 3 for key in keys], keys
    with tempfile.TemporaryDirectory() as folder:
        duplicates = Duplicates(Path(folder))
        for first in range(0, len(keys), written):
            part = ids[first : first + written]
            duplicates.add(part, np.arange(first, first + len(part)))
        expected = [key in keys[:row] for row, key in enumerate(keys)]
        assert duplicates.find() == sum(expected)
        found = [
            duplicates.among(first, min(first + asked, len(keys)))
            for first in range(0, len(keys), asked)
        ]
    assert [value for part in found for value in part.tolist()] == expected
