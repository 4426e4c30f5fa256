from __future__ import annotations

import time

import pytest
from protego import Protego

from annotations_schema.codes import FailureCode
from curation.fetch.failure import FetchError
from curation.fetch.robots import MAX_ROBOTS_BYTES, parse_robots

NAMES = ("open-insighttok", "img2dataset")
HOST = "https://pictures.test"


def refusal(text: str | bytes, path: str) -> FetchError | None:
    data = text.encode() if isinstance(text, str) else text
    try:
        parse_robots(data, NAMES).check(HOST + path, ("train-ai",))
    except FetchError as error:
        return error
    return None


def everyone(*rules: str) -> str:
    return "\n".join(("User-agent: *", *rules))


PATHS = [
    pytest.param(["Disallow: /"], "/a", False, id="all"),
    pytest.param(["Disallow:"], "/a", True, id="nothing"),
    pytest.param([], "/a", True, id="no rules"),
    pytest.param(["Disallow: /private"], "/private-not/x", False, id="a prefix"),
    pytest.param(["Disallow: /private/"], "/private", True, id="shorter than the prefix"),
    pytest.param(["Disallow: /p", "Allow: /p/a"], "/p/a/b", True, id="longest allows"),
    pytest.param(["Allow: /p", "Disallow: /p/a"], "/p/a/b", False, id="longest refuses"),
    pytest.param(["Disallow: /p/a", "Allow: /p/a"], "/p/a", True, id="allow wins a tie"),
    pytest.param(["Disallow: /*.gif$"], "/x/y.gif", False, id="star and end"),
    pytest.param(["Disallow: /*.gif$"], "/x/y.gif?size=1", True, id="the query is behind the end"),
    pytest.param(["Disallow: /*.gif$"], "/x/y.gifs", True, id="not at the end"),
    pytest.param(["Disallow: /a*b*c"], "/a-b-b-c-d", False, id="two stars"),
    pytest.param(["Disallow: /a*b*c"], "/a-c-b", True, id="stars in another order"),
    pytest.param(["Disallow: /a*$"], "/abc", False, id="star before the end"),
    pytest.param(["Disallow: /ab*ab$"], "/ab", True, id="parts do not overlap"),
    pytest.param(["Disallow: *secret"], "/x/secret/y", False, id="begins with a star"),
    pytest.param(["Disallow: /$"], "/", False, id="the root alone"),
    pytest.param(["Disallow: /$"], "/a", True, id="not below the root"),
    pytest.param(["Disallow: /?page"], "/?page=2", False, id="the query counts"),
    pytest.param(["Disallow: /caf\u00e9/"], "/caf%C3%A9/a", False, id="not ASCII in the rule"),
    pytest.param(["Disallow: /caf%c3%a9/"], "/caf%C3%A9/a", False, id="escapes in lower case"),
    pytest.param(["Disallow: /%7Ejoe/"], "/~joe/a", False, id="an escape nobody needs"),
    pytest.param(["Disallow: /a%2Fb"], "/a/b", True, id="an escaped slash is none"),
    pytest.param(["Disallow: /a%2Ab"], "/a*b", False, id="an escaped star is a star"),
    pytest.param(["Disallow: /a%2Ab"], "/axb", True, id="and no more"),
    pytest.param(["Disallow: /price$list"], "/price$list", False, id="a dollar inside"),
    pytest.param(["Disallow: /a # and more"], "/a", False, id="a comment"),
    pytest.param(["  DISALLOW :   /a  "], "/a", False, id="any case, any space"),
    pytest.param(["Disallow /a"], "/b", True, id="a line without a colon"),
]


@pytest.mark.parametrize(("rules", "path", "is_allowed"), PATHS)
def test_paths_are_matched_as_rfc_9309_says(rules: list[str], path: str, is_allowed: bool) -> None:
    text = everyone(*rules)
    assert (refusal(text, path) is None) is is_allowed
    # A second opinion: the parser that Scrapy uses.
    assert Protego.parse(text).can_fetch(HOST + path, "open-insighttok") is is_allowed


GROUPS = [
    pytest.param("User-agent: other\nDisallow: /", True, id="another crawler"),
    pytest.param("User-agent: Open-InsightTok\nDisallow: /", False, id="our name in any case"),
    pytest.param("User-agent: open-insighttok/1.0\nDisallow: /", False, id="with a version"),
    pytest.param("User-agent: img2dataset\nDisallow: /", False, id="our downloader's name"),
    pytest.param("User-agent: insighttok\nDisallow: /", True, id="a part of our name"),
    pytest.param(
        "User-agent: *\nDisallow: /\n\nUser-agent: open-insighttok\nDisallow: /b",
        True,
        id="our group replaces that of everyone",
    ),
    pytest.param(
        "User-agent: open-insighttok\nDisallow:\n\nUser-agent: *\nDisallow: /",
        True,
        id="an empty group of ours",
    ),
    pytest.param(
        "User-agent: open-insighttok\nDisallow: /b\nUser-agent: x\nDisallow: /c\n"
        "User-agent: open-insighttok\nDisallow: /a",
        False,
        id="two groups of ours are one",
    ),
    pytest.param(
        "User-agent: other\nUser-agent: open-insighttok\n\nDisallow: /", False, id="two in a group"
    ),
    pytest.param("Disallow: /\nUser-agent: other\nAllow: /", True, id="a rule without a group"),
    pytest.param(
        "User-agent: other\nSitemap: http://x/y\nUser-agent: *\nDisallow: /",
        False,
        id="a sitemap does not end a group's names",
    ),
    pytest.param("\ufeffUser-agent: *\r\nDisallow: /\r\n", False, id="a byte order mark, CRLF"),
    pytest.param("<html><body>User-agent: x</body></html>", True, id="a page"),
    pytest.param("", True, id="empty"),
]


@pytest.mark.parametrize(("text", "is_allowed"), GROUPS)
def test_the_group_that_names_us_counts_else_that_of_everyone(text: str, is_allowed: bool) -> None:
    assert (refusal(text, "/a") is None) is is_allowed


def test_a_refusal_names_the_rule() -> None:
    error = refusal(everyone("Allow: /", "Disallow: /private/*.jpg"), "/private/a.jpg")
    assert error is not None
    assert error.code is FailureCode.OPTOUT_ROBOTS_TXT
    assert error.detail == "robots.txt: user-agent *: disallow /private/*.jpg"
    long = refusal(everyone("Disallow: /" + "*" * 1000), "/a")
    assert long is not None
    assert len(long.detail) == 256


USAGES = [
    pytest.param(["Content-Usage: train-ai=n"], "/a", False, id="everywhere"),
    pytest.param(["Content-Usage: /a train-ai=n"], "/a/b", False, id="by path"),
    pytest.param(["Content-Usage: /a\ttrain-ai=n"], "/a/b", False, id="a tab between"),
    pytest.param(["Content-Usage: /a train-ai=n"], "/b", True, id="another path"),
    pytest.param(
        ["Content-Usage: train-ai=n", "Content-Usage: /ok/ train-ai=y"], "/ok/a", True, id="longest"
    ),
    pytest.param(
        ["Content-Usage: train-ai=y", "Content-Usage: /no/ train-ai=n"],
        "/no/a",
        False,
        id="longest refuses",
    ),
    pytest.param(
        ["Content-Usage: /a train-ai=y", "Content-Usage: /a train-ai=n"],
        "/a",
        False,
        id="of equal paths the stricter",
    ),
    pytest.param(["Content-Usage: search=n"], "/a", True, id="another use"),
    pytest.param(["Content-Usage: /a"], "/a", True, id="no statement"),
    pytest.param(["Content-Usage: train-ai=n # all of it"], "/a", False, id="a comment"),
]


@pytest.mark.parametrize(("rules", "path", "is_allowed"), USAGES)
def test_content_usage_rules_follow_their_draft(
    rules: list[str], path: str, is_allowed: bool
) -> None:
    error = refusal(everyone("Allow: /", *rules), path)
    assert (error is None) is is_allowed
    if error is not None:
        assert error.code is FailureCode.OPTOUT_CONTENT_USAGE
        assert error.detail.startswith("robots.txt: user-agent *: content-usage ")
        assert error.detail.endswith("train-ai=n")


def test_what_is_over_the_cap_is_not_read() -> None:
    padding = "#" * (MAX_ROBOTS_BYTES - 40) + "\n"
    within = padding + everyone("Disallow: /")
    beyond = padding + "#" * 40 + "\n" + everyone("Disallow: /")
    assert refusal(within[:MAX_ROBOTS_BYTES], "/a") is not None
    assert refusal(beyond, "/a") is None


@pytest.mark.parametrize(
    "text",
    [
        everyone("Disallow: /" + "*a" * 2000 + "b"),
        everyone(*("Disallow: /*a*a*a*a*a*a*a*a*a*b" for _ in range(10_000))),
        "User-agent: x\n" * 30_000,
        "User-agent: x\n" * 15_000 + "Allow: /a\n" * 25_000,
        "User-agent: *\n" * 15_000 + "Allow: /a\n" * 25_000,
        bytes(range(256)) * 2000,
    ],
    ids=["many stars", "many rules", "many names", "names by rules", "one name often", "noise"],
)
def test_an_evil_file_takes_little_time(text: str | bytes) -> None:
    started = time.monotonic()
    assert refusal(text, "/" + "a" * 2000) is None
    assert time.monotonic() - started < 2
