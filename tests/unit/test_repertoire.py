"""Text in the character sets of DICOM: written as pydicom reads it."""

import pytest
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.valuerep import PersonName

from dicomweb.repertoire import ASCII, UTF8, repertoire

HELD = [
    ("", "Plain^Name"),
    ("ISO_IR 100", "Müller^Jörg"),
    ("ISO_IR 101", "Wałęsa"),
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 144", "Люкceмбypг"),
    ("ISO_IR 148", "Çavuşoğlu"),
    ("ISO_IR 166", "นามสกุล"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东 😀"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("GBK", "Wang^XiaoDong=王^小东"),
    ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    ("\\ISO 2022 IR 87\\ISO 2022 IR 159", "山丂^丄"),
    ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO 2022 IR 100\\ISO 2022 IR 126", "Müller^Δίας é^é=Ωμ"),
]


@pytest.mark.parametrize(("term", "text"), HELD)
def test_what_is_written_is_what_pydicom_reads(term: str, text: str) -> None:
    found = repertoire(term.encode())
    assert found is not None
    data = found.encode(text)
    assert data is not None
    encodings = convert_encodings(term.split("\\"))
    assert decode_bytes(data, encodings, set("\\^=")) == text
    assert str(PersonName(data, encodings)) == text


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("", "é"),
        ("ISO_IR 100", "山田"),
        ("ISO_IR 100", "€"),
        ("ISO_IR 13", "山田"),
        ("\\ISO 2022 IR 87", "é"),
        ("GBK", "😀"),
        ("ISO_IR 100", "a\x1bb"),
    ],
)
def test_what_it_cannot_hold(term: str, text: str) -> None:
    found = repertoire(term.encode())
    assert found is not None
    assert found.encode(text) is None


def test_terms_that_nobody_defined() -> None:
    assert repertoire(b"ISO_IR 999") is None
    assert repertoire(b"utf-16") is None
    assert repertoire(b"ISO_IR 192 ") is UTF8
    assert repertoire(b"ISO_IR 6") is repertoire(b"") is ASCII


def test_the_first_character_set_is_active_before_every_delimiter() -> None:
    """PS3.5 6.1.2.5.3, and the example of annex H.3.1."""
    found = repertoire(b"\\ISO 2022 IR 87")
    assert found is not None
    assert found.encode("Yamada^Tarou=山田^太郎") == b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    assert found.encode("山\r\n田\\山") == b"\x1b$B;3\x1b(B\r\n\x1b$BED\x1b(B\\\x1b$B;3\x1b(B"
