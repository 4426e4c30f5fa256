"""The training loop on real pictures: every part at once, resume, interruption, bad numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from annotations_schema import DatasetLayout, UsageError, WeightsError
from tests.training_datasets import few_pictures, photo, portrait, write_dataset
from tests.training_micro import ADVERSARIAL, PLAIN, micro, three_phases
from training.checkpoint import load_checkpoint, load_tokenizer
from training.config import Phase
from training.data.batch import collate
from training.data.manifest import ManifestDataset
from training.data.transforms import random_sample
from training.finite import NonFiniteError
from training.run_folder import RunFolder
from training.run_log import TIMING_KEYS
from training.setup import load_frozen_nets
from training.state import initial_state
from training.step import optimize, set_trainable
from training.train_tokenizer import train_tokenizer
from training.typed_config import with_overrides


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", few_pictures(96))


@pytest.fixture(scope="module")
def straight(root, tmp_path_factory):
    """Six steps over three phases in one go."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    result = train_tokenizer(three_phases(), [root], out)
    assert result == (out / "checkpoint.pt", 6, True)
    return RunFolder(out)


def metrics(folder):
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_KEYS} for line in lines]


def events(folder):
    lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
    return [line["event"] for line in lines]


def same_tree(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tree(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_tree, one, other))
    return one == other


def weights(path, prefix=""):
    model = load_checkpoint(path)["model"]
    return {name: w for name, w in model.items() if name.startswith(prefix)}


def test_every_term_is_computed_where_its_phase_asks_for_it(straight):
    lines = metrics(straight)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["phase"] for line in lines] == ["base"] * 2 + ["regions"] * 2 + ["decoder"] * 2
    for line in lines:
        in_regions = line["phase"] != "base"
        assert (line["text"] > 0) == (in_regions and line["num_text"] > 0)
        assert (line["face"] > 0) == (in_regions and line["num_faces"] > 0)
        assert (line["adversarial"] != 0) == in_regions
        assert line["perceptual"] == 0
        assert line["reconstruction"] > 0
    assert max(line["text"] for line in lines) > 0
    assert max(line["face"] for line in lines) > 0
    # The discriminator of phase base learns from its step 1 on.
    assert ["discriminator" in line for line in lines] == [False] + [True] * 5


def trained(config, root, out):
    train_tokenizer(config, [root], out)
    return metrics(RunFolder(out))


def test_padding_counts_as_no_region(root, tmp_path):
    config = micro(Phase(name="regions", steps=3, objective=PLAIN, images="with_regions"))
    config = with_overrides(config, ["data.stream.max_text=3", "data.stream.max_faces=2"])
    plain, padded = (
        trained(with_overrides(config, [f"machine.static_regions={value}"]), root, tmp_path / value)
        for value in ("false", "true")
    )

    keys = [key for key in plain[0] if key.startswith(("num_", "dropped_"))]
    assert len(keys) == 6
    assert [[line[key] for key in keys] for line in plain] == [
        [line[key] for key in keys] for line in padded
    ]
    assert 0 < sum(line["num_text"] + line["num_faces"] for line in padded) < 3 * 5


def test_the_run_folder_is_complete(straight):
    names = {path.name for path in straight.root.iterdir()}
    assert names == {
        "config.json", "run.json", "metrics.jsonl", "events.jsonl", "checkpoint.pt", "previews",
        "phase_base.pt", "phase_regions.pt", "phase_decoder.pt", "tensorboard",
    }  # fmt: skip
    assert events(straight) == ["phase", "phase", "phase", "finished"]
    load_tokenizer(straight.checkpoint)


def test_the_preview_shows_originals_above_reconstructions(straight):
    with Image.open(straight.preview(6)) as sheet:
        pixels = np.asarray(sheet)
    # A caption of 16 px, then the two, 8 px of gap behind them.
    assert pixels.shape[0] == 16 + 2 * 128 + 8
    assert pixels.shape[1] >= 2 * 136
    top, bottom = pixels[16:144, :128], pixels[144:272, :128]
    assert top.std() > 20
    assert not np.array_equal(top, bottom)


def test_only_the_decoder_moves_in_the_decoder_phase(straight):
    before, after = (straight.phase_checkpoint(n) for n in ("regions", "decoder"))
    for prefix in ("encoder.", "quant_conv.", "quantize."):
        assert same_tree(weights(before, prefix), weights(after, prefix))
    for prefix in ("decoder.", "post_quant_conv."):
        assert not same_tree(weights(before, prefix), weights(after, prefix))


def test_the_phases_before_move_everything(straight):
    before, after = (straight.phase_checkpoint(n) for n in ("base", "regions"))
    for prefix in ("encoder.", "quant_conv.", "quantize.", "post_quant_conv.", "decoder."):
        assert not same_tree(weights(before, prefix), weights(after, prefix))


class Interrupter:
    """Presses Ctrl-C when a step is logged."""

    def __init__(self, monkeypatch, step):
        from training.run_log import RunLog

        advance, self.seen = RunLog.advance, 0

        def press(log, num_images):
            advance(log, num_images)
            self.seen += 1
            if self.seen == step:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(RunLog, "advance", press)


@pytest.mark.parametrize("step", [2, 3], ids=["between-phases", "inside-a-phase"])
def test_a_resumed_run_is_bit_identical_to_an_undisturbed_one(
    straight, root, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch:
        Interrupter(patch, step)
        first = train_tokenizer(three_phases(), [root], tmp_path / "run")
    assert first == (tmp_path / "run" / "checkpoint.pt", step, False)
    torch.manual_seed(12345)
    second = train_tokenizer(three_phases(), [root], tmp_path / "run", resume=True)
    assert second.is_finished
    folder = RunFolder(tmp_path / "run")
    assert same_tree(load_checkpoint(folder.checkpoint), load_checkpoint(straight.checkpoint))
    assert metrics(folder) == metrics(straight)
    assert "interrupted" in events(folder)


def test_a_metrics_window_survives_a_resume(root, tmp_path, monkeypatch):
    config = with_overrides(micro(), ["log.metrics_every=4"])
    train_tokenizer(config, [root], tmp_path / "straight")
    with monkeypatch.context() as patch:
        Interrupter(patch, 3)
        train_tokenizer(config, [root], tmp_path / "halves")
    train_tokenizer(config, [root], tmp_path / "halves", resume=True)
    both = [metrics(RunFolder(tmp_path / name)) for name in ("straight", "halves")]
    assert both[0] == both[1]
    assert len(both[0]) == 1


def test_a_run_killed_behind_its_checkpoint_repeats_the_lost_steps(root, tmp_path):
    config = with_overrides(micro(), ["log.checkpoint_every=2", "phases.base.steps=3"])
    straight = train_tokenizer(config, [root], tmp_path / "straight")
    train_tokenizer(config, [root], tmp_path / "killed")
    folder = RunFolder(tmp_path / "killed")
    # What a kill -9 in step 3 leaves: the checkpoint of step 2 and a line of step 3.
    again = with_overrides(config, ["phases.base.steps=2"])
    train_tokenizer(again, [root], tmp_path / "two")
    saved = load_checkpoint(tmp_path / "two" / "checkpoint.pt")
    torch.save({**saved, "config": load_checkpoint(folder.checkpoint)["config"]}, folder.checkpoint)
    train_tokenizer(config, [root], folder.root, resume=True)
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3]
    assert same_tree(weights(folder.checkpoint), weights(straight.checkpoint))


def test_a_run_leaves_the_random_numbers_of_its_caller_alone(root, tmp_path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    train_tokenizer(micro(), [root], tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_workers_do_not_change_the_run(root, tmp_path):
    runs = []
    for workers in (0, 2):
        config = with_overrides(micro(), [f"machine.num_workers={workers}"])
        train_tokenizer(config, [root], tmp_path / str(workers))
        runs.append(tmp_path / str(workers) / "checkpoint.pt")
    assert same_tree(weights(runs[0]), weights(runs[1]))


def test_a_run_goes_on_in_another_memory_order_and_in_other_micro_batches(root, tmp_path):
    config = with_overrides(three_phases(), ["data.stream.batch_size=4"])
    train_tokenizer(config, [root], tmp_path / "straight")
    shutil.copytree(tmp_path / "straight", tmp_path / "moved")
    folder = RunFolder(tmp_path / "moved")
    shutil.copy(folder.phase_checkpoint("base"), folder.checkpoint)
    moved = with_overrides(config, ["machine.channels_last=true", "machine.micro_batch=2"])
    assert train_tokenizer(moved, [root], folder.root, resume=True).is_finished
    straight = weights(tmp_path / "straight" / "checkpoint.pt")
    gaps = torch.cat(
        [
            (weight - straight[name]).abs().flatten()
            for name, weight in weights(folder.checkpoint).items()
            if not name.startswith("quantize.")
        ]
    )
    # Rounding can make another code the nearest; moments in the wrong order move half of all.
    assert (gaps > 5e-4).float().mean() < 0.05


def test_two_half_batches_make_the_gradient_of_a_whole(root, tmp_path):
    whole = with_overrides(micro(), ["data.stream.batch_size=4", "phases.base.steps=1"])
    halves = with_overrides(whole, ["machine.micro_batch=2", "recipe=halves"])
    lines = []
    for config in (whole, halves):
        train_tokenizer(config, [root], tmp_path / config.recipe)
        lines.append(metrics(RunFolder(tmp_path / config.recipe))[0])
    for name in ("total", "reconstruction", "commitment", "gradient_norm"):
        assert lines[0][name] == pytest.approx(lines[1][name], rel=1e-4)


def nets_and_batch(config, root):
    dataset = ManifestDataset([root])
    samples = [
        random_sample(dataset.read(i), config.data.crop, seed=0, stream_position=i) for i in (0, 4)
    ]
    batch = collate(samples, max_text=8, max_faces=8).to("cpu")
    return load_frozen_nets(config, torch.device("cpu")), batch.to("cpu")


def test_the_discriminator_learns_from_its_own_loss_alone(root):
    config = micro(Phase(name="base", steps=9, objective=replace(ADVERSARIAL, adversarial_start=1)))
    state, (nets, batch) = initial_state(config, torch.device("cpu")), nets_and_batch(config, root)
    state.step = 1
    seen = []
    state.discriminator_optimizer.register_step_pre_hook(
        lambda *_: seen.append([p.grad.clone() for p in state.discriminator.parameters()])
    )
    x_hat = state.tokenizer(batch.images).x_hat.detach()
    state.tokenizer.quantize.take_statistics(torch.Generator())
    real, fake = state.discriminator(batch.images), state.discriminator(x_hat)
    loss = (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()) / 2
    expected = torch.autograd.grad(loss, list(state.discriminator.parameters()))
    norm = torch.stack([g.norm() for g in expected]).norm()
    optimize(state, config, nets, [batch])
    for got, want in zip(seen[0], expected, strict=True):
        torch.testing.assert_close(got, want * min(1.0, 1.0 / norm), rtol=1e-3, atol=1e-6)


def test_a_run_that_diverges_keeps_its_last_checkpoint(root, tmp_path, monkeypatch):
    config = with_overrides(micro(), ["log.checkpoint_every=1"])
    from training import step as module

    calls, real = [], module.generator_objective

    def diverge(*args, **kwargs):
        calls.append(1)
        terms = real(*args, **kwargs)
        return terms._replace(total=terms.total * float("nan")) if len(calls) == 3 else terms

    with monkeypatch.context() as patch:
        patch.setattr(module, "generator_objective", diverge)
        with pytest.raises(NonFiniteError, match="step 2 "):
            train_tokenizer(config, [root], tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 2
    assert train_tokenizer(config, [root], tmp_path / "run", resume=True).is_finished


def test_the_loss_falls(root, tmp_path):
    config = with_overrides(
        micro(), ["phases.base.steps=40", "log.metrics_every=10", "optimizer.learning_rate=4e-3"]
    )
    train_tokenizer(config, [root], tmp_path / "run")
    lines = metrics(RunFolder(tmp_path / "run"))
    assert lines[-1]["reconstruction"] < 0.85 * lines[0]["reconstruction"]


def test_a_bad_image_is_replaced_counted_and_named(tmp_path):
    root = write_dataset(tmp_path / "d", few_pictures(96))
    dataset = ManifestDataset([root])
    tar = DatasetLayout(root).images("000000")
    data = bytearray(tar.read_bytes())
    start = data.index(dataset.read_bytes(3))
    data[start : start + 8] = bytes(8)
    tar.write_bytes(bytes(data))
    train_tokenizer(micro(), [root], tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert sum(line["bad_images"] for line in metrics(folder)) >= 1
    happenings = [json.loads(line) for line in folder.events.read_text().splitlines()]
    bad = [h["detail"] for h in happenings if h["event"] == "bad_image"]
    assert bad
    assert all(dataset.image_id(3) in detail for detail in bad)


def test_regions_that_a_phase_needs_and_the_data_lacks_are_missed_before_anything_is_written(
    tmp_path,
):
    no_faces = write_dataset(tmp_path / "a", [few_pictures(96)[0], photo("chelsea", 96)])
    no_text = write_dataset(tmp_path / "b", [portrait(96)])
    nothing = write_dataset(tmp_path / "c", [photo("chelsea", 96)])
    chosen = micro(Phase(name="base", steps=1, objective=PLAIN, images="with_regions"))
    for data, config, message in (
        (no_faces, three_phases(), "phase regions sets face_weight"),
        (no_text, three_phases(), "phase regions sets text_weight"),
        (nothing, chosen, "phase base sets images=with_regions"),
    ):
        with pytest.raises(UsageError, match=message):
            train_tokenizer(config, [data], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wrong_weights_and_devices_are_found_before_anything_is_written(root, tmp_path):
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"something else")
    cases = [
        ("nets.text_path=" + str(wrong), WeightsError, "sha256"),
        ("nets.text=nobody", UsageError, "nobody"),
        ("machine.device=abacus", UsageError, "no device"),
        ("data.stream.batch_size=17", UsageError, "micro_batch=16 does not divide 17"),
        ("machine.device=cuda:99", UsageError, "this machine has"),
    ]
    for assignment, error, message in cases:
        config = with_overrides(three_phases(), [assignment])
        with pytest.raises(error, match=message):
            train_tokenizer(config, [root], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_parts_receive_no_gradient(root):
    config = three_phases()
    state, (nets, batch) = initial_state(config, torch.device("cpu")), nets_and_batch(config, root)
    state.step = 4
    set_trainable(state.tokenizer, config.phases[2])
    seen = {}
    state.optimizer.register_step_pre_hook(
        lambda *_: seen.update(
            {n: p.grad is not None for n, p in state.tokenizer.named_parameters()}
        )
    )
    optimize(state, config, nets, [batch])
    frozen = ("encoder.", "quant_conv.", "quantize.")
    assert {n for n, has in seen.items() if has} == {n for n in seen if not n.startswith(frozen)}


def test_ctrl_c_in_a_terminal_writes_a_checkpoint_and_leaves(root, tmp_path):
    """The real command, the real signal, to the whole process group as a terminal sends it."""
    command = [
        sys.executable, "-m", "training", "tokenizer", "--recipe", "tiny",
        "--data", str(root), "--out", str(tmp_path / "run"), "--set", "machine.threads=1",
        "phases.base.steps=100000", "log.metrics_every=1", "machine.num_workers=1",
        "phases.*.objective.perceptual_weight=0", "data.crop.size_px=32",
        "data.stream.batch_size=1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 120
    while not folder.metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert load_checkpoint(folder.checkpoint)["step"] == len(metrics(folder))
    assert events(folder)[-1] == "interrupted"
