"""Compressed JSON that is joined without inflating it, and data sets that are inflated within limits."""

import gzip
import os
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.deflate import (
    Deflater,
    GzipArray,
    combine,
    concatenate,
    deflate,
    deflate_after,
    gzip_array,
    inflate_dataset,
    plain_array,
    stored,
)
from dicomweb.errors import BadDicom, TooLarge


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_combine(first, second):
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_checksums_combine_for_long_texts():
    for size in (1, 2, 3, 2**16, 2**20 + 7, 5_000_000):
        second = random.Random(size).randbytes(size)
        assert combine(0xDEADBEEF, zlib.crc32(second), size) == zlib.crc32(second, 0xDEADBEEF)
    assert combine(0x12345678, 0, 0) == 0x12345678
    assert combine(0, 0x12345678, 99) == 0x12345678


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=12))
def test_pieces_make_one_gzip_member(texts):
    pieces = [deflate(text, level=random.Random(len(text)).randrange(10)) for text in texts]
    plain = b"[" + b",".join(texts) + b"]"
    assert plain_array(pieces) == plain
    whole = b"".join(gzip_array(pieces))
    assert gzip.decompress(whole) == plain
    one = zlib.decompressobj(31)
    assert one.decompress(whole) == plain
    assert one.eof
    assert one.unused_data == b""
    array = GzipArray()
    streamed = [part for piece in pieces for part in array.add(piece)]
    assert b"".join([*streamed, array.end()]) == whole
    joined = concatenate(pieces)
    text = b"".join(texts)
    assert (joined.inflate(), joined.crc32, joined.length) == (text, zlib.crc32(text), len(text))


def test_every_way_to_make_a_piece_ends_on_a_byte_and_forgets():
    squeeze = Deflater()
    for part in (b"", b"x" * 100_000, b"y"):
        squeeze.write(part)
    streamed = squeeze.finish()
    history = b"some words that come first " * 50
    after = deflate_after(history, b"some words that come first again", 6)
    data = stored(history) + after + streamed.data + stored(b"z" * 200_000) + stored(b"")
    expected = history + b"some words that come first again" + b"x" * 100_000 + b"y" + b"z" * 200_000
    assert zlib.decompressobj(-15).decompress(data) == expected
    assert len(after) < len(deflate_after(b"", b"some words that come first again", 6))
    assert deflate(b"").inflate() == b""


def packed(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeeze.compress(data) + squeeze.flush()


def test_a_deflated_data_set_is_inflated():
    data = os.urandom(1_000_000) + bytes(500_000)
    body = packed(data)
    assert inflate_dataset(body, 1 << 30, 200) == data
    assert inflate_dataset(body + b"\0", 1 << 30, 200) == data
    trailer = struct.pack("<II", zlib.crc32(data), len(data))
    assert inflate_dataset(body + trailer, 1 << 30, 200) == data
    assert inflate_dataset(memoryview(body + trailer + b"\0"), 1 << 30, 200) == data


def test_what_follows_a_deflated_data_set_must_be_padding():
    body = packed(b"data set" * 1000)
    for tail in (b"\0\0", b"x", bytes(8), bytes(600_000), b"\0" + packed(b"more")):
        with pytest.raises(BadDicom, match="bytes after"):
            inflate_dataset(body + tail, 1 << 30, 200)


def test_a_cut_or_broken_stream_is_refused():
    body = packed(os.urandom(100_000))
    for size in (0, 1, 1000, len(body) - 1):
        with pytest.raises(BadDicom, match="cut"):
            inflate_dataset(body[:size], 1 << 30, 200)
    with pytest.raises(BadDicom, match="cannot be inflated"):
        inflate_dataset(b"\xff" * 100, 1 << 30, 200)


def test_a_bomb_is_refused_within_its_limit():
    bomb = packed(bytes(64 << 20))
    assert len(bomb) < 80_000
    tracemalloc.start()
    try:
        for limits in ((4 << 20, 200), (4 << 30, 20)):
            with pytest.raises(TooLarge, match="when inflated"):
                inflate_dataset(bomb, *limits)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_small_data_sets_may_compress_well():
    data = bytes(1 << 20)
    assert inflate_dataset(packed(data), 4 << 30, 200) == data
