"""Detections become regions: cut, ordered, and what a rule leaves out is told."""

from __future__ import annotations

import numpy as np
import pytest

from annotations_schema.codes import DropReason
from curation.annotate.frame import Rules, face_found, quad_sides_px, text_found

SQUARE = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
FACE = np.array([[38.0, 52], [74, 52], [56, 72], [42, 92], [71, 92]])
ALL = Rules()


def test_quads_are_cut_to_the_image_and_their_boxes_are_hulls() -> None:
    quads = [SQUARE + np.array([95, 45]), SQUARE]
    text, dropped = text_found(quads, [0.5, 0.9], 100, 50, ALL)
    assert dropped == ()
    np.testing.assert_array_equal(text.box_xyxy, [[0, 0, 10, 10], [95, 45, 100, 50]])
    np.testing.assert_array_equal(text.quad[1], [[95, 45], [100, 45], [100, 50], [95, 50]])


def test_regions_outside_the_image_or_without_area_are_dropped_and_told() -> None:
    flat = SQUARE * (1, 0)
    quads = [SQUARE + np.array([200, 0]), flat, SQUARE]
    text, dropped = text_found(quads, [0.75, 0.875, 0.5], 100, 50, ALL)
    assert text.score.tolist() == [0.5]
    assert dropped == (
        ((0.0, 0.0, 10.0, 0.0), 0.875, DropReason.DEGENERATE),
        ((200.0, 0.0, 210.0, 10.0), 0.75, DropReason.OUTSIDE_IMAGE),
    )


def test_the_rules_leave_out_weak_and_small_text_and_say_which() -> None:
    quads = [SQUARE, SQUARE * (3, 0.5), SQUARE + 95, SQUARE * 2]
    rules = Rules(score_min=0.5, side_min_px=8)
    text, dropped = text_found(quads, [0.5, 0.9, 0.25, 0.375], 100, 100, rules)
    assert text.box_xyxy.tolist() == [[0, 0, 10, 10]]
    assert dropped == (
        ((0.0, 0.0, 30.0, 5.0), pytest.approx(0.9), DropReason.SIDE_BELOW_MIN),
        ((0.0, 0.0, 20.0, 20.0), 0.375, DropReason.SCORE_BELOW_MIN),
        # Cut to five pixels it is too small as well: the score is asked first.
        ((95.0, 95.0, 100.0, 100.0), 0.25, DropReason.SCORE_BELOW_MIN),
    )


def test_a_score_at_the_threshold_stays_in_float32() -> None:
    score = np.float32(0.9)  # below the double 0.9
    text, dropped = text_found([SQUARE], [score], 100, 50, Rules(score_min=0.9))
    assert (len(text), dropped) == (1, ())


def test_a_face_is_measured_by_the_shorter_side_of_its_box() -> None:
    boxes = [[0, 0, 40, 20], [50, 0, 90, 30]]
    landmarks = np.stack([FACE, FACE])
    faces, dropped = face_found(boxes, [0.5, 0.75], landmarks, 150, 150, Rules(side_min_px=25))
    assert faces.box_xyxy.tolist() == [[50, 0, 90, 30]]
    assert dropped == (((0.0, 0.0, 40.0, 20.0), 0.5, DropReason.SIDE_BELOW_MIN),)


def test_the_shorter_side_of_a_turned_quad_is_its_own_and_not_its_box_s() -> None:
    diagonal = np.array([[0.0, 30], [30, 0], [34, 4], [4, 34]])
    np.testing.assert_allclose(quad_sides_px(diagonal[None]), [np.hypot(4, 4)])


def test_a_box_that_is_no_number_is_degenerate_and_recorded_as_numbers() -> None:
    box = [np.nan, 0, 40, np.inf]
    faces, dropped = face_found([box], [0.5], [FACE], 150, 150, ALL)
    assert len(faces) == 0
    assert dropped[0].reason is DropReason.DEGENERATE
    assert np.isfinite(dropped[0].box_xyxy).all()


def test_the_best_score_stands_first_and_ties_go_by_box() -> None:
    quads = [SQUARE + np.array([40, 0]), SQUARE + np.array([20, 0]), SQUARE]
    for order in ([0, 1, 2], [2, 1, 0]):
        scores = np.array([0.5, 0.5, 0.9])[order]
        text, _ = text_found(np.array(quads)[order], scores, 100, 50, ALL)
        assert text.box_xyxy[:, 0].tolist() == [0, 20, 40]


def test_a_face_keeps_landmarks_outside_the_image() -> None:
    boxes = [[-20, 10, 60, 100], [200, 10, 260, 100]]
    landmarks = np.stack([FACE - (40, 0), FACE + np.array([200, 0])])
    faces, dropped = face_found(boxes, [0.9, 1.0], landmarks, 150, 150, ALL)
    assert (len(faces), len(dropped)) == (1, 1)
    assert faces.box_xyxy[0].tolist() == [0, 10, 60, 100]
    np.testing.assert_allclose(faces.landmarks_5[0], FACE - (40, 0))
    assert faces.is_valid.all()


def test_a_score_one_rounding_step_above_one_is_one() -> None:
    one_step = np.nextafter(np.float32(1), np.float32(2))
    text, _ = text_found([SQUARE], [one_step], 100, 50, ALL)
    assert text.score.tolist() == [1.0]


def test_nothing_found_is_an_empty_set() -> None:
    text, dropped_text = text_found([], [], 100, 50, ALL)
    faces, dropped_faces = face_found([], [], [], 100, 50, ALL)
    assert (len(text), dropped_text, len(faces), dropped_faces) == (0, (), 0, ())
