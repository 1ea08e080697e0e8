"""Accept x stored transfer syntax -> what is sent."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.errors import BadRequest, NotAcceptable
from dicomweb.media import FRAME_MEDIA_TYPE_OF, NATIVE
from dicomweb.negotiation import (
    ANYTHING,
    RetrievePlan,
    parse_accept,
    plan_bulk,
    plan_documents,
    plan_frames,
    plan_instances,
)

ILE, ELE, EBE, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))
JPEG, JPEG_LL, JLS, J2K, HTJ2K, JXL, RLE = (
    f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.70", "4.80", "4.90", "4.201", "4.110", "5")
)
MPEG4 = "1.2.840.10008.1.2.4.102"
PRIVATE = "1.2.3.4.5"

# The alternatives that cornerstone writes when it knows what it can decode.
EIGHT = ", ".join(
    f"multipart/related; type={media}; transfer-syntax={uid}"
    for media, uid in [
        ("application/octet-stream", ELE),
        ("image/jphc", HTJ2K),
        ("image/jls", JLS),
        ("image/jls", "1.2.840.10008.1.2.4.81"),
        ("image/jp2", J2K),
        ("image/jpeg", JPEG_LL),
        ("image/jpeg", JPEG),
        ("image/dicom-rle", RLE),
    ]
)
OHIF = 'multipart/related; type="application/octet-stream"; transfer-syntax="*"'


def documents(accept: str | None, parameter: str | None = None) -> str:
    """The type in which metadata leave."""
    return plan_documents(parse_accept(accept, parameter), single=False).media_type


def frames(
    accept: str | None, stored: str, *, several: bool = False, parameter: str | None = None
) -> tuple[str, str, str, str]:
    plan = plan_frames(parse_accept(accept, parameter), stored, several=several)
    return ("multipart" if plan.multipart else "single", plan.media_type, plan.transfer_syntax, plan.reencode)


def instance(accept: str | None, stored: str, *, single: bool = True) -> tuple[str, str, str]:
    plan = plan_instances(parse_accept(accept), stored, single=single)
    assert plan.media_type == "application/dicom"
    return ("multipart" if plan.multipart else "single", plan.transfer_syntax, plan.reencode)


OCTETS = "application/octet-stream"


@pytest.mark.parametrize(
    ("accept", "stored", "expected"),
    [
        (None, ELE, ("multipart", OCTETS, ELE, "none")),
        ("", JLS, ("multipart", "image/jls", JLS, "none")),
        ("*/*", ILE, ("multipart", OCTETS, ELE, "none")),
        ("*/*", EBE, ("multipart", OCTETS, ELE, "explicit-le")),
        ("*/*", DEFLATED, ("multipart", OCTETS, ELE, "explicit-le")),
        ("*/*", JXL, ("multipart", "image/jxl", JXL, "none")),
        ("*/*", PRIVATE, ("multipart", OCTETS, PRIVATE, "none")),
        (OHIF, ELE, ("multipart", OCTETS, ELE, "none")),
        (OHIF, HTJ2K, ("multipart", OCTETS, HTJ2K, "none")),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*",
            JPEG,
            ("multipart", OCTETS, JPEG, "none"),
        ),
        (
            f"multipart/related; type=application/octet-stream; transfer-syntax={JLS}; transfer-syntax=*",
            J2K,
            ("multipart", OCTETS, JLS, "transcode"),
        ),
        (
            f"multipart/related; type=application/octet-stream; transfer-syntax={JLS}; transfer-syntax=*",
            MPEG4,
            ("multipart", OCTETS, MPEG4, "none"),
        ),
        ('multipart/related; type="*/*"', RLE, ("multipart", "image/dicom-rle", RLE, "none")),
        ('multipart/related; type="image/*"', J2K, ("multipart", "image/jp2", J2K, "none")),
        ('multipart/related; type="image/jls; transfer-syntax=*"', JLS, ("multipart", "image/jls", JLS, "none")),
        ("multipart/related", JPEG, ("multipart", "image/jpeg", JPEG, "none")),
        ('multipart/related; type="image/x-jls"', JLS, ("multipart", "image/x-jls", JLS, "none")),
        ('multipart/related; type="image/x-dicom-rle"', RLE, ("multipart", "image/x-dicom-rle", RLE, "none")),
        (
            f'multipart/related; type="video/mp4"; transfer-syntax={MPEG4}',
            MPEG4,
            ("multipart", "video/mp4", MPEG4, "none"),
        ),
        ("image/jpeg", JPEG, ("single", "image/jpeg", JPEG, "none")),
        ("image/*", JLS, ("single", "image/jls", JLS, "none")),
        ("application/octet-stream", ELE, ("single", OCTETS, ELE, "none")),
        ("application/octet-stream; transfer-syntax=*", J2K, ("single", OCTETS, J2K, "none")),
        ("application/octet-stream", J2K, ("single", OCTETS, ELE, "transcode")),
        ("application/octet-stream", MPEG4, ("single", OCTETS, MPEG4, "none")),
        (f"application/octet-stream; transfer-syntax={ELE}", JPEG, ("single", OCTETS, ELE, "transcode")),
        ("image/jpeg", J2K, ("single", "image/jpeg", JPEG_LL, "transcode")),
        ("image/jls; transfer-syntax=*", J2K, ("single", "image/jls", JLS, "transcode")),
        (f"image/jpeg; transfer-syntax={JPEG}", JPEG_LL, ("single", "image/jpeg", JPEG, "transcode")),
        ("image/*", ELE, ("single", "image/jpeg", JPEG_LL, "transcode")),
        ("image/jphc, image/jls", JLS, ("single", "image/jls", JLS, "none")),
        (EIGHT, JXL, ("multipart", OCTETS, ELE, "transcode")),
        ("application/*", ELE, ("single", OCTETS, ELE, "none")),
        (EIGHT, ELE, ("multipart", OCTETS, ELE, "none")),
        (EIGHT, ILE, ("multipart", OCTETS, ELE, "none")),
        (EIGHT, JPEG, ("multipart", "image/jpeg", JPEG, "none")),
        (EIGHT, JPEG_LL, ("multipart", "image/jpeg", JPEG_LL, "none")),
        (EIGHT, HTJ2K, ("multipart", "image/jphc", HTJ2K, "none")),
        (EIGHT, RLE, ("multipart", "image/dicom-rle", RLE, "none")),
        (f"{OHIF}, {EIGHT}", JLS, ("multipart", "image/jls", JLS, "none")),
        ("text/html, image/jls, */*;q=0.1", JLS, ("single", "image/jls", JLS, "none")),
        ("image/jls;q=0, */*", JLS, ("multipart", "image/jls", JLS, "none")),
        ("image/jls;q=.5, application/octet-stream", JLS, ("single", OCTETS, ELE, "transcode")),
        ("application/octet-stream, image/jls", JLS, ("single", "image/jls", JLS, "none")),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", J2K, ("single", "image/jpeg", JPEG_LL, "transcode")),
    ],
)
def test_frames(accept: str | None, stored: str, expected: tuple[str, str, str, str]) -> None:
    assert frames(accept, stored) == expected


@pytest.mark.parametrize(
    ("accept", "stored", "available"),
    [
        (f"application/octet-stream; transfer-syntax={ILE}", ILE, f"application/octet-stream; transfer-syntax={ELE}"),
        ("application/dicom", ELE, OCTETS),
        ("*/*;q=0", ELE, OCTETS),
        ("image/jpeg", MPEG4, f'multipart/related; type="video/mp4"; transfer-syntax={MPEG4}'),
        ("image/webp", J2K, f"image/jls; transfer-syntax={JLS}"),
    ],
)
def test_frames_not_acceptable_names_what_there_is(accept: str, stored: str, available: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        frames(accept, stored)
    assert available in caught.value.message


def test_several_frames_need_multipart() -> None:
    assert frames("*/*", JLS, several=True)[0] == "multipart"
    assert frames(f"image/jls, {OHIF};q=0.5", JLS, several=True) == ("multipart", OCTETS, JLS, "none")
    with pytest.raises(NotAcceptable, match="multipart"):
        frames("image/jls", JLS, several=True)


def test_accept_parameter_overrides_the_header() -> None:
    assert frames("text/html", JPEG, parameter="image/jpeg") == ("single", "image/jpeg", JPEG, "none")
    assert frames(OHIF, JPEG, parameter=" ")[0] == "multipart"
    assert documents("text/html", "application/dicom+json") == "application/dicom+json"
    assert documents("text/html", "application/dicom json") == "application/dicom+json"


@pytest.mark.parametrize(
    ("accept", "stored", "expected"),
    [
        (None, ELE, ("multipart", ELE, "none")),
        (None, ILE, ("multipart", ELE, "explicit-le")),
        (None, JPEG, ("multipart", JPEG, "none")),
        (None, DEFLATED, ("multipart", ELE, "explicit-le")),
        ("application/dicom", EBE, ("single", ELE, "explicit-le")),
        ("application/dicom", J2K, ("single", ELE, "transcode")),
        ("application/dicom", JPEG, ("single", JPEG, "none")),
        ("application/dicom", MPEG4, ("single", MPEG4, "none")),
        (f"application/dicom; transfer-syntax={ELE}", J2K, ("single", ELE, "transcode")),
        (f"application/dicom; transfer-syntax={HTJ2K}", ILE, ("single", HTJ2K, "transcode")),
        (f"application/dicom; transfer-syntax={DEFLATED}", JLS, ("single", DEFLATED, "transcode")),
        ("application/dicom; transfer-syntax=*", ILE, ("single", ELE, "explicit-le")),
        ("application/dicom; transfer-syntax=*", DEFLATED, ("single", DEFLATED, "none")),
        (f"application/dicom; transfer-syntax={DEFLATED}", DEFLATED, ("single", DEFLATED, "none")),
        (f"application/dicom; transfer-syntax={ELE}", DEFLATED, ("single", ELE, "explicit-le")),
        ("application/dicom", DEFLATED, ("single", ELE, "explicit-le")),
        ('multipart/related; type="application/dicom"; transfer-syntax=*', J2K, ("multipart", J2K, "none")),
        ("multipart/related; type=application/dicom", JLS, ("multipart", ELE, "transcode")),
        (
            "multipart/related; type=application/dicom; transfer-syntax=1.2.3, application/dicom; transfer-syntax=*",
            JLS,
            ("single", JLS, "none"),
        ),
        (
            "application/dicom; transfer-syntax=*, multipart/related; type=application/dicom; transfer-syntax=*",
            JLS,
            ("single", JLS, "none"),
        ),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JLS, ("multipart", JLS, "none")),
    ],
)
def test_instances(accept: str | None, stored: str, expected: tuple[str, str, str]) -> None:
    assert instance(accept, stored) == expected


@pytest.mark.parametrize(
    ("accept", "stored"),
    [
        (f"application/dicom; transfer-syntax={ELE}", MPEG4),
        (f"application/dicom; transfer-syntax={ILE}", ILE),
        (f"application/dicom; transfer-syntax={EBE}", EBE),
        ("application/dicom+json", ELE),
    ],
)
def test_instances_not_acceptable(accept: str, stored: str) -> None:
    with pytest.raises(NotAcceptable, match=f"transfer-syntax={ELE if stored in NATIVE else stored}"):
        instance(accept, stored)


def test_a_study_is_never_single_part() -> None:
    assert instance("*/*", JLS, single=False) == ("multipart", JLS, "none")
    with pytest.raises(NotAcceptable, match="multipart/related"):
        instance("application/dicom", JLS, single=False)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/*", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/dicom+json, application/json", "application/dicom+json"),
        ("application/json, application/dicom+json", "application/json"),
        (
            "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*",
            "application/dicom+json",
        ),
        (
            "multipart/related; type=application/octet-stream; transfer-syntax=*, application/dicom+json",
            "application/dicom+json",
        ),
        ('multipart/related; type="application/dicom+xml", application/dicom+json;q=0.1', "application/dicom+xml"),
        ("application/dicom+xml", "application/dicom+xml"),
        ("application/dicom+xml;q=0.5, application/json", "application/json"),
        ("application/dicom+json; charset=utf-8", "application/dicom+json"),
        ("application/dicom+json; transfer-syntax=1.2.3", "application/dicom+json"),
        ("text/html, */*; q=0.01", "application/dicom+json"),
    ],
)
def test_metadata(accept: str | None, expected: str) -> None:
    assert documents(accept) == expected


def test_xml_of_one_data_set_may_be_the_whole_body() -> None:
    for accept, single, multipart in (
        ("application/dicom+xml", True, False),
        ("application/dicom+xml", False, True),
        ('multipart/related; type="application/dicom+xml"', True, True),
    ):
        assert plan_documents(parse_accept(accept), single=single).multipart == multipart


@pytest.mark.parametrize("accept", ["text/xml", 'multipart/related; type="application/json"', "text/html", "image/*"])
def test_metadata_not_acceptable(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=r"application/dicom\+json, application/json"):
        documents(accept)


@pytest.mark.parametrize(
    ("accept", "stored", "kind", "expected"),
    [
        (None, ELE, OCTETS, (False, f"{OCTETS}; transfer-syntax={ELE}", "none")),
        ("application/octet-stream", EBE, OCTETS, (False, f"{OCTETS}; transfer-syntax={ELE}", "explicit-le")),
        (
            'multipart/related; type="application/octet-stream"',
            ILE,
            OCTETS,
            (True, f"{OCTETS}; transfer-syntax={ELE}", "none"),
        ),
        ('multipart/related; type="*/*"', ELE, OCTETS, (True, f"{OCTETS}; transfer-syntax={ELE}", "none")),
        ("video/mp4", MPEG4, "video/mp4", (False, f"video/mp4; transfer-syntax={MPEG4}", "none")),
        ("*/*", MPEG4, "video/mp4", (False, f"video/mp4; transfer-syntax={MPEG4}", "none")),
        ("application/octet-stream", MPEG4, "video/mp4", (False, f"{OCTETS}; transfer-syntax={MPEG4}", "none")),
        ("application/pdf", ELE, "application/pdf", (False, "application/pdf", "none")),
        ("*/*", ELE, "application/pdf", (False, "application/pdf", "none")),
        ('multipart/related; type="application/pdf"', ELE, "application/pdf", (True, "application/pdf", "none")),
    ],
)
def test_bulk(accept: str | None, stored: str, kind: str, expected: tuple[bool, str, str]) -> None:
    plan = plan_bulk(parse_accept(accept), stored, media_type=kind)
    assert (plan.multipart, plan.part_type, plan.reencode) == expected


def test_bulk_not_acceptable() -> None:
    with pytest.raises(NotAcceptable, match=OCTETS):
        plan_bulk(parse_accept("image/png"))


def test_quality_order_is_stable() -> None:
    ranges = parse_accept("a/b;q=0.5, c/d, e/f;q=1.000, g/h;q=0.5, i/j;q=0")
    assert [item.media.essence for item in ranges] == ["c/d", "e/f", "a/b", "g/h", "i/j"]
    assert parse_accept(" , ") == ANYTHING
    assert parse_accept("a/b;q=.2")[0].q == 0.2


@pytest.mark.parametrize(
    "accept",
    ["a/b;q=2", "a/b;q=-1", "a/b;q=x", "a/b;q=", "dicom", 'a/b;x="', "a/b;q=0.1234", "multipart/related;type=x"],
)
def test_malformed_accept(accept: str) -> None:
    with pytest.raises(BadRequest):
        parse_accept(accept)


_STORED = st.sampled_from([*sorted(NATIVE), *FRAME_MEDIA_TYPE_OF, PRIVATE])
_TYPES = st.sampled_from(
    ["*/*", "image/*", OCTETS, "image/jpeg", "image/x-jls", "application/dicom", "video/mp4", "text/html"]
)
_ALTERNATIVE = st.builds(
    lambda kind, multipart, syntax, q: (f'multipart/related; type="{kind}"' if multipart else kind) + syntax + q,
    _TYPES,
    st.booleans(),
    _STORED.map(lambda uid: f"; transfer-syntax={uid}") | st.sampled_from(["", "; transfer-syntax=*"]),
    st.sampled_from(["", ";q=0.5", ";q=0"]),
)


@settings(deadline=None)
@given(st.lists(_ALTERNATIVE, min_size=1, max_size=6), _STORED, st.booleans())
def test_never_refused_when_a_listed_type_is_servable(alternatives: list[str], stored: str, several: bool) -> None:
    def plan(accept: str) -> str | None:
        try:
            return frames(accept, stored, several=several)[1]
        except NotAcceptable:
            return None

    alone = [plan(alternative) for alternative in alternatives]
    together = plan(", ".join(alternatives))
    if any(";q=0" in alternative and ";q=0." not in alternative for alternative in alternatives):
        assert together is None or any(alone)
    else:
        assert (together is not None) == any(one is not None for one in alone)
        assert together is None or together in alone


def test_entity_tags_of_what_is_rewritten_change_with_how_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = RetrievePlan(multipart=False, media_type="application/dicom", transfer_syntax=ELE, reencode="none")
    rewritten = replace(stored, reencode="transcode")
    before = stored.identity, rewritten.identity
    monkeypatch.setattr("dicomweb.negotiation.REVISION", 99)
    assert stored.identity == before[0]
    assert rewritten.identity not in before
