from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotations_schema.errors import UsageError, VersionError
from annotations_schema.images import DecodeLimits
from annotations_schema.layout import DatasetLayout
from curation.annotate.config import AnnotateConfig
from curation.annotate.protocols import Provider
from curation.config import (
    MACHINE_SETTINGS,
    CurateConfig,
    DatasetConfig,
    ListSource,
    check_same,
    read_config,
    require_config,
    write_config,
)
from curation.fetch.config import FetchConfig
from curation.plan.plan import PlanConfig


def a_config(**changes: Any) -> DatasetConfig:
    config = DatasetConfig(
        creator="open-insighttok 0",
        source=ListSource(path="/lists/a.txt", name="a.txt", sha256="a" * 64),
        curate=CurateConfig(
            plan=PlanConfig(caption_column="words", shard_size=7),
            fetch=FetchConfig(
                optout_directives=("noai", "noindex"), limits=DecodeLimits(max_pixels=12345)
            ),
            annotate=AnnotateConfig(
                provider=Provider.CUDA, face_input_sides_px=(320, 640), text_score_min=0.25
            ),
        ),
        stages={"plan": "1" * 64, "fetch": "2" * 64, "annotate": "3" * 64},
        num_shards=2,
        num_rows=9,
    )
    return replace(config, **changes)


def with_fetch(config: DatasetConfig, **changes: Any) -> DatasetConfig:
    return replace(
        config, curate=replace(config.curate, fetch=replace(config.curate.fetch, **changes))
    )


def with_annotate(config: DatasetConfig, **changes: Any) -> DatasetConfig:
    annotate = replace(config.curate.annotate, **changes)
    return replace(config, curate=replace(config.curate, annotate=annotate))


def test_a_configuration_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    write_config(layout, a_config())
    assert read_config(layout) == a_config()
    assert json.loads(layout.config.read_text())["config_sha256"] == a_config().sha256


def test_without_a_file_there_is_no_configuration(tmp_path: Path) -> None:
    assert read_config(DatasetLayout(tmp_path)) is None
    with pytest.raises(UsageError, match="not a planned dataset"):
        require_config(DatasetLayout(tmp_path))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(with_fetch(a_config(), threads=3), id="fetch threads"),
        pytest.param(with_annotate(a_config(), threads=3), id="annotate threads"),
        pytest.param(with_annotate(a_config(), text_weights="/elsewhere.onnx"), id="weights path"),
        pytest.param(a_config(num_shards=5, num_rows=50), id="counts"),
        pytest.param(a_config(creator="open-insighttok 9"), id="software version"),
        pytest.param(
            a_config(source=replace(a_config().source, path=Path("/moved/a.txt"))), id="list moved"
        ),
    ],
)
def test_what_belongs_to_a_machine_is_not_identity(other: DatasetConfig, tmp_path: Path) -> None:
    assert other != a_config()
    assert other.sha256 == a_config().sha256
    check_same(a_config(), other, tmp_path)


@pytest.mark.parametrize(
    ("other", "setting"),
    [
        (with_fetch(a_config(), max_bytes=10), "fetch.max_bytes was 33554432 and is now 10"),
        (
            with_fetch(a_config(), limits=DecodeLimits(max_pixels=99)),
            "fetch.limits.max_pixels was 12345 and is now 99",
        ),
        (
            with_annotate(a_config(), face_detector="none"),
            "annotate.face_detector was 'retinaface_mnet025' and is now 'none'",
        ),
        (
            a_config(source=replace(a_config().source, name="b.txt")),
            "source.name was 'a.txt' and is now 'b.txt'",
        ),
        (a_config(stages={**a_config().stages, "annotate": "9" * 64}), "stages.annotate was '333"),
    ],
)
def test_another_configuration_is_refused_and_the_setting_is_named(
    other: DatasetConfig, setting: str, tmp_path: Path
) -> None:
    assert other.sha256 != a_config().sha256
    with pytest.raises(UsageError) as refused:
        check_same(a_config(), other, tmp_path)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path} belongs to another configuration: ")
    assert setting in message
    assert "\n" not in message


def test_a_setting_is_named_before_the_hash_it_changes(tmp_path: Path) -> None:
    other = with_fetch(
        a_config(stages={**a_config().stages, "fetch": "9" * 64}), allow_private_network=True
    )
    with pytest.raises(UsageError, match=r"fetch\.allow_private_network was False"):
        check_same(a_config(), other, tmp_path)


def test_every_machine_setting_is_the_name_of_a_setting() -> None:
    config = a_config().curate
    for name in MACHINE_SETTINGS:
        part, _, setting = name.partition(".")
        assert hasattr(getattr(config, part), setting)


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    write_config(layout, a_config())
    values = json.loads(layout.config.read_text())
    values["curate"]["plan"]["shard_size"] = 8
    layout.config.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="config_sha256 does not match"):
        read_config(layout)


def test_a_newer_major_version_is_refused(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    write_config(layout, a_config(schema_version="2.0"))
    with pytest.raises(VersionError, match=r"version 2\.0"):
        read_config(layout)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema_version": "1.0"}', '{"schema_version": "1.0", "x": 1}']
)
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    layout.config.write_text(text)
    with pytest.raises(UsageError, match="not a dataset configuration"):
        read_config(layout)


def test_an_unknown_setting_in_a_file_is_refused(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    write_config(layout, a_config())
    values = json.loads(layout.config.read_text())
    values["curate"]["fetch"]["colour"] = "blue"
    layout.config.write_text(json.dumps(values))
    with pytest.raises(
        UsageError, match=r"setting fetch\.colour is unknown to this version: .*open"
    ):
        read_config(layout)


def test_a_file_of_a_version_without_a_setting_names_the_setting(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    write_config(layout, a_config())
    values = json.loads(layout.config.read_text())
    del values["curate"]["fetch"]["retries"], values["curate"]["fetch"]["threads"]
    layout.config.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"setting fetch\.retries is absent: .*another folder"):
        read_config(layout)


def test_the_identity_of_a_list_is_its_bytes_and_its_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b" / "a.txt"
    second.parent.mkdir()
    for path in (first, second):
        path.write_text("http://example.org/1.jpg\n")
    one, other = ListSource.of(first), ListSource.of(second)
    assert (one.name, one.sha256) == (other.name, other.sha256)
    second.write_text("http://example.org/2.jpg\n")
    assert ListSource.of(second).sha256 != one.sha256


def test_a_list_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.txt: the URL list cannot be read"):
        ListSource.of(tmp_path / "nothing.txt")
