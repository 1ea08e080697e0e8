"""Multipart answers of values that are made on the way, of which single ones may turn out to be broken."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing

from api.errors import problem_json, problem_of
from api.exchange import Exchange
from dicomweb.errors import BadPixels
from dicomweb.multipart import Writer, part_headers


def broken_part(http: Exchange, writer: Writer, location: str, error: BadPixels) -> bytes:
    """A part with a problem document (RFC 9457) for the value at `location`."""
    head = writer.part_head(part_headers("application/problem+json", location=location))
    return head + problem_json(problem_of(error), http.request_id)


async def parts_of(
    http: Exchange,
    writer: Writer,
    outcomes: AsyncGenerator[bytes | BadPixels, None],
    parts: Iterable[tuple[str, tuple[tuple[str, str], ...]]],
) -> AsyncIterator[bytes]:
    """The body: a part for each outcome, in order. `parts` gives where each lies, and the headers of its part.

    A broken one leaves a problem document in its place, so that no other is taken for it. Raises the first
    BadPixels when there is nothing else.
    """
    broken: BadPixels | None = None
    held = b""
    sent = False
    async with aclosing(outcomes):
        places = iter(parts)
        async for outcome in outcomes:
            location, headers = next(places)
            if isinstance(outcome, BadPixels):
                broken = broken or outcome
                held += broken_part(http, writer, location, outcome)
                if not sent:  # perhaps nothing can be: then this is no answer but an error
                    continue
                yield held
            else:
                sent = True
                yield held + writer.part_head(headers)
                yield outcome
            held = b""
    if broken is not None and not sent:
        raise broken
    yield writer.tail()
