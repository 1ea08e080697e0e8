"""The same shades and colours as DCMTK's dcmj2pnm for real files.

Where one level of difference is allowed it is rounding: DCMTK cuts the fraction of a shade off, we round it.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom.pixels import apply_color_lut

from dicomweb.rendered.annotation import draw_overlays
from dicomweb.rendered.image import picture
from dicomweb.rendered.parameters import Rendering, Window
from tests.unit.rendered_files import PLAIN, opened, read, sample, source_of


def dcmtk(path: Path, *options: str) -> np.ndarray:
    done = subprocess.run(
        ["dcmj2pnm", "--quiet", "--write-raw-pnm", *options, str(path)], capture_output=True, check=True, timeout=60
    )
    return opened(done.stdout)


def ours(path: Path, wanted: Rendering = PLAIN, frame: int = 1) -> np.ndarray:
    return picture(source_of(read(path.name), frame), wanted)[0]


def difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("693_UNCI.dcm", "+Wi"),  # CT, 14 of 16 bits, signed, padding -2000
        ("MR-SIEMENS-DICOM-WithOverlays.dcm", "+Wi"),
        ("MR2_UNCI.dcm", "+Wi"),
        ("MR_small.dcm", "+Wi"),
        ("MR_small_bigendian.dcm", "+Wi"),
        ("MR_small_implicit.dcm", "+Wi"),
        ("RG1_UNCI.dcm", "+Wi"),  # CR, MONOCHROME1, 15 of 16 bits
        ("RG3_UNCI.dcm", "+Wi"),  # CR, MONOCHROME1, 10 of 16 bits
        ("vlut_04.dcm", "+Wl"),  # VOI LUT Sequence
        ("examples_overlay.dcm", "+Wi"),
    ],
)
def test_first_window_or_table_of_the_image(name: str, option: str) -> None:
    path = sample(name)
    assert difference(ours(path), dcmtk(path, "-O", option, "1")) <= 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("name", ["CT_small.dcm", "JPEG2000_UNC.dcm", "emri_small.dcm", "rtdose_1frame.dcm"])
def test_without_a_window_from_the_least_value_to_the_greatest(name: str) -> None:
    path = sample(name)
    assert difference(ours(path), dcmtk(path, "-O", "+Wm")) <= 1


@pytest.mark.parametrize("name", ["CT_small.dcm", "RG3_UNCI.dcm", "mlut_18.dcm"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (500.5, 1), (-100, 3000), (1024, 2048)])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_window_that_is_asked_for(name: str, center: float, width: float, sigmoid: bool) -> None:
    path = sample(name)
    wanted = Rendering(window=Window(center, width, "SIGMOID" if sigmoid else "LINEAR"))
    options = ["+Ww", str(center), str(width), "+Wfs" if sigmoid else "+Wfl"]
    assert difference(ours(path, wanted), dcmtk(path, "-O", *options)) <= 1


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("examples_palette.dcm", 1),
        ("OBXXXX1A.dcm", 1),
        ("OBXXXX1A_2frame.dcm", 2),
        ("OT-PAL-8-face.dcm", 1),
        ("SC_rgb.dcm", 1),
        ("color-pl.dcm", 1),  # planes
        ("color-px.dcm", 1),
        ("ExplVR_BigEnd.dcm", 1),
        ("US1_UNCI.dcm", 1),
        ("SC_rgb_16bit.dcm", 1),
        ("SC_rgb_16bit_2frame.dcm", 2),
        ("SC_rgb_small_odd.dcm", 1),
    ],
)
def test_colour(name: str, frame: int) -> None:
    path = sample(name)
    assert difference(ours(path, frame=frame), dcmtk(path, "-O", "+F", str(frame))) <= 1


@pytest.mark.parametrize("name", ["SC_ybr_full_uncompressed.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_ybr(name: str) -> None:
    """PS3.3 C.7.6.3.1.2 counts chroma from 128, DCMTK from 127.5: two levels of difference in blue."""
    path = sample(name)
    y, cb, cr = np.moveaxis(source_of(read(name)).pixels.array.astype(float), -1, 0)
    exact = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    assert difference(ours(path), np.clip(np.rint(np.stack(exact, -1)), 0, 255)) <= 1
    assert difference(ours(path), dcmtk(path)) <= 2


@pytest.mark.parametrize("name", ["MR-SIEMENS-DICOM-WithOverlays.dcm", "examples_overlay.dcm"])
def test_overlays(name: str) -> None:
    path = sample(name)
    source = source_of(read(name))
    picture_ = np.array(picture(source, Rendering())[0])
    draw_overlays(picture_, source.pixels.array, source.image, source.dataset, 1, {})
    assert difference(picture_, dcmtk(path, "+Wi", "1", "+O", "0", "+Omr")) <= 1
    assert (picture_ != ours(path)).any()


def test_segmented_palette_is_that_of_pydicom() -> None:
    """DCMTK does not read these."""
    path = sample("gdcm-US-ALOKA-16.dcm")
    ds = read(path.name)
    assert difference(ours(path), apply_color_lut(ds.pixel_array, ds) >> 8) <= 1


def test_one_bit() -> None:
    path = sample("liver.dcm")
    assert difference(ours(path, frame=2), dcmtk(path, "+F", "2", "+Wm")) == 0
    assert set(np.unique(ours(path, Rendering(quality=1), 2))) == {0, 255}
