"""orthanc-api-client as a client: what scripts do with it, against a running server.

Of what it offers, the following needs a plugin in Orthanc, and is not here: `transfers` (transfers accelerator),
`projects` and `images` (education). Worklists, DICOMweb and slides need none here.
"""

import datetime as dt
import io
import json
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom import dcmread

from tests import orthanc as peer
from tests.files import ct, dataset, encoded, new_uid
from tests.http.sites import Sent
from tests.support import RunningServer, running_server

with warnings.catch_warnings():
    # Where it is compiled anew: a pattern that is no raw string.
    warnings.filterwarnings("ignore", "invalid escape sequence", DeprecationWarning)
    from orthanc_api_client import (
        BadFileFormat,
        ChangeType,
        Conflict,
        Forbidden,
        HttpError,
        InstancesSet,
        JobStatus,
        JobType,
        LabelsConstraint,
        OrthancApiClient,
        ResourceNotFound,
        ResourceType,
        exceptions,
    )
    from orthanc_api_client.helpers import generate_test_dicom_file, to_dicom_date
    from orthanc_api_client.logging import LogLevel
    from orthanc_api_client.retrieve_method import RetrieveMethod

SOP = "1.2.840.10008.5.1.4.1.1.104.1"


@pytest.fixture(scope="module")
def client(site: RunningServer) -> Iterator[OrthancApiClient]:
    client = OrthancApiClient(site.url)
    yield client
    client.close()


@pytest.fixture
def sent(client: OrthancApiClient) -> Sent:
    """A study of two series that is stored."""
    sent = Sent(series=2)
    for content in sent.contents():
        client.upload(content)
    return sent


# -- the server


def test_server(client: OrthancApiClient, sent: Sent) -> None:
    assert client.wait_started(5)
    assert client.is_alive()
    assert client.is_orthanc_version_at_least(1, 12, 9)
    assert not client.is_orthanc_version_at_least(2, 0)
    assert client.get_statistics().instances_count >= 6
    assert client.get_statistics().total_disk_size > 0
    assert client.has_loaded_plugin("dicom-web") is ("dicom-web" in client.get_json("plugins"))
    capabilities = client.capabilities
    assert (capabilities.has_extended_find, capabilities.has_extended_changes) == (True, True)
    assert (capabilities.has_label_support, capabilities.has_revision_support) == (True, False)
    assert int(client.get_metrics().get("orthanc_count_instances")) >= 6
    assert client.set_log_level(LogLevel.VERBOSE) == client.get_log_level() == LogLevel.VERBOSE
    assert client.set_log_level(LogLevel.DEFAULT) == LogLevel.DEFAULT
    with pytest.raises(Forbidden):
        client.execute_lua_script(b"print(1)")
    assert not OrthancApiClient("http://127.0.0.1:9").is_alive()


# -- upload


def test_upload(client: OrthancApiClient, tmp_path: Path) -> None:
    one, folder, packed = Sent(), Sent(), Sent()
    path = tmp_path / "one.dcm"
    path.write_bytes(one.contents()[0])
    assert client.upload_file(str(path)) == [one.ids[0].instance]
    assert client.upload_file(str(path)) == [one.ids[0].instance]
    folder.write(tmp_path / "folder")
    (tmp_path / "folder" / "notes.txt").write_text("nothing")
    (tmp_path / "folder" / ".hidden").write_text("nothing")
    found = client.upload_folder(str(tmp_path / "folder"), skip_extensions=[".txt"])
    assert set(found) == {ids.instance for ids in folder.ids}
    assert set(client.upload_folder(str(tmp_path / "folder"), ignore_errors=True)) == set(found)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, content in enumerate(packed.contents()):
            archive.writestr(f"{number}.dcm", content)
    assert set(client.upload(buffer.getvalue())) == {ids.instance for ids in packed.ids}
    with pytest.raises(BadFileFormat):
        client.upload(b"no DICOM")
    assert client.upload(b"no DICOM", ignore_errors=True) == []
    identifier = client.upload(generate_test_dicom_file(32, 16, {"PatientID": f"T-{new_uid()[-8:]}"}))[0]
    assert client.instances.get_tags(identifier)["Rows"] == "16"


def test_upload_of_a_folder_with_details(client: OrthancApiClient, tmp_path: Path) -> None:
    sent = Sent()
    sent.write(tmp_path)
    (tmp_path / "broken.dcm").write_bytes(sent.contents()[0][:200])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("more", sent.contents()[0])
    studies, identifiers, rejected = client.upload_folder_return_details(str(tmp_path), unzip_before_upload=True)
    assert (studies, identifiers) == ({sent.first.StudyInstanceUID}, {sent.ids[0].study})
    assert [path for path, _ in rejected] == [str(tmp_path / "broken.dcm")]


def test_upload_by_dicomweb(client: OrthancApiClient, tmp_path: Path) -> None:
    sent = Sent(images=2)
    sent.write(tmp_path)
    paths = [str(path) for path in tmp_path.rglob("*.dcm")]
    answer = client.upload_files_dicom_web(paths)
    assert len(answer["00081199"]["Value"]) == 2
    assert client.studies.lookup(sent.first.StudyInstanceUID) == sent.ids[0].study


# -- look up and find


def test_lookup(client: OrthancApiClient, sent: Sent) -> None:
    ds, ids = sent.first, sent.ids[0]
    assert client.lookup(ds.StudyInstanceUID) == [ids.study]
    assert client.lookup(ds.StudyInstanceUID, filter="Series") == []
    assert client.patients.lookup(ds.PatientID) == ids.patient
    assert client.studies.lookup(ds.StudyInstanceUID) == ids.study
    assert client.series.lookup(ds.SeriesInstanceUID) == ids.series
    assert client.instances.lookup(ds.SOPInstanceUID) == ids.instance
    assert client.studies.lookup(new_uid()) is None


def test_find(client: OrthancApiClient, sent: Sent) -> None:
    query = {"PatientID": sent.first.PatientID}
    (study,) = client.studies.find(query, requested_tags=["ModalitiesInStudy", "PatientName"])
    assert study.orthanc_id == sent.ids[0].study
    assert study.requested_tags["ModalitiesInStudy"] == "CT"
    assert study.main_dicom_tags["StudyDescription"] == "Thorax nativ"
    assert study.patient_main_dicom_tags["PatientName"] == "Müller^Änne"
    assert client.studies.find({"StudyDescription": "thorax nativ"} | query) == []
    assert len(client.studies.find({"StudyDescription": "thorax*"} | query, case_sensitive=False)) == 1
    client.studies.add_label(study.orthanc_id, "mine")
    assert len(client.studies.find(query, labels=["mine", "other"])) == 1
    assert client.studies.find(query, labels=["mine", "other"], labels_constraint=LabelsConstraint.ALL) == []
    assert client.studies.find(query, labels=["mine"], labels_constraint=LabelsConstraint.NONE) == []
    (patient,) = client.patients.find(query)
    assert patient.orthanc_id == sent.ids[0].patient
    other = Sent(attributes={"PatientID": sent.first.PatientID, "StudyDate": "20230101"})
    client.upload(other.contents()[0])
    order = [{"Type": "DicomTag", "Key": "StudyDate", "Direction": "DESC"}]
    found = client.studies.find(query, order_by=order)
    assert [each.main_dicom_tags["StudyDate"] for each in found] == ["20240131", "20230101"]
    (second,) = client.studies.find(query, order_by=order, since=1, limit=1)
    assert second.orthanc_id == found[1].orthanc_id


# -- resources


def test_resources(client: OrthancApiClient, sent: Sent) -> None:
    ids = sent.ids[0]
    instances = {each.instance for each in sent.ids}
    assert ids.study in client.studies.get_all_ids()
    assert ids.patient in client.patients.get_all_ids()
    assert client.studies.exists(ids.study)
    assert not client.studies.exists(ids.series)
    assert set(client.studies.get_instances_ids(ids.study)) == instances
    assert set(client.patients.get_instances_ids(ids.patient)) == instances
    assert {each.orthanc_id for each in client.studies.get_instances(ids.study)} == instances
    assert client.studies.get_instances(ids.study)[0].get_metadata("TransferSyntax") == "1.2.840.10008.1.2.1"
    assert client.instances.get(ids.instance).get_metadata("SopClassUid") == sent.first.SOPClassUID
    assert client.studies.get_modalities(ids.study) == client.patients.get_modalities(ids.patient) == {"CT"}
    assert client.studies.get_parent_patient_id(ids.study) == client.series.get_parent_patient_id(ids.series)
    assert client.series.get_parent_study_id(ids.series) == client.instances.get_parent_study_id(ids.instance)
    assert client.instances.get_parent_series_id(ids.instance) == ids.series
    assert client.instances.get_parent_patient_id(ids.instance) == ids.patient
    assert client.patients.get_studies_ids(ids.patient) == [ids.study]
    assert client.studies.get_first_instance_tags(ids.study)["0008,0060"] == "CT"
    assert client.series.get_tags(ids.series)["SeriesDescription"] == "Axial"
    assert "PatientName" in client.patients.get_tags(ids.patient)


def test_objects(client: OrthancApiClient, sent: Sent) -> None:
    ids = sent.ids[0]
    patient, study = client.patients.get(ids.patient), client.studies.get(ids.study)
    assert (patient.dicom_id, patient.main_dicom_tags["PatientSex"]) == (sent.first.PatientID, "F")
    assert (patient.statistics.instances_count, patient.statistics.series_count) == (6, 2)
    assert (study.dicom_id, study.info.patient_orthanc_id) == (sent.first.StudyInstanceUID, ids.patient)
    assert (study.statistics.instances_count, study.statistics.series_count) == (6, 2)
    assert study.statistics.disk_size == sum(len(each) for each in sent.contents())
    assert {each.orthanc_id for each in study.series} == {each.series for each in sent.ids}
    assert isinstance(study.last_update, dt.datetime)
    assert isinstance(patient.last_update, dt.datetime)
    assert study.is_stable is False
    series = client.series.get(ids.series)
    assert (series.dicom_id, series.statistics.instances_count) == (sent.first.SeriesInstanceUID, 3)
    assert series.study.orthanc_id == ids.study
    assert len(series.instances) == 3
    instance = client.instances.get(ids.instance)
    assert (instance.dicom_id, instance.series.orthanc_id) == (sent.first.SOPInstanceUID, ids.series)
    assert instance.tags["PatientName"] == "Müller^Änne"
    assert instance.labels == study.labels == series.labels == patient.labels == []


def test_sequences_of_tags(client: OrthancApiClient) -> None:
    inner = dataset()
    del inner.PixelData
    ds = dataset(PatientID=f"S-{new_uid()[-8:]}", RequestAttributesSequence=[inner], OtherPatientIDs="")
    tags = client.instances.get(client.upload(encoded(ds))[0]).tags
    assert tags["RequestAttributesSequence"][0]["PatientName"] == "Müller^Änne"
    assert "OtherPatientIDs" in tags


def test_ordered_slices_and_previews(client: OrthancApiClient, sent: Sent) -> None:
    series = sent.ids[0].series
    ordered = client.series.get_ordered_instances_ids(series)
    assert ordered == [ids.instance for ids in reversed(sent.ids[:3])]  # by position, which falls with the number
    assert client.series.get_middle_instance_id(series) == sent.ids[1].instance
    assert Image.open(io.BytesIO(client.series.get_preview_file(series))).format == "PNG"
    assert Image.open(io.BytesIO(client.series.get_preview_file(series, jpeg_format=True))).format == "JPEG"
    report = client.upload(ct(SOPClassUID=SOP, PixelData=None, Rows=None, PatientID=f"R-{new_uid()[-8:]}"))[0]
    with pytest.raises(HttpError) as refused:
        client.series.get_preview_file(client.instances.get_parent_series_id(report), return_unsupported_image=False)
    assert refused.value.http_status_code == 415
    picture = client.series.get_preview_file(client.instances.get_parent_series_id(report))
    assert Image.open(io.BytesIO(picture)).format == "PNG"


def test_pdf(client: OrthancApiClient, tmp_path: Path) -> None:
    document = b"%PDF-1.4 test\n"
    ds = dataset(SOPClassUID=SOP, PatientID=f"R-{new_uid()[-8:]}", Modality="DOC", PixelData=None)
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, name)
    ds.MIMETypeOfEncapsulatedDocument, ds.EncapsulatedDocument = "application/pdf", document
    identifier = client.upload(encoded(ds))[0]
    study = client.instances.get_parent_study_id(identifier)
    assert client.instances.is_pdf(identifier)
    assert client.studies.get_pdf_instances(study) == [identifier]
    client.instances.download_pdf(identifier, str(tmp_path / "a.pdf"))
    assert (tmp_path / "a.pdf").read_bytes() == document


def test_created(client: OrthancApiClient, sent: Sent, tmp_path: Path) -> None:
    study = sent.ids[0].study
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 test\n")
    report = client.studies.attach_pdf(
        study, str(tmp_path / "a.pdf"), "Report", dt.datetime(2026, 1, 10, 10, 15, tzinfo=dt.UTC)
    )
    assert client.instances.get_parent_study_id(report) == study
    assert client.instances.get_tags(report)["SeriesDate"] == "20260110"
    assert client.studies.get_pdf_instances(study) == [report]
    colours = Image.effect_mandelbrot((20, 10), (-2, -1, 1, 1), 9).convert("RGB")
    colours.save(tmp_path / "a.png")
    tags = {"PatientID": f"C-{new_uid()[-8:]}", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}
    picture = client.create_instance_from_png(str(tmp_path / "a.png"), tags)
    ds = dcmread(io.BytesIO(client.instances.get_file(picture)))
    assert ds.PixelData == colours.tobytes()


# -- labels, metadata, attachments


def test_labels(client: OrthancApiClient, sent: Sent) -> None:
    ids = sent.ids[0]
    for level, identifier in _levels(client, ids):
        level.add_labels(identifier, ["a", "b-1", "C_2"])
        assert level.get_labels(identifier) == ["C_2", "a", "b-1"]
        assert level.get(identifier).labels == ["C_2", "a", "b-1"]
        level.delete_labels(identifier, ["a", "C_2", "never"])
        assert level.get_labels(identifier) == ["b-1"]
    assert "b-1" in client.get_all_labels()


def test_metadata(client: OrthancApiClient, sent: Sent, tmp_path: Path) -> None:
    for level, identifier in _levels(client, sent.ids[0]):
        assert not level.has_metadata(identifier, "Reviewer")
        assert level.get_string_metadata(identifier, "Reviewer", "nobody") == "nobody"
        level.set_string_metadata(identifier, "Reviewer", "Änne")
        assert level.has_metadata(identifier, "Reviewer")
        assert level.get_string_metadata(identifier, "1024") == "Änne"
        content, revision = level.get_string_metadata_with_revision(identifier, "Reviewer")
        level.set_string_metadata(identifier, "Reviewer", "Ben", match_revision=revision)
        with pytest.raises(Conflict):
            level.set_string_metadata(identifier, "Reviewer", "Cem", match_revision=revision)
        assert (content, level.get_binary_metadata(identifier, "Reviewer")) == ("Änne", b"Ben")
    (tmp_path / "m").write_bytes(b"from a file")
    client.series.set_binary_metadata(sent.ids[0].series, "1100", path=str(tmp_path / "m"))
    assert client.series.get_string_metadata(sent.ids[0].series, "1100") == "from a file"
    assert client.instances.get_metadata(sent.ids[0].instance)["Reviewer"] == "Ben"


def test_attachments(client: OrthancApiClient, sent: Sent, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for level, identifier in _levels(client, sent.ids[0]):
        path.write_bytes(b"first")
        level.set_attachment(identifier, "report", path=str(path), content_type="application/pdf")
        content, revision = level.get_attachment_with_revision(identifier, "report")
        level.set_attachment(identifier, "report", content=b"second", match_revision=revision)
        with pytest.raises(Conflict):
            level.set_attachment(identifier, "report", content=b"third", match_revision=revision)
        assert (content, level.get_attachment(identifier, "report")) == (b"first", b"second")
        level.download_attachment(identifier, "report", str(path))
        assert path.read_bytes() == b"second"
    with pytest.raises(ResourceNotFound):
        client.studies.get_attachment(sent.ids[0].study, "1200")


def test_checked_revisions(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", workers=1, check_revisions="true", user_metadata="m=1024") as server:
        client = OrthancApiClient(server.url)
        assert client.capabilities.has_revision_support
        identifier = client.upload(ct())[0]
        client.instances.set_string_metadata(identifier, "m", "1")
        with pytest.raises(Conflict):
            client.instances.set_string_metadata(identifier, "m", "2")
        _, revision = client.instances.get_string_metadata_with_revision(identifier, "m")
        client.instances.set_string_metadata(identifier, "m", "2", match_revision=revision)
        assert client.instances.get_string_metadata(identifier, "m") == "2"
        client.delete_all_content()
        assert client.instances.get_all_ids() == []
        client.close()


def _levels(client: OrthancApiClient, ids: Any) -> list[tuple[Any, str]]:
    return [
        (client.patients, ids.patient),
        (client.studies, ids.study),
        (client.series, ids.series),
        (client.instances, ids.instance),
    ]


# -- modifications


def test_anonymize(client: OrthancApiClient, sent: Sent) -> None:
    ids = sent.ids[0]
    names = {"PatientName": "A", "PatientID": f"AN-{new_uid()[-8:]}"}
    made = client.studies.anonymize(ids.study, names, delete_original=False, force=True)
    study = client.studies.get(made)
    assert study.patient_main_dicom_tags["PatientName"] == "A"
    assert client.instances.get_tags(study.series[0].instances[0].orthanc_id)["PatientIdentityRemoved"] == "YES"
    series = client.series.anonymize(ids.series, delete_original=True)
    assert client.series.exists(series)
    assert not client.series.exists(ids.series)
    patient = client.patients.anonymize(ids.patient, keep_tags=["StudyDescription"], delete_original=True)
    assert client.patients.exists(patient)
    assert not client.patients.exists(ids.patient)


def test_modify(client: OrthancApiClient, sent: Sent) -> None:
    ids = sent.ids[0]
    made = client.studies.modify(
        ids.study, {"StudyDescription": "Anders"}, remove_tags=["AccessionNumber"], delete_original=False
    )
    assert client.studies.get(made).main_dicom_tags["StudyDescription"] == "Anders"
    keep = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    assert client.studies.modify(ids.study, {"StudyID": "S2"}, keep_tags=keep, force=True) == ids.study
    assert client.studies.get(ids.study).main_dicom_tags["StudyID"] == "S2"
    series = client.series.modify(ids.series, {"SeriesDescription": "Neu"})
    assert client.series.get(series).main_dicom_tags["SeriesDescription"] == "Neu"
    assert not client.series.exists(ids.series)
    patient = client.patients.modify(ids.patient, {"PatientID": f"N-{new_uid()[-8:]}"}, force=True)
    assert client.patients.exists(patient)
    assert not client.patients.exists(ids.patient)
    instance = client.patients.get_first_instance_id(patient)
    assert dcmread(io.BytesIO(client.instances.modify(instance, {"PatientName": "X"}))).PatientName == "X"


def test_bulk(client: OrthancApiClient, sent: Sent) -> None:
    ids, other = sent.ids[0], Sent(images=1)
    client.upload(other.contents()[0])
    instances, series, studies, patients = client.studies.anonymize_bulk([ids.study, other.ids[0].study])
    assert (len(instances), len(series), len(studies), len(patients)) == (7, 3, 2, 2)
    assert all(client.instances.get_tags(each)["PatientIdentityRemoved"] == "YES" for each in instances)
    found = client.studies.modify_bulk([ids.study], {"StudyDescription": "Bulk"}, delete_original=False)
    assert [len(each) for each in found] == [6, 2, 1, 1]
    assert client.studies.get(found[2][0]).main_dicom_tags["StudyDescription"] == "Bulk"
    job = client.series.modify_bulk_async([ids.series], {"SeriesDescription": "Job"})
    assert job.wait_completed(timeout=30, polling_interval=0.1)
    assert (job.info.status, job.info.type) == (JobStatus.SUCCESS, JobType.RESOURCE_MODIFICATION)
    assert not client.series.exists(ids.series)
    assert client.jobs.get(job.orthanc_id).refresh().content["FailedInstancesCount"] == 0
    assert job.orthanc_id in client.get_json("jobs")


def test_set_of_instances(client: OrthancApiClient, sent: Sent, tmp_path: Path) -> None:
    found = InstancesSet.from_study(client, sent.ids[0].study)
    found.download_archive(str(tmp_path / "archive.zip"))
    found.download_media(str(tmp_path / "media.zip"))
    assert len(zipfile.ZipFile(tmp_path / "archive.zip").namelist()) == 6
    assert "DICOMDIR" in zipfile.ZipFile(tmp_path / "media.zip").namelist()
    assert set(found.instances_ids) == {ids.instance for ids in sent.ids}
    removed = found.filter_instances(lambda api, each: api.instances.get(each).tags["InstanceNumber"] != "3")
    assert (len(found.instances_ids), len(removed.instances_ids)) == (4, 2)
    made = found.modify({"InstitutionName": "Elsewhere"}, keep_source=True)
    assert made is not None
    assert len(made.instances_ids) == 4
    assert client.instances.get_tags(made.instances_ids[0])["InstitutionName"] == "Elsewhere"
    found.delete()
    left = client.studies.get_instances_ids(sent.ids[0].study)  # where what was modified is, too
    assert set(left) == {*removed.instances_ids, *made.instances_ids}


def test_merge(client: OrthancApiClient, sent: Sent) -> None:
    other = Sent(images=1)
    client.upload(other.contents()[0])
    client.studies.merge(sent.ids[0].study, other.ids[0].series, keep_source=False)
    assert len(client.studies.get_series_ids(sent.ids[0].study)) == 3
    assert not client.studies.exists(other.ids[0].study)


# -- downloads


def test_downloads(client: OrthancApiClient, sent: Sent, tmp_path: Path) -> None:
    ids, contents = sent.ids[0], sorted(sent.contents())
    assert client.instances.get_file(ids.instance) == sent.contents()[0]
    for level, identifier in _levels(client, ids)[:2]:
        folder = tmp_path / identifier
        folder.mkdir()
        found = level.download_instances(identifier, str(folder))
        assert sorted(Path(each.path).read_bytes() for each in found) == contents
        level.download_archive(identifier, str(folder / "a.zip"))
        with zipfile.ZipFile(folder / "a.zip") as archive:
            assert sorted(archive.read(name) for name in archive.namelist()) == contents
        level.download_media(identifier, str(folder / "m.zip"))
        with zipfile.ZipFile(folder / "m.zip") as archive:
            assert "DICOMDIR" in archive.namelist()
    (tmp_path / "series").mkdir()
    assert len(client.series.download_instances(ids.series, str(tmp_path / "series"))) == 3


# -- changes, deletion


def test_changes(client: OrthancApiClient, sent: Sent) -> None:
    found, last, done = [], 0, False
    while not done:
        page, last, done = client.get_changes(since=last, limit=100)
        found += page
    mine = [each for each in found if each.resource_id == sent.ids[0].study]
    assert [(each.change_type, each.resource_type) for each in mine] == [(ChangeType.NEW_STUDY, ResourceType.STUDY)]
    assert mine[0].sequence_id <= last
    assert abs(mine[0].timestamp - dt.datetime.now(dt.UTC).replace(tzinfo=None)).total_seconds() < 600


def test_statistics_by_day(client: OrthancApiClient, sent: Sent, capsys: pytest.CaptureFixture[str]) -> None:
    day = dt.date(2024, 1, 31)
    client.studies.print_daily_stats(day, day)
    assert f"{day} - " in capsys.readouterr().out
    assert to_dicom_date(day) == sent.first.StudyDate


def test_delete(client: OrthancApiClient, sent: Sent) -> None:
    ids = sent.ids
    client.instances.delete(orthanc_ids=[each.instance for each in ids[:2]])
    assert client.series.get_instances_ids(ids[0].series) == [ids[2].instance]
    client.series.delete(ids[0].series)
    client.patients.delete(ids[0].patient)
    with pytest.raises(ResourceNotFound):
        client.studies.delete(ids[0].study)
    client.studies.delete(ids[0].study, ignore_errors=True)


# -- worklists and modalities


def test_worklists(client: OrthancApiClient) -> None:
    step = {"Modality": "CT", "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20300101"}
    identifier = client.worklists.create(
        {"PatientID": f"W-{new_uid()[-8:]}", "PatientName": "Wait^Ina", "ScheduledProcedureStepSequence": [step]}
    )
    assert identifier in client.worklists.get_all_ids()
    assert client.worklists.get(identifier)["ID"] == identifier
    client.worklists.delete(identifier)
    assert identifier not in client.worklists.get_all_ids()


def test_modalities(client: OrthancApiClient, partner: peer.Orthanc, sent: Sent) -> None:
    modalities, study = client.modalities, sent.first.StudyInstanceUID
    assert modalities.get_id_from_aet("PARTNER") == "partner"
    assert modalities.get_configuration("partner")["Port"] == partner.dimse_port
    modalities.configure("other", {"AET": "OTHER", "Host": "localhost", "Port": 104})
    assert "other" in modalities.get_all_ids()
    modalities.delete("other")
    with pytest.raises(ResourceNotFound):
        modalities.get_configuration("other")
    job = modalities.send_async("partner", [sent.ids[0].series])
    assert job.wait_completed(30, 0.1)
    assert job.info.type == JobType.DICOM_MODALITY_STORE
    modalities.send("partner", sent.ids[0].study, timeout=10, local_aet="ANOR")
    assert sent.ids[0].study in partner.request("GET", "/studies")
    (found,) = modalities.query_studies("partner", {"StudyInstanceUID": study, "PatientName": ""})
    assert (found.dicom_id, found.tags["PatientName"]) == (study, "Müller^Änne")
    assert len(modalities.query_series("partner", {"StudyInstanceUID": study})) == 2
    series = sent.first.SeriesInstanceUID
    assert len(modalities.query_instances("partner", {"StudyInstanceUID": study, "SeriesInstanceUID": series})) == 3
    for method in (RetrieveMethod.MOVE, RetrieveMethod.GET):
        client.studies.delete(sent.ids[0].study)
        assert modalities.retrieve_study("partner", study, method) == sent.ids[0].study
        assert len(client.studies.get_instances_ids(sent.ids[0].study)) == 6
    client.studies.delete(sent.ids[0].study)
    modalities.get_instance("partner", sent.first.SOPInstanceUID, series, study)
    assert client.instances.get_all_ids().count(sent.ids[0].instance) == 1
    modalities.move_series("partner", series, study, "ANOR")
    assert len(client.series.get_instances_ids(sent.ids[0].series)) == 3
    job = modalities.move_study_async("partner", study, "ANOR")
    assert job.wait_completed(30, 0.1)
    assert job.info.status == JobStatus.SUCCESS, json.dumps(job.content)
    job = modalities.get_study_async("partner", study)
    assert job.wait_completed(30, 0.1)
    assert job.info.status == JobStatus.SUCCESS, json.dumps(job.content)


def test_peers(client: OrthancApiClient, partner: peer.Orthanc, sent: Sent) -> None:
    client.put("peers/partner", json={"Url": partner.url})
    client.peers.send("partner", [sent.ids[0].series])
    client.peers.send_async("partner", sent.ids[-1].series).wait_completed(timeout=60)
    there = partner.request("GET", "/instances")
    assert {each.instance for each in sent.ids} <= set(there)


def test_modality_that_is_down(client: OrthancApiClient, sent: Sent) -> None:
    client.modalities.configure("down", {"AET": "DOWN", "Host": "127.0.0.1", "Port": 9, "Timeout": 1})
    with pytest.raises(HttpError) as failed:
        client.modalities.send("down", sent.ids[0].study)
    assert failed.value.http_status_code == 500
    with pytest.raises(HttpError):
        client.modalities.query_studies("down", {"PatientID": "x"})
    job = client.modalities.send_async("down", sent.ids[0].study)
    assert job.wait_completed(60, 0.1)
    assert job.info.status == JobStatus.FAILURE
    client.jobs.retry(job.orthanc_id)
    client.jobs.cancel(job.orthanc_id)
    deadline = time.monotonic() + 30
    while not job.is_complete():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.modalities.delete("down")
    assert issubclass(HttpError, exceptions.OrthancApiException)
