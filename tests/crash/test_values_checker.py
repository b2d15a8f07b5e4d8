"""The checker of values finds planted lies: an honest history passes; each lie is one change to it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import msgspec
import pytest
from tests.crash.history import Frame, History, Op
from tests.crash.killing import ROOT
from tests.crash.load import VALUES
from tests.crash.values_checker import RULES, check_values

from synapse.core.events import Idem, Recorded
from synapse.core.value_events import ValueDeleted, ValuePut

KEY = VALUES[0]


class Story:
    """A hub of paper: what is asked, what it writes, and what it answers."""

    def __init__(self) -> None:
        self.journal: list[Recorded] = []
        self.ops: list[Op] = []
        self.head = 100

    def write(self, actor: str, event: ValuePut | ValueDeleted) -> int:
        self.head += 1
        self.journal.append(Recorded(self.head, 5, actor, event))
        return self.head

    def ask(self, agent: str, kind: str, body: Frame, frame: Frame | None) -> None:
        number = len(self.ops) + 1
        frame = None if frame is None else {"seq": self.head} | frame
        self.ops.append(
            Op(agent, agent, 1, number, kind, None, {"key": KEY} | body, number * 10, number * 10 + 5, frame)
        )

    def put(self, agent: str, mark: str, count: int, replaces: int, *, is_told: bool = True) -> int:
        value = {"mark": mark, "count": count}
        raw = msgspec.Raw(msgspec.json.encode(value))
        version = self.write(
            agent,
            ValuePut(room=1, room_name="main", key=KEY, value=raw, owner="ada", replaces=replaces or None),
        )
        reply = {"key": KEY, "version": version, "value": value, "updated_by": agent, "cursor": f"j:{version}"}
        said = {"type": "reply", "body": reply} if is_told else None
        self.ask(agent, "value.put", {"value": value, "if_version": replaces}, said)
        return version

    def read(self, agent: str, version: int, mark: str, count: int) -> None:
        reply = {"key": KEY, "version": version, "value": {"mark": mark, "count": count}}
        self.ask(agent, "value.get", {}, {"type": "reply", "body": reply})

    def refuse(self, agent: str, kind: str, body: Frame, code: str, **facts: object) -> None:
        self.ask(agent, kind, body, {"type": "error", "error": {"code": code, "facts": facts}})


def honest() -> Story:
    """Two who count, one removal, a conflict, and an answer that was cut off."""
    story = Story()
    story.refuse("ada", "value.get", {}, "not_found")
    first = story.put("ada", "ada.1", 1, 0)
    story.read("bob", first, "ada.1", 1)
    story.put("bob", "bob.1", 2, first, is_told=False)
    conflict = {"value": {"mark": "ada.2", "count": 2}, "if_version": first}
    story.refuse("ada", "value.put", conflict, "version_conflict", version=story.head, expected=first)
    gone = story.head
    story.write("ada", ValueDeleted(room=1, room_name="main", key=KEY, version=gone))
    story.ask("ada", "value.delete", {"if_version": gone}, {"type": "reply", "body": {"version": gone}})
    story.put("bob", "bob.2", 1, 0)
    return story


Journal: TypeAlias = list[Recorded]
Lie: TypeAlias = Callable[[list[Op], Journal], None]


def change(journal: Journal, at: int, **fields: object) -> None:
    """Change an event."""
    recorded = journal[at]
    journal[at] = recorded._replace(event=msgspec.structs.replace(recorded.event, **fields))


def a_put_is_not_in_the_journal(ops: list[Op], journal: Journal) -> None:
    del journal[-1]


def a_removal_is_not_in_the_journal(ops: list[Op], journal: Journal) -> None:
    change(journal, 2, key=VALUES[1])


def another_value_is_acknowledged(ops: list[Op], journal: Journal) -> None:
    ops[-1].reply["value"] = {"mark": "bob.2", "count": 7}


def a_value_that_nobody_put(ops: list[Op], journal: Journal) -> None:
    del ops[-1]


def somebody_else_put_it(ops: list[Op], journal: Journal) -> None:
    journal[-1] = journal[-1]._replace(actor="ada")


def a_refused_put_is_there(ops: list[Op], journal: Journal) -> None:
    ops[-1] = replace(ops[-1], frame={"type": "error", "seq": 104, "error": {"code": "read_only", "facts": {}}})


def a_repeat_is_refused_though_its_key_has_its_effect(ops: list[Op], journal: Journal) -> None:
    ops[4] = replace(ops[4], agent="bob", key="k")
    change(journal, 1, idem=Idem(key="k", hash="", count=1))


def a_put_is_there_twice(ops: list[Op], journal: Journal) -> None:
    journal.append(journal[-1]._replace(seq=105))


def two_counted_from_the_same_number(ops: list[Op], journal: Journal) -> None:
    change(journal, 1, value=msgspec.Raw(b'{"mark":"bob.1","count":1}'))


def a_version_was_replaced_that_was_not_there(ops: list[Op], journal: Journal) -> None:
    change(journal, 1, replaces=99)


def a_version_was_removed_that_was_not_there(ops: list[Op], journal: Journal) -> None:
    change(journal, 2, version=101)


def an_old_value_is_read(ops: list[Op], journal: Journal) -> None:
    assert ops[2].frame is not None
    ops[2].frame["seq"] = 102


def a_value_that_is_there_is_called_missing(ops: list[Op], journal: Journal) -> None:
    assert ops[0].frame is not None
    ops[0].frame["seq"] = 101


def a_conflict_names_another_version(ops: list[Op], journal: Journal) -> None:
    assert ops[4].frame is not None
    ops[4].frame["error"]["facts"]["version"] = 101


LIES: dict[Lie, str] = {
    a_put_is_not_in_the_journal: "lost",
    a_removal_is_not_in_the_journal: "lost",
    another_value_is_acknowledged: "altered",
    a_value_that_nobody_put: "unasked",
    somebody_else_put_it: "unasked",
    a_refused_put_is_there: "refused but applied",
    a_repeat_is_refused_though_its_key_has_its_effect: "refused but applied",
    a_put_is_there_twice: "applied twice",
    two_counted_from_the_same_number: "lost update",
    a_version_was_replaced_that_was_not_there: "lost update",
    a_version_was_removed_that_was_not_there: "lost update",
    an_old_value_is_read: "wrong value",
    a_value_that_is_there_is_called_missing: "conflict of nothing",
    a_conflict_names_another_version: "conflict of nothing",
}


def test_an_honest_history_has_no_finding() -> None:
    story = honest()
    assert check_values(History(ops=story.ops), story.journal) == []


@pytest.mark.parametrize(("lie", "rule"), LIES.items(), ids=lambda it: getattr(it, "__name__", it))
def test_a_planted_lie_is_named(lie: Lie, rule: str) -> None:
    story = honest()
    lie(story.ops, story.journal)
    findings = check_values(History(ops=story.ops), story.journal)
    assert rule in {finding.rule for finding in findings}, findings


def test_every_rule_has_a_planted_lie_and_is_in_the_docs() -> None:
    assert set(LIES.values()) == set(RULES)
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"`{rule}`" not in page] == []
