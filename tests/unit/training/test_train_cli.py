"""The command line: exit codes, one-line errors, and what it must not load."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.training_datasets import few_pictures, write_dataset
from training.cli import main
from training.recipes import RECIPES

DETECTOR_LIBRARIES = ("ray", "cv2", "insightface", "doctr")
QUICK = (
    "machine.threads=1",
    "data.crop.size_px=32",
    "data.stream.batch_size=1",
    "phases.*.objective.perceptual_weight=0",
    "phases.*.steps=1",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), few_pictures(64))


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["tokenizer", "--recipe", "tiny", "--data", str(root), "--out", str(out)]
    assert main([*arguments, "--set", *QUICK]) == 0
    return out


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("insight-train: ")
    return said


def test_a_training_ends_with_a_checkpoint(run):
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"] == "tiny"
    assert config["data"]["crop"]["size_px"] == 32
    assert (run / "checkpoint.pt").is_file()


def test_set_may_be_given_once_or_often_and_resume_goes_on(run, root, capsys):
    arguments = ["tokenizer", "--recipe", "tiny", "--data", str(root), "--out", str(run)]
    sets = [word for assignment in QUICK for word in ("--set", assignment)]
    assert main([*arguments, *sets, "--resume", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    steps = len(RECIPES["tiny"]().phases)
    assert result == {"checkpoint": str(run / "checkpoint.pt"), "step": steps, "is_finished": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"--recipe": "tinny"}, "did you mean tiny", id="recipe"),
        pytest.param({"--set": "sead=1"}, "did you mean seed", id="key"),
        pytest.param({"--set": "seed=x"}, "not of type int", id="value"),
        pytest.param({"--data": "/nowhere"}, "/nowhere does not exist", id="data"),
        pytest.param({"--out": "RUN"}, "holds a run already", id="folder-in-use"),
    ],
)
def test_misuse_is_one_line_and_exit_2(run, root, tmp_path, capsys, change, message):
    options = {"--recipe": "tiny", "--data": str(root), "--out": str(tmp_path / "new"), **change}
    arguments = [str(run) if word == "RUN" else word for pair in options.items() for word in pair]
    before = sorted(run.rglob("*"))
    capsys.readouterr()
    assert main(["tokenizer", *arguments]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "new").exists()
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "num_txt > 0"], "num_text"),
        (["--where", "num_text > 99"], "not chosen by --where"),
        (["--weights", "1", "2"], "2 numbers for 1 sources"),
        (["--weights", "-1"], "each must be above 0"),
    ],
)
def test_images_and_weights_that_do_not_fit_are_one_line_and_exit_2(
    root, tmp_path, capsys, options, message
):
    arguments = ["tokenizer", "--recipe", "tiny", "--data", str(root), "--out", str(tmp_path / "r")]
    assert main([*arguments, *options, "--set", *QUICK]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "r").exists()


def test_where_and_weights_are_part_of_the_run(root, tmp_path):
    arguments = ["tokenizer", "--recipe", "tiny", "--data", str(root), "--out", str(tmp_path / "r")]
    chosen = ["--where", "num_text > 0 or num_faces > 0", "--weights", "2"]
    assert main([*arguments, *chosen, "--set", *QUICK]) == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["data"]["where"] == chosen[1]
    assert config["data"]["weights"] == [2.0]


def test_debug_shows_the_traceback(root, tmp_path):
    with pytest.raises(ValueError, match="unknown"):
        main(["tokenizer", "--recipe", "x", "--data", str(root), "--out", "y", "--debug"])


@pytest.mark.parametrize("arguments", [[], ["tokenizer"], ["unknown"], ["recipes", "--colour"]])
def test_typing_errors_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["tokenizer", "evaluate", "reconstruct", "recipes"])
def test_help_says_what_a_command_does(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"insight-train {command}" in capsys.readouterr().out


def test_recipes_are_listed_for_people_and_for_programs(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(f"{name}: " in shown.err for name in RECIPES)
    assert "encoder and codebook frozen" in shown.err
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(RECIPES)
    assert listed["llamagen_72m"]["phases"][0]["steps"] == 200_000


def test_pictures_are_reconstructed(run, tmp_path, capsys):
    picture = tmp_path / "photo.png"
    Image.fromarray(few_pictures(64)[0].image).save(picture)
    checkpoint, out = str(run / "checkpoint.pt"), tmp_path / "out"
    assert main(["reconstruct", checkpoint, str(picture), "--out", str(out), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["pictures"]
    assert listed["output"] == str(out / "photo.png")
    with Image.open(out / "photo.png") as reconstruction:
        assert np.asarray(reconstruction).shape == (64, 64, 3)
    assert (out / "photo.side_by_side.png").exists()


def test_a_picture_that_is_none_exits_1(run, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    arguments = [str(run / "checkpoint.pt"), str(tmp_path / "text.png"), "--out", str(tmp_path)]
    assert main(["reconstruct", *arguments]) == 1


def test_a_file_that_is_no_checkpoint_exits_2(tmp_path, capsys):
    (tmp_path / "c.pt").write_text("hello")
    arguments = ["reconstruct", str(tmp_path / "c.pt"), "a.png", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "no tokenizer checkpoint" in one_line(capsys)


def test_a_checkpoint_is_evaluated(run, root, tmp_path, capsys):
    arguments = [str(run / "checkpoint.pt"), "--data", str(root), "--out", str(tmp_path / "e")]
    judges = ["--text-recogniser", "none", "--face-net", "none", "--max-images", "2"]
    assert main(["evaluate", *arguments, *judges, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {system["name"] for system in result["systems"]} >= {"original", "resize only"}
    assert (tmp_path / "e" / "result.json").is_file()


def loaded_by(code):
    """Names of the modules that a new interpreter has loaded after running this code."""
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_trainer_loads_no_detector_and_no_ray():
    loaded = loaded_by("import training, training.commands, training.train_tokenizer")
    assert "torch" in loaded
    assert loaded.isdisjoint(DETECTOR_LIBRARIES)


def test_that_check_would_notice_a_detector_library():
    assert not loaded_by("import training, cv2").isdisjoint(DETECTOR_LIBRARIES)


def test_help_and_typing_errors_do_not_wait_for_torch():
    loaded = loaded_by("import training.cli")
    assert loaded.isdisjoint({"torch", "numpy", "pyarrow", "PIL"})
