import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from annotations_schema.geometry import (
    ARCFACE_TEMPLATE_112,
    FitVerdict,
    box_areas,
    clip_boxes,
    compose,
    fit_similarity,
    invert,
    move_crop_from_image,
    to_pixel_centers,
    transform_boxes,
    transform_landmarks,
    transform_points,
)
from annotations_schema.manifest import canonical_json_lines, table_from_rows
from annotations_schema.region_columns import face_regions_at, text_regions_at
from annotations_schema.regions import FaceRegions, TextRegions

coordinate = st.floats(-1000, 1000, allow_nan=False, width=32)
points = arrays(np.float64, (5, 2), elements=coordinate)


@st.composite
def similarities(draw):
    angle = draw(st.floats(-3.1, 3.1))
    scale = draw(st.floats(0.1, 10))
    shift = [draw(st.floats(-500, 500)) for _ in range(2)]
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[a, -b, shift[0]], [b, a, shift[1]]])


@given(similarities(), points)
def test_a_map_and_its_inverse_undo_each_other(matrix, p):
    back = transform_points(transform_points(p, matrix), invert(matrix))
    np.testing.assert_allclose(back, p, atol=1e-6)


@given(similarities(), similarities(), points)
def test_composition_is_application_in_turn(outer, inner, p):
    once = transform_points(p, compose(outer, inner))
    np.testing.assert_allclose(once, transform_points(transform_points(p, inner), outer), atol=1e-5)


@given(similarities())
def test_the_fit_finds_every_similarity_of_the_template(matrix):
    fit = fit_similarity(transform_points(ARCFACE_TEMPLATE_112, invert(matrix)))
    np.testing.assert_allclose(fit.matrix, matrix, atol=1e-6)
    assert fit.verdict is FitVerdict.VALID


@given(points)
def test_no_other_similarity_is_closer_than_the_fit(p):
    fit = fit_similarity(p)
    if fit.matrix is None:
        return
    best = ((transform_points(p, fit.matrix) - ARCFACE_TEMPLATE_112) ** 2).sum()
    a, b = fit.matrix[0, 0], fit.matrix[1, 0]
    for da, db, dx, dy in np.vstack([np.eye(4), -np.eye(4)]) * 1e-3:
        near = np.array(
            [[a + da, -b - db, fit.matrix[0, 2] + dx], [b + db, a + da, fit.matrix[1, 2] + dy]]
        )
        other = ((transform_points(p, near) - ARCFACE_TEMPLATE_112) ** 2).sum()
        assert other >= best * (1 - 1e-9)


@given(points)
def test_whatever_the_landmarks_a_fit_is_finite_or_absent(p):
    fit = fit_similarity(p)
    if fit.matrix is not None:
        assert np.isfinite(fit.matrix).all()
        assert np.isfinite(fit.residual_px)
        # A proper similarity: never a reflection.
        assert fit.matrix[0, 0] * fit.matrix[1, 1] - fit.matrix[0, 1] * fit.matrix[1, 0] >= 0


@given(similarities(), similarities())
def test_landmarks_land_on_the_same_canvas_point_after_the_image_moved(canvas, image_map):
    landmarks = ARCFACE_TEMPLATE_112[None]
    moved = transform_landmarks(landmarks, image_map)[0]
    matrix = move_crop_from_image(canvas[None], image_map)[0]
    np.testing.assert_allclose(
        transform_points(moved, matrix), transform_points(landmarks[0], canvas), atol=1e-4
    )


@given(similarities(), similarities())
def test_the_half_pixel_shift_commutes_with_composition(a, b):
    together = to_pixel_centers(compose(a, b))
    np.testing.assert_allclose(
        together, compose(to_pixel_centers(a), to_pixel_centers(b)), atol=1e-6
    )


@given(arrays(np.float64, (3, 4), elements=coordinate), similarities())
def test_hulls_are_ordered_and_clipping_only_shrinks(boxes, matrix):
    hulls = transform_boxes(boxes, matrix)
    assert (hulls[:, 2:] >= hulls[:, :2]).all()
    clipped = clip_boxes(hulls, 640, 480)
    assert (box_areas(clipped) <= box_areas(hulls) + 1e-6).all()
    np.testing.assert_array_equal(clip_boxes(clipped, 640, 480), clipped)


@given(
    arrays(np.float32, st.tuples(st.integers(0, 4), st.just(4), st.just(2)), elements=coordinate),
    arrays(np.float32, st.tuples(st.integers(0, 4), st.just(5), st.just(2)), elements=coordinate),
    st.integers(1, 2000),
    st.integers(1, 2000),
)
def test_regions_survive_arrow_and_back(quads, landmarks, width, height):
    text = TextRegions.from_quads(quads, np.full(len(quads), 0.5), width, height)
    hulls = np.concatenate([landmarks.min(1, initial=0), landmarks.max(1, initial=0)], axis=1)
    faces = FaceRegions.from_landmarks(hulls, np.full(len(hulls), 0.7), landmarks, width, height)
    row = {
        "image_id": "0" * 32,
        "source_row": 0,
        "source_name": "list",
        "status": "ok",
        "attempts": 1,
        "elapsed_ms": 0,
        "text_state": "found",
        "face_state": "found",
        "text_regions": text,
        "face_regions": faces,
    }
    table = table_from_rows([row])
    for stored, given_regions in (
        (text_regions_at(table, 0), text),
        (face_regions_at(table, 0), faces),
    ):
        for name in type(given_regions).__dataclass_fields__:
            np.testing.assert_array_equal(getattr(stored, name), getattr(given_regions, name))
    assert "NaN" not in canonical_json_lines(table)
