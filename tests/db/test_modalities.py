"""Declared application entities: what is taken, who is known, and what negotiation is told."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from dicomweb.errors import BadRequest, Forbidden, NotFound, TooLarge
from storage.access import LOCAL, Access
from storage.archive import Archive, open_archive
from storage.modalities import LocalTitle, Modality
from storage.settings import Settings

CT = Modality("ct", "CT1", "127.0.0.1", 11112, allow=frozenset({"echo", "store"}))


async def test_declare_change_forget(archive: Archive) -> None:
    service = archive.modalities
    await service.put(LOCAL, CT)
    await service.put(LOCAL, Modality("a", "A", "host.example", 104, timeout=2.5, local_aet="US", tls=True))
    assert [each.name for each in await service.list(LOCAL)] == ["a", "ct"]
    assert await service.get(LOCAL, "ct") == CT
    await service.put(LOCAL, replace(CT, port=105))
    assert (await service.get(LOCAL, "ct")).port == 105
    await service.delete(LOCAL, "ct")
    with pytest.raises(NotFound):
        await service.get(LOCAL, "ct")
    with pytest.raises(NotFound):
        await service.delete(LOCAL, "ct")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""}, {"name": "a/b"}, {"aet": "SEVENTEEN LETTERS"}, {"aet": ""}, {"local_aet": ""}, {"port": 70000},
        {"host": "a b"}, {"timeout": 0.0}, {"timeout": float("nan")}, {"retrieve_method": "FTP"},
        {"allow": frozenset({"fly"})}, {"certificates": ("AB",)}, {"certificates": ("0" * 64,) * 17},
        {"certificates": ("dns:",)}, {"certificates": ("cn:a\nb",)}, {"certificates": ("uri:urn:x",)},
        {"host": "192.0.2.1/24"}, {"host": "name/24"}, {"host": "/"}, {"host": "192.0.2.0/33"},
    ],
)  # fmt: skip
async def test_what_no_modality_is(archive: Archive, wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        await archive.modalities.put(LOCAL, replace(CT, **wrong))


async def test_who_calls_from_a_network(archive: Archive) -> None:
    service = archive.modalities
    await service.put(LOCAL, replace(CT, host="192.0.2.0/25"))
    await service.put(LOCAL, replace(CT, name="v6", aet="CT6", host="2001:db8::/32"))
    for title, address, there in (
        ("CT1", "192.0.2.1", True), ("CT1", "::ffff:192.0.2.127", True), ("CT1", "192.0.2.128", False),
        ("CT1", "2001:db8::1", False), ("CT6", "2001:db8::1", True), ("CT6", "192.0.2.1", False),
    ):  # fmt: skip
        found = await service.welcome("ANOR", title, address)
        assert found is not None
        assert (found.modality is not None) is there, (title, address)
    assert await service.by_aet(LOCAL, "CT1") is None  # nobody knows where it is
    assert not (await service.get(LOCAL, "ct")).can_be_called


async def test_who_may(archive: Archive) -> None:
    reader = Access(LOCAL.tenant, "reader", frozenset({"dimse.read"}))
    assert await archive.modalities.list(reader) == []
    with pytest.raises(Forbidden):
        await archive.modalities.put(reader, CT)
    with pytest.raises(Forbidden):
        await archive.modalities.list(Access(LOCAL.tenant, "nobody", frozenset()))


async def test_there_is_a_limit(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.modalities.MAX_MODALITIES", 1)
    await archive.modalities.put(LOCAL, CT)
    await archive.modalities.put(LOCAL, CT)
    with pytest.raises(TooLarge):
        await archive.modalities.put(LOCAL, replace(CT, name="other"))


async def test_destinations_have_an_address(archive: Archive) -> None:
    await archive.modalities.put(LOCAL, replace(CT, name="a", host=""))
    assert await archive.modalities.by_aet(LOCAL, "CT1") is None
    await archive.modalities.put(LOCAL, CT)
    assert await archive.modalities.by_aet(LOCAL, "CT1") == CT
    assert await archive.modalities.by_aet(LOCAL, "CT2") is None


async def test_welcome(archive: Archive) -> None:
    service = archive.modalities
    here, remote = {"echo", "store", "find", "get"}, {"echo", "store"}
    for address, allow in (("127.0.0.1", here), ("::1", here), ("::ffff:127.1.2.3", here), ("192.0.2.1", remote)):
        unknown = await service.welcome("ANOR", "CT1", address)
        assert unknown is not None
        assert (unknown.modality, unknown.allow) == (None, allow)
    assert await service.welcome("OTHER", "CT1", "127.0.0.1") is None
    await service.put(LOCAL, CT)  # what was known before does not count any more
    known = await service.welcome("ANOR ", " CT1", "::ffff:127.0.0.1")
    assert known is not None
    assert (known.tenant, known.modality, known.allow) == (1, CT, CT.allow)
    elsewhere = await service.welcome("ANOR", "CT1", "192.0.2.1")
    assert elsewhere is not None
    assert elsewhere.modality is None
    await service.put(LOCAL, replace(CT, host="localhost"))
    named = await service.welcome("ANOR", "CT1", "127.0.0.1")
    assert named is not None
    assert named.modality is not None


async def test_titles_of_our_own(archive: Archive) -> None:
    await archive.db.fetch_sql("INSERT INTO tenant VALUES (2, 'other')")
    await archive.db.fetch_sql("INSERT INTO local_aet VALUES ('RESEARCH', 2, '{trial}')")
    await archive.modalities.put(LOCAL, CT)
    found = await archive.modalities.welcome("RESEARCH", "CT1", "127.0.0.1")
    assert found is not None
    assert (found.tenant, found.labels, found.modality) == (2, ("trial",), None)


async def test_nobody_takes_the_title_of_the_settings(archive: Archive) -> None:
    service, other = archive.modalities, Access(2, "other", LOCAL.scopes)
    await archive.db.fetch_sql("INSERT INTO tenant VALUES (2, 'other')")
    with pytest.raises(BadRequest, match="another tenant"):
        await service.put_title(other, LocalTitle("ANOR"))
    assert await service.titles(other) == []
    await archive.db.fetch_sql("INSERT INTO local_aet VALUES ('ANOR', 2, '{theirs}')")  # as it may have had before
    found = await service.welcome("ANOR", "CT1", "127.0.0.1")
    assert found is not None
    assert (found.tenant, found.labels) == (1, ())
    await service.delete_title(other, "ANOR")
    await service.put_title(LOCAL, LocalTitle("ANOR", ("ours",)))
    found = await service.welcome("ANOR", "CT1", "127.0.0.1")
    assert found is not None
    assert (found.tenant, found.labels) == (1, ("ours",))


async def test_without_a_look_at_the_host(settings: Callable[..., Settings], database_url: str) -> None:
    archive = await open_archive(
        settings(database_url=database_url, dimse_check_host=False, dimse_open="", dimse_open_local="")
    )
    await archive.modalities.put(LOCAL, CT)
    await archive.modalities.put(LOCAL, replace(CT, name="elsewhere", host="192.0.2.1", port=1))
    for address, name in (("192.0.2.1", "elsewhere"), ("127.0.0.1", "ct"), ("192.0.2.9", "ct")):
        found = await archive.modalities.welcome("ANOR", "CT1", address)
        assert found is not None
        assert found.modality is not None
        assert found.modality.name == name
    unknown = await archive.modalities.welcome("ANOR", "CT9", "127.0.0.1")
    assert unknown is not None
    assert unknown.allow == frozenset()
    await archive.close()


async def test_a_storm_of_callers_costs_no_statements(archive: Archive) -> None:
    await archive.modalities.welcome("ANOR", "CT1", "127.0.0.1")
    before = archive.db.statements
    await asyncio.gather(*(archive.modalities.welcome("ANOR", "CT1", "127.0.0.1") for _ in range(1000)))
    assert archive.db.statements - before < 10  # none, but where what is remembered grows old meanwhile
    for number in range(1200):
        await archive.modalities.welcome("ANOR", f"N{number}", "127.0.0.1")
    assert len(archive.modalities._welcomes) == 1024


async def test_a_title_is_of_those_who_show_its_certificate(archive: Archive) -> None:
    one, two = "1" * 64, "2" * 64
    for name, host, certificates in (("a", "127.0.0.1", (one,)), ("b", "192.0.2.1", (two,)), ("c", "192.0.2.2", ())):
        await archive.modalities.put(LOCAL, replace(CT, name=name, host=host, certificates=certificates))

    async def known(address: str, certificate: str) -> str:
        found = await archive.modalities.welcome("ANOR", "CT1", address, frozenset({certificate} - {""}))
        assert found is not None
        assert found.modality is not None or not found.allow
        return found.modality.name if found.modality is not None else ""

    assert [await known("127.0.0.1", each) for each in (one, two, "")] == ["a", "", ""]
    assert [await known("192.0.2.1", each) for each in (one, two, "")] == ["", "b", ""]
    assert [await known("192.0.2.2", each) for each in (one, "")] == ["c", "c"]
    assert [await known("192.0.2.9", each) for each in (one, two, "")] == [
        "",
        "",
        "",
    ]  # of another host: not as undeclared
    assert (await archive.modalities.get(LOCAL, "a")).certificates == (one,)

    await archive.modalities.put(
        LOCAL, replace(CT, name="d", host="192.0.2.3", certificates=("dns:ct.example", "cn:x"))
    )
    assert [await known("192.0.2.3", each) for each in ("dns:ct.example", "cn:x", "dns:x", one, "")] == [
        *("d", "d", "", "", "")
    ]
