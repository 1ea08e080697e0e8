"""Rendered images over HTTP against DCMTK's and values worked out by hand."""

import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from tests.files import ct, dataset, encoded, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.http.test_transcoding import file_of, stored


def by_dcmtk(file: bytes, *options: str) -> np.ndarray:
    """DCMTK's rendering, as 8-bit gray or RGB."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in.dcm"), Path(name, "out.png")
        source.write_bytes(file)
        done = subprocess.run(
            ["dcmj2pnm", "+on", *options, str(source), str(target)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return np.asarray(Image.open(target))


def rendered(web: httpx.Client, path: str, accept: str = "image/png", **query: str) -> np.ndarray:
    answer = web.get(f"{path}/rendered", headers={"accept": accept}, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == accept
    return np.asarray(Image.open(BytesIO(answer.content)))


# File, options of dcmj2pnm that mean the same, our parameters, and how far the two may be apart (rounding).
CASES = [
    ("CT_small.dcm", ["+Ww", "40", "400"], {"window": "40,400"}, 1),
    ("CT_small.dcm", ["+Wm"], {}, 1),
    ("MR_small.dcm", ["+Wi", "1"], {}, 1),
    ("693_UNCI.dcm", ["+Ww", "1000", "800", "+Wfs"], {"window": "1000,800,sigmoid"}, 1),
    ("RG3_UNCI.dcm", ["+Wi", "1"], {}, 1),
    ("RG3_J2KR.dcm", None, {}, 1),
    ("MR-SIEMENS-DICOM-WithOverlays.dcm", ["+Wi", "1", "-O"], {}, 1),
    ("OBXXXX1A.dcm", [], {}, 0),
    ("examples_palette.dcm", [], {}, 1),
    ("SC_rgb.dcm", [], {}, 0),
    ("color-pl.dcm", [], {}, 0),
    ("SC_ybr_full_uncompressed.dcm", [], {}, 2),
    ("SC_ybr_full_422_uncompressed.dcm", [], {}, 2),
    ("mlut_18.dcm", ["+Wm"], {}, 1),
    ("vlut_04.dcm", ["+Wl", "1"], {}, 1),
    ("ExplVR_BigEnd.dcm", [], {}, 0),
]


@pytest.mark.parametrize(("name", "options", "query", "tolerance"), CASES)
def test_as_dcmtk_renders_it(
    web: httpx.Client, name: str, options: list[str] | None, query: dict[str, str], tolerance: int
) -> None:
    file = file_of(name)
    ours = rendered(web, stored(web, file), **query)
    if options is None:
        options, file = ["+Wi", "1"], file_of("RG3_UNCR.dcm")
    theirs = by_dcmtk(file, *options)
    if theirs.ndim == 3 and ours.ndim == 2:
        theirs = theirs[:, :, 0]
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= tolerance, (np.unique(difference, return_counts=True), ours[:2, :5], theirs[:2, :5])


def test_a_segmented_palette_as_pydicom_applies_it(web: httpx.Client) -> None:
    file = file_of("gdcm-US-ALOKA-16.dcm")
    ds = dcmread(BytesIO(file))
    theirs = apply_color_lut(ds.pixel_array, ds) >> 8
    assert np.abs(rendered(web, stored(web, file)).astype(int) - theirs).max() <= 1


def image(web: httpx.Client, values: np.ndarray, **attributes: object) -> str:
    """Store a small CT of these values; its path."""
    rows, columns = values.shape
    kind = {
        "Rows": rows,
        "Columns": columns,
        "PixelData": values.astype("<u2").tobytes(),
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    return stored(web, ct(**kind | attributes))


RAMP = np.arange(0, 4096, 16).reshape(16, 16)


def test_golden_values_of_the_window_functions(web: httpx.Client) -> None:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and 2, worked out by hand for a few values."""
    path = image(web, np.array([[0, 99, 100, 150, 199, 200, 201, 4095]]))
    # c 150, w 100: LINEAR is black up to 100, white above 199; LINEAR_EXACT black up to 100, white above 200.
    assert rendered(web, path, window="150,100").tolist() == [[0, 0, 0, 129, 255, 255, 255, 255]]
    assert rendered(web, path, window="150,100,linear-exact").tolist() == [[0, 0, 0, 128, 252, 255, 255, 255]]
    assert rendered(web, path, window="150,100,sigmoid").tolist() == [[1, 29, 30, 128, 224, 225, 226, 255]]
    assert rendered(web, path, window="150,1").tolist() == [[0, 0, 0, 255, 255, 255, 255, 255]]


def test_without_a_window_the_range_of_the_values_is_shown_padding_apart(web: httpx.Client) -> None:
    path = image(web, np.array([[100, 200, 300, 0]]), PixelPaddingValue=0)
    assert rendered(web, path).tolist() == [[0, 128, 255, 0]]
    assert rendered(web, image(web, np.array([[7, 7]]))).tolist() == [[0, 0]]


def test_viewports_crop_flip_and_scale(web: httpx.Client) -> None:
    path = image(web, RAMP, WindowCenter=2048, WindowWidth=4096)
    whole = rendered(web, path)
    assert rendered(web, path, viewport="4,4,2,3,4,4").tolist() == whole[3:7, 2:6].tolist()
    assert rendered(web, path, viewport="16,16,,,-16,").tolist() == whole[:, ::-1].tolist()
    assert rendered(web, path, viewport="16,16,0,0,16,-16").tolist() == whole[::-1].tolist()
    assert rendered(web, path, viewport="8,4").shape == (4, 4)
    assert rendered(web, path, viewport="32,64").shape == (32, 32)
    assert rendered(web, image(web, RAMP, PixelSpacing=[2, 1]), viewport="32,32").shape == (32, 16)


@pytest.mark.parametrize(
    ("query", "attribute"),
    [
        ("viewport=0,10", "viewport"), ("viewport=10", "viewport"), ("viewport=99999,1", "viewport"),
        ("viewport=8,8,20,0,1,1", "viewport"), ("viewport=a,b", "viewport"),
        ("viewport=1e400,1", "viewport"), ("window=1", "window"), ("window=1,0", "window"),
        ("window=1,-5,sigmoid", "window"), ("window=1,2,cubic", "window"), ("window=nan,2", "window"),
        ("quality=0", "quality"), ("quality=high", "quality"), ("annotation=all", "annotation"),
        ("iccprofile=cmyk", "iccprofile"),
    ],
)  # fmt: skip
def test_malformed_parameters_are_named(web: httpx.Client, query: str, attribute: str) -> None:
    answer = web.get(f"{image(web, RAMP)}/rendered?{query}")
    assert (answer.status_code, problem(answer), answer.json()["attribute"]) == (400, "bad-query", attribute)


def test_types_conditions_and_caching(web: httpx.Client) -> None:
    path = image(web, RAMP)
    plain = web.get(f"{path}/rendered")
    assert plain.headers["content-type"] == "image/jpeg"
    assert (
        web.get(f"{path}/rendered", headers={"accept": "text/html, image/png;q=0.9, image/jpeg;q=0.8"}).headers[
            "content-type"
        ]
        == "image/png"
    )
    assert web.get(f"{path}/rendered?accept=image/gif").content[:4] == b"GIF8"
    refused = web.get(f"{path}/rendered", headers={"accept": "image/webp"})
    assert refused.status_code == 406
    assert "image/png" in refused.json()["detail"]
    assert web.get(f"{path}/rendered", headers={"if-none-match": plain.headers["etag"]}).status_code == 304
    other = web.get(f"{path}/rendered?quality=20", headers={"if-none-match": plain.headers["etag"]})
    assert (other.status_code, len(other.content) < len(plain.content)) == (200, True)
    assert web.head(f"{path}/rendered").headers["content-length"] == str(len(plain.content))
    assert web.get(f"{path}/frames/2/rendered").status_code == 404


def test_a_multi_frame_instance_as_parts_and_as_an_animation(web: httpx.Client) -> None:
    path = stored(web, file_of("emri_small.dcm"))
    answer = web.get(f"{path}/rendered", headers={"accept": "image/gif"})
    animation = Image.open(BytesIO(answer.content))
    assert (answer.headers["content-type"], animation.n_frames) == ("image/gif", 10)
    several = web.get(f"{path}/frames/3,1/rendered", headers={"accept": 'multipart/related; type="image/png"'})
    parts = [part.partition(b"\r\n\r\n")[2] for part in several.content.split(b"\r\n--anor-")[:-1]]
    singles = [web.get(f"{path}/frames/{n}/rendered", headers={"accept": "image/png"}).content for n in (3, 1)]
    assert parts == singles


def test_dicomweb_client_reads_rendered_images(web: httpx.Client, dicomweb: DICOMwebClient) -> None:
    path = stored(web, file_of("emri_small.dcm"))
    _, _, study, _, series, _, sop = path.strip("/").split("/")[-7:]
    single = dicomweb.retrieve_instance_rendered(
        study, series, sop, media_types=("image/jpeg",), params={"quality": 80}
    )
    assert Image.open(BytesIO(single)).size == (64, 64)
    frames = dicomweb.retrieve_instance_frames_rendered(study, series, sop, [2], media_types=("image/png",))
    assert Image.open(BytesIO(frames)).size == (64, 64)


def test_thumbnails_of_all_levels(web: httpx.Client) -> None:
    study, series = new_uid(), new_uid()
    for number in (1, 2, 3):
        one = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "InstanceNumber": number,
            "WindowCenter": 2048,
            "WindowWidth": 4096,
        }
        image(web, np.full((16, 16), number * 1000), **one)
    report = dataset(
        StudyInstanceUID=study,
        Modality="SR",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33",
        SeriesNumber=0,
        PixelData=None,
        Rows=None,
        Columns=None,
    )
    assert store(web, encoded(report)).status_code == 200
    base = f"{ROOT}/studies/{study}"
    for path in (base, f"{base}/series/{series}"):
        answer = web.get(f"{path}/thumbnail")
        assert answer.status_code == 200, answer.text
        shown = np.asarray(Image.open(BytesIO(answer.content)))
        assert shown.shape == (256, 256)
        assert abs(int(shown.mean()) - 2000 * 255 / 4096) < 3  # the middle instance
        assert web.get(f"{path}/thumbnail", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
        assert web.get(f"{path}/thumbnail?viewport=32,32&accept=image/png").headers["content-type"] == "image/png"
    assert web.get(f"{base}/series/{report.SeriesInstanceUID}/thumbnail").status_code == 404
    assert web.get(f"{ROOT}/studies/{new_uid()}/thumbnail").status_code == 404
    whole = web.get(f"{base}/rendered", headers={"accept": 'multipart/related; type="image/jpeg"'})
    assert whole.content.count(b"Content-Type: image/jpeg") == 3


def test_annotation_draws_overlays_and_names_nobody_unasked(web: httpx.Client) -> None:
    path = stored(web, file_of("MR-SIEMENS-DICOM-WithOverlays.dcm"))
    plain, drawn = rendered(web, path), rendered(web, path, annotation="technique")
    assert (drawn == 255).sum() > (plain == 255).sum() + 100
    assert not np.array_equal(drawn, rendered(web, path, annotation="patient,technique"))


def test_a_report_is_a_page_that_runs_nothing(web: httpx.Client) -> None:
    concept = Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = (
        "1",
        "99X",
        "Finding <script>alert(1)</script>",
    )
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "clear & <b>bold</b>"
    item.ConceptNameCodeSequence = [concept]
    report = dataset(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33",
        Modality="SR",
        PixelData=None,
        Rows=None,
        Columns=None,
        ContentSequence=[item],
    )
    path = stored(web, encoded(report))
    answer = web.get(f"{path}/rendered", headers={"accept": "text/html"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "clear &amp; &lt;b&gt;bold&lt;/b&gt;" in answer.text
    assert "<script" not in answer.text
    assert web.get(f"{path}/rendered", headers={"accept": "image/jpeg"}).status_code == 406


def test_a_document_is_shown_unless_a_browser_would_run_it(web: httpx.Client) -> None:
    body = b"%PDF-1.4\n" + b"x" * 3000
    for kind, status in (("application/pdf", 200), ("text/html", 404)):
        document = dataset(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="DOC", PixelData=None, Rows=None, Columns=None,
            MIMETypeOfEncapsulatedDocument=kind, EncapsulatedDocument=body + b"\0",
        )  # fmt: skip
        path = stored(web, encoded(document))
        answer = web.get(f"{path}/rendered")
        assert answer.status_code == status
        if status == 200:
            assert answer.headers["content-type"] == kind
            assert answer.content == body + b"\0"
            part = web.get(f"{path}/rendered", headers={"range": "bytes=0-4"})
            assert (part.status_code, part.content) == (206, b"%PDF-")


def test_tables_that_lie_are_errors(web: httpx.Client) -> None:
    palette = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "PALETTE COLOR",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "Rows": 2,
        "Columns": 2,
    }
    tables = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [16, 0, 8]), ("Data", bytes(range(16))))
    }
    path = stored(web, ct(**palette, **tables, PixelData=bytes([0, 15, 16, 255])))
    assert rendered(web, path)[..., 0].tolist() == [[0, 15], [15, 15]]  # indices behind the end take the last entry
    short = tables | {"RedPaletteColorLookupTableDescriptor": [0, 0, 16]}
    assert problem(web.get(stored(web, ct(**palette, **short, PixelData=bytes(4))) + "/rendered")) == "bad-pixels"
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], bytes(20)
    lut["LUTData"].VR = "OW"
    broken = image(web, RAMP, VOILUTSequence=[lut])
    assert problem(web.get(f"{broken}/rendered")) == "bad-pixels"
    window = {"WindowCenter": "40", "WindowWidth": "400"}
    for wrong in ({"RescaleSlope": "1e308"}, window | {"WindowWidth": "0"}, window | {"WindowCenter": "1e300"}):
        assert web.get(f"{image(web, RAMP, **wrong)}/rendered").status_code == 200


def test_wado_uri_gives_the_same_images_and_the_file(web: httpx.Client) -> None:
    file = file_of("emri_small.dcm")
    path = stored(web, file)
    _, _, study, _, series, _, sop = path.strip("/").split("/")[-7:]
    base = {"requestType": "WADO", "studyUID": study, "seriesUID": series, "objectUID": sop}

    def ask(**more: str) -> httpx.Response:
        return web.get("/wado", params=base | more)

    assert ask().content == web.get(f"{path}/rendered").content
    assert (
        ask(contentType="image/png", frameNumber="4").content
        == web.get(f"{path}/frames/4/rendered?accept=image/png").content
    )
    assert np.asarray(Image.open(BytesIO(ask(rows="32").content))).shape == (32, 32)
    quarter = np.asarray(Image.open(BytesIO(ask(contentType="image/png", region="0.5,0,1,0.5").content)))
    assert quarter.tolist() == rendered(web, path)[:32, 32:].tolist()
    windowed = ask(contentType="image/png", windowCenter="200", windowWidth="100", frameNumber="1")
    assert windowed.content == web.get(f"{path}/frames/1/rendered?accept=image/png&window=200,100").content
    dicom = ask(contentType="application/dicom")
    assert (dicom.headers["content-type"].split(";")[0], dicom.content) == ("application/dicom", file)
    rle = ask(contentType="application/dicom", transferSyntax="1.2.840.10008.1.2.5")
    assert dcmread(BytesIO(rle.content)).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"
    for wrong, status in (
        ({"requestType": "X"}, 400),
        ({"objectUID": ""}, 400),
        ({"objectUID": new_uid()}, 404),
        ({"anonymize": "yes"}, 400),
        ({"windowCenter": "1"}, 400),
        ({"region": "0,0,2,2"}, 400),
        ({"frameNumber": "0"}, 400),
        ({"frameNumber": "99"}, 404),
        ({"contentType": "image/webp"}, 406),
    ):
        assert ask(**wrong).status_code == status, wrong
