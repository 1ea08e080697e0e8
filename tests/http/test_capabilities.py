"""The capability description that every RESTful DICOM service owes (PS3.18 8.9)."""

from xml.etree import ElementTree as ET

import httpx

from tests.http.bodies import ROOT

W = "{http://wadl.dev.java.net/2009/02}"


def test_the_service_describes_itself(web: httpx.Client) -> None:
    answer = web.options(f"{ROOT}/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.sun.wadl+xml")
    resources, beside = ET.fromstring(answer.content).findall(f"{W}resources")
    assert resources.attrib["base"].endswith(f"{ROOT}/")
    studies = next(each for each in resources.findall(f"{W}resource") if each.attrib["path"] == "studies")
    assert {method.attrib["name"] for method in studies.findall(f"{W}method")} == {"GET", "POST"}
    search = next(method for method in studies.findall(f"{W}method") if method.attrib["name"] == "GET")
    assert "includefield" in {each.attrib["name"] for each in search.iter(f"{W}param")}
    assert "application/dicom+json" in {each.attrib["mediaType"] for each in search.iter(f"{W}representation")}
    paths = {each.attrib["path"] for each in resources.iter(f"{W}resource")}
    assert {"{study}", "series", "frames", "rendered", "thumbnail", "metadata"} <= paths
    # WADO-URI is a RESTful service of no root of its own (PS3.18 chapter 9).
    assert beside.attrib["base"] + "dicom-web/" == resources.attrib["base"]
    [wado] = beside.findall(f"{W}resource")
    assert wado.attrib["path"] == "wado"
    needed = {each.attrib["name"] for each in wado.iter(f"{W}param") if each.attrib["required"] == "true"}
    assert needed == {"requestType", "studyUID", "seriesUID", "objectUID"}


def test_as_json_and_as_nothing_else(web: httpx.Client) -> None:
    answer = web.options(ROOT, headers={"accept": "application/json"})
    assert answer.json()["openapi"].startswith("3.1")
    assert web.options(ROOT, headers={"accept": "image/png"}).status_code == 406


def test_a_preflight_is_a_preflight(strict: httpx.Client) -> None:
    asked = {"origin": "https://viewer.example.org", "access-control-request-method": "POST"}
    answer = strict.options(f"{ROOT}/studies", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://viewer.example.org"
