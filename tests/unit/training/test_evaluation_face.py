"""Face nets that really tell people apart, and cosines that agree with a plain computation."""

import importlib.util

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from annotations_schema import UsageError, WeightsError
from annotations_schema.geometry import warp_affine
from tests.conftest import read_photo
from tests.evaluation_cases import ASTRONAUT_LANDMARKS, HOPPER_LANDMARKS, blurred, dlib_resnet
from training.evaluation.face import (
    face_ratio,
    fit_face,
    load_face_net,
    score_faces,
)
from training.evaluation.jpeg import jpeg_at_bits


@pytest.fixture(scope="module")
def hopper():
    return read_photo("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")


def canvas(image, landmarks, net):
    return warp_affine(image, fit_face(landmarks, net).matrix, (net.canvas_px, net.canvas_px))


def test_scores_are_cosine_and_euclidean_distance():
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [-2.0, 0.0]])
    scores = score_faces(a, b)
    assert scores[0] == pytest.approx((24 / 25, 2**0.5))
    assert scores[1] == pytest.approx((-1.0, 3.0))


def test_face_ratio_is_longer_side_over_longer_image_side():
    assert face_ratio((10, 10, 60, 110), (400, 200)) == pytest.approx(100 / 400)


def test_dlib_finds_a_degraded_face_nearer_than_another_person(astronaut, hopper):
    net = dlib_resnet()
    views = [
        astronaut,
        blurred(astronaut, 1.5),
        jpeg_at_bits(astronaut, 60_000).image,
    ]
    canvases = [canvas(view, ASTRONAUT_LANDMARKS, net) for view in views]
    canvases.append(canvas(hopper, HOPPER_LANDMARKS, net))
    embeddings = net.embed(canvases)
    assert embeddings.shape == (4, 128)
    itself, blur, jpeg, other = score_faces(np.repeat(embeddings[:1], 4, axis=0), embeddings)
    assert itself == pytest.approx((1.0, 0.0), abs=1e-9)
    # 0.6 is dlib's own threshold between one person and two.
    assert blur.distance < 0.4 < 0.6 < other.distance
    assert jpeg.distance < 0.4
    assert other.similarity < min(blur.similarity, jpeg.similarity) - 0.03


def test_dlib_embeds_many_faces_as_it_embeds_one(astronaut, hopper):
    net = dlib_resnet()
    one = canvas(astronaut, ASTRONAUT_LANDMARKS, net), canvas(hopper, HOPPER_LANDMARKS, net)
    many = net.embed([*one] * 17)  # more than one batch
    np.testing.assert_allclose(many[:2], np.concatenate([net.embed(one[:1]), net.embed(one[1:])]))
    np.testing.assert_allclose(many[32:], many[:2])


def test_dlib_takes_its_weights_without_importing_the_package_that_holds_them():
    import sys

    record = dlib_resnet().record
    assert record.weights_sha256.startswith("55533b28a95800a5")
    assert record.is_published_protocol is False
    assert "face_recognition_models" not in sys.modules


def test_an_unknown_face_net_is_named_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'facenet' does not exist.*dlib_resnet_v1"):
        load_face_net("facenet")


def test_antelopev2_without_a_path_says_what_to_give():
    with pytest.raises(WeightsError, match=r"glintr100\.onnx"):
        load_face_net("insightface_antelopev2")


def test_antelopev2_computes_what_insightface_computes(tmp_path, astronaut):
    """A small network with an ArcFace file's layers, run by insightface's own class."""
    path = tmp_path / "glintr100.onnx"
    onnx.save(_small_arcface(), path)
    net = load_face_net("insightface_antelopev2", path)
    aligned = canvas(astronaut, ASTRONAUT_LANDMARKS, net)
    ours = net.embed([aligned] * 3)
    assert ours.shape == (3, 16)

    from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    from insightface.utils.face_align import norm_crop

    theirs = ArcFaceONNX(str(path))
    face = norm_crop(np.ascontiguousarray(astronaut[..., ::-1]), ASTRONAUT_LANDMARKS, 112)
    assert np.abs(face[..., ::-1].astype(int) - aligned).max() <= 1
    expected = theirs.get_feat(np.ascontiguousarray(aligned[..., ::-1]))
    np.testing.assert_allclose(ours, np.repeat(expected, 3, axis=0), rtol=1e-4, atol=1e-5)
    # Not the published file, so its numbers are not called F-Sim.
    assert net.record.is_published_protocol is False
    assert net.record.name == f"insightface_antelopev2 {net.record.weights_sha256[:8]}"


def test_a_file_that_is_no_face_net_is_refused(tmp_path):
    path = tmp_path / "glintr100.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(WeightsError):
        load_face_net("insightface_antelopev2", path)


def test_insightface_is_installed_for_the_comparison_above():
    assert importlib.util.find_spec("insightface") is not None


def _small_arcface():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.2, (8, 3, 7, 7)),
        "slope": rng.uniform(0.1, 0.4, (8, 1, 1)),
        "gamma": rng.uniform(0.5, 2, 8),
        "beta": rng.normal(size=8),
        "mean": rng.normal(size=8),
        "var": rng.uniform(0.5, 2, 8),
        "fc": rng.normal(0, 0.02, (16, 8 * 16 * 16)),
        "fc_bias": rng.normal(size=16),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["input.1", "w"], ["c"], strides=[7, 7], name="Conv_0"),
        onnx.helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        onnx.helper.make_node("PRelu", ["n", "slope"], ["p"]),
        onnx.helper.make_node("Flatten", ["p"], ["f"], axis=1),
        onnx.helper.make_node("Gemm", ["f", "fc", "fc_bias"], ["683"], transB=1),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "arcface",
        [value("input.1", onnx.TensorProto.FLOAT, [None, 3, 112, 112])],
        [value("683", onnx.TensorProto.FLOAT, [None, 16])],
        [onnx.numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opset = [onnx.helper.make_opsetid("", 11)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
