"""Every operation of the core of Orthanc 1.12.11 is there, at the levels and with the methods that it has."""

import re
from collections.abc import Iterator

import pytest

from api.app import OPERATIONS
from api.routing import RouteTree

LEVELS = {"P": "/patients", "S": "/studies", "E": "/series", "I": "/instances"}
# The levels whose resources have a path below them (none: it stands by itself), methods, and paths. Alternatives in
# braces are several paths.
CORE: tuple[tuple[str, str, str], ...] = (
    ("", "DELETE GET", """
    /changes /exports /jobs/{id} /jobs/{id}/{key} /queries/{id}
    """),
    ("", "DELETE GET PUT", """
    /modalities/{id} /peers/{id}
    """),
    ("", "GET", """
    /jobs /modalities /modalities/{id}/configuration /peers /peers/{id}/configuration /peers/{id}/system
    /plugins /plugins/explorer.js /plugins/{id} /queries /queries/{id}/answers /queries/{id}/answers/{index}
    /queries/{id}/answers/{index}/content /queries/{id}/level /queries/{id}/modality /queries/{id}/query
    /statistics /storage-commitment/{id} /system /tools /tools/accepted-sop-classes /tools/dicom-conformance
    /tools/generate-uid /tools/labels /tools/metrics-prometheus /tools/now /tools/now-local
    """),
    ("", "GET POST", """
    /tools/create-archive /tools/create-media /tools/create-media-extended
    """),
    ("", "GET PUT", """
    /tools/accepted-transfer-syntaxes /tools/default-encoding /tools/log-level
    /tools/log-level-{dicom,generic,http,jobs,lua,plugins,sqlite} /tools/metrics
    /tools/unknown-sop-class-accepted
    """),
    ("", "POST", """
    /jobs/{id}/cancel /jobs/{id}/pause /jobs/{id}/resubmit /jobs/{id}/resume /modalities/{id}/echo
    /modalities/{id}/find /modalities/{id}/find-instance /modalities/{id}/find-patient
    /modalities/{id}/find-series /modalities/{id}/find-study /modalities/{id}/find-worklist /modalities/{id}/get
    /modalities/{id}/move /modalities/{id}/query /modalities/{id}/storage-commitment /modalities/{id}/store
    /modalities/{id}/store-straight /peers/{id}/store /peers/{id}/store-straight
    /queries/{id}/answers/{index}/query-instances /queries/{id}/answers/{index}/query-series
    /queries/{id}/answers/{index}/query-studies /queries/{id}/answers/{index}/retrieve /queries/{id}/retrieve
    /storage-commitment/{id}/remove /tools/bulk-anonymize /tools/bulk-content /tools/bulk-delete
    /tools/bulk-modify /tools/count-resources /tools/create-dicom /tools/dicom-echo /tools/execute-script
    /tools/find /tools/invalidate-tags /tools/lookup /tools/reconstruct /tools/reset /tools/shutdown
    """),
    ("E", "GET", """
    /ordered-slices
    """),
    ("EI", "GET", """
    /numpy /study
    """),
    ("I", "GET", """
    /content/{path} /file /frames /frames/{frame} /frames/{frame}/{preview,image-uint8,image-uint16,image-int16}
    /frames/{frame}/matlab /frames/{frame}/numpy /frames/{frame}/raw /frames/{frame}/raw.gz
    /frames/{frame}/rendered /header /{preview,image-uint8,image-uint16,image-int16} /matlab /pdf /rendered
    /simplified-tags /tags
    """),
    ("I", "POST", """
    /export
    """),
    ("P", "GET", """
    /studies
    """),
    ("P", "GET PUT", """
    /protected
    """),
    ("PSE", "GET", """
    /instances /instances-tags /shared-tags
    """),
    ("PSE", "GET POST", """
    /archive /media
    """),
    ("PSEI", "DELETE GET PUT", """
    /attachments/{name} /labels/{label} /metadata/{name}
    """),
    ("PSEI", "GET", """
    /attachments /attachments/{name}/compressed-data /attachments/{name}/compressed-md5
    /attachments/{name}/compressed-size /attachments/{name}/data /attachments/{name}/info
    /attachments/{name}/is-compressed /attachments/{name}/md5 /attachments/{name}/size /labels /metadata /module
    /statistics
    """),
    ("PSEI", "POST", """
    /anonymize /attachments/{name}/compress /attachments/{name}/uncompress /attachments/{name}/verify-md5
    /modify /reconstruct
    """),
    ("PSI", "GET", """
    /series
    """),
    ("S", "GET", """
    /module-patient
    """),
    ("S", "POST", """
    /merge /split
    """),
    ("SEI", "GET", """
    /patient
    """),
)  # fmt: skip
LISTS = {"/patients": "GET", "/studies": "GET", "/series": "GET", "/instances": "GET POST"}
METHODS = {"GET", "PUT", "POST", "DELETE"}
TREE = RouteTree(OPERATIONS, "/dicom-web")


def _alternatives(path: str) -> Iterator[str]:
    found = re.search(r"\{([a-z0-9-]+(?:,[a-z0-9-]+)+)\}", path)
    if found is None:
        yield path
        return
    for each in found[1].split(","):
        yield from _alternatives(path[: found.start()] + each + path[found.end() :])


def _operations() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {path: set(methods.split()) for path, methods in LISTS.items()}
    for level in LEVELS.values():
        found[f"{level}/{{id}}"] = {"GET", "DELETE"}
    for levels, methods, paths in CORE:
        for path in (each for text in paths.split() for each in _alternatives(text)):
            for root in [f"{LEVELS[level]}/{{id}}" for level in levels] or [""]:
                found.setdefault(root + path, set()).update(methods.split())
    return found


CASES = _operations()


def test_how_many() -> None:
    assert sum(len(methods) for methods in CASES.values()) == 299


@pytest.mark.parametrize("path", CASES)
def test_operations(path: str) -> None:
    """Doubled and trailing slashes do not matter, and another method is told which there are."""
    called = re.sub(r"\{\w+\}", "x", path)
    for method in CASES[path]:
        for spelled in (called, f"/{called}/", called.replace("/", "//")):
            found = TREE.find(method, spelled)
            assert found.operation is not None
            assert found.operation.orthanc
    for method in METHODS - CASES[path]:
        refused = TREE.find(method, called)
        if refused.operation is None:
            assert CASES[path] <= set(refused.allowed)
