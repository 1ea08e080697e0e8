"""Slides that are DICOM without their names: no byte of what names someone is left, and the pixels are the same."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from storage.settings import load_settings
from tests.wsi.variants import HTJ2K, J2K, JPEG_LS, NATIVE, RLE, Matrix, Place, Series, file, instance, matrix, tiles_of
from tests.wsi.vendor import ome_tiff, svs, tiled_tiff
from wsi.convert.options import Options
from wsi.convert.profile import nameless
from wsi.convert.run import ConversionFailed, Converted, convert
from wsi.convert.source import BadSlide

NAMED = "ZZIDENT"
PATIENT = {
    "PatientName": f"{NAMED}^JANE", "PatientID": f"{NAMED}-1", "PatientBirthDate": "19710203",
    "StudyID": f"{NAMED}-2", "AccessionNumber": f"{NAMED}-3", "LabelText": f"{NAMED}-4",
    "BarcodeValue": f"{NAMED}-5", "StationName": f"{NAMED}-6", "InstitutionName": f"{NAMED}-7",
    "StudyDescription": f"{NAMED}-8", "ContainerIdentifier": f"{NAMED}-9",
    "SpecimenDescriptionSequence": [{"SpecimenIdentifier": f"{NAMED}-10", "SpecimenUID": "2.25.4711"}],
    "StudyDate": "19990102", "AcquisitionDateTime": "19990102030405",
}  # fmt: skip


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., Converted]:
    settings = load_settings({"data": tmp_path / "data"}, {}, None)[0]

    def run(path: Path, folder: str, **options: object) -> Converted:
        (tmp_path / folder).mkdir()
        return asyncio.run(convert(settings, path, tmp_path / folder, Options.parse(options)))

    return run


def named(files: tuple[Path, ...]) -> None:
    """Private elements, comments in JPEG frames, and a profile with a name."""
    for path in files:
        ds = dcmread(path)
        block = ds.private_block(0x0009, f"{NAMED} PRIVATE", create=True)
        block.add_new(1, "LO", f"{NAMED}-11")
        ds.OpticalPathSequence[0].ICCProfile = profile()
        ds.OpticalPathSequence[0].OpticalPathDescription = f"{NAMED}-13"
        if ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.50":
            comment = b"\xff\xfe\x00\x10" + f"{NAMED}-12....".encode()[:14].ljust(14, b".")
            frames = [
                f[:2] + comment + f[2:] for f in generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames)
            ]
            ds.PixelData = encapsulate(frames)
        ds.save_as(path)


def profile() -> bytes:
    """SRGB, described by a name."""
    found = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = found.find("sRGB".encode("utf-16-be"))
    text = NAMED.encode("utf-16-be")
    found[at : at + len(text)] = text
    assert NAMED.encode("utf-16-be") in found
    return bytes(found) + b"\0" * (len(found) % 2)


def opened(data: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(BytesIO(data))


def frames(ds: Dataset) -> Iterator[bytes]:
    return generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames)


def nothing_named(files: tuple[Path, ...]) -> None:
    """No byte of what names someone, nothing private, and no rule of the IOD is broken."""
    for path in files:
        if (
            dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID != HTJ2K
        ):  # which the checker does not know
            said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
            assert "VLWholeSlideMicroscopyImage" in said
            assert not [line for line in said.splitlines() if line.startswith("Error")], said
        data = path.read_bytes()
        for text in (NAMED.encode(), NAMED.encode("utf-16-be"), b"19710203", b"19990102", b"2.25.4711"):
            assert text not in data, (path, text)
        assert not any(element.tag.is_private for element in dcmread(path, stop_before_pixels=True))


@pytest.mark.parametrize("space", ["ycbcr", "rgb"])
def test_frames_are_copied_and_names_are_not(converted: Callable[..., Converted], tmp_path: Path, space: str) -> None:
    svs(tmp_path / "slide.svs", space=space)
    before = converted(tmp_path / "slide.svs", "before", pyramid="source", metadata=PATIENT)
    named(before.files)
    assert all(NAMED.encode() in path.read_bytes() for path in before.files)
    after = converted(tmp_path / "before", "after", pyramid="source", deidentify=True)
    assert {path.name for path in after.files} == {"level-00.dcm", "level-01.dcm", "thumbnail.dcm"}
    nothing_named(after.files)
    for name in ("level-00.dcm", "level-01.dcm"):
        one, two = dcmread(tmp_path / "before" / name), dcmread(tmp_path / "after" / name)
        assert two.PatientIdentityRemoved == "YES"
        assert (two.TotalPixelMatrixColumns, two.TotalPixelMatrixRows) == (
            one.TotalPixelMatrixColumns, one.TotalPixelMatrixRows
        )  # fmt: skip
        kept = one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        assert two.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == pytest.approx(kept)
        for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            assert one[uid].value != two[uid].value
        for each, other in zip(frames(one), frames(two), strict=True):
            # The entropy-coded data, and what they decode to.
            assert each[each.find(b"\xff\xda") :].rstrip(b"\0") == other[other.find(b"\xff\xda") :].rstrip(b"\0")
            assert np.array_equal(imagecodecs.jpeg8_decode(each.rstrip(b"\0")), imagecodecs.jpeg8_decode(other))


@pytest.mark.parametrize(
    "syntax",
    [
        "htj2k-lossless",
        pytest.param("jpeg2000-lossless", marks=pytest.mark.full),
        pytest.param("jpegxl-lossless", marks=pytest.mark.full),
        pytest.param("none", marks=pytest.mark.full),
    ],
)
def test_what_lost_nothing_loses_nothing(converted: Callable[..., Converted], tmp_path: Path, syntax: str) -> None:
    base = tiled_tiff(tmp_path / "slide.tiff")
    before = converted(tmp_path / "slide.tiff", "before", format=syntax, metadata=PATIENT)
    after = converted(tmp_path / "before", "after", pyramid="source", deidentify=True)
    assert len(after.files) == len(before.files)
    nothing_named(after.files)
    ds = dcmread(after.files[0])
    assert ds.LossyImageCompression == "00"
    decode = imagecodecs.htj2k_decode if "htj2k" in syntax else imagecodecs.jpeg2k_decode
    for frame, expected in zip(frames(ds), tiles_of(base, 256), strict=True):
        assert np.array_equal(decode(frame), expected)


def test_fluorescence(converted: Callable[..., Converted], tmp_path: Path) -> None:
    pixels = ome_tiff(tmp_path / "slide.ome.tiff")
    converted(tmp_path / "slide.ome.tiff", "before", pyramid="source", metadata=PATIENT)
    after = converted(tmp_path / "before", "after", pyramid="source", deidentify=True)
    nothing_named(after.files)
    ds = dcmread(after.files[0])
    assert ds.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert (ds.NumberOfOpticalPaths, ds.TotalPixelMatrixFocalPlanes) == pixels.shape[:2]
    first = np.zeros((128, 128), np.uint16)
    for frame, index in zip(frames(ds), range(1), strict=False):
        first[:] = imagecodecs.jpeg2k_decode(frame)
        assert np.array_equal(first, pixels[index, 0, :128, :128])


WIDE = (150, 100)
SIDE = 64


def written(folder: Path, *instances: Dataset) -> Path:
    folder.mkdir()
    for number, ds in enumerate(instances):
        (folder / f"{number}.dcm").write_bytes(file(ds))
    return folder


def decoded(path: Path) -> list[Matrix]:
    return [imagecodecs.jpeg2k_decode(frame) for frame in frames(dcmread(path))]


@pytest.mark.parametrize(
    "syntax", [NATIVE, pytest.param(JPEG_LS, marks=pytest.mark.full), pytest.param(RLE, marks=pytest.mark.full)]
)
def test_sparse_frames_and_holes(converted: Callable[..., Converted], tmp_path: Path, syntax: str) -> None:
    tiles = tiles_of(matrix(*WIDE), SIDE)
    taken = [4, 0, 2]
    places = [Place(SIDE * (i % 3), SIDE * (i // 3)) for i in taken]
    sparse = instance(Series(), [tiles[i] for i in taken], WIDE, places=places, syntax=syntax)
    after = converted(written(tmp_path / "in", sparse), "out", pyramid="source", deidentify=True)
    found = decoded(after.files[0])
    assert dcmread(after.files[0]).DimensionOrganizationType == "TILED_FULL"
    for number, (tile, expected) in enumerate(zip(found, tiles, strict=True)):
        inside = np.s_[: WIDE[1] - SIDE * (number // 3), : WIDE[0] - SIDE * (number % 3)]
        assert np.array_equal(tile[inside], expected[inside] if number in taken else np.full_like(tile, 255)[inside])


def test_concatenations_become_one(converted: Callable[..., Converted], tmp_path: Path) -> None:
    tiles, series = tiles_of(matrix(*WIDE), SIDE), Series()
    parts = [
        instance(series, tiles[first : first + count], WIDE, syntax=J2K, ConcatenationUID="1.2.3",
                 InConcatenationNumber=number, ConcatenationFrameOffsetNumber=first)
        for number, (first, count) in enumerate([(0, 1), (1, 3), (4, 2)], 1)
    ]  # fmt: skip
    after = converted(written(tmp_path / "in", parts[2], parts[0], parts[1]), "out", pyramid="source", deidentify=True)
    (path,) = after.files
    assert "ConcatenationUID" not in dcmread(path)
    for tile, expected in zip(decoded(path), tiles, strict=True):
        assert np.array_equal(tile, expected)


def test_an_instance_for_each_focal_plane(converted: Callable[..., Converted], tmp_path: Path) -> None:
    series, planes = Series(), [tiles_of(matrix(*WIDE, seed=n, colour=False), SIDE, 0) for n in range(2)]
    parts = [
        instance(series, tiles, WIDE, syntax=J2K, places=[
            Place(SIDE * (i % 3), SIDE * (i // 3), depth=3.0 * depth) for i in range(6)
        ])
        for depth, tiles in enumerate(planes)
    ]  # fmt: skip
    after = converted(written(tmp_path / "in", *parts), "out", pyramid="source", deidentify=True)
    assert dcmread(after.files[0]).TotalPixelMatrixFocalPlanes == 2
    for tile, expected in zip(decoded(after.files[0]), [*planes[0], *planes[1]], strict=True):
        assert np.array_equal(tile, expected)


def test_frames_off_the_grid_and_two_series_are_refused(converted: Callable[..., Converted], tmp_path: Path) -> None:
    tiles = tiles_of(matrix(*WIDE), SIDE)
    off = instance(Series(), tiles[:2], WIDE, places=[Place(0, 0), Place(50, 0)])
    with pytest.raises(ConversionFailed, match="off the grid"):
        converted(written(tmp_path / "in", off), "a", deidentify=True)
    two = [instance(Series(), tiles, WIDE) for _ in range(2)]
    with pytest.raises(ConversionFailed, match="2 series"):
        converted(written(tmp_path / "two", *two), "b", deidentify=True)


def test_what_is_refused(converted: Callable[..., Converted], tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    before = converted(tmp_path / "slide.tiff", "before", pyramid="source")
    with pytest.raises(ConversionFailed, match="DICOM already"):
        converted(before.files[0], "a")
    ds = dcmread(before.files[0])
    ds.BurnedInAnnotation = "YES"
    ds.save_as(before.files[0])
    with pytest.raises(ConversionFailed, match="Burned In Annotation"):
        converted(tmp_path / "before", "b", deidentify=True)
    before.files[0].write_bytes(before.files[0].read_bytes()[:5000])
    with pytest.raises(ConversionFailed):
        converted(tmp_path / "before", "c", deidentify=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionFailed, match="no DICOM file"):
        converted(tmp_path / "empty", "d", deidentify=True)


def test_profiles_show_the_same_colours() -> None:
    before = profile()
    after = nameless(before)
    assert NAMED.encode("utf-16-be") not in after
    assert len(after) < len(before)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8))
    adobe = opened(imagecodecs.cms_profile("adobergb"))
    one, two = (ImageCms.profileToProfile(image, opened(each), adobe, outputMode="RGB") for each in (before, after))
    assert np.array_equal(np.asarray(one), np.asarray(two))
    for version in (4, 2):
        changed = bytearray(before)
        changed[8] = version
        assert not ImageCms.getProfileDescription(opened(nameless(bytes(changed)))).strip()
    for damaged in (b"", before[:100], before[:36] + b"xxxx" + before[40:], before[:400]):
        with pytest.raises(BadSlide):
            nameless(damaged)
