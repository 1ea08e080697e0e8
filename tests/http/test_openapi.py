"""The route table: whatever is served is declared, and whatever is declared is served and documented."""

import re
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from api.app import OPERATIONS, create_app
from api.routing import PUBLIC, Operation, RouteTree
from storage.access import SCOPES
from storage.settings import Settings

# What may be read without any right: the pages and documents themselves, and liveness for load balancers.
PUBLIC_PATHS = {
    "/", "/docs", "/healthz", "/openapi.json", "/readyz", "/settings.json", "/slides/{series}", "/static/{file}",
    "/ohif", "/ohif/{page:path}", "/ohif/app-config.js", "/ohif/files/{build}/{name:path}",
    "/wsi/viewer", "/wsi/viewer/{file}", "/app/explorer.html", "/ui/app", "/ui/app/{page:path}",
    "/ui/api/pre-login-configuration",
}  # fmt: skip
# What Orthanc's clients ask for, and is not here: they are told why.
REFUSED = {
    "/auth/audit-logs",
    "/auth/settings/permissions",
    "/auth/settings/roles",
    "/plugins/housekeeper/status",
}


def _name(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_every_operation_is_described(operation: Operation) -> None:
    assert operation.scope in SCOPES or operation.scope == PUBLIC
    assert (operation.scope == PUBLIC) == (operation.path in PUBLIC_PATHS)
    assert operation.summary
    assert operation.summary[0].isupper()
    assert operation.description.endswith(".")
    assert operation.answers
    good = [answer for answer in operation.answers if answer.status < 300 and answer.status not in {204, 206}]
    # A success of UPS-RS, MWL-RS and MPPS-RS has no payload but for those that retrieve (PS3.18 chapters 11, 14, 15).
    silent = operation.tag in {"UPS-RS", "MWL-RS", "MPPS-RS"} and operation.method != "GET"
    assert all(answer.contents for answer in good) or silent
    assert all(content.example for answer in operation.answers for content in answer.contents)
    assert all(parameter.example and parameter.summary for parameter in operation.parameters)
    takes_body = operation.method in {"POST", "PUT"} and "/subscribers/" not in operation.path
    assert takes_body == bool(operation.body)


def test_nothing_is_served_that_is_not_declared() -> None:
    app = create_app(Settings())
    served = {
        (method, route.path)
        for route in app.routes
        for method in (route.methods or ())  # type: ignore[attr-defined]
        if isinstance(route, Route)
    }
    declared = {(op.method, op.at("/dicom-web")) for op in OPERATIONS}
    declared |= {("HEAD", path) for method, path in declared if method == "GET"}
    assert served == declared
    assert all(isinstance(route, Route) for route in app.routes)


def test_document_covers_the_table(web: httpx.Client) -> None:
    document = web.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(op.method, op.at("/dicom-web").replace(":path}", "}")) for op in OPERATIONS}
    ids = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(ids) == len(set(ids))
    for path, methods in document["paths"].items():
        for each in methods.values():
            named = {p["name"] for p in each["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert each["x-scope"]
            assert all("example" in p for p in each["parameters"])
            assert all(code.isdigit() and answer["description"] for code, answer in each["responses"].items())


def test_document_names_headers_and_types(web: httpx.Client) -> None:
    paths = web.get("/openapi.json").json()["paths"]
    instance = "/dicom-web/studies/{study}/series/{series}/instances/{instance}"

    def operation(path: str, method: str = "get") -> dict[str, Any]:
        return dict(paths[path][method])

    def headers(path: str, status: str, method: str = "get") -> set[str]:
        return set(operation(path, method)["responses"][status].get("headers", ()))

    assert headers(f"{instance}/frames/{{frames}}", "206") == {"ETag", "Cache-Control", "Content-Range"}
    assert headers(f"{instance}/frames/{{frames}}", "416") == {"Content-Range"}
    assert headers(f"{instance}/metadata", "304") == {"ETag", "Cache-Control"}
    assert headers("/dicom-web/studies", "200") == headers("/dicom-web/studies", "204") == {"Warning"}
    assert headers("/dicom-web/studies", "503") == {"Retry-After"}
    assert headers("/dicom-web/workitems", "201", "post") == {"Location", "Warning"}
    for path in (instance, f"{instance}/metadata", f"{instance}/frames/{{frames}}", "/dicom-web/studies"):
        assert ("accept", "query") in {(each["name"], each["in"]) for each in operation(path)["parameters"]}
    types = {
        each["name"]: (each["schema"]["type"], each["example"])
        for each in operation("/dicom-web/studies")["parameters"]
    }
    assert types["limit"] == ("integer", 25)
    assert types["fuzzymatching"] == ("boolean", False)


def test_every_get_without_parameters_answers(web: httpx.Client) -> None:
    for operation in OPERATIONS:
        needs = any(parameter.required for parameter in operation.parameters)
        if operation.method == "GET" and not needs and "{" not in operation.at("/dicom-web"):
            path = operation.at("/dicom-web")
            answer = web.get(path)
            assert answer.status_code in ({403} if path in REFUSED else {200, 204, 303}), path
            head = web.head(path)
            assert (head.status_code, head.content) == (answer.status_code, b""), path
            assert answer.headers["x-content-type-options"] == "nosniff"
            if answer.status_code == 200:
                kinds = {c.media_type for a in operation.answers for c in a.contents}
                assert answer.headers["content-type"].split(";")[0] in kinds


def test_pages_forbid_foreign_scripts(web: httpx.Client) -> None:
    for path in (
        "/",
        "/docs",
        "/wsi/viewer/?series=1.2.3",
        "/wsi/viewer/main.js",
        "/static/studies.js",
        "/static/site.css",
    ):
        answer = web.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert web.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_pages_load_nothing_from_elsewhere(web: httpx.Client) -> None:
    for path in ("/", "/docs", "/wsi/viewer/?series=1.2.3"):
        loaded = re.findall(r'(?:src|href)="([^"]+)"', web.get(path).text)
        assert loaded
        assert not [each for each in loaded if "//" in each]


def test_tree_prefers_names_and_falls_back() -> None:
    async def handler(*_: object) -> None:
        pass

    def operation(path: str) -> Operation:
        return Operation("GET", path, PUBLIC, "t", "s", "d", handler, ())

    paths = ["/a/{x}/c", "/a/b/d", "/a/{x}/rest/{path:path}", "/"]
    tree = RouteTree([operation(path) for path in paths], "/dicom-web")

    def found(path: str) -> tuple[str, dict[str, str]] | None:
        result = tree.find("GET", path)
        return (result.operation.path, result.parameters) if result.operation else None

    assert found("/a/b/d") == ("/a/b/d", {})
    assert found("/a/b/c") == ("/a/{x}/c", {"x": "b"})
    assert found("//a//z//c/") == ("/a/{x}/c", {"x": "z"})
    assert found("/a/b/rest/1/2") == ("/a/{x}/rest/{path:path}", {"x": "b", "path": "1/2"})
    assert found("/") == ("/", {})
    assert found("/a/b/rest") is None
    assert found("/a/b") is None
    assert tree.find("POST", "/a/b/d").allowed == ("GET", "HEAD")
    with pytest.raises(ValueError, match="twice"):
        RouteTree([operation("/a"), operation("/a")], "")
