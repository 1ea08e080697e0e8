"""pyorthanc as a client: what scripts do with it, against a running server.

What runs within Orthanc and its Python plugin (`get_internal_client`, `orthanc_sdk`) is not here; nor what asks for a
path that no server has (`get_tools_generate_uid`, `post_tools_invalid_ate_tags`), nor `find` with an `AsyncOrthanc`,
which leaves its connections open.
"""

import asyncio
import io
import json
import time
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydicom import dcmread
from pyorthanc import (
    AsyncOrthanc,
    Instance,
    Job,
    Modality,
    Orthanc,
    Patient,
    Series,
    Study,
    async_upload,
    delete_queries,
    errors,
    find,
    find_instances,
    find_patients,
    find_series,
    find_studies,
    query_orthanc,
    retrieve_and_write_patients,
    upload,
    util,
)
from pyorthanc._orthanc_sdk_enums import ErrorCode
from pyorthanc.jobs import State

from tests import orthanc as peer
from tests.files import new_uid
from tests.http.sites import Sent
from tests.support import RunningServer

# pyorthanc gives httpx texts as `data`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning:httpx")


@pytest.fixture(scope="module")
def client(site: RunningServer) -> Iterator[Orthanc]:
    with Orthanc(site.url, timeout=60) as client:
        yield client


@pytest.fixture
def sent(client: Orthanc) -> Sent:
    """A study that is stored."""
    sent = Sent()
    for content in sent.contents():
        assert client.post_instances(content)["Status"] == "Success"
    return sent


def _study(client: Orthanc, sent: Sent) -> Study:
    return Study(sent.ids[0].study, client)


def _at(date: str, time: str = "000000") -> datetime:
    """What pyorthanc makes of a date and time of DICOM: no zone is known."""
    return datetime.strptime(date + time, "%Y%m%d%H%M%S")  # noqa: DTZ007


# -- upload


def test_upload_of_a_file_a_folder_a_zip_and_a_data_set(client: Orthanc, tmp_path: Path) -> None:
    one, folder, packed, made = Sent(), Sent(), Sent(), Sent(images=1)
    path = tmp_path / "one.dcm"
    path.write_bytes(one.contents()[0])
    assert [each.id_ for each in upload(client, str(path))] == [one.ids[0].instance]
    assert upload(client, path, check_before_upload=True)[0].uid == one.first.SOPInstanceUID
    found = upload(client, folder.write(tmp_path / "folder"), recursive=True)
    assert {each.id_ for each in found} == {ids.instance for ids in folder.ids}
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for number, content in enumerate(packed.contents()):
            archive.writestr(f"deep/{number}", content)
    found = upload(client, tmp_path / "packed.zip")
    assert {each.id_ for each in found} == {ids.instance for ids in packed.ids}
    made.contents()
    assert upload(client, made.first)[0].id_ == made.ids[0].instance
    with pytest.raises(httpx.HTTPError, match="Bad file format"):
        client.post_instances(b"no DICOM")


def test_asynchronous_client(site: RunningServer) -> None:
    async def run() -> None:
        sent = Sent(images=1)
        path_of = sent.first
        sent.contents()
        async with AsyncOrthanc(site.url, timeout=60) as client:
            assert (await async_upload(client, path_of))["ID"] == sent.ids[0].instance
            answers = await asyncio.gather(*(client.get_studies_id(sent.ids[0].study) for _ in range(5)))
            assert {each["ID"] for each in answers} == {sent.ids[0].study}

    asyncio.run(run())


# -- find


def test_find(client: Orthanc, sent: Sent) -> None:
    ids = sent.ids[0]
    query = {"PatientID": sent.first.PatientID}
    (patient,) = find_patients(client, query)
    (study,) = find_studies(client, query | {"StudyDate": "20240101-20241231", "StudyDescription": "Thorax*"})
    (series,) = find_series(client, query | {"Modality": "CT"}, retrieve_all_resources=False)
    assert (patient.id_, study.id_, series.id_) == (ids.patient, ids.study, ids.series)
    found = find_instances(client, query, limit=2)  # two pages and an empty one
    assert {each.id_ for each in found} == {each.instance for each in sent.ids}
    assert find_studies(client, query | {"StudyDate": "19990101"}) == []
    study.add_label("checked")
    assert find_studies(client, query, labels="checked") == [study]
    assert find_studies(client, query, labels=["checked"], labels_constraint="None") == []
    assert query_orthanc(client, "Study", query, labels=["checked", "other"], labels_constraint="Any") == [study]
    (locked,) = query_orthanc(client, "Series", query, lock_children=True)
    assert locked.instances is locked.instances


def test_find_with_filters(client: Orthanc, sent: Sent) -> None:
    (patient,) = find(
        client,
        patient_filter=lambda patient: patient.patient_id == sent.first.PatientID,
        study_filter=lambda study: study.description == "Thorax nativ",
        series_filter=lambda series: series.modality == "CT",
        instance_filter=lambda instance: instance.instance_number == 2,
    )
    assert [each.id_ for each in patient.studies[0].series[0].instances] == [sent.ids[1].instance]
    assert find(client, patient_filter=lambda patient: patient.patient_id == "nobody") == []


# -- resources and their properties


def test_patient(client: Orthanc, sent: Sent) -> None:
    patient = Patient(sent.ids[0].patient, client)
    assert (patient.patient_id, patient.name, patient.sex) == (sent.first.PatientID, "Müller^Änne", "F")
    assert patient.birth_date == _at("19700203")
    assert patient.get_main_information()["Studies"] == [sent.ids[0].study]
    assert isinstance(patient.last_update, datetime)
    assert patient.is_stable is False
    assert [each.id_ for each in patient.studies] == [sent.ids[0].study]
    assert patient.get_patient_module(simplify=True)["PatientName"] == "Müller^Änne"
    assert patient.get_patient_module(short=True)["0010,0040"] == "F"
    assert patient.shared_tags["PatientID"] == sent.first.PatientID
    assert patient.protected is False
    patient.protected = True
    assert patient.protected is True
    patient.protected = False
    assert patient.protected is False
    assert patient.other_patient_ids == ["X1", "X2"]


def test_study(client: Orthanc, sent: Sent) -> None:
    study = _study(client, sent)
    assert study.uid == sent.first.StudyInstanceUID
    assert study.date == _at("20240131", "101530")
    assert (study.study_id, study.accession_number, study.description) == ("S1", "A-1", "Thorax nativ")
    assert (study.institution_name, study.referring_physician_name) == ("Klinik", "Referrer^Ruth")
    assert (study.requesting_physician, study.requested_procedure_description) == ("Asker^Ada", "CT Thorax")
    assert study.parent_patient.id_ == study.patient_identifier == sent.ids[0].patient
    assert study.patient_information["PatientName"] == "Müller^Änne"
    assert [each.id_ for each in study.series] == [sent.ids[0].series]
    assert study.shared_tags["Manufacturer"] == "Maker"
    assert study.get_shared_tags(short=True)["0008,0060"] == "CT"
    assert study.get_shared_tags()["0008,0060"] == {"Name": "Modality", "Type": "String", "Value": "CT"}
    assert isinstance(study.last_update, datetime)
    assert study.is_stable is False
    assert str(study) == f"Study({study.id_})"


def test_series(client: Orthanc, sent: Sent) -> None:
    series = Series(sent.ids[0].series, client)
    assert series.uid == sent.first.SeriesInstanceUID
    assert series.date == _at("20240131", "101600")
    assert (series.modality, series.manufacturer, series.series_number) == ("CT", "Maker", 1)
    assert (series.description, series.protocol_name, series.station_name) == ("Axial", "Chest", "CT-7")
    assert (series.body_part_examined, series.sequence_name, series.operators_name) == ("CHEST", "seq", "Op^Ina")
    assert (series.series_type, series.contrast_bolus_agent) == ("STATIC\\IMAGE", "none")
    assert series.performed_procedure_step_description == "Chest CT"
    assert series.acquisition_device_processing_description == "plain"
    assert (series.cardiac_number_of_images, series.images_in_acquisition, series.number_of_slices) == (4, 3, 3)
    assert (series.number_of_temporal_positions, series.number_of_time_slices) == (1, 1)
    assert series.image_orientation_patient == [1, 0, 0, 0, 1, 0]
    assert (series.parent_study.id_, series.parent_patient.id_) == (sent.ids[0].study, sent.ids[0].patient)
    assert {each.id_ for each in series.instances} == {each.instance for each in sent.ids}
    assert series.shared_tags["Modality"] == "CT"
    assert isinstance(series.last_update, datetime)
    assert series.is_stable is False


def test_instance(client: Orthanc, sent: Sent, tmp_path: Path) -> None:
    instance = Instance(sent.ids[1].instance, client)
    content = sent.contents()[1]
    assert instance.uid == sent.files[1].SOPInstanceUID
    assert instance.file_size == len(content)
    assert instance.creation_date == _at("20240131", "101500")
    assert (instance.acquisition_number, instance.image_index, instance.instance_number) == (3, 2, 2)
    assert (instance.number_of_frames, instance.temporal_position_identifier) == (1, "2")
    assert (instance.image_position_patient, instance.image_comments) == ([1.5, -2, -20], "still")
    assert instance.image_orientation_patient == [1, 0, 0, 0, 1, 0]
    assert instance.series_identifier == instance.parent_series.id_ == sent.ids[0].series
    assert (instance.parent_study.id_, instance.parent_patient.id_) == (sent.ids[0].study, sent.ids[0].patient)
    assert instance.tags["0010,0010"] == {"Name": "PatientName", "Type": "String", "Value": "Müller^Änne"}
    assert instance.simplified_tags["SeriesDescription"] == "Axial"
    assert instance.get_content_by_tag("StudyDescription") == "Thorax nativ"
    assert instance.get_content_by_tag("0008-0060") == "CT"
    assert "0008-0060" in instance.get_content_by_tag("")
    assert instance.get_dicom_file_content() == content
    assert instance.get_pydicom() == dcmread(io.BytesIO(content))
    instance.download(str(tmp_path / "one.dcm"))
    assert (tmp_path / "one.dcm").read_bytes() == content
    buffer = io.BytesIO()
    instance.download(buffer)
    assert buffer.getvalue() == content


def test_images(client: Orthanc, sent: Sent) -> None:
    identifier = sent.ids[0].instance
    for picture in (
        client.get_instances_id_preview(identifier),
        client.get_instances_id_rendered(identifier, params={"window-center": 8, "window-width": 16}),
        client.get_instances_id_frames_frame_image_uint8(frame="0", id_=identifier),
        client.get_instances_id_image_uint16(identifier),
    ):
        assert Image.open(io.BytesIO(picture)).size == (4, 4)
    jpeg = client.get_instances_id_preview(identifier, headers={"Accept": "image/jpeg"})
    assert Image.open(io.BytesIO(jpeg)).format == "JPEG"
    assert client.get_instances_id_frames(identifier) == [0]
    assert client.get_instances_id_frames_frame_raw(frame="0", id_=identifier) == sent.first.PixelData
    assert client.get_instances_id_header(identifier, params={"simplify": True})["TransferSyntaxUID"]


def test_identifiers(sent: Sent) -> None:
    ds, ids = sent.first, sent.ids[0]
    assert util.to_orthanc_patient_id(ds.PatientID) == ids.patient
    assert util.to_orthanc_study_id(ds.PatientID, ds.StudyInstanceUID) == ids.study
    assert util.to_orthanc_series_id(ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID) == ids.series
    assert util.to_orthanc_instance_id_from_ds(ds) == ids.instance


# -- labels, metadata, attachments


def test_labels(client: Orthanc, sent: Sent) -> None:
    ids = sent.ids[0]
    for resource in (Patient(ids.patient, client), Study(ids.study, client), Series(ids.series, client),
                     Instance(ids.instance, client)):  # fmt: skip
        resource.add_label("seen")
        resource.add_label("seen")
        resource.add_label("A_b-1")
        assert resource.labels == ["A_b-1", "seen"]
        resource.remove_label("A_b-1")
        assert resource.labels == ["seen"]
    assert "seen" in client.get_tools_labels()
    with pytest.raises(httpx.HTTPError, match="400"):
        Study(ids.study, client).add_label("no label")


def test_metadata(client: Orthanc, sent: Sent) -> None:
    study, instance = sent.ids[0].study, sent.ids[0].instance
    client.put_studies_id_metadata_name(study, "Reviewer", "Änne")
    client.put_studies_id_metadata_name(study, "1030", "x")
    assert client.get_studies_id_metadata_name(study, "Reviewer") == "Änne"
    assert client.get_studies_id_metadata(study, params={"expand": True})["1030"] == "x"
    assert {"Reviewer", "1030", "LastUpdate"} <= set(client.get_studies_id_metadata(study))
    client.delete_studies_id_metadata_name(study, "1030")
    with pytest.raises(httpx.HTTPError, match="404"):
        client.get_studies_id_metadata_name(study, "1030")
    with pytest.raises(httpx.HTTPError, match="403"):
        client.put_instances_id_metadata_name(instance, "ReceptionDate", "now")
    assert client.get_instances_id_metadata_name(instance, "TransferSyntax") == "1.2.840.10008.1.2.1"


def test_attachments(client: Orthanc, sent: Sent) -> None:
    study, instance = sent.ids[0].study, sent.ids[0].instance
    content = bytes(range(256)) * 40
    assert client.put_studies_id_attachments_name(study, "report", content) == {}
    assert client.get_studies_id_attachments(study) == ["report"]
    assert client.get_studies_id_attachments(study, params={"full": True}) == {"report": 1024}
    assert client.get_studies_id_attachments_name_data(study, "report") == content
    part = client.get_studies_id_attachments_name_data(study, "1024", headers={"Range": "bytes=1-3"})
    assert part == content[1:4]
    assert int(client.get_studies_id_attachments_name_size(study, "report")) == len(content)
    assert client.get_studies_id_attachments_name_is_compressed(study, "report") == "0"
    assert client.post_studies_id_attachments_name_verify_md5(study, "report") == {}
    client.post_studies_id_attachments_name_compress(study, "report")
    client.post_studies_id_attachments_name_uncompress(study, "report")
    assert client.get_studies_id_attachments_name_compressed_data(study, "report") == content
    client.delete_studies_id_attachments_name(study, "report")
    assert client.get_studies_id_attachments(study) == []
    assert client.get_instances_id_attachments_name_data(instance, "dicom") == sent.contents()[0]


# -- modifications


def test_modify(client: Orthanc, sent: Sent) -> None:
    study = _study(client, sent)
    made = study.modify(replace={"StudyDescription": "Anders"}, remove=["AccessionNumber"])
    assert (made.description, made.uid == study.uid) == ("Anders", False)
    assert study.description == "Thorax nativ"
    uid = new_uid()
    with pytest.raises(errors.ModificationError):
        study.modify(replace={"StudyInstanceUID": uid})
    assert study.modify(replace={"StudyInstanceUID": uid}, force=True).uid == uid
    keep = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    same = study.modify(replace={"ReferringPhysicianName": "last^first"}, keep=keep, force=True)
    assert (same.id_, study.referring_physician_name) == (study.id_, "last^first")
    assert study.get_main_information()["Series"] == [sent.ids[0].series]
    series = study.series[0].modify(replace={"SeriesDescription": "Neu"})
    assert (series.description, series.parent_study.id_) == ("Neu", study.id_)
    patient = study.parent_patient.modify(replace={"PatientID": f"N-{uid[-8:]}"}, force=True)
    assert patient.patient_id == f"N-{uid[-8:]}"
    content = Instance(sent.ids[0].instance, client).modify(replace={"PatientName": "X^Y"})
    assert dcmread(io.BytesIO(content)).PatientName == "X^Y"


def test_modify_as_job(client: Orthanc, sent: Sent) -> None:
    study = _study(client, sent)
    job = study.modify_as_job(replace={"StudyDescription": "Anders"}, priority=5)
    _wait(job)
    assert Study(job.content["ID"], client).description == "Anders"
    assert (job.type, job.priority, job.progress, job.error) == ("ResourceModification", 5, 100, ErrorCode.SUCCESS)
    assert not job.error_details
    assert isinstance(job.creation_time, datetime)
    assert job.creation_time <= job.completion_time <= job.timestamp
    assert job.effective_runtime >= 0
    assert job.id_ in client.get_jobs()
    series = study.series[0].modify_as_job(replace={"SeriesDescription": "Neu"})
    patient = study.parent_patient.modify_as_job(replace={"PatientID": f"N-{new_uid()[-8:]}"}, force=True)
    _wait(series)
    _wait(patient)


def test_anonymize(client: Orthanc, sent: Sent) -> None:
    study = _study(client, sent)
    made = study.anonymize(replace={"StudyDescription": "Study 7"}, keep=["SeriesDescription"])
    assert (made.description, made.series[0].description) == ("Study 7", "Axial")
    assert made.get_main_information()["AnonymizedFrom"] == study.id_
    patient = made.parent_patient
    assert patient.name.startswith("Anonymized")
    assert patient.patient_id != sent.first.PatientID
    assert study.series[0].anonymize().uid != sent.first.SeriesInstanceUID
    named = study.parent_patient.anonymize(keep=["PatientName"], replace={"PatientID": "THE-NEW"}, force=True)
    assert (named.patient_id, named.name) == ("THE-NEW", "Müller^Änne")
    content = Instance(sent.ids[0].instance, client).anonymize(replace={"PatientName": "N"})
    ds = dcmread(io.BytesIO(content))
    assert (ds.PatientName, ds.PatientIdentityRemoved) == ("N", "YES")


def test_anonymize_as_job(client: Orthanc, sent: Sent) -> None:
    study = _study(client, sent)
    jobs = [study.anonymize_as_job(), study.parent_patient.anonymize_as_job(), study.series[0].anonymize_as_job()]
    for job in jobs:
        _wait(job)
        assert job.content["IsAnonymization"] is True


def test_merge_and_split(client: Orthanc, sent: Sent) -> None:
    study, other = _study(client, sent), Sent(series=2, images=1)
    for content in other.contents():
        client.post_instances(content)
    answer = client.post_studies_id_merge(study.id_, {"Resources": [other.ids[0].series], "KeepSource": True})
    assert answer["TargetStudy"] == study.id_
    assert len(study.series) == 2
    answer = client.post_studies_id_split(other.ids[0].study, {"Series": [other.ids[1].series], "KeepSource": True})
    assert Study(answer["TargetStudy"], client).series[0].modality == "CT"


def _wait(job: Job) -> None:
    job.wait_until_completion(time_interval=0.1)
    assert job.state is State.success, job.get_information()


# -- archives


def test_archives(client: Orthanc, sent: Sent, tmp_path: Path) -> None:
    contents = sorted(sent.contents())
    ids = sent.ids[0]
    for resource in (Patient(ids.patient, client), Study(ids.study, client), Series(ids.series, client)):
        assert _unpacked(resource.get_zip()) == contents
        resource.download(str(tmp_path / "it.zip"))
        assert _unpacked((tmp_path / "it.zip").read_bytes()) == contents
    media = client.get_studies_id_media(ids.study)
    with zipfile.ZipFile(io.BytesIO(media)) as archive:
        assert "DICOMDIR" in archive.namelist()
    assert _unpacked(client.get_tools_create_archive(params={"resources": ids.series})) == contents
    retrieve_and_write_patients([Patient(ids.patient, client)], tmp_path / "out")
    written = tmp_path / "out" / sent.first.PatientID / sent.first.StudyInstanceUID / sent.first.SeriesInstanceUID
    assert sorted(path.read_bytes() for path in written.iterdir()) == contents


def _unpacked(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sorted(archive.read(name) for name in archive.namelist())


# -- the server


def test_server(client: Orthanc, sent: Sent) -> None:
    assert client.get_system()["Version"] == client.version
    assert client.get_statistics()["CountInstances"] >= 3
    assert client.get_studies_id_statistics(sent.ids[0].study)["CountInstances"] == 3
    assert sent.ids[0].study in client.get_studies()
    assert client.get_studies(params={"since": 0, "limit": 1, "expand": True})[0]["Type"] == "Study"
    assert len(client.get_tools_now()) == 15
    (found,) = client.post_tools_lookup(sent.first.StudyInstanceUID)
    assert (found["ID"], found["Type"]) == (sent.ids[0].study, "Study")
    assert client.post_tools_count_resources({"Level": "Instance", "Query": {"PatientID": sent.first.PatientID}}) == {
        "Count": 3
    }
    assert isinstance(client.get_plugins(), list)
    with pytest.raises(httpx.HTTPError, match="403"):
        client.post_tools_execute_script("print(1)")


def test_changes(client: Orthanc, sent: Sent) -> None:
    last, found = 0, {}
    while True:
        page = client.get_changes(params={"since": last, "limit": 50})
        found |= {(each["ChangeType"], each["ID"]): each["Seq"] for each in page["Changes"]}
        last = page["Last"]
        if page["Done"]:
            break
    for kind, name in (("Patient", "patient"), ("Study", "study"), ("Series", "series")):
        assert (f"New{kind}", getattr(sent.ids[0], name)) in found
    assert {("NewInstance", ids.instance) for ids in sent.ids} <= found.keys()
    assert client.get_changes(params={"last": True})["Last"] >= last


def test_raw_answers(site: RunningServer, sent: Sent) -> None:
    with Orthanc(site.url, return_raw_response=True) as raw:
        answer = raw.get_studies_id(sent.ids[0].study)
        assert (answer.status_code, answer.json()["ID"]) == (200, sent.ids[0].study)
        assert raw.get_studies_id("nothing").status_code == 404
        with pytest.warns(UserWarning, match="return_raw_response"):
            assert Study(sent.ids[0].study, raw).description == "Thorax nativ"


def test_delete(client: Orthanc, sent: Sent) -> None:
    ids = sent.ids
    answer = client.delete_instances_id(ids[0].instance)
    assert answer["RemainingAncestor"]["ID"] == ids[0].series
    assert client.delete_patients_id(ids[0].patient) == {"RemainingAncestor": None}
    with pytest.raises(httpx.HTTPError, match="404"):
        client.get_studies_id(ids[0].study)
    other = Sent()
    for content in other.contents():
        client.post_instances(content)
    client.post_tools_bulk_delete({"Resources": [other.ids[0].study]})
    assert find_studies(client, {"StudyInstanceUID": other.first.StudyInstanceUID}) == []


# -- modalities


def test_modality(client: Orthanc, partner: peer.Orthanc, sent: Sent) -> None:
    modality = Modality(client, "partner")
    assert modality.echo() is True
    declared = {"AET": "NOBODY", "Host": "127.0.0.1", "Port": 1, "Timeout": 1}
    client.put_modalities_id("nobody", declared)
    assert Modality(client, "nobody").echo() is False
    assert client.get_modalities_id_configuration("nobody")["AET"] == "NOBODY"
    client.delete_modalities_id("nobody")
    assert client.get_modalities() == ["partner"]
    stored = modality.store(sent.ids[0].study)
    assert (stored["InstancesCount"], stored["FailedInstancesCount"]) == (3, 0)
    assert sent.ids[0].study in partner.request("GET", "/studies")
    found = modality.find({"Level": "Study", "Query": {"PatientID": sent.first.PatientID, "StudyDate": ""}})
    assert [each["StudyInstanceUID"] for each in found["answers"]] == [sent.first.StudyInstanceUID]
    assert modality.get_query_answers(found["ID"], simplify=False, short=True)[0]["0008,0020"] == "20240131"
    client.delete_studies_id(sent.ids[0].study)
    modality.move(found["ID"], {"TargetAet": "ANOR"})
    assert _await_study(client, sent)
    client.delete_studies_id(sent.ids[0].study)
    modality.get("Study", {"StudyInstanceUID": sent.first.StudyInstanceUID})
    assert _await_study(client, sent)
    delete_queries(client)
    assert client.get_queries() == []


def _await_study(client: Orthanc, sent: Sent) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if find_studies(client, {"StudyInstanceUID": sent.first.StudyInstanceUID}):
            return True
        time.sleep(0.1)
    return False


def test_job_that_fails(client: Orthanc, partner: peer.Orthanc, sent: Sent) -> None:
    client.put_modalities_id("down", {"AET": "DOWN", "Host": "127.0.0.1", "Port": 1, "Timeout": 1})
    answer = client.post_modalities_id_store("down", json={"Resources": [sent.ids[0].study], "Asynchronous": True})
    job = Job(answer["ID"], client)
    deadline = time.monotonic() + 60
    while job.state in (State.pending, State.running, State.retry) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (job.state, job.error) == (State.failure, ErrorCode.NETWORK_PROTOCOL), json.dumps(job.get_information())
    assert client.post_jobs_id_resubmit(job.id_) == {}
    assert client.post_jobs_id_cancel(job.id_) == {}
    client.delete_modalities_id("down")
