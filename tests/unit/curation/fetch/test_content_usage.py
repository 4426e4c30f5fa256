from __future__ import annotations

import pytest

from curation.fetch.content_usage import USAGE_CATEGORIES, disallowed_usage


@pytest.mark.parametrize(
    ("value", "category"),
    [
        (b"train-ai=n", "train-ai"),
        (b"search=y, train-ai=n", "train-ai"),
        (b"ai=n;for=ever , search=y", "ai"),
        (b"train-ai=y, train-genai=n", "train-genai"),
        (b"train-ai=y, train-ai=n", "train-ai"),  # of one key the last counts: RFC 9651, 3.2
        (b"train-ai=n, train-ai=y", None),
        (b"train-ai=y", None),
        (b"search=n", None),
        (b"train-ai", None),
        (b"train-ai=?0", None),
        (b"train-ai=(n)", None),
        (b"train-ai=N", None),
        (b"train-ai=n, !", None),  # no dictionary, so nothing is said
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_statement_is_a_dictionary_of_y_and_n(value: bytes, category: str | None) -> None:
    assert disallowed_usage(value, USAGE_CATEGORIES) == category


def test_categories_can_be_chosen() -> None:
    assert disallowed_usage(b"train-ai=n", ()) is None
    assert disallowed_usage(b"search=n", ("search",)) == "search"
