"""Detections become regions: cut, dropped, ordered."""

from __future__ import annotations

import numpy as np

from curation.annotate.frame import face_regions, text_regions

SQUARE = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
FACE = np.array([[38.0, 52], [74, 52], [56, 72], [42, 92], [71, 92]])


def test_quads_are_cut_to_the_image_and_their_boxes_are_hulls() -> None:
    quads = [SQUARE + np.array([95, 45]), SQUARE]
    text, num_dropped = text_regions(quads, [0.5, 0.9], width=100, height=50)
    assert num_dropped == 0
    np.testing.assert_array_equal(text.box_xyxy, [[0, 0, 10, 10], [95, 45, 100, 50]])
    np.testing.assert_array_equal(text.quad[1], [[95, 45], [100, 45], [100, 50], [95, 50]])


def test_regions_outside_the_image_or_without_area_are_dropped_and_counted() -> None:
    flat = SQUARE * (1, 0)
    quads = [SQUARE + np.array([200, 0]), flat, SQUARE]
    text, num_dropped = text_regions(quads, [0.9, 0.8, 0.7], width=100, height=50)
    assert (len(text), num_dropped) == (1, 2)
    assert text.score.tolist() == [np.float32(0.7)]


def test_the_best_score_stands_first_and_ties_go_by_box() -> None:
    quads = [SQUARE + np.array([40, 0]), SQUARE + np.array([20, 0]), SQUARE]
    for order in ([0, 1, 2], [2, 1, 0]):
        scores = np.array([0.5, 0.5, 0.9])[order]
        text, _ = text_regions(np.array(quads)[order], scores, width=100, height=50)
        assert text.box_xyxy[:, 0].tolist() == [0, 20, 40]


def test_a_face_keeps_landmarks_outside_the_image() -> None:
    boxes = [[-20, 10, 60, 100], [200, 10, 260, 100]]
    landmarks = np.stack([FACE - (40, 0), FACE + np.array([200, 0])])
    faces, num_dropped = face_regions(boxes, [0.9, 1.0], landmarks, width=150, height=150)
    assert (len(faces), num_dropped) == (1, 1)
    assert faces.box_xyxy[0].tolist() == [0, 10, 60, 100]
    np.testing.assert_allclose(faces.landmarks_5[0], FACE - (40, 0))
    assert faces.is_valid.all()


def test_a_score_one_rounding_step_above_one_is_one() -> None:
    text, _ = text_regions([SQUARE], [np.nextafter(np.float32(1), np.float32(2))], 100, 50)
    assert text.score.tolist() == [1.0]


def test_nothing_found_is_an_empty_set() -> None:
    text, dropped_text = text_regions([], [], 100, 50)
    faces, dropped_faces = face_regions([], [], [], 100, 50)
    assert (len(text), dropped_text, len(faces), dropped_faces) == (0, 0, 0, 0)
