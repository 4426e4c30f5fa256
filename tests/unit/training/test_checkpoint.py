"""Checkpoints are atomic, run no code, and other files are refused in one line."""

import pickle

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
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint_of(state, micro(), torch.device("cpu")))
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
    save_checkpoint(tmp_path / "c.pt", checkpoint_of(state, micro(), torch.device("cpu")))
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
    saved = checkpoint_of(state, micro(), torch.device("cpu"))
    saved["ema"]["module"].pop("quant_conv.weight")
    save_checkpoint(tmp_path / "c.pt", saved)
    with pytest.raises(UsageError, match=r"quant_conv\.weight"):
        load_tokenizer(tmp_path / "c.pt")


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
