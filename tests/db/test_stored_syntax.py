"""Transcoding after ingest, by rule: what is kept is the same image, and what was sent stays known."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames

from dicomweb.errors import ArchiveError, Conflict, Unavailable
from dicomweb.rules import Rule, parse_rules, wanted
from storage import stored_syntax, transcoding
from storage.access import LOCAL
from storage.archive import Archive, open_archive
from storage.ingest import Stored
from storage.provenance import Provenance
from storage.settings import Settings
from storage.stored_syntax import StoredSyntax
from storage.worker import number_changes, sweep
from tests.decoders import by_openjpeg
from tests.files import ct, dataset, encoded, new_uid

HTJ2K = "1.2.840.10008.1.2.4.202"
JPEG_LS = "1.2.840.10008.1.2.4.80"
NATIVE = "1.2.840.10008.1.2.1"


@pytest.fixture
async def opened(
    settings: Callable[..., Settings], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable]:
    monkeypatch.setattr("storage.intents._AHEAD_MAX", 0)  # every intent is one that was left behind
    archives: list[Archive] = []

    async def make(rules: str, **more: object) -> tuple[Archive, StoredSyntax]:
        archive = await open_archive(
            settings(database_url=database_url, transcode=rules, tomb_grace_s=0, sweep_quarantine_s=0, **more)
        )
        archives.append(archive)
        reader = StoredSyntax(archive)
        await reader.step()
        return archive, reader

    yield make
    for archive in archives:
        await archive.close()


def file_of(name: str) -> bytes:
    path = get_testdata_file(name)
    assert path is not None
    return Path(path).read_bytes()


async def store(archive: Archive, data: bytes) -> Stored:
    spool = archive.new_spool()
    await spool.write(data)
    return await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))


async def settle(archive: Archive, reader: StoredSyntax) -> None:
    await number_changes(archive)
    await reader.step()
    await sweep(archive)


async def only(archive: Archive) -> dict:
    (row,) = await archive.db.fetch_sql("SELECT * FROM instance")
    return dict(row)


async def totals(archive: Archive) -> tuple[int, int]:
    (row,) = await archive.db.fetch_sql("SELECT done, failed FROM reader")
    return row["done"], row["failed"]


async def stored_keys(archive: Archive) -> set[str]:
    return {info.key async for info in archive.objects.list("") if info.size}


def image(**attributes: object) -> bytes:
    pixels = (np.add.outer(np.arange(64), np.arange(64)) % 4096).astype("<u2")
    return ct(**({"Rows": 64, "Columns": 64, "PixelData": pixels.tobytes()} | attributes))


async def test_the_object_is_exchanged_and_the_original_goes(opened: Callable) -> None:
    archive, reader = await opened("CT,MR=HTJ2KLosslessRPCL")
    file = image()
    await store(archive, file)
    before = await only(archive)
    await settle(archive, reader)
    row = await only(archive)
    assert row["transfer_syntax"] == HTJ2K
    assert (row["received_sha256"], row["file_sha256"]) == (
        hashlib.sha256(file).digest(),
        hashlib.sha256(await archive.objects.get(row["object_key"])).digest(),
    )
    assert row["version"] > before["version"]
    assert await stored_keys(archive) == {row["object_key"]}
    (study,) = await archive.db.fetch_sql("SELECT bytes, instance_count FROM study")
    assert (study["bytes"], study["instance_count"]) == (row["object_size"], 1)
    assert row["object_size"] < len(file)
    kept = dcmread(BytesIO(await archive.objects.get(row["object_key"])))
    sent = dcmread(BytesIO(file))
    (frame,) = generate_frames(kept.PixelData, number_of_frames=1)
    assert np.array_equal(by_openjpeg(frame), sent.pixel_array)
    kept.PixelData = sent.PixelData = None
    assert {e.tag: e.value for e in kept} == {e.tag: e.value for e in sent}
    assert await totals(archive) == (1, 0)
    assert await archive.db.fetch_sql("SELECT FROM intent") == []


async def test_what_was_sent_stays_known(opened: Callable) -> None:
    archive, reader = await opened("*=HTJ2KLosslessRPCL")
    ds = dataset(SeriesDescription="first")
    file = encoded(ds)
    await store(archive, file)
    await settle(archive, reader)
    kept = await only(archive)
    assert (await store(archive, file)).status == "identical"
    assert (await store(archive, await archive.objects.get(kept["object_key"]))).status == "identical"
    ds.file_meta.ImplementationVersionName = "OTHER"
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    assert out.getvalue() != file
    assert (await store(archive, out.getvalue())).status == "identical"
    ds.SeriesDescription = "second"
    with pytest.raises(Conflict):
        await store(archive, encoded(ds))
    await settle(archive, reader)
    assert await only(archive) == kept
    assert await stored_keys(archive) == {kept["object_key"]}


async def test_other_bytes_replace_a_transcoded_instance_and_are_transcoded_too(opened: Callable) -> None:
    archive, reader = await opened("*=HTJ2KLosslessRPCL", duplicates="replace")
    ds = dataset(SeriesDescription="first")
    first = encoded(ds)
    await store(archive, first)
    await settle(archive, reader)
    ds.SeriesDescription = "second"
    assert (await store(archive, encoded(ds))).status == "replaced"
    assert (await only(archive))["received_sha256"] is None
    await settle(archive, reader)
    assert (await only(archive))["received_sha256"] == hashlib.sha256(encoded(ds)).digest()
    assert (await store(archive, first)).status == "replaced"  # it is known no more


async def test_a_lost_object_is_restored_from_what_was_sent(opened: Callable) -> None:
    archive, reader = await opened("*=HTJ2KLosslessRPCL")
    file = image()
    await store(archive, file)
    await settle(archive, reader)
    await archive.objects.delete((await only(archive))["object_key"])
    assert (await store(archive, file)).status == "identical"
    row = await only(archive)
    assert (row["transfer_syntax"], row["received_sha256"]) == (NATIVE, None)
    assert await archive.objects.get(row["object_key"]) == file
    await settle(archive, reader)
    row = await only(archive)
    assert row["transfer_syntax"] == HTJ2K
    assert await stored_keys(archive) == {row["object_key"]}


async def test_the_first_rule_counts_and_the_others_are_left(opened: Callable) -> None:
    archive, reader = await opened("MR=received; CT=HTJ2KLosslessRPCL; *=JPEGLSLossless")
    wanted_syntaxes = {"MR": NATIVE, "CT": HTJ2K, "US": JPEG_LS}
    sops = {name: (await store(archive, image(Modality=name))).sop_instance for name in wanted_syntaxes}
    await settle(archive, reader)
    rows = await archive.db.fetch_sql("SELECT sop_uid, transfer_syntax FROM instance")
    found = {row["sop_uid"]: row["transfer_syntax"] for row in rows}
    assert {name: found[sop] for name, sop in sops.items()} == wanted_syntaxes


@pytest.mark.parametrize(
    ("name", "rules", "kept"),
    [
        ("JPGExtended.dcm", "*=HTJ2KLosslessRPCL", "1.2.840.10008.1.2.4.51"),  # lossy: stays
        ("693_J2KI.dcm", "*=JPEGLSLossless", "1.2.840.10008.1.2.4.91"),
        ("examples_ybr_color.dcm", "*=JPEGXLJPEGRecompression", "1.2.840.10008.1.2.4.111"),  # packed, not decoded
        ("CT_small.dcm", "*=JPEGXLJPEGRecompression", NATIVE),
        ("MR_small_jp2klossless.dcm", "*=ExplicitVRLittleEndian", NATIVE),
        ("MR_small_bigendian.dcm", "*=RLELossless", "1.2.840.10008.1.2.5"),
        ("OBXXXX1A_expb.dcm", "*=HTJ2KLossless", "1.2.840.10008.1.2.4.201"),  # words of the palette are turned round
        ("mlut_18.dcm", "*=JPEGXLLossless", "1.2.840.10008.1.2.4.110"),  # bits above Bits Stored are in use
        ("liver.dcm", "*=HTJ2KLossless", NATIVE),  # single bits
        ("reportsi.dcm", "*=HTJ2KLossless", NATIVE),  # no pixels
    ],
)
async def test_what_a_rule_makes_of_a_real_file(opened: Callable, name: str, rules: str, kept: str) -> None:
    archive, reader = await opened(rules)
    await store(archive, file_of(name))
    await settle(archive, reader)
    row = await only(archive)
    assert row["transfer_syntax"] == kept
    assert (await totals(archive))[1] == 0


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["HTJ2KLosslessRPCL", "JPEGLSLossless", "JPEGXLLossless", "JPEG2000Lossless"])
async def test_every_file_that_can_be_stored(opened: Callable, target: str) -> None:
    """Verification finds no difference in any of pydicom's files."""
    archive, reader = await opened(f"*={target}", duplicates="replace")
    broken = 0  # badVR.dcm has values that are none: the copy has others, so that the original stays
    folders = Path(pydicom.data.__file__).parent / "test_files", Path(str(get_testdata_file("693_J2KR.dcm"))).parent
    for path in sorted(path for folder in folders for path in folder.glob("*.dcm")):
        try:
            await store(archive, path.read_bytes())
        except ArchiveError:
            continue
        await settle(archive, reader)
        assert (await totals(archive))[1] == (broken := broken + (path.name == "badVR.dcm")), path.name
    assert (await totals(archive))[0] > 70


@pytest.mark.parametrize("fault", ["pixels", "attribute", "frames", "last"])
async def test_an_original_stays_unless_the_copy_is_the_same(
    opened: Callable, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    archive, reader = await opened("*=JPEGLSLossless")
    file = image()
    await store(archive, file)
    before = await only(archive)
    encode, head = transcoding.encode_frame, transcoding.transcoded_head

    def other_pixels(syntax, pixels, form, quality):
        array = pixels.array.copy()
        array[3, 3] ^= 1
        return encode(syntax, type(pixels)(array, pixels.photometric), form, quality)

    def other_attribute(dataset, *rest):
        dataset.PatientName = "Somebody^Else"
        return head(dataset, *rest)

    match fault:
        case "pixels":
            monkeypatch.setattr(transcoding, "encode_frame", other_pixels)
        case "attribute":
            monkeypatch.setattr(transcoding, "transcoded_head", other_attribute)
        case "frames":
            monkeypatch.setattr(transcoding, "_item", lambda frame: transcoding.item_head(4) + frame[:4])
        case _:
            monkeypatch.setattr(stored_syntax, "_same", lambda *_: False)
    await settle(archive, reader)
    assert await only(archive) == before
    assert await totals(archive) == (0, 1)
    assert await stored_keys(archive) == {before["object_key"]}
    assert await archive.objects.get(before["object_key"]) == file


async def test_a_damaged_original_stays_for_who_may_repair_it(opened: Callable, tmp_path: Path) -> None:
    archive, reader = await opened("*=JPEGLSLossless")
    file = image()
    await store(archive, file)
    before = await only(archive)
    (path,) = [p for p in (tmp_path / "data" / "objects").rglob(before["object_key"].rpartition("/")[2]) if p.is_file()]
    damaged = bytearray(file)
    damaged[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(damaged)
    await settle(archive, reader)
    assert (await only(archive))["object_key"] == before["object_key"]
    assert await totals(archive) == (0, 1)


@pytest.mark.parametrize("meanwhile", ["deleted", "replaced"])
async def test_what_happens_to_the_instance_meanwhile_wins(
    opened: Callable, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    archive, reader = await opened("*=JPEGLSLossless", duplicates="replace")
    ds = dataset(SeriesDescription="first")
    first = await store(archive, encoded(ds))
    ds.SeriesDescription = "second"
    run = stored_syntax._Comparison.run

    async def late(comparison) -> None:
        await run(comparison)
        monkeypatch.setattr(stored_syntax._Comparison, "run", run)
        if meanwhile == "deleted":
            await archive.lifecycle.delete(LOCAL, first.study)
        else:
            await store(archive, encoded(ds))

    monkeypatch.setattr(stored_syntax._Comparison, "run", late)
    await settle(archive, reader)
    rows = await archive.db.fetch_sql("SELECT * FROM instance")
    if meanwhile == "deleted":
        assert rows == []
        assert await stored_keys(archive) == set()
    else:
        await settle(archive, reader)
        row = await only(archive)
        assert (row["transfer_syntax"], row["received_sha256"]) == (JPEG_LS, hashlib.sha256(encoded(ds)).digest())
        assert await stored_keys(archive) == {row["object_key"]}
    assert await archive.db.fetch_sql("SELECT FROM intent") == []


async def test_a_service_that_is_down_costs_nothing_but_time(opened: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, reader = await opened("*=JPEGLSLossless")
    await store(archive, image())
    await number_changes(archive)

    async def down(*_: object, **_named: bool) -> None:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(archive.objects, "put", down)
        for _ in range(6):
            with pytest.raises(Unavailable):
                await reader.step()
    await settle(archive, reader)
    assert await totals(archive) == (1, 0)


async def test_an_instance_that_workers_die_of_is_left_and_the_others_are_not(
    opened: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = await opened("*=JPEGLSLossless")
    sops = [(await store(archive, image(InstanceNumber=n))).sop_instance for n in range(3)]
    await number_changes(archive)
    exchange = StoredSyntax._exchange

    class Died(BaseException):
        pass

    async def deadly(self, access, row, target):
        if row["sop_uid"] == sops[1]:
            raise Died
        return await exchange(self, access, row, target)

    monkeypatch.setattr(StoredSyntax, "_exchange", deadly)
    for _ in range(12):
        worker = StoredSyntax(archive)  # as each new process has
        with suppress(BaseExceptionGroup):
            await worker.step()
        await archive.db.fetch_sql("UPDATE reader SET lease_until = '-infinity'")
    rows = await archive.db.fetch_sql("SELECT sop_uid FROM instance WHERE transfer_syntax = $1", JPEG_LS)
    assert {row["sop_uid"] for row in rows} == {sops[0], sops[2]}
    assert (await totals(archive))[1] == 1


async def test_one_worker_reads_at_a_time(opened: Callable) -> None:
    archive, first = await opened("*=JPEGLSLossless")
    await store(archive, image())
    await number_changes(archive)
    claim = ("reader_claim", stored_syntax._READER, first._worker, stored_syntax._LEASE)
    assert await archive.db.fetch_row(*claim) is not None
    await StoredSyntax(archive).step()
    assert (await only(archive))["transfer_syntax"] == NATIVE
    await first.step()
    assert (await only(archive))["transfer_syntax"] == JPEG_LS


async def test_rules_are_for_what_comes_and_for_everything_when_asked(opened: Callable) -> None:
    archive, _ = await opened("")
    old = await store(archive, image(SOPInstanceUID=new_uid()))
    await number_changes(archive)
    ruled, reader = await opened("*=JPEGLSLossless")
    new = await store(ruled, image())
    await settle(ruled, reader)

    async def syntaxes() -> dict[str, str]:
        rows = await archive.db.fetch_sql("SELECT sop_uid, transfer_syntax FROM instance")
        return {row["sop_uid"]: row["transfer_syntax"] for row in rows}

    assert await syntaxes() == {old.sop_instance: NATIVE, new.sop_instance: JPEG_LS}
    await stored_syntax.begin_anew(ruled)
    await settle(ruled, reader)
    assert await syntaxes() == {old.sop_instance: JPEG_LS, new.sop_instance: JPEG_LS}
    await StoredSyntax(archive).step()
    assert await archive.db.fetch_sql("SELECT FROM reader") == []


def test_how_rules_are_spelled() -> None:
    rules = parse_rules(" CT, MR = HTJ2KLosslessRPCL ; US=received;*=1.2.840.10008.1.2.4.80; ")
    assert rules == (Rule(frozenset(("CT", "MR")), HTJ2K), Rule(frozenset(("US",)), ""), Rule(frozenset(), JPEG_LS))
    assert [wanted(rules, name) for name in ("MR", "US", "SM", "")] == [HTJ2K, "", JPEG_LS, JPEG_LS]
    assert wanted(rules[:2], "SM") == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CT", "is not MODALITY,MODALITY=TRANSFERSYNTAX"),
        ("ct=RLELossless", "is not MODALITY"),
        ("=RLELossless", "is not MODALITY"),
        ("CT=JPEGBaseline8Bit", "is not received or one of"),
        ("CT=", "is not received or one of"),
    ],
)
def test_rules_that_are_none(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_rules(text)
