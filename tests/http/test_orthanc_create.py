"""POST /tools/create-dicom: pictures, documents, attributes, parents; and what is refused."""

import struct
import time
import zlib
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames

from tests.support import running_server

PDF = b"%PDF-1.4 of odd length."
NOBODY = "-".join(["0" * 8] * 5)
SECONDARY_CAPTURE, PDF_STORAGE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.104.1"


def uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode()}"


def encoded(array: Any, kind: str = "png", **options: Any) -> bytes:
    out = BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(out, kind, **options)
    return out.getvalue()


def png(array: Any) -> str:
    return uri("image/png", encoded(array))


def create(web: httpx.Client, status: int = 200, **body: Any) -> Any:
    answer = web.post("/tools/create-dicom", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def file(web: httpx.Client, answer: Any) -> Dataset:
    return dcmread(BytesIO(web.get(f"{answer['Path']}/file").content))


GREY = np.arange(15, dtype=np.uint8).reshape(3, 5)
COLOUR = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
DEEP = np.arange(15, dtype=np.uint16).reshape(3, 5) * 4000
ALPHA = np.dstack([COLOUR, np.full((3, 5), 9, np.uint8)])
PALETTE = Image.fromarray(GREY).convert("P")
BITS = Image.fromarray(GREY > 7)


@pytest.mark.parametrize(
    ("picture", "pixels"),
    [
        (GREY, GREY),
        (COLOUR, COLOUR),
        (DEEP, DEEP),
        (ALPHA, COLOUR),
        (Image.fromarray(ALPHA).convert("LA"), np.asarray(Image.fromarray(ALPHA).convert("LA"))[..., 0]),
        (PALETTE, np.dstack([GREY] * 3)),
        (BITS, np.where(GREY > 7, 255, 0)),
    ],
    ids=["grey", "colour", "16 bits", "alpha", "grey and alpha", "palette", "bits"],
)
def test_png(web: httpx.Client, picture: Any, pixels: Any) -> None:
    answer = create(web, Tags={"PatientID": "P", "PatientName": "Müller^Änne"}, Content=png(picture))
    assert answer["Status"] == "Success"
    assert answer.keys() == {"ID", "ParentPatient", "ParentSeries", "ParentStudy", "Path", "Status"}
    ds = file(web, answer)
    np.testing.assert_array_equal(ds.pixel_array, pixels)
    assert (ds.SOPClassUID, ds.Modality, ds.ConversionType) == (SECONDARY_CAPTURE, "OT", "WSD")
    assert (ds.SpecificCharacterSet, str(ds.PatientName)) == ("ISO_IR 192", "Müller^Änne")
    assert "LossyImageCompression" not in ds
    assert ds.StudyDate == ds.InstanceCreationDate
    assert Image.open(BytesIO(web.get(f"{answer['Path']}/preview").content)).size == (5, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg(web: httpx.Client, options: dict[str, Any]) -> None:
    picture = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    data = encoded(picture, "jpeg", quality=95, **options)
    ds = file(web, create(web, Tags={}, Content=uri("image/jpeg", data)))
    assert (ds.PhotometricInterpretation, ds.LossyImageCompression) == ("RGB", "01")
    assert ds.LossyImageCompressionMethod == "ISO_10918_1"
    assert abs(ds.pixel_array.astype(int) - np.asarray(picture)).max() < 8


@pytest.mark.parametrize(("mode", "photometric"), [("L", "MONOCHROME2"), ("RGB", "YBR_FULL_422")])
def test_encapsulated_jpeg_is_stored_as_it_is(web: httpx.Client, mode: str, photometric: str) -> None:
    data = encoded(Image.linear_gradient("L").resize((64, 48)).convert(mode), "jpeg")
    answer = create(web, Tags={}, Content=uri("image/jpeg", data), Encapsulate=True)
    ds = file(web, answer)
    assert (ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation) == ("1.2.840.10008.1.2.4.50", photometric)
    (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
    assert frame.rstrip(b"\0") == data.rstrip(b"\0")
    assert web.get(f"{answer['Path']}/preview").status_code == 200


def test_documents(web: httpx.Client) -> None:
    answer = create(web, Tags={"PatientID": "P", "DocumentTitle": "Letter"}, Content=uri("application/pdf", PDF))
    ds = file(web, answer)
    assert (ds.SOPClassUID, ds.MIMETypeOfEncapsulatedDocument) == (PDF_STORAGE, "application/pdf")
    assert (ds.DocumentTitle, ds.EncapsulatedDocumentLength) == ("Letter", len(PDF))
    assert web.get(f"{answer['Path']}/pdf").content == PDF
    model = file(web, create(web, Tags={}, Content=uri("model/stl", b"solid x\nendsolid x\n")))
    assert (model.SOPClassUID, model.Modality) == ("1.2.840.10008.5.1.4.1.1.104.3", "M3D")


def test_several_contents_are_a_series(web: httpx.Client) -> None:
    items = [png(GREY), {"Content": png(GREY + 1), "Tags": {"ImageComments": "second", "InstanceNumber": "9"}}]
    answer = create(web, Tags={"PatientID": "P", "SeriesDescription": "both"}, Content=items)
    assert answer == {"ID": answer["ID"], "Path": f"/series/{answer['ID']}", "Status": "Success"}
    series = web.get(answer["Path"]).json()
    assert (series["ExpectedNumberOfInstances"], series["Status"]) == (2, "Complete")
    found = {
        ds.InstanceNumber: ds for ds in (file(web, {"Path": f"/instances/{each}"}) for each in series["Instances"])
    }
    assert found.keys() == {1, 2}
    assert found[2].ImageComments == "second"
    assert "ImageComments" not in found[1]
    np.testing.assert_array_equal(found[2].pixel_array, GREY + 1)


def test_tags_of_every_kind(web: httpx.Client) -> None:
    tags = {
        "0010-0010": "Doe^Jane",
        "PatientComments": uri("text/plain", "Größe".encode()),
        "OtherPatientIDsSequence": [{"PatientID": "other", "0009,1002": "nested"}],
        "ReferencedStudySequence": {"ReferencedSOPInstanceUID": "1.2", "0009,1002": "alone"},
        "00081030": {"Name": "StudyDescription", "Type": "String", "Value": "in full"},
        "0041,1001": "private",
        "ImageType": "DERIVED\\SECONDARY",
        "SelectorOBValue": uri("application/octet-stream", b"\1\2"),
        "Rows": "77",
    }
    ds = file(web, create(web, Tags=tags, PrivateCreator="ANOR TEST", Content=png(GREY)))
    assert (str(ds.PatientName), ds.StudyDescription, ds.PatientComments) == ("Doe^Jane", "in full", "Größe")
    assert ds.OtherPatientIDsSequence[0].PatientID == "other"
    assert ds.OtherPatientIDsSequence[0][0x00090010].value == "ANOR TEST"
    assert ds.ReferencedStudySequence[0][0x00090010].value == "ANOR TEST"
    assert (ds[0x00410010].value, ds[0x00411001].value.rstrip(b"\0")) == ("ANOR TEST", b"private")
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert (ds.SelectorOBValue, ds.Rows) == (b"\1\2", 3)
    text = uri("text/plain", b"x")
    ds = file(web, create(web, Tags={"PatientComments": text, "SelectorOBValue": text}, InterpretBinaryTags=False))
    assert (ds.PatientComments, ds.SelectorOBValue.rstrip(b"\0").decode()) == (text, text)


def test_character_set(web: httpx.Client) -> None:
    tags = {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люкceмбypг"}
    assert str(file(web, create(web, Tags=tags)).PatientName) == "Люкceмбypг"
    refused = create(web, 400, Tags={"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Люкceмбypг"})
    assert "PatientName" in refused["Details"]


def test_parents(web: httpx.Client) -> None:
    tags = {"PatientID": "family", "PatientName": "N", "StudyDescription": "of all", "SeriesDescription": "first"}
    first = create(web, Tags=tags, Content=png(GREY))
    source = file(web, first)
    for level, same in (
        ("ParentPatient", ("PatientID", "PatientName")),
        ("ParentStudy", ("StudyInstanceUID", "StudyDescription", "StudyDate", "StudyTime", "PatientName")),
        ("ParentSeries", ("SeriesInstanceUID", "SeriesDescription", "StudyInstanceUID", "Modality", "SeriesTime")),
    ):
        answer = create(web, Tags={}, Parent=first[level], Content=uri("application/pdf", PDF))
        assert answer[level] == first[level]
        ds = file(web, answer)
        assert {name: ds[name].value for name in same} == {name: source[name].value for name in same}
        assert ds.SOPInstanceUID != source.SOPInstanceUID
    study = {"Parent": first["ParentStudy"], "Content": png(GREY)}
    refused = create(web, 400, Tags={"PatientName": "N"}, **study)
    assert "PatientName" in refused["Details"]
    assert create(web, Tags={"PatientID": "family", "PatientSex": "F"}, **study)["ParentStudy"] == first["ParentStudy"]
    create(web, 400, Tags={"PatientID": "another"}, **study)
    create(web, 400, Tags={"StudyInstanceUID": source.StudyInstanceUID}, **study)
    assert str(file(web, create(web, Tags={"PatientName": "M"}, Force=True, **study)).PatientName) == "M"
    create(web, 400, Tags={}, Parent=first["ID"])
    create(web, 400, Tags={}, Parent=NOBODY)


def test_force_gives_identifiers(web: httpx.Client) -> None:
    tags = {
        "PatientID": "P",
        "StudyInstanceUID": "2.25.71",
        "SeriesInstanceUID": "2.25.72",
        "SOPInstanceUID": "2.25.73",
    }
    for name in tags.keys() - {"PatientID"}:
        assert name in create(web, 400, Tags={name: "2.25.70"})["Details"]
    assert create(web, Tags=tags, Force=True)["Status"] == "Success"
    assert create(web, Tags=tags, Force=True)["Status"] == "AlreadyStored"


def test_without_tags_members_are_tags(web: httpx.Client) -> None:
    ds = file(web, create(web, PatientID="flat", PixelData=png(GREY)))
    assert ds.PatientID == "flat"
    np.testing.assert_array_equal(ds.pixel_array, GREY)


def _bomb() -> str:
    """A PNG file of some hundred bytes that would be 4 GiB in memory."""
    head = struct.pack(">IIBBBBB", 65_535, 65_535, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    )
    return uri("image/png", b"\x89PNG\r\n\x1a\n" + chunks)


WHOLE = encoded(np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"Tags": []}, 400, 8),
        ({"Tags": {"Nonsense": "x"}}, 400, 8),
        ({"Tags": {"0002,0010": "1.2"}}, 400, 8),
        ({"Tags": {"PixelData": png(GREY)}}, 400, 2021),
        ({"Tags": {"PatientID": True}}, 400, 8),
        ({"Tags": {"Rows": "many"}}, 400, 8),
        ({"Tags": {"OtherPatientIDsSequence": ["x"]}}, 400, 8),
        ({"Tags": {"0041,1001": "x"}}, 400, 8),
        ({"Tags": {"PatientID": "a", "0010,0020": "b"}}, 400, 8),
        ({"Tags": {"Rows": "1", "Columns": "1", "BitsAllocated": "8"}}, 400, 15),
        ({"Tags": {}, "Content": 5}, 400, 2023),
        ({"Tags": {}, "Content": "AAAA"}, 400, 2023),
        ({"Tags": {}, "Content": uri("text/plain", b"x")}, 400, 8),
        ({"Tags": {}, "Content": "data:image/png;base64,?"}, 400, 8),
        ({"Tags": {}, "Content": uri("application/pdf", b"no PDF")}, 400, 15),
        ({"Tags": {}, "Content": uri("image/png", b"no PNG")}, 400, 15),
        ({"Tags": {}, "Content": uri("image/jpeg", b"no JPEG")}, 400, 15),
        ({"Tags": {}, "Content": uri("image/png", WHOLE[:-100])}, 400, 15),
        ({"Tags": {}, "Content": _bomb()}, 400, 15),
        ({"Tags": {}, "Content": [{"Tags": {}}]}, 400, 2022),
        ({"Tags": {}, "Content": [{"Content": png(GREY), "Tags": {"PatientID": "1"}}], "Force": True}, 400, 2020),
        ({"Tags": {"SOPInstanceUID": "1.2"}, "Content": [png(GREY)] * 2, "Force": True}, 400, 8),
        ({"Tags": {}, "Content": png(GREY), "Encapsulate": True}, 400, 8),
        ({"Tags": {}, "Force": 1}, 400, 8),
        ({"Tags": {}, "Parent": NOBODY}, 400, 2024),
        ({"Tags": {}, "Parent": "x"}, 400, 2024),
        ([], 400, 8),
    ],
)  # fmt: skip
def test_refusals(web: httpx.Client, body: Any, status: int, code: int) -> None:
    before = web.get("/statistics").json()["CountInstances"]
    answer = web.post("/tools/create-dicom", json=body)
    assert (answer.status_code, answer.json()["OrthancStatus"]) == (status, code), answer.text
    assert web.get("/statistics").json()["CountInstances"] == before


def test_nothing_is_stored_where_one_of_several_is_broken(web: httpx.Client) -> None:
    before = web.get("/statistics").json()["CountInstances"]
    create(web, 400, Tags={}, Content=[png(GREY), uri("image/png", WHOLE[:-100])])
    assert web.get("/statistics").json()["CountInstances"] == before


def test_a_list_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    """Room for some of the pictures only: those that were stored before there was none are gone again."""
    picture = png(np.random.default_rng(1).integers(0, 255, (200, 200), np.uint8))
    with (
        running_server(tmp_path, workers=1, maximum_storage_size=150_000, maximum_storage_mode="reject") as server,
        httpx.Client(base_url=server.url, timeout=60) as web,
    ):
        kept = create(web, Tags={"PatientID": "kept"}, Content=png(GREY))
        refused = create(web, 507, Tags={"PatientID": "P"}, Content=[picture] * 6)
        assert refused["OrthancStatus"] == 19
        assert web.get("/instances").json() == [kept["ID"]]
        assert web.post("/tools/lookup", content="P").json() == []
        time.sleep(1.1)  # totals are believed for a second
        made = create(web, Tags={"PatientID": "P"}, Content=[picture] * 2)
        assert len(web.get(made["Path"]).json()["Instances"]) == 2
