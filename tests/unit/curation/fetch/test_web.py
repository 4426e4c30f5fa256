from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotations_schema.layout import DatasetLayout
from curation.demo.pictures import plain_jpeg
from curation.demo.server import ServedFile, TroubleServer
from curation.fetch.config import FetchConfig
from curation.fetch.stage import FetchStage
from curation.plan.plan import PlanConfig, plan

FILES = {f"/{i}.jpg": ServedFile(plain_jpeg(64 + i, 48)) for i in range(4)}


def planned(folder: Path, urls: list[str], shard_size: int) -> tuple[Path, list[str]]:
    (folder / "urls.txt").write_text("\n".join(urls))
    layout = DatasetLayout(folder / "dataset")
    shards = plan(folder / "urls.txt", layout, PlanConfig(shard_size=shard_size))
    return folder / "dataset", list(shards)


def test_connections_and_rules_last_from_shard_to_shard(
    tmp_path: Path, config: FetchConfig
) -> None:
    polite = replace(config, respect_robots_txt=True, threads=1)
    with TroubleServer(FILES, keeps_alive=True) as server:
        root, shards = planned(tmp_path, [server.url(path) for path in FILES], shard_size=2)
        stage = FetchStage(root, polite)
        with closing(stage):
            stage.open()
            assert [stage.run(shard).counts for shard in shards] == [{"ok": 2}, {"ok": 2}]
        assert [request.path for request in server.seen] == ["/robots.txt", *FILES]
        assert len({request.client_port for request in server.seen}) == 1


def test_the_hosts_of_a_shard_are_asked_in_turn(tmp_path: Path, config: FetchConfig) -> None:
    with TroubleServer(FILES) as one, TroubleServer(FILES) as other:
        urls = [server.url(path) for server in (one, other) for path in FILES]
        root, (shard,) = planned(tmp_path, urls, shard_size=100)
        stage = FetchStage(root, replace(config, threads=1))
        order: list[str] = []
        for name, server in (("one", one), ("other", other)):
            server.answer = _noting(server, name, order)
        with closing(stage):
            stage.open()
            assert stage.run(shard).counts == {"ok": 8}
    assert order == ["one", "other"] * 4


def _noting(server: TroubleServer, name: str, order: list[str]) -> Callable[[Any], None]:
    answer = server.answer

    def noted(handler: Any) -> None:
        order.append(name)
        answer(handler)

    return noted
