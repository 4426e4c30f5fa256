"""robots.txt (RFC 9309): what a host lets our user agent fetch, and the rule that says so.

Our own reading, because a refused row names the rule that refused it, and because Content-Usage
rules (draft-ietf-aipref-attach) belong to the same groups: parsers that exist answer yes or no.

The longest matching pattern decides, and Allow wins a tie. `*` stands for any characters, `$` at
the end for the end of the path. A group counts where it names one of our products; without such a
group that of `*` counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from string import punctuation
from typing import NamedTuple
from urllib.parse import quote

from annotations_schema.codes import FailureCode
from curation.fetch.content_usage import disallowed_usage
from curation.fetch.failure import FetchError

MAX_ROBOTS_BYTES = 500 * 1024
"""What is read of a robots.txt; RFC 9309 asks for this much at least."""

_RULE_FIELDS = frozenset({"allow", "disallow", "content-usage"})
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Pattern(NamedTuple):
    """A path pattern: its parts between `*`, and whether it reaches to the end of the path."""

    parts: tuple[str, ...]
    is_anchored: bool
    length: int

    @classmethod
    def of(cls, text: str) -> Pattern:
        """The pattern of a rule's path."""
        is_anchored = text.endswith("$")
        body = _normal(text.removesuffix("$")).replace("$", "%24")
        return cls(tuple(body.split("*")), is_anchored, len(body) + is_anchored)

    def matches(self, path: str) -> bool:
        """Whether it matches a normal path from its start; in time linear in both."""
        first, *rest = self.parts
        if not path.startswith(first):
            return False
        position = len(first)
        if not rest:
            return not self.is_anchored or len(path) == position
        for part in rest[:-1]:
            found = path.find(part, position)
            if found < 0:
                return False
            position = found + len(part)
        if self.is_anchored:
            return path.endswith(rest[-1]) and len(path) - len(rest[-1]) >= position
        return path.find(rest[-1], position) >= 0


class Rule(NamedTuple):
    """One line of a group that counts for us."""

    agent: str
    """Whom its group names."""
    field: str
    """allow, disallow or content-usage."""
    value: str
    """As it was written."""
    pattern: Pattern
    usage: bytes = b""
    """The statement of a content-usage rule."""

    def __str__(self) -> str:
        return f"robots.txt: user-agent {self.agent}: {self.field} {self.value}"


class Robots(NamedTuple):
    """The rules of one host for us, the strongest first."""

    access: tuple[Rule, ...] = ()
    usages: tuple[Rule, ...] = ()

    def check(self, url: str, categories: Collection[str]) -> None:
        """Refuse a canonical URL that a rule opts out.

        Args:
            url: a URL of the host.
            categories: categories of use that must not be `n`.

        Raises:
            FetchError: OPTOUT_ROBOTS_TXT or OPTOUT_CONTENT_USAGE; its detail is the rule.
        """
        if not self.access and not self.usages:
            return
        path = _path_of(url)
        for rule in self.access:
            if rule.pattern.matches(path):
                if rule.field == "disallow":
                    raise FetchError(FailureCode.OPTOUT_ROBOTS_TXT, str(rule))
                break
        longest = None
        for rule in self.usages:
            if longest is not None and rule.pattern.length < longest:
                break
            if rule.pattern.matches(path):
                longest = rule.pattern.length
                if disallowed_usage(rule.usage, categories) is not None:
                    raise FetchError(FailureCode.OPTOUT_CONTENT_USAGE, str(rule))


def parse_robots(data: bytes, names: Collection[str]) -> Robots:
    """The rules for us.

    Args:
        data: a robots.txt; what is longer than MAX_ROBOTS_BYTES is not read.
        names: our product names, lower case.
    """
    text = data[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "surrogateescape")
    groups = list(_groups(text, {*names, "*"}))
    ours = [rule for agent, rules in groups if agent in names for rule in rules]
    if not any(agent in names for agent, _ in groups):
        ours = [rule for agent, rules in groups if agent == "*" for rule in rules]
    access = [rule for rule in ours if rule.field != "content-usage"]
    usages = [rule for rule in ours if rule.field == "content-usage"]
    return Robots(
        tuple(sorted(access, key=lambda rule: (-rule.pattern.length, rule.field))),
        tuple(sorted(usages, key=lambda rule: -rule.pattern.length)),
    )


def _groups(text: str, wanted: Collection[str]) -> Iterator[tuple[str, Sequence[Rule]]]:
    """Each wanted user agent with the rules of its group, for each group that names it.

    Rules are made for those alone: thousands of agents over thousands of rules would take minutes
    and gigabytes.
    """
    agents: list[str] = []
    lines: list[tuple[str, str]] = []
    for line in re.split(r"\r\n|\r|\n", text):
        field, colon, value = (part.strip() for part in line.partition("#")[0].partition(":"))
        field = field.lower()
        if field == "user-agent" and colon:
            if lines:
                yield from _group(agents, lines)
                agents, lines = [], []
            agent = re.split(r"[/\s]", value, maxsplit=1)[0].lower()
            if agent in wanted and agent not in agents:
                agents.append(agent)
        elif field in _RULE_FIELDS and colon and agents:
            lines.append((field, value))
    yield from _group(agents, lines)


def _group(
    agents: Sequence[str], lines: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, Sequence[Rule]]]:
    for agent in agents:
        yield agent, [_rule(agent, field, value) for field, value in lines if value]


def _rule(agent: str, field: str, value: str) -> Rule:
    if field != "content-usage":
        return Rule(agent, field, value, Pattern.of(value))
    path, usage = "", value
    if value.startswith("/"):
        path, _, usage = value.replace("\t", " ").partition(" ")
    sent = usage.strip().encode("utf-8", "surrogateescape")
    return Rule(agent, field, value, Pattern.of(path), sent)


def _path_of(url: str) -> str:
    return _normal("/" + url.split("/", 3)[3]).replace("*", "%2A").replace("$", "%24")


def _normal(text: str) -> str:
    """Percent-encoding in one spelling: unreserved characters bare, other escapes upper case."""
    return _ESCAPE.sub(_unescaped, quote(text, safe=punctuation, errors="surrogateescape"))


def _unescaped(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()
