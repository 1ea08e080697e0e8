"""Instances in another native transfer syntax: whatever stands in a value, the others leave as they are."""

from io import BytesIO

import pytest
from pydicom import dcmread

from dicomweb.content import content, read
from dicomweb.media import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomweb.pixels.header import read_head
from dicomweb.reencode import header_as_native
from tests.unit.encoded import element, file_meta

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's about these values
# A tag, its VR, and a value field that is none of it.
UNREADABLE = {
    "numbers cut short": (0x00280010, "US", b"\x01\x00\x02"),
    "no finite number": (0x00280008, "IS", b"1e999 "),
    "a sequence without items": (0x00081140, "SQ", b"abcd"),
    "a look-up table without descriptor": (0x00283006, "US", b"abc"),
}


def head(name: str, syntax: str) -> tuple[bytes, bytes]:
    """The file meta information, and a data set with a bad value between two good ones."""
    tag, vr, value = UNREADABLE[name]
    before = element(0x00080005, "CS", b"ISO_IR 192", syntax=syntax)
    after = element(0x00400280, "ST", b"good", syntax=syntax)
    return file_meta(syntax), before + element(tag, vr, value, syntax=syntax) + after


@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE])
@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_BE])
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_value_that_is_none_of_its_vr_keeps_its_bytes(name: str, syntax: str, target: str) -> None:
    if syntax == target:
        pytest.skip("nothing is rewritten")
    tag, _, value = UNREADABLE[name]
    made = dcmread(BytesIO(header_as_native(b"".join(head(name, syntax)), target)))
    assert made.get_item(tag).value.rstrip(b" \0") == value.rstrip(b" \0")
    assert (made.SpecificCharacterSet, made.CommentsOnThePerformedProcedureStep) == ("ISO_IR 192", "good")


@pytest.mark.parametrize("name", UNREADABLE)
def test_so_do_those_of_an_instance_that_is_transcoded(name: str) -> None:
    tag, _, value = UNREADABLE[name]
    made = read_head(*head(name, IMPLICIT_LE), IMPLICIT_LE)
    assert (made[tag].VR, made[tag].value) == ("UN", value)


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE])
@pytest.mark.parametrize("name", UNREADABLE)
def test_elements_by_their_path_need_no_value_that_can_be_read(name: str, syntax: str) -> None:
    tag, _, value = UNREADABLE[name]
    dataset = read(head(name, syntax)[1], syntax)
    assert len(content(dataset, [])) == 3
    assert content(dataset, [f"{tag:08x}"]) == value
    assert content(dataset, ["00400280"]) == b"good"
