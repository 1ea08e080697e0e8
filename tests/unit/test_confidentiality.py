"""De-identification against PS3.15 Table E.1-1: each row, each option, at the top and nested twice.

What is expected is taken from the table as the standard's extraction has it, and read by pydicom.
"""

import json
import warnings
from importlib.resources import files
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicomweb.deidentify import Option
from dicomweb.deidentify.tables import confidentiality_table
from dicomweb.errors import BadDicom
from tests.unit.edited import KEY, deidentified, read, written

TABLE = json.loads((Path(__file__).parent / "confidentiality_profile_attributes.json").read_bytes())
COLUMNS = {
    None: None,
    Option.RETAIN_SAFE_PRIVATE: "rtnSafePrivOpt",
    Option.RETAIN_UIDS: "rtnUIDsOpt",
    Option.RETAIN_DEVICE_IDENTITY: "rtnDevIdOpt",
    Option.RETAIN_INSTITUTION_IDENTITY: "rtnInstIdOpt",
    Option.RETAIN_PATIENT_CHARACTERISTICS: "rtnPatCharsOpt",
    Option.RETAIN_FULL_DATES: "rtnLongFullDatesOpt",
    Option.RETAIN_MODIFIED_DATES: "rtnLongModifDatesOpt",
    Option.CLEAN_DESCRIPTORS: "cleanDescOpt",
    Option.CLEAN_STRUCTURED_CONTENT: "cleanStructContOpt",
    Option.CLEAN_GRAPHICS: "cleanGraphOpt",
}
CANARY = "ZZCANARY"
# No row names them, so that what is in them is only a matter of its own rows.
OUTER, INNER = 0x00089124, 0x00089215
SAMPLES = {
    "AE": CANARY, "AS": "077Y", "CS": CANARY, "DA": "19710203", "DS": "47.11", "DT": "19710203040506.789",
    "IS": "4711", "LO": CANARY, "LT": CANARY, "PN": f"{CANARY}^JANE", "SH": CANARY, "ST": CANARY, "TM": "040506.789",
    "UC": CANARY, "UI": "1.2.826.0.1.47.11", "UR": f"http://{CANARY}", "US": 4711, "UT": CANARY,
    "OB": CANARY.encode(), "UN": CANARY.encode(), "OW": CANARY.encode(),
}  # fmt: skip
REPEATING = {"50xxxxxx": (0x50003000, "OW"), "60xx3000": (0x60003000, "OW"), "60xx4000": (0x60004000, "LT")}
# Of instances, studies and patients: kept with their UIDs.
REFERENCES = frozenset((0x00081110, 0x00081111, 0x00081120, 0x00081140, 0x00082112))


def attributes():
    """(tag, VR, row), private attributes apart."""
    for row in TABLE:
        if row["id"] in REPEATING:
            yield *REPEATING[row["id"]], row
        elif "odd" not in row["id"]:
            tag = int(row["id"], 16)
            yield tag, dictionary_VR(tag), row


def sample(tag, vr):
    if vr != "SQ":
        return SAMPLES[vr]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", SAMPLES["UI"]
    item.CodeValue = "121181"
    if tag not in REFERENCES:  # where codes have no place, and references are all that is kept
        item.CodeMeaning = CANARY
    item.TextValue = f"{CANARY} in a text"
    return Sequence([item])


def filled():
    """Every row that a data set may have. In nested data sets only even-numbered ones differ in length."""
    ds = Dataset()
    for tag, vr, _ in attributes():
        if tag >> 16 >= 4 and tag >> 16 != 0x0004:
            ds.add_new(tag, vr, sample(tag, vr))
    block = ds.private_block(0x0009, CANARY, create=True)
    block.add_new(1, "LO", CANARY)
    return ds


@pytest.fixture(scope="module")
def source() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds, first, second = filled(), filled(), filled()
        first.add_new(INNER, "SQ", Sequence([second]))
        ds.add_new(OUTER, "SQ", Sequence([first]))
        ds.SOPClassUID = "1.2.276.0.99"  # of no IOD that is known
        return written(ds)


def code(row, option):
    column = COLUMNS[option]
    return row.get(column) or row["basicProfile"] if column else row["basicProfile"]


def check(element, before, action, *, shifted=False):
    """That an action was applied: to `element`, None when it is gone."""
    if action == "X":
        return element is None
    if element is None:
        return False
    if action == "Z":
        return element.is_empty
    if action == "K":
        return len(element.value) == len(before.value) if element.VR == "SQ" else element.value == before.value
    if element.VR == "SQ":
        return len(element.value) == 1 and CANARY not in str(element) and SAMPLES["UI"] not in str(element)
    if shifted and element.VR == "TM":
        return element.value == before.value
    if action == "C":
        return element.value != before.value or element.VR == "CS"
    return not element.is_empty and element.value != before.value


@pytest.mark.parametrize("option", COLUMNS, ids=str)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_row_at_every_depth(source, option, depth):
    out = deidentified(source, *([option] if option else []))
    before, after = read(source), read(out)
    for tag in (OUTER, INNER)[:depth]:
        before, after = before[tag].value[0], after[tag].value[0]
    wrong, seen = [], 0
    for tag, vr, row in attributes():
        if tag not in before:
            continue
        seen += 1
        action = code(row, option)
        if action == "C" and (tag >> 16 in {0x5000, 0x6000} or vr in {"OB", "AE"}):
            action = row["basicProfile"]  # nobody can clean it without looking at it
        # Of an unknown IOD: what is right for every type.
        action = {"X/Z": "Z", "X/D": "D", "X/Z/D": "D", "Z/D": "D", "X/Z/U*": "D"}.get(action, action)
        if tag == 0x00100010 and depth == 0:
            action = "D"  # a pseudonym, which Z allows
        shifted = option is Option.RETAIN_MODIFIED_DATES and action == "C"
        if not check(after.get(Tag(tag)), before[tag], action, shifted=shifted):
            wrong.append((row["name"], row["tag"], action, str(after.get(Tag(tag)))))
    assert not wrong
    assert seen == 617 - 1  # (0000,1000), (0000,1001), (0002,0003) and (0004,1511) are of other groups
    assert 0x00090010 not in after


@pytest.mark.parametrize("option", COLUMNS, ids=str)
def test_no_byte_of_an_identifier_is_left(source, option):
    out = deidentified(source, *([option] if option else []))
    # What the option keeps is all that is left, at three depths: of a code its meaning, and one code string that may be
    # cleaned, in which there is nothing to clean.
    kept = sum(
        CANARY in str(SAMPLES.get(vr)) or (vr == "SQ" and tag not in REFERENCES)
        for tag, vr, row in attributes()
        if code(row, option) == "K" or (vr == "CS" and code(row, option) == "C")
    )
    assert out.count(CANARY.encode()) == 3 * kept
    if option is not Option.RETAIN_UIDS and option is not Option.RETAIN_DEVICE_IDENTITY:
        assert SAMPLES["UI"].encode() not in out
    if option not in {Option.RETAIN_FULL_DATES, Option.RETAIN_DEVICE_IDENTITY}:
        assert b"19710203" not in out


def test_the_table_is_the_standards(source):
    table = confidentiality_table()
    assert table.edition == "January 2025"
    assert len(table.rows) + 1 == len(TABLE) == 621
    said = read(deidentified(source))
    assert said.PatientIdentityRemoved == "YES"
    assert said.LongitudinalTemporalInformationModified == "REMOVED"
    assert [code.CodeValue for code in said.DeidentificationMethodCodeSequence] == ["113100"]
    options = (Option.RETAIN_UIDS, Option.RETAIN_MODIFIED_DATES, Option.CLEAN_GRAPHICS)
    said = read(deidentified(source, *options))
    codes = [code.CodeValue for code in said.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113103", "113107", "113110"]
    assert said.LongitudinalTemporalInformationModified == "MODIFIED"


def test_rows_of_other_groups_have_no_place_in_a_data_set():
    """Affected SOP Instance UID and Requested SOP Instance UID are of commands; the file meta information is new."""
    ds = Dataset()
    ds.SOPInstanceUID = SAMPLES["UI"]
    out = deidentified(written(ds))
    assert read(out).file_meta.MediaStorageSOPInstanceUID == KEY.uid(SAMPLES["UI"])
    start = bytes.fromhex("0000001055491200") + SAMPLES["UI"].encode() + b"\0"
    data = written(ds)
    at = data.index(bytes.fromhex("08001800"))
    with pytest.raises(BadDicom, match="group 0000"):
        deidentified(data[:at] + start + data[at:])
    directory = Dataset()
    directory.add_new(0x00041511, "UI", SAMPLES["UI"])
    assert read(deidentified(written(directory)))[0x00041511].value == KEY.uid(SAMPLES["UI"])


def types_of(sop_class):
    """Attribute types of an IOD at its top, from highdicom's copy of PS3.3."""
    standard = files("highdicom").joinpath("_standard")
    iods, sops, modules = (
        json.loads(standard.joinpath(f"{name}.json").read_bytes())
        for name in ("iod_module_map", "sop_class_iod_map", "module_attribute_map")
    )
    found = {}
    for module in iods[sops[sop_class]]:
        for each in modules.get(module["key"], []):
            if not each["path"] and each["type"] != "None":
                found[each["keyword"]] = min(each["type"], found.get(each["keyword"], "9"))
    return found


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.481.2",
    ],
)  # fmt: skip
def test_the_type_in_the_iod_decides(sop_class):
    ds = filled()
    ds.SOPClassUID = sop_class
    before, after = read(written(ds)), read(deidentified(written(ds)))
    types = types_of(sop_class)
    wrong = []
    for tag, _, row in attributes():
        options = row["basicProfile"].rstrip("*").split("/")
        if tag not in before or len(options) == 1 or tag == 0x00100020:
            continue
        type_ = types.get(before[tag].keyword, "3")[0]
        if type_ == "3":
            action = options[0]
        elif "U" in options:
            action = "D"
        else:
            action = "D" if type_ == "1" or "Z" not in options else "Z"
        if not check(after.get(Tag(tag)), before[tag], action):
            wrong.append((row["name"], type_, action, str(after.get(Tag(tag)))))
    assert not wrong
