"""What a modification does to the files it is for: made from the job's content, the same by every worker.

UIDs and pseudonyms are keyed hashes. The key is the job's own, so that a part done twice gives the same instance
and nobody can trace back what two jobs made; whoever wants the same pseudonyms in several jobs gives a `ProjectKey`.
"""

import secrets
import uuid
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dicomweb.deidentify import Pseudonyms
from dicomweb.deidentify.request import Anonymization, Modification
from dicomweb.edit import Rules
from dicomweb.edit.paths import Path
from dicomweb.edit.rules import REMOVE, Action
from dicomweb.edit.subject import PATIENT_NAME
from dicomweb.errors import BadRequest
from dicomweb.media import EXPLICIT_LE, IMPLICIT_LE
from dicomweb.pixels.encode import DEFAULT_QUALITY, Quality, quality_of
from dicomweb.pixels.syntaxes import SYNTAXES
from dicomweb.tags import Level

_KEY_BYTES: Final = 32
_MIN_PROJECT: Final = 16
_MAX_PROJECT: Final = 1024
_PREDECESSOR: Final = Path((), 0x00082112)  # Source Image Sequence
TARGETS: Final = frozenset((EXPLICIT_LE, IMPLICIT_LE, *SYNTAXES))


@dataclass(slots=True)
class Plan:
    """Rules, and the transfer syntax of the new files ("": as the old). `in_place`: they take their place.

    `derived_rules` are for files that lossy compression has made before the edit.
    """

    rules: Rules
    derived_rules: Rules
    transcode: str = ""
    quality: Quality = DEFAULT_QUALITY
    in_place: bool = False
    _known: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def rules_for(self, uid: str, sop: str) -> Iterator[Rules]:
        """The rules for a file of the instance `sop`; under another `uid` it was derived, and is mapped as `sop` is."""
        if uid == sop:
            yield self.rules
            return
        self._known[uid] = sop
        try:
            yield self.derived_rules
        finally:
            self._known.pop(uid, None)


def new_key(body: Mapping[str, Any]) -> str:
    """The key of a request, as text: the project's where it gives one. Raises BadRequest."""
    given = body.get("ProjectKey")
    if given is None:
        return secrets.token_hex(_KEY_BYTES)
    if not isinstance(given, str) or not _MIN_PROJECT <= len(given.encode("utf-8", "replace")) <= _MAX_PROJECT:
        raise BadRequest(f"ProjectKey is a secret of {_MIN_PROJECT} to {_MAX_PROJECT} bytes", attribute="ProjectKey")
    return given


def parsed(body: Any, level: Level, *, anonymize: bool) -> Modification | Anonymization:
    """The request. Raises BadRequest, BadQuery."""
    request = Anonymization.parse(body) if anonymize else Modification.parse(body, level)
    if request.transcode and request.transcode not in TARGETS:
        raise BadRequest("Transcode is the UID of a transfer syntax that can be written", attribute="Transcode")
    return request


def plan_of(content: Mapping[str, Any], members: Container[str] | None = None, *, in_place: bool = False) -> Plan:
    """The plan of a job, or of one request.

    `content`: `body` as Orthanc has it, `level`, `anonymize`, `key`, and of an anonymization `name` and `one_patient`.
    `members`: see Modification.rules.
    """
    request = parsed(content["body"], Level(content["level"]), anonymize=content["anonymize"])
    pseudonyms = Pseudonyms(content["key"].encode("utf-8", "replace"))
    known: dict[str, str] = {}

    def uid(each: str) -> str:
        return pseudonyms.uid(known.get(each, each))

    def rules(request: Modification | Anonymization) -> Rules:
        if isinstance(request, Modification):
            return request.rules(uid, members)
        # Of one patient Orthanc's names; of several, and of a project, names that tell them apart.
        alone = content["one_patient"]
        patient = str(uuid.UUID(pseudonyms.patient_id("one") + pseudonyms.patient_id("patient"))) if alone else None
        found = request.rules(pseudonyms, patient_id=patient, patient_name=content["name"] if alone else None)
        found.uid = uid
        return found

    # The predecessor that a derived image names would have the new UID of the image itself.
    derived = replace(request, paths={_PREDECESSOR: REMOVE} | dict(request.paths))
    plain = rules(request)
    return Plan(
        plain,
        rules(derived) if is_lossy(request.transcode) else plain,
        request.transcode,
        quality_of(request.lossy_quality),
        in_place,
        known,
    )


def needs_name(body: Mapping[str, Any], request: Anonymization) -> bool:
    """Whether an anonymization takes the next name of the counter."""
    said = request.names(PATIENT_NAME, Action.REPLACE) or request.names(PATIENT_NAME, Action.KEEP)
    return not said and "ProjectKey" not in body


def is_lossy(syntax: str) -> bool:
    """Whether files in that transfer syntax are derived instances."""
    return syntax in SYNTAXES and not SYNTAXES[syntax].lossless
