"""Pixels in another transfer syntax than the stored one, against decoders that are not ours."""

import warnings
import zlib
from io import BytesIO

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedSRStorage, ExplicitVRBigEndian

from tests.decoders import DCMTK, by_dcmtk, by_gdcm, by_libjxl, by_openjpeg
from tests.files import compressed, ct, dataset, encoded, new_uid, uid_like
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
# Those of a line have pixels of one form, in several transfer syntaxes.
SOURCES = [
    ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "JPEG-LL.dcm"],
    ["emri_small.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm", "emri_small_jpeg_2k_lossless.dcm"],
    ["US1_UNCI.dcm", "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_rle_2frame.dcm"],
    ["OBXXXX1A_2frame.dcm", "OBXXXX1A_expb_2frame.dcm"],
    ["rtdose.dcm", "rtdose_expb.dcm"],
    ["693_UNCI.dcm"], ["image_dfl.dcm"], ["color-pl.dcm"], ["SC_rgb_16bit_2frame.dcm"],
    ["SC_ybr_full_uncompressed.dcm"], ["SC_ybr_full_422_uncompressed.dcm"], ["US1_J2KR.dcm"], ["liver.dcm"],
]  # fmt: skip
LOSSLESS = ["1", "1.99", "5", "4.57", "4.70", "4.80", "4.90", "4.201", "4.202", "4.110", "8.1"]
# Every form goes to every target, every file to some; the other pairs read and write what these do.
PAIRS = [
    pytest.param(name, target, marks=() if place == number % len(alike) else pytest.mark.full)
    for alike in SOURCES
    for place, name in enumerate(alike)
    for number, target in enumerate(LOSSLESS)
]


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
    kind = f"<{'i' if ds.PixelRepresentation else 'u'}{max(1, ds.BitsAllocated // 8)}"
    if syntax == "8.1":
        need = (ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated + 7) // 8
        ds.PixelData = b"".join(zlib.decompressobj(-15).decompress(each)[:need] for each in frames)
        return values(ds)
    if syntax == "5" and ds.BitsAllocated == 1:  # a byte a pixel (PS3.5 G.2), which DCMTK reads when it is called so
        bytewise = dcmread(BytesIO(file))
        bytewise.BitsAllocated, bytewise.BitsStored, bytewise.HighBit = 8, 8, 7
        return values(by_dcmtk(encoded(bytewise, UID + syntax), UID + syntax))
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


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_every_lossless_target_of_every_kind_of_image(web: httpx.Client, name: str, target: str) -> None:
    file = file_of(name)
    before = dcmread(BytesIO(file), stop_before_pixels=True)
    answer = web.get(stored(web, file), headers={"accept": f"application/dicom; transfer-syntax={UID}{target}"})
    possible = (
        before.BitsAllocated in (8, 16)
        or target in ("1", "1.99", "8.1")
        or (before.BitsAllocated == 32 and target == "5")
        or (before.BitsAllocated == 1 and target in ("5", "4.90"))
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


@pytest.mark.parametrize("target", ["5", "4.90", "8.1"])
def test_masks_whose_frames_end_within_a_byte_go_there_and_back(web: httpx.Client, target: str) -> None:
    mask = np.random.default_rng(5).integers(0, 2, (3, 5, 7), np.uint8)  # 35 bits a frame
    pixels = np.packbits(mask.reshape(-1), bitorder="little").tobytes()
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "Rows": 5, "Columns": 7, "NumberOfFrames": 3}
    path = stored(web, ct(**one, PixelData=pixels))
    packed = web.get(path, headers={"accept": f"application/dicom; transfer-syntax={UID}{target}"})
    assert packed.status_code == 200, packed.text
    ds = dcmread(BytesIO(packed.content))
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation) == (1, 1, 0, "MONOCHROME2")
    if target == "4.90":
        assert np.array_equal(ds.pixel_array, mask)  # pydicom
        assert np.array_equal(values(by_gdcm(packed.content)), mask.reshape(-1))
    file = packed.content.replace(ds.SOPInstanceUID.encode(), uid_like(ds.SOPInstanceUID).encode())
    again = web.get(stored(web, file), headers={"accept": f"application/dicom; transfer-syntax={ELE}"})
    assert again.status_code == 200, again.text
    assert dcmread(BytesIO(again.content)).PixelData == pixels
    for number in (1, 2, 3):
        raw = frame(web, path, f"application/octet-stream; transfer-syntax={ELE}", number)
        assert raw == np.packbits(mask[number - 1].reshape(-1), bitorder="little").tobytes()
        accept = f"multipart/related; type=application/octet-stream; transfer-syntax={UID}4.201"
        assert web.get(f"{path}/frames/{number}", headers={"accept": accept}).status_code == 406


def test_compressed_pixel_data_as_one_native_value(web: httpx.Client) -> None:
    """Where only a single part is accepted, as OHIF with `singlepart: 'bulkdata'`."""
    values_of = np.random.default_rng(7).integers(0, 2, (3, 5, 7), np.uint8)
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "Rows": 5, "Columns": 7, "NumberOfFrames": 3}
    mask = np.packbits(values_of.reshape(-1), bitorder="little").tobytes()
    for file in (file_of("emri_small_jpeg_ls_lossless.dcm"), file_of("rtdose_rle.dcm"), ct(**one, PixelData=mask)):
        path = stored(web, file)
        if dcmread(BytesIO(file)).file_meta.TransferSyntaxUID == ELE:
            rle = web.get(path, headers={"accept": f"application/dicom; transfer-syntax={UID}5"}).content
            sop = path.rpartition("/")[2]
            path = stored(web, rle.replace(sop.encode(), uid_like(sop).encode()))
        native = web.get(path, headers={"accept": f"application/dicom; transfer-syntax={ELE}"})
        for accept in ("application/octet-stream", f"application/octet-stream; transfer-syntax={ELE}"):
            answer = web.get(f"{path}/bulkdata/7FE00010", headers={"accept": accept})
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={ELE}"
            assert answer.content == dcmread(BytesIO(native.content)).PixelData
        tag = {"if-none-match": answer.headers["etag"], "accept": "application/octet-stream"}
        assert web.get(f"{path}/bulkdata/7FE00010", headers=tag).status_code == 304
        parts = web.get(f"{path}/bulkdata/7FE00010", headers={"accept": "*/*"})
        assert parts.headers["content-type"].startswith("multipart/related")
        assert web.get(f"{path}/bulkdata/7FE00010", headers={"accept": "image/jph"}).status_code == 406


@pytest.mark.parametrize("target", ["1", "4.80", "4.50", "1.99"])
def test_what_is_rewritten_names_its_writer(web: httpx.Client, target: str) -> None:
    ds = dataset(BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(16))
    file = encoded(ds, DeflatedExplicitVRLittleEndian if target == "1" else ELE)
    before = dcmread(BytesIO(file)).file_meta
    path = stored(web, file)
    after = web.get(path, headers={"accept": f"application/dicom; transfer-syntax={UID}{target}"})
    assert after.status_code == 200, after.text
    meta = dcmread(BytesIO(after.content)).file_meta
    assert meta.TransferSyntaxUID == UID + target
    assert meta.ImplementationVersionName.startswith("ANOR_")
    assert meta.ImplementationClassUID != before.ImplementationClassUID
    untouched = web.get(path, headers={"accept": "application/dicom; transfer-syntax=*"})
    assert dcmread(BytesIO(untouched.content)).file_meta.ImplementationClassUID == before.ImplementationClassUID


LOSSY = {
    "4.50": "ISO_10918_1",
    "4.51": "ISO_10918_1",
    "4.81": "ISO_14495_1",
    "4.91": "ISO_15444_1",
    "4.112": "ISO_18181_1",
    "4.203": "ISO_15444_15",
}


@pytest.mark.parametrize("target", LOSSY)
@pytest.mark.parametrize(
    "name", ["emri_small.dcm", "US1_UNCI.dcm", "color-pl.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm"]
)
def test_a_lossy_instance_is_a_derived_one_and_says_what_was_done(web: httpx.Client, name: str, target: str) -> None:
    file = file_of(name)
    before = dcmread(BytesIO(file))
    path = stored(web, file)
    accept = {"accept": f"application/dicom; transfer-syntax={UID}{target}"}
    answer = web.get(path, headers=accept)
    if target == "4.50" and before.BitsStored > 8:
        assert answer.status_code == 406
        return
    assert answer.status_code == 200, answer.text
    ds = dcmread(BytesIO(answer.content))
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID != before.SOPInstanceUID
    assert ds.ImageType[0] == "DERIVED"
    earlier = before.get("LossyImageCompression") == "01"
    method, ratio = ds["LossyImageCompressionMethod"], ds["LossyImageCompressionRatio"]
    last = (method.value[-1], float(ratio.value[-1])) if earlier else (method.value, float(ratio.value))
    assert (ds.LossyImageCompression, method.VM, ratio.VM) == ("01", 1 + earlier, 1 + earlier)
    count = int(ds.get("NumberOfFrames", 1))
    frames = list(generate_frames(ds.PixelData, number_of_frames=count))
    native_size = len(before.PixelData) // count
    assert last == (LOSSY[target], pytest.approx(native_size / len(frames[0]), rel=1e-3))
    (source,) = ds.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == before.SOPInstanceUID
    again = dcmread(BytesIO(web.get(path, headers=accept).content), stop_before_pixels=True)
    assert again.SOPInstanceUID == ds.SOPInstanceUID
    if target in DCMTK and target != "4.81":
        there = by_dcmtk(answer.content, UID + target)
        error = values(there).astype(int) - values(before).astype(int)
        assert np.sqrt((error**2).mean()) < (1 << before.BitsStored) / 40


def test_what_cannot_be_had_is_not_offered(web: httpx.Client) -> None:
    """A 406 names what this very instance can become: asking for any of it is answered."""
    for name in ("CT_small.dcm", "liver.dcm", "examples_ybr_color.dcm"):
        path = stored(web, file_of(name))
        refused = web.get(f"{path}/frames/1", headers={"accept": "image/heif"})
        assert refused.status_code == 406
        offered = refused.json()["detail"].partition("available: ")[2].split(", ")
        assert len(offered) > 2
        for each in offered:
            answer = web.get(f"{path}/frames/1", headers={"accept": each})
            assert answer.status_code == 200, (name, each)


def test_a_lossy_target_is_planned_for_each_instance(web: httpx.Client) -> None:
    """JPEG-LS near-lossless takes no signed samples: such an instance in the series is not cut off half way."""
    study, series = new_uid(), new_uid()
    place = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "BitsStored": 16, "HighBit": 15}
    files = [ct(**place, InstanceNumber=n, PixelRepresentation=n) for n in range(2)]
    assert store(web, *files).status_code == 200
    path = f"{ROOT}/studies/{study}/series/{series}"
    lossy = f'multipart/related; type="application/dicom"; transfer-syntax={UID}4.81'
    assert web.get(path, headers={"accept": lossy}).status_code == 406
    both = web.get(path, headers={"accept": f'{lossy}, multipart/related; type="application/dicom"; q=0.5'})
    assert both.status_code == 200
    assert both.content.count(f"transfer-syntax={UID}4.81".encode()) == 1
    assert both.content.count(f"transfer-syntax={ELE}\r".encode()) == 1


def test_the_first_of_many_parts_fails_as_an_error(web: httpx.Client) -> None:
    path = stored(web, compressed([b"\xff\xd8" + bytes(100) + b"\xff\xd9"], UID + "4.80", Rows=64, Columns=64))
    for accept in (f"application/dicom; transfer-syntax={ELE}", 'multipart/related; type="application/dicom"'):
        answer = web.get(path, headers={"accept": accept})
        assert (answer.status_code, problem(answer)) == (422, "bad-pixels")


def test_a_jpeg_goes_into_jpeg_xl_and_comes_back_byte_by_byte(web: httpx.Client) -> None:
    file = file_of("examples_ybr_color.dcm")
    path = stored(web, file)
    jpeg = frame(web, path, f"image/jpeg; transfer-syntax={UID}4.50", 3)
    packed = web.get(path, headers={"accept": f"application/dicom; transfer-syntax={UID}4.111"})
    assert packed.status_code == 200
    assert len(packed.content) < len(file)
    ds = dcmread(BytesIO(packed.content))
    assert ds.PhotometricInterpretation == "YBR_FULL_422"
    uid = uid_like(ds.SOPInstanceUID)
    assert store(web, packed.content.replace(ds.SOPInstanceUID.encode(), uid.encode())).status_code == 200
    other = path.rpartition("/")[0] + "/" + uid
    assert frame(web, other, f"image/jpeg; transfer-syntax={UID}4.50", 3)[: len(jpeg)] == jpeg
    shown = np.frombuffer(frame(web, other, f"application/octet-stream; transfer-syntax={ELE}", 3), np.uint8)
    direct = np.frombuffer(frame(web, path, f"application/octet-stream; transfer-syntax={ELE}", 3), np.uint8)
    assert np.abs(shown.astype(int) - direct).mean() < 2  # two decoders of the same coefficients


def test_the_first_part_of_an_htj2k_frame_is_a_smaller_image(web: httpx.Client) -> None:
    path = stored(web, file_of("MR2_UNCI.dcm"))
    accept = {"accept": f"image/jphc; transfer-syntax={UID}4.202"}
    whole = web.get(f"{path}/frames/1", headers=accept)
    assert whole.headers["content-type"] == f"image/jphc; transfer-syntax={UID}4.202"
    part = web.get(f"{path}/frames/1", headers=accept | {"range": "bytes=0-65535"})
    assert part.status_code == 206
    assert part.headers["content-range"] == f"bytes 0-65535/{len(whole.content)}"
    assert part.content == whole.content[:65536]
    # RPCL order and tile-part lengths: the beginning holds the low resolutions.
    cod = part.content.index(b"\xff\x52")
    assert part.content[cod + 5] == 2
    assert b"\xff\x55" in part.content[:400]
    small = imagecodecs.htj2k_decode(part.content, skipres=3, resilient=True)
    assert small.shape == (128, 128)


def test_one_frame_costs_the_same_in_a_long_instance(web: httpx.Client) -> None:
    """Asked for by statements and reads, not by time: one frame of 200 reads what one of two reads."""
    frames = [bytes(imagecodecs.jpegls_encode(np.full((64, 64), n % 4096, np.uint16), level=0)) for n in range(200)]
    kind = {"Rows": 64, "Columns": 64, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    file = compressed(frames, UID + "4.80", **kind)
    path = stored(web, file)
    for number in (1, 100, 200):
        data = frame(web, path, f"application/octet-stream; transfer-syntax={ELE}", number)
        assert data == np.full((64, 64), number - 1, "<u2").tobytes()
    answer = web.get(
        f"{path}/frames/1,200,100",
        headers={"accept": f'multipart/related; type="image/jp2"; transfer-syntax={UID}4.90'},
    )
    assert answer.status_code == 200
    parts = answer.content.split(b"\r\n--anor-")[:-1]
    order = [int(imagecodecs.jpeg2k_decode(part.partition(b"\r\n\r\n")[2])[0, 0]) for part in parts]
    assert order == [0, 199, 99]


def test_a_study_with_a_report_in_it_is_sent_in_the_codec_that_is_asked_for(web: httpx.Client) -> None:
    study = new_uid()
    image = ct(StudyInstanceUID=study)
    report = encoded(
        dataset(
            StudyInstanceUID=study,
            SOPClassUID=EnhancedSRStorage,
            Modality="SR",
            PixelData=None,
            Rows=None,
            Columns=None,
        )
    )
    assert store(web, image, report).status_code == 200
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={UID}4.80'
    answer = web.get(f"{ROOT}/studies/{study}", headers={"accept": accept})
    assert answer.status_code == 200
    syntaxes = [
        part.partition(b"\r\n\r\n")[0].partition(b"transfer-syntax=")[2].split(b"\r\n")[0]
        for part in answer.content.split(b"--anor-")[1:-1]
    ]
    assert sorted(syntaxes) == [ELE.encode(), f"{UID}4.80".encode()]
