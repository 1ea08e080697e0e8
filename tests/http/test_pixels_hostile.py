"""Pixel data that lie, are broken or kill their decoder: a clear error for that frame, and every other one goes on."""

import os
import signal
import struct
import time
from io import BytesIO
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import psutil
import pytest
from PIL import Image
from pydicom import dcmread

from tests.files import compressed, ct, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.support import RunningServer, running_server

UID = "1.2.840.10008.1.2."
ELE = f"application/octet-stream; transfer-syntax={UID}1"
GOOD = (np.arange(64 * 64, dtype="<u2").reshape(64, 64) * 3) % 4096


def j2k_header(width: int, height: int, samples: int = 1) -> bytes:
    """A JPEG 2000 header with nothing behind it that claims an image of this size."""
    size = struct.pack(">H8IH", 0, width, height, 0, 0, width, height, 0, 0, samples) + b"\x07\x01\x01" * samples
    cod, qcd = b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01", b"\xff\x5c\x00\x13\x40" + b"\x48" * 16
    tile = b"\xff\x90\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01\xff\x93\xff\xd9"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + cod + qcd + tile


def jpeg_header(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HH", height, width) + b"\x01\x01\x11\x00\xff\xd9"


def rle(segments: int, *offsets: int, body: bytes = b"") -> bytes:
    return struct.pack("<16I", segments, *offsets, *[0] * (15 - len(offsets))) + body


SIXTEEN = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "Rows": 64, "Columns": 64}
EIGHT = {"Rows": 16, "Columns": 16}
J2K = bytes(imagecodecs.jpeg2k_encode(GOOD, level=0, reversible=True, codecformat="J2K", bitspersample=12))
JLS = bytes(imagecodecs.jpegls_encode(GOOD, level=0))
HTJ2K = bytes(imagecodecs.htj2k_encode(GOOD, reversible=True))
JXL = bytes(imagecodecs.jpegxl_encode(GOOD, lossless=True, effort=1, usecontainer=False, bitspersample=12))
LOSSLESS = bytes(imagecodecs.jpeg8_encode(GOOD, lossless=True, predictor=1, bitspersample=12))

BROKEN = {
    "a JPEG 2000 header of 60000 x 60000 in a small image": ("4.90", j2k_header(60000, 60000), EIGHT),
    "the same where Rows and Columns agree": ("4.90", j2k_header(60000, 60000), {"Rows": 60000, "Columns": 60000}),
    "a JPEG 2000 header alone": ("4.90", j2k_header(16, 16), EIGHT),
    "sixteen thousand components": ("4.90", j2k_header(16, 16, 16000), EIGHT),
    "a JPEG of 65535 x 65535": ("4.50", jpeg_header(65535, 65535), EIGHT),
    "a JPEG without an image": ("4.50", jpeg_header(16, 16), EIGHT),
    "two bytes": ("4.50", b"\xff\xd8", EIGHT),
    "text": ("4.90", b"no image at all " * 4, EIGHT),
    "RLE with no segment": ("5", rle(0), EIGHT),
    "RLE with its segment outside": ("5", rle(1, 4096), EIGHT),
    "RLE with too few bytes": ("5", rle(1, 64, body=b"\xff\x07"), EIGHT),
    "RLE of 60000 x 60000": ("5", rle(1, 64, body=b"\x81\0" * 100), {"Rows": 60000, "Columns": 60000}),
    "half a JPEG 2000 stream": ("4.90", J2K[: len(J2K) // 2], SIXTEEN),
    "half a JPEG-LS stream": ("4.80", JLS[: len(JLS) // 2], SIXTEEN),
    "half an HTJ2K stream": ("4.201", HTJ2K[: len(HTJ2K) // 2], SIXTEEN),
    "half a JPEG XL stream": ("4.110", JXL[: len(JXL) // 2], SIXTEEN),
    "half a lossless JPEG stream": ("4.70", LOSSLESS[: len(LOSSLESS) // 2], SIXTEEN),
    "a JPEG-LS stream under the name of JPEG 2000": ("4.90", JLS, SIXTEEN),
    "twelve bits in eight": ("4.90", J2K, {"Rows": 64, "Columns": 64}),
    "colour that is none": ("4.90", J2K, SIXTEEN | {"PhotometricInterpretation": "RGB"}),
}


def stored(web: httpx.Client, file: bytes) -> str:
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    assert store(web, file).status_code in (200, 202)
    return f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def resident(server: RunningServer) -> int:
    return sum(each.memory_info().rss for each in psutil.Process(server.process.pid).children(recursive=True))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_frame_is_an_error_of_its_own(web: httpx.Client, server: RunningServer, name: str) -> None:
    syntax, stream, attributes = BROKEN[name]
    before, began = resident(server), time.monotonic()
    path = stored(web, compressed([stream], UID + syntax, **attributes))
    answer = web.get(f"{path}/frames/1", headers={"accept": ELE})
    assert (answer.status_code, problem(answer)) == (422, "bad-pixels")
    assert time.monotonic() - began < 30
    assert resident(server) - before < 400 << 20
    as_stored = web.get(f"{path}/frames/1", headers={"accept": "application/octet-stream; transfer-syntax=*"})
    assert as_stored.status_code == 200
    assert as_stored.content[: len(stream)] == stream


def test_a_good_frame_beside_a_broken_one_is_served(web: httpx.Client) -> None:
    path = stored(web, compressed([J2K, J2K[:200], J2K], UID + "4.90", **SIXTEEN))
    assert web.get(f"{path}/frames/2", headers={"accept": ELE}).status_code == 422
    for number in (1, 3):
        assert web.get(f"{path}/frames/{number}", headers={"accept": ELE}).content == GOOD.tobytes()


def test_every_cut_and_flip_of_a_stream_is_an_error_or_an_image_of_the_right_size(web: httpx.Client) -> None:
    rng = np.random.default_rng(5)
    frames = []
    for stream in (J2K, HTJ2K, JLS, JXL, LOSSLESS):
        cut = stream[: rng.integers(20, len(stream))]
        flipped = bytearray(stream)
        for at in rng.integers(60, len(stream), 8):
            flipped[at] ^= int(rng.integers(1, 256))
        frames.append((cut, bytes(flipped)))
    for syntax, pair in zip(("4.90", "4.201", "4.80", "4.110", "4.70"), frames, strict=True):
        path = stored(web, compressed(list(pair), UID + syntax, **SIXTEEN))
        for number in (1, 2):
            answer = web.get(f"{path}/frames/{number}", headers={"accept": ELE})
            assert answer.status_code in (200, 422)
            if answer.status_code == 200:
                assert len(answer.content) == GOOD.nbytes


def decoders_at_work(web: httpx.Client, server: RunningServer) -> list[psutil.Process]:
    path = stored(web, compressed([J2K], UID + "4.90", **SIXTEEN, InstanceNumber=1))
    assert web.get(f"{path}/frames/1", headers={"accept": ELE}).content == GOOD.tobytes()
    found = [
        each
        for each in psutil.Process(server.process.pid).children(recursive=True)
        if "storage.decoder_process" in " ".join(each.cmdline())
    ]
    assert found
    return found


def test_a_decoder_does_not_know_the_settings_of_the_archive(web: httpx.Client, server: RunningServer) -> None:
    assert any(name.startswith("ANOR_") for name in server.environment)
    for each in decoders_at_work(web, server):
        assert not any(name.startswith("ANOR_") for name in each.environ())


def test_a_decoder_that_is_killed_costs_nothing_but_its_frame(web: httpx.Client, server: RunningServer) -> None:
    for each in decoders_at_work(web, server):
        os.kill(each.pid, signal.SIGKILL)
    for _ in range(12):  # both workers are asked
        again = stored(web, compressed([J2K], UID + "4.90", **SIXTEEN, SOPInstanceUID=new_uid()))
        with httpx.Client(base_url=server.url) as other:
            answer = other.get(f"{again}/frames/1", headers={"accept": ELE})
        assert (answer.status_code, answer.content) == (200, GOOD.tobytes())


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """The Content-Type and the bytes of each part."""
    boundary = b"--" + answer.headers["content-type"].partition('boundary="')[2].rstrip('"').encode()
    *parts, end = answer.content.split(boundary)[1:]
    assert end == b"--\r\n"
    found = [part.removesuffix(b"\r\n").partition(b"\r\n\r\n") for part in parts]
    return [(head.split(b"\r\n")[1].decode().removeprefix("Content-Type: "), body) for head, _, body in found]


SEVERAL = 'multipart/related; type="application/octet-stream"; transfer-syntax=' + UID + "1"


@pytest.mark.parametrize("order", [(1, 2, 3), (2, 1, 3), (1, 3, 2), (2, 2, 1)])
def test_of_several_frames_a_broken_one_is_an_error_in_its_place(web: httpx.Client, order: tuple[int, ...]) -> None:
    """Whoever counts parts takes no frame for another."""
    path = stored(web, compressed([J2K, J2K[:200], J2K], UID + "4.90", **SIXTEEN))
    frames = f"{path}/frames/{','.join(map(str, order))}"
    for resource, accept in ((frames, SEVERAL), (f"{frames}/rendered", "image/png")):
        answer = web.get(resource, headers={"accept": accept})
        assert answer.status_code == 200
        for number, (kind, body) in zip(order, parts_of(answer), strict=True):
            assert (kind == "application/problem+json") == (number == 2)
            assert b'"slug":"bad-pixels"' in body if number == 2 else len(body) > 100
        if accept == SEVERAL:
            assert all(body == GOOD.tobytes() for kind, body in parts_of(answer) if "octet" in kind)
    whole = web.get(f"{path}/rendered", headers={"accept": 'multipart/related; type="image/jpeg"'})
    assert [kind for kind, _ in parts_of(whole)] == ["image/jpeg", "application/problem+json", "image/jpeg"]


def test_several_frames_that_are_all_broken_are_an_error(web: httpx.Client) -> None:
    path = stored(web, compressed([J2K[:200], J2K[:300]], UID + "4.90", **SIXTEEN))
    for resource in ("frames/1,2", "frames/1,2/rendered"):
        answer = web.get(f"{path}/{resource}", headers={"accept": SEVERAL if "rendered" not in resource else "*/*"})
        assert (answer.status_code, problem(answer)) == (422, "bad-pixels")


@pytest.mark.parametrize("frames", [[J2K[:200]], [J2K, J2K[:200], J2K]])
def test_an_instance_that_cannot_be_transcoded_leaves_as_stored_among_others(
    web: httpx.Client, frames: list[bytes]
) -> None:
    place = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    good = [compressed([J2K], UID + "4.90", InstanceNumber=n, **place, **SIXTEEN) for n in (1, 3)]
    broken = compressed(frames, UID + "4.90", InstanceNumber=2, **place, **SIXTEEN)
    paths = [stored(web, file) for file in (good[0], broken, good[1])]
    series = paths[0].rpartition("/instances")[0]
    answer = web.get(series, headers={"accept": f'multipart/related; type="application/dicom"; transfer-syntax={UID}1'})
    assert answer.status_code == 200
    parts = parts_of(answer)
    assert [kind.rpartition("=")[2] for kind, _ in parts] == [f"{UID}1", f"{UID}4.90", f"{UID}1"]
    assert parts[1][1] == broken
    for _, body in (parts[0], parts[2]):
        assert dcmread(BytesIO(body)).PixelData == GOOD.tobytes()
    alone = web.get(paths[1], headers={"accept": f"application/dicom; transfer-syntax={UID}1"})
    assert (alone.status_code, problem(alone)) == (422, "bad-pixels")


def test_an_image_without_a_frame_that_can_be_read(web: httpx.Client) -> None:
    """Its value is there as it is, of frames there is none."""
    path = stored(web, ct(Rows=64, Columns=64, PixelData=bytes(100)))
    for accept in (
        f"application/dicom; transfer-syntax={UID}4.80",
        f"image/jls, application/dicom; transfer-syntax={UID}5",
    ):
        answer = web.get(path, headers={"accept": accept})
        assert (answer.status_code, problem(answer)) == (422, "bad-pixels")
    assert web.get(f"{path}/frames/1").status_code == 404
    for resource in ("bulkdata", "pixeldata"):
        [(_, value)] = parts_of(web.get(f"{path}/{resource}"))
        assert value == bytes(100)


def test_a_stream_that_takes_for_ever_is_tried_once(tmp_path: Path) -> None:
    """Progressive JPEG with thousands of scans over a large image: cheap to send, dear to decode."""
    out = BytesIO()
    Image.fromarray(np.zeros((6000, 6000), np.uint8)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    bomb = whole[:-2] + scan * 3000 + b"\xff\xd9"
    assert len(bomb) < 1 << 20
    with running_server(tmp_path, workers=1, decoder_seconds=2) as server, httpx.Client(base_url=server.url) as web:
        path = stored(web, compressed([bomb], UID + "4.50", Rows=6000, Columns=6000))
        answer = web.get(f"{path}/frames/1", headers={"accept": ELE}, timeout=60)
        assert (answer.status_code, problem(answer)) == (422, "bad-pixels")
        text = web.get("/metrics").text
        assert "timed out" in text
        [starts] = [float(line.split()[1]) for line in text.splitlines() if line.startswith("anor_decoder_starts")]
        assert starts == 1
