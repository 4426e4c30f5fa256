"""Metrics and events as JSON lines, and whose run a folder is."""

import json

import pytest
import torch

from annotations_schema import UsageError
from tests.training_micro import micro
from training.run_folder import RunFolder, check_folder, claim_folder, identity_of
from training.run_log import TIMING_KEYS, MetricWindow, RunLog
from training.typed_config import to_plain, with_overrides


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_window_gives_means_over_the_steps_that_had_a_value():
    window = MetricWindow()
    window.add({"a": torch.tensor(1.0), "b": 4})
    window.add({"a": torch.tensor(3.0)})
    assert window.means() == {"a": 2.0, "b": 4.0}
    window.reset()
    assert window.means() == {}


def test_a_restored_window_ends_with_the_same_means():
    one, other = MetricWindow(), MetricWindow()
    one.add({"a": torch.tensor(0.1)})
    other.load_state_dict(one.state_dict())
    for window in (one, other):
        window.add({"a": torch.tensor(0.7)})
    assert one.means() == other.means()


def test_metrics_and_events_are_json_lines(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    with RunLog(folder, start_step=0, total_steps=2) as log:
        log.advance(4)
        log.metrics(1, "base", {"total": 0.5, "reconstruction": 0.25})
        log.event(1, "bad_image", "replaced: x")
    (metrics,) = lines(folder.metrics)
    assert metrics.pop(TIMING_KEYS[0]) > 0
    assert metrics == {"step": 1, "phase": "base", "total": 0.5, "reconstruction": 0.25}
    assert lines(folder.events) == [{"step": 1, "event": "bad_image", "detail": "replaced: x"}]
    assert "total 0.5" in capsys.readouterr().err


def test_lines_behind_the_checkpoint_are_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    with RunLog(folder, start_step=2, total_steps=4) as log:
        log.metrics(3, "base", {})
    assert [line["step"] for line in lines(folder.metrics)] == [1, 2, 3]


@pytest.fixture
def claimed(tmp_path):
    folder, identity = RunFolder(tmp_path / "run"), identity_of(micro(), {"a.parquet": "12"})
    assert not check_folder(folder, identity, resume=True)
    claim_folder(folder, micro(), identity)
    return folder


def test_a_run_folder_says_what_it_is(claimed):
    identity = json.loads(claimed.identity.read_text())
    assert identity["manifests"] == {"a.parquet": "12"}
    assert len(identity["config_sha256"]) == len(identity["code_sha256"]) == 64
    assert identity["version"]
    assert json.loads(claimed.config.read_text()) == to_plain(micro())


def test_the_same_run_may_resume_even_from_another_path(claimed):
    assert check_folder(claimed, identity_of(micro(), {"b.parquet": "12"}), resume=True)


@pytest.mark.parametrize(
    ("config", "manifests", "resume", "message"),
    [
        pytest.param(micro(), {"a": "12"}, False, "--resume", id="without-resume"),
        pytest.param(
            with_overrides(micro(), ["seed=1"]),
            {"a": "12"},
            True,
            "another configuration",
            id="config",
        ),
        pytest.param(micro(), {"a": "13"}, True, "other manifests", id="data"),
    ],
)
def test_a_folder_of_another_run_is_refused_untouched(claimed, config, manifests, resume, message):
    before = {p: p.read_bytes() for p in claimed.root.iterdir()}
    with pytest.raises(UsageError, match=message):
        check_folder(claimed, identity_of(config, manifests), resume=resume)
    assert {p: p.read_bytes() for p in claimed.root.iterdir()} == before


def test_folders_of_something_else_are_refused(tmp_path):
    identity = identity_of(micro(), {})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="something else"):
        check_folder(RunFolder(tmp_path), identity, resume=True)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(RunFolder(tmp_path / "config.json"), identity, resume=False)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="no run folder"):
        check_folder(RunFolder(tmp_path), identity, resume=True)
