from __future__ import annotations

import pytest

from curation.fetch.optout import OPTOUT_DIRECTIVES, Directive, opted_out, product_name

US = ("open-insighttok", "img2dataset")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(["noai"], Directive(None, "noai"), id="noai"),
        pytest.param(["NoImageAI"], Directive(None, "noimageai"), id="any case"),
        pytest.param(["nofollow, noindex"], Directive(None, "noindex"), id="second in a list"),
        pytest.param(["noarchive", "noimageindex"], Directive(None, "noimageindex"), id="2 lines"),
        pytest.param(["none"], Directive(None, "none"), id="none means noindex, nofollow"),
        pytest.param(["*: noai"], Directive(None, "noai"), id="everyone by star"),
        pytest.param(["open-insighttok: noai"], Directive(US[0], "noai"), id="us by name"),
        pytest.param(["IMG2DATASET: noindex"], Directive(US[1], "noindex"), id="our downloader"),
        pytest.param(
            ["otherbot: noindex, open-insighttok: noai"],
            Directive(US[0], "noai"),
            id="a second scope in one line",
        ),
        pytest.param(
            ["otherbot: noindex", "noai"], Directive(None, "noai"), id="scope ends with its line"
        ),
        pytest.param(
            ["unavailable_after: 25 Jun 2027 15:00:00 PST, noai"],
            Directive(None, "noai"),
            id="a directive with a value is no scope",
        ),
        pytest.param([" , noai ,"], Directive(None, "noai"), id="empty parts"),
    ],
)
def test_opt_out_is_found(values: list[str], expected: Directive) -> None:
    assert opted_out(values, US) == expected


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="no header"),
        pytest.param([""], id="empty header"),
        pytest.param(["all"], id="all"),
        pytest.param(["nofollow, noarchive, max-snippet: 50"], id="other directives"),
        pytest.param(["otherbot: noindex"], id="another crawler"),
        pytest.param(["otherbot: nofollow, noai"], id="scope lasts in its line"),
        pytest.param(["otherbot: none"], id="none for another crawler"),
        pytest.param(["xnoai, noaix"], id="words that only contain one"),
        pytest.param(["unavailable_after: 25 Jun 2027 15:00:00 PST"], id="date"),
    ],
)
def test_no_opt_out_of_ours(values: list[str]) -> None:
    assert opted_out(values, US) is None


def test_directives_can_be_chosen() -> None:
    assert opted_out(["noindex"], US, ("noai",)) is None
    assert opted_out(["noindex, noai"], US, ("noai",)) == Directive(None, "noai")
    assert opted_out(["noai"], US, ()) is None
    assert set(OPTOUT_DIRECTIVES) == {"noai", "noimageai", "noindex", "noimageindex"}


@pytest.mark.parametrize(
    ("user_agent", "product"),
    [("Open-InsightTok/1.0 (words)", "open-insighttok"), ("bot", "bot"), ("a b/1", "a")],
)
def test_product_name_of_a_user_agent(user_agent: str, product: str) -> None:
    assert product_name(user_agent) == product
