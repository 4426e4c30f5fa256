"""The words that posters carry: common English words and numbers, chosen for this project."""

from __future__ import annotations

_WORDS = """
    sale open market coffee fresh bread music night summer garden museum station ticket river
    bridge train platform exit north south east west street avenue hotel bakery library school
    concert theatre cinema festival winter spring autumn morning evening lunch dinner breakfast
    pizza pasta salad orange lemon apple cherry honey butter sugar water juice travel island beach
    mountain forest valley ocean harbor airport flight gate boarding luggage passport window door
    left right stop slow danger caution wet floor push pull private public parking taxi bus metro
    ferry bicycle walk run swim dance sing paint draw write read book paper pencil camera photo
    film radio studio gallery poster print color design modern classic vintage original special
    limited edition offer free today only price half extra large small medium quality service
    repair garage engine motor speed power energy light sound silver golden copper marble cotton
    leather wool shirt jacket shoes watch glass kitchen table chair
    10 12 15 18 20 24 25 30 36 40 48 50 60 64 75 80 90 99 100 120 150 250 365 500 1000 1984 1999
    2024 2025 2026
"""

WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""Lower case, letters and digits only, each once."""

HELD_OUT_EVERY = 3
"""One word in three is kept for the posters that nobody trains on."""


def vocabulary(*, held_out: bool) -> tuple[str, ...]:
    """Returns the words of one side of the split; the two sides have no word in common."""
    return tuple(
        word
        for position, word in enumerate(WORDS)
        if (position % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out
    )
