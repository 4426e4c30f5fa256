import json

import numpy as np
import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import sha256_file
from training.evaluation.aggregate import Bootstrap
from training.evidence.page import markdown, verdict
from training.evidence.pieces import OutOfTimeError, forget_if_of_others, run_pieces
from training.evidence.plan import (
    ARMS,
    SCALES,
    Piece,
    arm_pieces,
    base_piece,
    judging_pieces,
    run_name,
    runs,
)
from training.evidence.scores import difference, mean_of_bins, read_scores

BOOTSTRAP = Bootstrap(200, 0.95, 0)


def judged(folder, systems, seed=0, better=()):
    """Details of 20 images with two words and a face each; `better` systems gain 0.2."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.2, 0.6, (20, 3))
    rows = []
    for system in systems:
        gain = 0.2 if system in better else 0.0
        for i in range(20):
            image = {"system": system, "image_id": f"{i}"}
            rows.append({"kind": "image", **image, "psnr_db": 25.0 + gain / 2, "ssim": 0.8})
            for j in range(2):
                score = {"similarity": base[i, j] + gain, "is_exact": bool(base[i, j] > 0.5)}
                rows.append({"kind": "word", **image, "ratio": 0.025 + 0.02 * j, **score})
            face = {"similarity": base[i, 2] + gain, "distance": 0.5 - gain, "ratio": 0.3}
            rows.append({"kind": "face", **image, **face})
    (folder / "details.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SYSTEMS = ["original", "resize only", "base", *runs(2)]
D = [run_name("d", seed) for seed in range(2)]
A = [run_name("a", seed) for seed in range(2)]


def test_arms_differ_from_the_first_in_their_loss_alone(tmp_path):
    pieces = {p.name: p for p in arm_pieces(SCALES["cpu"], (tmp_path,), (), tmp_path, 2)}

    def settings(name):
        return [a for a in pieces[name].arguments if "objective" not in a and "/" not in a]

    assert set(pieces) == set(runs(2))
    assert all(settings(run_name(arm.letter, 0)) == settings("a_seed0") for arm in ARMS)
    assert settings("d_seed1") == settings("a_seed1") != settings("a_seed0")
    assert not any("objective" in argument for argument in pieces["a_seed0"].arguments)


def test_all_arms_start_from_the_base_and_are_judged_together(tmp_path):
    scale = SCALES["cpu"]
    base = base_piece(scale, (tmp_path,), (1.0,), tmp_path)
    start = str(tmp_path / "base" / "checkpoint.pt")

    assert "--init" not in base.arguments
    for piece in arm_pieces(scale, (tmp_path,), (), tmp_path, 3):
        assert piece.arguments[piece.arguments.index("--init") + 1] == start
    (judging,) = judging_pieces(scale, (tmp_path / "faces",), tmp_path, 3)
    assert len([a for a in judging.arguments if a.endswith("checkpoint.pt")]) == 1 + len(runs(3))


def test_a_difference_is_paired_by_region_and_its_interval_holds_the_gain(tmp_path):
    scores = read_scores([judged(tmp_path / "judged_x", SYSTEMS, better=D)])["T-NED"]

    gap = difference(scores, D, A, BOOTSTRAP)

    assert gap.value == pytest.approx(0.2)
    # Regions differ by much more than 0.2, but each is compared with itself.
    assert gap.low == pytest.approx(0.2)
    assert gap.high == pytest.approx(0.2)
    assert gap.per_seed == pytest.approx((0.2, 0.2))


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    scores = read_scores([judged(tmp_path / "judged_x", SYSTEMS, better=D[:1])])["T-NED"]

    gap = difference(scores, D, A, BOOTSTRAP)

    assert gap.value == pytest.approx(0.1)
    assert gap.low == pytest.approx(0.0)
    assert gap.high == pytest.approx(0.2)


def test_the_headline_is_the_mean_of_the_bins_that_hold_a_region(tmp_path):
    scores = read_scores([judged(tmp_path / "judged_x", SYSTEMS)])["T-NED"]
    small = scores.values["base"][scores.ratio < 0.03].mean()
    large = scores.values["base"][scores.ratio > 0.03].mean()

    found = mean_of_bins(scores, ["base"], (0.02, 0.03, 0.04, 1.0))

    assert found == pytest.approx((small + large) / 2)


def test_datasets_are_pooled_and_images_of_one_name_stay_apart(tmp_path):
    folders = [judged(tmp_path / f"judged_{n}", SYSTEMS, seed=n) for n in range(2)]

    scores = read_scores(folders)

    assert len(scores["T-NED"].image) == 80
    assert len(set(scores["T-NED"].image.tolist())) == 40
    assert len(scores["F-Sim"].only("judged_1").image) == 20


def test_folders_that_judged_different_systems_are_refused(tmp_path):
    folders = [judged(tmp_path / "judged_0", SYSTEMS), judged(tmp_path / "judged_1", SYSTEMS[:4])]

    with pytest.raises(UsageError, match="judged different checkpoints"):
        read_scores(folders)


@pytest.mark.parametrize("better", [D, []])
def test_the_verdict_follows_the_numbers(tmp_path, better):
    scores = read_scores([judged(tmp_path / "judged_x", SYSTEMS, better=better)])
    against = {name: {"text": 1.0, "face": 2.0, "perceptual": 3.0} for name in SYSTEMS[2:]}

    found = verdict(scores, 2, BOOTSTRAP)
    page = markdown(scores, against, SCALES["cpu"], 2, BOOTSTRAP, ["a fact"])

    assert (found.text, found.face) == (bool(better), bool(better))
    assert found.fidelity
    assert page.count("**yes**") == (3 if better else 1)
    assert "20 images, 40 words, 20 faces" in page


def test_a_piece_that_fails_is_named_with_its_log(tmp_path):
    piece = Piece(name="bad", arguments=("recipes", "--nonsense"), done=tmp_path / "never")

    with pytest.raises(UsageError, match=r"bad ended with exit code 2: .*logs/bad\.log"):
        run_pieces([piece], tmp_path, 1, None, 1)


def test_what_is_done_is_not_done_again_and_no_time_starts_nothing(tmp_path, capsys):
    done = Piece(name="old", arguments=("recipes", "--nonsense"), done=tmp_path)
    new = Piece(name="new", arguments=("recipes", "--nonsense"), done=tmp_path / "never")

    run_pieces([done], tmp_path, 1, None, 1)
    with pytest.raises(OutOfTimeError):
        run_pieces([new], tmp_path, 1, 0.0, 1)

    assert capsys.readouterr().err == "evidence: old: done before\n"


def test_a_judgement_of_checkpoints_that_are_no_more_is_forgotten(tmp_path):
    checkpoint, result = tmp_path / "checkpoint.pt", tmp_path / "result.json"
    checkpoint.write_bytes(b"first")
    result.write_text(json.dumps({"checkpoints": {"a": sha256_file(checkpoint)}}))

    forget_if_of_others(result, {"a": checkpoint})
    assert result.exists()
    checkpoint.write_bytes(b"trained again")
    forget_if_of_others(result, {"a": checkpoint})
    assert not result.exists()
