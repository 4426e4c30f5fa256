"""`insight-train evaluate` as it is typed: one command for every row, and one line per misuse."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from training.checkpoint import save_checkpoint
from training.cli import main
from training.models.tokenizer import CONFIGS, Tokenizer
from training.typed_config import to_plain

NO_NETWORKS = ("--perceptual", "none", "--fid", "none")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    torch.manual_seed(1)
    config = {"tokenizer": to_plain(CONFIGS["tiny"]), "seed": 0}
    save_checkpoint(path, {"model": Tokenizer(CONFIGS["tiny"]).state_dict(), "config": config})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, coffee):
    root = tmp_path_factory.mktemp("photos")
    for number in range(2):
        crop = np.ascontiguousarray(coffee[: 128 + number, :128])
        Image.fromarray(crop).save(root / f"{number}.png")
    return root


@pytest.fixture
def peers(tmp_path, monkeypatch):
    (tmp_path / "my_peers.py").write_text("def dim(image):\n    return image // 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_every_row_comes_from_one_command(checkpoint, folder, peers, tmp_path, capsys):
    arguments = ["evaluate", str(checkpoint), "--images", str(folder), "--out", str(tmp_path / "o")]
    rows = ["--jpeg", "--untrained", "--peer", "dimmed=my_peers:dim"]
    assert main([*arguments, *rows, *NO_NETWORKS, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [system["name"] for system in result["systems"]]
    trained = names[4]
    assert names[:2] == ["original", "resize only"]
    assert names[2].startswith("JPEG within 40960 bits")
    assert names[3:] == ["untrained", trained, "dimmed"]
    assert result["baseline"] == trained
    assert result["config"]["peers"] == ["dimmed=my_peers:dim"]
    by_name = {system["name"]: system for system in result["systems"]}
    assert set(by_name["dimmed"]["metrics"]) == {"PSNR", "SSIM"}
    assert set(by_name["dimmed"]["differences"]) == {"PSNR", "SSIM"}
    psnr = {name: system["metrics"]["PSNR"]["value"] for name, system in by_name.items()}
    assert psnr["untrained"] != psnr[trained]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peer", "x=no_such_module:y"], "module no_such_module cannot be imported"),
        (["--peer", "x"], "write NAME=module:callable"),
        (["--fid", "inception_v3"], "as --fid-weights, or ask for its download"),
        (["--perceptual", "lpips"], "as --perceptual-weights, or ask for its download"),
        (["--perceptual", "mine"], "perceptual net 'mine' does not exist"),
        (["--images", "absent"], "--images absent is no folder"),
    ],
)
def test_misuse_is_one_line_and_exit_2(folder, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    given = ["evaluate", "--images", str(folder), "--out", str(out), *NO_NETWORKS]
    assert main([*given, *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not out.exists()


def test_without_any_data_it_says_what_can_be_named(tmp_path, capsys):
    assert main(["evaluate", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "--data" in said
    assert "--images" in said


def test_a_peer_that_raises_ends_in_one_line(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad_peers.py").write_text("def fails(image):\n    raise RuntimeError('lost')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ["evaluate", "--images", str(folder), "--out", str(tmp_path / "out"), *NO_NETWORKS]
    assert main([*given, "--peer", "bad=bad_peers:fails"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("insight-train: peer bad raised RuntimeError: lost on an image of shape")
    assert not (tmp_path / "out").exists()
