"""Media types as clients write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.errors import BadRequest
from dicomweb.media import FRAME_MEDIA_TYPE_OF, MediaType, parse_media_type, parse_media_types


def test_parts_of_a_media_type() -> None:
    media = parse_media_type(
        'Multipart/Related; TYPE="application/dicom"; Boundary=a=b ;; transfer-syntax=*;transfer-syntax="1.2"'
    )
    assert media.essence == "multipart/related"
    assert media.get("type") == "application/dicom"
    assert media.params == {"type": "application/dicom", "boundary": "a=b", "transfer-syntax": "*"}
    assert media.all("transfer-syntax") == ("*", "1.2")
    assert media.get("charset") is None
    assert hash(media) == hash(
        parse_media_type(
            " multipart/related ;type=application/dicom;boundary=a=b;transfer-syntax=*;transfer-syntax=1.2"
        )
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a/b; x=application/dicom", "application/dicom"),
        ('a/b; x="; ,"', "; ,"),
        (r'a/b; x="q\"\\"', 'q"\\'),
        ("a/b;x=*/*", "*/*"),
    ],
)
def test_parameter_values(text: str, value: str) -> None:
    assert parse_media_type(text).get("x") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/",
        "/b",
        "a b/c",
        "a/b/c",
        "a/b; x",
        "a/b; =y",
        'a/b; x="',
        'a/b; x="y',
        'a/b; x="y"z',
        "a/b; x=é",
        "a/b; x=a b",
        "a/b\r\nX: y",
        "a/b; x=\0",
        "a/" + "b" * 9000,
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_media_type(text)


def test_lists() -> None:
    assert parse_media_types('a/b;x="1,2", ,c/d,') == [MediaType("a", "b", (("x", "1,2"),)), MediaType("c", "d")]
    assert parse_media_types("*") == [MediaType("*", "*")]
    for text in (",".join(["a/b"] * 101), "a/b," * 4000, 'a/b;x=",c/d'):
        with pytest.raises(BadRequest):
            parse_media_types(text)


@settings(deadline=None)
@given(st.text(alphabet='ab/;,="\\ *+-.', max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        medias = parse_media_types(text)
    except BadRequest:
        return
    assert all(media.type and media.subtype for media in medias)


def test_one_media_type_for_each_transfer_syntax() -> None:
    assert FRAME_MEDIA_TYPE_OF["1.2.840.10008.1.2.4.50"] == "image/jpeg"
    assert FRAME_MEDIA_TYPE_OF["1.2.840.10008.1.2.4.202"] == "image/jphc"
    assert FRAME_MEDIA_TYPE_OF["1.2.840.10008.1.2.5"] == "image/dicom-rle"
    assert len(FRAME_MEDIA_TYPE_OF) == 33
