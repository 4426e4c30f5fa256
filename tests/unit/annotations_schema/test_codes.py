import pytest

import annotations_schema
from annotations_schema.codes import FailureCode, Status


def test_every_code_has_a_meaning_and_a_status_that_is_not_ok():
    for code in FailureCode:
        assert code.meaning.endswith(".")
        assert code.status is not Status.OK


def test_no_code_is_named_like_a_status():
    # Receipts count both in one mapping.
    assert not {str(code) for code in FailureCode} & {str(status) for status in Status}


@pytest.mark.parametrize(
    ("http_status", "code", "is_transient"),
    [
        (404, FailureCode.HTTP_404, False),
        (418, FailureCode.HTTP_4XX, False),
        (429, FailureCode.HTTP_429, True),
        (503, FailureCode.HTTP_503, True),
        (599, FailureCode.HTTP_5XX, True),
        (304, FailureCode.HTTP_UNEXPECTED, False),
    ],
)
def test_http_statuses_have_codes(http_status, code, is_transient):
    assert FailureCode.from_http_status(http_status) is code
    assert code.is_transient is is_transient


def test_refusals_are_ours_and_not_failures():
    refused = {code for code in FailureCode if code.status is Status.REFUSED}
    optouts = {code for code in FailureCode if code.value.startswith("optout_")}
    assert refused == {FailureCode.ADDRESS_BLOCKED, *optouts}


def test_all_is_what_the_package_offers():
    offered = {name for name in annotations_schema.__all__ if hasattr(annotations_schema, name)}
    assert offered == set(annotations_schema.__all__)
