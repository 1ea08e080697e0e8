"""Rendered resources over TCP: what is sent for what is asked, caching, errors."""

import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import numpy as np
import psutil
import pytest
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian

from tests.files import compressed, dataset, encoded, new_uid
from tests.http.bodies import ROOT, problem, store
from tests.http.test_wado import parts
from tests.support import RunningServer, running_server
from tests.unit.rendered_files import read, sample, shown

MP4 = "1.2.840.10008.1.2.4.102"
PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"
SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.22"
KO_CLASS = "1.2.840.10008.5.1.4.1.1.88.59"
NO_PIXELS: dict[str, Any] = dict.fromkeys(
    ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
     "PixelRepresentation", "PixelData", "KVP")
)  # fmt: skip


def path_of(file: bytes) -> str:
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    return f"{ROOT}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def kept(web: httpx.Client, file: bytes) -> str:
    """Store a file; the path of its instance."""
    answer = store(web, file)
    assert answer.status_code in {200, 202}, answer.text  # 202: stored with a warning
    return path_of(file)


def refused(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem document of an answer, whose status and kind are checked."""
    assert (answer.status_code, problem(answer)) == (status, slug), answer.text
    return dict(answer.json())


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def opened(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(body)))


def gradient(**attributes: Any) -> Dataset:
    """Values 0 to 4095 in equal steps over 64 x 64, window 2048 / 4096."""
    values = np.linspace(0, 4095, 64 * 64).astype("<u2")
    given = {"WindowCenter": 2048, "WindowWidth": 4096, "PixelData": values.tobytes()} | attributes
    return dataset(Rows=64, Columns=64, **given)


SHADES = np.rint(np.linspace(0, 4095, 64 * 64).astype("<u2") * (255 / 4095)).reshape(64, 64)


def frames_of(count: int, **attributes: Any) -> Dataset:
    """Frames of 8 x 8 with one value each: 10, 20, 30 ..."""
    data = np.repeat(np.arange(10, 10 * count + 1, 10, dtype=np.uint8), 64).tobytes()
    return dataset(
        Rows=8, Columns=8, BitsAllocated=8, BitsStored=8, HighBit=7, NumberOfFrames=count, PixelData=data, **attributes
    )


def report(**attributes: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "no <b>finding</b>"
    given = {"SOPClassUID": SR_CLASS, "Modality": "SR", "ValueType": "CONTAINER", "ContentSequence": [item]}
    return dataset(**NO_PIXELS | given | attributes)


def document(mime: str, body: bytes, **attributes: Any) -> bytes:
    padded = body + b"\0" * (len(body) % 2)
    given = {"MIMETypeOfEncapsulatedDocument": mime, "EncapsulatedDocument": padded} | attributes
    return encoded(
        dataset(SOPClassUID=PDF_CLASS, Modality="DOC", EncapsulatedDocumentLength=len(body), **NO_PIXELS | given)
    )


@pytest.fixture
def ct(web: httpx.Client) -> str:
    return kept(web, encoded(gradient()))


@pytest.fixture
def cine(web: httpx.Client) -> str:
    return kept(web, encoded(frames_of(5, FrameTime="40")))


# -- images


def test_a_ct_as_png_and_jpeg(web: httpx.Client, ct: str) -> None:
    png = web.get(f"{ct}/rendered", headers={"Accept": "image/png"})
    assert png.headers["content-type"] == "image/png"
    assert png.headers["x-content-type-options"] == "nosniff"
    assert np.array_equal(pixels(png), SHADES)
    jpeg = web.get(f"{ct}/frames/1/rendered")
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert np.abs(pixels(jpeg).astype(int) - SHADES).max() <= 8
    gif = web.get(f"{ct}/rendered?accept=image/gif")
    assert np.array_equal(np.asarray(Image.open(BytesIO(gif.content)).convert("L")), SHADES)


def test_parameters_reach_the_picture(web: httpx.Client, ct: str) -> None:
    def asked(query: str) -> np.ndarray:
        return pixels(web.get(f"{ct}/rendered?accept=image/png&{query}"))

    assert asked("viewport=32,16").shape == (16, 16)
    assert np.array_equal(asked("viewport=,,8,4,-16,-8"), SHADES[4:12, 8:24][::-1, ::-1])
    assert set(np.unique(asked("window=1000.5,1,linear"))) == {0, 255}
    assert not np.array_equal(asked("annotation=patient&viewport=512,512"), asked("viewport=512,512"))
    lengths = [len(web.get(f"{ct}/rendered?quality={quality}").content) for quality in (5, 50, 100)]
    assert lengths == sorted(set(lengths))


def test_frames_one_by_one_and_together(web: httpx.Client, cine: str) -> None:
    assert pixels(web.get(f"{cine}/frames/3/rendered?accept=image/png")).max() == 30
    together = parts(web.get(f"{cine}/frames/4,2,4/rendered", headers={"Accept": "image/png"}))
    assert [opened(body).max() for _, body in together] == [40, 20, 40]
    assert [head["Content-Type"] for head, _ in together] == ["image/png"] * 3
    assert [head["Content-Location"].rpartition("/frames/")[2] for head, _ in together] == [
        "4/rendered", "2/rendered", "4/rendered",
    ]  # fmt: skip
    every = web.get(f"{cine}/rendered", headers={"Accept": 'multipart/related; type="image/png"'})
    assert [opened(body).max() for _, body in parts(every)] == [10, 20, 30, 40, 50]
    assert pixels(web.get(f"{cine}/rendered?accept=image/png")).max() == 10


def test_an_animation(web: httpx.Client, cine: str) -> None:
    for path, expected in (("rendered", [10, 20, 30, 40, 50]), ("frames/5,1/rendered", [50, 10])):
        answer = web.get(f"{cine}/{path}", headers={"Accept": "image/gif"})
        assert answer.headers["content-type"] == "image/gif"
        image: Any = Image.open(BytesIO(answer.content))
        assert image.info["duration"] == 40
        shown = []
        for frame in range(image.n_frames):
            image.seek(frame)
            shown.append(int(np.asarray(image.convert("L")).max()))
        assert shown == expected


def test_caching_and_head(web: httpx.Client, ct: str) -> None:
    for path in (f"{ct}/rendered", f"{ct}/frames/1/rendered", f"{ct}/thumbnail"):
        answer = web.get(path)
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["vary"] == "Accept"
        tag = answer.headers["etag"]
        again = web.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        for other in ("quality=50", "accept=image/png", "viewport=9,9"):
            assert web.get(f"{path}?{other}", headers={"If-None-Match": tag}).status_code == 200
        head = web.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.content))
    uri = web.get(f"{ct}/metadata").json()[0]["7FE00010"]["BulkDataURI"]
    version = uri.rpartition("?v=")[2]
    assert "immutable" in web.get(f"{ct}/rendered?v={version}").headers["cache-control"]


def test_not_acceptable_names_what_there_is(web: httpx.Client, ct: str, cine: str) -> None:
    for path in (ct, cine, f"{ct}/frames/1", f"{cine}/frames/1,2"):
        found = refused(web.get(f"{path}/rendered", headers={"Accept": "image/jp2"}), 406, "not-acceptable")
        assert "image/png" in found["detail"]
    assert web.get(f"{ct}/thumbnail", headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.parametrize(
    ("query", "attribute"),
    [
        ("viewport=0,0", "viewport"),
        ("viewport=99999999999,1", "viewport"),
        ("viewport=16384,16384", "viewport"),
        ("viewport=,,100,0,5,5", "viewport"),
        ("window=40,0,linear", "window"),
        ("window=40,-1,sigmoid", "window"),
        ("quality=0", "quality"),
        ("annotation=all", "annotation"),
        ("iccprofile=x", "iccprofile"),
    ],
)
def test_wrong_parameters(web: httpx.Client, ct: str, query: str, attribute: str) -> None:
    found = refused(web.get(f"{ct}/rendered?{query}"), 400, "bad-query")
    assert found["attribute"] == attribute


def test_what_is_not_there(web: httpx.Client, ct: str) -> None:
    for path in (
        f"{ct}/frames/2/rendered", f"{ct}/frames/2/thumbnail", f"{ct[:-3]}/rendered", f"{ROOT}/studies/1.2.3/rendered",
        f"{ROOT}/studies/1.2.3/thumbnail", f"{ROOT}/studies/1.2.3/series/1.2/rendered", f"{ct[:-3]}/thumbnail",
    ):  # fmt: skip
        refused(web.get(path), 404, "not-found")
    refused(web.get(f"{ct}/frames/0/rendered"), 400, "bad-request")


# -- values that are fetched separately (above bulk_threshold)


@pytest.mark.parametrize(
    "name",
    [
        "examples_palette.dcm",
        "OBXXXX1A_expb_2frame.dcm",  # 8 bits in swapped words
        "vlut_04.dcm",
        "gdcm-US-ALOKA-16.dcm",  # segmented
        "gdcm-US-ALOKA-16_big.dcm",
    ],
)
def test_tables_as_bulk_data(web: httpx.Client, name: str) -> None:
    ds = dcmread(sample(name))
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = new_uid(), new_uid(), new_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = BytesIO()
    ds.save_as(out)
    found = pixels(web.get(f"{kept(web, out.getvalue())}/rendered?accept=image/png"))
    little = name.replace("_big", "").replace("_expb", "")
    assert np.array_equal(found, shown(read(little)))


def test_big_endian(web: httpx.Client) -> None:
    ds = gradient()
    ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    path = kept(web, encoded(ds, ExplicitVRBigEndian))
    assert np.array_equal(pixels(web.get(f"{path}/rendered?accept=image/png")), SHADES)


# -- reports, documents, video


def test_a_report_is_html_without_the_patient(web: httpx.Client) -> None:
    path = kept(web, encoded(report()))
    answer = web.get(f"{path}/rendered")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert "no &lt;b&gt;finding&lt;/b&gt;" in answer.text
    assert "Müller" not in answer.text
    assert "Müller" in web.get(f"{path}/rendered?annotation=patient").text
    refused(web.get(f"{path}/rendered", headers={"Accept": "image/jpeg"}), 406, "not-acceptable")
    refused(web.get(f"{path}/frames/1/rendered"), 404, "not-found")


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100"])
def test_long_texts_of_a_report(web: httpx.Client, charset: str) -> None:
    items = [Dataset() for _ in range(6)]
    for item, count in zip(items, (60_000, 70_000, 1_500_000, 1_500_000, 1_500_000, 1_500_000), strict=True):
        item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "Ä" * count + " end"
    path = kept(web, encoded(report(SpecificCharacterSet=charset, ContentSequence=items)))
    html = web.get(f"{path}/rendered").text
    shown = [
        text.removesuffix("</li>\n") for text in html.partition("<ul>")[2].rpartition("</ul>")[0].split("<li>")[1:]
    ]
    assert shown[0] == "Ä" * 60_000 + " end"
    assert shown[1] == "Ä" * 70_000 + " end"
    a_mebibyte = (1 << 20) // (2 if charset == "ISO_IR 192" else 1)
    assert shown[2] == "Ä" * a_mebibyte + " … (the rest is left out)"
    assert shown[5].endswith("(the rest is left out)") or "(a long text" in shown[5]
    assert "\ufffd" not in html
    assert len(html) < 5 << 20


def test_a_report_as_plain_text(web: httpx.Client) -> None:
    path = kept(web, encoded(report()))
    for answer in (
        web.get(f"{path}/rendered", headers={"Accept": "text/plain"}),
        web.get(uri(path, contentType="text/plain")),
    ):
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text.endswith("\nno <b>finding</b>\n")
    assert web.get(f"{path}/rendered?accept=text/html").headers["etag"] != answer.headers["etag"]


@pytest.mark.parametrize("size", [20, 70_000])
def test_a_report_as_xml(web: httpx.Client, size: int) -> None:
    """The Native DICOM Model of what was stored, with its long texts."""
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "<Ä>" * size
    ds = report(ContentSequence=[item])
    path = kept(web, encoded(ds))
    answer = web.get(f"{path}/rendered", headers={"Accept": "text/xml"})
    assert answer.headers["content-type"] == "text/xml; charset=utf-8"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert web.get(uri(path, contentType="text/xml")).content == answer.content
    model = ET.fromstring(answer.content)
    space = {"d": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    attributes = {each.get("tag"): each.get("vr") for each in model.findall("d:DicomAttribute", space)}
    assert attributes == {f"{element.tag:08X}": element.VR for element in ds}
    (text,) = model.findall("d:DicomAttribute[@keyword='ContentSequence']//*[@keyword='TextValue']/d:Value", space)
    assert text.text == item.TextValue
    refused(web.get(f"{path}/rendered", headers={"Accept": "application/pdf"}), 406, "not-acceptable")


@pytest.mark.parametrize("size", [301, 5001])
def test_a_pdf_is_sent_as_it_is(web: httpx.Client, size: int) -> None:
    body = (b"%PDF-1.4\n" + bytes(range(256)) * 40)[:size]
    path = kept(web, document("application/pdf", body))
    answer = web.get(f"{path}/rendered")
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content == body
    assert "content-disposition" not in answer.headers
    part = web.get(f"{path}/rendered", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, body[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{size}"
    refused(web.get(f"{path}/rendered", headers={"Range": "bytes=9999-"}), 416, "range-not-satisfiable")
    ((_, whole),) = parts(web.get(f"{path}/rendered", headers={"Accept": 'multipart/related; type="application/pdf"'}))
    assert whole == body


def test_a_document_that_does_not_say_its_type_is_what_its_class_is_for(web: httpx.Client) -> None:
    path = kept(web, document("", b"%PDF-1.4"))
    for accept in ("*/*", "application/pdf"):
        answer = web.get(f"{path}/rendered", headers={"Accept": accept})
        assert (answer.headers["content-type"], answer.content) == ("application/pdf", b"%PDF-1.4")
    refused(web.get(f"{path}/rendered", headers={"Accept": "text/xml"}), 406, "not-acceptable")


def test_documents_that_a_browser_could_run(web: httpx.Client) -> None:
    for mime in ("text/html", "image/svg+xml", "application/javascript", "nonsense", "text/html; application/pdf"):
        refused(web.get(f"{kept(web, document(mime, b'<script>'))}/rendered"), 404, "not-found")
    xml = web.get(f"{kept(web, document('text/xml', b'<a/>'))}/rendered")
    assert xml.headers["content-disposition"] == "attachment"
    assert xml.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_a_video_is_sent_as_it_is(web: httpx.Client) -> None:
    stream = bytes(range(256)) * 1200
    path = kept(web, compressed([stream], MP4, Rows=8, Columns=8))
    answer = web.get(f"{path}/rendered")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.content == stream
    part = web.get(f"{path}/rendered", headers={"Range": "bytes=300000-", "Accept": "video/mp4"})
    assert (part.status_code, part.content) == (206, stream[300_000:])
    refused(web.get(f"{path}/frames/1/rendered"), 404, "not-found")
    refused(web.get(f"{path}/thumbnail"), 404, "not-found")


# -- studies, series, thumbnails


def test_a_study_of_everything(web: httpx.Client) -> None:
    study, series = new_uid(), new_uid()
    same = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    files = [
        encoded(gradient(**same, InstanceNumber=1)),
        encoded(frames_of(3, **same, InstanceNumber=2)),
        encoded(report(StudyInstanceUID=study, SeriesInstanceUID=new_uid(), SeriesNumber=2)),
        document("application/pdf", b"%PDF-1.4", StudyInstanceUID=study, SeriesInstanceUID=new_uid(), SeriesNumber=3),
        document("text/html", b"<script>", StudyInstanceUID=study, SeriesInstanceUID=new_uid(), SeriesNumber=4),
    ]
    assert store(web, *files).status_code == 200
    every = parts(web.get(f"{ROOT}/studies/{study}/rendered"))
    assert [head["Content-Type"] for head, _ in every] == ["image/jpeg", "image/jpeg", "text/html", "application/pdf"]
    assert every[3][1] == b"%PDF-1.4"
    assert every[0][0]["Content-Location"].endswith(f"{path_of(files[0])}/rendered")
    for accept in ("image/png", 'multipart/related; type="image/png"'):
        images = parts(web.get(f"{ROOT}/studies/{study}/series/{series}/rendered", headers={"Accept": accept}))
        assert [opened(body).shape for _, body in images] == [(64, 64), (8, 8)]
    answer = web.get(f"{ROOT}/studies/{study}/rendered", headers={"Accept": "image/png"})
    assert len(parts(answer)) == 2
    assert answer.headers["warning"].endswith(": 3 of 5 instances have no accepted rendered form. Left out.")
    tag = answer.headers["etag"]
    again = web.get(f"{ROOT}/studies/{study}/rendered", headers={"Accept": "image/png", "If-None-Match": tag})
    assert again.status_code == 304
    refused(web.get(f"{ROOT}/studies/{study}/rendered?accept=image/jp2"), 406, "not-acceptable")
    refused(web.get(f"{ROOT}/studies/{study}/series/{series}/rendered?viewport=,,500,500,1,1"), 400, "bad-query")


def test_the_thumbnail_is_the_middle_frame_of_the_middle_image(web: httpx.Client) -> None:
    study, series = new_uid(), new_uid()
    same = {"StudyInstanceUID": study, "SeriesInstanceUID": series}

    def flat(value: int, number: int) -> bytes:
        data = bytes([value]) * 64
        eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
        return encoded(dataset(Rows=8, Columns=8, InstanceNumber=number, PixelData=data, **eight, **same))

    key_object = encoded(report(**same | {"SOPClassUID": KO_CLASS, "InstanceNumber": 5}))
    assert (
        store(web, flat(10, 1), encoded(frames_of(5, InstanceNumber=2, **same)), flat(20, 3), key_object).status_code
        == 200
    )
    for path in (f"studies/{study}", f"studies/{study}/series/{series}"):
        shown = pixels(web.get(f"{ROOT}/{path}/thumbnail", headers={"Accept": "image/png"}))
        assert (shown.shape, shown.max(), shown.min()) == ((256, 256), 30, 30)
    # the middle changes with the study, at once
    assert store(web, flat(70, 6), flat(80, 7), flat(90, 8)).status_code == 200
    assert pixels(web.get(f"{ROOT}/studies/{study}/thumbnail?accept=image/png&viewport=16,4")).shape == (4, 4)
    assert pixels(web.get(f"{ROOT}/studies/{study}/thumbnail?accept=image/png")).max() == 70
    lonely = encoded(report())
    path = kept(web, lonely)
    for at in (path, path.partition("/instances")[0], path.partition("/series")[0]):
        refused(web.get(f"{at}/thumbnail"), 404, "not-found")


def test_thumbnails_of_frames_and_from_the_store(web: httpx.Client, cine: str, server: RunningServer) -> None:
    store_of = server.data / "thumbnails"
    before = set(store_of.glob("*/*"))
    first = web.get(f"{cine}/frames/2/thumbnail?accept=image/png")
    assert pixels(first).max() == 20
    assert pixels(web.get(f"{cine}/frames/1,4,5/thumbnail?accept=image/png")).max() == 40
    made = set(store_of.glob("*/*")) - before
    assert len(made) == 2
    for _ in range(8):  # whichever worker answers
        assert (
            web.get(f"{cine}/frames/2/thumbnail?accept=image/png", headers={"Connection": "close"}).content
            == first.content
        )
    assert set(store_of.glob("*/*")) - before == made
    refused(web.get(f"{cine}/thumbnail?viewport=1,2,3,4,5,6"), 400, "bad-query")


# -- WADO-URI


def uri(path: str, **parameters: str) -> str:
    _, _, _, study, _, series, _, sop = path.split("/")
    given = {"requestType": "WADO", "studyUID": study, "seriesUID": series, "objectUID": sop} | parameters
    return "/wado?" + "&".join(f"{name}={value}" for name, value in given.items())


def test_wado_uri(web: httpx.Client, ct: str, cine: str) -> None:
    jpeg = web.get(uri(ct))
    assert jpeg.headers["content-type"] == "image/jpeg"
    png = web.get(uri(ct, contentType="image/png", windowCenter="1000.5", windowWidth="1"))
    assert set(np.unique(pixels(png))) == {0, 255}
    half = pixels(web.get(uri(ct, contentType="image/png", region="0.5,0,1,0.25")))
    assert np.array_equal(half, SHADES[:16, 32:])
    assert pixels(web.get(uri(ct, contentType="image/png", rows="16", columns="999"))).shape == (16, 16)
    assert pixels(web.get(uri(cine, contentType="image/png", frameNumber="4"))).max() == 40
    assert web.get(uri(ct), headers={"If-None-Match": jpeg.headers["etag"]}).status_code == 304
    file = web.get(uri(ct, contentType="application/dicom"))
    assert file.headers["content-type"].startswith("application/dicom")
    assert dcmread(BytesIO(file.content)).PixelData == gradient().PixelData
    report_path = kept(web, encoded(report()))
    assert web.get(uri(report_path)).headers["content-type"] == "text/html; charset=utf-8"


def test_wado_uri_refuses_clearly(web: httpx.Client, ct: str) -> None:
    assert refused(web.get(uri(ct, anonymize="yes")), 400, "bad-query")["attribute"] == "anonymize"
    assert refused(web.get(uri(ct, requestType="XX")), 400, "bad-query")["attribute"] == "requestType"
    refused(web.get(uri(ct, contentType="image/jp2")), 406, "not-acceptable")
    refused(web.get(uri(ct, objectUID="1.2.3.4")), 404, "not-found")
    refused(web.get(uri(ct, frameNumber="2")), 404, "not-found")
    jpeg = "1.2.840.10008.1.2.4.50"
    refused(web.get(uri(ct, contentType="application/dicom", transferSyntax=jpeg)), 406, "not-acceptable")


# -- clients


def test_dicomweb_client(dicomweb: DICOMwebClient, ct: str, cine: str) -> None:
    _, _, _, study, _, series, _, sop = ct.split("/")
    assert np.array_equal(opened(dicomweb.retrieve_instance_rendered(study, series, sop, ("image/png",))), SHADES)
    assert opened(dicomweb.retrieve_instance_rendered(study, series, sop)).shape == (64, 64)
    smaller = dicomweb.retrieve_instance_rendered(study, series, sop, ("image/jpeg",), params={"viewport": "32,32"})
    assert opened(smaller).shape == (32, 32)
    _, _, _, study, _, series, _, sop = cine.split("/")
    third = dicomweb.retrieve_instance_frames_rendered(study, series, sop, [3], ("image/png",))
    assert opened(third).max() == 30


# -- hostile


def test_a_small_file_that_says_it_is_huge(web: httpx.Client) -> None:
    for rows, columns, allocated in ((65535, 65535, 8), (65535, 65535, 16), (60000, 3, 16), (0, 4, 16)):
        path = kept(web, encoded(dataset(Rows=rows, Columns=columns, BitsAllocated=allocated, BitsStored=8, HighBit=7)))
        for resource in ("rendered", "thumbnail"):
            assert web.get(f"{path}/{resource}").status_code == 422, (rows, columns)


def test_a_number_of_frames_that_lies(web: httpx.Client) -> None:
    for said in (0, 4, 2_000_000_000):
        ds = frames_of(3)
        ds.NumberOfFrames = said
        path = kept(web, encoded(ds))
        stored = 1 if said == 0 else 3
        every = parts(web.get(f"{path}/rendered", headers={"Accept": 'multipart/related; type="image/png"'}))
        assert [opened(body).max() for _, body in every] == [10, 20, 30][:stored]
        assert pixels(web.get(f"{path}/thumbnail?accept=image/png")).max() == (10 if stored == 1 else 20)
        assert Image.open(BytesIO(web.get(f"{path}/rendered?accept=image/gif").content)).n_frames == stored


def test_more_frames_than_an_answer_holds(web: httpx.Client) -> None:
    path = kept(web, encoded(frames_of(25)))
    assert len(parts(web.get(f"{path}/rendered", headers={"Accept": "multipart/related; type=image/jpeg"}))) == 25
    data = bytes(1001)
    ds = dataset(
        Rows=1, Columns=1, BitsAllocated=8, BitsStored=8, HighBit=7, NumberOfFrames=1001, PixelData=data + b"\0"
    )
    path = kept(web, encoded(ds))
    for accept in ("image/gif", "multipart/related; type=image/jpeg"):
        refused(web.get(f"{path}/rendered", headers={"Accept": accept}), 413, "too-large")
    assert web.get(f"{path}/rendered").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"PhotometricInterpretation": "RGB"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "CMYK", "BitsAllocated": 8, "BitsStored": 8},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"BitsStored": 17},
    ],
)  # fmt: skip
def test_attributes_that_contradict_each_other(web: httpx.Client, wrong: dict[str, Any]) -> None:
    path = kept(web, encoded(dataset(PixelData=bytes(48), **wrong)))
    assert "attribute" in refused(web.get(f"{path}/rendered"), 422, "bad-pixels")


def test_a_palette_that_is_too_small_for_its_pixels(web: httpx.Client) -> None:
    ds = dataset(PhotometricInterpretation="PALETTE COLOR", PixelData=np.full(16, 255, "<u2").tobytes())
    for colour, shade in (("Red", 1), ("Green", 2), ("Blue", 3)):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [16, 0, 8])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", bytes([shade] * 16))
    shown = pixels(web.get(f"{kept(web, encoded(ds))}/rendered?accept=image/png"))
    assert (shown == [1, 2, 3]).all()


def test_a_segmentation_mask_and_reals(web: httpx.Client) -> None:
    ds = dataset(BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=bytes((0b10100101, 0b00001111)))
    shown = pixels(web.get(f"{kept(web, encoded(ds))}/rendered?accept=image/png"))
    assert (shown // 255).tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    ds = dataset(PixelData=None, BitsStored=None, HighBit=None, PixelRepresentation=None, BitsAllocated=32)
    ds.FloatPixelData = np.array([np.nan, 0, 1, np.inf] * 4, "<f4").tobytes()
    ds["FloatPixelData"].VR = "OF"
    shown = pixels(web.get(f"{kept(web, encoded(ds))}/rendered?accept=image/png"))
    assert shown[0].tolist() == [0, 0, 255, 0]


def peak(server: RunningServer) -> int:
    """The most memory that a process of the server has had so far, in bytes."""
    statuses = (
        Path(f"/proc/{child.pid}/status") for child in psutil.Process(server.process.pid).children(recursive=True)
    )
    found = (re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) for status in statuses)
    return max(int(each[1]) * 1024 for each in found if each)


@pytest.mark.full
def test_large_frames_wait_for_their_turn(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Eight clients at once ask for one frame of 200 MB: no more than one of it is in memory."""
    with (
        running_server(tmp_path_factory.mktemp("large"), workers=1) as server,
        httpx.Client(base_url=server.url, timeout=100) as web,
    ):
        data = np.tile(np.arange(10_000, dtype="<u2"), 10_000).tobytes()
        path = kept(web, encoded(dataset(Rows=10_000, Columns=10_000, BitsStored=16, HighBit=15, PixelData=data)))
        del data

        def ask(width: int) -> tuple[int, ...]:
            return pixels(web.get(f"{path}/thumbnail?viewport={width},100&accept=image/png")).shape

        assert ask(50) == (50, 50)
        before = peak(server)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(60, 68))) == [(width, width) for width in range(60, 68)]
        assert peak(server) - before < 250 << 20
        too_large = web.get(f"{path}/rendered")
        assert "viewport" in refused(too_large, 422, "bad-pixels")["detail"]
