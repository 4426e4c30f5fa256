"""Bad input to a training: one line on stderr, an exit code, and nothing overwritten.

Through the command line, on a real run that has a checkpoint. Elsewhere: a folder in use, wrong
recipes and data (test_train_cli), regions that the data lacks and devices that are none
(test_training_loop), files that are no checkpoints (test_checkpoint).
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from annotations_schema.provenance import FOOTER_KEY
from tests.training_datasets import few_pictures, image_id, write_dataset
from training.checkpoint import load_checkpoint
from training.cli import main
from training.models.frozen.recognisers import FACE_RECOGNISERS, TEXT_RECOGNISERS

NUM_PICTURES = 8
QUICK = (
    "machine.threads=1",
    "data.crop.size_px=32",
    "data.crop.min_text_px=4",
    "data.crop.min_face_px=8",
    "data.crop.region_focus=1",
    "data.stream.batch_size=2",
    "phases.*.objective.perceptual_weight=0",
    "phases.*.steps=2",
    "log.metrics_every=1",
    "log.checkpoint_every=1",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", few_pictures(64))


def arguments(root: Path, out: Path, *sets: str) -> list[str]:
    options = ["tokenizer", "--recipe", "tiny_regions", "--data", str(root), "--out", str(out)]
    return [*options, "--set", *QUICK, *sets]


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases of two steps."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments(root, out)) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The same run killed after its first phase."""
    out = shutil.copytree(finished, tmp_path / "run")
    shutil.copy(out / "phase_base.pt", out / "checkpoint.pt")
    (out / "phase_regions.pt").unlink()
    return out


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder; none is left behind by somebody who failed to write it."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that is refused; returns its one line."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("insight-train: ")
    assert said.count("\n") == 1, said
    return said


def test_a_checkpoint_of_another_architecture_is_refused_with_the_keys_that_differ(
    run: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main(arguments(root, other, "tokenizer.autoencoder.num_res_blocks=2")) == 0
    saved = load_checkpoint(other / "checkpoint.pt")
    torch.save(saved, run / "checkpoint.pt")
    before = contents(run)
    said = refused(capsys, [*arguments(root, run), "--resume"])
    assert "checkpoint.pt" in said
    assert "encoder.down.0.block.1." in said
    assert contents(run) == before


def test_weights_that_do_not_fit_their_configuration_are_refused_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = load_checkpoint(run / "checkpoint.pt")
    for weights in (saved["model"], saved["ema"]["module"]):
        weights["decoder.renamed.weight"] = weights.pop("decoder.conv_in.weight")
    torch.save(saved, tmp_path / "checkpoint.pt")
    out = tmp_path / "out"
    words = ["reconstruct", str(tmp_path / "checkpoint.pt"), "a.png", "--out", str(out)]
    said = refused(capsys, words)
    assert "decoder.conv_in.weight" in said
    assert "decoder.renamed.weight" in said
    assert not out.exists()


def test_a_run_folder_of_another_configuration_is_not_resumed(
    run: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    said = refused(capsys, [*arguments(root, run, "seed=5"), "--resume"])
    assert f"{run} belongs to another configuration" in said
    assert contents(run) == before


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        pytest.param(
            "nets.text_layers=stage1,stage9",
            ("stage9", *TEXT_RECOGNISERS["ppocr_v6_small"].on_offer),
            id="text-taps",
        ),
        pytest.param(
            "nets.face_layers=layer5",
            ("layer5", *FACE_RECOGNISERS["sface"].on_offer),
            id="face-taps",
        ),
        pytest.param("nets.text=nobody", ("nobody", *TEXT_RECOGNISERS), id="recogniser"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_those_that_can(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    assignment: str,
    parts: tuple[str, ...],
) -> None:
    said = refused(capsys, arguments(root, tmp_path / "new", assignment))
    for part in parts:
        assert part in said
    assert not (tmp_path / "new").exists()


def test_a_size_that_is_no_multiple_of_16_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(root, tmp_path / "new", "data.crop.size_px=40")
    words[words.index("tiny_regions")] = "llamagen_72m"
    assert "size_px=40 is no multiple of 16" in refused(capsys, words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["text", "face"])
def test_weights_with_a_wrong_hash_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"something else")
    said = refused(capsys, arguments(root, tmp_path / "new", f"nets.{kind}_path={wrong}"))
    assert str(wrong) in said
    assert "sha256" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("where", [("frame",), ("transform", "name")], ids=str)
def test_a_manifest_in_another_frame_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: tuple[str, ...]
) -> None:
    folder = write_dataset(tmp_path / "dataset", few_pictures(64))
    path = tmp_path / "dataset" / "annotations" / "000000.parquet"
    table = pq.read_table(path)
    footer = json.loads(table.schema.metadata[FOOTER_KEY])
    inner = footer
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = "something new"
    metadata = {**table.schema.metadata, FOOTER_KEY: json.dumps(footer).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    said = refused(capsys, arguments(folder, tmp_path / "new"))
    for part in (str(path), "something new", where[-1]):
        assert part in said
    assert not (tmp_path / "new").exists()


@contextlib.contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """Inside, no file grows beyond `size` bytes: writing fails as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def stopped(capsys: pytest.CaptureFixture[str], words: list[str]) -> tuple[int, str]:
    """Run a training that does not end well; its exit code and its last line on stderr."""
    capsys.readouterr()
    code = main(words)
    said = capsys.readouterr().err.splitlines()
    errors = [line for line in said if line.startswith("insight-train: ")]
    assert errors == said[-1:], said
    return code, said[-1]


def without_logs(folder: Path) -> dict[Path, bytes]:
    kept = {"metrics.jsonl", "events.jsonl", "tensorboard", "previews"}
    files = contents(folder)
    return {p: data for p, data in files.items() if not kept & set(p.relative_to(folder).parts)}


def test_a_disk_that_is_full_costs_nothing_that_was_there(
    finished: Path, run: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = without_logs(run)
    words = [*arguments(root, run), "--resume"]
    with disk_full_at((run / "checkpoint.pt").stat().st_size // 2):
        code, said = stopped(capsys, words)
    assert code in (1, 2)
    assert "checkpoint.pt" in said
    assert without_logs(run) == before
    assert main(words) == 0
    ours, undisturbed = (load_checkpoint(r / "checkpoint.pt")["model"] for r in (run, finished))
    assert all(torch.equal(ours[name], undisturbed[name]) for name in undisturbed)


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_term_and_images(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that throws the weights out of float32: the second step cannot be computed.

    Checked at every step: the checkpoint of step 1 is the last.
    """
    out = tmp_path / "run"
    sets = ("optimizer.learning_rate=1e38", "optimizer.warmup_steps=0")
    code, said = stopped(capsys, arguments(root, out, *sets))
    assert code == 1
    assert said.startswith("insight-train: step 1 of phase base: ")
    assert "reconstruction = nan" in said or "reconstruction = inf" in said
    named = [number for number in range(NUM_PICTURES) if image_id(number) in said]
    assert len(named) == 2
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 1
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1]


def test_a_number_that_is_none_between_two_checks_is_named_and_moves_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looked at only at the end of the run, two steps later: no state of the run is saved."""
    out = tmp_path / "run"
    sets = ("optimizer.learning_rate=1e38", "optimizer.warmup_steps=0", "phases.base.steps=4")
    rarely = ("log.metrics_every=4", "log.checkpoint_every=100")
    code, said = stopped(capsys, arguments(root, out, *sets, *rarely))
    assert code == 1
    assert said.startswith("insight-train: step 1 of phase base: ")
    assert not list(out.glob("*.pt"))
    assert not (out / "metrics.jsonl").exists()


def test_a_run_starts_from_another_run_s_averaged_weights(
    root: Path, finished: Path, tmp_path: Path
) -> None:
    start, out = finished / "checkpoint.pt", tmp_path / "run"
    first_step = ("phases.base.steps=1", "optimizer.learning_rate=1e-9", "ema_decay=0")
    words = arguments(root, out, *first_step)

    assert main([*words, "--init", str(start)]) == 0

    begun = load_checkpoint(out / "checkpoint.pt")["model"]
    source = load_checkpoint(start)["ema"]["module"]
    for name in ("encoder.conv_in.weight", "decoder.conv_out.weight"):
        torch.testing.assert_close(begun[name], source[name], atol=1e-6, rtol=0)


def test_a_start_from_another_network_is_refused_with_the_keys_that_differ(
    root: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(root, tmp_path / "run", "tokenizer.autoencoder.channels=32")

    line = refused(capsys, [*words, "--init", str(finished / "checkpoint.pt")])

    assert "init" in line
    assert "another network" in line
    assert "conv_in" in line
    assert not (tmp_path / "run").exists()


def test_a_resume_from_another_start_is_refused(
    root: Path, finished: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments(root, run), "--resume", "--init", str(finished / "checkpoint.pt")]

    assert "started from another checkpoint" in refused(capsys, words)
