"""What a scan costs: `python -m tests.bench.scan_speed`. CPU time of one thread, best of several; pydicom for scale.

The series is a CT of 140 attributes, of which six differ from slice to slice.
"""

import io
import time
import warnings
import zlib
from collections.abc import Callable

from pydicom import dcmread

from dicomweb.deflate import combine, deflate, gzip_array
from dicomweb.part10 import Memo, scan
from tests.unit.encoded import CT, dicom_file, element, image_pixels, sequence, sparse_slide, text

_WORDS = ("ORIGINAL", "PRIMARY", "AXIAL", "SIEMENS", "Hospital", "Radiology", "Thorax", "native", "B30f", "HFS", "Kopf")


def _code(value: str, meaning: str) -> bytes:
    return text(0x00080100, "SH", value) + text(0x00080102, "SH", "DCM") + text(0x00080104, "LO", meaning)


def ct_slice(number: int, pixels: bytes) -> bytes:
    """Slice `number` of a series: 130 attributes, four code sequences, two private blocks."""
    parts = {
        0x00080005: text(0x00080005, "CS", "ISO_IR 192"),
        0x00080008: text(0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
    }
    for index, tag in enumerate((0x00080020, 0x00080021, 0x00080022, 0x00080023)):
        parts[tag] = text(tag, "DA", f"2020013{index % 2}")
        parts[tag + 0x10] = text(tag + 0x10, "TM", f"1010{number if tag & 2 else 10:02d}.500000"[:13])
    for index, tag in enumerate((0x00081032, 0x00082218, 0x00400275, 0x00189346)):
        parts[tag] = sequence(
            tag, [_code(f"11{index}", "IEC Body Dosimetry Phantom")] * 2, undefined=True, undefined_items=True
        )
    for tag in (0x00100010, 0x00080090, 0x00081050, 0x00081070, 0x00321032):
        parts[tag] = text(tag, "PN", "MUELLER^ANNA^^DR")
    for index in range(30):
        tag = 0x00181000 + 2 * index
        parts[tag] = text(tag, "LO", " ".join(_WORDS[index % 9 : index % 9 + 3]))
        tag = 0x00189000 + 2 * index
        parts[tag] = text(tag, "DS", f"{index * 1.2345:.4f}")
    for group in (0x0019, 0x0029):
        parts[group << 16 | 0x10] = text(group << 16 | 0x10, "LO", "EXAMPLE PRIVATE")
        for index in range(8):
            tag = group << 16 | 0x1000 | index
            parts[tag] = text(tag, "LO", f"private value {index}")
        parts[group << 16 | 0x1020] = element(group << 16 | 0x1020, "OB", bytes(range(256)) * (group // 0x14))
    for index in range(20):
        tag = 0x00400250 + 0x1000 + index
        parts[tag] = text(tag, "SH", f"SPS{index:06d}")
    parts |= image_pixels(512, 512, 1, 16)
    parts |= {
        0x00100020: text(0x00100020, "LO", "PID000123"),
        0x00200013: text(0x00200013, "IS", str(number)),
        0x00200032: text(0x00200032, "DS", f"-185.63671875\\-333.13671875\\{-1.5 * number}"),
        0x00200037: text(0x00200037, "DS", "1\\0\\0\\0\\1\\0"),
        0x00201041: text(0x00201041, "DS", f"{-1.5 * number}"),
        0x00280030: text(0x00280030, "DS", "0.7265625\\0.7265625"),
        0x00281050: text(0x00281050, "DS", "40\\-600"),
        0x00281051: text(0x00281051, "DS", "400\\1200"),
        0x7FE00010: element(0x7FE00010, "OW", pixels),
    }
    return dicom_file(parts, sop_class=CT, sop=f"1.2.826.0.1.3680043.10.9999.1.{number}")


def best(work: Callable[[], object], repeats: int = 7) -> float:
    """Milliseconds of CPU."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times) * 1e3


def show(what: str, figure: float, unit: str = "ms") -> None:
    """One line of the table."""
    print(f"  {what:48} {figure:10.3f} {unit}")


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    pixels = bytes(524_288)
    series = [ct_slice(number, pixels) for number in range(60)]
    memo = Memo()
    for data in series[:20]:
        scan(data, memo=memo)
    found, whole = scan(series[-1], memo=memo), scan(series[-1])
    print(f"CT of {len(series[0]):,} bytes, {len(found.elements)} attributes; scans include compression")
    show("pydicom dcmread + to_json", best(lambda: [dcmread(io.BytesIO(data)).to_json() for data in series[:5]]) / 5)
    show("scan, nothing remembered", best(lambda: [scan(data) for data in series[:20]]) / 20)
    show("scan, series under way", best(lambda: [scan(data, memo=memo) for data in series[20:]]) / 40)
    words = whole.metadata.inflate()
    sizes = len(words), len(whole.metadata.data), len(found.metadata.data)
    print("  JSON {:,} bytes; compressed in one go {:,}, from pieces of the series {:,}".format(*sizes))
    for level in (1, 4, 6, 9):
        cost = best(lambda level=level: [deflate(words, level) for _ in range(20)]) / 20
        show(f"deflate level {level} ({len(deflate(words, level).data):,} bytes)", cost)
    show("CRC-32 of the JSON", best(lambda: [zlib.crc32(words) for _ in range(1000)]), "us")
    show("combining two CRC-32", best(lambda: [combine(1, 2, 9000) for _ in range(1000)]), "us")
    pieces = [scan(data, memo=memo).metadata for data in series] * 2
    show("gzip member of 100 instances", best(lambda: gzip_array(pieces[:100])))
    for frames in (20_000, 180_000):
        slide = sparse_slide(frames)
        show(f"scan of a TILED_SPARSE slide of {frames:,} frames", best(lambda slide=slide: scan(slide), 2))


if __name__ == "__main__":
    main()
