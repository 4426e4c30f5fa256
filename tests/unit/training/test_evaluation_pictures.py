"""Perceptual distance and Frechet distance of whole pictures, and the names they may carry."""

import math

import numpy as np
import pytest
import torch
import torchvision

from annotations_schema import UsageError
from annotations_schema.errors import WeightsError
from tests.evaluation_cases import blurred
from training.data.batch import to_model_range
from training.evaluation import frechet, perceptual
from training.evaluation.frechet import frechet_distance, load_frechet_net
from training.evaluation.perceptual import load_perceptual_net
from training.evaluation.pictures import PictureScorer
from training.models.frozen.perceptual import load_perceptual


@pytest.fixture(scope="module")
def vgg16():
    return load_perceptual_net("vgg16_keras")


@pytest.fixture(scope="module")
def vgg16_features():
    return load_frechet_net("vgg16_keras")


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A file as torch-fidelity publishes it, with random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    # The class loads weights in any case: an empty shell gives their names and shapes.
    original = FeatureExtractorInceptionV3.load_state_dict
    FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    empty = tmp_path_factory.mktemp("weights") / "empty.pth"
    torch.save({}, empty)
    try:
        net = FeatureExtractorInceptionV3("net", ["2048"], feature_extractor_weights_path=empty)
    finally:
        FeatureExtractorInceptionV3.load_state_dict = original
    path = empty.with_name("inception-random.pth")
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    torch.manual_seed(0)
    trunk = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]).state_dict()
    path = tmp_path_factory.mktemp("weights") / "vgg16-random.pth"
    torch.save({f"features.{name}": value for name, value in trunk.items()}, path)
    return path


def pieces(image, count=6, side=48):
    return [np.ascontiguousarray(image[16 * i :, 16 * i :][:side, :side]) for i in range(count)]


def test_distances_are_those_of_the_loss_and_features_are_pooled(vgg16, vgg16_features, astronaut):
    picture = pieces(astronaut)[0]
    scorer = PictureScorer(perceptual=vgg16, frechet=vgg16_features)
    scorer.add(3, [picture, blurred(picture, 1), blurred(picture, 3)])
    assert scorer.images == [3]
    (distances,) = scorer.distances
    expected = [
        load_perceptual("vgg16_keras")(
            to_model_range(picture[None].copy()), to_model_range(blurred(picture, s)[None].copy())
        ).item()
        for s in (1, 3)
    ]
    assert distances[:2] == (0.0, 0.0)
    np.testing.assert_allclose(distances[2:], expected, rtol=1e-5)
    alone = PictureScorer(perceptual=None, frechet=vgg16_features)
    alone.add(0, [picture, blurred(picture, 1), blurred(picture, 3)])
    for one in (scorer, alone):  # from the distance's own maps, and from a network of its own
        one.add(1, [blurred(picture, 2), picture, blurred(picture, 1)])
    np.testing.assert_allclose(
        scorer.frechet_distances(), alone.frechet_distances(), rtol=1e-3, atol=1e-3
    )
    assert alone.perceptual_s < scorer.perceptual_s


def test_the_frechet_distance_of_known_gaussians():
    # Two dimensions, points with exact means and covariances: (m, s) and (m', s') along the axes.
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32) * math.sqrt(3 / 4)
    ours, theirs = corners * [2, 1], corners * [1, 3] + [4, -1]
    expected = 4**2 + 1**2 + (2 - 1) ** 2 + (1 - 3) ** 2
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(ours, ours.copy()) == 0.0
    assert frechet_distance(ours[:1], theirs[:1]) is None


def test_more_blur_is_farther_for_the_set(vgg16_features, astronaut):
    scorer = PictureScorer(perceptual=None, frechet=vgg16_features)
    for number, picture in enumerate(pieces(astronaut)):
        scorer.add(number, [picture, blurred(picture, 0.7), blurred(picture, 3)])
    original, resized, little, much = scorer.frechet_distances()
    assert original == resized == 0.0
    assert 0 < little < much


def test_a_thin_picture_is_counted_and_not_compared(vgg16):
    scorer = PictureScorer(perceptual=vgg16, frechet=None)
    strips = [np.zeros((15, 64, 3), np.uint8)] * 2
    scorer.add(0, strips)
    scorer.add(1, [np.zeros((16, 64, 3), np.uint8)] * 2)
    assert (scorer.num_too_thin, scorer.images) == (1, [1])
    assert scorer.distances == [(0.0, 0.0, 0.0)]
    assert scorer.frechet_distances() == []


def test_only_the_published_weights_give_the_published_names(
    inception_file, vgg16_file, monkeypatch, astronaut
):
    picture = torch.from_numpy(pieces(astronaut)[0][None])
    net, distance = (
        load_frechet_net("inception_v3", inception_file),
        load_perceptual_net("lpips", vgg16_file),
    )
    assert net.features(picture).shape == (1, net.num_features) == (1, 2048)
    assert (net.metric, distance.metric) == ("FD", "VGG16 distance")
    assert not net.record.is_published_protocol
    assert net.record.weights_sha256[:8] in net.record.name
    for module, record in ((frechet, net.record), (perceptual, distance.record)):
        monkeypatch.setattr(module, "_PUBLISHED_START", record.weights_sha256[:8])
    net, distance = (
        load_frechet_net("inception_v3", inception_file),
        load_perceptual_net("lpips", vgg16_file),
    )
    assert (net.metric, distance.metric) == ("rFID", "LPIPS")
    assert (net.record.library, distance.record.library) == ("torch-fidelity", "lpips")
    assert net.record.is_published_protocol
    scorer = PictureScorer(perceptual=distance, frechet=None)
    two = [pieces(astronaut)[0], blurred(pieces(astronaut)[0], 2)]
    scorer.add(0, two)
    # The loss, which is the package's own number (test_perceptual).
    expected = distance.distance(*(to_model_range(one[None].copy()) for one in two)).item()
    assert scorer.distances[0][2] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("load", "name", "option"),
    [
        (load_frechet_net, "inception_v3", "--fid"),
        (load_perceptual_net, "lpips", "--perceptual"),
    ],
)
def test_absent_weights_name_both_ways_to_have_them(tmp_path, load, name, option, monkeypatch):
    with pytest.raises(WeightsError, match=rf"{option}-weights.*{option}-download"):
        load(name)
    with pytest.raises(WeightsError, match=rf"no weights at .*{option}-weights"):
        load(name, tmp_path / "absent.pth")
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="holds no weights"):
        load(name, wrong)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1), "Conv2d_1a_3x3.conv.weight": 1}, other)
    with pytest.raises(WeightsError, match=r"does not fit|holds no weights"):
        load(name, other)

    def no_network(*args, **kwargs):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(WeightsError, match=r"the download failed .*name resolution") as caught:
        load(name, download=True)
    assert f"as {option}-weights" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="'mine' does not exist; choose one of vgg16_keras"):
        load("mine")


def test_the_substitutes_are_named_after_their_network(vgg16, vgg16_features):
    assert (vgg16.metric, vgg16.record.name) == ("VGG16 distance", "vgg16_keras")
    assert (vgg16_features.metric, vgg16_features.record.name) == ("FD", "vgg16_keras relu5_3")
    records = [vgg16.record, vgg16_features.record]
    assert not any(record.is_published_protocol for record in records)
