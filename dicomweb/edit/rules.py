"""What is done to the attributes of a data set, compiled once and asked for every element of many files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final, NamedTuple, Protocol

from dicomweb.dictionary import PIXEL_REPRESENTATION, is_creator, public_vr
from dicomweb.edit.encoding import TEXT_VRS, Value
from dicomweb.edit.paths import Path
from dicomweb.edit.subject import CHARACTER_SET, Subject
from dicomweb.structure import GROUP_LENGTH, Head

_KEPT_SCOPES: Final = 4096
_KEPT_HEADS: Final = 20_000


class Action(IntEnum):
    """What becomes of an element."""

    KEEP = 0  # with all that is in it
    REMOVE = 1
    CLEAR = 2  # zero length
    DUMMY = 3  # a value that says nothing
    REPLACE = 4
    MAP_UID = 5
    MAP_KNOWN_UID = 6  # only values that are known to be mapped elsewhere
    SHIFT = 7  # dates, by the patient's number of days
    CLEAN = 8  # text
    WALK = 9  # a sequence: the rules hold for what is in its items
    RECODE = 10  # text into another character set
    NOTE = 11  # kept, and of effect on the elements behind it
    PRIVATE = 12  # what its private creator decides


class Private(Enum):
    """What becomes of private attributes."""

    KEEP = "keep"
    REMOVE = "remove"
    SAFE = "safe"  # kept where the policy knows them


class Rule(NamedTuple):
    """An action. `value` is the new one, also where the attribute is absent.

    `mode` goes to the policy with what is in the sequence; "D" says that a text or a date of which nothing can be kept
    becomes a dummy, otherwise it is cleared.
    """

    action: Action
    value: Value | Callable[[Subject], Value] | None = None
    mode: str = ""


KEEP, REMOVE, CLEAR, WALK = Rule(Action.KEEP), Rule(Action.REMOVE), Rule(Action.CLEAR), Rule(Action.WALK)
MAP_UID, MAP_KNOWN_UID = Rule(Action.MAP_UID), Rule(Action.MAP_KNOWN_UID)


class Place(NamedTuple):
    """Where attributes stand: the sequences around them by tag, outermost first, and the mode that those gave."""

    sop_class: str
    path: tuple[int, ...] = ()
    mode: str = ""


class Policy(Protocol):
    """Rules for whatever no path names, at every depth."""

    def rule(self, tag: int, vr: str, place: Place) -> Rule:
        """The rule of a public attribute. `vr` is "" when it is not known, and may be ambiguous."""
        ...

    def private_rule(self, tag: int, vr: str, creator: str, place: Place) -> Rule:
        """The rule of a private attribute that is not removed with all others; its creator's, where it is one."""
        ...


class References:
    """The policy of a modification: UIDs that are replaced are replaced wherever they are referred to."""

    def rule(self, tag: int, vr: str, place: Place) -> Rule:  # noqa: ARG002 - as the protocol has it
        """Only UIDs and what may hold them are looked at."""
        return MAP_KNOWN_UID if vr == "UI" else WALK if vr == "SQ" else KEEP

    def private_rule(self, tag: int, vr: str, creator: str, place: Place) -> Rule:  # noqa: ARG002
        """The same for private ones."""
        return self.rule(tag, vr, place)


@dataclass(slots=True)
class Node:
    """Rules of one data set by tag, and by sequence and index (None: each) those of its items."""

    rules: dict[int, Rule] = field(default_factory=dict)
    children: dict[int, dict[int | None, "Node"]] = field(default_factory=dict)


def _tree(paths: Mapping[Path, Rule]) -> Node:
    root = Node()
    for path, rule in paths.items():
        node = root
        for step in path.steps:
            node = node.children.setdefault(step.tag, {}).setdefault(step.index, Node())
        node.rules[path.tag] = rule
    return root


def _no_cleaner(subject: Subject) -> Callable[[str], str]:  # noqa: ARG001
    return lambda _: ""


class Rules:
    """A compiled set of rules; a value that any number of edits share, also at the same time.

    What `paths` say goes before the `policy`. `uid` maps a UID, `known` says which ones are mapped wherever they are
    met, `days` how far the dates of a patient are shifted, `cleaner` gives what says what is left of a text.
    """

    def __init__(
        self,
        paths: Mapping[Path, Rule],
        *,
        policy: Policy | None = None,
        private: Private = Private.KEEP,
        uid: Callable[[str], str] = str,
        known: Callable[[str, Subject], bool] = lambda uid, subject: uid in subject.uids,
        days: Callable[[Subject], int] = lambda _: 0,
        cleaner: Callable[[Subject], Callable[[str], str]] = _no_cleaner,
    ) -> None:
        paths = dict(paths)
        self.character_set = paths.pop(Path((), CHARACTER_SET), None)
        self.tree = _tree(paths)
        self.values = [rule.value for rule in paths.values() if rule.value is not None]
        self.policy = policy
        self.private = private
        self.uid = uid
        self.known = known
        self.days = days
        self.cleaner = cleaner
        self._scopes: dict[tuple[str, bool, bool], Scope] = {}
        self.scopes = 0

    def scope(self, sop_class: str, *, big: bool, recode: bool) -> "Scope":
        """The scope of the data set itself, with all that is known by now of what the rules mean for its elements."""
        if self.scopes > _KEPT_SCOPES:
            self._scopes.clear()
            self.scopes = 0
        key = (sop_class, big, recode)
        found = self._scopes.get(key)
        if found is None:
            found = self._scopes[key] = Scope(self, Place(sop_class), (self.tree,), recode=recode)
        return found

    def new_values(self, subject: Subject) -> list[Value]:
        """All values that may be written into a file of this subject."""
        return [value if isinstance(value, Value) else value(subject) for value in self.values]


class Decision(NamedTuple):
    """What an element header means: `vr` is the one to go by, "" when its creator or its length has to say it."""

    tag: int
    long: bool
    action: Action
    vr: str
    rule: Rule
    head: Head


class Scope:
    """The rules for one data set, the file's own or that of an item; `known` has decisions by header bytes."""

    __slots__ = ("_children", "_nodes", "_recode", "_rules", "additions", "indexed", "inert", "known", "place")

    def __init__(self, rules: Rules, place: Place, nodes: tuple[Node, ...], *, recode: bool) -> None:
        rules.scopes += 1
        self._rules = rules
        self._nodes = nodes
        self._recode = recode
        self._children: dict[tuple[int, str, int | None], Scope] = {}
        self.place = place
        self.known: dict[bytes, Decision] = {}
        found: dict[int, Rule] = {}
        for node in reversed(nodes):
            found.update(node.rules)
        # Descending, so that the next one is the last.
        self.additions = sorted(((tag, rule) for tag, rule in found.items() if rule.value is not None), reverse=True)
        busy = recode or rules.policy is not None or rules.private is not Private.KEEP
        self.inert = not busy and not any(node.rules or node.children for node in nodes)
        # Sequences whose items differ in what is done to them.
        self.indexed = frozenset(tag for node in nodes for tag, each in node.children.items() if set(each) != {None})

    def child(self, tag: int, mode: str, index: int) -> "Scope":
        """The scope of an item of a sequence."""
        key = (tag, mode, index if tag in self.indexed else None)
        found = self._children.get(key)
        if found is None:
            children = [node.children[tag] for node in self._nodes if tag in node.children]
            nodes = [each[at] for at in (index, None) for each in children if at in each]
            place = Place(self.place.sop_class, (*self.place.path, tag), mode)
            found = Scope(self._rules, place, tuple(nodes), recode=self._recode)
            if len(self._children) < _KEPT_SCOPES:
                self._children[key] = found
        return found

    def decide(self, raw: bytes, head: Head) -> Decision:
        """What the header bytes `raw` mean here; remembered in `known`."""
        if len(self.known) > _KEPT_HEADS:
            self.known.clear()
        decision = self.known[raw] = self._decided(head)
        return decision

    def _decided(self, head: Head) -> Decision:
        tag = head.tag
        vr = head.vr
        if vr in {"UN", ""}:
            vr = "" if tag & 0x10000 else public_vr(tag)
        rule = self._rule(head, vr)
        action = rule.action
        if action == Action.KEEP and vr == "SQ" and not self._is_inert(tag, rule.mode):
            action = Action.WALK
        elif action == Action.WALK and vr == "SQ" and self._is_inert(tag, rule.mode):
            action = Action.KEEP
        elif action == Action.KEEP and self._recode and vr in TEXT_VRS:
            action = Action.RECODE
        elif action == Action.KEEP and tag == PIXEL_REPRESENTATION:
            action = Action.NOTE
        return Decision(tag, head.long, action, vr, rule, head)

    def _is_inert(self, tag: int, mode: str) -> bool:
        return tag not in self.indexed and self.child(tag, mode, 0).inert

    def _rule(self, head: Head, vr: str) -> Rule:
        tag = head.tag
        if head.kind == GROUP_LENGTH:
            # Retired (PS3.5 7.2), and wrong once anything in the group has changed.
            return KEEP if self.inert else REMOVE
        if tag == CHARACTER_SET:
            return Rule(Action.NOTE)
        for node in self._nodes:
            if tag in node.rules:
                return node.rules[tag]
        rules = self._rules
        if tag & 0x10000:
            if rules.private is Private.REMOVE:
                return REMOVE
            if rules.policy is not None or (self._recode and head.vr in {"UN", ""}) or is_creator(tag):
                return Rule(Action.PRIVATE)
            return KEEP
        return rules.policy.rule(tag, vr, self.place) if rules.policy is not None else KEEP

    def private(self, tag: int, vr: str, creator: str) -> Rule:
        """The rule of a private attribute whose creator and VR are known by now."""
        policy = self._rules.policy
        rule = policy.private_rule(tag, vr, creator, self.place) if policy is not None else KEEP
        if rule.action == Action.KEEP and self._recode and vr in TEXT_VRS:
            return Rule(Action.RECODE)
        if rule.action == Action.KEEP and vr == "SQ" and not self._is_inert(tag, rule.mode):
            return WALK
        return rule
