"""Measurements and bulk annotations of slides over TCP, compared with what highdicom writes and reads."""

from io import BytesIO
from typing import Any

import highdicom as hd
import httpx
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from tests.http.bodies import problem, store
from tests.wsi.annotations import bulk, circles
from tests.wsi.make_slide import Slide, make_slide
from tests.wsi.variants import Series, file, instance, matrix, tiles_of

LINE = [[100.0, 50.0], [400.0, 450.0]]  # 500 pixels of 0.5 µm
SQUARE = [[10.0, 10.0], [210.0, 10.0], [210.0, 110.0], [10.0, 110.0]]
DRAWN = {
    "measurements": [
        {"name": "Länge 1", "shape": "polyline", "points": LINE},
        {"name": "Area 1", "shape": "polygon", "points": SQUARE},
    ]
}


@pytest.fixture(scope="module")
def slide() -> Slide:
    return make_slide(1000, 800)


@pytest.fixture
def path(web: httpx.Client, slide: Slide) -> str:
    assert store(web, *slide.files).status_code == 200
    return f"/wsi/slides/{slide.series}/annotations"


def base(slide: Slide) -> Dataset:
    return dcmread(BytesIO(slide.files[0]))


def test_measurements_become_a_report(web: httpx.Client, slide: Slide, path: str) -> None:
    before = web.get(path)
    assert before.json() == {"measurements": [], "groups": [], "left_out": 0}
    assert web.get(path, headers={"If-None-Match": before.headers["etag"]}).status_code == 304
    answer = web.post(path, json=DRAWN)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["study"] == slide.study

    file = web.get(answer.headers["location"], headers={"Accept": "application/dicom"})
    report = hd.sr.Comprehensive3DSR.from_dataset(dcmread(BytesIO(file.content)))
    image = base(slide)
    assert (report.PatientName, report.StudyDate, report.Modality) == (image.PatientName, image.StudyDate, "SR")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    groups = report.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Länge 1", "Area 1"]
    # highdicom's own transformer says where on the glass a pixel is.
    placed = hd.spatial.ImageToReferenceTransformer.for_image(image, for_total_pixel_matrix=True)
    for group, drawn in zip(groups, (LINE, [*SQUARE, SQUARE[0]]), strict=True):
        assert group.roi.frame_of_reference_uid == image.FrameOfReferenceUID
        np.testing.assert_allclose(group.roi.value, placed(np.array(drawn)), atol=1e-6)
    values = [(m.name.meaning, m.value, m.unit.value) for group in groups for m in group.get_measurements()]
    assert values == [("Length", pytest.approx(0.25), "mm"), ("Area", pytest.approx(0.1 * 0.05), "mm2")]

    after = web.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    [line, area] = after.json()["measurements"]
    assert (line["name"], line["shape"], line["instance"]) == ("Länge 1", "polyline", made["instance"])
    assert line["values"] == [{"name": "Length", "value": pytest.approx(0.25), "unit": "mm"}]
    np.testing.assert_allclose(line["points"], LINE, atol=0.02)
    np.testing.assert_allclose(area["points"], [*SQUARE, SQUARE[0]], atol=0.02)
    # A second report stands beside the first, in the same series.
    again = web.post(path, json={"measurements": DRAWN["measurements"][:1]}).json()
    assert again["series"] == made["series"]
    assert len(web.get(path).json()["measurements"]) == 3
    found = web.get(f"/dicom-web/studies/{slide.study}/series", params={"Modality": "SR"}).json()
    assert [each["0020000E"]["Value"] for each in found] == [[made["series"]]]


def test_measurements_become_bulk_annotations(web: httpx.Client, slide: Slide, path: str) -> None:
    before = len(web.get(path).json()["measurements"])
    nuclei = [
        {"name": "Nuclei", "shape": "polygon", "points": [[x, 20], [x + 8, 20.5], [x + 4, 27]]}
        for x in range(10, 90, 20)
    ]
    closed = nuclei[0] | {"points": [*SQUARE, SQUARE[0]]}
    answer = web.post(path, json={"modality": "ANN", "measurements": [*nuclei, *DRAWN["measurements"], closed]})
    assert answer.status_code == 201, answer.text
    file = web.get(answer.headers["location"], headers={"Accept": "application/dicom"})
    made = hd.ann.MicroscopyBulkSimpleAnnotations.from_dataset(dcmread(BytesIO(file.content)))
    image = base(slide)
    assert (made.PatientName, made.StudyDate, made.Modality) == (image.PatientName, image.StudyDate, "ANN")
    assert made.ReferencedImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert made.PixelOriginInterpretation == "VOLUME"
    groups = {group.label: group for group in made.get_annotation_groups()}
    assert list(groups) == ["Nuclei", "Länge 1", "Area 1"]
    found = groups["Nuclei"].get_graphic_data("2D")
    for one, other in zip(found, [*(each["points"] for each in nuclei), SQUARE], strict=True):
        np.testing.assert_array_equal(one, other)
    names, values, units = groups["Area 1"].get_measurements()
    assert ([each.meaning for each in names], [each.value for each in units]) == (["Area"], ["mm2"])
    np.testing.assert_allclose(values, [[0.1 * 0.05]])
    # They are seen again as groups, and are no measurements of reports.
    listed = web.get(path).json()
    assert len(listed["measurements"]) == before
    assert {(each["label"], each["shape"], each["count"]) for each in listed["groups"]} == {
        ("Nuclei", "polygon", 5), ("Länge 1", "polyline", 1), ("Area 1", "polygon", 1),
    }  # fmt: skip
    group = next(each for each in listed["groups"] if each["label"] == "Länge 1")
    url = f"{path}/{group['instance']}/{group['number']}"
    [line] = drawn(web.get(url, params={"bbox": "0,0,1000,800"}), 0, 0)
    np.testing.assert_allclose(line, LINE, atol=0.13)


@pytest.mark.parametrize("modality", ["SR", "ANN"])
def test_slide_that_says_little(web: httpx.Client, modality: str) -> None:
    missing = dict.fromkeys(("AccessionNumber", "PatientBirthDate", "PatientSex", "StudyTime", "StudyID"))
    made = instance(Series(), tiles_of(matrix(100, 80), 64), (100, 80), **missing)
    assert store(web, file(made)).status_code in {200, 202}
    path = f"/wsi/slides/{made.SeriesInstanceUID}/annotations"
    answer = web.post(path, json=DRAWN | {"modality": modality})
    assert answer.status_code == 201, answer.text


def test_annotations_need_no_pixel_spacing(web: httpx.Client) -> None:
    made = instance(Series(), tiles_of(matrix(100, 80), 64), (100, 80))
    del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert store(web, file(made)).status_code in {200, 202}
    path = f"/wsi/slides/{made.SeriesInstanceUID}/annotations"
    assert web.post(path, json=DRAWN).status_code == 400
    assert web.post(path, json=DRAWN | {"modality": "ANN"}).status_code == 201
    assert len(web.get(path).json()["groups"]) == 2


def test_report_of_another_slide_is_not_shown(web: httpx.Client, slide: Slide, path: str) -> None:
    assert web.post(path, json=DRAWN).status_code == 201
    neighbour = instance(
        Series(study=slide.study), tiles_of(matrix(100, 80), 64), (100, 80), PatientName="Slide^Sample",
        PatientID="SLIDE-1",
    )  # fmt: skip
    assert store(web, file(neighbour)).status_code in {200, 202}
    listed = web.get(f"/wsi/slides/{neighbour.SeriesInstanceUID}/annotations").json()
    assert listed["measurements"] == []


def test_not_square_pixels_and_turned_slides(web: httpx.Client) -> None:
    cosines = [0.6, 0.8, 0.0, 0.8, -0.6, 0.0]
    made = instance(Series(), tiles_of(matrix(100, 80), 64), (100, 80), ImageOrientationSlide=cosines)
    assert store(web, file(made)).status_code in {200, 202}
    path = f"/wsi/slides/{made.SeriesInstanceUID}/annotations"
    answer = web.post(path, json={"measurements": [{"name": "a", "shape": "polyline", "points": [[0, 0], [40, 30]]}]})
    report = dcmread(BytesIO(web.get(answer.headers["location"], headers={"Accept": "application/dicom"}).content))
    [group] = hd.sr.Comprehensive3DSR.from_dataset(report).content.get_planar_roi_measurement_groups()
    placed = hd.spatial.ImageToReferenceTransformer.for_image(made, for_total_pixel_matrix=True)
    np.testing.assert_allclose(group.roi.value, placed(np.array([[0.0, 0], [40, 30]])), atol=1e-6)
    # Half a micrometre down, a quarter across.
    [length] = group.get_measurements()
    assert length.value == pytest.approx(float(np.hypot(40 * 0.00025, 30 * 0.0005)))
    [shown] = web.get(path).json()["measurements"]
    np.testing.assert_allclose(shown["points"], [[0, 0], [40, 30]], atol=0.02)


@pytest.mark.parametrize(
    ("body", "attribute"),
    [
        ({}, "measurements"),
        (DRAWN | {"modality": "SEG"}, "modality"),
        ({"measurements": []}, "measurements"),
        ({"measurements": [{}] * 1001}, "measurements"),
        ({"measurements": [1]}, "measurements[0]"),
        ({"measurements": [{"name": "", "shape": "polyline", "points": LINE}]}, "measurements[0].name"),
        ({"measurements": [{"name": "a\\b", "shape": "polyline", "points": LINE}]}, "measurements[0].name"),
        ({"measurements": [{"name": "a", "shape": "circle", "points": LINE}]}, "measurements[0].shape"),
        ({"measurements": [{"name": "a", "shape": ["polygon"], "points": LINE}]}, "measurements[0].shape"),
        ({"measurements": [{"name": "a", "shape": "polygon", "points": LINE}]}, "measurements[0].points"),
        ({"measurements": [{"name": "a", "shape": "polyline", "points": [[0, 0], [1]]}]}, "measurements[0].points"),
        (
            {"measurements": [{"name": "a", "shape": "polyline", "points": [[0, 0], [1, 1e99]]}]},
            "measurements[0].points",
        ),
        ({"measurements": [{"name": "a", "shape": "polyline", "points": [[0, 0], [1, 10**400]]}]}, None),
    ],
    ids=range(13),
)
def test_nonsense_is_refused(web: httpx.Client, path: str, body: Any, attribute: str | None) -> None:
    answer = web.post(path, json=body)
    assert answer.status_code == 400
    assert problem(answer) == "bad-request"
    assert answer.json().get("attribute") == attribute


def test_other_bad_requests(web: httpx.Client, path: str) -> None:
    assert web.post(path, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert web.post(path, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert web.post("/wsi/slides/1.2.3/annotations", json=DRAWN).status_code == 404
    large = {"measurements": [{"name": "a", "shape": "polyline", "points": [[0.123456789, 1]] * 300_000}]}
    assert web.post(path, json=large).status_code == 413


def drawn(answer: httpx.Response, left: float, top: float) -> list[Any]:
    """The shapes of an answer in pixels of level 0."""
    found = answer.json()
    points = np.cumsum(np.array(found["points"]).reshape(-1, 2), axis=0) * found["unit"] + (left, top)
    return np.split(points, np.cumsum(found["lengths"])[:-1]) if found["lengths"] else []


def test_polygons_are_found_by_rectangles(web: httpx.Client, slide: Slide, path: str) -> None:
    shapes = circles(3000, 1000, 800, radius=6)
    image = base(slide)
    assert store(web, bulk(image, "POLYGON", shapes)).status_code == 200
    group = next(each for each in web.get(path).json()["groups"] if each["count"] == 3000)
    assert (group["label"], group["shape"], group["type"]) == ("Nuclei", "polygon", "Nucleus")
    assert group["colour"].startswith("#")
    box = (200.0, 100.0, 456.0, 356.0)
    url = f"{path}/{group['instance']}/{group['number']}"
    answer = web.get(url, params={"bbox": ",".join(map(str, box)), "level": 0, "v": group["version"]})
    assert "immutable" in answer.headers["cache-control"]
    wanted = [
        each for each in shapes
        if (each.max(axis=0) >= box[:2]).all() and (each.min(axis=0) < box[2:]).all()
    ]  # fmt: skip
    found = drawn(answer, box[0], box[1])
    assert answer.json()["squares"] == []
    assert len(found) == len(wanted) > 100
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=0.13)
    # Where they are too small to be seen, they are counted: each once, over all rectangles.
    small = circles(2000, 1000, 800, radius=2, seed=2)
    assert store(web, bulk(image, "POLYGON", small, label="Small")).status_code == 200
    group = next(each for each in web.get(path).json()["groups"] if each["label"] == "Small")
    url = f"{path}/{group['instance']}/{group['number']}"
    total = 0
    for left in (0, 500):
        for top in (0, 400):
            counted = web.get(url, params={"bbox": f"{left},{top},{left + 500},{top + 400}", "level": 2}).json()
            assert counted["lengths"] == counted["points"] == []
            total += sum(counted["squares"][2::3])
    assert total == 2000
    assert web.get(url, params={"bbox": "1,2,3"}).status_code == 400
    assert web.get(url, params={"bbox": "0,0,4000,10"}).status_code == 400
    assert web.get(url, params={"bbox": "0,0,nan,10"}).status_code == 400
    assert web.get(url, params={"bbox": "0,0,10,10", "level": "9"}).status_code == 404
    assert web.get(f"{path}/{group['instance']}/7", params={"bbox": "0,0,10,10"}).status_code == 404


def test_points_ellipses_and_millimetres(web: httpx.Client) -> None:
    made = make_slide(400, 300)
    image = base(made)
    placed = hd.spatial.ImageToReferenceTransformer.for_image(image, for_total_pixel_matrix=True)
    corners = np.array([[100.0, 100], [140, 100], [140, 130], [100, 130]])
    ellipse = np.array([[50.0, 60], [90, 60], [70, 50], [70, 70]])
    files = [
        bulk(image, "RECTANGLE", [placed(corners)], coordinates="3D", label="Field"),
        bulk(image, "ELLIPSE", [ellipse.astype(np.float32)], label="Gland"),
        bulk(image, "POINT", [np.float32([[30, 40]]), np.float32([[200, 210]])], label="Mitosis"),
        bulk(dcmread(BytesIO(made.files[1])), "POLYGON", circles(5, 200, 150, 20), label="Coarse"),
    ]  # fmt: skip
    assert store(web, *made.files, *files).status_code == 200
    path = f"/wsi/slides/{made.series}/annotations"
    groups = {each["label"]: each for each in web.get(path).json()["groups"]}
    assert set(groups) == {"Field", "Gland", "Mitosis", "Coarse"}

    def asked(label: str) -> httpx.Response:
        group = groups[label]
        return web.get(f"{path}/{group['instance']}/{group['number']}", params={"bbox": "0,0,400,300"})

    [rectangle] = drawn(asked("Field"), 0, 0)
    np.testing.assert_allclose(rectangle, corners, atol=0.2)
    [round_] = drawn(asked("Gland"), 0, 0)
    np.testing.assert_allclose([round_.min(axis=0), round_.max(axis=0)], [[50, 50], [90, 70]], atol=0.3)
    points = asked("Mitosis").json()
    assert points["squares"][2::3] == [1, 1]
    # Drawn on the second level, shown on the first.
    for found, wanted in zip(drawn(asked("Coarse"), 0, 0), circles(5, 200, 150, 20), strict=True):
        np.testing.assert_allclose(found, wanted * 2, atol=0.2)


def test_group_that_does_not_fit_together(web: httpx.Client) -> None:
    made = make_slide(300, 200)
    image = base(made)
    broken = dcmread(BytesIO(bulk(image, "POLYGON", circles(50, 300, 200, 10))))
    item = broken.AnnotationGroupSequence[0]
    index = np.frombuffer(item.LongPrimitivePointIndexList, "<u4").copy()
    index[3] = 4_000_000_000
    item.LongPrimitivePointIndexList = index.tobytes()
    out = BytesIO()
    broken.save_as(out)
    assert store(web, *made.files, out.getvalue()).status_code == 200
    path = f"/wsi/slides/{made.series}/annotations"
    [group] = web.get(path).json()["groups"]
    answer = web.get(f"{path}/{group['instance']}/1", params={"bbox": "0,0,300,200"})
    assert problem(answer) == "bad-dicom"
    assert answer.json()["attribute"] == "LongPrimitivePointIndexList"
