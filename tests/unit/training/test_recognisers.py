import hashlib
import subprocess
import sys
from importlib import metadata

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.weights import read_weights, resolve
from tests.frozen_checkpoints import saved
from tests.training_micro import micro, three_phases
from training.models.frozen.cards import CARDS
from training.models.frozen.iresnet import IResNet50
from training.models.frozen.recognisers import (
    load_face_recogniser,
    load_text_recogniser,
)
from training.setup import frozen_net_hashes, load_frozen_nets
from training.typed_config import with_overrides


def to_model_range(image):
    """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.fixture(scope="module")
def word():
    """A word on a plain ground, (48, 192, 3) uint8 RGB, colours that tell RGB from BGR."""
    image = np.full((48, 192, 3), (250, 240, 180), np.uint8)
    return cv2.putText(image, "HARBOUR", (8, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (160, 20, 40), 3)


@pytest.fixture(scope="module")
def reader():
    return load_text_recogniser("ppocr_v6_small")


@pytest.fixture(scope="module")
def face_net():
    return load_face_recogniser("sface", layers=["stage1", "stage4", "embedding"])


def test_default_text_layers_shrink_in_height_down_to_a_sequence(reader):
    features = reader(torch.zeros(2, 3, 48, 192))

    shapes = [tuple(f.shape) for f in features]
    assert shapes == [(2, 96, 12, 48), (2, 192, 6, 48), (2, 384, 3, 48), (2, 120, 1, 24)]
    assert reader.layers == ("stage1", "stage2", "stage3", "sequence")


def test_default_face_layers_have_the_sizes_of_the_paper_s_stages():
    features = load_face_recogniser("sface")(torch.zeros(1, 3, 112, 112))

    sizes = [tuple(f.shape[1:]) for f in features]
    assert sizes == [(128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7)]


def test_reader_reads_what_its_features_say(word, reader):
    """The network's own last layer, on our features, spells the word: pixels are prepared right."""
    (sequence,) = load_text_recogniser("ppocr_v6_small", layers=["sequence"])(to_model_range(word))
    session = onnxruntime.InferenceSession(resolve(CARDS["ppocr_v6_small"]))
    characters = session.get_modelmeta().custom_metadata_map["character"].split("\n")

    indices = classified(sequence[0, :, 0].T.numpy()).argmax(1)

    # Greedy CTC: repeats merge, class 0 is the blank, the last is the space.
    changes = [
        i for i, previous in zip(indices, [0, *indices], strict=False) if i not in (0, previous)
    ]
    assert "".join(characters[i - 1] for i in changes) == "HARBOUR"


def classified(sequence):
    """(T, 120) -> (T, classes): the model's last matrix product and bias."""
    import onnx

    proto = onnx.load_model_from_string(read_weights(CARDS["ppocr_v6_small"]))
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    product = [node for node in proto.graph.node if node.op_type == "MatMul"][-1]
    addition = next(node for node in proto.graph.node if product.output[0] in node.input)
    bias = next(name for name in addition.input if name in arrays)
    return sequence @ arrays[product.input[1]] + arrays[bias]


def test_face_embedding_agrees_with_opencv_on_a_photograph(astronaut, face_net):
    aligned = np.ascontiguousarray(astronaut[60:172, 170:282])

    embedding = face_net(to_model_range(aligned))[-1].flatten().numpy()

    reference = cv2.FaceRecognizerSF.create(str(resolve(CARDS["sface"])), "").feature(
        cv2.cvtColor(aligned, cv2.COLOR_RGB2BGR)
    )
    np.testing.assert_allclose(embedding, reference.flatten(), atol=1e-4)


def test_images_of_another_size_are_resized_to_the_network_s(face_net):
    x = torch.rand(1, 3, 56, 70) * 2 - 1

    resized = F.interpolate(x, (112, 112), mode="bilinear", align_corners=False)

    for ours, expected in zip(face_net(x), face_net(resized), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_narrower_text_input_gives_narrower_features():
    features = load_text_recogniser("ppocr_v6_small", layers=["stage3"], width=96)(
        torch.zeros(1, 3, 32, 128)
    )

    assert features[0].shape == (1, 384, 3, 24)


def test_layers_come_in_the_order_asked_for():
    net = load_text_recogniser("ppocr_v6_small", layers=["stage2", "stem"])

    assert [f.shape[1] for f in net(torch.zeros(1, 3, 48, 32))] == [192, 96]


def test_features_of_narrow_floats_are_compared_in_float32():
    net = load_text_recogniser("ppocr_v6_small", layers=["stem"])

    with torch.autocast("cpu", torch.bfloat16):
        (features,) = net(torch.rand(1, 3, 48, 32))

    assert features.dtype == torch.float32


def test_gradients_reach_every_pixel_and_no_weight(word, reader):
    x = to_model_range(word).requires_grad_()

    sum(f.sum() for f in reader(x)).backward()

    assert (x.grad != 0).float().mean() > 0.99
    assert not list(reader.parameters())


def test_features_tell_another_word_from_a_blurred_one(word, reader):
    x = to_model_range(word)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    other = np.full((48, 192, 3), (250, 240, 180), np.uint8)
    cv2.putText(other, "MERCURY", (8, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.3, (160, 20, 40), 3)

    def distance(y):
        return (reader(y)[-1] - reader(x)[-1]).abs().mean()

    assert distance(blurred) < 0.7 * distance(to_model_range(other))


@pytest.mark.parametrize("name", ["ppocr_v6_small", "sface", "vgg16_keras"])
def test_card_names_the_installed_file_by_its_full_hash_and_licence(name):
    card = CARDS[name]

    assert hashlib.sha256(resolve(card).read_bytes()).hexdigest() == card.sha256
    assert card.licence
    assert card.hint
    assert metadata.version(card.package.replace("_", "-"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_text_recogniser("sface"), r"text recogniser 'sface' is unknown: choose one"),
        (lambda: load_face_recogniser("arcface"), r"face recogniser 'arcface' is unknown"),
        (
            lambda: load_text_recogniser("ppocr_v6_small", layers=["layer1"]),
            r"layer 'layer1' is unknown, known are stem, stage1",
        ),
        (lambda: load_face_recogniser("sface", layers=[]), r"no layers: name at least one of"),
        (
            lambda: load_text_recogniser("abinet", layers=["logits"]),
            r"layer 'logits' is unknown, known are stem, layer1, .*layer5, transformer \(abinet\)",
        ),
        (
            lambda: load_face_recogniser("iresnet50", layers=["layer5"]),
            r"layer 'layer5' is unknown, known are layer1, .*layer4, embedding \(iresnet50\)",
        ),
        (lambda: load_text_recogniser("ppocr_v6_small", width=20), r"width 20: banners are wider"),
        (lambda: load_face_recogniser("sface", sha256="abc"), r"'abc' is not 64 hex digits"),
    ],
    ids=["text name", "face name", "layer", "no layer", "abinet", "iresnet50", "width", "hash"],
)
def test_unknown_names_are_refused_with_the_choice(call, message):
    with pytest.raises(UsageError, match=message):
        call()


def test_weights_that_are_another_file_are_refused(tmp_path):
    wrong = tmp_path / "net.onnx"
    wrong.write_bytes(b"something else")

    with pytest.raises(WeightsError, match=r"sface: .* has sha256"):
        load_face_recogniser("sface", wrong)


@pytest.mark.parametrize("name", ["abinet", "iresnet50"])
def test_card_of_a_file_that_was_never_at_hand_pins_no_hash_and_says_non_commercial(name):
    card = CARDS[name]

    assert card.sha256 is None
    assert "non-commercial" in card.licence
    with pytest.raises(WeightsError, match=rf"{name}: .* give with nets\.(text|face)_path"):
        resolve(card)


def test_a_pinned_hash_takes_the_place_of_the_card_s_own(tmp_path):
    path = saved(tmp_path / "backbone.pth", IResNet50(["layer1"]).state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    net = load_face_recogniser("iresnet50", path, layers=["layer1"], sha256=digest.upper())

    assert net.layers == ("layer1",)
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    with pytest.raises(WeightsError, match=rf"^iresnet50: \S+ has sha256 {digest[:16]}.*expected"):
        load_face_recogniser("iresnet50", path, layers=["layer1"], sha256=wrong)
    with pytest.raises(WeightsError, match=rf"sface: .* expected {digest[:16]}"):
        load_face_recogniser("sface", sha256=digest)


class Malicious:
    def __reduce__(self):
        return (print, ("code of a stranger",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": Malicious()}, "UnpicklingError"),
        ({"model": {"fc.weight": torch.zeros(1)}}, "no name ends in resnet.conv1.weight"),
        (torch.zeros(3), "no name ends in resnet.conv1.weight"),
    ],
    ids=["code", "another network", "a tensor"],
)
def test_a_file_that_is_no_checkpoint_is_refused_unrun(tmp_path, content, reason, capsys):
    path = saved(tmp_path / "stranger.pth", content)

    with pytest.raises(WeightsError, match=reason) as caught:
        load_text_recogniser("abinet", path)

    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_half_a_file_is_refused(tmp_path):
    whole = saved(tmp_path / "backbone.pth", IResNet50(["layer1"]).state_dict()).read_bytes()
    half = tmp_path / "half.pth"
    half.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(WeightsError, match=r"iresnet50: .*half.pth holds no weights"):
        load_face_recogniser("iresnet50", half)


def test_native_networks_need_no_library_of_the_others():
    program = (
        "import sys, training.models.frozen.recognisers\n"
        "others = {'onnx', 'onnxruntime', 'lpips', 'torchvision', 'duckdb', 'tyro'}\n"
        "sys.exit(', '.join(others & set(sys.modules)) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)

    assert done.stderr == b""
    assert done.returncode == 0


def test_the_hash_of_every_file_that_is_read_is_reported(tmp_path):
    path = saved(tmp_path / "backbone.pth", IResNet50(["layer1"]).state_dict())
    config = with_overrides(three_phases(), ["nets.face=iresnet50", f"nets.face_path={path}"])

    # The phases of this training have a text and a face weight, and no perceptual one.
    assert frozen_net_hashes(config) == {
        "ppocr_v6_small": CARDS["ppocr_v6_small"].sha256,
        "iresnet50": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_the_text_detector_of_a_run_is_loaded_and_reported_where_its_loss_has_a_weight():
    settings = ["phases.*.objective.global_text_weight=0.5", "nets.global_text_layers=stem"]
    config = with_overrides(micro(), settings)

    assert frozen_net_hashes(micro()) == {}
    assert frozen_net_hashes(config) == {"ppocr_v6_small_det": CARDS["ppocr_v6_small_det"].sha256}
    assert load_frozen_nets(micro(), torch.device("cpu")).global_text is None
    detector = load_frozen_nets(config, torch.device("cpu")).global_text
    assert detector.net.layers == ("stem",)
    assert not any(p.requires_grad for p in detector.parameters())
    wrong = with_overrides(config, ["nets.global_text_sha256=" + "0" * 64])
    for read in (frozen_net_hashes, lambda c: load_frozen_nets(c, torch.device("cpu"))):
        with pytest.raises(WeightsError, match=r"ppocr_v6_small_det: .* expected 0000"):
            read(wrong)


def test_the_settings_of_a_run_reach_the_networks(tmp_path):
    path = saved(tmp_path / "backbone.pth", IResNet50(["layer1"]).state_dict())
    settings = ["nets.face=iresnet50", f"nets.face_path={path}", "nets.face_layers=layer1"]
    config = with_overrides(three_phases(), [*settings, "nets.text_layers=stem"])

    nets = load_frozen_nets(config, torch.device("cpu"))

    assert nets.face.layers == ("layer1",)
    with pytest.raises(WeightsError, match=r"iresnet50: .* expected 0000"):
        load_frozen_nets(
            with_overrides(config, ["nets.face_sha256=" + "0" * 64]), torch.device("cpu")
        )
