"""Search on a real PostgreSQL: every kind of match at every level, one statement each, plans that use the indexes."""

from typing import Any

import orjson
import pytest
from pydicom.dataset import Dataset

from dicomweb import qido
from dicomweb.deflate import deflate
from dicomweb.tags import Level
from storage.access import LOCAL
from storage.archive import Archive
from storage.provenance import Provenance
from storage.search import compile_query
from tests.files import ct, new_uid

BASE = "http://archive.test/dicom-web"
STUDIES = [new_uid() for _ in range(3)]
SERIES = [new_uid() for _ in range(4)]
INSTANCE = new_uid()  # of the second study


async def store(archive: Archive, **attributes: Any) -> None:
    spool = archive.new_spool()
    await spool.write(ct(**attributes))
    await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))


@pytest.fixture
async def filled(archive: Archive) -> Archive:
    """Three studies: Müller (two series, three instances), O'Neil%_ (one), and one without dates and names."""
    first = {
        "StudyInstanceUID": STUDIES[0],
        "PatientName": "Müller^Änne^^Dr=王^小=",
        "PatientID": "P-1",
        "StudyDate": "20240131",
    }
    await store(archive, **first, SeriesInstanceUID=SERIES[0], InstanceNumber=1, KVP="120", ImageComments="first")
    await store(archive, **first, SeriesInstanceUID=SERIES[0], InstanceNumber=2, KVP="80")
    await store(
        archive, **first, SeriesInstanceUID=SERIES[1], SeriesNumber=2, Modality="PT", SeriesDescription="PET corrected"
    )
    await store(
        archive,
        StudyInstanceUID=STUDIES[1],
        SeriesInstanceUID=SERIES[2],
        SOPInstanceUID=INSTANCE,
        PatientName="O'Neil%_^Sean",
        PatientID="p_%1",
        StudyDate="20230704",
        StudyTime="2359",
        AccessionNumber="B-77",
        StudyDescription="MR Kopf",
        Modality="MR",
    )
    await store(
        archive,
        StudyInstanceUID=STUDIES[2],
        SeriesInstanceUID=SERIES[3],
        PatientName="",
        PatientID="P-3",
        StudyDate=None,
        StudyTime=None,
        Modality="OT",
    )
    return archive


async def search(
    archive: Archive, level: Level, *parameters: tuple[str, str], study: str | None = None, series: str | None = None
) -> list[Any]:
    query = qido.parse(level, study, series, list(parameters), max_limit=1000, default_limit=100)
    before = archive.db.statements
    result = await archive.search.run(LOCAL, query, BASE)
    assert archive.db.statements == before + 1
    return [orjson.loads(row) for row in result.rows]


async def studies(archive: Archive, *parameters: tuple[str, str]) -> set[int]:
    return {STUDIES.index(row["0020000D"]["Value"][0]) for row in await search(archive, Level.STUDY, *parameters)}


STUDY_MATCHES: list[tuple[list[tuple[str, str]], set[int]]] = [
    ([], {0, 1, 2}),
    ([("PatientID", "P-1")], {0}),
    ([("PatientID", "p-1")], set()),
    ([("PatientID", "P-*")], {0, 2}),
    ([("PatientID", "P-?")], {0, 2}),
    ([("PatientID", "p_%1")], {1}),
    ([("PatientID", "p*%*")], {1}),
    ([("PatientID", "P_1")], set()),
    ([("PatientName", "muller^anne^^DR")], {0}),
    ([("PatientName", "MÜLLER*")], {0}),
    ([("PatientName", "*ULL*")], {0}),
    ([("PatientName", "*小*")], {0}),
    ([("PatientName", "王*")], {0}),
    ([("PatientName", "王^小")], {0}),
    ([("PatientName", "=王^*")], {0}),
    ([("PatientName", "=muller*")], set()),
    ([("PatientName", "小*")], set()),
    ([("PatientName", "?'neil%_*")], {1}),
    ([("PatientName", "Anne Muller"), ("fuzzymatching", "true")], {0}),
    ([("PatientName", "sea"), ("fuzzymatching", "true")], {1}),
    ([("PatientName", "*")], {0, 1, 2}),
    ([("PatientName", "")], {0, 1, 2}),
    ([("StudyDate", "20240131")], {0}),
    ([("StudyDate", "20240101-20241231")], {0}),
    ([("StudyDate", "-20240101")], {1}),
    ([("StudyDate", "20230704-")], {0, 1}),
    ([("StudyTime", "2359")], {1}),
    ([("StudyTime", "10-11")], {0}),
    ([("AccessionNumber", "B-77")], {1}),
    ([("StudyDescription", "*kopf")], {1}),
    ([("ModalitiesInStudy", "PT")], {0}),
    ([("ModalitiesInStudy", "MR,OT")], {1, 2}),
    ([("Modality", "CT")], {0}),
    ([("StudyInstanceUID", f"{STUDIES[0]}\\{STUDIES[2]}")], {0, 2}),
    ([("StudyInstanceUID", f"{STUDIES[0]},{STUDIES[1]}")], {0, 1}),
    ([("StudyInstanceUID", STUDIES[0]), ("StudyInstanceUID", STUDIES[1])], {0, 1}),
    ([("ReferringPhysicianName", "referrer*")], {0, 1, 2}),
    ([("PatientSex", "F")], {0, 1, 2}),
    ([("PatientSex", "M")], set()),
    ([("PatientBirthDate", "19700101-19701231")], {0, 1, 2}),
    ([("00100020", "P-3")], {2}),
    ([("SeriesInstanceUID", SERIES[1])], {0}),
    ([("SeriesInstanceUID", f"{SERIES[1]},{SERIES[2]}")], {0, 1}),
    ([("SeriesInstanceUID", SERIES[1]), ("StudyDate", "20230704")], set()),
    ([("SeriesInstanceUID", "1.2.3")], set()),
    ([("SOPInstanceUID", INSTANCE)], {1}),
    ([("SOPInstanceUID", f"{INSTANCE}\\1.2.3"), ("SeriesInstanceUID", SERIES[2])], {1}),
    ([("SOPInstanceUID", INSTANCE), ("SeriesInstanceUID", SERIES[0])], set()),
]


async def test_study_matching(filled: Archive) -> None:
    for parameters, expected in STUDY_MATCHES:
        assert await studies(filled, *parameters) == expected, parameters


async def test_series_by_an_instance_of_theirs(filled: Archive) -> None:
    for study in (None, STUDIES[1]):
        (row,) = await search(filled, Level.SERIES, ("SOPInstanceUID", INSTANCE), study=study)
        assert row["0020000E"]["Value"] == [SERIES[2]]
        assert "00080018" not in row
    assert await search(filled, Level.SERIES, ("SOPInstanceUID", INSTANCE), study=STUDIES[0]) == []


async def test_study_rows_carry_what_the_standard_asks_in_tag_order(filled: Archive) -> None:
    (row,) = await search(filled, Level.STUDY, ("PatientID", "P-1"))
    assert row["00080061"] == {"vr": "CS", "Value": ["CT", "PT"]}
    assert row["00081190"] == {"vr": "UR", "Value": [f"{BASE}/studies/{STUDIES[0]}"]}
    assert row["00201206"]["Value"] == [2]
    assert row["00201208"]["Value"] == [3]
    assert row["00100010"]["Value"] == [{"Alphabetic": "Müller^Änne^^Dr", "Ideographic": "王^小"}]
    assert row["00080005"]["Value"] == ["ISO_IR 192"]
    assert list(row) == sorted(row)


async def test_included_fields_come_from_every_upper_level(filled: Archive) -> None:
    (row,) = await search(
        filled, Level.SERIES, ("Modality", "PT"), ("includefield", "PatientSex,0008103E"), study=STUDIES[0]
    )
    assert row["00100040"]["Value"] == ["F"]
    assert row["0008103E"]["Value"] == ["PET corrected"]
    rows = await search(filled, Level.INSTANCE, ("includefield", "00180060"), study=STUDIES[0], series=SERIES[0])
    assert [r["00180060"]["Value"] for r in rows] == [[120.0], [80.0]]
    (study,) = await search(filled, Level.STUDY, ("PatientID", "P-1"), ("includefield", "all"))
    assert study["00081030"]["Value"] == ["Thorax nativ"]


async def test_all_fields_of_instances_are_their_metadata(filled: Archive) -> None:
    rows = await search(filled, Level.INSTANCE, ("includefield", "all"), study=STUDIES[0], series=SERIES[0])
    uid = rows[0]["00080018"]["Value"][0]
    assert rows[0]["00204000"]["Value"] == ["first"]
    assert rows[0]["7FE00010"]["BulkDataURI"].startswith("instances/")
    assert rows[0]["00081190"]["Value"] == [f"{BASE}/studies/{STUDIES[0]}/series/{SERIES[0]}/instances/{uid}"]
    assert rows[0]["00080056"]["Value"] == ["ONLINE"]
    assert rows[0]["00083002"]["Value"] == ["1.2.840.10008.1.2.1"]
    assert list(rows[0]) == sorted(rows[0])


async def test_all_fields_of_an_instance_whose_metadata_lack_the_transfer_syntax(filled: Archive) -> None:
    """As those that were stored by versions which did not write it there."""
    place = {"study": STUDIES[1], "series": SERIES[2]}
    before = await search(filled, Level.INSTANCE, ("includefield", "all"), **place)
    uid = before[0]["00080018"]["Value"][0]
    found = await filled.retrieve.metadata(LOCAL, *place.values(), uid, gzip=False)
    text = b"".join(found.body or ())[1:-1]
    start, end = text.index(b'"00083002"'), text.index(b'"00100010"')
    older = deflate(text[:start] + text[end:])
    await filled.db.fetch_sql(
        "UPDATE instance SET metadata = $1, metadata_crc = $2, metadata_length = $3,"
        " metadata_cuts = metadata_cuts || $4::integer[] WHERE sop_uid = $5 RETURNING 1",
        *(older.data, older.crc32, older.length, [start], uid),
    )
    assert await search(filled, Level.INSTANCE, ("includefield", "all"), **place) == before


async def test_a_dataset_with_computed_attributes_of_its_own_is_answered_once(archive: Archive) -> None:
    study = new_uid()
    await store(archive, StudyInstanceUID=study, RetrieveURL="http://elsewhere/", InstanceAvailability="OFFLINE")
    (row,) = await search(archive, Level.INSTANCE, ("includefield", "all"), study=study)
    assert row["00081190"]["Value"][0].startswith(BASE)
    assert row["00080056"]["Value"] == ["ONLINE"]
    (relational,) = await search(archive, Level.INSTANCE, ("includefield", "all"), ("StudyInstanceUID", study))
    assert relational["00201208"]["Value"] == [1]
    assert list(relational) == sorted(relational)


async def test_instance_matching_on_columns_shared_and_different_attributes(filled: Archive) -> None:
    async def numbers(*parameters: tuple[str, str]) -> list[int]:
        rows = await search(filled, Level.INSTANCE, *parameters, study=STUDIES[0], series=SERIES[0])
        return [row["00200013"]["Value"][0] for row in rows]

    assert await numbers() == [1, 2]
    assert await numbers(("InstanceNumber", "2")) == [2]
    assert await numbers(("KVP", "80")) == [2]
    assert await numbers(("KVP", "120.0")) == [1]
    assert await numbers(("Rows", "4")) == [1, 2]
    assert await numbers(("ImageComments", "fir*")) == [1]
    assert await numbers(("PhotometricInterpretation", "MONOCHROME2")) == [1, 2]
    assert await numbers(("ImageType", "AXIAL")) == [1, 2]


async def test_relational_searches_name_the_parents(filled: Archive) -> None:
    (row,) = await search(filled, Level.SERIES, ("Modality", "MR"))
    assert row["0020000D"]["Value"] == [STUDIES[1]]
    assert row["00100020"]["Value"] == ["p_%1"]
    rows = await search(filled, Level.INSTANCE, ("Modality", "PT"), study=STUDIES[0])
    assert [r["0020000E"]["Value"][0] for r in rows] == [SERIES[1]]
    rows = await search(filled, Level.INSTANCE, ("PatientID", "P-3"))
    assert [r["0020000D"]["Value"][0] for r in rows] == [STUDIES[2]]


async def test_pages_are_stable_and_say_that_there_is_more(filled: Archive) -> None:
    seen: list[str] = []
    for offset in range(3):
        query = qido.parse(
            Level.STUDY, None, None, [("limit", "1"), ("offset", str(offset))], max_limit=10, default_limit=10
        )
        result = await filled.search.run(LOCAL, query, BASE)
        assert result.more == (offset < 2)
        seen += [orjson.loads(row)["0020000D"]["Value"][0] for row in result.rows]
    assert seen == STUDIES  # newest study date first, no date last


async def test_sequence_paths_match_inside_one_item(archive: Archive) -> None:
    first, second = Dataset(), Dataset()
    first.RequestedProcedureID, first.ScheduledProcedureStepID = "RP-9", "SPS-1"
    second.RequestedProcedureID, second.ScheduledProcedureStepID = "RP-7", "SPS-2"
    study = new_uid()
    await store(archive, StudyInstanceUID=study, RequestAttributesSequence=[first, second])
    await store(archive)
    rows = await search(archive, Level.SERIES, ("RequestAttributesSequence.RequestedProcedureID", "RP-9"))
    assert [r["0020000D"]["Value"][0] for r in rows] == [study]
    assert await search(archive, Level.SERIES, ("00400275.00401001", "RP-8")) == []
    step = "00400275.00400009"
    assert len(await search(archive, Level.SERIES, ("00400275.00401001", "RP-9"), (step, "SPS-1"))) == 1
    assert await search(archive, Level.SERIES, ("00400275.00401001", "RP-9"), (step, "SPS-2")) == []


PLANS = [
    (Level.STUDY, [("PatientID", "P17")], "study_by_patient_id"),
    (Level.STUDY, [("StudyDate", "20240105-20240106")], "study_by_date"),
    (Level.STUDY, [("limit", "25")], "study_by_date"),
    (Level.STUDY, [("PatientName", "NAME17777*")], "study_by_name"),
    (Level.STUDY, [("PatientName", "*ame1234*")], "study_grams"),
    (Level.STUDY, [("AccessionNumber", "A17")], "study_by_accession"),
    (Level.STUDY, [("StudyInstanceUID", "1.2.17")], "study_tenant_study_uid_key"),
    (Level.SERIES, [("SeriesInstanceUID", "1.2.17.1")], "series_tenant_series_uid_key"),
    (Level.INSTANCE, [("SOPInstanceUID", "1.2.17.1.1")], "instance_pkey"),
    (Level.STUDY, [("SeriesInstanceUID", "1.2.17.1")], "series_tenant_series_uid_key"),
    (Level.STUDY, [("SeriesInstanceUID", "1.2.17.1,1.2.18.1")], "series_tenant_series_uid_key"),
    (Level.STUDY, [("SOPInstanceUID", "1.2.17.1.1")], "instance_pkey"),
    (Level.SERIES, [("SOPInstanceUID", "1.2.17.1.1,1.2.18.1.1")], "instance_pkey"),
]


async def fill_synthetic(archive: Archive, studies: int) -> None:
    """Rows without files: what the planner decides depends on sizes, not on content."""
    await archive.db.fetch_sql(
        """
        WITH p AS (
            INSERT INTO patient (tenant, patient_id, issuer, orthanc_id, name_fold, birth_date, attributes)
            SELECT 1, 'P' || n, '', decode(md5('p' || n), 'hex'), 'name' || n, '', '{}'
            FROM generate_series(1, $1::int) n RETURNING id, patient_id, name_fold, substr(patient_id, 2) AS n)
        , t AS (
            INSERT INTO study (tenant, patient, study_uid, orthanc_id, study_date, study_time, accession, study_id,
                patient_id, name_fold, referring_fold, description_fold, summary, attributes, grams)
            SELECT 1, p.id, '1.2.' || n, '', to_char(date '2020-01-01' + (p.id % 2000)::int, 'YYYYMMDD'), '', 'A' || n,
                '',
                p.patient_id, p.name_fold, '', '', '{"","","",""}', '{}',
                ARRAY(SELECT 'n' || substr(p.name_fold, g, 3) FROM generate_series(1, 6) g)
            FROM p RETURNING id, study_uid)
        , s AS (
            INSERT INTO series (tenant, study, series_uid, orthanc_id, modality, series_number, summary, attributes,
                shared, shared_id)
            SELECT 1, t.id, t.study_uid || '.1', '', 'CT', 1, '{"","","",""}', '{}', '', gen_random_uuid()
            FROM t RETURNING id, series_uid)
        INSERT INTO instance (tenant, series, object_size, metadata_crc, metadata_length, meta_size, sop_uid, sop_class,
            transfer_syntax, object_key, orthanc_id, file_sha256, dataset_sha256, source, attributes, bulk_table)
        SELECT 1, s.id, 0, 0, 0, 0, s.series_uid || '.1', '', '', s.series_uid, '', '', '', '', '{}', '' FROM s""",
        studies,
    )
    for table in ("patient", "study", "series", "instance"):
        await archive.db.fetch_sql(f"ANALYZE {table}")


async def test_every_query_and_retrieval_uses_its_index(archive: Archive) -> None:
    await fill_synthetic(archive, 20_000)
    for level, parameters, index in PLANS:
        query = qido.parse(level, None, None, parameters, max_limit=100, default_limit=100)
        statement = compile_query(query, 1, BASE)
        plan = "\n".join(r[0] for r in await archive.db.fetch_sql("EXPLAIN " + statement.sql, *statement.arguments))
        assert index in plan, f"{parameters}:\n{plan}"
        assert "Seq Scan" not in plan, f"{parameters}:\n{plan}"
    for path, index in (
        (("1.2.17", None), "series_by_study"),
        (("1.2.17", "1.2.17.1"), "instance_by_series"),
    ):
        level = Level.SERIES if path[1] is None else Level.INSTANCE
        statement = compile_query(qido.parse(level, *path, [], max_limit=100, default_limit=100), 1, BASE)
        plan = "\n".join(r[0] for r in await archive.db.fetch_sql("EXPLAIN " + statement.sql, *statement.arguments))
        assert index in plan, plan
        assert "Seq Scan" not in plan, plan

    retrievals: dict[str, tuple[object, ...]] = {
        "instance_location": (1, "1.2.17", "1.2.17.1", "1.2.17.1.1"),
        "frame_locations": (1, "1.2.17", "1.2.17.1", "1.2.17.1.1", [0]),
        "series_instances": (1, "1.2.17", "1.2.17.1"),
        "series_metadata": (1, "1.2.17", "1.2.17.1", 100),
        "study_metadata": (1, "1.2.17", 100),
        "instance_metadata": (1, "1.2.17", "1.2.17.1", "1.2.17.1.1"),
        "series_version": (1, "1.2.17", "1.2.17.1"),
    }
    for name, arguments in retrievals.items():
        plan = "\n".join(r[0] for r in await archive.db.fetch_sql("EXPLAIN " + archive.db.text(name), *arguments))
        assert "Seq Scan" not in plan, f"{name}:\n{plan}"
