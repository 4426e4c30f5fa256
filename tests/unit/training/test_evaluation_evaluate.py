"""The whole evaluation on small real pictures, every number computed again from the details."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from annotations_schema import FaceRegions, TextRegions, UsageError
from tests.evaluation_cases import (
    ASTRONAUT_LANDMARKS,
    add_words_column,
    blurred,
    edit_distance,
    english_g2,
    page_of_words,
)
from tests.training_datasets import Picture, photo, write_dataset
from training.checkpoint import save_checkpoint
from training.evaluation import EvaluateConfig, evaluate
from training.evaluation.aggregate import bin_index
from training.evaluation.fidelity import fidelity
from training.evaluation.protocol import frame, unframe
from training.models.tokenizer import CONFIGS, Tokenizer
from training.typed_config import to_plain

PAGES = (
    {
        "Market": (20, 20, 60),
        "OPEN": (20, 120, 40),
        "parking": (20, 200, 24),
        "tiny": (300, 280, 6),
    },
    {"Street": (30, 30, 48), "Café": (30, 120, 48), "Exit": (30, 220, 30)},
)


PLAIN = {"perceptual": "none", "fid": "none"}
"""Without networks for pictures."""
BARE = {**PLAIN, "text_recogniser": "none", "face_net": "none"}


def identity(image):
    return image


def smeared(image):
    return blurred(image, 4)


def portrait(image):
    faces = FaceRegions.from_landmarks(
        [[177, 56, 272, 176]], [0.99], [ASTRONAUT_LANDMARKS], *image.shape[1::-1]
    )
    return Picture(image, TextRegions.empty(), faces)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, astronaut):
    pages = [page_of_words(placed) for placed in PAGES]
    pictures = []
    for page, words in pages:
        boxes = np.array([word["box_xyxy"] for word in words], float)
        quads = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        regions = TextRegions.from_quads(quads, np.full(len(words), 0.9), *page.shape[1::-1])
        pictures.append(Picture(page, regions, FaceRegions.empty()))
    pictures += [
        portrait(astronaut),
        photo("coffee"),
        Picture(np.zeros((2, 2, 3), np.uint8), status="failed"),
    ]
    root = write_dataset(tmp_path_factory.mktemp("evaluate") / "dataset", pictures)
    outside = {"box_xyxy": [900, 900, 950, 950], "text": "gone"}
    empty = {"box_xyxy": [0, 0, 9, 9], "text": ""}
    add_words_column(root, [pages[0][1], [*pages[1][1], outside, empty], None, "[5]", None])
    return root


@pytest.fixture(scope="module")
def judged(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged") / "out"
    config = EvaluateConfig(data=(dataset,), bootstrap_resamples=50, batch_size=8)
    systems = {"identity": identity, "smeared": smeared}
    return evaluate([], out, config, tokenizers=systems), out


@pytest.fixture(scope="module")
def details(judged):
    return [json.loads(line) for line in (judged[1] / "details.jsonl").read_text().splitlines()]


def of(details, kind, system):
    return [row for row in details if row["kind"] == kind and row["system"] == system]


def test_rows_are_original_resize_only_and_the_given_systems(judged):
    names = [system.name for system in judged[0].systems]
    assert names == ["original", "resize only", "identity", "smeared"]


def test_an_identity_scores_exactly_as_resizing_alone(judged):
    result, _ = judged
    assert result.system("identity").metrics == result.system("resize only").metrics


def test_the_original_has_perfect_fidelity_and_face_similarity(judged):
    result, _ = judged
    assert result.metric("original", "PSNR").value == np.inf
    assert result.metric("original", "SSIM").value == 1.0
    assert result.metric("original", "F-Sim").value == pytest.approx(1.0)
    assert result.metric("original", "T-ACC").value > 0.8


def test_faces_survive_resizing_and_suffer_from_blur(judged):
    result, _ = judged
    assert result.metric("identity", "F-Sim").value > 0.99
    assert result.metric("smeared", "F-Sim").value < result.metric("identity", "F-Sim").value
    assert result.metric("smeared", "face distance").value > 0.3


def test_words_suffer_from_blur(judged):
    result, _ = judged
    assert result.metric("identity", "T-NED").value > result.metric("smeared", "T-NED").value + 0.3


def test_word_scores_agree_with_a_recomputation_from_what_was_read(judged, details):
    result, _ = judged
    for system in ("original", "resize only", "smeared"):
        rows = of(details, "word", system)
        ned = [
            1 - edit_distance(r["reference"], r["read"]) / max(len(r["reference"]), len(r["read"]))
            for r in rows
        ]
        np.testing.assert_allclose([r["similarity"] for r in rows], ned)
        for name, values in (
            ("T-NED", ned),
            ("T-ACC", [r["read"] == r["reference"] for r in rows]),
        ):
            bins = bin_index(np.array([r["ratio"] for r in rows]), (0.02, 0.03, 0.04, 1))
            means = [np.mean(np.array(values)[bins == b]) for b in range(3) if (bins == b).any()]
            metric = result.metric(system, name)
            assert metric.value == pytest.approx(np.mean(means))
            assert metric.plain_mean == pytest.approx(np.mean(values))
            assert metric.num + metric.num_outside == len(rows)


def test_ratios_are_those_of_the_protocol(details):
    words = page_of_words(PAGES[0])[1]
    (market,) = [r for r in of(details, "word", "original") if r["reference"] == "Market"]
    x0, y0, x1, y1 = words[0]["box_xyxy"]
    assert market["ratio"] == pytest.approx(max(x1 - x0, y1 - y0) / len("Market") / 480)


def test_readings_are_those_of_the_recogniser_on_the_protocols_crops(details):
    page, words = page_of_words(PAGES[0])
    square, framing = frame(page, 256)
    views = {"original": page, "smeared": unframe(smeared(square), framing)}
    for system, view in views.items():
        crops = [view[y0:y1, x0:x1] for x0, y0, x1, y1 in (w["box_xyxy"] for w in words)]
        read = [row["read"] for row in of(details, "word", system)][: len(words)]
        assert read == english_g2().read(crops)


def test_fidelity_agrees_with_a_recomputation(judged, details, astronaut):
    square, framing = frame(astronaut, 256)
    expected = fidelity(astronaut, unframe(smeared(square), framing))
    row = of(details, "image", "smeared")[2]
    assert (row["psnr_db"], row["ssim"]) == pytest.approx(expected)
    values = [r["psnr_db"] for r in of(details, "image", "smeared")]
    assert judged[0].metric("smeared", "PSNR").value == pytest.approx(np.mean(values))


def test_a_blur_is_far_away_for_networks_and_an_identity_is_not(judged):
    result, _ = judged
    assert result.metric("original", "VGG16 distance").value == 0.0
    assert result.metric("identity", "VGG16 distance").value == 0.0
    assert result.metric("smeared", "VGG16 distance").value > 0.5
    low, high = result.metric("smeared", "VGG16 distance").interval
    assert low < result.metric("smeared", "VGG16 distance").value < high
    assert result.metric("identity", "FD").value == 0.0
    assert result.metric("smeared", "FD").value > 10.0
    assert result.metric("smeared", "FD").interval is None
    assert "too few for 512 features" in result.metric_notes["FD"]
    assert not any(name.startswith(("rFID", "LPIPS")) for name in result.systems[0].metrics)


def test_differences_are_paired_and_to_the_first_tokenizer(judged, details):
    result, out = judged
    assert result.baseline == "identity"
    assert result.system("identity").differences == {}
    ned = result.system("smeared").differences["T-NED [easyocr_english_g2]"]
    ours, theirs = (result.metric(name, "T-NED").value for name in ("smeared", "identity"))
    assert ned.value == pytest.approx(ours - theirs)
    assert ned.interval[1] < 0
    psnr = result.system("smeared").differences["PSNR"]
    gaps = [
        a["psnr_db"] - b["psnr_db"]
        for a, b in zip(
            of(details, "image", "smeared"), of(details, "image", "identity"), strict=True
        )
    ]
    assert psnr.value == pytest.approx(np.mean(gaps))
    assert min(gaps) <= psnr.interval[0] < psnr.interval[1] <= max(gaps)
    fd = result.system("smeared").differences["FD [vgg16_keras relu5_3]"]
    assert fd == (result.metric("smeared", "FD").value, None)
    for name in ("table.txt", "report.html"):
        assert "difference to identity" in (out / name).read_text()


def test_everything_that_is_in_no_score_is_counted_and_named(judged):
    result, _ = judged
    assert result.problem_counts == {
        "word_empty": 1,
        "word_outside_alphabet": 1,
        "word_outside_image": 1,
        "words_invalid": 1,
    }
    assert result.counts["words_annotated"] == 9
    assert result.counts["words_judged"] == 6
    assert (result.counts["faces_annotated"], result.counts["faces_judged"]) == (1, 1)
    assert result.counts["manifest_rows_not_ok"] == 1
    (outside,) = [p for p in result.problems if p.code == "word_outside_alphabet"]
    assert "Café" in outside.detail


def test_a_substitute_network_is_part_of_the_metrics_name(judged):
    names = list(judged[0].systems[0].metrics)
    assert "T-ACC [easyocr_english_g2]" in names
    assert "F-Sim [dlib_resnet_v1]" in names
    assert "T-ACC" not in names


def test_the_result_file_is_plain_json_with_settings_and_hashes(judged):
    result, out = judged
    stored = json.loads((out / "result.json").read_text())
    assert stored["config"]["size"] == 256
    hashes = [network["weights_sha256"][:8] for network in stored["networks"]]
    assert hashes == ["e2272681", "55533b28", "3be917fb", "3be917fb"]
    assert 0 < stored["share_outside_networks"] < 1
    assert stored["images_per_s"] == pytest.approx(4 / stored["seconds"]["total"])
    assert stored["systems"][0]["metrics"]["PSNR"]["value"] == "inf"
    smeared_ned = stored["systems"][3]["metrics"]["T-NED [easyocr_english_g2]"]
    assert smeared_ned["value"] == result.metric("smeared", "T-NED").value
    assert smeared_ned["bins"][0]["low"] == 0.02
    assert stored["fidelity_settings"]["ssim"].startswith("skimage")
    assert stored["problems"][0]["code"] == "words_invalid"


def test_the_table_shows_every_row_bins_and_empty_bins(judged):
    text = (judged[1] / "table.txt").read_text()
    for expected in (
        "original",
        "resize only",
        "smeared",
        "empty",
        "n=",
        "1 word_outside_alphabet",
    ):
        assert expected in text
    assert "nan" not in text


def test_the_page_shows_the_words_that_changed_most_first(judged):
    page = (judged[1] / "report.html").read_text()
    assert page.count('<div class="region ') == 6 + 1
    assert page.count('<div class="region face">') == 1
    assert page.count("<img ") == (6 + 1) * 4
    assert "http" not in page.replace("http-equiv", "")
    changes = [float(part.split("<")[0]) for part in page.split("<br>change ")[1:]]
    words, faces = changes[:6], changes[6:]
    assert words == sorted(words, reverse=True)
    assert len(faces) == 1


def test_the_same_evaluation_again_gives_the_same_numbers(dataset, judged, tmp_path):
    config = EvaluateConfig(data=(dataset,), bootstrap_resamples=50, batch_size=64)
    again = evaluate([], tmp_path, config, tokenizers={"identity": identity, "smeared": smeared})
    first = judged[0]
    for ours, theirs in zip(first.systems, again.systems, strict=True):
        assert json.dumps(ours.metrics) == json.dumps(theirs.metrics)
    details = [(folder / "details.jsonl").read_text() for folder in (judged[1], tmp_path)]
    assert details[0] == details[1]


def test_checkpoints_jpeg_and_codebook_usage_share_one_table(dataset, tmp_path, capsys):
    torch.manual_seed(0)
    tokenizer = Tokenizer(CONFIGS["tiny"])
    state = {"model": tokenizer.state_dict(), "config": {"tokenizer": to_plain(CONFIGS["tiny"])}}
    path = tmp_path / "base" / "checkpoint.pt"
    save_checkpoint(path, state)
    config = EvaluateConfig(data=(dataset,), jpeg=True, untrained=True, max_images=2, **BARE)
    result = evaluate([path], tmp_path / "out", config, tokenizers={"smeared": smeared})
    f = tokenizer.downsampling
    bits = (256 // f) ** 2 * 10  # 1024 codes
    names = [system.name for system in result.systems]
    jpeg = f"JPEG within {bits} bits"
    assert names == ["original", "resize only", jpeg, "untrained", "base", "smeared"]
    assert result.system("base").bits == result.system("untrained").bits == bits
    assert 0.5 * bits < result.system(jpeg).bits <= bits
    assert result.system("resize only").bits is None
    assert result.baseline == "base"
    usage = result.system("base").codebook
    assert usage.num_tokens == 2 * (256 // f) ** 2
    assert 0 < usage.used_fraction <= 1
    assert result.system("resize only").codebook is None
    assert len(result.checkpoints["base"]) == 64
    assert set(result.systems[0].metrics) == {"PSNR", "SSIM"}
    shown = capsys.readouterr().err
    assert "codes used" in shown
    assert f"{result.system(jpeg).bits:.0f}" in shown
    assert "text: left out (text_recogniser none)" in shown


def test_without_transcriptions_the_table_says_so(tmp_path, capsys):
    root = write_dataset(tmp_path / "d", [photo("coffee")])
    config = EvaluateConfig(data=(root,), bootstrap_resamples=5, **PLAIN)
    result = evaluate([], tmp_path / "out", config)
    shown = capsys.readouterr().err
    assert "no transcriptions: the data has no column input_words" in shown
    assert "--text-reference original" in shown
    assert "no faces" in shown
    assert result.metric("resize only", "T-ACC").value is None


def test_reading_the_original_can_stand_in_for_transcriptions(dataset, tmp_path):
    config = EvaluateConfig(
        data=(dataset,), text_reference="original", face_net="none", bootstrap_resamples=5, **PLAIN
    )
    result = evaluate([], tmp_path, config, tokenizers={"smeared": smeared})
    assert "T-NED(original) [easyocr_english_g2]" in result.systems[0].metrics
    assert not any(name.startswith("T-NED [") for name in result.systems[0].metrics)
    assert result.metric("original", "T-ACC").value == 1.0
    assert result.metric("smeared", "T-NED").value < 0.7
    assert result.counts["words_annotated"] == 7  # every detected box, also the one reading "Café"


def test_refining_leaves_out_what_the_original_does_not_read(dataset, judged, tmp_path):
    config = EvaluateConfig(
        data=(dataset,), refine=True, face_net="none", bootstrap_resamples=5, size=1024, **PLAIN
    )
    result = evaluate([], tmp_path, config)
    details = (judged[1] / "details.jsonl").read_text().splitlines()
    original = of([json.loads(line) for line in details], "word", "original")
    unread = sum(row["read"] != row["reference"] for row in original)
    assert unread >= 1  # the smallest word
    assert result.problem_counts["word_unreadable_in_original"] == unread
    assert result.counts["words_judged"] == 6 - unread
    assert result.metric("original", "T-ACC").plain_mean == 1.0


def test_unreadable_images_are_rows_and_the_rest_is_judged(tmp_path, coffee):
    Image.fromarray(coffee).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("<html>")
    size = {"width": coffee.shape[1], "height": coffee.shape[0]}
    entries = [
        {"file_name": n, **size, "annotations": []} for n in ("bad.jpg", "good.png", "no.jpg")
    ]
    annotations = tmp_path / "text.json"
    annotations.write_text(json.dumps(entries))
    config = EvaluateConfig(
        tokbench=(annotations,),
        tokbench_images=(tmp_path,),
        bootstrap_resamples=5,
        **BARE,
    )
    result = evaluate([], tmp_path / "out", config)
    assert (result.counts["images"], result.counts["images_unreadable"]) == (1, 2)
    assert result.problem_counts == {"image_unreadable": 1, "not_an_image": 1}
    assert [problem.image_id for problem in result.problems] == ["bad.jpg", "no.jpg"]

    annotations.write_text(json.dumps(entries[:1]))
    with pytest.raises(UsageError, match="none of 1 images can be read"):
        evaluate([], tmp_path / "out2", config)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "no data given"),
        ({"size": 300}, "size 300 has no ratio bins"),
        ({"face_bins": "mine"}, "face_bins 'mine' does not exist"),
        ({"confidence": 1.0}, "confidence 1.0 must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"text_recogniser": "mine"}, "text recogniser 'mine' does not exist"),
        ({"face_net": "mine"}, "face net 'mine' does not exist"),
        ({"tokbench": ("a.json",)}, "1 TokBench files and 0 image folders"),
        ({"jpeg": True}, "--jpeg needs a checkpoint"),
        ({"untrained": True}, "--untrained needs a checkpoint"),
        ({"perceptual": "mine"}, "perceptual net 'mine' does not exist"),
        ({"fid": "mine"}, "fid net 'mine' does not exist"),
        ({"peers": ("original=os.path:abspath",)}, "'original' is taken"),
    ],
)
def test_misuse_is_one_clear_line_and_writes_nothing(dataset, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        evaluate([], tmp_path / "out", EvaluateConfig(**{"data": (dataset,), **BARE, **changes}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_may_not_take_the_name_of_a_reference_row(dataset, tmp_path):
    config = EvaluateConfig(data=(dataset,), **BARE)
    with pytest.raises(UsageError, match="'original' is taken"):
        evaluate([], tmp_path / "out", config, tokenizers={"original": identity})


def test_importing_the_evaluation_loads_no_judge():
    import subprocess
    import sys

    code = (
        "import sys, training.evaluation, training.reconstruct\n"
        "heavy = {'ray', 'cv2', 'insightface', 'doctr', 'easyocr', 'dlib', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
