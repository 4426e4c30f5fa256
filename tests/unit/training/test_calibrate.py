"""Calibration: gradients of real losses on real pictures, proposals that keep their promise."""

import json
from dataclasses import replace

import pytest
import torch

from annotations_schema.errors import UsageError
from tests.training_datasets import few_pictures, photo, portrait, write_dataset
from tests.training_micro import PLAIN, REGIONS, micro, three_phases
from training.calibrate import CalibrateConfig, calibrate
from training.checkpoint import save_checkpoint
from training.cli import main
from training.config import Phase
from training.state import checkpoint_of, initial_state
from training.typed_config import with_overrides

MICRO = micro(Phase(name="regions", steps=1, objective=REGIONS, images="with_regions"))
ONE = CalibrateConfig(batches=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", few_pictures(96))


@pytest.fixture(scope="module")
def measured(root):
    config = with_overrides(MICRO, ["data.stream.batch_size=4"])
    return calibrate(config, [root], CalibrateConfig(batches=3))


def save_initial(config, path):
    save_checkpoint(path, checkpoint_of(initial_state(config, CPU), config))
    return path


def test_gradients_are_measured_at_their_true_length(measured):
    # A mean of N absolute differences has N slopes of 1 / N.
    expected = (4 * 3 * 32 * 32) ** -0.5
    assert measured.norms["all"]["reconstruction"].median == pytest.approx(expected, rel=0.01)
    assert measured.norms["with_text"]["text"].median > 0
    assert measured.norms["with_face"]["face"].median > 0
    assert measured.images["all"] == 12
    assert 0 < measured.images["with_text"] < 12
    assert 0 < measured.images["with_face"] < 12


@pytest.mark.parametrize("term", ["text", "face"])
def test_the_proposed_weight_makes_the_gradient_as_long_as_asked(root, term):
    config = with_overrides(MICRO, ["data.stream.batch_size=4"])
    one = calibrate(config, [root], CalibrateConfig(batches=1, target=0.25))

    for subset in ("all", f"with_{term}"):
        norms, weight = one.norms[subset], one.weights[subset][f"{term}_weight"].median
        assert weight * norms[term].median == pytest.approx(0.25 * norms["reconstruction"].median)
    proposed = dict(assignment.split("=") for assignment in one.assignments)
    weight = one.weights[f"with_{term}"][f"{term}_weight"].median
    assert float(proposed[f"phases.regions.objective.{term}_weight"]) == pytest.approx(
        weight, rel=0.005
    )


def test_proposals_can_be_set(measured):
    config = with_overrides(MICRO, measured.assignments)

    weight = config.phases[0].objective.text_weight
    assert weight == pytest.approx(measured.weights["with_text"]["text_weight"].median, rel=0.005)


def test_the_loss_on_whole_images_gets_a_proposal_from_all_of_them(root):
    config = with_overrides(
        MICRO,
        ["phases.*.objective.text_weight=0", "phases.*.objective.face_weight=0",
         "phases.*.objective.global_text_weight=1", "nets.global_text_layers=stem,stage1",
         "data.stream.batch_size=4"],
    )  # fmt: skip

    one = calibrate(config, [root], CalibrateConfig(batches=1, target=0.25))

    norms, weight = one.norms["all"], one.weights["all"]["global_text_weight"].median
    assert weight * norms["global_text"].median == pytest.approx(
        0.25 * norms["reconstruction"].median
    )
    assert one.assignments == (f"phases.regions.objective.global_text_weight={weight:.3g}",)


def test_the_reference_is_the_perceptual_loss_at_its_weight_where_there_is_one(root):
    config = with_overrides(
        MICRO,
        ["phases.*.objective.perceptual_weight=0.1", "phases.*.objective.face_weight=0",
         "nets.perceptual_layers=relu1_2", "data.stream.batch_size=4"],
    )  # fmt: skip
    one = calibrate(config, [root], ONE)

    norms = one.norms["with_text"]
    weight = one.weights["with_text"]["text_weight"].median
    assert one.reference == "perceptual"
    assert weight * norms["text"].median == pytest.approx(0.5 * 0.1 * norms["perceptual"].median)
    assert "face" not in norms
    assert [a.partition("=")[0] for a in one.assignments] == [
        "phases.regions.objective.text_weight"
    ]


def test_channel_reduction_and_banner_size_of_the_recipe_are_measured(root, measured):
    for change in ("channel_reduction=mean", "banner_size=16,64"):
        config = with_overrides(MICRO, [f"phases.*.objective.{change}", "data.stream.batch_size=4"])
        other = calibrate(config, [root], CalibrateConfig(batches=3))
        assert other.norms["with_text"]["text"] != measured.norms["with_text"]["text"]
        assert other.norms["all"]["reconstruction"] == measured.norms["all"]["reconstruction"]


def test_without_region_weights_the_last_phase_is_measured_with_both(root):
    base = micro(Phase(name="base", steps=1, objective=PLAIN, images="with_regions"))
    config = with_overrides(base, ["data.stream.batch_size=8"])

    one = calibrate(config, [root], ONE)

    assert one.phase == "base"
    assert len(one.assignments) == 2


def test_a_checkpoint_is_measured_on_its_reconstructions_with_its_discriminator(
    root, tmp_path, measured
):
    config = with_overrides(MICRO, ["data.stream.batch_size=4"])
    path = save_initial(config, tmp_path / "checkpoint.pt")

    other = calibrate(config, [root], CalibrateConfig(batches=3, checkpoint=path))

    assert other.measured_on == f"reconstructions of {path}"
    assert "blurred" in measured.measured_on
    assert other.norms["all"]["adversarial"].median > 0
    assert "adversarial" not in measured.norms["all"]
    assert other.norms["with_text"]["text"] != measured.norms["with_text"]["text"]
    assert other.images == measured.images


def test_data_without_the_region_is_refused(tmp_path):
    faces = write_dataset(tmp_path / "faces", [portrait(96)])
    nothing = write_dataset(tmp_path / "nothing", [photo("chelsea", 96)])

    with pytest.raises(UsageError, match=r"sets text_weight, but no image .* has a text region"):
        calibrate(MICRO, [faces], ONE)
    with pytest.raises(UsageError, match=r"sets text_weight, but no image"):
        calibrate(micro(), [nothing], ONE)


def test_windows_that_miss_every_region_are_told_apart_from_data_without(root):
    config = with_overrides(MICRO, ["data.crop.min_text_px=31", "data.crop.min_face_px=31"])

    with pytest.raises(UsageError, match=r"no window that was measured shows a text region.*--bat"):
        calibrate(config, [root], ONE)


def test_a_checkpoint_of_another_architecture_is_refused_by_what_differs(root, tmp_path):
    wide = replace(MICRO.tokenizer.autoencoder, channels=16)
    other = replace(MICRO, tokenizer=replace(MICRO.tokenizer, autoencoder=wide))
    path = save_initial(other, tmp_path / "checkpoint.pt")

    with pytest.raises(UsageError, match=r"recipe micro: autoencoder\.channels is 16, not 8; name"):
        calibrate(MICRO, [root], CalibrateConfig(checkpoint=path))


def test_settings_that_change_no_shape_do_not_refuse_a_checkpoint(root, tmp_path):
    path = save_initial(MICRO, tmp_path / "checkpoint.pt")
    slow = replace(MICRO.tokenizer.quantizer, decay=0.5)
    config = replace(MICRO, tokenizer=replace(MICRO.tokenizer, quantizer=slow))
    config = with_overrides(config, ["data.stream.batch_size=8"])

    assert calibrate(config, [root], CalibrateConfig(batches=1, checkpoint=path)).images["all"] == 8


@pytest.mark.parametrize("option", [{"batches": 0}, {"target": -1.0}, {"target": float("inf")}])
def test_impossible_options_are_refused(option):
    with pytest.raises(UsageError, match=f"--{next(iter(option))} "):
        CalibrateConfig(**option)


SMALL = ("data.crop.size_px=32", "data.stream.batch_size=8", "machine.threads=1",
         "phases.*.objective.perceptual_weight=0")  # fmt: skip


def test_the_command_prints_a_table_and_writes_what_it_found(root, tmp_path, capsys):
    out = tmp_path / "calibration.json"
    arguments = ["calibrate", "--recipe", "tiny_regions", "--data", str(root), "--batches", "2"]

    assert main([*arguments, "--out", str(out), "--json", "--set", *SMALL]) == 0

    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert json.loads(out.read_text()) == found
    assert f"--set {' '.join(found['assignments'])}\n" in printed.err
    median = found["norms"]["with_text"]["text"]["median"]
    assert f"{median:.3g} (" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint", "{junk}"), "is no tokenizer checkpoint"),
        (("--checkpoint", "{junk}.not"), "no such checkpoint"),
        (("--set", "nets.text_path={junk}"), "sha256"),
        (("--set", "nets.face=nobody"), "nobody"),
        (("--batches", "0"), "--batches 0 must be at least 1"),
        (("--set", "phases.*.objective.text_weight=-1"), "text_weight -1.0 must be at least 0"),
        (("--set", "phases.*.objective.generator_loss=wgan"), "'wgan' is none of hinge"),
    ],
)
def test_misuse_ends_with_one_line_and_writes_nothing(root, tmp_path, capsys, arguments, message):
    junk = tmp_path / "junk"
    junk.write_bytes(b"something else")
    typed = [word.format(junk=junk) for word in arguments]
    out = tmp_path / "out.json"
    command = ["calibrate", "--recipe", "tiny_regions", "--data", str(root), "--out", str(out)]

    assert main([*command, *typed]) == 2

    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_every_phase_with_region_losses_gets_the_proposal(root):
    config = with_overrides(three_phases(), ["data.stream.batch_size=8"])

    one = calibrate(config, [root], ONE)

    keys = [assignment.partition("=")[0] for assignment in one.assignments]
    assert keys == [
        f"phases.{phase}.objective.{term}_weight"
        for phase in ("regions", "decoder")
        for term in ("text", "face")
    ]
