"""What the rules make of the values of one file."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dicomweb.charset import Codecs, codecs_for, decode
from dicomweb.edit.encoding import UTF_8, Value, definite, element, encode, fits, header, writing_codec
from dicomweb.edit.rules import Action, Decision, Rules, Scope
from dicomweb.edit.subject import SOP_CLASS, SOP_INSTANCE, Subject
from dicomweb.edit.treatments import dummy, mapped, shifted
from dicomweb.errors import BadRequest
from dicomweb.notes import Notes
from dicomweb.structure import Coding, heads_of, name_of

_MAX_TEXT: Final = 1 << 20


@dataclass(slots=True)
class Report:
    """What an edit did: how often each action changed something, and how many attributes were added.

    `burned_in` says that the pixels may name the patient (Burned In Annotation is YES); they are never looked at.
    """

    burned_in: bool
    actions: Counter[Action] = field(default_factory=Counter)
    added: int = 0


@dataclass(frozen=True, slots=True)
class TextCoding:
    """How the text of a data set is read, and how it is written."""

    codecs: Codecs
    writer: str


class Changes:
    """The rules, bound to the file of one subject. `character_set` is the one to which all text goes over, or None."""

    def __init__(self, rules: Rules, subject: Subject) -> None:
        self.rules = rules
        self.subject = subject
        self.report = Report(subject.burned_in)
        self._days: int | None = None
        self._clean: Callable[[str], str] | None = None
        self.character_set = self._target()
        writer = writing_codec(subject.character_set if self.character_set is None else self.character_set)
        self.text = TextCoding(subject.codecs, writer)

    def _target(self) -> bytes | None:
        """Another Specific Character Set, where one is asked for or a new value needs it (PS3.3 C.12.1.1.2)."""
        asked = self.rules.character_set
        if asked is None or asked.action == Action.KEEP:
            codec = writing_codec(self.subject.character_set)
            return None if all(fits(value, codec) for value in self.rules.new_values(self.subject)) else UTF_8
        value = asked.value
        term = "\\".join(value.values) if isinstance(value, Value) else ""
        if term not in {"", "ISO_IR 6"} and writing_codec(term.encode()) == "ascii":
            raise BadRequest(
                "SpecificCharacterSet: text is not converted into this character set", attribute="SpecificCharacterSet"
            )
        return term.encode()

    def coding_of(self, character_set: bytes) -> TextCoding:
        """Of an item that has a Specific Character Set of its own."""
        writer = self.text.writer if self.character_set is not None else writing_codec(character_set)
        return TextCoding(codecs_for(character_set, Notes()), writer)

    def added(self, tag: int, value: Value, coding: Coding, text: TextCoding) -> bytes:
        """The element of an attribute that was not there."""
        self.report.added += 1
        return encode(tag, value, coding, text.writer, "SS" if self.subject.pixel_representation == 1 else "")

    def resolved(self, decision: Decision) -> Value:
        """The new value that a rule gives."""
        value = decision.rule.value
        assert value is not None
        return value if isinstance(value, Value) else value(self.subject)

    def changed(self, decision: Decision, raw: bytes, coding: Coding, text: TextCoding) -> bytes:
        """The element in place of one with the value field `raw`; b"" when it is removed."""
        tag, action, vr = decision.tag, decision.action, decision.vr
        if action == Action.REMOVE:
            return b""
        if action == Action.CLEAR:
            return header(tag, decision.head.vr or vr or "UN", 0, coding)
        if action == Action.REPLACE:
            return encode(tag, self.resolved(decision), coding, text.writer, decision.head.vr)
        if action == Action.RECODE:
            return element(tag, vr, self._recoded(tag, raw, text), coding)
        found = self._value(decision, raw, text)
        return encode(tag, found, coding, text.writer, definite(found))

    def _value(self, decision: Decision, raw: bytes, text: TextCoding) -> Value:
        uid, action, vr = self.rules.uid, decision.action, decision.vr
        if action == Action.MAP_UID:
            return mapped(raw, uid)
        if action == Action.MAP_KNOWN_UID:
            known, subject = self.rules.known, self.subject
            return mapped(raw, lambda each: uid(each) if known(each, subject) else each)
        found: Value | None = None
        if action == Action.SHIFT:
            if self._days is None:
                self._days = self.rules.days(self.subject)
            found = shifted(vr, raw, self._days)
        elif action == Action.CLEAN and len(raw) <= _MAX_TEXT:
            if self._clean is None:
                self._clean = self.rules.cleaner(self.subject)
            left = self._clean(decode(raw, text.codecs, Notes()).rstrip(" \0"))
            found = Value(vr, (left,)) if left else None
        if found is not None:
            return found
        # Of what could not be shifted or cleaned nothing is kept, but a value where the IOD needs one.
        if action in {Action.SHIFT, Action.CLEAN} and decision.rule.mode != "D":
            return Value(vr)
        return dummy(vr, raw, uid)

    def _recoded(self, tag: int, raw: bytes, text: TextCoding) -> bytes:
        """Text in the other character set; nothing may be lost on the way."""
        if raw.isascii() and b"\x1b" not in raw:
            return raw
        notes = Notes()
        found = decode(raw, text.codecs, notes)
        try:
            if not notes.count:
                return found.encode(text.writer)
        except UnicodeEncodeError:
            pass
        name = name_of(tag)
        raise BadRequest(f"{name}: its text cannot be converted into the new character set", attribute=name)

    def identity(self, scope: Scope, coding: Coding) -> tuple[str, str]:
        """SOP Class and SOP Instance UID as they will be."""
        return self._uid(SOP_CLASS, scope, coding), self._uid(SOP_INSTANCE, scope, coding)

    def _uid(self, tag: int, scope: Scope, coding: Coding) -> str:
        before = self.subject.text(tag)
        raw = header(tag, "UI", 0, coding)[: 6 if coding.explicit else 4]
        decision = scope.decide(raw, heads_of(coding).read(raw, 0))
        if decision.action == Action.REPLACE:
            return self.resolved(decision).values[0]
        if decision.action in {Action.MAP_UID, Action.MAP_KNOWN_UID}:
            return self._value(decision, before.encode("latin-1", "replace"), self.text).values[0]
        return before
