"""Configurations as plain data and back, and `key=value` overrides, driven by the dataclass types.

A configuration is a frozen dataclass of bool, int, float, str, Path, literals, optional values,
tuples and further dataclasses. Plain data is what JSON and a checkpoint hold: dict, list, str,
numbers, None.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from annotations_schema.errors import UsageError

_Config = TypeVar("_Config")

_EVERY = "*"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def to_plain(value: Any) -> Any:
    """A configuration as plain data: dataclasses become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[_Config], plain: Any) -> _Config:
    """The configuration of this type that `to_plain` would turn into `plain`.

    Raises:
        UsageError: a key is unknown or missing, or a value has another type.
    """
    built: _Config = _build(kind, plain, kind.__name__)
    return built


def with_overrides(config: _Config, assignments: Sequence[str]) -> _Config:
    """The configuration with every `dotted.key=value` applied, left to right.

    A tuple of named things is entered by position, by name or by `*` for all of it:
    `phases.0.steps=10`, `phases.base.steps=10`, `phases.*.objective.perceptual_weight=0`.

    Raises:
        UsageError: no `=`, an unknown key (the nearest names are given), or a value of another
            type or outside its range.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {assignment!r} has no key=value form; write e.g. seed=1")
        config = _replaced(config, type(config), key.split("."), text, key)
    return config


def _replaced(value: Any, kind: Any, path: Sequence[str], text: str, key: str) -> Any:
    if not path:
        if dataclasses.is_dataclass(value):
            raise UsageError(f"--set {key}: it is a group; set one of {_names(value)} in it")
        return _parse(kind, text, key)
    head, rest = path[0], path[1:]
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        chosen = _chosen(value, head, key)
        return tuple(
            _replaced(item, type(item), rest, text, key) if i in chosen else item
            for i, item in enumerate(value)
        )
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        above = key.removesuffix("." + ".".join(path))
        raise UsageError(f"--set {key}: {above} is a single value, nothing lies below it")
    hints = typing.get_type_hints(type(value))
    if head not in hints:
        raise UsageError(f"--set {key}: unknown key {head!r}; {_nearest(head, list(hints))}")
    changed = _replaced(getattr(value, head), hints[head], rest, text, key)
    return dataclasses.replace(value, **{head: changed})


def _chosen(items: tuple[Any, ...], head: str, key: str) -> range | tuple[int]:
    names = [str(getattr(item, "name", i)) for i, item in enumerate(items)]
    if head == _EVERY:
        return range(len(items))
    if head in names:
        return (names.index(head),)
    if head.isdecimal() and int(head) < len(items):
        return (int(head),)
    raise UsageError(f"--set {key}: {head!r} is none of {', '.join(names)} (or a position, or *)")


def _names(value: Any) -> str:
    return ", ".join(f.name for f in dataclasses.fields(value))


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def _parse(kind: Any, text: str, key: str) -> Any:
    """A value of this type from the text of an override."""
    members = _optional_members(kind)
    if members is not None:
        return None if text.lower() in ("none", "null", "") else _parse(members, text, key)
    if typing.get_origin(kind) is tuple:
        parts = [part for part in text.strip("()[] ").split(",") if part.strip()]
        kinds = _tuple_kinds(kind, len(parts), key)
        return tuple(_parse(k, part.strip(), key) for k, part in zip(kinds, parts, strict=True))
    if typing.get_origin(kind) is Literal:
        return _one_of(kind, text, key)
    if kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        raise UsageError(f"{key}={text!r} is not a truth value; write true or false")
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{key}={text!r} is not of type {kind.__name__}") from None


def _build(kind: Any, plain: Any, where: str) -> Any:
    """A value of this type from plain data."""
    members = _optional_members(kind)
    if members is not None:
        return None if plain is None else _build(members, plain, where)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, plain, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(plain, list | tuple):
            raise UsageError(f"{where} is {plain!r}, expected a list")
        kinds = _tuple_kinds(kind, len(plain), where)
        return tuple(
            _build(k, item, f"{where}.{i}")
            for i, (k, item) in enumerate(zip(kinds, plain, strict=True))
        )
    if typing.get_origin(kind) is Literal:
        return _one_of(kind, plain, where)
    if kind is Path and isinstance(plain, str):
        return Path(plain)
    if kind is float and type(plain) is int:
        return float(plain)
    if type(plain) is not kind:
        raise UsageError(f"{where} is {plain!r}, expected type {kind.__name__}")
    return plain


def _build_dataclass(kind: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, Mapping):
        raise UsageError(f"{where} is {plain!r}, expected a group of values")
    hints = typing.get_type_hints(kind)
    if set(plain) != set(hints):
        raise UsageError(f"{where} has keys {sorted(plain)}, expected {sorted(hints)}")
    return kind(**{name: _build(hints[name], plain[name], f"{where}.{name}") for name in hints})


def _optional_members(kind: Any) -> Any:
    """X of `X | None`, else None."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return None
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    return members[0]


def _tuple_kinds(kind: Any, length: int, key: str) -> list[Any]:
    arguments = typing.get_args(kind)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [arguments[0]] * length
    if len(arguments) != length:
        raise UsageError(f"{key} takes {len(arguments)} values, {length} are given")
    return list(arguments)


def _one_of(kind: Any, value: Any, key: str) -> Any:
    allowed = typing.get_args(kind)
    if value not in allowed:
        raise UsageError(f"{key}={value!r} is none of {', '.join(map(str, allowed))}")
    return value
