from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from curation.fetch.failure import FetchError
from curation.fetch.robots import Pattern, parse_robots

LAW = settings(deadline=None)
# Few letters, so that patterns often match.
PATTERNS = st.text("ab/*", max_size=8).map("/{}".format)
PATHS = st.text("ab/", max_size=10).map("/{}".format)


@LAW
@given(PATTERNS, PATHS, st.booleans())
def test_a_pattern_matches_as_its_regular_expression_does(
    text: str, path: str, is_anchored: bool
) -> None:
    expression = ".*".join(map(re.escape, text.split("*"))) + ("$" if is_anchored else "")
    expected = re.match(expression, path) is not None
    assert Pattern.of(text + "$" * is_anchored).matches(path) is expected


@LAW
@given(st.lists(st.tuples(st.booleans(), PATTERNS), max_size=6), PATHS)
def test_the_longest_match_decides_whatever_the_order(
    rules: list[tuple[bool, str]], path: str
) -> None:
    matching = [(len(text), allows) for allows, text in rules if Pattern.of(text).matches(path)]
    expected = max(matching)[1] if matching else True  # of equal lengths Allow counts
    for order in (rules, rules[::-1]):
        lines = [f"{'Allow' if allows else 'Disallow'}: {text}" for allows, text in order]
        robots = parse_robots("\n".join(["User-agent: *", *lines]).encode(), ())
        try:
            robots.check(f"http://h{path}", ())
            is_allowed = True
        except FetchError:
            is_allowed = False
        assert is_allowed is expected


@LAW
@given(st.binary(max_size=300), st.text("ab/%*$?=é", max_size=20))
def test_any_bytes_are_a_robots_txt(data: bytes, tail: str) -> None:
    robots = parse_robots(b"User-agent: *\n" + data, ("a",))
    refusal = "robots.txt: user-agent *: "
    try:
        robots.check(f"http://h/{tail}", ("train-ai",))
    except FetchError as error:
        refusal = error.detail
    assert refusal.startswith("robots.txt: user-agent ")
    assert len(refusal) <= 256
