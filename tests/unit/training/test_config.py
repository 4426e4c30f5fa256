"""Configurations as plain data and back, overrides by key, and values that are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from annotations_schema import UsageError
from tests.training_micro import PLAIN, micro, three_phases
from training.config import LogConfig, OptimizerConfig, Phase, TrainConfig
from training.machine import MachineConfig
from training.recipes import RECIPES
from training.run_folder import identity_of
from training.typed_config import from_plain, to_plain, with_overrides


@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_survives_json(name):
    config = RECIPES[name]()
    assert from_plain(TrainConfig, json.loads(json.dumps(to_plain(config)))) == config


def test_paths_and_absent_values_survive_json():
    config = micro()
    config = replace(config, nets=replace(config.nets, text_path=Path("/x/y"), text_width=96))
    assert from_plain(TrainConfig, json.loads(json.dumps(to_plain(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda p: p.pop("seed"), "expected", id="missing-key"),
        pytest.param(lambda p: p.update(colour=1), "expected", id="unknown-key"),
        pytest.param(lambda p: p.update(seed="1"), "expected type int", id="wrong-type"),
        pytest.param(lambda p: p.update(precision="float8"), "is none of", id="not-allowed"),
        pytest.param(lambda p: p.update(phases=3), "expected a list", id="not-a-list"),
        pytest.param(lambda p: p.update(data=3), "a group of values", id="not-a-group"),
    ],
)
def test_plain_data_that_is_no_configuration_is_refused(change, message):
    plain = to_plain(micro())
    change(plain)
    with pytest.raises(UsageError, match=message):
        from_plain(TrainConfig, plain)


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        pytest.param("seed=7", lambda c: c.seed == 7, id="int"),
        pytest.param("ema_decay=0.5", lambda c: c.ema_decay == 0.5, id="float"),
        pytest.param("recipe=mine", lambda c: c.recipe == "mine", id="str"),
        pytest.param("precision=bfloat16", lambda c: c.precision == "bfloat16", id="literal"),
        pytest.param(
            "data.images_root=/a/b", lambda c: c.data.images_root == Path("/a/b"), id="path"
        ),
        pytest.param("data.images_root=none", lambda c: c.data.images_root is None, id="none"),
        pytest.param(
            "optimizer.betas=0.5,0.9", lambda c: c.optimizer.betas == (0.5, 0.9), id="pair"
        ),
        pytest.param(
            "tokenizer.autoencoder.channel_multipliers=(1,2,2)",
            lambda c: c.tokenizer.autoencoder.channel_multipliers == (1, 2, 2),
            id="tuple",
        ),
        pytest.param(
            "nets.text_layers=stage1,stage2",
            lambda c: c.nets.text_layers == ("stage1", "stage2"),
            id="optional-tuple",
        ),
        pytest.param(
            "tokenizer.autoencoder.attention_levels=",
            lambda c: c.tokenizer.autoencoder.attention_levels == (),
            id="empty-tuple",
        ),
        pytest.param(
            "phases.regions.steps=9", lambda c: [p.steps for p in c.phases] == [2, 9, 2], id="name"
        ),
        pytest.param(
            "phases.2.steps=9", lambda c: [p.steps for p in c.phases] == [2, 2, 9], id="position"
        ),
        pytest.param(
            "phases.*.objective.perceptual_weight=0.25",
            lambda c: [p.objective.perceptual_weight for p in c.phases] == [0.25] * 3,
            id="star",
        ),
        pytest.param(
            "phases.decoder.train_encoder=true", lambda c: c.phases[2].train_encoder, id="bool"
        ),
    ],
)
def test_an_override_is_typed_and_changes_one_thing(assignment, read):
    before = three_phases()
    after = with_overrides(before, [assignment])
    assert read(after)
    assert not read(before) or after == before


def test_overrides_apply_from_left_to_right():
    assert with_overrides(micro(), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        pytest.param("seed", "key=value", id="no-value"),
        pytest.param("sead=1", "unknown key 'sead'; did you mean seed", id="unknown-key"),
        pytest.param("data.crop.size=1", "did you mean size_px", id="unknown-key-below"),
        pytest.param("zzz=1", "known: recipe, tokenizer", id="nothing-near"),
        pytest.param("seed=one", "not of type int", id="not-a-number"),
        pytest.param("phases.base.train_encoder=maybe", "true or false", id="not-a-truth-value"),
        pytest.param("precision=float8", "none of float32, bfloat16", id="not-allowed"),
        pytest.param("optimizer.betas=0.5", "takes 2 values, 1 are given", id="too-few"),
        pytest.param("data.crop=3", "it is a group", id="a-group"),
        pytest.param("seed.more=3", "seed is a single value", id="below-a-value"),
        pytest.param("phases.bass.steps=3", "none of base, regions, decoder", id="no-such-phase"),
        pytest.param("phases.9.steps=3", "none of base", id="no-such-position"),
        pytest.param("seed=-1", "must not be negative", id="outside-its-range"),
    ],
)
def test_a_bad_override_is_one_clear_line(assignment, message):
    with pytest.raises(UsageError, match=message) as caught:
        with_overrides(three_phases(), [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: Phase(name="a", steps=0), "steps=0", id="no-steps"),
        pytest.param(lambda: Phase(name="a/b", steps=1), "letters, digits", id="phase-name"),
        pytest.param(lambda: replace(micro(), phases=()), "at least one", id="no-phases"),
        pytest.param(
            lambda: micro(Phase(name="a", steps=1), Phase(name="a", steps=1)), "differ", id="twice"
        ),
        pytest.param(lambda: replace(micro(), ema_decay=1.0), "ema_decay", id="ema"),
        pytest.param(lambda: OptimizerConfig(learning_rate=0), "above 0", id="rate"),
        pytest.param(lambda: MachineConfig(micro_batch=0), "at least 1", id="micro-batch"),
        pytest.param(lambda: MachineConfig(threads=-1), "at least 0", id="threads"),
        pytest.param(
            lambda: MachineConfig(checkpoint_levels=(-1,)), "count from 0", id="checkpoint-levels"
        ),
        pytest.param(lambda: LogConfig(metrics_every=0), "metrics_every", id="log"),
        pytest.param(
            lambda: with_overrides(micro(), ["data.crop.size_px=33"]), "choose 32", id="crop-size"
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_the_machine_is_no_part_of_what_a_run_is():
    here = micro()
    machine = MachineConfig(device="cuda", threads=3, num_workers=7, micro_batch=1, compile=True)
    elsewhere = replace(here, machine=machine)
    assert identity_of(here, {}, {}) == identity_of(elsewhere, {}, {})
    assert identity_of(here, {}, {}) != identity_of(replace(here, seed=1), {}, {})


def test_steps_belong_to_phases():
    config = micro(*(Phase(name=n, steps=s, objective=PLAIN) for n, s in (("a", 3), ("b", 2))))
    places = [config.phase_at(step) for step in range(5)]
    assert [(p.number, p.phase.name, p.step) for p in places] == [
        (0, "a", 0), (0, "a", 1), (0, "a", 2), (1, "b", 0), (1, "b", 1),
    ]  # fmt: skip
    assert config.total_steps == 5
    with pytest.raises(ValueError, match="step 5 is outside"):
        config.phase_at(5)
