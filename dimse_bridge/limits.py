"""What a peer may use: bytes and seconds of one association. How many there may be is in `peers`."""

from dataclasses import dataclass

from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one DIMSE process; bytes and seconds."""

    max_pdu: int = 128 << 10  # announced to peers; DCMTK sends no more than this by itself
    max_associate_pdu: int = 256 << 10  # 128 contexts with 40 transfer syntaxes each are 150 KB
    max_command: int = 16 << 10
    max_data_set: int = 256 << 10  # of a request other than C-STORE
    max_action: int = 4 << 20  # of an N-ACTION: commitment of 10,000 instances
    max_associations: int = 64
    max_associations_per_peer: int = 48
    max_pending: int = 32  # connected, but no association asked for yet; for each process
    associate_timeout: float = 5.0
    idle_timeout: float = 60.0  # an association that says nothing
    read_idle: float = 5.0  # silence in the middle of a PDU
    pdu_deadline: float = 30.0  # one PDU from its first to its last byte
    send_timeout: float = 30.0  # a peer that does not read
    ask_timeout: float = 60.0  # the response to a request of ours
    spool_timeout: float = 60.0
    store_timeout: float = 600.0
    stop_grace: float = 30.0

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """The bounds that these settings give."""
        return cls(
            max_pdu=settings.dimse_max_pdu,
            max_associations=settings.dimse_associations,
            max_associations_per_peer=settings.dimse_associations_per_peer,
            associate_timeout=settings.dimse_associate_timeout,
            idle_timeout=settings.dimse_idle_timeout,
            max_associate_pdu=settings.dimse_max_associate_pdu,
            max_command=settings.dimse_max_command,
            max_data_set=settings.dimse_max_data_set,
            max_action=settings.dimse_max_commitment,
            max_pending=settings.dimse_pending,
            read_idle=settings.dimse_pdu_silence,
            pdu_deadline=settings.dimse_pdu_timeout,
            send_timeout=settings.dimse_send_timeout,
            ask_timeout=settings.dimse_answer_timeout,
            spool_timeout=settings.dimse_spool_timeout,
            store_timeout=settings.dimse_store_timeout,
            # The abort of what is left comes after the grace, and the supervisor has no more patience than the setting.
            stop_grace=max(1.0, settings.shutdown_timeout - 10.0),
        )
