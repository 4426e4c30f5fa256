"""Metrics and events as JSON lines and for TensorBoard, and whose run a folder is."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from annotations_schema import UsageError
from tests.training_micro import micro
from training.metrics import TIMING_KEYS, MetricWindow
from training.run_folder import RunFolder, check_folder, claim_folder, identity_of
from training.run_log import RunLog
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


CPU = torch.device("cpu")


def run_log(folder, *, start_step=0):
    return RunLog(folder, start_step=start_step, total_steps=4, device=CPU)


def on_tensorboard(folder):
    events = EventAccumulator(str(folder.tensorboard))
    events.Reload()
    return events


def test_metrics_and_events_are_json_lines(tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    with run_log(folder) as log:
        log.advance(4)
        log.metrics(1, "base", {"total": 0.5, "reconstruction": 0.25})
        log.event(1, "bad_image", "replaced: x")
    (metrics,) = lines(folder.metrics)
    assert {metrics.pop(key) >= 0 for key in TIMING_KEYS} == {True}
    assert metrics == {"step": 1, "phase": "base", "total": 0.5, "reconstruction": 0.25}
    assert lines(folder.events) == [{"step": 1, "event": "bad_image", "detail": "replaced: x"}]


def test_the_console_says_everything_that_is_watched(tmp_path, capsys):
    values = {
        "total": 1.5, "text": 2.0, "face": 0.0, "gradient_norm": 0.7,
        "discriminator_gradient_norm": 0.3, "codebook_usage": 0.9, "codebook_perplexity": 12.5,
        "logits_real": 0.4, "logits_fake": -0.2, "num_text": 3.0,
    }  # fmt: skip
    with run_log(RunFolder(tmp_path)) as log:
        log.metrics(2, "regions", values)
    said = capsys.readouterr().err.strip()
    assert said.startswith(
        "step 2/4 regions: total 1.5, text 2; gradient norm 0.7, of discriminator 0.3, "
        "codebook usage 0.9, perplexity 12.5, logits real 0.4, fake -0.2; 0.0 images/s, 0% waiting"
    )
    assert said.endswith(" GiB")


def test_only_the_time_until_an_item_is_there_counts_as_waiting(tmp_path):
    def slow():
        for number in range(2):
            time.sleep(0.05)
            yield number

    folder = RunFolder(tmp_path)
    with run_log(folder) as log:
        seen = []
        for item in log.waiting_for(slow()):
            time.sleep(0.05)
            seen.append(item)
            log.advance(8)
        log.metrics(2, "base", {})
        log.metrics(3, "base", {})
    assert seen == [0, 1]
    first, second = lines(folder.metrics)
    assert 0.3 < first["data_wait_share"] < 0.7
    assert 16 / 1.0 < first["images_per_s"] < 16 / 0.2
    assert second["data_wait_share"] == second["images_per_s"] == 0


def test_the_memory_is_that_of_the_process(tmp_path):
    folder, before = RunFolder(tmp_path), np.ones(2**27, np.uint8)
    with run_log(folder) as log:
        log.metrics(1, "base", {})
    del before
    (line,) = lines(folder.metrics)
    assert 2**27 / 2**30 < line["memory_gib"] < 64


def test_tensorboard_shows_the_same_numbers_in_groups(tmp_path):
    folder = RunFolder(tmp_path)
    with run_log(folder) as log:
        log.metrics(1, "base", {"total": 0.5, "gradient_norm": 2.0, "num_text": 3.0})
    events = on_tensorboard(folder)
    assert set(events.Tags()["scalars"]) == {
        "loss/total", "gradient_norm/gradient_norm", "other/num_text",
        *(f"speed/{key}" for key in TIMING_KEYS),
    }  # fmt: skip
    (total,) = events.Scalars("loss/total")
    assert (total.step, total.value) == (1, 0.5)


def test_a_preview_is_a_png_file_and_on_tensorboard(tmp_path):
    folder = RunFolder(tmp_path)
    sheet = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    with run_log(folder) as log:
        log.preview(7, sheet)
    with Image.open(folder.preview(7)) as picture:
        assert np.array_equal(np.asarray(picture), sheet)
    (shown,) = on_tensorboard(folder).Images("preview")
    assert (shown.step, shown.width, shown.height) == (7, 3, 2)
    assert shown.encoded_image_string == folder.preview(7).read_bytes()


def test_no_step_is_logged_twice_after_a_resume(tmp_path):
    """The run was killed in step 4 behind its checkpoint of step 2, in the middle of a line."""
    folder = RunFolder(tmp_path)
    with run_log(folder) as log:
        for step in (1, 2, 3):
            log.metrics(step, "base", {"total": float(step)})
    with folder.metrics.open("a") as file:
        file.write('{"st')
    (event_file,) = folder.tensorboard.iterdir()
    with event_file.open("ab") as file:
        file.write(b"\x10\x00\x00")
    with run_log(folder, start_step=2) as log:
        for step in (3, 4):
            log.metrics(step, "base", {"total": step * 10.0})
    expected = [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert [(line["step"], line["total"]) for line in lines(folder.metrics)] == expected
    assert [(e.step, e.value) for e in on_tensorboard(folder).Scalars("loss/total")] == expected


@pytest.fixture
def claimed(tmp_path):
    folder, identity = RunFolder(tmp_path / "run"), identity_of(micro(), {"a.parquet": "12"}, {})
    assert not check_folder(folder, identity, resume=True)
    claim_folder(folder, micro(), identity)
    return folder


def test_a_run_folder_says_what_it_is(claimed):
    identity = json.loads(claimed.identity.read_text())
    assert identity["manifests"] == {"a.parquet": "12"}
    assert len(identity["config_sha256"]) == len(identity["code_sha256"]) == 64
    assert identity["version"]
    assert json.loads(claimed.config.read_text()) == to_plain(micro())


def test_what_a_kill_left_half_written_goes_when_the_run_goes_on(claimed):
    identity = json.loads(claimed.identity.read_text())
    claimed.preview(3).parent.mkdir()
    for path in (claimed.checkpoint, claimed.preview(3)):
        path.with_name(f".{path.name}.0123456789ab.tmp").write_bytes(b"half")
        path.write_bytes(b"whole")
    claim_folder(claimed, micro(), identity)
    assert not list(claimed.root.rglob("*.tmp"))
    assert claimed.checkpoint.read_bytes() == claimed.preview(3).read_bytes() == b"whole"


def test_the_same_run_may_resume_even_from_another_path(claimed):
    assert check_folder(claimed, identity_of(micro(), {"b.parquet": "12"}, {}), resume=True)


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
        check_folder(claimed, identity_of(config, manifests, {}), resume=resume)
    assert {p: p.read_bytes() for p in claimed.root.iterdir()} == before


def test_folders_of_something_else_are_refused(tmp_path):
    identity = identity_of(micro(), {}, {})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="something else"):
        check_folder(RunFolder(tmp_path), identity, resume=True)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(RunFolder(tmp_path / "config.json"), identity, resume=False)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="no run folder"):
        check_folder(RunFolder(tmp_path), identity, resume=True)
