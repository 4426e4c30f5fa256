"""Weights as cards: what a network's file is, where it is found, whether it is the right one.

A card names a file inside an installed package (embedded weights: they work offline), or a file
that the user gives by path (the networks of the paper). Nothing is downloaded here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from annotations_schema.errors import WeightsError
from annotations_schema.layout import sha256_file


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsCard:
    """One file of weights."""

    name: str
    """Name used on the command line, such as "sface"."""
    role: str
    """What the network does, such as "face recogniser"."""
    file: str
    """Path inside `package`, or the bare name of a file that the user gives."""
    sha256: str | None
    """Hex sha256 of the weights, or None where the project never saw the file."""
    licence: str
    """SPDX id, or words where none fits."""
    input: str
    """What the network takes, in words: size, channel order, range."""
    package: str | None = None
    """Import name of the installed package that holds the file."""
    attribute: str | None = None
    """Name of a bytes literal inside `file`, where a package keeps weights in a Python module."""
    hint: str = ""
    """What to do when the file is absent."""


def resolve(card: WeightsCard, path: Path | None = None) -> Path:
    """The file of a card: the explicit path, else the installed package; its hash is checked.

    Raises:
        WeightsError: the file is absent, or its sha256 is not the card's.
    """
    found = path if path is not None else _in_package(card)
    if not found.is_file():
        raise WeightsError(f"{card.name}: no weights at {found}; {_mend(card)}")
    # A path given by the user is the weights file itself, also where a package wraps it.
    is_weights_file = card.attribute is None or path is not None
    if card.sha256 is not None and is_weights_file:
        _check(card, sha256_file(found), found)
    return found


def read_weights(card: WeightsCard, path: Path | None = None) -> bytes:
    """The bytes of a card's weights, hash checked.

    Raises:
        WeightsError: as `resolve`, or the module holds no such literal.
    """
    found = resolve(card, path)
    if card.attribute is None or path is not None:
        return found.read_bytes()
    data = _bytes_literal(card, found)
    if card.sha256 is not None:
        _check(card, hashlib.sha256(data).hexdigest(), found)
    return data


def weights_sha256(card: WeightsCard, path: Path | None = None) -> str:
    """Hex sha256 of the weights that `read_weights` returns."""
    return hashlib.sha256(read_weights(card, path)).hexdigest()


def _in_package(card: WeightsCard) -> Path:
    if card.package is None:
        raise WeightsError(f"{card.name}: {card.file} is not part of a package; {_mend(card)}")
    # find_spec of a top-level package does not import it.
    spec = importlib.util.find_spec(card.package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"{card.name}: package {card.package} is not installed; {_mend(card)}")
    return Path(spec.submodule_search_locations[0]) / card.file


def _bytes_literal(card: WeightsCard, module: Path) -> bytes:
    for node in ast.parse(module.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if card.attribute in names and isinstance(node, ast.Assign):
            value = ast.literal_eval(node.value)
            if isinstance(value, bytes):
                return value
    raise WeightsError(
        f"{card.name}: {module} holds no bytes named {card.attribute}; {_mend(card)}"
    )


def _check(card: WeightsCard, found_sha256: str, where: Path) -> None:
    if found_sha256 != card.sha256:
        raise WeightsError(
            f"{card.name}: {where} has sha256 {found_sha256[:16]}..., expected "
            f"{str(card.sha256)[:16]}...; {_mend(card)}"
        )


def _mend(card: WeightsCard) -> str:
    return card.hint or "install the extra 'embedded' or give the file's path"
