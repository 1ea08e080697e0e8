"""Folding for search, and that the trigram index never loses a match."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.fold import fold, fold_name, trigrams, trigrams_of_pattern, wildcard_to_like


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Müller^JÖRG", "muller^jorg"),
        ("Straße", "strasse"),
        ("Łukasz Øster Ærø", "lukasz oster aero"),
        ("İstanbul ıI", "istanbul ii"),
        ("ＡＢＣ１２３", "abc123"),
        ("ﾔﾏﾀﾞ", "ヤマダ"),
        ("山田^太郎", "山田^太郎"),
        ("김희중", "김희중"),
        ("Μέγας ΣΊΣΥΦΟΣ", "μεγασ σισυφοσ"),
        ("Ёлкин", "елкин"),
        ("שָׁלוֹם", "שלום"),
        ("  two \t\n blanks\u3000here ", "two blanks here"),
        ("A\0B\x02\ud800C", "abc"),
        ("e\u0301 \ufb01", "e fi"),
        ("100%_\\*?", "100%_\\*?"),
        ("", ""),
    ],
)
def test_fold(text: str, folded: str) -> None:
    assert fold(text) == folded
    assert fold(folded) == folded


def test_letters_of_other_scripts_stay_apart() -> None:
    assert fold("が") != fold("か")
    assert fold("กี") != fold("ก")


@settings(deadline=None)
@given(st.text(max_size=10))
def test_fold_is_idempotent_and_storable(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    folded.encode("utf-8")
    assert "\0" not in folded
    assert "\x02" not in folded


@settings(deadline=None)
@given(st.text(max_size=20))
def test_normal_form_does_not_count(text: str) -> None:
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Doe^John", "doe^john"),
        ("Doe ^ John ^^^", "doe^john"),
        ("DOE^JOHN^^=", "doe^john"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou=山田^太郎=やまだ^たろう"),
        ("=山田^=", "=山田"),
        ("^John", "^john"),
        ("^^=", ""),
        ("doe*", "doe*"),
    ],
)
def test_fold_name(name: str, folded: str) -> None:
    assert fold_name(name) == folded
    assert fold_name(folded) == folded


@pytest.mark.parametrize(
    ("pattern", "like"),
    [
        ("a*b?c", "a%b_c"),
        ("**", "%"),
        ("100%_\\", r"100\%\_\\"),
        ("*", "%"),
        ("%1234", r"\%1234"),
        ("_1234", r"\_1234"),
    ],
)
def test_wildcard_to_like(pattern: str, like: str) -> None:
    assert wildcard_to_like(pattern) == like
    assert wildcard_to_like(pattern.upper(), folded=True) == like


def test_trigrams() -> None:
    assert trigrams("smith", "n") == sorted(["n\x02sm", "nsmi", "nmit", "nith", "nth\x02"])
    assert trigrams("aaaaa") == ["\x02aa", "aa\x02", "aaa"]
    assert trigrams("a", "p") == ["p\x02a\x02"]
    assert trigrams("") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*foo*", ["foo"]),
        ("fo*", ["\x02fo"]),
        ("*fo", ["fo\x02"]),
        ("*fo*", []),
        ("f*", []),
        ("*", []),
        ("", []),
        ("?oo?", []),
        ("ab", ["\x02ab", "ab\x02"]),
        ("*foo*bar*", ["bar", "foo"]),
    ],
)
def test_trigrams_of_pattern(pattern: str, expected: list[str]) -> None:
    assert trigrams_of_pattern(pattern) == expected
    assert trigrams_of_pattern(pattern, "n") == ["n" + trigram for trigram in expected]


def matches_like(like: str, text: str) -> bool:
    """LIKE with backslash escapes, as PostgreSQL reads it."""
    parts = re.findall(r"\\.|.", like, re.DOTALL)
    return (
        re.fullmatch(
            "".join(
                ".*" if part == "%" else "." if part == "_" else re.escape(part[-1] if len(part) == 2 else part)
                for part in parts
            ),
            text,
            re.DOTALL,
        )
        is not None
    )


_TEXT = st.text(alphabet="abcÄß %_\\^", max_size=12)


@settings(deadline=None)
@given(_TEXT, st.data())
def test_a_pattern_made_from_a_text_finds_it(text: str, data: st.DataObject) -> None:
    stored = fold(text)
    pattern = ""
    position = 0
    while position < len(stored):
        step = data.draw(st.sampled_from(["keep", "one", "run"]))
        width = data.draw(st.integers(0, 4)) if step == "run" else 1
        pattern += {"keep": stored[position : position + 1], "one": "?", "run": "*"}[step]
        position += width
    if fold(pattern) != pattern:  # blanks at the ends of a pattern are no part of it
        return
    assert matches_like(wildcard_to_like(pattern, folded=True), stored)
    assert set(trigrams_of_pattern(pattern, "n")) <= set(trigrams(stored, "n"))


@settings(deadline=None)
@given(_TEXT, st.text(alphabet="ab*?% ", max_size=8))
def test_the_index_never_loses_a_match(text: str, pattern: str) -> None:
    stored, wanted = fold(text), fold(pattern)
    if wanted and matches_like(wildcard_to_like(wanted), stored):
        assert set(trigrams_of_pattern(wanted)) <= set(trigrams(stored))
