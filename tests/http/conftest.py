"""Clients of the shared server, and servers with settings of their own."""

from collections.abc import Iterator

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient

from tests.orthanc import Orthanc, running_orthanc
from tests.support import RunningServer, running_server


@pytest.fixture
def web(server: RunningServer) -> Iterator[httpx.Client]:
    """HTTP to the shared server; `/dicom-web` is not part of the base."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def dicomweb(server: RunningServer) -> DICOMwebClient:
    """dicomweb-client, as in the IDC notebooks."""
    return DICOMwebClient(server.dicomweb)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Debian's Orthanc, empty: the same requests to both."""
    with (
        running_orthanc(tmp_path_factory.mktemp("orthanc"), {}) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="package")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with tight limits, a public URL, CORS for one origin and a trusted proxy on this machine."""
    with (
        running_server(
            tmp_path_factory.mktemp("strict"),
            workers=1,
            max_body=300_000,
            max_instance=100_000,
            max_parts=3,
            max_headers=30,
            max_header_bytes=8192,
            max_query_bytes=1024,
            max_query_parameters=30,
            max_json=65_536,
            max_create_json=131_072,
            max_part_headers=4,
            max_part_header_bytes=256,
            qido_max_limit=5,
            qido_default_limit=2,
            cors_origins="https://viewer.example.org",
            trusted_proxies="127.0.0.0/8",
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server as scripts find an Orthanc: with names for metadata and attachments. It may call this machine."""
    names = {"user_metadata": "Reviewer=1024", "user_attachments": "report=1024", "outgoing_networks": "127.0.0.0/8"}
    with running_server(tmp_path_factory.mktemp("site"), **names) as running:
        yield running


@pytest.fixture(scope="package")
def partner(site: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Debian's Orthanc, the modality `partner` of the site, of which it knows the address."""
    known = {"anor": ("ANOR", site.dimse_port)}
    with running_orthanc(tmp_path_factory.mktemp("partner"), known, "PARTNER") as running:
        body = {"AET": "PARTNER", "Host": "127.0.0.1", "Port": running.dimse_port}
        httpx.put(f"{site.url}/modalities/partner", json=body).raise_for_status()
        yield running
