"""Rendering parameters: what is read, and that what is wrong is named."""

import pytest

from dicomweb.errors import BadQuery, BadRequest, NotAcceptable
from dicomweb.media import DICOM
from dicomweb.negotiation import parse_accept, plan_rendered
from dicomweb.rendered.encode import IMAGE_TYPES
from dicomweb.rendered.parameters import Region, Rendering, Viewport, Window, parse_rendering
from dicomweb.rendered.uri import parse_uri_request


def test_nothing_given() -> None:
    assert parse_rendering([]) == Rendering()
    assert parse_rendering([("accept", "image/png"), ("v", "1")]) == Rendering()
    assert parse_rendering([], thumbnail=True).viewport == Viewport(256, 256)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512,256", Viewport(512, 256)),
        ("512,", Viewport(512, None)),
        (",", Viewport(None, None)),
        ("512,512,,,512,512", Viewport(512, 512, Region(0, 0, 512, 512))),
        ("512,512,10,20.5,-30,-40", Viewport(512, 512, Region(10, 20.5, 30, 40, mirrored=True, flipped=True))),
        ("8,8,,,,-2", Viewport(8, 8, Region(height=2, flipped=True))),
    ],
)
def test_viewport(text: str, expected: Viewport) -> None:
    assert parse_rendering([("viewport", text)]).viewport == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40,400,linear", Window(40, 400)),
        ("40,400", Window(40, 400)),
        ("-1.5e3, 0.5,LINEAR_EXACT", Window(-1500, 0.5, "LINEAR_EXACT")),
        ("40,0.1,sigmoid", Window(40, 0.1, "SIGMOID")),
        ("40,400,linear-exact", Window(40, 400, "LINEAR_EXACT")),
    ],
)
def test_window(text: str, expected: Window) -> None:
    assert parse_rendering([("window", text)]).window == expected


def test_the_others() -> None:
    found = parse_rendering([("quality", "1"), ("annotation", "technique,patient"), ("iccprofile", "AdobeRGB")])
    assert found == Rendering(quality=1, annotation=("patient", "technique"), iccprofile="adobergb")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("viewport", text)
            for text in (
                "", "512", "512,512,1,2,3,4,5", "0,10", "-5,10", "1.5,10", "99999,1", "16384,16384", "a,b", "nan,1",
                "1e99,1",
                "10,10,-1,0,5,5", "10,10,0,0,0,5", "1,1,1e999,1,1,1",
            )
        ),
        *(
            ("window", text)
            for text in (
                "", "40", "40,0", "40,-400", "40,0.5", "40,0,sigmoid", "a,b", "1,2,cubic", "inf,1", "1,2,linear,3",
            )
        ),
        *(("quality", text) for text in ("", "0", "101", "-1", "9.5", "x", "٣")),
        ("annotation", "everything"),
        ("iccprofile", "cmyk"),
        ("iccprofile", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_rendering([(name, value)])
    assert caught.value.attribute == name


def test_given_twice() -> None:
    with pytest.raises(BadQuery, match="twice"):
        parse_rendering([("quality", "1"), ("quality", "2")])


def test_a_thumbnail_has_no_region() -> None:
    with pytest.raises(BadQuery):
        parse_rendering([("viewport", "10,10,1,1,5,5")], thumbnail=True)


# -- WADO-URI

NAMED = [("requestType", "WADO"), ("studyUID", "1.2"), ("seriesUID", "1.3"), ("objectUID", "1.4")]


def test_uri_of_an_image() -> None:
    more = {
        "contentType": "image/png", "rows": "100", "columns": "200", "region": "0.25,0,0.75,1", "windowCenter": "40",
        "windowWidth": "400", "imageQuality": "50", "frameNumber": "3", "annotation": "patient,technique",
    }  # fmt: skip
    found = parse_uri_request([*NAMED, *more.items()])
    assert (found.study, found.series, found.sop, found.frame, found.accept) == ("1.2", "1.3", "1.4", 3, "image/png")
    assert not found.stored
    assert found.rendering == Rendering(
        Viewport(200, 100), Window(40, 400), 50, ("patient", "technique"), fraction=(0.25, 0, 0.75, 1)
    )


def test_uri_of_a_file() -> None:
    found = parse_uri_request([*NAMED, ("contentType", DICOM), ("transferSyntax", "1.2.840.10008.1.2.1")])
    assert found.stored
    assert found.accept == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anonymize", "yes"), ("presentationUID", "1.2"), ("region", "0,0,2,1"), ("region", "0.5,0,0.5,1"),
        ("region", "0,0,1"), ("windowCenter", "1"), ("rows", "0"), ("rows", "70000"), ("frameNumber", "0"),
        ("imageQuality", "0"), ("annotation", "x"), ("transferSyntax", "1.2"),
    ],
)  # fmt: skip
def test_uri_that_is_wrong(name: str, value: str) -> None:
    with pytest.raises(BadQuery) as caught:
        parse_uri_request([*NAMED, (name, value)])
    assert caught.value.attribute == name


def test_uri_that_lacks_something() -> None:
    for missing, _ in NAMED:
        with pytest.raises(BadQuery) as caught:
            parse_uri_request([pair for pair in NAMED if pair[0] != missing])
        assert caught.value.attribute == missing
    with pytest.raises(BadRequest):
        parse_uri_request([*NAMED[:3], ("objectUID", "../..")])
    with pytest.raises(BadQuery) as caught:
        parse_uri_request([*NAMED, ("contentType", DICOM), ("rows", "5")])
    assert caught.value.attribute == "rows"
    for charset in ("shift_jis", "UTF-8, latin-1"):  # text is UTF-8 whatever is asked for
        assert parse_uri_request([*NAMED, ("charset", charset)]) == parse_uri_request(NAMED)


# -- negotiation (PS3.18 8.7.4)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, (False, "image/jpeg")),
        ("*/*", (False, "image/jpeg")),
        ("image/*", (False, "image/jpeg")),
        ("image/png", (False, "image/png")),
        ("image/jpeg;q=0.5, image/png", (False, "image/png")),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", (False, "image/jpeg")),
        ('multipart/related; type="image/png"', (True, "image/png")),
        ("image/jp2, image/gif;q=0.1", (False, "image/gif")),
        ("image/jpeg;q=0, image/*", (False, "image/png")),
    ],
)
def test_rendered_types(accept: str | None, expected: tuple[bool, str]) -> None:
    plan = plan_rendered(parse_accept(accept), IMAGE_TYPES)
    assert (plan.multipart, plan.media_type) == expected


def test_several_frames_are_parts_whatever_the_form_of_accept() -> None:
    for accept in ("image/png", 'multipart/related; type="image/png"'):
        plan = plan_rendered(parse_accept(accept), IMAGE_TYPES, several=True)
        assert (plan.multipart, plan.media_type) == (True, "image/png")


def test_nothing_acceptable_names_what_there_is() -> None:
    with pytest.raises(NotAcceptable, match=r"image/jpeg, image/png, image/gif"):
        plan_rendered(parse_accept("image/jp2, application/dicom"), IMAGE_TYPES)
