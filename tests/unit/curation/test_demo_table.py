from __future__ import annotations

from curation.demo.table import Section, render_table


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    section = Section(
        "Text",
        ("tokenizer", "T-ACC", "words"),
        (("resize only", 0.9876, 93), ("tiny", 0.25, 7), ("none", None, 100)),
    )

    assert render_table([section]).splitlines() == [
        "== Text =================",
        "tokenizer    T-ACC  words",
        "resize only  0.988     93",
        "tiny         0.250      7",
        "none             -    100",
        "=" * 25,
    ]


def test_sections_are_as_wide_as_the_widest() -> None:
    narrow = Section("A", ("x",), (("1",),))
    wide = Section("B", ("a long heading", "another"), (("1", "2"),))

    lines = render_table([narrow, wide]).splitlines()

    rules = [line for line in lines if line.startswith("==")]
    assert len(rules) == 3
    assert {len(rule) for rule in rules} == {len("a long heading  another")}


def test_a_title_is_never_cut() -> None:
    title = "A title that is longer than every row below it"

    lines = render_table([Section(title, ("x",), ((1,),))]).splitlines()

    assert f" {title} " in lines[0]
    assert len(lines[-1]) == len(lines[0])


def test_a_note_stands_below_the_rows() -> None:
    section = Section("A", ("x",), (("1",),), "a note that is longer than the rows")

    lines = render_table([section]).splitlines()

    assert lines[-2] == "a note that is longer than the rows"
    assert len(lines[-1]) == len(lines[-2])
