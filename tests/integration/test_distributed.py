"""Two gloo processes train as one does with the same images a step, and one goes on from two."""

import json
import shutil

import pytest
import torch

from tests.rank_program import config, train_on_ranks
from tests.training_datasets import few_pictures, write_dataset
from training.checkpoint import load_checkpoint
from training.run_folder import RunFolder
from training.run_log import TIMING_KEYS
from training.setup import open_dataset
from training.state import initial_state
from training.step import set_trainable
from training.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", few_pictures(96))


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    """Nine steps over three phases by one process, and its folder."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert train_tokenizer(config(), [root], out).is_finished
    return RunFolder(out)


@pytest.fixture(scope="module")
def pair(root, tmp_path_factory):
    """The same by two processes: the folder, and gradient bytes of each phase."""
    out = tmp_path_factory.mktemp("runs") / "pair"
    return RunFolder(out), train_on_ranks(2, root, out)


def metrics(folder):
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_KEYS} for line in lines]


def assert_same_run(one, other):
    """Losses, logits, norms, counts, weights, averages and codebooks, to float32's rounding."""
    lines = [metrics(folder) for folder in (one, other)]
    assert len(lines[0]) == len(lines[1]) == 4
    for mine, theirs in zip(*lines, strict=True):
        assert mine.pop("phase") == theirs.pop("phase")
        assert mine == pytest.approx(theirs, rel=5e-3, abs=1e-4)
    saved = [load_checkpoint(folder.checkpoint) for folder in (one, other)]
    for read in (
        lambda s: s["model"],
        lambda s: s["ema"]["module"],
        lambda s: s["training"]["discriminator"],
    ):
        mine, theirs = map(read, saved)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            # Adam divides by the gradient's own size, so a rounding can be a step of its own.
            torch.testing.assert_close(
                value, theirs[name], rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert saved[0]["step"] == saved[1]["step"] == 9


def test_two_processes_train_as_one_does(alone, pair):
    assert_same_run(alone, pair[0])


def test_the_comparison_would_see_the_last_three_steps(alone):
    paths = (alone.phase_checkpoint("regions"), alone.checkpoint)
    before, after = (load_checkpoint(path)["model"]["decoder.conv_in.weight"] for path in paths)
    # Ten times what is taken for rounding.
    assert (after - before).abs().max() > 2e-3


@pytest.mark.parametrize("phase", ["base", "regions"])
def test_one_process_goes_on_where_two_were(root, alone, pair, tmp_path, phase):
    """After step 3 inside a window of two steps, and after step 6."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(pair[0].root, folder.root)
    shutil.copy(folder.phase_checkpoint(phase), folder.checkpoint)
    assert train_tokenizer(config(), [root], folder.root, resume=True).is_finished
    assert_same_run(alone, folder)


def test_gradients_travel_once_a_step_and_only_those_that_are_trained(pair):
    state = initial_state(config(), torch.device("cpu"))
    judge = sum(p.nbytes for p in state.discriminator.parameters())
    for number, (phase, sent) in enumerate(zip(config().phases, pair[1], strict=True)):
        set_trainable(state.tokenizer, phase)
        trained = sum(p.nbytes for p in state.tokenizer.parameters() if p.requires_grad)
        # Three steps of two micro batches; the first step of all has no discriminator yet.
        assert sent == {"tokenizer": 3 * trained, "discriminator": (3 - (number == 0)) * judge}
        assert trained > 0


def test_both_processes_count_but_one_writes(pair, root):
    folder = pair[0]
    assert [line["step"] for line in metrics(folder)] == [2, 4, 6, 8]
    events = [json.loads(line)["event"] for line in folder.events.read_text().splitlines()]
    assert events == ["phase", "phase", "phase", "finished"]
    assert len(open_dataset(config(), [root])) == 8
