"""Slides of vendors as DICOM: pixels against the file's own decoders, and against other readers of DICOM."""

import asyncio
import itertools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames, get_frame
from pydicom.uid import VLWholeSlideMicroscopyImageStorage
from wsidicom import WsiDicom

from dicomweb.errors import BadQuery
from dicomweb.pixels.image import ImagePixel
from storage.settings import load_settings
from tests.wsi.converting import converted_here
from tests.wsi.variants import Matrix, matrix
from tests.wsi.vendor import SIZE, TILE, levels_of, ome_tiff, svs, tiled_tiff, ycbcr
from wsi.convert.options import Options
from wsi.convert.run import ConversionFailed, Converted, convert, describe
from wsi.convert.writer import InstanceWriter

JPEG = "1.2.840.10008.1.2.4.50"
ERROR = re.compile(r"^Error.*", re.MULTILINE)
# dciodvfy compares each part of a concatenation with the whole matrix.
OF_A_PART = "Error - NumberOfFrames does not match expected value for tiled total pixel matrix"


Dicomize = Callable[..., Converted]


@pytest.fixture
def dicomize(tmp_path: Path) -> Dicomize:
    """Convert a file into tmp_path/out; the options as a request has them."""

    def run(path: Path, folder: str = "out", **options: object) -> Converted:
        (tmp_path / folder).mkdir()
        return converted_here(path, tmp_path / folder, options)

    return run


@pytest.fixture
def apart(tmp_path: Path) -> Dicomize:
    """The same in a process of its own, as the program does it: for all that fails, and some that does not."""
    settings = load_settings({"data": tmp_path / "data"}, {}, None)[0]

    def run(path: Path, folder: str = "out", **options: object) -> Converted:
        (tmp_path / folder).mkdir()
        return asyncio.run(convert(settings, path, tmp_path / folder, Options.parse(options)))

    return run


def described(path: Path, **options: object) -> dict[str, object]:
    settings = load_settings({"data": path.parent / "data"}, {}, None)[0]
    return asyncio.run(describe(settings, path, Options.parse(options)))


def sound(done: Converted) -> list[Dataset]:
    """The instances; none may break a rule of its IOD."""
    for file in done.files:
        said = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
        assert "VLWholeSlideMicroscopyImage" in said.stderr
        found = ERROR.findall(said.stderr)
        part = "InConcatenationNumber" in dcmread(file, stop_before_pixels=True)
        assert [each for each in found if not (part and each.startswith(OF_A_PART))] == [], (file.name, said.stderr)
    return [dcmread(file) for file in done.files]


def whole(slide: openslide.OpenSlide, level: int = 0) -> Matrix:
    size = slide.level_dimensions[level]
    return np.asarray(slide.read_region((0, 0), level, size).convert("RGB"))


def by_wsidicom(folder: Path, level: int = 0) -> Matrix:
    with WsiDicom.open(folder) as slide:
        size = slide.levels[level].size
        return np.asarray(
            slide.read_region((0, 0), slide.levels[level].level, (size.width, size.height)).convert("RGB")
        )


def frames_of(file: Path) -> list[bytes]:
    ds = dcmread(file)
    return list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))


@pytest.mark.parametrize("space", ["ycbcr", "rgb"])
def test_an_svs_is_copied_without_loss(apart: Dicomize, tmp_path: Path, space: str) -> None:
    svs(tmp_path / "slide.svs", space=space)
    done = apart(tmp_path / "slide.svs")
    levels = sound(done)
    assert [file.name for file in done.files] == [
        "level-00.dcm", "level-01.dcm", "label.dcm", "overview.dcm", "thumbnail.dcm"
    ]  # fmt: skip
    with openslide.OpenSlide(tmp_path / "slide.svs") as theirs, openslide.OpenSlide(done.files[0]) as ours:
        assert ours.level_dimensions == theirs.level_dimensions
        for level in range(2):
            assert np.array_equal(whole(theirs, level), whole(ours, level))
            assert np.array_equal(whole(theirs, level), by_wsidicom(tmp_path / "out", level))
        assert ours.properties["openslide.mpp-x"].startswith("0.25")
        assert set(ours.associated_images) >= {"label", "macro"}
    base = levels[0]
    assert base.PhotometricInterpretation == ("YBR_FULL_422" if space == "ycbcr" else "RGB")
    assert (base.LossyImageCompression, base.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert base.LossyImageCompressionRatio == pytest.approx(ratio(base), rel=0.01)
    assert base.AcquisitionDateTime == "20241120101112"
    assert len({ds.OpticalPathSequence[0].ICCProfile for ds in levels}) == 1
    assert b"DOE" not in b"".join(frames_of(done.files[0]))
    with tifffile.TiffFile(tmp_path / "slide.svs") as tiff:
        page = tiff.pages.first
        raw = [tiff.filehandle.read_array(np.uint8, count=n, offset=o).tobytes()  # type: ignore[attr-defined]
               for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]  # fmt: skip
    scans = [frame[frame.find(b"\xff\xda") :].rstrip(b"\0") for frame in frames_of(done.files[0])]
    assert scans == [tile[tile.find(b"\xff\xda") :].rstrip(b"\0") for tile in raw]


def ratio(ds: Dataset) -> float:
    frames = sum(map(len, generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames)))
    return float(ds.Rows * ds.Columns * 3 * ds.NumberOfFrames / frames)


def test_what_all_instances_share(dicomize: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    metadata = {
        "PatientName": "Doe^Jane", "PatientID": "P-7", "AccessionNumber": "A-9", "ContainerIdentifier": "S24-1;A;1",
        "SpecimenDescriptionSequence": [{"SpecimenIdentifier": "S24-1;A", "SpecimenUID": "1.2.3.4"}],
    }  # fmt: skip
    done = dicomize(tmp_path / "slide.svs", metadata=metadata, study="1.2.3", series="1.2.3.9", pyramid="full")
    instances = [dcmread(file) for file in done.files]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ContainerIdentifier", "PatientID"):
        assert len({ds[keyword].value for ds in instances}) == 1, keyword
    assert (done.study, done.series, instances[0].PatientName) == ("1.2.3", "1.2.3.9", "Doe^Jane")
    assert len({ds.SOPInstanceUID for ds in instances}) == len(instances)
    volumes = [ds for ds in instances if ds.ImageType[2] == "VOLUME"]
    assert [(ds.TotalPixelMatrixColumns, ds.ImageType[3]) for ds in volumes] == [
        (1500, "NONE"), (750, "RESAMPLED"), (375, "RESAMPLED")
    ]  # fmt: skip
    assert {ds.PyramidUID for ds in volumes} == {instances[-1].PyramidUID}
    for ds in volumes:
        spacing = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        assert float(spacing[1]) * ds.TotalPixelMatrixColumns == pytest.approx(ds.ImagedVolumeWidth)
        assert float(spacing[0]) * ds.TotalPixelMatrixRows == pytest.approx(ds.ImagedVolumeHeight)


def test_halved_levels_are_means(dicomize: Dicomize, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "slide.tiff")
    done = dicomize(tmp_path / "slide.tiff", format="jpeg2000-lossless", pyramid="full")
    sound(done)
    with WsiDicom.open(tmp_path / "out") as slide:
        expected = base
        for level in slide.levels:
            size = level.size
            shown = np.asarray(slide.read_region((0, 0), level.level, (size.width, size.height)).convert("RGB"))
            assert np.array_equal(shown, expected), level
            even = expected[: expected.shape[0] // 2 * 2, : expected.shape[1] // 2 * 2]
            expected = np.asarray(Image.fromarray(even).reduce(2))
    assert len(done.files) == 2


@pytest.mark.parametrize("space", ["ycbcr", "rgb"])
def test_levels_made_of_jpeg_tiles(dicomize: Dicomize, tmp_path: Path, space: str) -> None:
    svs(tmp_path / "slide.svs", space=space)
    dicomize(tmp_path / "slide.svs", format="jpeg2000-lossless", pyramid="rebuilt", levels="0,1")
    with openslide.OpenSlide(tmp_path / "slide.svs") as theirs:
        base = whole(theirs)
    assert np.array_equal(by_wsidicom(tmp_path / "out"), base)
    assert np.array_equal(by_wsidicom(tmp_path / "out", 1), np.asarray(Image.fromarray(base).reduce(2)))


@pytest.mark.parametrize(
    ("kind", "syntax", "error"),
    [
        ("jpeg", JPEG, 16), ("jpeg2000", "1.2.840.10008.1.2.4.91", 6), ("htj2k", "1.2.840.10008.1.2.4.203", 6),
        ("jpegxl", "1.2.840.10008.1.2.4.112", 16), ("jpeg2000-lossless", "1.2.840.10008.1.2.4.90", 0),
        ("htj2k-lossless", "1.2.840.10008.1.2.4.201", 0), ("jpegxl-lossless", "1.2.840.10008.1.2.4.110", 0),
        ("jpegls", "1.2.840.10008.1.2.4.81", 5), ("jpegls-lossless", "1.2.840.10008.1.2.4.80", 0),
        ("none", "1.2.840.10008.1.2.1", 0),
    ],
)  # fmt: skip
def test_every_format(dicomize: Dicomize, tmp_path: Path, kind: str, syntax: str, error: int) -> None:
    base = tiled_tiff(tmp_path / "slide.tiff")
    done = dicomize(tmp_path / "slide.tiff", format=kind, pyramid="source", quality=95)
    (ds,) = sound(done) if kind[:6] != "jpegxl" and kind[:5] != "htj2k" else [dcmread(done.files[0])]
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert ds.LossyImageCompression == ("01" if error else "00")
    tile = first_tile(ds)
    assert np.abs(tile.astype(int) - base[:TILE, :TILE]).mean() <= error / 4
    assert np.abs(tile.astype(int) - base[:TILE, :TILE]).max() <= error * 6


def first_tile(ds: Dataset) -> Matrix:
    from dicomweb.pixels.decode import decode_frame

    image = ImagePixel(ds.Rows, ds.Columns, 3, 8, 8, False, 0, ds.PhotometricInterpretation, 1)
    if ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1":
        return np.frombuffer(ds.PixelData, np.uint8, image.decoded_bytes).reshape(image.shape)
    frame = get_frame(ds.PixelData, 0, number_of_frames=ds.NumberOfFrames)
    return decode_frame(str(ds.file_meta.TransferSyntaxUID), frame, image).array


def test_fluorescence_keeps_every_bit(dicomize: Dicomize, tmp_path: Path) -> None:
    pixels = ome_tiff(tmp_path / "slide.ome.tiff")
    done = dicomize(tmp_path / "slide.ome.tiff")
    base, half = sound(done)
    assert [path.OpticalPathDescription for path in base.OpticalPathSequence] == ["DAPI", "FITC", "Cy5"]
    assert [path.IlluminationWaveLength for path in base.OpticalPathSequence] == [358, 490, 650]
    assert (base.TotalPixelMatrixFocalPlanes, base.NumberOfOpticalPaths, base.NumberOfFrames) == (2, 3, 6 * 4 * 6)
    assert (half.TotalPixelMatrixColumns, base.BitsStored) == (350, 16)
    with WsiDicom.open(tmp_path / "out") as slide:
        for channel, plane in itertools.product(range(3), range(2)):
            got = slide.read_region((0, 0), 0, (700, 500), z=plane * 1.5, path=str(channel + 1))
            assert np.array_equal(np.asarray(got), pixels[channel, plane]), (channel, plane)


def test_jpeg_2000_tiles_are_copied(dicomize: Dicomize, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "slide.tiff", compression="jpeg2000", compressionargs={"codecformat": "j2k"})
    done = dicomize(tmp_path / "slide.tiff", pyramid="source")
    (ds,) = sound(done)
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.91"
    assert np.array_equal(by_wsidicom(tmp_path / "out"), base)


@pytest.mark.parametrize(
    "suffix", ["png", pytest.param("jpg", marks=pytest.mark.full), pytest.param("tiff", marks=pytest.mark.full)]
)
def test_pictures(dicomize: Dicomize, apart: Dicomize, tmp_path: Path, suffix: str) -> None:
    pixels = matrix(*SIZE)
    Image.fromarray(pixels).save(tmp_path / f"slide.{suffix}")
    with pytest.raises(ConversionFailed, match="mpp"):
        apart(tmp_path / f"slide.{suffix}", "refused")
    done = dicomize(tmp_path / f"slide.{suffix}", mpp=0.5, format="jpeg2000-lossless")
    sound(done)
    shown = np.asarray(Image.open(tmp_path / f"slide.{suffix}").convert("RGB"))
    assert np.array_equal(by_wsidicom(tmp_path / "out"), shown)
    assert dcmread(done.files[0]).LossyImageCompression == ("01" if suffix == "jpg" else "00")


def test_another_tile_size_and_fewer_levels(dicomize: Dicomize, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "slide.tiff")
    done = dicomize(tmp_path / "slide.tiff", tile=512, format="jpeg2000-lossless", pyramid="full", levels="0")
    (ds,) = sound(done)
    assert (ds.Rows, ds.Columns, ds.NumberOfFrames) == (512, 512, 9)
    assert np.array_equal(by_wsidicom(tmp_path / "out"), base)


@pytest.mark.parametrize("table", ["basic", "extended", "empty"])
def test_offset_tables(dicomize: Dicomize, tmp_path: Path, table: str) -> None:
    svs(tmp_path / "slide.svs")
    done = dicomize(tmp_path / "slide.svs", offsets=table, pyramid="source")
    ds = dcmread(done.files[0])
    frames = list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
    assert ("ExtendedOffsetTable" in ds) == (table == "extended")
    if table == "extended":
        tables = {"extended_offsets": (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)}
    else:
        assert (int.from_bytes(ds.PixelData[4:8], "little") > 0) == (table == "basic")
        tables = {}
    for index in (0, 13, ds.NumberOfFrames - 1):
        assert get_frame(ds.PixelData, index, number_of_frames=ds.NumberOfFrames, **tables) == frames[index]


@pytest.mark.parametrize(
    "table", ["basic", pytest.param("extended", marks=pytest.mark.full), pytest.param("empty", marks=pytest.mark.full)]
)
def test_concatenations(dicomize: Dicomize, tmp_path: Path, table: str) -> None:
    """A level in several instances is what it is in one, for every reader that puts them together."""
    svs(tmp_path / "slide.svs")
    limit = 140_000
    done = dicomize(tmp_path / "slide.svs", instance_bytes=limit, offsets=table, thumbnail=False, seed="s")
    whole_one = dicomize(tmp_path / "slide.svs", "whole", offsets=table, thumbnail=False, seed="s")
    sound(done)
    parts = [dcmread(file) for file in done.files if file.name.startswith("level-00")]
    single = dcmread(whole_one.files[0])
    assert len(parts) > 1
    assert all(file.stat().st_size <= limit for file in done.files)
    assert [ds.InConcatenationNumber for ds in parts] == list(range(1, len(parts) + 1))
    assert {ds.InConcatenationTotalNumber for ds in parts} == {len(parts)}
    assert {ds.SOPInstanceUIDOfConcatenationSource for ds in parts} == {single.SOPInstanceUID}
    assert len({ds.ConcatenationUID for ds in parts}) == len({ds.InstanceNumber for ds in parts}) == 1
    assert {ds.LossyImageCompressionRatio for ds in parts} == {single.LossyImageCompressionRatio}
    counts = [int(ds.NumberOfFrames) for ds in parts]
    assert [ds.ConcatenationFrameOffsetNumber for ds in parts] == [sum(counts[:n]) for n in range(len(counts))]
    frames = [frame for file in done.files if file.name.startswith("level-00") for frame in frames_of(file)]
    assert frames == frames_of(whole_one.files[0])
    assert [file.name for file in done.files if file.name.startswith("level-01")] == ["level-01.dcm"]
    with openslide.OpenSlide(tmp_path / "slide.svs") as theirs, openslide.OpenSlide(done.files[0]) as ours:
        assert ours.level_dimensions == theirs.level_dimensions
        assert np.array_equal(whole(theirs), whole(ours))
        assert np.array_equal(whole(theirs), by_wsidicom(tmp_path / "out"))
    image = highdicom.imread(done.files[1])
    assert np.array_equal(image.get_frame(1), highdicom.imread(whole_one.files[0]).get_frame(counts[0] + 1))


def test_a_frame_that_is_larger_than_an_instance_may_be(apart: Dicomize, tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    with pytest.raises(ConversionFailed, match="single frame"):
        apart(tmp_path / "slide.tiff", instance_bytes=1 << 17, format="none")


def test_equal_seeds_give_equal_files(dicomize: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    said = {"seed": "job 7", "created": "2026-02-03T04:05:06+00:00"}
    first, second = (dicomize(tmp_path / "slide.svs", folder, **said) for folder in ("a", "b"))
    assert [file.read_bytes() for file in first.files] == [file.read_bytes() for file in second.files]


def test_nothing_identifies_when_it_must_not(dicomize: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "DOE^JANE.svs", space="rgb")
    done = dicomize(tmp_path / "DOE^JANE.svs", deidentify=True)
    sound(done)
    assert not {file.name for file in done.files} & {"label.dcm", "overview.dcm"}
    everything = b"".join(file.read_bytes() for file in done.files)
    for word in (b"DOE", b"JANE", b"SS1234", b"20241120", b"101112"):
        assert word not in everything


def test_a_part_of_the_overview_is_kept_without_names(dicomize: Dicomize, apart: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs", macro=macro())
    part = {"overview_part": "40,10,50,80"}
    for folder, hidden in (("open", False), ("hidden", True)):
        done = dicomize(tmp_path / "slide.svs", folder, deidentify=hidden, **part)
        sound(done)
        names = [file.name for file in done.files]
        assert ("label.dcm" in names) != hidden
        overview = dcmread(tmp_path / folder / "overview.dcm")
        assert (overview.Rows, overview.Columns) == (80, 100)
        assert overview.BurnedInAnnotation == "NO"
        assert np.abs(overview.pixel_array.astype(int) - macro()[10:90, 80:180]).max() < 12
        # The picture of the whole is taken for 75 mm; rows run towards smaller Y, columns towards smaller X.
        origin = overview.TotalPixelMatrixOriginSequence[0]
        step = 75 / 200
        assert float(origin.XOffsetInSlideCoordinateSystem) == pytest.approx(25 - 10 * step)
        assert float(origin.YOffsetInSlideCoordinateSystem) == pytest.approx(75 - 80 * step)
    with pytest.raises(ConversionFailed, match="nothing is left"):
        apart(tmp_path / "slide.svs", "none", overview_part="0,0,0.1,50")


def macro() -> Matrix:
    """(100, 200, 3): black where the label is, at the left, else of slowly changing colours."""
    y, x = np.mgrid[0:100, 0:200]
    picture = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    picture[:, :70] = 0
    return picture


def test_another_label_and_profile(dicomize: Dicomize, apart: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    label = np.full((60, 90, 3), (10, 200, 90), np.uint8)
    Image.fromarray(label).save(tmp_path / "label.png")
    profile = bytes(imagecodecs.cms_profile("adobergb"))
    (tmp_path / "own.icc").write_bytes(profile)
    (tmp_path / "not.icc").write_bytes(b"no profile" * 100)
    done = dicomize(tmp_path / "slide.svs", label_file=str(tmp_path / "label.png"), icc="rommrgb", deidentify=True)
    shown = next(ds for ds in sound(done) if ds.ImageType[2] == "LABEL")
    assert np.abs(shown.pixel_array.astype(int) - label).max() < 4
    for file in done.files:
        path = dcmread(file).OpticalPathSequence[0]
        assert (path.ColorSpace, path.ICCProfile[12:16]) == ("ROMMRGB", b"scnr")
    done = dicomize(tmp_path / "slide.svs", "own", icc_file=str(tmp_path / "own.icc"))
    path = sound(done)[0].OpticalPathSequence[0]
    assert path.ICCProfile.rstrip(b"\0") == profile.rstrip(b"\0")
    assert "ColorSpace" not in path
    with pytest.raises(ConversionFailed, match=r"not\.icc is no ICC profile"):
        apart(tmp_path / "slide.svs", "bad", icc_file=str(tmp_path / "not.icc"))
    with pytest.raises(ConversionFailed, match=r"own\.icc is no picture"):
        apart(tmp_path / "slide.svs", "worse", label_file=str(tmp_path / "own.icc"))


def test_tiles_that_are_encoded_anew(dicomize: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    with openslide.OpenSlide(tmp_path / "slide.svs") as slide:
        shown = whole(slide).astype(int)
    found = {}
    for subsampling in ("420", "422", "444"):
        done = dicomize(tmp_path / "slide.svs", subsampling, copy=False, subsampling=subsampling, origin="21.5,60")
        base = sound(done)[0]
        assert base.PhotometricInterpretation == "YBR_FULL_422"
        # Lossy twice: before, and here.
        assert list(base.LossyImageCompressionMethod) == ["ISO_10918_1"] * 2
        origin = base.TotalPixelMatrixOriginSequence[0]
        assert (origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem) == (21.5, 60)
        found[subsampling] = np.abs(by_wsidicom(tmp_path / subsampling).astype(int) - shown).mean()
    assert found["444"] < found["422"] < found["420"] < 6


@pytest.mark.parametrize(("how", "count"), [("paths", 3), ("planes", 2), ("both", 6)])
def test_an_instance_for_each_path_and_plane(dicomize: Dicomize, tmp_path: Path, how: str, count: int) -> None:
    pixels = ome_tiff(tmp_path / "slide.ome.tiff")
    done = dicomize(tmp_path / "slide.ome.tiff", split=how, pyramid="source", instance_frames=10)
    instances = sound(done)
    levels = [ds for ds in instances if ds.TotalPixelMatrixColumns == 700]
    assert len({(ds.ConcatenationUID, ds.InConcatenationTotalNumber) for ds in levels}) == count
    assert all(ds.NumberOfFrames <= 10 for ds in instances)
    assert sum(ds.NumberOfFrames for ds in levels) == 6 * 4 * 6
    assert {ds.NumberOfOpticalPaths for ds in levels} == {1 if how != "planes" else 3}
    assert {ds.TotalPixelMatrixFocalPlanes for ds in levels} == {1 if how != "paths" else 2}
    with WsiDicom.open(tmp_path / "out") as slide:
        for channel, plane in itertools.product(range(3), range(2)):
            got = slide.read_region((0, 0), 0, (700, 500), z=plane * 1.5, path=str(channel + 1))
            assert np.array_equal(np.asarray(got), pixels[channel, plane]), (channel, plane)


def test_what_would_be_done(tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    said = described(tmp_path / "slide.svs", pyramid="full")
    assert [(level["width"], level["made"]) for level in said["levels"]] == [  # type: ignore[index, attr-defined]
        (1500, "copied"), (750, "halved"), (375, "copied")
    ]  # fmt: skip
    assert said["pictures"] == ["label", "overview", "thumbnail"]
    assert not list(tmp_path.glob("*.dcm"))


# -- bad input


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut(apart: Dicomize, tmp_path: Path, keep: float) -> None:
    svs(tmp_path / "whole.svs")
    data = (tmp_path / "whole.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ConversionFailed, match=r"cut|damaged|beyond|cannot|no slide|OpenSlide|pixel"):
        apart(tmp_path / "cut.svs")


def test_tiles_that_are_not_what_the_directory_says(apart: Dicomize, tmp_path: Path) -> None:
    svs(tmp_path / "slide.svs")
    data = bytearray((tmp_path / "slide.svs").read_bytes())
    with tifffile.TiffFile(tmp_path / "slide.svs") as tiff:
        page = tiff.pages.first
        offsets, lengths = page.tags["TileOffsets"].valueoffset, page.tags["TileByteCounts"].valueoffset
        first = page.dataoffsets[9]
    size = 8 if data[2] == 43 else 4

    def refused(change: Callable[[bytearray], None], pattern: str) -> None:
        changed = bytearray(data)
        change(changed)
        (tmp_path / "bad.svs").write_bytes(changed)
        with pytest.raises(ConversionFailed, match=pattern):
            apart(tmp_path / "bad.svs", f"out{len(list(tmp_path.iterdir()))}")

    def put(at: int, value: int, width: int = size) -> Callable[[bytearray], None]:
        def change(target: bytearray) -> None:
            target[at : at + width] = value.to_bytes(width, "little")

        return change

    refused(put(offsets + 9 * size, len(data) + 5), "level 0, tile 3,1.*beyond the end")
    refused(put(offsets + 9 * size, 100), "level 0, tile 3,1.*no JPEG")
    refused(put(lengths + 9 * 4, 1 << 31, 4), "is said to have")
    refused(put(first, 0, 2), "level 0, tile 3,1.*no JPEG")

    def shorter(target: bytearray) -> None:
        at = target.find(b"\xff\xc0", first)
        target[at + 5 : at + 9] = bytes((0, 64, 0, 64))

    refused(shorter, "level 0, tile 3,1.*64 x 64 pixels")


@pytest.mark.parametrize(
    "content", [b"", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", b"hello", b"\x89PNG\r\n\x1a\nxx", bytes(500)]
)
def test_no_slide_at_all(apart: Dicomize, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "slide.svs").write_bytes(content)
    with pytest.raises(ConversionFailed):
        apart(tmp_path / "slide.svs")


def test_a_huge_claim_takes_no_memory(apart: Dicomize, tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "slide.tiff")
    data = bytearray((tmp_path / "slide.tiff").read_bytes())
    with tifffile.TiffFile(tmp_path / "slide.tiff") as tiff:
        tags = tiff.pages.first.tags
        for name in ("ImageWidth", "ImageLength"):
            at = tags[name].valueoffset
            data[at : at + 4] = (0xFFFFFF00 if tags[name].dtype == 4 else 0xFF00).to_bytes(4, "little")
    (tmp_path / "slide.tiff").write_bytes(data)
    with pytest.raises(ConversionFailed, match=r"offsets|pixels|tiles"):
        apart(tmp_path / "slide.tiff", format="jpeg")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"format": "gif"}, "format"), ({"quality": 0}, "quality"), ({"tile": 100}, "tile"),
        ({"levels": "a"}, "levels"),
        ({"mpp": "x"}, "mpp"), ({"study": "1..2"}, "study"), ({"label": "perhaps"}, "label"),
        ({"colour": 1}, "colour"),
        ({"metadata": "x"}, "metadata"), ({"split": "levels"}, "split"), ({"icc": "cmyk"}, "icc"),
        ({"subsampling": "411"}, "subsampling"), ({"instance_frames": -1}, "instance_frames"),
        ({"origin": "1,2,3"}, "origin"), ({"origin": "nan,1"}, "origin"),
        ({"overview_part": "0,0,101,5"}, "overview_part"),
        ({"overview_part": "60,0,50,5"}, "overview_part"), ({"overview_part": "0,0,0,5"}, "overview_part"),
        ({"icc": "srgb", "icc_file": "x"}, "icc"),
    ],
)  # fmt: skip
def test_options_that_are_none(given: dict[str, object], name: str) -> None:
    with pytest.raises(BadQuery) as caught:
        Options.parse(given)
    assert caught.value.attribute == name


@pytest.mark.parametrize(
    "metadata",
    [
        {"Rows": 5},
        {"NoSuchKeyword": 1},
        {"SpecimenDescriptionSequence": "x"},
        {"StudyDate": {"a": 1}},
        {"PixelData": "x"},
        {"ImagedVolumeDepth": 3.0},
    ],
)
def test_metadata_that_cannot_be(apart: Dicomize, tmp_path: Path, metadata: dict[str, object]) -> None:
    svs(tmp_path / "slide.svs")
    with pytest.raises(ConversionFailed, match=f"metadata: {next(iter(metadata))}"):
        apart(tmp_path / "slide.svs", metadata=metadata)


def test_shrunk_levels_of_the_fixture_are_alike() -> None:
    base, quarter = levels_of(matrix(*SIZE), 4)
    assert quarter.shape == (275, 375, 3)
    assert base.shape == (1100, 1500, 3)


def test_more_than_four_gigabytes_get_the_extended_offset_table(tmp_path: Path) -> None:
    pixel = ImagePixel(64, 64, 3, 8, 8, False, 0, "YBR_FULL_422", 2)
    for most, extended in ((1 << 20, False), (1 << 32, True)):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = VLWholeSlideMicroscopyImageStorage, "1.2.3"
        writer = InstanceWriter(tmp_path / f"{most}.dcm", ds, JPEG, pixel, offsets="basic", most=most)
        for frame in (b"abc", b"defgh"):
            writer.add(frame)
        writer.finish()
        assert writer.frame(1) == b"defgh\0"
        writer.close()
        found = dcmread(tmp_path / f"{most}.dcm")
        assert ("ExtendedOffsetTable" in found) == extended
        assert list(generate_frames(found.PixelData, number_of_frames=2)) == [b"abc\0", b"defgh\0"]


def test_highdicom_reads_them(dicomize: Dicomize, tmp_path: Path) -> None:
    base = tiled_tiff(tmp_path / "slide.tiff")
    done = dicomize(tmp_path / "slide.tiff", format="jpeg2000-lossless", pyramid="source")
    image = highdicom.imread(done.files[0])
    assert np.array_equal(image.get_total_pixel_matrix(), base)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_pixels_to_a_side_within_a_gibibyte(apart: Dicomize, tmp_path: Path) -> None:
    side, tile = 100_000, 512
    y, x = np.mgrid[0:tile, 0:tile]
    pixels = np.stack([x // 2, y // 2, (x + y) // 4], -1).astype(np.uint8)
    count = (-(-side // tile)) ** 2
    (stream,) = ycbcr([pixels])
    tifffile.imwrite(
        tmp_path / "slide.tiff", itertools.repeat(stream, count), shape=(side, side, 3), dtype=np.uint8,
        tile=(tile, tile), photometric="ycbcr", compression="jpeg", subsampling=(2, 1), metadata=None, bigtiff=True,
        resolution=(40_000, 40_000), resolutionunit=3,
    )  # fmt: skip
    done = apart(tmp_path / "slide.tiff")
    assert done.peak < 1 << 30
    sizes = [dcmread(file, stop_before_pixels=True).TotalPixelMatrixColumns for file in done.files]
    assert sizes == [100_000, 50_000, 25_000, 12_500, 6_250, 3_125, 1_562, 781]
    with openslide.OpenSlide(done.files[0]) as slide:
        shown = np.asarray(slide.read_region((side - 1000, side - 1000), 0, (1000, 1000)).convert("RGB")).astype(int)
        place = (side - 1000 + np.arange(1000)) % tile
        assert np.abs(shown[..., 0] - place[None] // 2).mean() < 2
        assert np.abs(shown[..., 1] - place[:, None] // 2).mean() < 2
