"""Other people's tokenizers from the command line: found, called, and each misuse one line."""

import sys
import uuid

import numpy as np
import pytest

from annotations_schema import UsageError
from training.evaluation.peers import load_peers
from training.evaluation.protocol import reconstruct_square

SOURCE = """
import numpy as np

value = 7

def negative(image):
    return 255 - image

def factory(strength=3):
    return lambda image: image // strength

class Net:
    def __call__(self, *images):
        return images[0]

class WithWeights:
    def __init__(self):
        self.shift = np.uint8(1)

    def __call__(self, image):
        return image + self.shift

net = Net()

def lost_weights():
    raise FileNotFoundError("no file weights.pt")

def returns_seven():
    return 7

def fails(image):
    return image @ np.zeros(5)

def grey(image):
    return image[..., 0]

def in_floats(image):
    return image / 255

def as_list(image):
    return image.tolist()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current folder."""
    name = f"peers_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("negative", lambda x: 255 - x),
        ("factory", lambda x: x // 3),
        ("WithWeights", lambda x: x + 1),
        ("net", lambda x: x),
    ],
)
def test_a_callable_or_a_factory_of_one_is_a_tokenizer(module, image, target, expected):
    (peer,) = load_peers([f"mine={module}:{target}"]).values()
    np.testing.assert_array_equal(reconstruct_square("mine", peer, image), expected(image))


def test_peers_keep_their_names_and_order(module):
    peers = load_peers([f"B={module}:negative", f"A={module}:factory"])
    assert list(peers) == ["B", "A"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine", "write NAME=module:callable"),
        ("mine=module", "write NAME=module:callable"),
        ("=module:x", "write NAME=module:callable"),
        ("mine=no_such_module_here:x", "module no_such_module_here cannot be imported"),
        ("mine={module}:absent", "has no absent; it has negative, factory"),
        ("mine={module}:value", "it is a int; name a callable"),
        ("mine={module}:lost_weights", "the factory raised FileNotFoundError: no file weights.pt"),
        ("mine={module}:returns_seven", "the factory returned a int"),
    ],
)
def test_what_is_no_tokenizer_is_one_clear_line(module, spec, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_peers([spec.format(module=module)])
    assert "\n" not in str(caught.value)


def test_a_module_that_breaks_at_import_is_one_clear_line(module, tmp_path):
    (tmp_path / f"{module}_broken.py").write_text("def x(:\n")
    with pytest.raises(UsageError, match="cannot be imported \\(SyntaxError"):
        load_peers([f"mine={module}_broken:x"])


def test_two_peers_of_one_name_are_refused(module):
    with pytest.raises(UsageError, match="the name mine is taken"):
        load_peers([f"mine={module}:negative", f"mine={module}:net"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("fails", r"peer mine raised ValueError: .* on an image of shape \(32, 32, 3\)"),
        ("grey", r"'mine' returned uint8 of shape \(32, 32\)"),
        ("in_floats", "'mine' returned float64"),
        ("as_list", "'mine' returned a list"),
    ],
)
def test_what_a_tokenizer_does_wrong_is_one_clear_line(module, image, target, message):
    (peer,) = load_peers([f"mine={module}:{target}"]).values()
    with pytest.raises(UsageError, match=message) as caught:
        reconstruct_square("mine", peer, image)
    assert "\n" not in str(caught.value)
