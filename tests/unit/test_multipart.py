"""multipart/related: framing, limits, and that a cut of the input never shows in the events."""

import time
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.errors import ArchiveError, BadRequest, TooLarge
from dicomweb.multipart import (
    Limits,
    Parser,
    PartBegin,
    PartData,
    PartEnd,
    Writer,
    boundary_of,
    content_length,
    content_type,
    part_headers,
)

Part = tuple[dict[str, str], bytes, bool]  # headers, body, complete


def parse(chunks: Iterable[bytes], boundary: bytes = b"b", limits: Limits | None = None) -> tuple[list[Part], str]:
    """The parts, and the class of the error that ended the body ("" when none)."""
    parts: list[Part] = []
    parser = Parser(boundary, limits or Limits())
    try:
        for chunk in chunks:
            for event in parser.feed(chunk):
                if isinstance(event, PartBegin):
                    parts.append((event.headers, b"", False))
                elif isinstance(event, PartData):
                    assert len(event.data) > 0
                    headers, body, complete = parts[-1]
                    assert not complete
                    parts[-1] = (headers, body + bytes(event.data), False)
                else:
                    assert isinstance(event, PartEnd)
                    parts[-1] = (parts[-1][0], parts[-1][1], True)
        parser.close()
    except ArchiveError as error:
        return parts, type(error).__name__
    return parts, ""


def bodies(parts: list[Part]) -> list[bytes]:
    return [body for _, body, complete in parts if complete]


SAMPLE = (
    b"\r\npreamble\r\n--b \t\r\nContent-Type: application/dicom\r\nX-Long: one\r\n two\r\n\r\nfirst\r\nbody\r\n"
    b"--b\r\n\r\n\r\n--bx\r\n--b-\r\n-b\r\n--b\r\nA: 1\r\n\r\n--b\r\nB: 2\r\n\r\n\r\n--b\r\n\r\n\r\r\n"
    b"\r\n--b--\r\nepilogue --b\r\n--b"
)
SAMPLE_PARTS: list[Part] = [
    ({"content-type": "application/dicom", "x-long": "one two"}, b"first\r\nbody", True),
    ({}, b"\r\n--bx\r\n--b-\r\n-b", True),
    ({"a": "1"}, b"", True),
    ({"b": "2"}, b"", True),
    ({}, b"\r\r\n", True),
]


def test_sample_whole() -> None:
    assert parse([SAMPLE]) == (SAMPLE_PARTS, "")


def test_split_at_every_byte() -> None:
    for cut in range(len(SAMPLE) + 1):
        assert parse([SAMPLE[:cut], SAMPLE[cut:]]) == (SAMPLE_PARTS, "")


def test_split_at_every_two_bytes() -> None:
    text = SAMPLE[:60] + b"\r\n--b--"
    whole = parse([text])
    for first in range(len(text)):
        for second in range(first, len(text)):
            assert parse([text[:first], text[first:second], text[second:]]) == whole


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_small_chunks(size: int) -> None:
    assert parse(SAMPLE[i : i + size] for i in range(0, len(SAMPLE), size)) == (SAMPLE_PARTS, "")


def test_every_truncation_is_an_error() -> None:
    end = SAMPLE.index(b"--b--") + 5
    for cut in range(end):
        parts, error = parse([SAMPLE[:cut]])
        assert error == "BadRequest", cut
        assert all(part in SAMPLE_PARTS for part in parts if part[2])
    assert parse([SAMPLE[:end]])[1] == ""


# Pieces that are nearly a delimiter, so that random bodies come close to one.
_PIECES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"-", b"--", b"--bo", b"\r\n--b", b"\r\n--bo", b"bob", b" ", b"x", b"\0"]
)
_BODY = st.lists(_PIECES | st.binary(max_size=6), max_size=12).map(b"".join)


@settings(deadline=None)
@given(st.lists(_BODY, max_size=5), st.lists(st.integers(0, 400), max_size=12), st.data())
def test_written_bodies_come_back(contents: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    boundary = data.draw(st.sampled_from(["bob", "bobo", "-", "--", "'()+_,-./:=?"]))
    contents = [body for body in contents if b"\r\n--" + boundary.encode() not in b"\r\n" + body]
    writer = Writer(boundary)
    headers = part_headers("application/dicom", "1.2.840.10008.1.2.1")
    text = b"".join(writer.part_head(headers) + body for body in contents) + writer.tail()
    assert len(text) == content_length(boundary, [(headers, len(body)) for body in contents])
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts, error = parse((text[a:b] for a, b in pairwise(edges)), boundary.encode())
    assert error == ""
    assert parts == [
        ({"content-type": "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"}, body, True) for body in contents
    ]


@settings(deadline=None)
@given(
    st.lists(
        _PIECES | st.sampled_from([b"--bo\r\n", b"\r\n--bo--", b"A: 1\r\n", b"\r\n\r\n", b" \r\n", b":"]), max_size=25
    ),
    st.data(),
)
def test_any_input_gives_the_same_however_it_is_cut(pieces: list[bytes], data: st.DataObject) -> None:
    text = b"--bo\r\n" + b"".join(pieces)
    limits = Limits(parts=4, headers=2, header_size=12, preamble=20)
    whole = parse([text], b"bo", limits)
    cut = data.draw(st.integers(0, len(text)))
    assert parse([text[:cut], text[cut:]], b"bo", limits) == whole
    assert parse((text[i : i + 1] for i in range(len(text))), b"bo", limits) == whole


def test_body_is_not_copied() -> None:
    chunk = b"--b\r\n\r\n" + b"x" * 100_000
    parser = Parser(b"b")
    events = parser.feed(chunk)
    data = events[-1]
    assert isinstance(data, PartData)
    assert isinstance(data.data, memoryview)
    assert data.data.obj is chunk
    more = bytes(200_000)
    (second,) = parser.feed(more)
    assert isinstance(second, PartData)
    assert second.data is more


def test_buffers_other_than_bytes() -> None:
    assert bodies(parse([bytearray(b"--b\r\n\r\nx"), memoryview(b"yz\r\n--b--")])[0]) == [b"xyz"]  # type: ignore[list-item]


def test_leading_crlf_as_ohif_sends() -> None:
    assert bodies(parse([b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\nDICM\r\n--b--"])[0]) == [b"DICM"]


def test_closing_boundary_alone_is_an_empty_body() -> None:
    assert parse([b"--b--"]) == ([], "")


def test_lf_only_is_refused() -> None:
    assert parse([b"--b\nContent-Type: a/b\n\nbody\n--b--\n"]) == ([], "BadRequest")


def test_bytes_after_the_end_are_ignored() -> None:
    parser = Parser(b"b")
    parser.feed(b"--b--")
    assert parser.feed(b"\r\n--b\r\n\r\nmore") == []
    parser.close()


def test_events_before_a_fault_are_delivered_first() -> None:
    parser = Parser(b"b")
    events = parser.feed(b"--b\r\n\r\ngood\r\n--b\r\nno colon\r\n\r\n")
    assert [type(event) for event in events] == [PartBegin, PartData, PartEnd]
    with pytest.raises(BadRequest, match="part 2"):
        parser.feed(b"x")
    with pytest.raises(BadRequest, match="part 2"):
        parser.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "does not contain"),
        (b"nothing here", "does not contain"),
        (b"--b\r\n\r\nbody", "without its closing"),
        (b"--b\r\n\r\nbody\r\n--b", "without its closing"),
        (b"--b\r\n\r\nbody\r\n--b-", "without its closing"),
        (b"--b\r\nContent-Type: a/b\r\n", "without its closing"),
    ],
)
def test_close_without_the_end(text: bytes, message: str) -> None:
    parser = Parser(b"b")
    parser.feed(text)
    for _ in range(2):
        with pytest.raises(BadRequest, match=message):
            parser.close()


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b": x\r\n", "BadRequest"),
        (b"a b: x\r\n", "BadRequest"),
        (b" folded first\r\n", "BadRequest"),
        (b"A: 1\r\na: 2\r\n", "BadRequest"),
        (b"A: 1\x002\r\n", "BadRequest"),
        (b"A: 1\n2\r\n", "BadRequest"),
        (b"A: " + b"x" * 8189 + b"\r\n", ""),
        (b"A: " + b"x" * 8190 + b"\r\n", "TooLarge"),
        (b"A: 1\r\n" + b" xxxxxxxx\r\n" * 12 + b"B: 1\r\n", ""),
        (b"A: 1\r\n" + b" " + b"x" * 5000 + b"\r\n " + b"x" * 5000 + b"\r\n", "TooLarge"),
        (b"".join(b"H%d: 1\r\n" % i for i in range(16)), ""),
        (b"".join(b"H%d: 1\r\n" % i for i in range(17)), "TooLarge"),
        (b"".join(b"H%d: 1\r\n" % i for i in range(100_000)), "TooLarge"),
        (b"x" * 1_000_000, "TooLarge"),
    ],
)
def test_header_limits(head: bytes, error: str) -> None:
    text = b"--b\r\n" + head + b"\r\nbody\r\n--b--"
    assert parse([text])[1] == error
    assert parse(text[i : i + 5000] for i in range(0, len(text), 5000))[1] == error


def test_header_values_are_trimmed_and_names_lowered() -> None:
    parts, error = parse([b"--b\r\nCONTENT-type :\t image/jpeg \r\nX: \xe9\r\n\r\n\r\n--b--"])
    assert error == ""
    assert parts[0][0] == {"content-type": "image/jpeg", "x": "\xe9"}


def test_a_million_empty_parts() -> None:
    text = b"--b\r\n\r\n\r\n" * 1_000_000 + b"--b--"
    parts, error = parse([text])
    assert error == "TooLarge"
    assert len(parts) == 10_000
    assert parse(text[i : i + 4096] for i in range(0, 200_000, 4096))[1] == "TooLarge"


def test_a_million_header_bytes_one_at_a_time_are_refused_early() -> None:
    parser = Parser(b"b", Limits(headers=2, header_size=100))
    parser.feed(b"--b\r\n")
    for _ in range(2 * 102 + 4 - 1):
        parser.feed(b"x")
    with pytest.raises(TooLarge):
        parser.feed(b"x")


def test_preamble_is_bounded() -> None:
    parser = Parser(b"b")
    parser.feed(bytes(65_000))
    with pytest.raises(BadRequest, match="does not start"):
        parser.feed(bytes(1000))


def test_padding_is_bounded() -> None:
    assert parse([b"--b" + b" " * 200 + b"\r\n\r\nx\r\n--b--"]) == ([({}, b"x", True)], "")
    assert parse([b"--b" + b" " * 300 + b"\r\n\r\nx\r\n--b--"])[1] == "BadRequest"


def test_crlf_flood_is_content() -> None:
    body = b"\r\n" * 200_000 + b"\r" * 200_000 + b"\r\n-" * 100_000
    text = b"--b\r\n\r\n" + body + b"\r\n--b--"
    assert bodies(parse(text[i : i + 65536] for i in range(0, len(text), 65536))[0]) == [body]


def test_large_body_is_one_event_per_chunk() -> None:
    boundary = b"0123456789abcdef0123456789abcdef"
    body = bytes(5 * 1024 * 1024)
    text = b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--" + boundary + b"--\r\n"
    chunks = [text[i : i + 262_144] for i in range(0, len(text), 262_144)]
    parser = Parser(boundary)
    start = time.perf_counter()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    taken = time.perf_counter() - start
    parser.close()
    assert len(events) <= len(chunks) + 3
    assert sum(len(event.data) for event in events if isinstance(event, PartData)) == len(body)
    assert taken < 1  # about 1 ms; only a quadratic parser comes near


def test_boundary_of() -> None:
    assert boundary_of(content_type('multipart/related; type="application/dicom"; boundary="a b"')) == b"a b"
    assert boundary_of(content_type("multipart/related;boundary=xyz;type=application/dicom")) == b"xyz"
    assert boundary_of(content_type("multipart/related; boundary=" + "x" * 200)) == b"x" * 200
    bad = ["", "; boundary=", '; boundary=""', '; boundary="a "', "; boundary=" + "x" * 201, '; boundary="é"']
    for parameters in bad:
        with pytest.raises(BadRequest):
            boundary_of(content_type("multipart/related" + parameters))


@pytest.mark.parametrize("boundary", [b"", b"x" * 201, b"a\r", b"a\nb"])
def test_parser_refuses_boundaries(boundary: bytes) -> None:
    with pytest.raises(BadRequest):
        Parser(boundary)


def test_writer_text() -> None:
    writer = Writer(b"xyz")
    assert writer.content_type("image/jls") == 'multipart/related; type="image/jls"; boundary="xyz"'
    first = writer.part_head(part_headers("image/jls", "1.2.840.10008.1.2.4.80", "http://h/frames/1"))
    assert first == (
        b"--xyz\r\nContent-Type: image/jls; transfer-syntax=1.2.840.10008.1.2.4.80\r\nContent-Location: http://h/frames/1\r\n\r\n"
    )
    assert writer.part_head({"Content-Type": "a/b"}) == b"\r\n--xyz\r\nContent-Type: a/b\r\n\r\n"
    assert writer.tail() == b"\r\n--xyz--\r\n"
    assert Writer("xyz").tail() == b"--xyz--\r\n"


def test_writer_refuses_header_injection() -> None:
    with pytest.raises(ValueError, match="Content-Location"):
        Writer("b").part_head(part_headers("a/b", location="x\r\nSet-Cookie: a"))
    for boundary in ("", 'a"b', "x" * 71, "a\r\n"):
        with pytest.raises(ValueError, match="boundary"):
            Writer(boundary)
