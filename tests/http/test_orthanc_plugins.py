"""What clients of Orthanc's pages and plug-ins ask for."""

import httpx
import pytest

from dicomweb.orthanc_tags import MAIN_TAGS
from dicomweb.tags import Level, tag_named
from tests.files import ct

ERROR = {"HttpStatus": 403, "OrthancStatus": 45}


@pytest.mark.parametrize("page", ["/app/explorer.html", "/ui/app", "/ui/app/", "/ui/app/filtered-studies?label=a"])
def test_pages_lead_to_ours(web: httpx.Client, page: str) -> None:
    moved = web.get(page)
    assert (moved.status_code, moved.headers["location"]) == (303, "/")
    assert "text/html" in web.get(page, follow_redirects=True).headers["content-type"]


def test_what_explorer_2_asks(web: httpx.Client) -> None:
    """Every plug-in that it is told of is there, and what it shows of resources is among their main tags."""
    assert web.get("/ui/api/pre-login-configuration").json()["Keycloak"] == {"Enable": False}
    answer = web.get("/ui/api/configuration")
    assert answer.headers["cache-control"] == "no-store"
    told = answer.json()
    assert set(told["Plugins"]) == set(web.get("/plugins").json()) - {"explorer.js"}
    for name, about in told["Plugins"].items():
        assert about == {**web.get(f"/plugins/{name}").json(), "Enabled": True}
        if about["RootUri"] and name == "worklists":
            assert web.get(about["RootUri"]).status_code == 200
    options = told["UiOptions"]
    for level, known in (("Patient", (Level.PATIENT,)), ("Study", (Level.STUDY,)), ("Series", (Level.SERIES,))):
        tags = {tag_named(name) for name in options[f"{level}MainTags"]}
        assert tags <= {tag for each in known for tag in MAIN_TAGS[each]}
    ohif = web.get(f"{options['OhifViewer3PublicRoot']}viewer?StudyInstanceUIDs=1.2.3")
    assert (ohif.status_code == 200) is options["EnableOpenInOhifViewer3"]


def test_files_that_wait_for_deletion(web: httpx.Client) -> None:
    before = web.get("/plugins/delayed-deletion/status").json()["FilesPendingDeletion"]
    stored = web.post("/instances", content=ct()).json()
    assert web.delete(stored["Path"]).status_code == 200
    after = web.get("/plugins/delayed-deletion/status").json()
    assert after == {"DatabaseServerIdentifier": "", "FilesPendingDeletion": before + 1}
    assert web.get("/plugins/advanced-storage/status").json() == {
        "DelayedDeletionIsActive": True, "FilesPendingDeletion": before + 1, "IndexerIsActive": False,
    }  # fmt: skip


@pytest.mark.parametrize(("path", "why"), [
    ("/move-storage", "one object store"),
    ("/plugins/advanced-storage/move-storage", "one object store"),
    ("/plugins/advanced-storage/adopt-instance", "anor import"),
    ("/plugins/advanced-storage/abandon-instance", "anor import"),
])  # fmt: skip
def test_what_one_store_cannot(web: httpx.Client, path: str, why: str) -> None:
    answer = web.post(path, json={"Resources": [], "TargetStorage": "object-storage"})
    assert (answer.status_code, answer.json() | ERROR) == (403, answer.json())
    assert why in answer.json()["Details"]


def test_there_is_no_housekeeper(web: httpx.Client) -> None:
    answer = web.get("/plugins/housekeeper/status")
    assert (answer.status_code, answer.json() | ERROR) == (403, answer.json())
    assert "reconstruct" in answer.json()["Details"]


def test_everybody_may_do_everything(web: httpx.Client) -> None:
    answer = web.get("/auth/user/profile")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {"name": "local", "permissions": ["all"], "authorized-labels": ["*"], "groups": []}


@pytest.mark.parametrize(("method", "path", "why"), [
    ("PUT", "/auth/tokens/ohif-viewer-publication", "would protect nothing"),
    ("POST", "/auth/tokens/decode", "no tokens"),
    ("GET", "/auth/settings/roles", "no roles"),
    ("PUT", "/auth/settings/roles", "no roles"),
    ("GET", "/auth/settings/permissions", "no permissions"),
    ("GET", "/auth/audit-logs", "no users"),
])  # fmt: skip
def test_nobody_logs_in(web: httpx.Client, method: str, path: str, why: str) -> None:
    """What would need accounts says so; Explorer 2 is not told of the plug-in that has them, and shows no button."""
    answer = web.request(method, path, json={} if method != "GET" else None)
    assert (answer.status_code, answer.json() | ERROR) == (403, answer.json())
    assert why in answer.json()["Details"]
    assert "authorization" not in web.get("/plugins").json()
