"""Who may connect, in one process and in several that share a port."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb import errors
from dimse_bridge import status
from dimse_bridge.identity import check_identity
from dimse_bridge.limits import Limits
from dimse_bridge.peers import Board, Peers
from storage.settings import Settings, load_settings
from tests.dimse.peers import encoded, instance
from tests.dimse.wire import CT, EXPLICIT_LE, IMPLICIT_LE


class Newcomer:
    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


def test_newcomers_make_room_and_associations_are_counted():
    peers = Peers(Limits(max_pending=3, max_associations=3, max_associations_per_peer=2))
    other, *same = [Newcomer("10.0.0.1"), *(Newcomer("10.0.0.2") for _ in range(4))]
    for each in (other, *same):
        peers.arrive(each)
    assert [each.evicted for each in (other, *same)] == [False, True, True, False, False]
    assert peers.establish(same[2])
    assert peers.establish(same[3])
    extra = Newcomer("10.0.0.2")
    peers.arrive(extra)
    assert not peers.establish(extra)  # two of one address
    assert peers.establish(other)
    third = Newcomer("2001:db8::3")
    peers.arrive(third)
    assert not peers.establish(third)  # three in all
    assert peers.associations == 3
    for each in (other, *same, extra, third):
        peers.leave(each)
        peers.leave(each)
    assert peers.associations == 0
    assert peers.establish(third)


def test_processes_count_together_and_know_who_has_more():
    limits = Limits(max_associations=4, max_associations_per_peer=3)
    board = Board(2, limits.max_associations)
    assert not board.ready
    one = Peers(limits, board, 0)
    assert not board.ready
    other = Peers(limits, board, 1)
    assert board.ready
    ours, theirs = [Newcomer("10.0.0.1") for _ in range(2)], [Newcomer("10.0.0.1") for _ in range(2)]
    for each in ours:
        one.arrive(each)
    assert (one.excess, other.excess) == (2, 0)
    assert all(one.establish(each) for each in ours)
    assert other.establish(theirs[0])
    assert not other.establish(theirs[1])  # the fourth of one address
    assert other.establish(Newcomer("::1"))
    assert not one.establish(Newcomer("::1"))  # the fifth in all
    assert (one.excess, other.excess) == (0, 0)
    one = Peers(limits, board, 0)  # its process died, and another took its place
    assert one.associations == 0
    assert other.excess == 2
    assert one.establish(Newcomer("::1"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Conflict("twice"), 0xC111),
        (errors.IdentityMismatch("other"), 0xA900),
        (errors.BadDicom("bad"), 0xC000),
        (errors.TooLarge("large"), 0xA700),
        (errors.Unavailable("down"), 0xA700),
        (errors.Forbidden("no"), 0x0124),
        (RuntimeError("secret"), 0x0110),
    ],
)
def test_every_failure_of_a_store_has_a_status(error, code):
    result = status.of_store(error)
    assert result.code == code
    assert "secret" not in result.comment


def test_comments_fit_into_an_lo():
    result = status.of_store(errors.BadDicom("tag\\x\n\u00fc " + "y" * 100))
    assert result.comment.startswith("tag?x?? yyy")
    assert len(result.comment) == 64
    assert result.comment.isascii()


def test_identity_is_read_behind_a_sequence_without_length():
    dataset = instance()
    language = b"\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    item = b"\x08\x00\x00\x01SH\x02\x00en" + b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = language + item + encoded(dataset)
    check_identity(data, EXPLICIT_LE, CT, dataset.SOPInstanceUID)
    with pytest.raises(errors.IdentityMismatch, match="SOPInstanceUID"):
        check_identity(data, EXPLICIT_LE, CT, "1.2.3")
    with pytest.raises(errors.IdentityMismatch, match="SOPClassUID"):
        check_identity(data, EXPLICIT_LE, "1.2.3", dataset.SOPInstanceUID)


@given(
    st.binary(max_size=300),
    st.sampled_from([EXPLICIT_LE, IMPLICIT_LE, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]),
)
def test_identity_of_rubbish_is_left_to_the_scanner(data, syntax):
    check_identity(b"\x08\x00\x05\x00" + data, syntax, "", "")


def test_every_limit_is_a_setting() -> None:
    names = {
        "max_pdu": "dimse_max_pdu",
        "max_associate_pdu": "dimse_max_associate_pdu",
        "max_command": "dimse_max_command",
        "max_data_set": "dimse_max_data_set",
        "max_action": "dimse_max_commitment",
        "max_associations": "dimse_associations",
        "max_associations_per_peer": "dimse_associations_per_peer",
        "max_pending": "dimse_pending",
        "associate_timeout": "dimse_associate_timeout",
        "idle_timeout": "dimse_idle_timeout",
        "read_idle": "dimse_pdu_silence",
        "pdu_deadline": "dimse_pdu_timeout",
        "send_timeout": "dimse_send_timeout",
        "ask_timeout": "dimse_answer_timeout",
        "spool_timeout": "dimse_spool_timeout",
        "store_timeout": "dimse_store_timeout",
    }
    usual, of_settings = Limits(), Limits.of(Settings())
    for field, name in names.items():
        assert getattr(usual, field) == getattr(of_settings, field), name
        other = getattr(usual, field) * 2
        changed = Limits.of(load_settings({name: other}, {}, None)[0])
        assert changed == dataclasses.replace(of_settings, **{field: other})
    assert {each.name for each in dataclasses.fields(Limits)} == {*names, "stop_grace"}
