"""The stored text of the main attributes of patients, studies and series."""

import json
import re

import asyncpg
import pytest

from dicomweb.orthanc_tags import MAIN_TAGS
from dicomweb.tags import Level

# Of a series: what its instances share, and what its study has, come from there.
STORED = {
    "patient": {*MAIN_TAGS[Level.PATIENT]},
    "study": {*MAIN_TAGS[Level.PATIENT], *MAIN_TAGS[Level.STUDY]},
    "series": {*MAIN_TAGS[Level.SERIES]} - {"00080201"},
}


@pytest.mark.parametrize("table", STORED)
async def test_tags_of_a_description(database_url: str, table: str) -> None:
    """The migration lists the same tags as the code; who adds one has to write a migration."""
    connection = await asyncpg.connect(database_url)
    written = await connection.fetchval(
        "SELECT generation_expression FROM information_schema.columns"
        " WHERE table_name = $1 AND column_name = 'main_tags'",
        table,
    )
    await connection.close()
    assert set(re.findall(r"\b[0-9A-F]{8}\b", written)) == STORED[table]


async def test_text_is_json(database_url: str) -> None:
    attributes = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": 'O"Neill\\%s', "Ideographic": "山田"}]},
        "00100020": {"vr": "LO"},
        "00101030": {"vr": "DS", "Value": [81.5]},
    }
    connection = await asyncpg.connect(database_url)
    made = [
        await connection.fetchval("SELECT main_tags($1::text::jsonb, $2, $3)", json.dumps(attributes), tags, more)
        for tags in (["00100010", "00100020", "00080005"], [])
        for more in (None, '"00200037":{"vr":"DS","Value":[1.50]}')
    ]
    await connection.close()
    kept = {tag: attributes[tag] for tag in ("00100010", "00100020")}
    shared = {"00200037": {"vr": "DS", "Value": ["1.50"]}}
    assert [json.loads(text, parse_float=str) for text in made] == [kept, kept | shared, {}, shared]
