"""Checkpoints as callables: pixels out, codes counted, names that tell them apart."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from annotations_schema import UsageError
from training.checkpoint import save_checkpoint
from training.data.batch import to_model_range, to_pixels
from training.evaluation.tokenizers import (
    CheckpointTokenizer,
    load_tokenizers,
    load_untrained,
    short_names,
)
from training.models.tokenizer import CONFIGS, Tokenizer
from training.recipes import RECIPES
from training.state import initial_state
from training.typed_config import to_plain


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(CONFIGS["tiny"]).eval()


def test_the_callable_gives_the_tokenizers_pixels_and_counts_its_codes(tokenizer, astronaut):
    image = np.ascontiguousarray(astronaut[:64, :96])
    wrapped = CheckpointTokenizer(tokenizer)
    with torch.inference_mode():
        expected = tokenizer(to_model_range(image[None]))
    np.testing.assert_array_equal(wrapped(image), to_pixels(expected.x_hat)[0])
    wrapped(image)
    codes, counts = np.unique(expected.indices.numpy(), return_counts=True)
    usage = wrapped.usage()
    size = CONFIGS["tiny"].quantizer.codebook_size
    assert usage.num_tokens == 2 * expected.indices.numel()
    assert usage.used_fraction == pytest.approx(len(codes) / size)
    share = counts / counts.sum()
    assert usage.perplexity == pytest.approx(math.exp(-(share * np.log(share)).sum()))


def test_usage_before_the_first_image_is_zero(tokenizer):
    assert CheckpointTokenizer(tokenizer).usage()[1:] == (0, 0.0, 0.0)


def test_bits_are_tokens_times_log_of_the_codebook(tokenizer):
    f, size = tokenizer.downsampling, CONFIGS["tiny"].quantizer.codebook_size
    bits = CheckpointTokenizer(tokenizer).bits_per_square(256)
    assert bits == pytest.approx((256 / f) ** 2 * math.log2(size))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/base/checkpoint.pt"], ["base"]),
        (["runs/base/checkpoint.pt", "runs/text/checkpoint.pt"], ["base", "text"]),
        (["a/base/checkpoint.pt", "b/base/checkpoint.pt"], ["a/base", "b/base"]),
        (["insight_tok.pt", "run/checkpoint.pt"], ["insight_tok", "run"]),
        (["checkpoint.pt"], ["checkpoint"]),
        (["a/x.pt", "a/x.bin"], ["a/x.pt", "a/x.bin"]),
        ([], []),
    ],
)
def test_names_are_as_short_as_tells_them_apart(paths, names):
    assert short_names([Path(path) for path in paths]) == names


def test_a_checkpoint_named_twice_is_refused():
    with pytest.raises(UsageError, match="named twice"):
        short_names([Path("a.pt"), Path("a.pt")])


def test_checkpoints_are_loaded_by_name_and_others_refused(tmp_path, tokenizer):
    state = {
        "model": tokenizer.state_dict(),
        "config": {"tokenizer": to_plain(CONFIGS["tiny"])},
        "step": 0,
    }
    path = tmp_path / "base" / "checkpoint.pt"
    save_checkpoint(path, state)
    assert list(load_tokenizers([path], "cpu")) == ["base"]
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match="is no tokenizer checkpoint"):
        load_tokenizers([path, wrong], "cpu")


def saved(path, seed):
    config = {"tokenizer": to_plain(CONFIGS["tiny"]), "seed": seed}
    torch.manual_seed(99)
    save_checkpoint(path, {"model": Tokenizer(CONFIGS["tiny"]).state_dict(), "config": config})
    return path


def test_an_untrained_network_is_the_one_that_its_run_started_from(tmp_path, astronaut):
    config = replace(RECIPES["tiny"](), seed=4)
    start = initial_state(config, torch.device("cpu")).tokenizer
    plain = {"tokenizer": to_plain(config.tokenizer), "seed": 4}
    trained = Tokenizer(config.tokenizer)
    path = tmp_path / "run" / "checkpoint.pt"
    save_checkpoint(path, {"model": trained.state_dict(), "config": plain})
    before = torch.random.get_rng_state()
    (name, untrained), *others = load_untrained([path], "cpu").items()
    assert (name, others) == ("untrained", [])
    assert torch.equal(before, torch.random.get_rng_state())
    image = np.ascontiguousarray(astronaut[:64, :64])
    np.testing.assert_array_equal(untrained(image), CheckpointTokenizer(start)(image))
    assert (untrained(image) != CheckpointTokenizer(trained)(image)).any()


def test_checkpoints_that_started_alike_share_an_untrained_row(tmp_path):
    paths = [saved(tmp_path / f"{name}.pt", seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert list(load_untrained(paths[:2], "cpu")) == ["untrained"]
    assert list(load_untrained(paths, "cpu")) == ["untrained a", "untrained c"]
