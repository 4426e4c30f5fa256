from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.codes import FailureCode
from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    read_receipt,
    sha256_file,
    write_receipt,
)
from annotations_schema.manifest import read_manifest
from annotations_schema.validation import validate
from curation.cli import main
from curation.config import require_config
from curation.demo.pictures import plain_jpeg
from curation.passes import retry
from curation.passes.fetched import fetched_rows
from curation.passes.passes import plan_pass
from curation.passes.retry import NEVER_AGAIN, plan_retry, retry_codes
from curation.status import status
from tests.changing_server import ChangingServer

SETTINGS = (
    *("--shard-size", "4", "--retries", "0", "--allow-private-network"),
    *("--text-detector", "none", "--face-detector", "none"),
)
# Two shards: in the first a 503 and a 404, in the second nothing goes wrong.
ANSWERS = {
    **{f"/{number}.jpg": plain_jpeg(40 + number, 30) for number in range(8)},
    "/1.jpg": 503,
    "/2.jpg": 404,
}


@pytest.fixture
def server() -> Iterator[ChangingServer]:
    with ChangingServer() as running:
        running.answers.update(ANSWERS)
        yield running


@pytest.fixture
def layout(tmp_path: Path, server: ChangingServer) -> DatasetLayout:
    source = tmp_path / "list.parquet"
    urls = [server.url(f"/{number}.jpg") for number in range(8)]
    notes = pa.array([{"tags": [number]} for number in range(8)])
    pq.write_table(pa.table({"url": urls, "note": notes}), str(source))
    found = DatasetLayout(tmp_path / "dataset")
    assert main(["run", str(source), "--out", str(found.root), *SETTINGS]) == 0
    return found


def rows_of(layout: DatasetLayout) -> list[dict[str, Any]]:
    tables = [read_manifest(path) for path in layout.manifests()]
    assert all(validate(table) == [] for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def hashes(layout: DatasetLayout) -> dict[str, str]:
    return {
        path.relative_to(layout.root).as_posix(): sha256_file(path)
        for path in layout.root.rglob("*")
        if path.is_file()
    }


def test_a_failed_row_comes_in_a_pass_of_its_own_and_nothing_else_is_touched(
    layout: DatasetLayout, server: ChangingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, files = rows_of(layout), hashes(layout)
    asked = server.asked.copy()
    server.answers["/1.jpg"] = plain_jpeg(64, 48)
    capsys.readouterr()
    assert main(["retry", str(layout.root), "--codes", "http_5*,dns_failed", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["rows"], found["passes"], found["became"]) == (1, {"000000.1": 1}, {"ok": 1})
    assert "1 rows in 1 shards are fetched again" in err

    assert server.asked - asked == {"/1.jpg": 1}
    now = rows_of(layout)
    assert [*now[:1], *now[2:]] == [*rows[:1], *rows[2:]]
    row = now[1]
    assert (row["status"], row["failure_code"], row["shard"]) == ("ok", None, "000000.1")
    assert row["history"] == [{"failure_code": "http_503", "http_status": 503, "attempts": 1}]
    assert row["input_note"] == {"tags": [1]}
    stored = layout.images("000000.1").read_bytes()
    assert stored[row["offset"] : row["offset"] + row["length"]] == server.answers["/1.jpg"]

    changed = {"annotations/000000.parquet", "receipts/annotate/000000.json"}
    after = hashes(layout)
    assert {name for name, sha256 in files.items() if after[name] != sha256} <= changed
    assert after.keys() - files.keys() == {
        *("plan/000000.1.parquet", "images/000000.1.tar", "fetch/000000.1.parquet"),
        *("receipts/plan/000000.1.json", "receipts/fetch/000000.1.json"),
    }
    assert main(["verify", str(layout.root)]) == 0


def test_only_the_images_that_came_are_annotated(tmp_path: Path, server: ChangingServer) -> None:
    source = tmp_path / "faces.txt"
    source.write_text("\n".join(server.url(f"/{number}.jpg") for number in range(4)))
    layout = DatasetLayout(tmp_path / "faces")
    settings = ["--retries", "0", "--allow-private-network", "--text-detector", "none"]
    assert main(["run", str(source), "--out", str(layout.root), *settings]) == 0
    server.answers["/1.jpg"] = plain_jpeg(64, 48)
    assert main(["retry", str(layout.root)]) == 0
    receipt = read_receipt(layout, "annotate", "000000")
    assert receipt is not None
    assert receipt.counts["ok"] == 3
    assert receipt.counts["reused"] == 2


def test_history_grows_by_every_failed_retry(layout: DatasetLayout, server: ChangingServer) -> None:
    root = str(layout.root)
    assert main(["retry", root]) == 0
    server.answers["/1.jpg"] = 429
    assert main(["retry", root, "--codes", "http_503"]) == 0
    row = rows_of(layout)[1]
    assert (row["failure_code"], row["shard"]) == ("http_429", None)
    assert [one["failure_code"] for one in row["history"]] == ["http_503", "http_503"]
    found = status(layout)
    assert found.rows_by_status == {"ok": 6, "failed": 2}
    assert found.rows_by_code == {"http_429": 1, "http_404": 1}
    assert found.is_complete


def test_a_retry_of_rows_that_nobody_has_asks_nobody(
    layout: DatasetLayout, server: ChangingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, files = server.asked.copy(), hashes(layout)
    assert main(["retry", str(layout.root), "--codes", "tls_failed", "--json"]) == 0
    assert server.asked == asked
    assert hashes(layout) == files
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == 0
    assert "no row has one of the codes tls_failed" in err


def test_only_shards_whose_receipts_count_such_rows_are_read(
    layout: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def noted(layout: DatasetLayout, shard: str) -> pa.Table:
        read.append(shard)
        return fetched_rows(layout, shard)

    monkeypatch.setattr(retry, "fetched_rows", noted)
    planned = plan_retry(layout, require_config(layout), retry_codes("http_404"))
    assert (read, planned.passes) == (["000000"], {"000000.1": 1})


@pytest.mark.parametrize("command", ["retry", "retry with other codes", "run"])
def test_a_retry_killed_after_planning_goes_on(
    layout: DatasetLayout, server: ChangingServer, command: str, tmp_path: Path
) -> None:
    plan_retry(layout, require_config(layout), retry_codes("transient"))
    asked = server.asked.copy()
    server.answers["/1.jpg"] = plain_jpeg(64, 48)
    typed = {
        "retry": ["retry", str(layout.root)],
        "retry with other codes": ["retry", str(layout.root), "--codes", "http_404"],
        "run": ["run", str(tmp_path / "list.parquet"), "--out", str(layout.root), *SETTINGS],
    }
    assert main(typed[command]) == 0
    assert server.asked - asked == {"/1.jpg": 1}
    row = rows_of(layout)[1]
    assert (row["status"], row["shard"]) == ("ok", "000000.1")


def test_a_retry_killed_while_it_plans_plans_the_rest(
    layout: DatasetLayout, server: ChangingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/6.jpg"] = 503
    for stage, path in (("fetch", layout.images("000001")), ("fetch", layout.fetch("000001"))):
        layout.receipt(stage, "000001").unlink(missing_ok=True)
        path.unlink()
    assert main(["fetch", str(layout.root)]) == 0  # 503 in both shards now
    calls = []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plan_pass(*arguments)

    monkeypatch.setattr(retry, "plan_pass", dying)
    config = require_config(layout)
    with pytest.raises(KeyboardInterrupt):
        plan_retry(layout, config, retry_codes("transient"))
    monkeypatch.undo()
    assert read_receipt(layout, "plan", "000001.1") is None
    planned = plan_retry(layout, config, retry_codes("http_404"))
    assert planned.is_continued
    assert planned.passes == {"000000.1": 1, "000001.1": 1}


def test_an_image_that_annotate_could_not_decode_is_fetched_again(
    layout: DatasetLayout, server: ChangingServer, tmp_path: Path
) -> None:
    good = plain_jpeg(64, 48)
    server.answers["/x.jpg"] = good[: len(good) // 2]
    source = tmp_path / "other.txt"
    source.write_text(server.url("/x.jpg") + "\n" + server.url("/0.jpg") + "\n")
    other = DatasetLayout(tmp_path / "other")
    assert main(["run", str(source), "--out", str(other.root), *SETTINGS]) == 0
    assert rows_of(other)[0]["failure_code"] == "decode_truncated"
    server.answers["/x.jpg"] = good
    assert main(["retry", str(other.root), "--codes", "decode_*"]) == 0
    row = rows_of(other)[0]
    assert (row["status"], row["failure_code"]) == ("ok", None)
    assert [one["failure_code"] for one in row["history"]] == ["decode_truncated"]
    other.receipt("annotate", "000000").unlink()
    assert status(other).rows_by_status == {"ok": 2}  # from the fetch receipts of both passes


def test_a_dataset_that_was_never_annotated_is_only_fetched_again(
    layout: DatasetLayout, server: ChangingServer
) -> None:
    for shard in layout.shards_planned():
        layout.receipt("annotate", shard).unlink()
    server.answers["/1.jpg"] = plain_jpeg(64, 48)
    assert main(["retry", str(layout.root)]) == 0
    assert layout.manifests() == []
    found = status(layout)
    assert found.rows_by_status == {"ok": 7, "failed": 1}
    assert [stage.shards_done for stage in found.stages] == [2, 2, 0]


def test_a_pass_that_waits_leaves_its_shard_to_do(layout: DatasetLayout) -> None:
    plan_retry(layout, require_config(layout), retry_codes("http_503"))
    found = status(layout)
    assert [stage.shards_done for stage in found.stages] == [2, 1, 2]
    assert found.rows_by_code == {"http_503": 1, "http_404": 1}


def test_a_first_pass_that_is_lost_takes_the_later_ones_along(
    layout: DatasetLayout, server: ChangingServer
) -> None:
    assert main(["retry", str(layout.root)]) == 0
    layout.images("000000").unlink()
    server.answers["/1.jpg"] = plain_jpeg(64, 48)
    assert main(["fetch", str(layout.root)]) == 0
    assert layout.planned_passes("000000") == ["000000"]
    row = fetched_rows(layout, "000000").to_pylist()[1]
    assert (row["status"], row["shard"], row["history"]) == ("ok", "000000", None)


def test_a_pass_that_was_set_aside_is_tried_again_and_holds_up_no_other_shard(
    layout: DatasetLayout, server: ChangingServer
) -> None:
    config = require_config(layout)
    plan_retry(layout, config, retry_codes("http_503"))
    aside = Receipt(
        stage="fetch",
        shard="000000.1",
        config_sha256=config.stages["fetch"],
        outputs={},
        rows=1,
        set_aside="3 attempts",
    )
    write_receipt(layout, aside)
    assert status(layout).set_aside == {"fetch/000000.1": "3 attempts"}
    planned = plan_retry(layout, config, retry_codes("http_404"))
    assert (planned.is_continued, planned.passes) == (False, {"000000.1": 1})
    server.answers["/1.jpg"] = plain_jpeg(64, 48)
    assert main(["retry", str(layout.root), "--codes", "http_404"]) == 0
    assert [row["status"] for row in rows_of(layout)[:3]] == ["ok", "ok", "failed"]


def test_a_tombstone_is_never_fetched_again(
    layout: DatasetLayout, server: ChangingServer, tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text(server.url("/1.jpg") + "\n")
    assert main(["tombstone", str(layout.root), str(ids)]) == 0
    asked = server.asked.copy()
    assert main(["retry", str(layout.root), "--codes", "*"]) == 0
    assert server.asked - asked == {"/2.jpg": 1}
    assert rows_of(layout)[1]["status"] == "tombstoned"


def test_transient_means_every_code_that_may_pass() -> None:
    assert retry_codes("transient") == {code for code in FailureCode if code.is_transient}
    assert retry_codes(" http_503 , dns_*") == {
        FailureCode.HTTP_503,
        FailureCode.DNS_FAILED,
        FailureCode.DNS_NOT_FOUND,
    }
    assert retry_codes("*") == set(FailureCode) - NEVER_AGAIN


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("http_530", "'http_530' is no failure code and matches none; did you mean .*http_503"),
        ("ftp_*", "'ftp_\\*' is no failure code"),
        ("http_503,nonsense", "'nonsense' is no failure code"),
        ("removed_on_request", "rows with removed_on_request are never fetched again"),
        ("url_*", "are never fetched again"),
        (" , ", "names no code"),
    ],
)
def test_a_code_that_means_nothing_is_misuse(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        retry_codes(typed)
    assert "\n" not in str(caught.value)


def test_an_unknown_code_is_one_line_and_exit_2(
    layout: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["retry", str(layout.root), "--codes", "transiant"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "transient" in err
