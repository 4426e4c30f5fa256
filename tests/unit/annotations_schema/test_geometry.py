import cv2
import numpy as np
import pytest
from insightface.utils import face_align
from skimage.transform import SimilarityTransform

from annotations_schema.errors import GeometryError
from annotations_schema.geometry import (
    ARCFACE_TEMPLATE_112,
    FitVerdict,
    area_fraction,
    clip_boxes,
    compose,
    crop_affine,
    fit_similarity,
    flip_affine,
    grid_sample_theta,
    invert,
    move_crop_from_image,
    resize_affine,
    swap_left_right,
    to_pixel_centers,
    transform_boxes,
    transform_landmarks,
    transform_points,
    warp_affine,
)


def face_landmarks(seed: int) -> np.ndarray:
    """A face somewhere in a 512 x 512 photo: the template turned, scaled, moved and disturbed."""
    rng = np.random.default_rng(seed)
    angle, scale = rng.uniform(-0.6, 0.6), rng.uniform(0.3, 4.0)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (ARCFACE_TEMPLATE_112 - 56) @ turn + rng.uniform(150, 350, 2)
    return (points + rng.normal(0, 2 * scale, (5, 2))).astype(np.float32)


def test_a_known_similarity_is_found_again():
    matrix = np.array([[0.8, -0.6, 3.0], [0.6, 0.8, -7.0]])
    fit = fit_similarity(transform_points(ARCFACE_TEMPLATE_112, invert(matrix)))
    np.testing.assert_allclose(fit.matrix, matrix, atol=1e-12)
    assert fit.residual_px == pytest.approx(0, abs=1e-12)
    assert fit.verdict is FitVerdict.VALID


def test_the_residual_is_the_root_mean_square_distance_on_the_canvas():
    # The centroid stays and the shift is orthogonal to every similarity's change: 3 px on 2 of 5.
    points = np.array([[0, 0], [40, 0], [20, 20], [0, 40], [40, 40]], dtype=np.float64)
    moved = points + np.array([[3, 0], [-3, 0], [0, 0], [-3, 0], [3, 0]])
    fit = fit_similarity(points, moved)
    np.testing.assert_allclose(fit.matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert fit.residual_px == pytest.approx(np.sqrt(4 * 9 / 5))


@pytest.mark.parametrize("seed", range(20))
def test_the_fit_equals_skimage_and_insightface(seed):
    landmarks = face_landmarks(seed)
    ours = fit_similarity(landmarks).matrix
    skimage_fit = SimilarityTransform.from_estimate(landmarks.astype(float), ARCFACE_TEMPLATE_112)
    np.testing.assert_allclose(ours, skimage_fit.params[:2], atol=1e-6)
    np.testing.assert_allclose(ours, face_align.estimate_norm(landmarks, 112), atol=1e-3)


@pytest.mark.parametrize(
    ("landmarks", "verdict"),
    [
        (np.full((5, 2), np.nan), FitVerdict.NON_FINITE),
        (np.full((5, 2), 7.0), FitVerdict.COINCIDENT),
        (np.full((5, 2), 1e6) + 1e-9 * ARCFACE_TEMPLATE_112, FitVerdict.COINCIDENT),
        (np.stack([np.arange(5.0), 2 * np.arange(5.0)], 1), FitVerdict.COLLINEAR),
        (ARCFACE_TEMPLATE_112 * [-1, 1], FitVerdict.MIRRORED),
        (ARCFACE_TEMPLATE_112 / 20, FitVerdict.TINY),
        (ARCFACE_TEMPLATE_112 * 3, FitVerdict.VALID),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_degenerate_face_gets_its_verdict(landmarks, verdict):
    fit = fit_similarity(landmarks)
    assert fit.verdict is verdict
    has_fit = verdict not in {FitVerdict.NON_FINITE, FitVerdict.COINCIDENT}
    assert (fit.matrix is not None) == has_fit
    assert (fit.residual_px is not None) == has_fit
    if has_fit:
        assert np.isfinite(fit.matrix).all()


def test_landmarks_of_another_shape_are_refused():
    with pytest.raises(GeometryError, match=r"\(4, 2\)"):
        fit_similarity(np.zeros((4, 2)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["photo", "noise"])
def test_the_warp_equals_opencv_within_one_grey_level(astronaut, seed, kind):
    noise = np.random.default_rng(seed).integers(0, 256, astronaut.shape, dtype=np.uint8)
    image = astronaut if kind == "photo" else noise
    matrix = fit_similarity(face_landmarks(seed)).matrix
    expected = cv2.warpAffine(image, matrix, (112, 112)).astype(int)
    assert np.abs(warp_affine(image, matrix).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_the_warp_equals_insightface_norm_crop_on_the_same_landmarks(astronaut, seed):
    landmarks = face_landmarks(seed).astype(np.float64)
    expected = face_align.norm_crop(astronaut, landmarks).astype(int)
    ours = warp_affine(astronaut, fit_similarity(landmarks).matrix).astype(int)
    assert np.abs(ours - expected).max() <= 1


def test_the_warp_of_insightface_own_matrix_equals_its_crop(astronaut):
    landmarks = face_landmarks(5)
    expected = face_align.norm_crop(astronaut, landmarks).astype(int)
    ours = warp_affine(astronaut, face_align.estimate_norm(landmarks, 112)).astype(int)
    assert np.abs(ours - expected).max() <= 1


def test_the_warp_is_black_outside_the_image(astronaut):
    far_away = np.array([[1.0, 0.0, 10_000.0], [0.0, 1.0, 0.0]])
    assert not warp_affine(astronaut, far_away).any()


def test_pixel_centres_move_by_half_a_pixel_under_resize():
    # Halving maps the first pixel's centre, 0.5 in edges, to 0.25 in edges: -0.25 as a centre.
    np.testing.assert_allclose(
        to_pixel_centers(resize_affine(0.5, 0.5)), [[0.5, 0, -0.25], [0, 0.5, -0.25]]
    )
    np.testing.assert_allclose(
        transform_points([10.0, 20.0], to_pixel_centers(crop_affine(3, 4))), [7, 16]
    )
    # Mirroring 8 pixels exchanges centres 0 and 7.
    np.testing.assert_allclose(
        transform_points([0.0, 0.0], to_pixel_centers(flip_affine(8))), [7, 0]
    )


def test_boxes_move_as_edges_and_are_cut_to_the_image():
    moved = transform_boxes([[10, 10, 30, 20]], compose(resize_affine(2, 2), crop_affine(5, 5)))
    np.testing.assert_allclose(moved, [[10, 10, 50, 30]])
    np.testing.assert_allclose(transform_boxes([[1, 0, 3, 5]], flip_affine(10)), [[7, 0, 9, 5]])
    np.testing.assert_allclose(clip_boxes([[-5, -5, 50, 3]], 20, 10), [[0, 0, 20, 3]])
    np.testing.assert_allclose(area_fraction([[0, 0, 20, 5], [3, 3, 1, 9]], 20, 10), [0.5, 0.0])


def test_a_mirrored_face_with_swapped_landmarks_is_not_mirrored_any_more():
    landmarks = face_landmarks(1)[None]
    mirrored = transform_landmarks(landmarks, flip_affine(512))
    assert fit_similarity(mirrored[0]).verdict is FitVerdict.MIRRORED
    assert fit_similarity(swap_left_right(mirrored)[0]).verdict is FitVerdict.VALID


@pytest.mark.parametrize("flip", [False, True])
def test_a_moved_transform_shows_the_same_canvas(astronaut, flip):
    matrix = fit_similarity(face_landmarks(2)).matrix
    image_map = compose(flip_affine(400) if flip else np.eye(3)[:2], crop_affine(60, 50))
    cropped = astronaut[50:450, 60:460]
    moved_image = np.ascontiguousarray(cropped[:, ::-1] if flip else cropped)
    moved = move_crop_from_image(matrix[None], image_map)[0]
    inside = warp_affine(np.full_like(moved_image, 255), moved).min(axis=2) == 255
    difference = warp_affine(moved_image, moved).astype(int) - warp_affine(
        astronaut, matrix
    ).astype(int)
    assert inside.mean() > 0.5
    # 1/32 px rounding falls on the other side where the mirror image reverses the axis.
    assert np.abs(difference[inside]).mean() < (1.0 if flip else 0.1)


def test_theta_for_grid_sample_reads_the_same_pixels_as_the_warp(astronaut):
    torch = pytest.importorskip("torch")
    matrix = fit_similarity(face_landmarks(4)).matrix
    theta = torch.from_numpy(grid_sample_theta(matrix[None], astronaut.shape[:2])).float()
    grid = torch.nn.functional.affine_grid(theta, [1, 3, 112, 112], align_corners=False)
    pixels = torch.from_numpy(astronaut.copy()).permute(2, 0, 1)[None].float()
    crop = torch.nn.functional.grid_sample(pixels, grid, align_corners=False)[0].permute(1, 2, 0)
    difference = np.abs(crop.numpy() - warp_affine(astronaut, matrix))
    # OpenCV and so warp_affine round positions to 1/32 px; the mean shows there is no shift.
    assert difference.mean() < 0.6


def test_a_singular_matrix_has_no_inverse():
    with pytest.raises(GeometryError, match="singular"):
        invert(np.zeros((2, 3)))
