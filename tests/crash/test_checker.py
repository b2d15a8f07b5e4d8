"""The checker finds planted lies. An honest history of two hubs on one journal passes; each lie is one change to it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import msgspec
import pytest
from tests.crash.checker import RULES, Finding, check
from tests.crash.history import Frame, History, Op, add
from tests.crash.killing import ROOT

from synapse.core.events import (
    AgentCreated,
    Card,
    ChannelCreated,
    ChannelJoined,
    Delivery,
    Event,
    HubStarted,
    Idem,
    JournalStarted,
    MessagePosted,
    MessagesAcked,
    MessageSent,
    MessagesLent,
    Recorded,
    RoomCreated,
    RoomJoined,
)

CHANNEL = "load:a"


class Story:
    """A hub of paper: every request becomes its events, its records, and the notices of one reader."""

    def __init__(self) -> None:
        self.journal: list[Recorded] = []
        self.lines: dict[str, list[Frame]] = {}
        self.numbers = {CHANNEL: 0, "worker": 0, "reader": 0}
        self.reads = False
        self._ns = 0
        self._conns: dict[str, int] = {}
        self._ops: dict[str, int] = {}
        self.write("hub", JournalStarted(hub_id="h", journal_id="j"), HubStarted(version="1"))
        room = self.write("hub", RoomCreated(name="load"))
        self.channel = self.write("hub", ChannelCreated(room=room, name="a"))
        self.room = room
        self.agents = {name: self.write(name, AgentCreated(name=name, card=Card())) for name in ("worker", "reader")}

    @property
    def head(self) -> int:
        return self.journal[-1].seq

    def write(self, actor: str, *events: Event) -> int:
        for event in events:
            seq = self.journal[-1].seq + 1 if self.journal else 101
            self.journal.append(Recorded(seq, 5, actor, event))
        return self.head

    def note(self, client: str, what: str, **facts: object) -> None:
        self._ns += 10
        self.lines.setdefault(client, []).append({"ns": self._ns, "what": what, **facts})

    def open(self, client: str, agent: str) -> None:
        self._conns[client] = self._conns.get(client, 0) + 1
        self.note(client, "open", conn=self._conns[client], agent=agent)

    def invoke(self, client: str, type_: str, body: Frame, key: str | None = None) -> int:
        self._ops[client] = op = self._ops.get(client, 0) + 1
        self.note(client, "invoke", conn=self._conns[client], op=op, type=type_, key=key, body=body)
        return op

    def answer(self, client: str, op: int, body: Frame, *, replayed: bool = False) -> None:
        body = {"cursor": f"j:{self.head}", **body}
        frame = {"type": "reply", "id": op, "seq": self.head, "body": body, "replayed": replayed}
        self.note(client, "ok", op=op, frame=frame)

    def unknown(self, client: str, op: int) -> None:
        self.note(client, "unknown", op=op)

    def shown(self, agent: str) -> Frame:
        """The newest message as an agent sees it."""
        seq, at_ms, actor, event = next(r for r in reversed(self.journal) if hasattr(r.event, "body"))
        place: Frame
        if isinstance(event, MessagePosted):
            place = {"room": "load", "channel": "a", "n": event.n, "to": None, "kind": "event"}
        else:
            assert isinstance(event, MessageSent)
            n = next(delivery.n for delivery in event.to if delivery.name == agent)
            names = [delivery.name for delivery in event.to]
            place = {"room": None, "channel": f"@{agent}", "n": n, "to": names, "kind": "direct"}
        body = json.loads(bytes(event.body))
        told = {
            "id": f"m{seq}",
            "cursor": f"j:{seq}",
            "from": actor,
            "body": body,
            "subject": None,
            "sent_at_ms": at_ms,
        }
        return {**place, **told}

    def tell(self) -> None:
        message = self.shown("reader")
        seq = int(message["id"][1:])
        frame = {"type": "message", "seq": seq, "body": message}
        self.note("reader-1", "notice", conn=self._conns["reader-1"], frame=frame)

    def send(self, client: str, mark: str, to: tuple[str, ...] = (), key: str | None = None) -> int:
        """Ask, and have the effect in the journal; the answer is the caller's."""
        address: Frame = {"to": list(to)} if to else {"channel": CHANNEL}
        op = self.invoke(client, "message.send", {**address, "body": {"mark": mark}}, key)
        idem = None if key is None else Idem(key=key, hash="00", count=1)
        body = msgspec.Raw(msgspec.json.encode({"mark": mark}))
        for place in to or (CHANNEL,):
            self.numbers[place] += 1
        if to:
            deliveries = tuple(Delivery(name, self.agents[name], self.numbers[name]) for name in to)
            self.write(client, MessageSent(to=deliveries, body=body, idem=idem))
        else:
            n = self.numbers[CHANNEL]
            self.write(client, MessagePosted(channel=self.channel, address=CHANNEL, n=n, body=body, idem=idem))
        if self.reads and (not to or "reader" in to):
            self.tell()
        return op

    def sent(self, to: tuple[str, ...] = ()) -> Frame:
        message = f"m{self.head}"
        if to:
            return {"id": message, "to": list(to)}
        return {"id": message, "room": "load", "channel": "a", "n": self.numbers[CHANNEL]}

    def send_ok(self, client: str, mark: str, to: tuple[str, ...] = (), key: str | None = None) -> None:
        self.answer(client, self.send(client, mark, to, key), self.sent(to))

    def take(self, lends: int, message: Frame) -> None:
        op = self.invoke("worker-1", "inbox.take", {"wait_ms": 0})
        self.write("worker", MessagesLent(agent=self.agents["worker"], messages=(int(message["id"][1:]),)))
        self.answer("worker-1", op, {"message": message, "lends": lends})

    def ack(self, client: str, *messages: str) -> int:
        agent = client.partition("-")[0]
        op = self.invoke(client, "inbox.ack", {"ids": list(messages)})
        self.write(agent, MessagesAcked(agent=self.agents[agent], messages=tuple(int(text[1:]) for text in messages)))
        return op

    def subscribe(self, since: int | None) -> None:
        self.open("reader-1", "reader")
        body: Frame = {"channels": [CHANNEL], "inbox": True}
        if since is not None:
            body["since"] = f"j:{since}"
        op = self.invoke("reader-1", "feed.subscribe", body)
        positions = [
            {"room": "load", "channel": "a", "n": self.numbers[CHANNEL]},
            {"room": None, "channel": "@reader", "n": self.numbers["reader"]},
        ]
        begun = self.head if since is None else since
        self.answer("reader-1", op, {"positions": positions, "from_cursor": f"j:{begun}"})

    def live(self) -> None:
        frame = {"type": "feed.live", "seq": self.head, "body": {"cursor": f"j:{self.head}"}}
        self.note("reader-1", "notice", conn=self._conns["reader-1"], frame=frame)

    def page(self, limit: int, messages: list[Frame], **bounds: object) -> None:
        asked = {"channel": CHANNEL, "limit": limit} | {k: v for k, v in bounds.items() if k in ("since", "before")}
        op = self.invoke("writer-1", "history.read", asked)
        said = {"next": None, "previous": None} | {k: v for k, v in bounds.items() if k in ("next", "previous")}
        self.answer("writer-1", op, {"messages": messages, **said})

    def history(self) -> History:
        history = History()
        for client, lines in self.lines.items():
            add(history, client, lines)
        return history


def honest() -> Story:
    """Two hubs on one journal, with everything that may lawfully happen when the first is killed."""
    story = Story()
    for client in ("writer-1", "writer-2"):
        story.open(client, client)
    story.open("worker-1", "worker")
    join = story.invoke("worker-1", "channel.join", {"channel": CHANNEL}, "w.join")
    idem = Idem(key="w.join", hash="00", count=2)
    worker = story.agents["worker"]
    story.write("worker", RoomJoined(room=story.room, agent=worker, idem=idem))
    story.write("worker", ChannelJoined(channel=story.channel, agent=worker))
    story.answer("worker-1", join, {"changed": True})
    story.subscribe(None)
    story.live()
    story.reads = True
    first = story.head
    for turn in range(4):
        story.send_ok("writer-1", f"a.{turn}", key=f"a.{turn}")
        story.send_ok("writer-2", f"b.{turn}")
    page = [frame["frame"]["body"] for frame in story.lines["reader-1"] if frame["what"] == "notice"][1:]
    story.page(3, page[:3], since=f"j:{first}", next=page[2]["cursor"])
    story.page(3, page[-3:], previous=page[-3]["cursor"])
    story.send_ok("writer-1", "d.1", to=("worker", "reader"))
    direct_1 = story.shown("worker")
    story.take(1, direct_1)
    story.answer("worker-1", story.ack("worker-1", direct_1["id"]), {"acked": [direct_1["id"]], "already": []})
    story.send_ok("writer-2", "d.2", to=("worker",), key="d.2")
    direct_2 = story.shown("worker")
    story.take(1, direct_2)
    cut = story.send("writer-1", "a.4", key="a.4")  # journalled, and the hub is killed before it can say so
    story.unknown("writer-1", cut)
    kept = story.sent()
    heard = story.head
    story.unknown("writer-2", story.invoke("writer-2", "message.send", {"channel": CHANNEL, "body": {"mark": "b.4"}}))
    story.write("hub", HubStarted(version="1"))
    for client in ("writer-1", "writer-2"):
        story.open(client, client)
    story.open("worker-1", "worker")
    story.reads = False
    story.send_ok("writer-2", "b.5")
    last = story.shown("reader")
    story.subscribe(heard)
    story.tell()
    story.live()
    story.reads = True
    again = story.invoke("writer-1", "message.send", {"channel": CHANNEL, "body": {"mark": "a.4"}}, "a.4")
    story.answer("writer-1", again, {**kept, "cursor": f"j:{kept['id'][1:]}"}, replayed=True)
    story.send_ok("writer-1", "a.5", key="a.5")
    story.take(2, direct_2)
    story.answer("worker-1", story.ack("worker-1", direct_2["id"]), {"acked": [direct_2["id"]], "already": []})
    repeat = story.invoke("worker-1", "inbox.ack", {"ids": [direct_2["id"]]})
    story.answer("worker-1", repeat, {"acked": [], "already": [direct_2["id"]]})
    story.answer("reader-1", story.ack("reader-1", direct_1["id"]), {"acked": [direct_1["id"]], "already": []})
    assert last["body"] == {"mark": "b.5"}
    story.note("reader-1", "end", upto=story.head)
    return story


Journal: TypeAlias = list[Recorded]
Lie: TypeAlias = Callable[[History, Journal], None]
LIES: list[tuple[str, Lie]] = []


def lie(rule: str) -> Callable[[Lie], Lie]:
    """Register a lie and the rule that must name it."""

    def register(plant: Lie) -> Lie:
        LIES.append((rule, plant))
        return plant

    return register


def findings_of(history: History, journal: Journal) -> list[Finding]:
    return check(history, journal)


def op_of(history: History, mark: str) -> Op:
    """The first attempt at sending a message."""
    return next(op for op in history.ops if op.type == "message.send" and op.body["body"] == {"mark": mark})


def seq_at(journal: Journal, mark: str) -> int:
    wanted = msgspec.json.encode({"mark": mark})
    for recorded in journal:
        event = recorded.event
        if isinstance(event, MessagePosted | MessageSent) and bytes(event.body) == wanted:
            return recorded.seq
    raise AssertionError(mark)


def change(journal: Journal, seq: int, **fields: object) -> None:
    """Another event at the same place."""
    at = seq - journal[0].seq
    journal[at] = journal[at]._replace(event=msgspec.structs.replace(journal[at].event, **fields))


def blank(journal: Journal, seq: int) -> None:
    """Something without meaning in an event's place: it is lost, and the seqs stay."""
    at = seq - journal[0].seq
    journal[at] = journal[at]._replace(event=RoomCreated(name=f"blank-{seq}"), actor="hub")


def lines_up(history: History, mark: str, op: Op) -> None:
    history.ops[history.ops.index(op_of(history, mark))] = op


@lie("lost")
def an_acknowledged_message_is_gone(history: History, journal: Journal) -> None:
    """The last of them, so that no number is missing."""
    for segment in history.segments:
        segment.heard[:] = [heard for heard in segment.heard if heard.frame["body"].get("body") != {"mark": "a.5"}]
    blank(journal, seq_at(journal, "a.5"))


@lie("lost")
def an_acknowledged_ack_is_gone(history: History, journal: Journal) -> None:
    blank(journal, next(r.seq for r in reversed(journal) if isinstance(r.event, MessagesAcked)))


@lie("lost")
def a_membership_is_gone(history: History, journal: Journal) -> None:
    blank(journal, next(r.seq for r in journal if isinstance(r.event, ChannelJoined)))


@lie("altered")
def the_journal_has_another_body(history: History, journal: Journal) -> None:
    change(journal, seq_at(journal, "a.1"), body=msgspec.Raw(b'{"mark":"a.1","more":1}'))


@lie("altered")
def a_reader_was_shown_another_body(history: History, journal: Journal) -> None:
    history.segments[0].heard[2].frame["body"]["body"] = {"mark": "a.1", "more": 1}


@lie("altered")
def a_reply_named_another_number(history: History, journal: Journal) -> None:
    op_of(history, "b.2").reply["n"] += 1


@lie("altered")
def the_first_lend_was_called_the_second(history: History, journal: Journal) -> None:
    next(op for op in history.ops if op.type == "inbox.take").reply["lends"] = 2


@lie("altered")
def a_subscription_began_with_another_number(history: History, journal: Journal) -> None:
    history.segments[1].op.reply["positions"][0]["n"] -= 1


@lie("altered")
def an_ack_in_two_parts_lacks_the_first(history: History, journal: Journal) -> None:
    op = next(op for op in history.ops if op.type == "inbox.ack" and op.reply["acked"])
    op.reply["acked"].insert(0, "m7")


@lie("refused but applied")
def a_refused_message_was_journalled(history: History, journal: Journal) -> None:
    op = op_of(history, "b.2")
    assert op.frame is not None
    error = {"type": "error", "seq": op.frame["seq"], "id": op.number, "error": {"code": "limit"}}
    lines_up(history, "b.2", replace(op, frame=error))


@lie("applied twice")
def a_repeat_was_applied_again(history: History, journal: Journal) -> None:
    original = journal[seq_at(journal, "a.4") - journal[0].seq].event
    journal.append(Recorded(journal[-1].seq + 1, 5, "writer-1", msgspec.structs.replace(original, n=11)))
    history.ends.clear()


@lie("applied twice")
def an_ack_was_applied_again(history: History, journal: Journal) -> None:
    acked = next(r for r in reversed(journal) if isinstance(r.event, MessagesAcked))
    journal.append(acked._replace(seq=journal[-1].seq + 1))


@lie("answered differently")
def a_repeat_got_another_number(history: History, journal: Journal) -> None:
    attempts = [op for op in history.ops if op.key == "a.4"]
    other = replace(attempts[1], frame=json.loads(json.dumps(attempts[1].frame)), number=99)
    other.reply["n"] += 1
    history.ops.append(other)


@lie("torn")
def half_of_a_join_was_journalled(history: History, journal: Journal) -> None:
    seq = next(r.seq for r in journal if isinstance(r.event, RoomJoined))
    change(journal, seq, idem=Idem(key="w.join", hash="00", count=99))


@lie("unasked")
def nobody_sent_what_stands_there(history: History, journal: Journal) -> None:
    extra = MessagePosted(channel=1, address="load:b", n=1, body=msgspec.Raw(b'{"mark":"ghost"}'))
    journal.append(Recorded(journal[-1].seq + 1, 5, "writer-1", extra))


@lie("numbers have a gap")
def a_channel_leaves_a_number_out(history: History, journal: Journal) -> None:
    change(journal, seq_at(journal, "a.5"), n=99)


@lie("numbers have a gap")
def an_inbox_gives_a_number_twice(history: History, journal: Journal) -> None:
    seq = seq_at(journal, "d.2")
    event = journal[seq - journal[0].seq].event
    assert isinstance(event, MessageSent)
    change(journal, seq, to=(Delivery("worker", event.to[0].agent, 1),))


@lie("out of send order")
def a_sender_was_overtaken_by_itself(history: History, journal: Journal) -> None:
    first, second = op_of(history, "a.1"), op_of(history, "a.2")
    history.ops[history.ops.index(first)] = replace(first, number=second.number)
    lines_up(history, "a.2", replace(second, number=first.number))


@lie("not durable")
def a_reader_saw_what_was_never_journalled(history: History, journal: Journal) -> None:
    last = history.segments[0].heard[-1]
    ghost = json.loads(json.dumps(last.frame))
    seq = journal[-1].seq + 1
    ghost["seq"], ghost["body"]["id"], ghost["body"]["cursor"] = seq, f"m{seq}", f"j:{seq}"
    history.segments[1].heard.append(replace(last, at_ns=1 << 60, frame=ghost))


@lie("not durable")
def a_reply_reflects_what_was_never_journalled(history: History, journal: Journal) -> None:
    op = max((op for op in history.ops if op.frame is not None), key=lambda op: op.invoked_ns)
    assert op.frame is not None
    op.frame["seq"] = journal[-1].seq + 1


@lie("not durable")
def a_lend_was_never_journalled(history: History, journal: Journal) -> None:
    blank(journal, next(r.seq for r in reversed(journal) if isinstance(r.event, MessagesLent)))


@lie("foreign")
def a_reader_saw_the_inbox_of_another(history: History, journal: Journal) -> None:
    seq = seq_at(journal, "d.2")
    heard = next(h for h in history.segments[0].heard if h.frame["body"].get("to") is not None)
    stolen = json.loads(json.dumps(heard.frame))
    stolen["seq"], stolen["body"]["id"], stolen["body"]["cursor"] = seq, f"m{seq}", f"j:{seq}"
    at = history.segments[0].heard.index(heard) + 1
    history.segments[0].heard.insert(at, replace(heard, frame=stolen))


@lie("skipped")
def a_reader_missed_one_between_two(history: History, journal: Journal) -> None:
    del history.segments[0].heard[3]


@lie("skipped")
def a_reader_was_told_to_be_live_too_early(history: History, journal: Journal) -> None:
    heard = history.segments[1].heard
    heard[0], heard[1] = heard[1], heard[0]


@lie("skipped")
def a_resumed_feed_left_out_what_was_missed(history: History, journal: Journal) -> None:
    del history.segments[1].heard[0]


@lie("skipped")
def the_last_message_never_came(history: History, journal: Journal) -> None:
    del history.segments[1].heard[-1]


@lie("repeated")
def a_resumed_feed_began_with_a_message_seen_before(history: History, journal: Journal) -> None:
    last = next(h for h in reversed(history.segments[0].heard) if h.frame["type"] == "message")
    history.segments[1].heard.insert(0, last)


@lie("reordered")
def one_reader_saw_two_messages_the_other_way_round(history: History, journal: Journal) -> None:
    heard = history.segments[0].heard
    heard[3], heard[4] = heard[4], heard[3]


@lie("resumed elsewhere")
def a_feed_resumed_behind_its_cursor(history: History, journal: Journal) -> None:
    history.segments[1].op.reply["from_cursor"] = f"j:{seq_at(journal, 'b.5')}"


@lie("wrong page")
def a_page_of_history_left_one_out(history: History, journal: Journal) -> None:
    del next(op for op in history.ops if op.type == "history.read").reply["messages"][1]


@lie("wrong page")
def the_next_page_begins_too_late(history: History, journal: Journal) -> None:
    reply = next(op for op in history.ops if op.type == "history.read").reply
    reply["next"] = f"j:{seq_at(journal, 'b.2')}"


@lie("time reversed")
def an_effect_stands_before_what_was_known_when_it_was_asked_for(history: History, journal: Journal) -> None:
    op = op_of(history, "b.1")
    assert op.returned_ns is not None
    lines_up(history, "b.1", replace(op, invoked_ns=op.invoked_ns + (1 << 40), returned_ns=op.returned_ns + (1 << 40)))


@lie("time reversed")
def a_read_forgot_what_had_been_answered(history: History, journal: Journal) -> None:
    page = next(op for op in history.ops if op.type == "history.read")
    page.reply["cursor"] = f"j:{seq_at(journal, 'a.1')}"


@lie("acked came again")
def a_message_was_lent_after_its_ack(history: History, journal: Journal) -> None:
    take = next(op for op in history.ops if op.type == "inbox.take")
    seq = int(take.reply["message"]["id"][1:])
    agent = next(r.event.agent for r in journal if isinstance(r.event, MessagesLent) and seq in r.event.messages)
    journal.append(Recorded(journal[-1].seq + 1, 5, "worker", MessagesLent(agent=agent, messages=(seq,))))
    frame = json.loads(json.dumps(take.frame))
    frame["seq"], frame["body"]["cursor"], frame["body"]["lends"] = journal[-1].seq, f"j:{journal[-1].seq}", 2
    history.ops.append(replace(take, number=99, invoked_ns=1 << 60, returned_ns=(1 << 60) + 1, frame=frame))


@lie("lent twice")
def one_message_was_lent_to_two_connections(history: History, journal: Journal) -> None:
    """As if there had been no second hub: the first connection never ended."""
    blank(journal, next(r.seq for r in reversed(journal) if isinstance(r.event, HubStarted)))


@lie("out of send order")
def a_sender_behind_the_proxy_was_overtaken_on_one_connection(history: History, journal: Journal) -> None:
    history.proxied.add("writer-1")
    a_sender_was_overtaken_by_itself(history, journal)


@lie("lent twice")
def one_message_was_lent_again_while_its_proxied_connection_lived(history: History, journal: Journal) -> None:
    history.proxied.add("worker-1")
    one_message_was_lent_to_two_connections(history, journal)
    first, second = (
        op for op in history.ops if op.type == "inbox.take" and op.reply["message"]["body"]["mark"] == "d.2"
    )
    assert second.frame is not None
    pong = {"type": "reply", "seq": second.frame["seq"] + 1, "body": {}}
    history.ops.append(replace(first, number=99, type="ping", body={}, frame=pong))


@lie("never acked")
def a_message_stayed_in_an_inbox(history: History, journal: Journal) -> None:
    left = MessageSent(to=(Delivery("worker", 105, 3),), body=msgspec.Raw(b'{"mark":"b.4"}'))
    assert "worker" in [event.name for _, _, _, event in journal if isinstance(event, AgentCreated)]
    journal.append(Recorded(journal[-1].seq + 1, 5, "writer-2", left))


def test_an_honest_history_has_no_finding() -> None:
    story = honest()
    assert findings_of(story.history(), story.journal) == []


@pytest.mark.parametrize(("rule", "plant"), LIES, ids=[plant.__name__ for _, plant in LIES])
def test_a_planted_lie_is_named(rule: str, plant: Lie) -> None:
    story = honest()
    history, journal = story.history(), list(story.journal)
    plant(history, journal)
    findings = findings_of(history, journal)
    assert rule in {finding.rule for finding in findings}, findings


def test_what_the_proxy_may_do_is_no_finding() -> None:
    """It holds back what a process has sent that has given up, and closes the hub's side when it likes."""
    story = honest()
    late = story.invoke("writer-2", "message.send", {"channel": CHANNEL, "body": {"mark": "late"}})
    story.unknown("writer-2", late)
    story.open("writer-2", "writer-2")
    story.send_ok("writer-2", "soon")
    story.numbers[CHANNEL] += 1
    body = msgspec.Raw(b'{"mark":"late"}')
    posted = MessagePosted(channel=story.channel, address=CHANNEL, n=story.numbers[CHANNEL], body=body)
    story.write("writer-2", posted)
    history, journal = story.history(), list(story.journal)
    history.ends.clear()
    blank(journal, next(r.seq for r in reversed(journal) if isinstance(r.event, HubStarted)))
    assert {finding.rule for finding in findings_of(history, journal)} == {"out of send order", "lent twice"}
    history.proxied = {"writer-2", "worker-1"}
    assert findings_of(history, journal) == []


def test_every_rule_has_a_planted_lie() -> None:
    assert {rule for rule, _ in LIES} == set(RULES)
    assert len(LIES) >= 30


def test_the_docs_name_every_rule() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [rule for rule in RULES if f"`{rule}`" not in page] == []
