"""C-STORE as a requestor: to DCMTK's storescp with everything that it may and may not take."""

import asyncio
import contextlib
import io
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicomweb.errors import PeerFailed
from dimse_bridge.scu import Requestor
from dimse_bridge.sending import Outcome, groups, send
from storage.access import LOCAL
from storage.archive import Archive
from storage.modalities import Modality
from storage.provenance import Provenance
from storage.retrieve import Instance
from tests import files
from tests.dimse.programs import storescp
from tests.support import free_port

NAMES = ("CT_small.dcm", "OBXXXX1A_rle.dcm", "MR_small_bigendian.dcm", "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm")


async def stored(archive: Archive, *data: bytes) -> list[Instance]:
    found = []
    for each in data:
        spool = archive.new_spool()
        await spool.write(each)
        made = await archive.ingest.store(LOCAL, await spool.finish(), Provenance("rest"))
        found.append(await archive.retrieve.instance(LOCAL, made.study, made.series, made.sop_instance))
    return found


async def examples(archive: Archive) -> list[Instance]:
    return await stored(archive, *map(contents, map(get_testdata_file, NAMES)))


def contents(path: str | Path) -> bytes:
    return Path(path).read_bytes()


async def outcomes(
    requestor: Requestor, modality: Modality, instances: list[Instance], **more: object
) -> list[Outcome]:
    return [each async for each in send(requestor, LOCAL, modality, instances, **more)]


def received(folder: Path) -> dict[str, pydicom.Dataset]:
    return {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, folder.iterdir())}


async def test_as_stored(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    instances = await examples(own)
    with storescp(tmp_path / "peer", "+xa") as modality:
        found = await outcomes(requestor, modality, instances)
    assert [each.status for each in found] == [0] * len(NAMES)
    assert {each.instance.sop for each in found} == {each.sop for each in instances}
    came = received(tmp_path / "peer")
    for instance in instances:
        original = b"".join([chunk async for chunk in own.retrieve.file(instance)])
        dataset = came[instance.sop]
        assert dataset.file_meta.TransferSyntaxUID == instance.transfer_syntax
        sent = original[instance.meta_size :]
        assert contents(dataset.filename).endswith(sent + b"\0" * (len(sent) % 2))


@pytest.mark.parametrize("option", ["+xe", "+xi"])
async def test_as_the_peer_takes_it(own: Archive, requestor: Requestor, tmp_path: Path, option: str) -> None:
    instances = await examples(own)
    with storescp(tmp_path / "peer", option) as modality:
        found = await outcomes(requestor, modality, instances)
    assert [(each.status, each.comment) for each in found] == [(0, "")] * len(NAMES)
    came = received(tmp_path / "peer")
    wanted = {"+xi": {"1.2.840.10008.1.2"}}.get(option)
    for instance in instances:
        original = pydicom.dcmread(io.BytesIO(b"".join([chunk async for chunk in own.retrieve.file(instance)])))
        dataset = came[instance.sop]
        assert not dataset.file_meta.TransferSyntaxUID.is_compressed
        assert wanted is None or str(dataset.file_meta.TransferSyntaxUID) in wanted
        assert np.array_equal(dataset.pixel_array, original.pixel_array)
        assert dataset.get("PatientName") == original.get("PatientName")


JPEG = "1.2.840.10008.1.2.4."
ONLY = {
    "JPEGLossless:Non-hierarchical-1stOrderPrediction": JPEG + "70",
    "JPEGLossless:Non-hierarchical:Process14": JPEG + "57",
    "JPEG2000LosslessOnly": JPEG + "90",
    "JPEGLSLossless": JPEG + "80",
    "RLELossless": "1.2.840.10008.1.2.5",
    "JPEGBaseline": JPEG + "50",
}


def only(folder: Path, syntax: str) -> tuple[str, ...]:
    """Options of a storescp that takes one transfer syntax, for the classes of NAMES."""
    path = folder / "storescp.cfg"
    images = ("CTImageStorage", "MRImageStorage", "UltrasoundImageStorage", "SecondaryCaptureImageStorage")
    classes = (*images, "BasicTextSRStorage")
    contexts = [f"PresentationContext{n} = {each}\\Only" for n, each in enumerate(classes, 1)]
    path.write_text(
        f"[[TransferSyntaxes]]\n[Only]\nTransferSyntax1 = {syntax}\n"
        "[[PresentationContexts]]\n[Images]\n" + "\n".join(contexts) + "\n"
        "[[Profiles]]\n[Only]\nPresentationContexts = Images\n"
    )
    return "-xf", str(path), "Only"


@pytest.mark.parametrize("syntax", ONLY)
async def test_a_peer_that_takes_one_compressed_form(
    own: Archive, requestor: Requestor, tmp_path: Path, syntax: str
) -> None:
    instances = await examples(own)
    with storescp(tmp_path / "peer", *only(tmp_path, ONLY[syntax])) as modality:
        found = await outcomes(requestor, modality, instances)
    came = received(tmp_path / "peer")
    # Nothing is compressed with a loss on the way: the only baseline JPEG that goes out is the one that is stored.
    fit = [each for each in instances if ONLY[syntax] != JPEG + "50" or each.transfer_syntax == JPEG + "50"]
    assert {each.instance.sop for each in found if each.sent} == {each.sop for each in fit} == set(came)
    assert {each.status for each in found if not each.sent} <= {0x0122}
    for instance in fit:
        original = pydicom.dcmread(io.BytesIO(b"".join([chunk async for chunk in own.retrieve.file(instance)])))
        dataset = came[instance.sop]
        assert dataset.file_meta.TransferSyntaxUID == ONLY[syntax]
        assert np.array_equal(pixels(dataset), pixels(original))


def pixels(dataset: pydicom.Dataset) -> np.ndarray:
    """What another implementation decodes: DCMTK where pydicom has no codec."""
    if str(dataset.file_meta.TransferSyntaxUID) in (JPEG + "57", JPEG + "70"):
        plain = Path(f"{dataset.filename}.plain")
        subprocess.run(["dcmdjpeg", dataset.filename, plain], check=True)
        dataset = pydicom.dcmread(plain)
    return dataset.pixel_array


async def test_contexts_that_are_left_propose_lossless_forms() -> None:
    few = groups([("1.2.3", "1.2.840.10008.1.2.1")], transcoding=True)
    [(_, proposed)] = few[0].items()
    assert [each.transfer_syntaxes for each in proposed[:2]] == [
        ("1.2.840.10008.1.2.1",),
        ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"),
    ]
    assert {each.transfer_syntaxes[0] for each in proposed[2:]} >= set(ONLY.values()) - {JPEG + "50"}
    many = groups([(f"1.2.{n}", JPEG + "70") for n in range(50)], transcoding=True)
    contexts = {each for proposed in many[0].values() for each in proposed}
    assert (len(many), len(contexts)) == (1, 128)
    assert sum(each.transfer_syntaxes == (JPEG + "90",) for each in contexts) == 28
    [(_, alone)] = groups([("1.2.3", "1.2.840.10008.1.2.1")], transcoding=False)[0].items()
    assert len(alone) == 1


async def test_without_transcoding(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    instances = await examples(own)
    with storescp(tmp_path / "peer", "+xi") as modality:
        found = await outcomes(requestor, replace(modality, transcoding=False), instances)
    assert {each.status for each in found} == {0x0122}
    assert all(each.comment for each in found)


async def test_many_classes_take_several_associations(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    from dimse_bridge.contexts import STORAGE_CLASSES

    classes = sorted(STORAGE_CLASSES)[:150]
    kinds = [(each, syntax) for each in classes for syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90")]
    made = groups(kinds, transcoding=True)
    assert sum(map(len, made)) == 300
    assert len(made) == 4
    assert all(len({p for proposed in group.values() for p in proposed}) <= 128 for group in made)
    instances = await stored(own, *(files.ct(SOPClassUID=each) for each in classes))
    with storescp(tmp_path / "peer", "+xa", "-pm") as modality:
        found = await outcomes(requestor, modality, instances)
    assert {each.status for each in found} == {0}
    assert len(received(tmp_path / "peer")) == 150


async def test_an_association_that_breaks_is_made_again(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    instances = await stored(own, *(files.ct() for _ in range(6)))
    port = free_port()
    with contextlib.ExitStack() as first:
        modality = first.enter_context(storescp(tmp_path / "one", port=port))
        sending = send(requestor, LOCAL, modality, instances)
        assert (await anext(sending)).sent
        assert (await anext(sending)).sent
        first.close()
        with storescp(tmp_path / "two", port=port):
            assert all([each.sent async for each in sending])
    assert len(received(tmp_path / "one")) == 2
    assert len(received(tmp_path / "two")) == 4


async def test_nobody_there(own: Archive, requestor: Requestor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimse_bridge.sending._AGAIN_SECONDS", 0.01)
    [instance] = await stored(own, files.ct())
    with pytest.raises(PeerFailed, match="cannot be reached"):
        await outcomes(requestor, Modality("x", "X", "127.0.0.1", free_port()), [instance])


async def test_a_peer_that_says_nothing(own: Archive, requestor: Requestor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        modality = Modality("x", "X", "127.0.0.1", listener.getsockname()[1], timeout=0.3)
        began = time.monotonic()
        with pytest.raises(PeerFailed):
            await requestor.echo(modality)
        assert time.monotonic() - began < 5


async def test_the_originator_of_a_move(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    [instance] = await stored(own, files.ct())
    with storescp(tmp_path / "peer") as modality:
        found = await outcomes(requestor, modality, [instance], originator=("WORKSTATION", 7))
    assert found[0].sent


async def test_who_stops_waiting_leaves_nothing_behind(own: Archive, requestor: Requestor, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        modality = Modality("x", "X", "127.0.0.1", listener.getsockname()[1], timeout=2)
        asked = [asyncio.create_task(requestor.echo(modality)) for _ in range(20)]
        await asyncio.sleep(0.3)
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    with storescp(tmp_path / "peer") as peer:
        await asyncio.wait_for(requestor.echo(peer), 10)
