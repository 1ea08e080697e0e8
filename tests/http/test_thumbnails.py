"""Which instance stands for a study or series, and what is answered where none can."""

from typing import Any

import httpx
import pytest

from tests.files import compressed, dataset, encoded, new_uid
from tests.http.bodies import ROOT, store
from tests.http.test_rendered import MP4, NO_PIXELS, document, gradient, kept, path_of, pixels, refused, report

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
ACCEPTS = ("*/*", "image/png", "text/html", "image/jp2")


def without_pixels(**attributes: Any) -> bytes:
    """An instance of CT Image Storage without pixel data and their description, as test sets have them."""
    return encoded(dataset(**NO_PIXELS | attributes))


def broken(**attributes: Any) -> bytes:
    """A CT image whose only frame is no JPEG."""
    return compressed([b"\xff\xd8\xff\xc3" + bytes(300)], JPEG_LOSSLESS, Rows=64, Columns=64, **attributes)


def places(file: bytes) -> tuple[str, str, str]:
    """The paths of an instance, its series and its study."""
    path = path_of(file)
    return path, path.partition("/instances")[0], path.partition("/series")[0]


def test_images_without_pixel_data_are_no_images(web: httpx.Client) -> None:
    same = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    alone = without_pixels(InstanceNumber=1, **same)
    assert store(web, alone, without_pixels(InstanceNumber=2, **same)).status_code == 202
    instance, series, study = places(alone)
    for place in (instance, series, study):
        for resource in ("thumbnail", "rendered"):
            for accept in ACCEPTS:
                refused(web.get(f"{place}/{resource}", headers={"Accept": accept}), 404, "not-found")
    refused(web.get(f"{instance}/frames/1/rendered"), 404, "not-found")
    # one image with pixels at the end, and it is what is shown
    assert store(web, encoded(gradient(InstanceNumber=3, **same))).status_code == 200
    for place in (series, study):
        assert pixels(web.get(f"{place}/thumbnail?accept=image/png")).shape == (256, 256)


def test_a_broken_image_gives_way_to_another(web: httpx.Client) -> None:
    same = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid()}
    middle = broken(InstanceNumber=2, **same)
    files = encoded(gradient(InstanceNumber=1, **same)), middle, encoded(gradient(InstanceNumber=3, **same))
    assert store(web, *files).status_code == 200
    instance, series, study = places(middle)
    for place in (series, study):
        answer = web.get(f"{place}/thumbnail?accept=image/png")
        assert pixels(answer).shape == (256, 256)
        tag = {"If-None-Match": answer.headers["etag"]}
        assert web.get(f"{place}/thumbnail?accept=image/png", headers=tag).status_code == 304
    refused(web.get(f"{instance}/thumbnail"), 422, "bad-pixels")


def test_a_broken_series_gives_way_to_another(web: httpx.Client) -> None:
    study = {"StudyInstanceUID": new_uid()}
    series = {"SeriesInstanceUID": new_uid(), "SeriesNumber": 2}
    only_broken = [broken(InstanceNumber=number, **study, **series) for number in range(1, 6)]
    assert store(web, *only_broken).status_code == 200
    refused(web.get(f"{places(only_broken[0])[2]}/thumbnail"), 422, "bad-pixels")
    assert store(web, encoded(gradient(SeriesNumber=1, **study))).status_code == 200
    assert pixels(web.get(f"{places(only_broken[0])[2]}/thumbnail?accept=image/png")).shape == (256, 256)
    refused(web.get(f"{places(only_broken[0])[1]}/thumbnail"), 422, "bad-pixels")


@pytest.mark.parametrize("accept", ACCEPTS)
def test_what_has_no_picture_is_not_found_whatever_is_accepted(web: httpx.Client, accept: str) -> None:
    files = (
        encoded(report()),
        document("application/pdf", b"%PDF-1.4"),
        compressed([bytes(600)], MP4, Rows=8, Columns=8),
        encoded(dataset(**NO_PIXELS | {"SOPClassUID": PRESENTATION_STATE, "Modality": "PR"})),
    )
    assert store(web, *files).status_code == 200
    for file in files:
        for place in places(file):
            refused(web.get(f"{place}/thumbnail", headers={"Accept": accept}), 404, "not-found")
            answer = web.get(f"{place}/thumbnail?missing=empty", headers={"Accept": accept})
            assert (answer.status_code, answer.content) == (204, b"")
    refused(web.get(f"{path_of(files[3])}/rendered", headers={"Accept": accept}), 404, "not-found")


def test_asking_for_an_empty_answer(web: httpx.Client) -> None:
    image = kept(web, encoded(gradient()))
    assert web.get(f"{image}/thumbnail?missing=empty").status_code == 200
    assert web.get(f"{kept(web, broken())}/thumbnail?missing=empty").status_code == 204
    refused(web.get(f"{image}/thumbnail?missing=empty&accept=image/jp2"), 406, "not-acceptable")
    refused(web.get(f"{image}/thumbnail?missing=x"), 400, "bad-query")
    refused(web.get(f"{ROOT}/studies/1.2.3/thumbnail"), 404, "not-found")
