"""One request on an association, and the command sets of its responses."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dimse_bridge import status
from dimse_bridge.command import primitive_of, response_to
from dimse_bridge.messages import Message
from dimse_bridge.service import Context

if TYPE_CHECKING:
    from dimse_bridge.association import Association


class Exchange:
    """See `service.Exchange`."""

    def __init__(self, association: "Association", context: Context, message: Message) -> None:
        self.association = association
        self.context = context
        self.command = message.command
        self.request = primitive_of(message.command)
        self.identifier = message.data_set
        self.too_long = message.too_long
        self.cancelled = False
        self.answered = False  # finally
        self._match: tuple[int, bytes] | None = None

    async def respond(
        self,
        status: int,
        *,
        comment: str = "",
        identifier: bytes | None = None,
        hold: bool = False,
        **elements: object,
    ) -> None:
        """See service.Exchange."""
        await self.association.respond(self, status, comment, identifier or b"", elements, hold=hold)

    def response(self, code: int, comment: str, elements: Mapping[str, object], *, has_data_set: bool) -> bytes:
        """The command set of a response; those of a query's matches are all the same, and made once."""
        match = code in status.NOT_FINAL and has_data_set and not elements and not comment
        if match and self._match is not None and self._match[0] == code:
            return self._match[1]
        named = {**elements, "ErrorComment": status.comment(comment)} if comment else elements
        command = response_to(self.command, code, named, has_data_set=has_data_set)
        if match:
            self._match = code, command
        return command
