"""Whether the headers of an answer opt its image out of this use.

X-Robots-Tag (RFC-less, as Google and DeviantArt documented it) holds comma-separated directives. A
directive may be scoped to a crawler: `googlebot: noindex` binds that crawler alone, and the scope
lasts until the next one in the same header line. `none` means `noindex, nofollow`.
Content-Usage is read by curation.fetch.content_usage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from http.client import HTTPMessage
from typing import NamedTuple

from annotations_schema.codes import FailureCode
from curation.fetch.content_usage import disallowed_usage
from curation.fetch.failure import FetchError

OPTOUT_DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives that opt an image out."""

_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)
_NONE_MEANS = "noindex"


class Directive(NamedTuple):
    """One directive and the crawler it binds; scope None binds everyone. Both in lower case."""

    scope: str | None
    name: str


class HeaderRules(NamedTuple):
    """What in a header refuses an image."""

    names: tuple[str, ...]
    """Product names that we answer to, lower case."""
    directives: tuple[str, ...]
    """X-Robots-Tag directives."""
    categories: tuple[str, ...]
    """Content-Usage categories, where the preference is `n`."""

    def check(self, headers: HTTPMessage) -> None:
        """Refuse an answer that opts out.

        Raises:
            FetchError: OPTOUT_X_ROBOTS or OPTOUT_CONTENT_USAGE; its detail is the rule.
        """
        tags = headers.get_all("X-Robots-Tag")
        directive = opted_out(tags, self.names, self.directives) if tags else None
        if directive is not None:
            scope = "" if directive.scope is None else f"{directive.scope}: "
            words = f"X-Robots-Tag: {scope}{directive.name}"
            raise FetchError(FailureCode.OPTOUT_X_ROBOTS, words)
        usages = headers.get_all("Content-Usage")
        if usages:
            # Lines of one field are one list; http.client read them as Latin-1.
            value = ", ".join(usages).encode("iso-8859-1", "replace")
            category = disallowed_usage(value, self.categories)
            if category is not None:
                words = f"Content-Usage: {category}=n"
                raise FetchError(FailureCode.OPTOUT_CONTENT_USAGE, words)


def opted_out(
    header_values: Iterable[str],
    user_agents: Collection[str],
    directives: Collection[str] = OPTOUT_DIRECTIVES,
) -> Directive | None:
    """The first directive that opts the image out for one of our names, or None.

    Args:
        header_values: the value of each X-Robots-Tag line.
        user_agents: product names that we answer to, lower case.
        directives: names that opt out, lower case.
    """
    for directive in _parsed(header_values):
        is_ours = directive.scope is None or directive.scope in user_agents
        name = _NONE_MEANS if directive.name == "none" else directive.name
        if is_ours and name in directives:
            return directive
    return None


def product_name(user_agent: str) -> str:
    """The product of a User-Agent string, in lower case: `Name/1.0 (words)` is `name`."""
    return user_agent.split("/", 1)[0].split(" ", 1)[0].strip().lower()


def _parsed(header_values: Iterable[str]) -> Iterator[Directive]:
    for value in header_values:
        scope: str | None = None
        for part in value.lower().split(","):
            head, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and head not in _WITH_VALUE:
                scope = None if head == "*" else head
                head = rest.split(":", 1)[0].strip()
            if head:
                yield Directive(scope, head)
