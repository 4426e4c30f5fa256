"""Every number of a small evaluation computed again in plain loops that share no code with it."""

import json
import math

import numpy as np
import pytest

from annotations_schema import FaceRegions, TextRegions
from tests.conftest import read_photo
from tests.evaluation_cases import (
    ASTRONAUT_LANDMARKS,
    HOPPER_LANDMARKS,
    add_words_column,
    blurred,
    dlib_resnet,
    edit_distance,
    page_of_words,
)
from tests.training_datasets import Picture, write_dataset
from training.evaluation import EvaluateConfig, evaluate
from training.evaluation.fidelity import ssim
from training.evaluation.protocol import frame, unframe

PAGES = (
    {
        "Market": (20, 20, 60),
        "OPEN": (20, 120, 40),
        "parking": (20, 200, 24),
        "way": (300, 250, 16),
    },
    {"Street": (30, 30, 48), "hotel": (30, 120, 34), "Exit": (30, 220, 20)},
    {"coffee": (30, 60, 22), "TAXI": (30, 160, 28), "street": (200, 250, 18)},
)
PEOPLE = (
    (("skimage", "data/astronaut.png"), ASTRONAUT_LANDMARKS, (177, 56, 272, 176)),
    (
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        HOPPER_LANDMARKS,
        (180, 90, 340, 330),
    ),
)
SYSTEMS = ("original", "resize only", "smeared")
TEXT_EDGES = ((0.02, 0.03), (0.03, 0.04), (0.04, 1.0))
FACE_EDGES = ((0.0, 0.1), (0.1, 0.2), (0.2, 1.0))
RESAMPLES, SEED = 40, 3


def smeared(image):
    return blurred(image, 2)


@pytest.fixture(scope="module")
def pages():
    return [page_of_words(placed) for placed in PAGES]


@pytest.fixture(scope="module")
def result_and_details(pages, tmp_path_factory):
    pictures = [Picture(page, TextRegions.empty(), FaceRegions.empty()) for page, _ in pages]
    for photo, landmarks, box in PEOPLE:
        image = read_photo(*photo)
        faces = FaceRegions.from_landmarks([box], [0.9], [landmarks], *image.shape[1::-1])
        pictures.append(Picture(image, TextRegions.empty(), faces))
    folder = tmp_path_factory.mktemp("recomputed")
    root = write_dataset(folder / "dataset", pictures)
    add_words_column(root, [*(words for _, words in pages), None, None])
    config = EvaluateConfig(
        data=(root,), perceptual="none", fid="none", bootstrap_resamples=RESAMPLES, seed=SEED
    )
    result = evaluate([], folder / "out", config, tokenizers={"smeared": smeared})
    lines = (folder / "out" / "details.jsonl").read_text().splitlines()
    return result, [json.loads(line) for line in lines]


def headline(rows, edges):
    """The unweighted mean of the means of the bins that hold something; None where none does."""
    means = []
    for low, high in edges:
        inside = [value for value, ratio, _ in rows if low <= ratio < high]
        if inside:
            means.append(sum(inside) / len(inside))
    return sum(means) / len(means) if means else None


def interval(rows, edges):
    """Quantiles 2.5 and 97.5 % of the headline over images drawn with replacement."""
    rows = [row for row in rows if any(low <= row[1] < high for low, high in edges)]
    images = list(dict.fromkeys(image for _, _, image in rows))
    rng, found = np.random.default_rng(SEED), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(images), size=len(images))
        found.append(
            headline([row for index in drawn for row in rows if row[2] == images[index]], edges)
        )
    return np.quantile(found, [0.025, 0.975])


def of_kind(details, kind, system):
    return [row for row in details if row["kind"] == kind and row["system"] == system]


def agrees(metric, rows, edges):
    assert metric.value == pytest.approx(headline(rows, edges), abs=1e-12)
    np.testing.assert_allclose(metric.interval, interval(rows, edges), atol=1e-12)


@pytest.mark.parametrize("system", SYSTEMS)
def test_text_scores_from_what_was_read(result_and_details, pages, system):
    result, details = result_and_details
    rows = of_kind(details, "word", system)
    placed = [(word, page.shape) for page, words in pages for word in words]
    assert [row["reference"] for row in rows] == [word["text"] for word, _ in placed]
    exact, near = [], []
    for row, (word, shape) in zip(rows, placed, strict=True):
        x0, y0, x1, y1 = word["box_xyxy"]
        ratio = max(x1 - x0, y1 - y0) / len(word["text"]) / max(shape[0], shape[1])
        longest = max(len(word["text"]), len(row["read"]))
        exact.append((float(row["read"] == word["text"]), ratio, row["image_id"]))
        distance = edit_distance(word["text"], row["read"])
        near.append((1 - distance / longest, ratio, row["image_id"]))
    filled = [any(low <= ratio < high for _, ratio, _ in exact) for low, high in TEXT_EDGES]
    assert filled == [True, True, True]
    agrees(result.metric(system, "T-ACC"), exact, TEXT_EDGES)
    agrees(result.metric(system, "T-NED"), near, TEXT_EDGES)


@pytest.mark.parametrize("system", SYSTEMS)
def test_face_scores_from_the_embeddings_of_the_reconstructions(result_and_details, system):
    from annotations_schema.geometry import fit_similarity, warp_affine

    result, details = result_and_details
    net, rows = dlib_resnet(), []
    ids = [row["image_id"] for row in of_kind(details, "face", system)]
    for image_id, (photo, landmarks, (x0, y0, x1, y1)) in zip(ids, PEOPLE, strict=True):
        image = read_photo(*photo)
        matrix = fit_similarity(landmarks, net.template).matrix
        views = [image, reconstructed(image, system)]
        a, b = net.embed([warp_affine(view, matrix, (150, 150)) for view in views])
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        cosine = sum(x * y for x, y in zip(a, b, strict=True)) / lengths
        rows.append((cosine, max(x1 - x0, y1 - y0) / max(image.shape), image_id))
    agrees(result.metric(system, "F-Sim"), rows, FACE_EDGES)


def reconstructed(image, system):
    if system == "original":
        return image
    square, framing = frame(image, 256)
    return unframe(smeared(square) if system == "smeared" else square, framing)


@pytest.mark.parametrize("system", ["resize only", "smeared"])
def test_fidelity_from_the_pixels(result_and_details, pages, system):
    result, details = result_and_details
    pictures = [page for page, _ in pages] + [read_photo(*photo) for photo, _, _ in PEOPLE]
    rows = of_kind(details, "image", system)
    psnr = []
    for image, row in zip(pictures, rows, strict=True):
        error = image.astype(float) - reconstructed(image, system).astype(float)
        psnr.append((10 * math.log10(255**2 / np.mean(error**2)), 0.5, row["image_id"]))
    np.testing.assert_allclose([row["psnr_db"] for row in rows], [value for value, _, _ in psnr])
    agrees(result.metric(system, "PSNR"), psnr, [(0, 1)])
    agrees(result.metric(system, "SSIM"), [(r["ssim"], 0.5, r["image_id"]) for r in rows], [(0, 1)])


def test_ssim_of_a_picture_is_the_mean_of_the_formula_over_every_whole_window():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (23, 31, 3), np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-60, 60, a.shape), 0, 255).astype(np.uint8)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(23 - 10):
        for x in range(31 - 10):
            for channel in range(3):
                p = a[y : y + 11, x : x + 11, channel].astype(float)
                q = b[y : y + 11, x : x + 11, channel].astype(float)
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                var_p, var_q = (window * p**2).sum() - mean_p**2, (window * q**2).sum() - mean_q**2
                both = (window * p * q).sum() - mean_p * mean_q
                light = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
                values.append(light * (2 * both + c2) / (var_p + var_q + c2))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)
