from __future__ import annotations

import json

import pytest

from annotations_schema.seal import SEAL, is_intact, json_text, sealed

FIELDS = {"b": [1, 2.5, None], "a": {"é": "text", "n": 10**12}, "path": "x/y"}


def test_what_was_written_is_intact() -> None:
    text = json_text(sealed(FIELDS))
    assert is_intact(text.encode())
    assert {key: value for key, value in json.loads(text).items() if key != SEAL} == FIELDS


def test_any_other_byte_anywhere_breaks_the_seal() -> None:
    data = json_text(sealed(FIELDS)).encode()
    for position in range(len(data)):
        for mask in (1, 2, 4, 8, 32, 128):
            changed = bytearray(data)
            changed[position] ^= mask
            assert not is_intact(bytes(changed)), changed


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b'{"a": 1}\n', b"\xff"])
def test_what_is_no_sealed_mapping_is_not_intact(data: bytes) -> None:
    assert not is_intact(data)


def test_a_seal_for_other_fields_is_not_intact() -> None:
    other = json_text({**FIELDS, "b": [], SEAL: sealed(FIELDS)[SEAL]})
    assert not is_intact(other.encode())
    laid_out = json.dumps(sealed(FIELDS))
    assert not is_intact(laid_out.encode())
