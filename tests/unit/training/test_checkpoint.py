"""Checkpoints are atomic, run no code, and other files are refused in one line."""

import pickle
import subprocess
import sys

import pytest
import torch

from annotations_schema import UsageError, VersionError
from tests.training_micro import micro
from training.checkpoint import load_checkpoint, load_tokenizer, save_checkpoint
from training.models.tokenizer import CONFIGS, Tokenizer
from training.state import checkpoint_of, initial_state, restore
from training.typed_config import to_plain


@pytest.fixture
def state():
    return initial_state(micro(), torch.device("cpu"))


@pytest.fixture
def path(tmp_path, state):
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint_of(state, micro()))
    return tmp_path / "checkpoint.pt"


def test_a_tokenizer_comes_back_ready_to_use(path, state):
    tokenizer = load_tokenizer(path)
    assert not tokenizer.training
    images = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        expected = state.ema.module(images).x_hat
        torch.testing.assert_close(tokenizer(images).x_hat, expected)


def test_averaged_weights_are_preferred(tmp_path, state):
    with torch.no_grad():
        state.ema.module.quant_conv.weight.add_(1.0)
    save_checkpoint(tmp_path / "c.pt", checkpoint_of(state, micro()))
    loaded = load_tokenizer(tmp_path / "c.pt").quant_conv.weight
    torch.testing.assert_close(loaded, state.tokenizer.quant_conv.weight + 1.0)


def test_a_checkpoint_without_average_gives_the_trained_weights(tmp_path, state):
    saved = {"model": state.tokenizer.state_dict(), "config": to_plain(micro())}
    save_checkpoint(tmp_path / "c.pt", saved)
    loaded = load_tokenizer(tmp_path / "c.pt")
    torch.testing.assert_close(loaded.quant_conv.weight, state.tokenizer.quant_conv.weight)


def test_model_holds_the_published_names(path):
    names = set(load_checkpoint(path)["model"])
    assert {
        "encoder.conv_in.weight",
        "encoder.down.0.block.0.norm1.weight",
        "decoder.up.1.upsample.conv.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
        "quantize.embedding.weight",
        "quantize.embed_avg",
        "quantize.cluster_size",
        "quantize.codebook_used",
    } <= names


def test_a_file_with_model_alone_is_recognised_by_its_shapes(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer(CONFIGS["tiny"])
    torch.save({"model": tokenizer.state_dict()}, tmp_path / "published.pt")
    loaded = load_tokenizer(tmp_path / "published.pt")
    assert loaded.config == CONFIGS["tiny"]
    torch.testing.assert_close(loaded.quant_conv.weight, tokenizer.quant_conv.weight)


def test_a_state_that_was_saved_and_restored_is_the_same(path, state):
    other = initial_state(micro(), torch.device("cpu"))
    with torch.no_grad():
        other.tokenizer.quant_conv.weight.add_(1.0)
    restore(other, load_checkpoint(path))
    for name, tensor in state.tokenizer.state_dict().items():
        assert torch.equal(tensor, other.tokenizer.state_dict()[name])


def test_initial_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    one = initial_state(micro(), torch.device("cpu")).tokenizer.state_dict()
    torch.manual_seed(2)
    other = initial_state(micro(), torch.device("cpu")).tokenizer.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"model": {"a": Bomb(tmp_path / "owned")}}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="no tokenizer checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda p: p.write_bytes(b""), id="empty"),
        pytest.param(lambda p: p.write_text("hello"), id="text"),
        pytest.param(lambda p: p.write_bytes(pickle.dumps({"model": 3})), id="pickle"),
        pytest.param(lambda p: p.write_bytes(b"PK\x03\x04" + b"\0" * 50), id="broken-zip"),
        pytest.param(lambda p: torch.save([1, 2], p), id="a-list"),
        pytest.param(lambda p: torch.save({"weights": {}}, p), id="no-model"),
        pytest.param(lambda p: torch.save({"model": {"a": torch.ones(1)}}, p), id="other-model"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_clear_line(tmp_path, write):
    path = tmp_path / "file.pt"
    write(path)
    with pytest.raises(UsageError, match=r"file\.pt") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path, state):
    saved = checkpoint_of(state, micro())
    saved["ema"]["module"].pop("quant_conv.weight")
    save_checkpoint(tmp_path / "c.pt", saved)
    with pytest.raises(UsageError, match=r"another network.*1 missing \(quant_conv\.weight\)"):
        load_tokenizer(tmp_path / "c.pt")


def test_another_network_is_refused_with_the_names_that_differ_and_their_number(tmp_path):
    theirs = Tokenizer(CONFIGS["tiny"]).state_dict()
    theirs["head.weight"] = torch.ones(2)
    theirs["quant_conv.bias"] = torch.ones(5)
    for name in [name for name in theirs if name.startswith("decoder.mid.block_1")]:
        del theirs[name]
    torch.save({"model": theirs}, tmp_path / "theirs.pt")

    with pytest.raises(UsageError) as caught:
        load_tokenizer(tmp_path / "theirs.pt")

    assert "another network than tiny" in str(caught.value)
    assert "8 missing (decoder.mid.block_1.norm1.weight, " in str(caught.value)
    assert "and 5 more); 1 unexpected (head.weight)" in str(caught.value)
    assert "1 of another shape (quant_conv.bias (5,) instead of (32,))" in str(caught.value)


_SAVE_WITH_ROOM_FOR_LITTLE = """
import resource, sys
from pathlib import Path
import torch
from annotations_schema import UsageError
from training.checkpoint import save_checkpoint

for room in (200_000, 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        save_checkpoint(Path(sys.argv[1]), {"model": {"a": torch.ones(1_000_000)}})
    except UsageError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stands(path):
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", _SAVE_WITH_ROOM_FOR_LITTLE, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )

    # The disk is full midway, then at the first byte.
    refusals = done.stdout.splitlines()
    assert len(refusals) == 2
    for line in refusals:
        assert line.startswith(f"{path} cannot be written (File too large); what was there before")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_missing_file_and_a_newer_version_are_refused(tmp_path, path):
    with pytest.raises(UsageError, match="no such checkpoint"):
        load_tokenizer(tmp_path / "nowhere.pt")
    torch.save({**torch.load(path, weights_only=True), "version": 2}, path)
    with pytest.raises(VersionError, match="version 2"):
        load_tokenizer(path)


def test_a_failed_write_leaves_the_old_checkpoint(path):
    before = path.read_bytes()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(path, {"model": lambda: None})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
