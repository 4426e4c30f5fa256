from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotations_schema.errors import UsageError
from annotations_schema.images import decode, perceptual_hash
from annotations_schema.layout import DatasetLayout
from curation.cli import main
from curation.demo.pictures import plain_jpeg
from curation.report.integrity import (
    Integrity,
    IntegrityConfig,
    Verdict,
    as_phash,
    check_integrity,
    examine,
    verdict_of,
)
from tests.changing_server import ChangingServer

SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("status", pa.string()),
        ("failure_code", pa.string()),
        ("sha256_expected", pa.string()),
        ("sha256_received", pa.string()),
        ("phash", pa.uint64()),
        ("received_width", pa.int32()),
        ("received_height", pa.int32()),
        ("input_phash", pa.string()),
        ("input_w", pa.int32()),
        ("input_h", pa.int32()),
    ]
)
NO_SIZE = (None, None)
PICTURE = 0xF0F0_F0F0_F0F0_F0F0


def sha(number: int) -> str:
    return f"{number:064x}"[::-1]


def row(host: str, received: str | None = None, **more: Any) -> dict[str, Any]:
    usual = {"url": f"http://{host}/a.jpg", "status": "ok", "sha256_received": received}
    return dict.fromkeys(SCHEMA.names) | usual | more


def found(rows: list[dict[str, Any]], **config: Any) -> Integrity:
    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(rows), 2):  # in several tables
            yield pa.Table.from_pylist(rows[start : start + 2], SCHEMA)

    return examine(tables, IntegrityConfig(**config))


def test_bytes_that_several_hosts_sent_are_suspects_and_those_of_one_host_are_not() -> None:
    rows = [
        *(row(f"{host}.example", sha(7)) for host in "aab"),
        *(row(f"{host}.example", sha(8), failure_code="not_an_image") for host in "abcdef"),
        *(row("own.example", sha(9)) for _ in range(9)),
        *(row(f"{host}.example", sha(10)) for host in "ab"),
        row("gone.example"),
    ]
    facts = found(rows)
    assert facts.rows_received == 20
    assert facts.num_repeated == 2
    first, second = facts.repeated
    assert (first.sha256, first.rows, first.num_hosts) == (sha(8), 6, 6)
    assert first.outcome == "not_an_image"
    assert (second.sha256, second.rows, second.num_hosts) == (sha(7), 3, 2)
    assert second.hosts[0] == ("a.example", 2)
    assert (second.outcome, second.url) == ("ok", "http://a.example/a.jpg")


def test_hashes_that_share_their_first_half_are_told_apart() -> None:
    rows = [row(f"{host}.example", "ab" * 8 + f"{i:048x}") for i, host in enumerate("abcd")]
    assert found(rows).num_repeated == 0


def test_lists_are_cut_and_the_number_of_suspects_is_not() -> None:
    rows = [row(f"{host}.example", sha(i)) for i in range(5) for host in "abc"]
    facts = found(rows, most=2)
    assert (len(facts.repeated), facts.num_repeated) == (2, 5)


def test_a_mismatch_is_judged_by_the_hash_of_the_list_then_by_another_row_then_by_shape() -> None:
    far = f"{PICTURE ^ (2**30 - 1):016x}"
    near = f"{PICTURE ^ 0b111:016x}"
    wrong: dict[str, Any] = {"sha256_expected": sha(1), "phash": PICTURE}
    elsewhere = {"sha256_expected": sha(2)}
    rows = [
        row("kind.example", sha(11), **wrong, input_phash=near),
        row("evil.example", sha(12), **wrong, input_phash=far),
        row("evil.example", sha(13), **elsewhere, phash=PICTURE ^ (2**40 - 1)),
        row("kind.example", sha(14), **elsewhere, phash=PICTURE ^ 1),
        row("first.example", sha(2), phash=PICTURE),
        row("evil.example", sha(15), **wrong, received_width=400, received_height=100),
        row("mute.example", sha(16), sha256_expected=sha(3), phash=PICTURE),
        row("good.example", sha(4), sha256_expected=sha(4)),
        row("down.example", None, sha256_expected=sha(5)),
    ]
    rows[5] |= {"input_w": 100, "input_h": 100, "phash": None}
    facts = found(rows, phash_column="phash", width_column="w", height_column="h")
    assert facts.rows_compared == 7
    assert facts.rows_mismatched == 6
    assert facts.verdicts == {"re-encoded": 2, "different": 3, "unknown": 1}
    assert [(one.host, one.verdicts) for one in facts.hosts] == [
        ("evil.example", {"different": 3}),
        ("kind.example", {"re-encoded": 2}),
        ("mute.example", {"unknown": 1}),
    ]


def test_without_evidence_nothing_is_claimed() -> None:
    rows = [row("a.example", sha(1), sha256_expected=sha(2), phash=5, input_phash="00" * 8)]
    assert found(rows).verdicts == {"unknown": 1}  # the column was not named


@pytest.mark.parametrize(
    ("size", "expected_size", "verdict"),
    [
        ((400, 300), (800, 600), Verdict.UNKNOWN),
        ((400, 300), (600, 800), Verdict.UNKNOWN),  # the list may not have turned it
        ((400, 300), (400, 400), Verdict.DIFFERENT),
        ((400, 300), (400, 0), Verdict.UNKNOWN),
        ((400, 300), ("400", "300"), Verdict.UNKNOWN),
        ((None, None), (400, 300), Verdict.UNKNOWN),
    ],
)
def test_another_shape_is_another_image_and_the_same_shape_proves_nothing(
    size: Any, expected_size: Any, verdict: Verdict
) -> None:
    assert verdict_of(None, None, size, expected_size) is verdict


def test_ten_bits_are_near_and_eleven_are_far() -> None:
    assert verdict_of(0, 2**10 - 1, NO_SIZE, NO_SIZE) is Verdict.RE_ENCODED
    assert verdict_of(0, 2**11 - 1, NO_SIZE, NO_SIZE) is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (7, 7),
        (-1, 2**64 - 1),
        ("ff" * 8, 2**64 - 1),
        ("FF", 255),
        ("no hash", None),
        (None, None),
        (1.5, None),
        (True, None),
        (2**64, None),
    ],
)
def test_perceptual_hashes_come_as_integers_or_hex(value: object, read: int | None) -> None:
    assert as_phash(value) == read


def test_the_report_tells_placeholders_and_replaced_images_of_a_real_run(tmp_path: Path) -> None:
    pictures = [plain_jpeg(64 + i, 48) for i in range(3)]
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(pictures[1])) as image:
        again = jpeg(np.asarray(image))
    with ChangingServer() as server:
        server.answers = {
            **{f"/removed-{i}.jpg": jpeg(np.full((32, 32, 3), 200, np.uint8)) for i in range(4)},
            "/same.jpg": pictures[0],
            "/re-encoded.jpg": again,
            "/replaced.jpg": jpeg(noise),
        }
        one, other = server.url(""), server.url("").replace("127.0.0.1", "localhost")
        paths = [f"/removed-{i}.jpg" for i in range(4)]
        urls = [one + paths[0], other + paths[1], one + paths[2], other + paths[3]]
        urls += [one + "/same.jpg", one + "/re-encoded.jpg", one + "/replaced.jpg"]
        expected = [None] * 4 + [hashlib.sha256(one).hexdigest() for one in pictures]
        phashes = [None] * 4 + [perceptual_hash(decode(one)[0]) for one in pictures]
        columns = {"url": urls, "sha256": expected, "looks": pa.array(phashes, pa.uint64())}
        source = tmp_path / "list.parquet"
        pq.write_table(pa.table(columns), str(source))
        root = str(tmp_path / "dataset")
        settings = ["--text-detector", "none", "--face-detector", "none", "--sha256-col", "sha256"]
        assert main(["run", str(source), "--out", root, "--allow-private-network", *settings]) == 0
    facts = check_integrity(DatasetLayout(Path(root)), IntegrityConfig(phash_column="looks"))
    assert facts.verdicts == {"re-encoded": 1, "different": 1}  # of rows that were left out
    assert [(one.rows, one.num_hosts) for one in facts.repeated] == [(4, 2)]
    page = tmp_path / "report.html"
    assert main(["report", root, "--out", str(page), "--phash-col", "looks"]) == 0
    text = page.read_text()
    assert "The same bytes from several hosts" in text
    assert "Other bytes than expected" in text
    assert facts.repeated[0].sha256[:16] in text


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def test_a_column_that_the_list_lacks_is_misuse(
    curated: DatasetLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="no column 'phash'"):
        check_integrity(curated, IntegrityConfig(phash_column="phash"))
    with pytest.raises(UsageError, match="belong together"):
        IntegrityConfig(width_column="w")
    typed = ["report", str(curated.root), "--out", str(tmp_path / "r.html"), "--phash-col", "x"]
    assert main(typed) == 2
    assert "no column 'x'" in capsys.readouterr().err
