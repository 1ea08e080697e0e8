"""Single values as DICOM JSON: the edge cases, and where PS3.18 Annex F makes us differ from pydicom."""

import json
import struct

import pytest
from pydicom.dataset import Dataset

from dicomweb.json_model import dataset_json
from dicomweb.notes import Notes
from dicomweb.part10 import ScanLimits, scan
from dicomweb.values import render
from tests.unit.encoded import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    dicom_file,
    element,
    image_pixels,
    item,
    mark,
    sequence,
    text,
)


def value(
    vr: str, raw: bytes, codecs: tuple[str, ...] = ("latin-1",), key: str = "00091001"
) -> tuple[object, set[str]]:
    notes = Notes()
    found = json.loads(render(key, vr, raw, codecs, notes))
    assert found.pop("vr") == vr
    assert len(found) <= 1
    return next(iter(found.values()), None), notes.texts


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"1.50", [1.5]),
        (b"1\\2.0\\-3e2 ", [1, 2, -300]),
        (b"+1", [1]),
        (b".5\\-.5\\5.\\007", [0.5, -0.5, 5, 7]),
        (b"1\\\\2", [1, None, 2]),
        (b"\\", [None, None]),
        (b"   ", None),
        (b"", None),
        (b"nan", ["nan"]),
        (b"1e999999999", ["1e999999999"]),
        (b"-inf", ["-inf"]),
        (b"1_000", ["1_000"]),
        (b"abc", ["abc"]),
        (b"0x10", ["0x10"]),
        (b"9007199254740993", [9007199254740993]),
        (b"12345678901234567890", [1.2345678901234567e19]),
    ],
)
def test_decimal_strings_are_numbers_where_json_can_hold_them(raw, expected):
    assert value("DS", raw)[0] == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"12 ", [12]),
        (b"+0012\\-7", [12, -7]),
        (b"1.0", [1]),
        (b"1.5", [1.5]),
        (b"9007199254740991\\9007199254740993", [9007199254740991, "9007199254740993"]),
        (b"1" * 5000, ["1" * 5000]),
        (b"one", ["one"]),
        (b"3\\", [3, None]),
    ],
)
def test_integer_strings_keep_every_digit(raw, expected):
    assert value("IS", raw)[0] == expected


def test_no_number_is_ever_written_that_json_does_not_have():
    for raw in (b"nan", b"inf", b"Infinity", b"1e400", b"0" * 400, b"1" * 400, b"0." + b"1" * 400, b"-0", b"1e-400"):
        for vr in ("DS", "IS"):
            json.loads(render("00280030", vr, raw, ("latin-1",), Notes()), parse_constant=pytest.fail)


def test_not_a_number_and_infinities_are_strings():
    raw = struct.pack("<4d", float("nan"), float("inf"), float("-inf"), 1.5)
    assert value("FD", raw)[0] == ["NaN", "Infinity", "-Infinity", 1.5]
    assert value("FL", struct.pack("<f", 0.1))[0] == [0.10000000149011612]


def test_long_integers_beyond_a_double_are_strings():
    assert value("UV", struct.pack("<2Q", 2**53 - 1, 2**53))[0] == [2**53 - 1, str(2**53)]
    assert value("SV", struct.pack("<q", -(2**63)))[0] == [str(-(2**63))]


@pytest.mark.parametrize(("vr", "size"), [("US", 2), ("UL", 4), ("FD", 8), ("AT", 4), ("SV", 8)])
def test_a_binary_number_of_an_impossible_length_is_shown_as_unknown(vr, size):
    notes = Notes()
    assert json.loads(render("00091001", vr, bytes(size + 1), ("latin-1",), notes))["vr"] == "UN"
    assert notes.texts == {f"(0009,1001) has a length that its VR {vr} does not allow"}


def test_empty_values_among_several_are_null():
    assert value("CS", b"\\B\\ ")[0] == [None, "B", None]
    assert value("LO", b"A\\ \\C")[0] == ["A", None, "C"]
    assert value("PN", b"A^B\\\\=C")[0] == [{"Alphabetic": "A^B"}, None, {"Ideographic": "C"}]
    assert value("AE", b" A \\")[0] == ["A", None]


def test_person_names_have_the_groups_that_are_not_empty():
    assert value("PN", b"Yamada^Tarou=\xe5\xb1\xb1=x^y=more", ("utf-8",))[0] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山", "Phonetic": "x^y"}
    ]
    assert value("PN", b"==p ")[0] == [{"Phonetic": "p"}]
    assert value("PN", b"== ")[0] is None


def test_nul_is_dropped_from_text():
    assert value("LO", b"A\0B\\\0")[0] == ["AB", None]
    assert value("PN", b"A\0B^C")[0] == [{"Alphabetic": "AB^C"}]
    assert value("LT", b"\0\0")[0] is None


def test_text_that_does_not_fit_its_character_set_is_replaced_and_noted():
    found, notes = value("LO", b"M\xfcller", ("utf-8",))
    assert found == ["M\ufffdller"]
    assert notes == {"text that does not fit its character set"}
    found, notes = value("LO", b"\x1b$BM", ("latin-1",))
    assert found == ["\x1b$BM"]
    assert notes


def test_backslashes_inside_multi_byte_characters_do_not_split():
    assert value("LO", "表示".encode("shift_jis") + b"\\B", ("shift_jis",))[0] == ["表示", "B"]
    assert value("LO", "綅".encode("gbk"), ("gbk",))[0] == ["綅"]


def test_chinese_code_extension_loses_its_escape_sequence():
    # pydicom leaves the escape sequence of ISO 2022 IR 58 in the text.
    assert value("LO", b"\x1b$)A\xcd\xf5", ("latin-1", "gb2312"))[0] == ["王"]


def test_no_codec_is_taken_from_the_file():
    for term in (b"rot13", b"../../etc/passwd", b"unicode_escape", b"idna", b"utf-16"):
        found = scan(
            dicom_file({0x00080005: text(0x00080005, "CS", term), 0x00104000: text(0x00104000, "LT", "\\u0041")})
        )
        assert b'"\\\\u0041"' in found.elements["00104000"]
        assert "Specific Character Set: a term that is not defined" in found.warnings


def json_of(data: bytes, **limits: int) -> dict:
    return json.loads(scan(data, ScanLimits(**limits), version="v1").metadata.inflate())


def test_an_empty_sequence_has_no_value_and_empty_items_are_objects():
    for undefined in (False, True):
        parts = {
            0x00081111: sequence(0x00081111, [], undefined=undefined),
            0x00081115: sequence(0x00081115, [b"", text(0x00080100, "SH", "A"), b""], undefined=undefined),
        }
        found = json_of(dicom_file(parts))
        assert found["00081111"] == {"vr": "SQ"}
        assert found["00081115"]["Value"] == [{}, {"00080100": {"vr": "SH", "Value": ["A"]}}, {}]


def test_group_lengths_are_left_out():
    inner = element(0x00080000, "UL", bytes(4)) + text(0x00080100, "SH", "A")
    parts = {0x00100000: element(0x00100000, "UL", bytes(4)), 0x00081115: sequence(0x00081115, [inner])}
    found = json_of(dicom_file(parts))
    assert "00100000" not in found
    assert list(found["00081115"]["Value"][0]) == ["00080100"]


def test_items_have_their_own_character_set():
    outer = text(0x00080005, "CS", "ISO_IR 100")
    inner = text(0x00080005, "CS", "ISO_IR 192") + text(0x00080104, "LO", "é".encode())
    plain_item = text(0x00080104, "LO", "é".encode("latin-1"))
    parts = {0x00080005: outer, 0x00081115: sequence(0x00081115, [inner, plain_item])}
    items = json_of(dicom_file(parts))["00081115"]["Value"]
    assert [one["00080104"]["Value"] for one in items] == [["é"], ["é"]]


def test_the_first_lut_descriptor_value_is_unsigned():
    raw = struct.pack("<3h", -1, -1024, 16)
    found = json_of(dicom_file({0x00283002: element(0x00283002, "SS", raw)}))
    assert found["00283002"] == {"vr": "SS", "Value": [65535, -1024, 16]}


def test_ambiguous_vrs_of_implicit_data_follow_pixel_representation():
    def implicit(signed: int) -> dict:
        kw = {"syntax": IMPLICIT}
        lut = element(0x00283002, "", struct.pack("<3H", 1, 0, 16), **kw) + element(0x00283006, "", b"\1\0", **kw)
        parts = {
            0x00280103: element(0x00280103, "", struct.pack("<H", signed), **kw),
            0x00280106: element(0x00280106, "", b"\xff\xff", **kw),
            0x00283010: sequence(0x00283010, [lut], undefined=True, **kw),
        }
        return json_of(dicom_file(parts, **kw))

    assert implicit(0)["00280106"] == {"vr": "US", "Value": [65535]}
    signed = implicit(1)
    assert signed["00280106"] == {"vr": "SS", "Value": [-1]}
    # pydicom does not pass the sign on into sequences of undefined length.
    assert signed["00283010"]["Value"][0]["00283002"] == {"vr": "SS", "Value": [1, 0, 16]}
    assert signed["00283010"]["Value"][0]["00283006"] == {"vr": "US", "Value": [1]}


def test_an_ambiguous_vr_before_pixel_representation_is_left_to_pydicom():
    kw = {"syntax": IMPLICIT}
    parts = {
        0x00189810: element(0x00189810, "", b"\xfe\xff", **kw),
        0x00280103: element(0x00280103, "", b"\1\0", **kw),
    }
    found = scan(dicom_file(parts, **kw))
    assert found.fallback == "ambiguous VR before Pixel Representation"
    assert found.elements["00189810"] == b'"00189810":{"vr":"SS","Value":[-2]}'


def test_pydicom_is_not_given_private_sequences_that_the_walk_refused():
    kw = {"syntax": IMPLICIT}
    nested = b""
    for _ in range(40):
        nested = sequence(0x00081140, [nested], **kw)
    parts = {
        0x00189810: element(0x00189810, "", b"\xfe\xff", **kw),
        0x00290010: text(0x00290010, "LO", "SIEMENS MEDCOM HEADER", **kw),
        0x00291040: element(0x00291040, "", nested, **kw),
    }
    found = scan(dicom_file(parts, **kw))
    assert found.fallback
    assert found.elements["00291040"].startswith(b'"00291040":{"vr":"UN","InlineBinary"')


def test_unknown_of_a_known_vr_is_shown_with_it():
    code = text(0x00080100, "SH", "A1", syntax=IMPLICIT)
    parts = {
        0x00080060: element(0x00080060, "UN", b"CT"),
        0x00080096: element(0x00080096, "UN", item(code, syntax=IMPLICIT)),
        0x00081115: element(0x00081115, "UN", item(code, undefined=True) + mark(0xE0DD), length=UNDEFINED),
        0x00091010: element(0x00091010, "UN", b"secret"),
    }
    found = json_of(dicom_file(parts))
    assert found["00080060"] == {"vr": "CS", "Value": ["CT"]}
    for tag in ("00080096", "00081115"):
        assert found[tag] == {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["A1"]}}]}
    assert found["00091010"] == {"vr": "UN", "InlineBinary": "c2VjcmV0"}


def test_unknown_that_is_not_the_sequence_it_should_be_stays_unknown():
    found = scan(dicom_file({0x00080096: element(0x00080096, "UN", b"garbage!")}))
    assert found.elements["00080096"] == b'"00080096":{"vr":"UN","InlineBinary":"Z2FyYmFnZSE="}'
    assert found.warnings == ("ReferringPhysicianIdentificationSequence is not the sequence that the dictionary says",)


def test_private_creators_decide_within_their_block_and_item():
    kw = {"syntax": IMPLICIT}
    block = text(0x00290010, "LO", "SIEMENS CSA HEADER", **kw) + text(0x00291008, "CS", "IMAGE NUM 4", **kw)
    parts = {
        0x00290010: text(0x00290010, "LO", "SOMEBODY ELSE", **kw),
        0x00291008: text(0x00291008, "CS", "IMAGE NUM 4", **kw),
        0x00400555: sequence(0x00400555, [block], **kw),
    }
    found = json_of(dicom_file(parts, **kw))
    assert found["00291008"]["vr"] == "UN"
    assert found["00400555"]["Value"][0]["00291008"] == {"vr": "CS", "Value": ["IMAGE NUM 4"]}


def test_bulk_values_are_referred_to_and_found_again():
    blob = bytes(range(256)) * 8
    inner = element(0x00282000, "OB", blob) + element(0x00420011, "OB", b"small!")
    parts = {
        0x00091001: element(0x00091001, "UN", blob),
        0x00091002: element(0x00091002, "OB", blob[:1024]),
        0x00480105: sequence(0x00480105, [b"", inner], undefined=True),
        0x00280010: element(0x00280010, "US", b"\1\0"),
    }
    data = dicom_file(parts)
    found = scan(data, version="0123456789abcdef")
    ours = json.loads(found.metadata.inflate())
    sop = found.sop_instance_uid
    assert ours["00091001"]["BulkDataURI"] == f"instances/{sop}/bulkdata/00091001?v=0123456789abcdef"
    assert "InlineBinary" in ours["00091002"]
    nested = ours["00480105"]["Value"][1]
    assert nested["00282000"] == {
        "vr": "OB",
        "BulkDataURI": f"instances/{sop}/bulkdata/00480105/1/00282000?v=0123456789abcdef",
    }
    assert "InlineBinary" in nested["00420011"]
    assert len(found.bulk) == 2
    for entry in found.bulk:
        assert data[entry.offset : entry.offset + entry.length] == blob
        assert type(found.bulk).from_bytes(found.bulk.to_bytes()).lookup(entry.path) == entry
    for path in ("", "00091002", "0009100", "00480105/0/00282000", "00480105", "00282000", "00091001 1", "x\n00091001"):
        assert found.bulk.lookup(path) is None


def test_huge_text_and_number_values_are_bulk_and_never_parsed():
    digits = b"\\".join([b"1.5"] * 2_000_000)
    parts = {
        0x0028303A: element(0x0028303A, "UT", b"x" * 70_000),
        0x00281050: element(0x00281050, "DS", digits, syntax=IMPLICIT),
    }
    found = scan(dicom_file({0x00281050: parts[0x00281050]}, syntax=IMPLICIT))
    assert [entry.vr for entry in found.bulk] == ["DS"]
    found = scan(dicom_file({0x0028303A: parts[0x0028303A]}))
    assert [entry.vr for entry in found.bulk] == ["UT"]


def test_pixel_data_is_bulk_whatever_its_size():
    pixels = image_pixels() | {0x7FE00010: element(0x7FE00010, "OB", b"abcdef")}
    found = scan(dicom_file(pixels), version="v")
    (entry,) = found.bulk
    assert (entry.path, entry.length, entry.vr, entry.encapsulated) == ("7FE00010", 6, "OB", False)


def test_big_endian_is_left_to_pydicom_and_words_are_swapped():
    kw = {"syntax": BIG_ENDIAN}
    parts = {
        0x00280010: element(0x00280010, "US", b"\1\2", **kw),
        0x00281201: element(0x00281201, "OW", b"\1\2\3\4", **kw),
        0x00091001: element(0x00091001, "OW", b"\1\2" * 600, **kw),
        0x00081115: sequence(0x00081115, [element(0x00091001, "OB", bytes(2000), **kw)], **kw),
    }
    found = scan(dicom_file(parts, **kw))
    ours = json.loads(found.metadata.inflate())
    assert found.fallback == "big endian"
    assert ours["00280010"]["Value"] == [258]
    assert ours["00281201"]["InlineBinary"] == "AgEEAw=="
    assert [entry.path for entry in found.bulk] == ["00081115/0/00091001", "00091001"]
    assert "BulkDataURI" in ours["00081115"]["Value"][0]["00091001"]


def test_binary_values_without_a_length_are_bulk():
    content = item(b"") + item(b"abcd") + mark(0xE0DD)
    encoded = element(0x00420011, "OB", content, length=UNDEFINED)
    data = dicom_file({0x00081115: sequence(0x00081115, [encoded]), 0x00420011: encoded})
    found = scan(data)
    assert [(entry.path, entry.encapsulated) for entry in found.bulk] == [
        ("00081115/0/00420011", True),
        ("00420011", True),
    ]
    for entry in found.bulk:
        assert data[entry.offset : entry.offset + entry.length] == content[:-8]


def test_private_sequences_of_implicit_items_are_read():
    kw = {"syntax": IMPLICIT}
    inner = item(text(0x00080100, "SH", "A", **kw), **kw)
    block = text(0x00290010, "LO", "SIEMENS MEDCOM HEADER", **kw) + element(0x00291040, "", inner, **kw)
    broken = text(0x00290010, "LO", "SIEMENS MEDCOM HEADER", **kw) + element(0x00291040, "", inner[:-2], **kw)
    found = json_of(dicom_file({0x00400555: sequence(0x00400555, [block, broken], **kw)}, **kw))
    good, bad = found["00400555"]["Value"]
    assert good["00291040"] == {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["A"]}}]}
    assert bad["00291040"]["vr"] == "UN"


def test_unusual_character_set_values():
    def of(charset: str, raw: bytes, **kwargs: str) -> tuple[bytes, tuple[str, ...]]:
        found = scan(dicom_file({0x00080005: text(0x00080005, "CS", charset), 0x00081030: text(0x00081030, "LO", raw)}))
        return found.elements["00081030"], found.warnings

    misspelt = "Specific Character Set: a term that is not defined"
    assert of("ISO-IR-100", b"\xe9") == (b'"00081030":{"vr":"LO","Value":["\xc3\xa9"]}', (misspelt,))
    assert "山".encode() in of("ISO_IR 13\\ISO_2022_IR_87", b"\x1b$B;3\x1b(J")[0]
    assert "é".encode() in of("UTF-8", "é".encode())[0]
    text_now, notes = of("ISO_IR 192\\ISO 2022 IR 87", "é".encode())
    assert "é".encode() in text_now
    assert notes == ("Specific Character Set: code extensions beside a character set that allows none",)
    assert "é".encode() in of("ISO 2022 IR 6\\ISO 2022 IR 100\\ISO_IR 192", b"\x1b-A\xe9")[0]
    assert of("\\ISO 2022 IR 149", b"\x1b$)C\xff")[1] == ("text that does not fit its character set",)


def test_data_sets_of_pydicom_have_the_same_json():
    dataset = Dataset()
    dataset.PatientName = "Yamada^Tarou=山田^太郎"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Rows = 512
    dataset.ImageType = ["A", "", "B"]
    dataset.FrameIncrementPointer = [0x00181063, 0x00181065]
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.InstanceNumber = 7
    item_set = Dataset()
    item_set.CodeValue = "X"
    dataset.ProcedureCodeSequence = [item_set]
    dataset.ReferencedSeriesSequence = []
    dataset.add_new(0x00091001, "UN", b"abc")
    dataset.add_new(0x00189810, "US or SS", 3)
    found = json.loads(dataset_json(dataset, {"00091001": b'{"vr":"UN","BulkDataURI":"x"}'}))
    assert found["00100010"]["Value"] == [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]
    assert found["00080008"]["Value"] == ["A", None, "B"]
    assert found["00280009"]["Value"] == ["00181063", "00181065"]
    assert found["00280030"]["Value"] == [0.5, 0.25]
    assert found["00200013"]["Value"] == [7]
    assert found["00081032"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["X"]}}]
    assert found["00081115"] == {"vr": "SQ"}
    assert found["00091001"] == {"vr": "UN", "BulkDataURI": "x"}
    assert found["00189810"] == {"vr": "US", "Value": [3]}
    assert list(found) == sorted(found)


def test_pydicom_is_given_no_codec_names_of_the_file_either():
    kw = {"syntax": BIG_ENDIAN}
    for term in (b"unicode_escape", b"ISO_IR 1\x002", b"punycode", b"ISO_IR 100\\idna"):
        inner = text(0x00080005, "CS", term, **kw) + text(0x00080104, "LO", "\\u0041", **kw)
        parts = {
            0x00080005: text(0x00080005, "CS", term, **kw),
            0x00081115: sequence(0x00081115, [inner], **kw),
            0x00104000: text(0x00104000, "LT", "\\u0041", **kw),
            0x7FE00010: element(0x7FE00010, "OB", b"ab", **kw),
            0xFFFAFFFA: sequence(0xFFFAFFFA, [inner], **kw),
        }
        found = scan(dicom_file(parts, **kw))
        assert found.fallback == "big endian"
        assert b'"\\\\u0041"' in found.elements["00104000"]
        assert b"u0041" in found.elements["00081115"]
        assert b"u0041" in found.elements["FFFAFFFA"]


def test_what_pydicom_cannot_convert_is_shown_as_unknown():
    kw = {"syntax": BIG_ENDIAN}
    found = scan(dicom_file({0x00280010: element(0x00280010, "US", b"abc", **kw)}, **kw))
    assert found.elements["00280010"] == b'"00280010":{"vr":"UN","InlineBinary":"YWJj"}'
    assert found.warnings == ("(0028,0010) does not fit its VR",)


def test_explicit_and_implicit_encodings_give_the_same():
    def parts(syntax: str) -> dict[int, bytes]:
        return {
            0x00080060: text(0x00080060, "CS", "CT", syntax=syntax),
            0x00081115: sequence(0x00081115, [text(0x0020000E, "UI", "1.2", syntax=syntax)], syntax=syntax),
            0x00280030: text(0x00280030, "DS", "0.5\\0.5", syntax=syntax),
        }

    explicit, implicit = scan(dicom_file(parts(EXPLICIT))), scan(dicom_file(parts(IMPLICIT), syntax=IMPLICIT))
    assert explicit.elements == implicit.elements
