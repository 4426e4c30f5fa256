import hashlib
import sys
from dataclasses import replace

import pytest

from annotations_schema.errors import WeightsError
from annotations_schema.weights import WeightsCard, read_weights, resolve, weights_sha256

WEIGHTS = b"some weights"


@pytest.fixture
def card(tmp_path, monkeypatch) -> WeightsCard:
    package = tmp_path / "weights_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('a card must not import its package')")
    (package / "net.onnx").write_bytes(WEIGHTS)
    (package / "literal.py").write_text(f"OTHER = 1\nDATA = {WEIGHTS!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return WeightsCard(
        name="net",
        role="test",
        file="net.onnx",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        licence="MIT",
        input="none",
        package="weights_for_a_test",
        hint="install weights-for-a-test",
    )


def test_embedded_weights_are_found_without_importing_their_package(card):
    assert read_weights(card) == WEIGHTS
    assert weights_sha256(card) == card.sha256
    assert "weights_for_a_test" not in sys.modules


def test_a_bytes_literal_in_a_module_is_read_without_running_it(card):
    literal = replace(card, file="literal.py", attribute="DATA")
    assert read_weights(literal) == WEIGHTS
    with pytest.raises(WeightsError, match="no bytes named NOTHING"):
        read_weights(replace(literal, attribute="NOTHING"))


def test_an_explicit_path_comes_first(card, tmp_path):
    own = tmp_path / "own.onnx"
    own.write_bytes(WEIGHTS)
    assert resolve(card, own) == own
    assert read_weights(replace(card, file="literal.py", attribute="DATA"), own) == WEIGHTS


def test_other_bytes_are_refused(card, tmp_path):
    own = tmp_path / "own.onnx"
    own.write_bytes(b"tampered")
    for one in (card, replace(card, file="literal.py", attribute="DATA")):
        with pytest.raises(WeightsError, match=r"sha256 .* expected .* install weights-for-a-test"):
            resolve(one, own)
    assert resolve(replace(card, sha256=None), own) == own


def test_absent_weights_name_the_mend(card, tmp_path):
    for missing in (
        replace(card, package="no_such_package"),
        replace(card, package=None),
        replace(card, file="no_such_file"),
    ):
        with pytest.raises(WeightsError, match="install weights-for-a-test"):
            resolve(missing)
    with pytest.raises(WeightsError, match="no weights at"):
        resolve(card, tmp_path / "nothing")
