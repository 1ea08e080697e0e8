"""ZIP files as streams, read from their directory and from their start, and their lengths that are known beforehand."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from itertools import pairwise

import pytest

from dicomweb.zip_stream import ZipStream

FILES = {
    "a.dcm": b"", "b/é.dcm": b"x", "c.dcm": b"y" * 0xFFFF, "d.dcm": b"z" * 0x10000, "e.dcm": bytes(range(256)) * 1000,
}  # fmt: skip
MOMENT = (2024, 2, 29, 13, 14, 16)


def _written(files: dict[str, bytes], *, known: bool = True, step: int = 1000) -> bytes:
    stream = ZipStream()
    for name, data in files.items():
        stream.begin(name, len(data) if known else None, MOMENT)
        for at in range(0, len(data), step):
            stream.add(data[at : at + step])
        assert stream.end() == zlib.crc32(data)
    stream.close()
    return stream.take()


@pytest.mark.parametrize("known", [True, False])
def test_what_is_read_again(known: bool) -> None:
    data = _written(FILES, known=known)
    found = zipfile.ZipFile(io.BytesIO(data))
    assert found.testzip() is None
    assert {name: found.read(name) for name in found.namelist()} == FILES
    assert {each.date_time for each in found.infolist()} == {MOMENT}
    assert _from_start(data) == FILES


def _from_start(data: bytes) -> dict[str, bytes]:
    """What a reader finds that cannot seek: members one after the other, up to the directory."""
    found, at = {}, 0
    while data[at : at + 4] == b"PK\3\4":
        name, extra = struct.unpack_from("<HH", data, at + 26)
        packed = zlib.decompressobj(-15)
        begin = at + 30 + name + extra
        content = packed.decompress(data[begin:])
        assert packed.eof
        form = "<4sIQQ" if extra else "<4sIII"
        at = len(data) - len(packed.unused_data)
        said = struct.unpack_from(form, data, at)
        assert said == (b"PK\7\x08", zlib.crc32(content), at - begin, len(content))
        found[data[begin - extra - name : begin - extra].decode()] = content
        at += struct.calcsize(form)
    return found


def test_one_that_is_measured_keeps_nothing_of_its_members() -> None:
    stream = ZipStream(measured=True)
    for name, data in FILES.items():
        assert stream.skip(name, len(data), MOMENT) == stream.members - 1
    assert (stream.members, stream.total) == (len(FILES), len(_written(FILES)))
    tracemalloc.start()
    try:
        for number in range(10_000):
            stream.skip(f"{number}.dcm", 1, MOMENT)
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


def test_the_same_bytes_however_they_come() -> None:
    assert len({_written(FILES, step=step) for step in (7, 1000, 0xFFFF, 1 << 20)}) == 1


def test_lengths_and_places_are_known_before() -> None:
    stream, places = ZipStream(), []
    for name, data in FILES.items():
        places.append(stream.position)
        room = stream.room(name, len(data))
        number = stream.skip(name, len(data), MOMENT)
        assert stream.position - places[-1] == room
        stream.set_crc(number, zlib.crc32(data))
    data, total = _written(FILES), stream.total
    assert total == len(data)
    assert [each.header_offset for each in zipfile.ZipFile(io.BytesIO(data)).infolist()] == places
    at = stream.position
    stream.close()
    assert stream.take() == data[at:]


def test_a_member_that_is_not_as_long_as_was_said() -> None:
    stream = ZipStream()
    stream.begin("a", 3)
    stream.add(b"ab")
    with pytest.raises(ValueError, match="shorter"):
        stream.end()
    stream.begin("a", 3)
    with pytest.raises(ValueError, match="longer"):
        stream.add(b"abcd")


def test_beyond_what_32_bits_and_65535_members_can_tell() -> None:
    """Members that were passed over take no bytes here: only the directory is there, and tells where they would lie."""
    stream = ZipStream()
    sizes = [5 << 30, 3, 1 << 32, *(7 for _ in range(70_000))]
    for number, size in enumerate(sizes):
        stream.skip(f"{number}", size)
    at = stream.position
    stream.close()
    directory = stream.take()
    assert stream.total == at + len(directory)
    sparse = _Behind(at, directory)
    found = zipfile.ZipFile(sparse).infolist()  # type: ignore[arg-type]
    assert [each.file_size for each in found] == sizes
    offsets = [each.header_offset for each in found]
    for (one, two), size in zip(pairwise(offsets), sizes, strict=False):
        assert two - one > size
    assert all(each.compress_size > each.file_size for each in found)


class _Behind(io.RawIOBase):
    """A file of which only what lies behind `start` is there."""

    def __init__(self, start: int, data: bytes) -> None:
        self._start, self._data, self._at = start, data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._start + len(self._data))[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        assert self._at >= self._start
        at = self._at - self._start
        found = self._data[at:] if size < 0 else self._data[at : at + size]
        self._at += len(found)
        return found
