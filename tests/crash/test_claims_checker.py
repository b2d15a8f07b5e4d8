"""The checker of claims finds planted lies. An honest history passes; each lie is one change to it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import msgspec
import pytest
from tests.crash.claims_checker import (
    LATE_NS_MAX,
    MS,
    RULES,
    ClaimHistory,
    add_claims,
    check_claims,
    files_of,
    overlap,
)
from tests.crash.claims_load import NARROW, POOL, TTL_MS, WIDE, WORKTREE
from tests.crash.history import Frame, Op

from synapse.core.events import (
    Ask,
    Event,
    HubStarted,
    Idem,
    JournalStarted,
    LeaseCheckpointed,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseQueued,
    LeaseReleased,
    Recorded,
    RoomCreated,
)
from synapse.core.scopes import compile_pattern, overlaps


def ask(owner: str, task: str, *paths: str, mode: str = "exclusive", units: int = 0) -> Ask:
    """What a claim asks for."""
    return Ask(
        room=1,
        room_name="main",
        task=task,
        agent=int(owner[-1]),
        owner=owner,
        worktree=WORKTREE if paths else None,
        paths=paths,
        pools=((POOL, units),) if units else (),
        mode=mode,
    )


class Paper:
    """A hub of paper: requests, their events, the answers, and the notices of one watcher."""

    def __init__(self) -> None:
        self.journal: list[Recorded] = []
        self.lines: dict[str, list[Frame]] = {}
        self.conns: dict[str, int] = {}
        self.ops: dict[str, int] = {}
        self.ms = 0
        self.write("hub", JournalStarted(hub_id="h", journal_id="j"))
        self.write("hub", HubStarted(version="1"))

    @property
    def head(self) -> int:
        return self.journal[-1].seq

    def write(self, actor: str, event: Event) -> int:
        seq = self.journal[-1].seq + 1 if self.journal else 1001
        self.journal.append(Recorded(seq, 5, actor, event))
        if "watcher-1" in self.conns and type(event).__name__.startswith("Lease"):
            owner = event.ask.owner if hasattr(event, "ask") else getattr(event, "owner", None)
            body = {"by": actor, "owner": owner, "cursor": f"j:{seq}"}
            frame = {"type": "lease.changed", "seq": seq, "body": body}
            self.note("watcher-1", "notice", conn=self.conns["watcher-1"], frame=frame)
        return seq

    def note(self, client: str, what: str, **facts: object) -> None:
        self.ms += 1
        self.lines.setdefault(client, []).append({"ns": self.ms * MS, "what": what, **facts})

    def open(self, client: str) -> None:
        self.conns[client] = self.conns.get(client, 0) + 1
        self.note(client, "open", conn=self.conns[client], agent=client)

    def ask(self, client: str, type_: str, body: Frame, key: str | None = None) -> int:
        if client not in self.conns:
            self.open(client)
        self.ops[client] = op = self.ops.get(client, 0) + 1
        self.note(client, "invoke", conn=self.conns[client], op=op, type=type_, key=key, body=body)
        return op

    def reply(self, client: str, op: int, body: Frame, *, replayed: bool = False) -> None:
        frame = {"type": "reply", "id": op, "seq": self.head, "body": body, "replayed": replayed}
        self.note(client, "ok", op=op, frame=frame)

    def refuse(self, client: str, op: int, code: str) -> None:
        frame = {"type": "error", "id": op, "seq": self.head, "error": {"code": code}}
        self.note(client, "fail", op=op, frame=frame)

    def claim(self, wanted: Ask, key: str | None = None, **more: object) -> int:
        body: Frame = {"task": wanted.task, "paths": list(wanted.paths), "mode": wanted.mode, **more}
        if wanted.pools:
            body["pools"] = dict(wanted.pools)
        return self.ask(wanted.owner, "lease.claim", body, key)

    def grant(self, wanted: Ask, key: str | None = None, place: int | None = None, *, tied: bool = False) -> int:
        idem = None if key is None else Idem(key=key, hash="00", count=1)
        return self.write(wanted.owner, LeaseGranted(ask=wanted, ttl_ms=TTL_MS, place=place, idem=idem, tied=tied))

    def told(self, wanted: Ask, epoch: int) -> Frame:
        return {
            "epoch": epoch,
            "worktree": wanted.worktree,
            "paths": list(wanted.paths),
            "whole_worktree": False,
            "pools": dict(wanted.pools),
            "mode": wanted.mode,
            "outcome": "granted",
        }

    def held(self, wanted: Ask, key: str | None = None, *, tied: bool = False) -> int:
        op = self.claim(wanted, key)
        epoch = self.grant(wanted, key, tied=tied)
        self.reply(wanted.owner, op, self.told(wanted, epoch))
        return epoch

    def under(self, wanted: Ask, epoch: int, what: str, **more: object) -> int:
        return self.ask(wanted.owner, f"lease.{what}", {"task": wanted.task, "epoch": epoch, **more})

    def renew(self, wanted: Ask, epoch: int) -> None:
        self.reply(wanted.owner, self.under(wanted, epoch, "renew"), {"epoch": epoch})

    def release(self, wanted: Ask, epoch: int) -> int:
        op = self.under(wanted, epoch, "release")
        self.write(wanted.owner, _released(wanted, epoch))
        return op

    def pass_ms(self, ms: int) -> None:
        self.ms += ms

    def history(self) -> ClaimHistory:
        history = ClaimHistory()
        for client, lines in self.lines.items():
            add_claims(history, client, lines)
        return history


def _released(wanted: Ask, epoch: int) -> LeaseReleased:
    return LeaseReleased(room=1, room_name="main", task=wanted.task, owner=wanted.owner, epoch=epoch)


def _expired(wanted: Ask, epoch: int, reason: str) -> LeaseExpired:
    return LeaseExpired(room=1, room_name="main", task=wanted.task, owner=wanted.owner, epoch=epoch, reason=reason)


ONE = ask("holder-1", "T1", "a/**")
TWO = ask("holder-2", "T2", "a/x")
THREE = ask("holder-3", "T3", "a/d")
FOUR = ask("holder-4", "T2", "a/x")
FIVE = ask("holder-5", "T5", "c/**")
SIX = ask("holder-6", "T6", units=3)
SEVEN = ask("holder-7", "T7", units=1)


def honest() -> Paper:
    """Two hubs on one journal: claims, waits, a hand-off, expiries, and repeats and mutations that come too late."""
    paper = Paper()
    subscribed = paper.ask("watcher-1", "feed.subscribe", {"leases": True})
    paper.reply("watcher-1", subscribed, {"from_cursor": f"j:{paper.head}"})
    one = paper.held(ONE, "k1")
    waits, places = [], []
    for wanted in (TWO, THREE):
        waits.append(paper.claim(wanted, wait_ms=3_000))
        places.append(paper.write(wanted.owner, LeaseQueued(ask=wanted, ttl_ms=TTL_MS, wait_ms=3_000)))
    paper.renew(ONE, one)
    kept = paper.under(ONE, one, "checkpoint", data={"mark": "half"})
    paper.write(ONE.owner, LeaseCheckpointed(ask=ONE, epoch=one, data=msgspec.Raw(b'{"mark":"half"}')))
    paper.reply(ONE.owner, kept, {"epoch": one})
    for wanted, op in zip((TWO, THREE), waits, strict=True):
        paper.note(wanted.owner, "unknown", op=op)
    paper.write("hub", HubStarted(version="1"))
    for client in paper.conns:
        paper.open(client)
    again = [
        paper.claim(wanted, wait_ms=3_000, place=place) for wanted, place in zip((TWO, THREE), places, strict=True)
    ]
    released = paper.release(ONE, one)
    two, three = paper.grant(TWO, place=places[0]), paper.grant(THREE, place=places[1])
    paper.reply(ONE.owner, released, {"epoch": one})
    paper.reply(TWO.owner, again[0], paper.told(TWO, two))
    paper.reply(THREE.owner, again[1], paper.told(THREE, three))
    paper.renew(TWO, two)
    handed = paper.under(TWO, two, "hand_off", to="holder-4")
    four = paper.write(TWO.owner, LeaseHandedOff(ask=FOUR, previous=two, sender=TWO.owner))
    paper.reply(TWO.owner, handed, {"epoch": four, "outcome": "handed_off"})
    paper.refuse(TWO.owner, paper.under(TWO, two, "renew"), "stale_epoch")
    paper.renew(FOUR, four)
    six, seven = paper.held(SIX), paper.held(SEVEN)
    five = paper.held(FIVE, tied=True)
    paper.note(FIVE.owner, "close", conn=paper.conns[FIVE.owner])
    paper.pass_ms(700)
    paper.write("hub", _expired(FIVE, five, "connection"))
    paper.renew(FOUR, four)
    paper.renew(SIX, six)
    paper.renew(SEVEN, seven)
    paper.write("hub", RoomCreated(name="quiet"))
    paper.pass_ms(500)
    paper.write("hub", _expired(THREE, three, "ttl"))
    paper.renew(FOUR, four)
    paper.refuse(THREE.owner, paper.under(THREE, three, "checkpoint", data={"mark": "late"}), "stale_epoch")
    paper.reply(ONE.owner, paper.claim(ONE, "k1"), paper.told(ONE, one), replayed=True)
    for wanted, epoch in ((FOUR, four), (SIX, six), (SEVEN, seven)):
        paper.reply(wanted.owner, paper.release(wanted, epoch), {"epoch": epoch})
    paper.note("watcher-1", "end", upto=paper.head)
    return paper


Journal: TypeAlias = list[Recorded]
Lie: TypeAlias = Callable[[ClaimHistory, Journal], None]
LIES: list[tuple[str, Lie]] = []


def lie(rule: str) -> Callable[[Lie], Lie]:
    """Register a lie and the rule that must name it."""

    def register(plant: Lie) -> Lie:
        LIES.append((rule, plant))
        return plant

    return register


def seq_of(journal: Journal, kind: type[Event], owner: str) -> int:
    """The first event of a kind that is of this owner."""
    for recorded in journal:
        event = recorded.event
        if isinstance(event, kind):
            found = event.ask.owner if hasattr(event, "ask") else getattr(event, "owner", None)
            if found == owner:
                return recorded.seq
    raise AssertionError(f"{kind.__name__} of {owner}")


def change(journal: Journal, seq: int, **fields: object) -> None:
    """Another event at the same place."""
    at = seq - journal[0].seq
    journal[at] = journal[at]._replace(event=msgspec.structs.replace(journal[at].event, **fields))


def put(journal: Journal, seq: int, event: Event) -> None:
    """An event in the place of another."""
    at = seq - journal[0].seq
    journal[at] = journal[at]._replace(event=event)


def blank(journal: Journal, seq: int) -> None:
    """Something without meaning in an event's place."""
    put(journal, seq, RoomCreated(name=f"blank-{seq}"))


def op_of(history: ClaimHistory, agent: str, type_: str, at: int = 0) -> Op:
    """One of the answered requests of an agent."""
    found = [op for op in history.ops if (op.agent, op.type) == (agent, type_) and op.frame is not None]
    return sorted(found, key=lambda op: op.number)[at]


def instead(history: ClaimHistory, op: Op, other: Op) -> None:
    history.ops[history.ops.index(op)] = other


def retold(op: Op, **fields: object) -> Op:
    """The same request with another answer."""
    frame = json.loads(json.dumps(op.frame))
    frame["body"].update(fields)
    return replace(op, frame=frame)


@lie("overlap")
def two_of_one_task(history: ClaimHistory, journal: Journal) -> None:
    seq = seq_of(journal, LeaseGranted, FIVE.owner)
    change(journal, seq, ask=msgspec.structs.replace(FIVE, task="T3"))


@lie("overlap")
def two_of_one_file(history: ClaimHistory, journal: Journal) -> None:
    seq = seq_of(journal, LeaseGranted, FIVE.owner)
    change(journal, seq, ask=msgspec.structs.replace(FIVE, paths=("*/d",)))


@lie("overlap")
def a_lease_did_not_end(history: ClaimHistory, journal: Journal) -> None:
    blank(journal, seq_of(journal, LeaseReleased, ONE.owner))


@lie("too many units")
def a_unit_too_many(history: ClaimHistory, journal: Journal) -> None:
    seq = seq_of(journal, LeaseGranted, SEVEN.owner)
    change(journal, seq, ask=msgspec.structs.replace(SEVEN, pools=((POOL, 2),)))


@lie("two beliefs")
def one_was_sure_before_the_other_gave_up(history: ClaimHistory, journal: Journal) -> None:
    """Hub and journal are in order; the release of the first was only asked for after the second was told."""
    op, second = op_of(history, ONE.owner, "lease.release"), op_of(history, TWO.owner, "lease.claim")
    assert second.returned_ns is not None
    instead(
        history, op, replace(op, invoked_ns=second.returned_ns + 100 * MS, returned_ns=second.returned_ns + 200 * MS)
    )


@lie("lost")
def a_grant_is_gone(history: ClaimHistory, journal: Journal) -> None:
    blank(journal, seq_of(journal, LeaseGranted, FIVE.owner))


@lie("lost")
def a_release_is_gone(history: ClaimHistory, journal: Journal) -> None:
    blank(journal, seq_of(journal, LeaseReleased, SEVEN.owner))


@lie("lost")
def a_checkpoint_is_gone(history: ClaimHistory, journal: Journal) -> None:
    blank(journal, seq_of(journal, LeaseCheckpointed, ONE.owner))


@lie("lost")
def a_hand_off_is_gone(history: ClaimHistory, journal: Journal) -> None:
    blank(journal, seq_of(journal, LeaseHandedOff, FOUR.owner))


@lie("altered")
def a_claim_was_granted_less(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, FIVE.owner, "lease.claim")
    instead(history, op, retold(op, paths=["c/x"]))


@lie("epoch again")
def an_epoch_came_again_after_the_restart(history: ClaimHistory, journal: Journal) -> None:
    old, new = seq_of(journal, LeaseGranted, ONE.owner), seq_of(journal, LeaseGranted, FIVE.owner)
    at = new - journal[0].seq
    journal[at] = journal[at]._replace(seq=old)


@lie("stale accepted")
def a_dead_epoch_was_renewed(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, TWO.owner, "lease.renew", 1)
    assert op.frame is not None
    body = {"epoch": op.body["epoch"]}
    instead(history, op, replace(op, frame={"type": "reply", "id": 1, "seq": op.frame["seq"], "body": body}))


@lie("stale accepted")
def a_checkpoint_was_kept_after_the_release(history: ClaimHistory, journal: Journal) -> None:
    kept, released = seq_of(journal, LeaseCheckpointed, ONE.owner), seq_of(journal, LeaseReleased, ONE.owner)
    events = journal[kept - journal[0].seq].event, journal[released - journal[0].seq].event
    put(journal, kept, events[1])
    put(journal, released, events[0])


@lie("fenced wrongly")
def a_live_epoch_was_called_stale(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, SIX.owner, "lease.renew")
    assert op.frame is not None
    error = {"type": "error", "id": 1, "seq": op.frame["seq"], "error": {"code": "stale_epoch"}}
    instead(history, op, replace(op, frame=error))


@lie("refused but applied")
def a_refused_checkpoint_was_kept(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, ONE.owner, "lease.checkpoint")
    assert op.frame is not None
    error = {"type": "error", "id": 1, "seq": op.frame["seq"], "error": {"code": "read_only"}}
    instead(history, op, replace(op, frame=error))


@lie("expired early")
def a_lease_ended_before_its_renewal_was_over(history: ClaimHistory, journal: Journal) -> None:
    expired = seq_of(journal, LeaseExpired, THREE.owner)
    op = op_of(history, THREE.owner, "lease.claim")
    renewal = replace(op, type="lease.renew", number=90, invoked_ns=op.invoked_ns + 500 * MS, body={})
    instead(history, op, op)
    history.ops.append(retold(renewal))
    assert history.ops[-1].frame is not None
    history.ops[-1].frame["seq"] = expired - 1


@lie("expired early")
def a_lease_ended_too_soon_after_the_restart(history: ClaimHistory, journal: Journal) -> None:
    """As if another hub had started half a TTL before."""
    seq = next(recorded.seq for recorded in journal if isinstance(recorded.event, RoomCreated))
    put(journal, seq, HubStarted(version="1"))


@lie("expired early")
def a_lease_that_is_not_tied_ended_with_a_connection(history: ClaimHistory, journal: Journal) -> None:
    change(journal, seq_of(journal, LeaseExpired, THREE.owner), reason="connection")


@lie("expired early")
def a_connection_had_no_grace(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, FIVE.owner, "lease.claim")
    late = op.invoked_ns + 400 * MS
    renewal = replace(retold(op), type="lease.renew", number=90, body={}, invoked_ns=late, returned_ns=late)
    history.ops.append(renewal)


@lie("expired early")
def a_lease_ended_with_a_connection_that_lived(history: ClaimHistory, journal: Journal) -> None:
    """A process behind the proxy had two, and the end of the first ended what was tied to the second."""
    op = op_of(history, FIVE.owner, "lease.claim")
    assert op.frame is not None
    pong = {**op.frame, "seq": seq_of(journal, LeaseExpired, FIVE.owner) + 1}
    history.ops.append(
        replace(op, type="ping", number=90, body={}, frame=pong, invoked_ns=1 << 60, returned_ns=1 << 61)
    )


@lie("expired late")
def a_silent_holder_kept_its_lease(history: ClaimHistory, journal: Journal) -> None:
    expired = seq_of(journal, LeaseExpired, THREE.owner)
    for at, op in enumerate(history.ops):
        if op.frame is not None and op.frame["seq"] >= expired:
            history.ops[at] = replace(op, returned_ns=(op.returned_ns or 0) + LATE_NS_MAX)
    history.told[:] = [
        told._replace(at_ns=told.at_ns + LATE_NS_MAX) if told.frame["seq"] >= expired else told for told in history.told
    ]


@lie("hand-off")
def a_hand_off_widened_the_scope(history: ClaimHistory, journal: Journal) -> None:
    seq = seq_of(journal, LeaseHandedOff, FOUR.owner)
    change(journal, seq, ask=msgspec.structs.replace(FOUR, paths=("b",)))


@lie("hand-off")
def what_was_handed_off_had_ended(history: ClaimHistory, journal: Journal) -> None:
    seq = seq_of(journal, LeaseHandedOff, FOUR.owner)
    change(journal, seq, previous=seq_of(journal, LeaseGranted, ONE.owner))


@lie("out of line")
def somebody_stepped_past_who_waited(history: ClaimHistory, journal: Journal) -> None:
    first, second = seq_of(journal, LeaseQueued, TWO.owner), seq_of(journal, LeaseQueued, THREE.owner)
    waiting = msgspec.structs.replace(TWO, paths=("a/x", "a/d"))
    change(journal, first, ask=waiting)
    change(journal, seq_of(journal, LeaseGranted, TWO.owner), ask=THREE, place=second)


@lie("not live")
def a_lease_ended_twice(history: ClaimHistory, journal: Journal) -> None:
    put(journal, seq_of(journal, LeaseExpired, FIVE.owner), _released(ONE, seq_of(journal, LeaseGranted, ONE.owner)))


@lie("not live")
def a_place_was_granted_twice(history: ClaimHistory, journal: Journal) -> None:
    place = journal[seq_of(journal, LeaseGranted, TWO.owner) - journal[0].seq].event
    assert isinstance(place, LeaseGranted)
    change(journal, seq_of(journal, LeaseGranted, FIVE.owner), place=place.place)


@lie("applied twice")
def one_key_was_granted_twice(history: ClaimHistory, journal: Journal) -> None:
    idem = Idem(key="k1", hash="00", count=1)
    seq = seq_of(journal, LeaseGranted, SEVEN.owner)
    change(journal, seq, ask=msgspec.structs.replace(ONE, task="T9", paths=("e",)), idem=idem)


@lie("answered differently")
def a_repeat_got_another_epoch(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, ONE.owner, "lease.claim", 1)
    instead(history, op, retold(op, epoch=op.reply["epoch"] + 1))


@lie("unasked")
def nobody_asked_for_that_lease(history: ClaimHistory, journal: Journal) -> None:
    history.ops[:] = [op for op in history.ops if (op.agent, op.type) != (FIVE.owner, "lease.claim")]


@lie("unasked")
def nobody_gave_it_back(history: ClaimHistory, journal: Journal) -> None:
    history.ops[:] = [op for op in history.ops if (op.agent, op.type) != (SEVEN.owner, "lease.release")]


@lie("not durable")
def an_answer_reflects_what_was_never_journalled(history: ClaimHistory, journal: Journal) -> None:
    op = max((op for op in history.ops if op.frame is not None), key=lambda op: op.invoked_ns)
    assert op.frame is not None
    op.frame["seq"] = journal[-1].seq + 1


@lie("time reversed")
def an_answer_forgot_what_was_known(history: ClaimHistory, journal: Journal) -> None:
    op = op_of(history, FOUR.owner, "lease.renew", 2)
    assert op.frame is not None
    op.frame["seq"] = seq_of(journal, LeaseHandedOff, FOUR.owner)


@lie("wrong feed")
def the_watcher_missed_one(history: ClaimHistory, journal: Journal) -> None:
    del history.told[3]


@lie("wrong feed")
def the_watcher_was_told_twice(history: ClaimHistory, journal: Journal) -> None:
    history.told.append(history.told[-1])


@lie("wrong feed")
def the_watcher_was_told_another_owner(history: ClaimHistory, journal: Journal) -> None:
    history.told[2].frame["body"]["owner"] = "holder-9"


def test_an_honest_history_has_no_finding() -> None:
    paper = honest()
    assert check_claims(paper.history(), paper.journal) == []


@pytest.mark.parametrize(("rule", "plant"), LIES, ids=[plant.__name__ for _, plant in LIES])
def test_a_planted_lie_is_named(rule: str, plant: Lie) -> None:
    paper = honest()
    history, journal = paper.history(), list(paper.journal)
    plant(history, journal)
    findings = check_claims(history, journal)
    assert rule in {finding.rule for finding in findings}, findings


def test_every_rule_has_a_planted_lie() -> None:
    assert {rule for rule, _ in LIES} == set(RULES)


@pytest.mark.parametrize("first", WIDE + NARROW)
def test_the_universe_of_files_shows_every_overlap_of_the_loads_patterns(first: str) -> None:
    assert files_of(first)
    for second in WIDE + NARROW:
        wanted = overlaps(compile_pattern(first, folded=False), compile_pattern(second, folded=False))
        assert overlap(ask("holder-1", "A", first), ask("holder-2", "B", second)) is wanted, (first, second)
