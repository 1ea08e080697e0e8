"""The addresses of Orthanc's pages, which lead to ours, and what Orthanc Explorer 2 asks."""

from typing import Any, Final

from api.exchange import Exchange
from api.responses import CACHE_REVALIDATE, send_bytes
from api.routes.ohif import BASE as OHIF
from api.routes.ohif import home_of
from api.routes.orthanc.addressing import NO_STORE
from api.routes.orthanc.dialect import route, send_json
from api.routes.orthanc.tools import described_plugins
from api.routing import PUBLIC, Answer, Operation
from wsi.ohif import load

_NO_LOGIN: Final = {"Keycloak": {"Enable": False}, "Inbox": {"Enable": False}}
_MODES: Final = ["modify-new-uids", "modify-keep-uids", "duplicate"]
_OPTIONS: Final[dict[str, Any]] = {
    # What may be done.
    "EnableStudyList": True, "EnableUpload": True, "EnableDicomModalities": True, "EnableDeleteResources": True,
    "EnableDownloadZip": True, "EnableDownloadDicomDir": True, "EnableDownloadDicomFile": True,
    "EnableAnonymization": True, "EnableModification": True, "EnableSendTo": True, "EnableApiViewMenu": False,
    "EnableSettings": True, "EnableEditLabels": True, "EnableLabelsCount": True, "EnableMultiLabelsSearch": True,
    "EnableAddSeries": True, "EnableViewerQuickButton": True, "EnableReportQuickButton": False,
    # What is not here: accounts, tokens, an audit log, Orthanc's older pages, viewers of others.
    "EnableAuditLogs": False, "EnableChangePassword": False, "EnableLinkToLegacyUi": False, "EnableShares": False,
    "DefaultShareDuration": 0, "ShareDurations": [0], "EnableOpenInOhifViewer": False,
    "EnableOpenInMedDreamViewer": False,
    # The list of studies.
    "StudyListColumns": [
        "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyDescription", "modalities",
        "AccessionNumber", "seriesAndInstancesCount",
    ],
    "StudyListSearchMode": "search-as-you-type", "StudyListSearchAsYouTypeMinChars": 3,
    "StudyListSearchAsYouTypeDelay": 400, "StudyListContentIfNoSearch": "default-ordering",
    "DefaultOrdering": "Metadata,LastUpdate,DESC", "AutoAddWildcardsToSearchFields": True, "AvailableLabels": [],
    "MaxStudiesDisplayed": 100, "PageLoadSize": 50, "MaxMyJobsHistorySize": 5,
    "ModalitiesFilter": [
        "CR", "CT", "DOC", "DX", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "PX", "RTDOSE", "RTPLAN", "RTSTRUCT", "SEG",
        "SM", "SR", "US", "XA", "XC",
    ],
    "ShowSamePatientStudiesFilter": ["PatientID"],
    # What is shown of a resource: main tags.
    "PatientMainTags": ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
    "StudyMainTags": [
        "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "StudyID", "StudyInstanceUID",
        "RequestingPhysician", "ReferringPhysicianName", "InstitutionName",
    ],
    "SeriesMainTags": [
        "SeriesDate", "SeriesTime", "SeriesDescription", "SeriesNumber", "BodyPartExamined", "ProtocolName",
        "SeriesInstanceUID",
    ],
    "UploadReportTags": ["PatientName", "PatientID", "StudyDescription", "StudyDate"], "UploadReportMaxTags": 2,
    "AddSeriesDefaultTags": {
        "pdf": {"SeriesDescription": "Report", "Modality": "DOC", "SeriesDate": "$TODAY$"},
        "image": {"SeriesDescription": "Picture", "Modality": "XC", "SeriesDate": "$TODAY$"},
        "stl": {"SeriesDescription": "Model", "Modality": "M3D", "SeriesDate": "$TODAY$"},
    },
    "Modifications": {
        "AllowedModes": _MODES, "DefaultMode": _MODES[0], "SeriesAllowedModes": _MODES, "SeriesDefaultMode": _MODES[0],
    },
    # Names and languages.
    "ShowOrthancName": True, "AvailableLanguages": ["en", "de", "es", "fr", "it", "pt"], "DefaultLanguage": None,
    "TranslateDicomTags": True, "DateFormat": "yyyy-MM-dd", "ViewersIcons": {
        "ohif": "bi bi-grid", "wsi": "fa-solid fa-microscope fa-button",
    },
    "ViewersOrdering": ["ohif", "wsi"], "CustomButtons": {"study": [], "series": [], "instance": []},
    "DownloadStudyFileNameTemplate": "{PatientID}-{StudyDate}-{StudyDescription}.zip",
    "DownloadSeriesFileNameTemplate": "{PatientID}-{SeriesDate}-{SeriesDescription}.zip",
    "DownloadInstanceFileNameTemplate": "{PatientID}-{StudyDate}-{SeriesDescription}-{InstanceNumber}.dcm",
}  # fmt: skip


async def start(http: Exchange) -> None:
    """Redirect to our own first page."""
    await send_bytes(http, 303, [(b"location", f"{home_of(http)}/".encode()), CACHE_REVALIDATE])


async def configuration(http: Exchange) -> None:
    """What Orthanc Explorer 2 may show."""
    viewer = {"EnableOpenInOhifViewer3": load() is not None, "OhifViewer3PublicRoot": f"{home_of(http)}{OHIF}/"}
    answer = {
        "Plugins": {name: {**about, "Enabled": True} for name, about in described_plugins(http).items()},
        "UiOptions": {**_OPTIONS, **viewer},
        "Tokens": {"RequiredForLinks": False, "InstantLinksValidity": 0},
        "HasCustomLogo": False,
        **_NO_LOGIN,
    }
    await send_json(http, answer, NO_STORE)


async def before_login(http: Exchange) -> None:
    """Whether somebody has to log in, and where."""
    await send_json(http, _NO_LOGIN, NO_STORE)


def _page(path: str) -> Operation:
    about = "Redirection from Orthanc's pages"
    answer = Answer(303, "The place of the list of studies.")
    return Operation("GET", path, PUBLIC, "Orthanc", about, "To the list of studies.", start, (answer,), orthanc=True)


OPERATIONS = (
    _page("/app/explorer.html"),
    _page("/ui/app"),
    _page("/ui/app/{page:path}"),
    route("GET", "/ui/api/configuration", "system.read",
          ("Configure Orthanc Explorer 2", "Where its files are served by another server, before this one."),
          configuration, {"Plugins": {"wsi": {"Enabled": True}}, "UiOptions": {"EnableUpload": True}}),
    route("GET", "/ui/api/pre-login-configuration", PUBLIC,
          ("Tell Orthanc Explorer 2 how to log in", "Nobody does."), before_login, _NO_LOGIN),
)  # fmt: skip
