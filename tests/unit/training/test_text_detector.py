import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from annotations_schema.weights import resolve
from tests.training_datasets import words
from training.models.frozen.cards import CARDS
from training.models.frozen.text_detector import TEXT_DETECTORS, load_text_detector

NAME = "ppocr_v6_small_det"


@pytest.fixture(scope="module")
def detector():
    return load_text_detector(NAME)


@pytest.fixture(scope="module")
def sign():
    pixels = torch.from_numpy(words(["OPEN", "ROAD"], 96).image.copy())
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1


def test_features_are_those_that_onnxruntime_gives_for_paddleocr_s_input(detector, sign):
    model = onnx.load(resolve(CARDS[NAME]))
    tensors = TEXT_DETECTORS[NAME].values()
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    bgr = (sign.numpy()[:, ::-1] + 1) / 2
    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    column = (1, 3, 1, 1)
    own = (bgr - np.reshape(mean, column)) / np.reshape(deviation, column)

    expected = session.run(list(tensors), {session.get_inputs()[0].name: own.astype(np.float32)})

    for found, wanted in zip(detector.net(sign), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=2e-4)


def test_blurred_letters_cost_more_than_a_blurred_background(detector, sign):
    blurred = F.interpolate(F.avg_pool2d(sign, 4), size=96, mode="bilinear")
    background, letters = sign.clone(), sign.clone()
    letters[..., 4:44, :], background[..., 56:, :] = blurred[..., 4:44, :], blurred[..., 56:, :]

    assert detector(sign, sign) == 0
    assert detector(sign, letters) > 1.5 * detector(sign, background)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_gradient_is_the_slope(detector, sign, batch):
    double = load_text_detector(NAME, layers=("stem", "stage2")).double()
    x = sign[..., :40, :40].double().repeat(batch, 1, 1, 1)  # no multiple of 32
    generator = torch.Generator().manual_seed(0)
    x_hat = x + 0.1 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    way = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    x_hat.requires_grad_()

    (gradient,) = torch.autograd.grad(double(x, x_hat), x_hat)

    step = 1e-7 * way  # small: a ReLU may bend inside a larger one
    slope = (double(x, x_hat + step) - double(x, x_hat - step)) / 2e-7
    torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-3, atol=1e-8)


def test_an_unknown_layer_is_refused_with_those_that_exist():
    with pytest.raises(UsageError, match="layer 'neck' is unknown, known are stem, stage1"):
        load_text_detector(NAME, layers=("neck",))


def test_an_unknown_detector_is_refused_with_the_choice():
    with pytest.raises(UsageError, match="text detector 'craft' is unknown"):
        load_text_detector("craft")
