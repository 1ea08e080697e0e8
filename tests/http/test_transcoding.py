"""Pixels in another transfer syntax than the stored one, against decoders that are not ours."""

import warnings
import zlib
from io import BytesIO

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from tests.decoders import DCMTK, by_dcmtk, by_gdcm, by_libjxl, by_openjpeg
from tests.files import new_uid
from tests.http.bodies import ROOT, problem, store

UID = "1.2.840.10008.1.2."
ELE = UID + "1"


def file_of(name: str) -> bytes:
    path = get_testdata_file(name)
    assert path is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = dcmread(str(path))
        # Some of them share a UID.
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = new_uid(), new_uid(), new_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        out = BytesIO()
        ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def stored(web: httpx.Client, file: bytes) -> str:
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    assert store(web, file).status_code == 200
    return f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def frame(web: httpx.Client, path: str, accept: str, number: int = 1) -> bytes:
    answer = web.get(f"{path}/frames/{number}", headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return answer.content


COMPRESSED = [
    "693_J2KR.dcm", "JPEG-LL.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "MR2_J2KI.dcm", "RG3_J2KR.dcm",
    "OBXXXX1A_rle_2frame.dcm", "US1_J2KI.dcm", "US1_J2KR.dcm", "emri_small_RLE.dcm",
    "emri_small_jpeg_2k_lossless.dcm", "emri_small_jpeg_ls_lossless.dcm", "GDCMJ2K_TextGBR.dcm",
    "JPGExtended.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_rle.dcm",
    "SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_rle_32bit.dcm", "rtdose_rle.dcm", "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_jpeg_no_color_transform.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_small_odd_jpeg.dcm",
    "examples_ybr_color.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_frames_as_others_decode_them(web: httpx.Client, name: str) -> None:
    file = file_of(name)
    ds = dcmread(BytesIO(file))
    syntax = ds.file_meta.TransferSyntaxUID.removeprefix(UID)
    # GDCM leaves YBR as it is, DCMTK takes a JPEG without markers for YBR.
    dcmtk = syntax in DCMTK and not (syntax == "4.50" and ds.PhotometricInterpretation == "RGB")
    reference = by_dcmtk(file, UID + syntax) if dcmtk else by_gdcm(file)
    path = stored(web, file)
    count = int(ds.get("NumberOfFrames", 1))
    size = len(reference.PixelData) // count
    for number in {1, count}:
        ours = frame(web, path, f"application/octet-stream; transfer-syntax={ELE}", number)
        theirs = reference.PixelData[(number - 1) * size : number * size]
        kind = f"<{'i' if reference.PixelRepresentation else 'u'}{reference.BitsAllocated // 8}"
        a, b = np.frombuffer(ours, kind), np.frombuffer(theirs[: len(ours)], kind)
        if reference.SamplesPerPixel == 3 and reference.PlanarConfiguration == 1:
            b = b.reshape(3, -1).T.reshape(-1)
        assert a.shape == b.shape
        difference = np.abs(a.astype(np.int64) - b.astype(np.int64)).max()
        lossy = syntax in ("4.50", "4.51", "4.91")  # decoders round differently
        assert difference <= (3 if lossy else 0)


# One of each kind: bits, sign, colour, palette, planes, byte order, deflated, implicit, compressed, several frames.
SOURCES = [
    "CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "693_UNCI.dcm", "emri_small.dcm",
    "image_dfl.dcm", "OBXXXX1A_2frame.dcm", "US1_UNCI.dcm", "color-pl.dcm", "SC_rgb_16bit_2frame.dcm",
    "SC_ybr_full_uncompressed.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm", "emri_small_jpeg_2k_lossless.dcm", "US1_J2KR.dcm",
    "SC_rgb_rle_2frame.dcm", "JPEG-LL.dcm", "rtdose.dcm", "rtdose_expb.dcm", "OBXXXX1A_expb_2frame.dcm",
    "liver.dcm",
]  # fmt: skip
LOSSLESS = ["1", "1.99", "5", "4.57", "4.70", "4.80", "4.90", "4.201", "4.202", "4.110", "8.1"]


def values(ds: Dataset) -> np.ndarray:
    """All samples of native pixel data, interleaved, chroma repeated."""
    if ds.PhotometricInterpretation == "YBR_FULL_422":
        pairs = np.frombuffer(ds.PixelData, np.uint8).reshape(-1, 4)
        return np.stack([pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]], 1).reshape(-1)
    frames = int(ds.get("NumberOfFrames", 1) or 1)
    if ds.BitsAllocated == 1:
        return np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    kind = f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}"
    need = ds.Rows * ds.Columns * ds.SamplesPerPixel * frames
    flat = np.frombuffer(ds.PixelData, kind, need)
    if ds.PixelRepresentation and ds.BitsStored < ds.BitsAllocated:  # DCMTK and GDCM differ in the bits above
        unused = ds.BitsAllocated - ds.BitsStored
        flat = flat << unused >> unused
    if ds.SamplesPerPixel == 3 and ds.PlanarConfiguration == 1:
        return flat.reshape(frames, 3, -1).transpose(0, 2, 1).reshape(-1)
    return flat


def native(file: bytes) -> np.ndarray:
    """The samples of a file as pydicom and GDCM have them."""
    ds = dcmread(BytesIO(file))
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax == ExplicitVRBigEndian:
        return ds.pixel_array.reshape(-1)
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        ds = by_gdcm(file)
    return values(ds)


def decoded(ds: Dataset, file: bytes) -> np.ndarray:
    """The samples of what Anor sent, by a decoder that is not Anor's."""
    syntax = ds.file_meta.TransferSyntaxUID.removeprefix(UID)
    if syntax in ("1", "1.99"):
        return values(ds)
    frames = list(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1) or 1)))
    kind = f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}"
    if syntax == "8.1":
        need = (ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated + 7) // 8
        ds.PixelData = b"".join(zlib.decompressobj(-15).decompress(each)[:need] for each in frames)
        return values(ds)
    if syntax in DCMTK:
        again = values(by_dcmtk(file, UID + syntax, *(["+cn"] if syntax in ("4.57", "4.70") else [])))
        if ds.BitsAllocated == 8 or ds.SamplesPerPixel == 1:  # GDCM has no colour of 16 bits
            assert np.array_equal(again, values(by_gdcm(file)))
        return again
    if syntax in ("4.90", "4.201", "4.202"):
        return np.concatenate([by_openjpeg(each).reshape(-1) for each in frames]).astype(kind)
    if syntax == "4.110":
        # The format knows no signs: two's complement of the bits that are stored.
        flat = np.concatenate([by_libjxl(each, ds.BitsStored).reshape(-1) for each in frames]).astype(np.int64)
        sign = 1 << (ds.BitsStored - 1)
        return ((flat ^ sign) - sign if ds.PixelRepresentation else flat).astype(kind)
    raise AssertionError(syntax)


@pytest.mark.parametrize("target", LOSSLESS)
@pytest.mark.parametrize("name", SOURCES)
def test_every_lossless_target_of_every_kind_of_image(web: httpx.Client, name: str, target: str) -> None:
    file = file_of(name)
    before = dcmread(BytesIO(file), stop_before_pixels=True)
    answer = web.get(stored(web, file), headers={"accept": f"application/dicom; transfer-syntax={UID}{target}"})
    possible = (
        before.BitsAllocated in (8, 16)
        or target in ("1", "1.99", "8.1")
        or (before.BitsAllocated == 32 and target == "5")
    )
    if not possible:
        assert answer.status_code == 406
        assert problem(answer) == "not-acceptable"
        assert "available" in answer.json()["detail"]
        return
    assert answer.status_code == 200, answer.text
    ds = dcmread(BytesIO(answer.content))
    assert ds.file_meta.TransferSyntaxUID == UID + target
    assert ds.SOPInstanceUID == before.SOPInstanceUID
    assert np.array_equal(decoded(ds, answer.content), native(file))
    changed = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration", "DataSetTrailingPadding"}
    for element in before:
        if element.keyword not in changed and element.VR not in ("UN", "OB", "OW", "SQ"):
            assert ds[element.tag].value == element.value, element
