"""What must be true of a recorded history and the journal that is left at the end.

Pure functions. They know the journal's events and the wire's fields, and nothing of how the hub comes from one to the
other. Everything is judged in the journal's order: each reply names the seq of the commit it reflects, so that order
is a witness, and checking costs O(n log n) instead of a search for an order that would do.
"""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.crash.history import Frame, History, Op, Segment
from tests.crash.ledger import Ledger, body_of, mark_of, seq_of

from synapse.core.events import (
    ChannelJoined,
    ChannelLeft,
    MessagePosted,
    MessageSent,
    Recorded,
    RoomJoined,
    RoomLeft,
)

LEND_NS = 30_000_000_000
LENDS_MAX = 16

RULES = {
    "lost": "acknowledged, and not in the journal",
    "altered": "told with other content than the journal has",
    "refused but applied": "an error was the answer, and the journal has the effect",
    "applied twice": "one request, two effects",
    "answered differently": "a repeat got another answer than the first",
    "torn": "an effect of several events is there in part",
    "unasked": "in the journal, and nobody asked for it",
    "numbers have a gap": "a channel or inbox is not numbered 1 to N in the journal's order",
    "out of send order": "one sender's messages are not in the order in which it sent them",
    "not durable": "told before it was durable: the journal does not have it",
    "foreign": "told to somebody it is not for",
    "skipped": "a reader was not told of a message between two others, or before it was told to be live",
    "repeated": "a reader was told of a message again",
    "reordered": "a reader was told in another order than the journal's",
    "resumed elsewhere": "a feed did not begin at the cursor it was asked to begin at",
    "wrong page": "a page of history is not what the journal has there",
    "time reversed": "something that came later in real time reflects an earlier position",
    "acked came again": "a message was lent after its ack",
    "lent twice": "a message was lent to two connections at once",
    "never acked": "still in an inbox after everything was drained",
}


class Finding(NamedTuple):
    """A broken promise. rule: a key of `RULES`."""

    rule: str
    text: str


def check(history: History, journal: Sequence[Recorded]) -> list[Finding]:
    """Everything that is wrong; empty when the hub kept its promises."""
    ledger = Ledger(journal)
    rules = (
        journal_is_sound(ledger),
        sends_are_kept(history, ledger),
        keys_are_used_once(history, ledger),
        order_of_sending_is_kept(history, ledger),
        acks_are_kept(history, ledger),
        takes_are_lawful(history, ledger),
        places_are_kept(history, ledger),
        pages_are_exact(history, ledger),
        feeds_are_exact(history, ledger),
        nothing_is_ahead_of_the_disk(history, ledger),
        time_goes_forward(history, ledger),
        inboxes_are_drained(history, ledger),
    )
    return [finding for rule in rules for finding in rule]


def journal_is_sound(ledger: Ledger) -> Iterator[Finding]:
    """Numbers without a gap, each effect once and whole."""
    for place, entries in (*ledger.posted.items(), *(("@" + name, found) for name, found in ledger.arrived.items())):
        for expected, (seq, n) in enumerate(entries, start=1):
            if n != expected:
                yield Finding("numbers have a gap", f"{place} has number {n} at {seq}; {expected} is due")
                break
    for mark, seqs in ledger.marks.items():
        if len(seqs) > 1:
            yield Finding("applied twice", f"message {mark} stands at {seqs}")
    for (actor, key), effects in ledger.effects.items():
        if len(effects) > 1:
            yield Finding("applied twice", f"key {key} of {actor} has effects at {[e.first for e in effects]}")
        for effect in effects:
            parts = [ledger.events.get(seq) for seq in range(effect.first, effect.last + 1)]
            strays = [part for part in parts[1:] if part is not None and (part.event.idem or part.actor != actor)]
            if None in parts or strays:
                yield Finding("torn", f"key {key} of {actor} has {effect.events} events from {effect.first} on")
    for (agent, message), seqs in ledger.acked.items():
        if message not in {seq for seq, _ in ledger.arrived.get(agent, ())}:
            yield Finding("foreign", f"{agent} acked m{message}, which is not for it")
        if len(seqs) > 1:
            yield Finding("applied twice", f"the ack of m{message} by {agent} stands at {seqs}")


def sends_are_kept(history: History, ledger: Ledger) -> Iterator[Finding]:
    """Each acknowledged send is in the journal as it was sent; what is there was asked for."""
    sends = [op for op in history.ops if op.type == "message.send"]
    attempts: dict[str, list[Op]] = defaultdict(list)
    for op in sends:
        attempts[mark_of(op.body["body"])].append(op)
        if op.is_ok:
            yield from _sent_is_there(op, ledger)
    for mark, ops in attempts.items():
        if mark in ledger.marks and all(op.is_refused for op in ops):
            yield Finding("refused but applied", f"{ops[0].name}: message {mark} stands at {ledger.marks[mark]}")
    for mark, seqs in ledger.marks.items():
        if mark not in attempts:
            yield Finding("unasked", f"nobody sent {mark}, which stands at {seqs}")
        else:
            actor = ledger.events[seqs[0]].actor
            if actor != attempts[mark][0].agent:
                yield Finding("altered", f"{mark} was sent by {attempts[mark][0].agent}, and stands as from {actor}")


def _sent_is_there(op: Op, ledger: Ledger) -> Iterator[Finding]:
    reply = op.reply
    recorded = ledger.events.get(int(reply["id"][1:]))
    event = None if recorded is None else recorded.event
    told = f"{op.name} was answered {reply['id']}"
    if not isinstance(event, MessagePosted | MessageSent):
        yield Finding("lost", f"{told}; the journal has no message there")
        return
    assert recorded is not None
    if body_of(event) != op.body["body"]:
        other = mark_of(body_of(event))
        is_lost = not ledger.marks.get(mark_of(op.body["body"]))
        yield Finding("lost" if is_lost else "altered", f"{told}; the journal has {other} there, or another text of it")
        return
    if isinstance(event, MessagePosted):
        there: object = (event.address, event.n)
        said: object = (f"{reply['room']}:{reply['channel']}", reply["n"])
        wanted: object = op.body.get("channel")
        is_wanted = wanted == event.address
    else:
        there, said = [delivery.name for delivery in event.to], reply["to"]
        is_wanted = there == op.body.get("to")
    if there != said or not is_wanted or seq_of(reply["cursor"]) != recorded.seq:
        yield Finding("altered", f"{told} with {said} at {reply['cursor']}; the journal has {there}")


def keys_are_used_once(history: History, ledger: Ledger) -> Iterator[Finding]:
    """A repeat under the same key got the same answer, and what was done under a key was asked for under it."""
    first: dict[tuple[str, str, str], Op] = {}
    asked = {(op.agent, op.key) for op in history.ops if op.key is not None}
    for op in history.ops:
        if op.key is None or not op.is_ok:
            continue
        earlier = first.setdefault((op.agent, op.key, json.dumps(op.body, sort_keys=True)), op)
        changed = _effect_of(op)
        if changed is not None:
            effects = ledger.effects.get((op.agent, op.key), [])
            if not any(effect.last == changed for effect in effects):
                yield Finding("lost", f"{op.name}: its key {op.key} has no effect at {changed}, but {effects}")
            if _effect_of(earlier) != changed or earlier.reply.get("n") != op.reply.get("n"):
                yield Finding("answered differently", f"{op.name} and {earlier.name}: {op.reply}, {earlier.reply}")
    for actor, key in ledger.effects:
        if (actor, key) not in asked:
            yield Finding("unasked", f"nobody used the key {key} as {actor}")


def _effect_of(op: Op) -> int | None:
    """The last seq of what an acknowledged request changed; None for what changed nothing."""
    reply = op.reply
    match op.type:
        case "message.send":
            return int(reply["id"][1:])
        case "inbox.take" | "value.put" | "value.delete":
            return seq_of(reply["cursor"])
        case "inbox.ack":
            return seq_of(reply["cursor"]) if reply["acked"] else None
        case "room.join" | "room.leave" | "channel.join" | "channel.leave":
            return seq_of(reply["cursor"]) if reply["changed"] else None
        case _:
            return None


def order_of_sending_is_kept(history: History, ledger: Ledger) -> Iterator[Finding]:
    """What one process sent first stands first. (It repeats what was cut off before it sends anything new.)

    Behind the proxy this holds for each connection: what was sent over one may arrive later than what was sent over
    the next.
    """
    lines: dict[str, dict[tuple[str, int], None]] = defaultdict(dict)
    for op in sorted(history.ops, key=lambda op: op.number):
        if op.type == "message.send":
            line = op.connection if op.client in history.proxied else 0
            lines[mark_of(op.body["body"])].setdefault((op.client, line))
    marks: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for mark, sent_over in lines.items():
        if len(sent_over) == 1:
            marks[next(iter(sent_over))].setdefault(mark)
    for (client, _), sent in marks.items():
        last, last_mark = 0, ""
        for mark in sent:
            for seq in ledger.marks.get(mark, ())[:1]:
                if seq < last:
                    yield Finding(
                        "out of send order", f"{client}: {mark} at {seq} was sent after {last_mark} at {last}"
                    )
                last, last_mark = seq, mark


def acks_are_kept(history: History, ledger: Ledger) -> Iterator[Finding]:
    """What was acked is acked in the journal; what was `already` acked was so before."""
    for op in history.ops:
        if op.type != "inbox.ack" or not op.is_ok:
            continue
        reply, seq = op.reply, seq_of(op.reply["cursor"])
        if reply["acked"]:
            ids = [int(text[1:]) for text in reply["acked"]]
            there = ledger.acked_upto(seq, op.agent, len(ids))
            if not there:
                yield Finding("lost", f"{op.name} acked {reply['acked']} at {seq}; the journal has no such ack")
            elif there != ids:
                yield Finding("altered", f"{op.name} acked {reply['acked']}; the journal has {there}")
        for text in reply["already"]:
            if not any(at <= seq for at in ledger.acked.get((op.agent, int(text[1:])), ())):
                yield Finding("lost", f"{op.name}: {text} was acked already by {seq}; the journal has no such ack")


def takes_are_lawful(history: History, ledger: Ledger) -> Iterator[Finding]:
    """Each lend is in the journal, of a message for this agent, not acked before, and to one connection at a time."""
    acked_at: dict[tuple[str, str], int] = {}
    alive_at = _alive_at(history)
    for op in history.ops:
        if op.type == "inbox.ack" and op.is_ok and op.returned_ns is not None:
            for text in op.reply["acked"]:
                known = acked_at.get((op.agent, text), op.returned_ns)
                acked_at[op.agent, text] = min(known, op.returned_ns)
    takes = [op for op in history.ops if op.type == "inbox.take" and op.is_ok]
    takes.sort(key=lambda op: seq_of(op.reply["cursor"]))
    last: dict[tuple[str, int], Op] = {}
    for op in takes:
        message, at = op.reply["message"], seq_of(op.reply["cursor"])
        seq = int(message["id"][1:])
        yield from _told_rightly(op.name, message, seq, op.agent, ledger)
        lent = ledger.lent.get((op.agent, seq), [])
        if at not in lent:
            yield Finding("not durable", f"{op.name} lent {message['id']} at {at}; the journal has lends at {lent}")
        elif lent.index(at) + 1 != op.reply["lends"]:
            yield Finding("altered", f"{op.name} is lend {lent.index(at) + 1} of {message['id']}: {op.reply['lends']}")
        is_late = acked_at.get((op.agent, message["id"]), op.invoked_ns) < op.invoked_ns
        if is_late or any(acked < at for acked in ledger.acked.get((op.agent, seq), ())):
            yield Finding("acked came again", f"{op.name} lent {message['id']} at {at}")
        before = last.get((op.agent, seq))
        if before is not None and not _was_returned(before, op, history, ledger, alive_at):
            yield Finding("lent twice", f"{before.name} and {op.name} of {op.client} both hold {message['id']}")
        last[op.agent, seq] = op


def _alive_at(history: History) -> dict[tuple[str, int], int]:
    """By process behind the proxy and connection, the last position at which the hub answered over it."""
    found: dict[tuple[str, int], int] = {}
    for op in history.ops:
        if op.client in history.proxied and op.frame is not None:
            found[op.client, op.connection] = max(found.get((op.client, op.connection), 0), op.frame["seq"])
    return found


def _was_returned(
    first: Op, second: Op, history: History, ledger: Ledger, alive_at: dict[tuple[str, int], int]
) -> bool:
    """True when the first lend had ended: its hub was killed, its connection closed, or 30 s passed.

    Nobody knows when the proxy closed a connection to the hub, but an answer over it shows that it was still open.
    """
    assert second.returned_ns is not None
    if ledger.run_of(seq_of(first.reply["cursor"])) != ledger.run_of(seq_of(second.reply["cursor"])):
        return True
    if second.returned_ns - first.invoked_ns >= LEND_NS:
        return True
    if first.client in history.proxied:
        return alive_at[first.client, first.connection] <= seq_of(second.reply["cursor"])
    closed_ns = history.closed.get((first.client, first.connection))
    return closed_ns is not None and closed_ns < second.returned_ns


def _told_rightly(who: str, message: Frame, seq: int, agent: str, ledger: Ledger) -> Iterator[Finding]:
    """A message that somebody was told is in the journal, for it, and the same."""
    recorded = ledger.events.get(seq)
    if recorded is None or not isinstance(recorded.event, MessagePosted | MessageSent):
        yield Finding("not durable", f"{who} saw {message['id']} ({mark_of(message['body'])}), which is nowhere")
        return
    shown = ledger.shown(seq, agent)
    if shown is None:
        yield Finding("foreign", f"{who} saw {message['id']}, which is not for {agent}")
        return
    wrong = [name for name, value in shown.items() if message[name] != value]
    if wrong or seq_of(message["cursor"]) != seq:
        yield Finding("altered", f"{who} saw {message['id']} with another {', '.join(wrong) or 'cursor'}")


def places_are_kept(history: History, ledger: Ledger) -> Iterator[Finding]:
    """An acknowledged change of membership is in the journal."""
    for op in history.ops:
        if op.type.partition(".")[0] not in ("room", "channel") or not op.is_ok or not op.reply["changed"]:
            continue
        recorded = ledger.events.get(seq_of(op.reply["cursor"]))
        event = None if recorded is None else recorded.event
        if not isinstance(event, RoomJoined | RoomLeft | ChannelJoined | ChannelLeft):
            yield Finding("lost", f"{op.name} changed something at {op.reply['cursor']}; the journal has {event}")
        elif ledger.names[event.agent] != op.agent:
            yield Finding("altered", f"{op.name} stands as a change of {ledger.names[event.agent]}")


def pages_are_exact(history: History, ledger: Ledger) -> Iterator[Finding]:
    """Each page is what the journal has there: no message left out, none twice, `next` and `previous` right behind."""
    feeds: dict[str, list[int]] = {}
    for op in history.ops:
        if op.type != "history.read" or not op.is_ok:
            continue
        channel, reply = op.body["channel"], op.reply
        feed = feeds.setdefault(channel, ledger.feed([channel], None))
        seqs = [int(message["id"][1:]) for message in reply["messages"]]
        for message, seq in zip(reply["messages"], seqs, strict=True):
            yield from _told_rightly(op.name, message, seq, op.agent, ledger)
        low, high = _page_bounds(op, seqs)
        due = feed[bisect_right(feed, low) : bisect_right(feed, high)]
        if seqs != due or len(seqs) > op.body["limit"]:
            yield Finding("wrong page", f"{op.name} of {channel} from {low} to {high} has {len(seqs)} of {len(due)}")


def _page_bounds(op: Op, seqs: Sequence[int]) -> tuple[int, int]:
    """The page claims to hold everything with low < seq ≤ high."""
    reply, head = op.reply, seq_of(op.reply["cursor"])
    if "since" in op.body:
        return seq_of(op.body["since"]), head if reply["next"] is None else seq_of(reply["next"])
    high = seq_of(op.body["before"]) - 1 if "before" in op.body else head
    return 0 if reply["previous"] is None else seq_of(reply["previous"]) - 1, high


def feeds_are_exact(history: History, ledger: Ledger) -> Iterator[Finding]:
    """Over all its subscriptions each reader was told every message once, in the journal's order."""
    readers: dict[str, list[Segment]] = defaultdict(list)
    for segment in history.segments:
        readers[segment.op.client].append(segment)
    for client, segments in readers.items():
        first = segments[0].op
        feed = ledger.feed(first.body["channels"], first.agent if first.body["inbox"] else None)
        position = seq_of(first.reply["from_cursor"])
        index = {seq: at for at, seq in enumerate(feed)}
        told = _Told(client, first.agent, feed, index, bisect_right(feed, position), position)
        for segment in segments:
            yield from told.segment(segment, ledger)
        upto = history.ends.get(client)
        if upto is not None:
            yield from told.complete(upto, "it left")


class _Told:
    """One reader's way along the feed. at: the next one due. position: the last cursor it had."""

    def __init__(
        self, client: str, agent: str, feed: Sequence[int], index: dict[int, int], at: int, position: int
    ) -> None:
        self.client, self.agent, self.feed, self.index = client, agent, feed, index
        self.at, self.position = at, position
        self.missed: set[int] = set()

    def segment(self, segment: Segment, ledger: Ledger) -> Iterator[Finding]:
        op = segment.op
        begun = seq_of(op.reply["from_cursor"])
        if "since" in op.body and seq_of(op.body["since"]) != begun:
            yield Finding("resumed elsewhere", f"{op.name} asked for {op.body['since']}, and began at {begun}")
        elif begun != self.position:
            yield Finding("resumed elsewhere", f"{op.name} began at {begun}; the reader had all up to {self.position}")
        yield from self.positions(op, ledger)
        for heard in segment.heard:
            frame = heard.frame
            if frame["type"] == "message":
                self.position = int(frame["body"]["id"][1:])
                yield from _told_rightly(self.client, frame["body"], self.position, self.agent, ledger)
                yield from self.message(self.position)
                if frame["seq"] != self.position:
                    yield Finding("altered", f"{self.client}: the notice at {frame['seq']} is of {self.position}")
            elif frame["type"] == "feed.live":
                self.position = seq_of(frame["body"]["cursor"])
                yield from self.complete(self.position, "it was told to be live")

    def positions(self, op: Op, ledger: Ledger) -> Iterator[Finding]:
        """The numbers told at the beginning are those of the position the reply reflects."""
        at = seq_of(op.reply["cursor"])
        for position in op.reply["positions"]:
            name = position["channel"]
            if name.endswith("*"):
                continue  # the number of a topic is that of its channels
            there = ledger.posted[f"{position['room']}:{name}"] if position["room"] else ledger.arrived[name[1:]]
            count = bisect_right(there, (at, 1 << 60))
            if position["n"] != count:
                yield Finding("altered", f"{op.name}: {name} stands at {count} by {at}, not at {position['n']}")

    def message(self, seq: int) -> Iterator[Finding]:
        found = self.index.get(seq)
        if found is None:
            return  # said already: it is nowhere, or not for this reader
        if found == self.at:
            self.at += 1
        elif found > self.at:
            gone = self.feed[self.at : found]
            self.missed.update(gone)
            self.at = found + 1
            yield Finding("skipped", f"{self.client} was told m{seq} and not {len(gone)} before it, from m{gone[0]} on")
        elif seq in self.missed:
            self.missed.discard(seq)
            yield Finding("reordered", f"{self.client} was told m{seq} after later ones")
        else:
            yield Finding("repeated", f"{self.client} was told m{seq} again")

    def complete(self, upto: int, when: str) -> Iterator[Finding]:
        due = bisect_right(self.feed, upto)
        if due > self.at:
            gone = self.feed[self.at : due]
            self.missed.update(gone)
            self.at = due
            yield Finding("skipped", f"{self.client} was not told m{gone[0]} and {len(gone) - 1} more when {when}")


def nothing_is_ahead_of_the_disk(history: History, ledger: Ledger) -> Iterator[Finding]:
    """No reply, error or notice reflects a position that the journal does not have."""
    for op in history.ops:
        if op.frame is not None and op.frame["seq"] > ledger.head:
            yield Finding("not durable", f"{op.name} was told seq {op.frame['seq']}; the journal ends at {ledger.head}")
    for segment in history.segments:
        for heard in segment.heard:
            if heard.frame["seq"] > ledger.head:
                yield Finding("not durable", f"{segment.op.client} heard of {heard.frame['seq']}, behind the end")


def time_goes_forward(history: History, ledger: Ledger) -> Iterator[Finding]:
    """What returned before something else was asked is reflected in its answer, and stands before its effect."""
    known = [(op.returned_ns, op.frame["seq"]) for op in history.ops if op.frame is not None and op.returned_ns]
    known += [(heard.at_ns, heard.frame["seq"]) for part in history.segments for heard in part.heard]
    known.sort()
    judged: set[tuple[str, str]] = set()
    newest, next_known = 0, 0
    for op in sorted(history.ops, key=lambda op: op.invoked_ns):
        while next_known < len(known) and known[next_known][0] < op.invoked_ns:
            newest = max(newest, known[next_known][1])
            next_known += 1
        if op.frame is not None and reflects(op) < newest:
            yield Finding("time reversed", f"{op.name} reflects {reflects(op)}; {newest} was known before")
        effect = _first_effect(op, ledger)
        if effect is None or (op.key is not None and (op.agent, op.key) in judged):
            continue
        if op.key is not None:
            judged.add((op.agent, op.key))
        if effect <= newest:
            yield Finding("time reversed", f"{op.name} had its effect at {effect}; {newest} was known before")


def reflects(op: Op) -> int:
    """The position an answer is of; that of a repeat is where it was repeated."""
    assert op.frame is not None
    frame_seq: int = op.frame["seq"]
    is_repeat = op.is_refused or op.frame.get("replayed", False) or "cursor" not in op.reply
    return frame_seq if is_repeat else min(frame_seq, seq_of(op.reply["cursor"]))


def _first_effect(op: Op, ledger: Ledger) -> int | None:
    """Where the first event of a request stands, also when its answer was cut off; None when it has none."""
    if op.key is not None and not op.is_refused:
        effects = ledger.effects.get((op.agent, op.key))
        return effects[0].first if effects else None
    if op.type == "message.send":
        seqs = ledger.marks.get(mark_of(op.body["body"]))
        return seqs[0] if seqs and not op.is_refused else None
    return _effect_of(op) if op.is_ok else None


def inboxes_are_drained(history: History, ledger: Ledger) -> Iterator[Finding]:
    """Whoever takes or acks has acked everything by the end, but for what died after its last lend."""
    for agent in sorted({op.agent for op in history.ops if op.type in ("inbox.take", "inbox.ack")}):
        for seq, _ in ledger.arrived.get(agent, ()):
            if (agent, seq) in ledger.acked:
                continue
            if (agent, seq) not in ledger.died or len(ledger.lent[agent, seq]) < LENDS_MAX:
                yield Finding("never acked", f"m{seq} is still in the inbox of {agent}")
