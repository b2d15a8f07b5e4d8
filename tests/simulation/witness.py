"""Who stands at the hub's door and hears everything that goes in and out, frame by frame, as plain JSON.

Whatever the hub says is held against the ledger at the moment at which it is said: so nothing is told that is not
durable, nothing is acknowledged that is not there, no dead epoch is accepted and no live one refused, and no answer
reflects an earlier position than one that was told before the question came.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from tests.simulation.agenda import HOME
from tests.simulation.ledger import Asked, Key, Ledger, Sometimes, mark_in
from tests.simulation.lookout import NAME as SUPERVISOR
from tests.simulation.market import KINDS
from tests.simulation.network import Link
from tests.simulation.privacy import SIGN
from tests.simulation.terms import Violation
from tests.simulation.virtual_time import Clock

from synapse.core.events import LeaseHandedOff, LeaseOffered, LeaseReleased, MessagePosted, MessageSent, Recorded
from synapse.core.mail import Mail

Json: TypeAlias = dict[str, Any]
"""A frame or a body: plain JSON, whose shape the other side answers for."""

ENDED: Final = frozenset({"stale_epoch", "not_holder"})
FEEDS_OF_ROOMS: Final = ("value.changed", "plan.changed")
AREAS: Final = ("question.", "session.", "lane.", "file.")
PLAN: Final = ("task.", "progress.")
OF_ROOMS: Final = (*PLAN, "value.")
DELIVERY: Final = ("receipt.get", "dead.", "role.")
REMEMBERED_MAX: Final = 4_096

_decode: Final = msgspec.json.Decoder(Json).decode


@dataclass(slots=True)
class Question:
    """A request that the hub has heard and not answered. floor: what had been told to anybody before it was heard."""

    type: str
    agent: str
    key: str | None
    body: Json
    heard_ms: int
    floor: int


class Witness:
    """Hears all frames of all connections. note: called with each, for the story."""

    def __init__(
        self, ledger: Ledger, clock: Clock, sometimes: Sometimes, note: Callable[[Link, str, Json], None]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._sometimes = sometimes
        self._note = note
        self._open: dict[tuple[int, str | int], Question] = {}
        self._newest = 0
        self._seen: dict[bytes, tuple[str, int]] = {}
        self._fed: dict[tuple[int, str], int] = {}
        self.answers = 0
        self.notices = 0
        self.fenced = 0

    # What goes in.

    def hear(self, link: Link, payload: bytes) -> None:
        """The hub is about to hear a request."""
        frame = _decode(payload)
        body: Json = frame.get("body") or {}
        kind, agent, key = frame["type"], link.owner, frame.get("idem_key")
        self._note(link, "asks", frame)
        self._open[link.number, frame["id"]] = Question(
            kind, agent, key, body, self._clock.now_ms, self._newest if agent else 0
        )
        self._ledger.privacy.ask(kind, agent, body, payload)
        self._register(link, kind, agent, body)

    def _register(self, link: Link, kind: str, agent: str, body: Json) -> None:
        asked: Asked = self._ledger.asked
        match kind:
            case "message.send" if agent == SUPERVISOR and isinstance(body["body"], dict):
                self._ledger.lookout.ask(agent, body)
            case "message.send":
                asked.marks[mark_in(body["body"])] = agent
                self._ledger.market.ask(kind, agent, body)
            case "lease.claim":
                owner, task = body.get("claimant") or agent, body["task"]
                pools = tuple(sorted(body.get("pools", {}).items()))
                paths = tuple(body.get("paths", ()))
                asked.claims.add((owner, task, paths, pools, body.get("mode", "exclusive")))
                if not paths and not pools:
                    asked.claims.add((owner, task))
                self._ledger.terms.may_touch(owner, task, link.number)
            case "lease.renew":
                self._ledger.terms.may_touch(agent, body["task"], link.number)
            case "lease.release" | "lease.hand_off" if body.get("epoch") is not None:
                asked.under.add((kind, agent, body["epoch"]))
            case _:
                self._ledger.mail.ask(kind, agent, body)
                self._ledger.market.ask(kind, agent, body)
                self._ledger.shelf.ask(kind, agent, body)
                self._ledger.agenda.ask(kind, agent, body)
                self._ledger.ask_area(kind, agent, body)

    def lose(self, link: Link) -> None:
        """The hub learned that a connection is gone: it owes no answers there."""
        self._open = {at: question for at, question in self._open.items() if at[0] != link.number}
        self._fed = {at: seq for at, seq in self._fed.items() if at[0] != link.number}
        self._ledger.mail.lose(link.number)
        self._ledger.market.lose(link.number)
        self._ledger.terms.lose(link.number)

    def restart(self) -> None:
        """The hub is gone with all its connections."""
        self._open.clear()
        self._fed.clear()

    # What comes out.

    def tell(self, link: Link, payloads: Sequence[bytes]) -> None:
        """The hub has written these frames. Raises `Violation`."""
        for payload in payloads:
            if SIGN in payload:
                frame = _decode(payload)
                is_reply = frame["type"] in ("reply", "error")
                self._ledger.privacy.look(link.owner, frame["seq"], payload, is_reply=is_reply)
            known = self._seen.get(payload)
            if known is not None:  # the same notice for another follower; it was true a moment ago
                self.notices += 1
                self._follow(link, *known)
                continue
            frame = _decode(payload)
            seq, kind = frame["seq"], frame["type"]
            if seq > self._ledger.head:
                raise Violation(
                    "not durable", f"{link.owner} is told {seq}; the disk has {self._ledger.head}: {frame}", link.owner
                )
            self._newest = max(self._newest, seq)
            if kind == "reply" or kind == "error":
                self._answer(link, frame)
                continue
            self.notices += 1
            self._notice(link, kind, frame)
            if kind in FEEDS_OF_ROOMS or (kind == "message" and frame["body"]["room"] is not None):
                self._seen[payload] = _feed_of(kind, frame["body"]["room"]), seq
                if len(self._seen) > REMEMBERED_MAX:
                    del self._seen[next(iter(self._seen))]

    def _answer(self, link: Link, frame: Json) -> None:
        self.answers += 1
        self._note(link, "hears", frame)
        question = self._open.pop((link.number, frame["id"]), None)
        if question is None:
            raise Violation("unasked", f"{link.owner} gets an answer to nothing: {frame}", link.owner)
        seq = frame["seq"]
        if 0 < seq < question.floor:
            raise Violation(
                "time reversed",
                f"{question.type} of {link.owner} reflects {seq}; {question.floor} was told before it was asked",
                link.owner,
            )
        if frame["type"] == "error":
            self._refusal(question, seq, frame["error"])
            return
        if frame.get("replayed"):
            self._sometimes("a repeat was answered from the journal")
        self._reply(link, question, seq, frame)

    def _refusal(self, question: Question, seq: int, error: Json) -> None:
        code, epoch = error["code"], question.body.get("epoch")
        self._sometimes(f"refused: {code}")
        if code == "cursor_too_old":
            archive = self._ledger.archive
            archive.require_refused_rightly(question.agent, question.type, question.body, error)
        if question.type.startswith(OF_ROOMS):
            room = question.body.get("room") or ""
            if self._ledger.privacy.is_refused_rightly(question.agent, room, seq, code):
                return
        if question.type.startswith("value."):
            shelf = self._ledger.shelf
            shelf.require_refused_rightly(question.agent, question.body, seq, error, question.heard_ms)
            return
        if question.type.startswith(AREAS):
            wall_ms = self._clock.wall_range_ms(question.heard_ms)
            self._ledger.require_refused_rightly(question.agent, question.type, question.body, seq, error, wall_ms)
        if question.type.startswith(PLAN):
            agenda = self._ledger.agenda
            agenda.require_refused_rightly(question.agent, question.type, question.body, seq, error)
        if code in ENDED and epoch is not None:
            self.fenced += 1
            term = self._ledger.term_of(epoch)
            is_own = question.type not in ("lease.check", "lease.claim", "session.checkpoint")
            is_own = is_own and term is not None and term.ask.room_name == (question.body.get("room") or HOME)
            if is_own and self._ledger.terms.holds(question.agent, epoch, seq):
                raise Violation("fenced wrongly", f"{question} is refused {code} at {seq}", question.agent)

    def _reply(self, link: Link, question: Question, seq: int, frame: Json) -> None:
        reply, replayed = frame["body"], frame.get("replayed", False)
        match question.type:
            case "message.send" if reply.get("ephemeral"):
                self._ledger.market.sent(question.agent, question.body["channel"], question.body["body"], reply)
            case "message.send":
                self._sent(question, reply)
                self._same_answer(question, reply["id"])
            case "inbox.take":
                told = reply["message"]
                self._ledger.mail.hand_out(question.agent, told["channel"], int(told["id"][1:]), link.number)
                self._message(question.agent, reply["message"])
            case "inbox.ack":
                for text in (*reply["acked"], *reply["already"]):
                    if int(text[1:]) in self._ledger.inboxes[question.agent]:
                        raise Violation("lost", f"the ack of {text} by {question.agent}", question.agent)
            case "lease.claim":
                self._claimed(link, question, seq, reply, is_fresh=not replayed)
            case "lease.renew" | "lease.park" | "lease.check":
                if reply.get("live") is not False:
                    self._held(link, question, seq, reply, is_fresh=not replayed)
            case "lease.checkpoint":
                self._kept(question, reply)
            case "lease.release":
                term = self._ledger.term_of(reply["epoch"])
                if term is None or not isinstance(term.ended_by, LeaseReleased) or term.ask.owner != question.agent:
                    raise Violation("lost", f"{question.agent} released {reply['epoch']}: {term}", question.agent)
            case "lease.hand_off":
                self._handed(question, reply)
            case "history.read":
                self._history(question, reply)
            case kind if kind.startswith(KINDS):
                self._ledger.market.require_true(question.agent, kind, question.body, reply)
            case kind if kind.startswith(DELIVERY):
                self._ledger.mail.require_true(question.agent, kind, question.body, reply)
                if kind == "dead.resend":
                    self._same_answer(question, reply["id"])
            case kind if kind.startswith("value."):
                shelf, agent, since_ms = self._ledger.shelf, question.agent, question.heard_ms
                changed = shelf.require_true(agent, kind, question.body, seq, reply, since_ms)
                if changed is not None:
                    self._same_answer(question, changed)
            case kind if kind.startswith(AREAS):
                wall_ms = self._clock.wall_range_ms(question.heard_ms)
                agent, body, now_ms = question.agent, question.body, self._clock.now_ms
                done = self._ledger.require_true(agent, kind, body, seq, reply, wall_ms=wall_ms, now_ms=now_ms)
                if done is not None:
                    self._same_answer(question, done)
            case kind if kind.startswith(PLAN):
                self._same_answer_of_plan(question, seq, reply)
            case "digest.read":
                self._ledger.summaries.require_true(question.agent, question.body, question.floor, reply)
            case "feed.subscribe":
                self._ledger.archive.require_whole(question.agent, question.type, question.body, seq)
                body, seq = question.body, int(reply["from_cursor"].partition(":")[2])
                if body.get("take"):
                    self._ledger.mail.take_ahead(link.number, body["take"])
                    return
                feeds = [_feed_of("value.changed", room) for room in body.get("values", ())]
                feeds += [_feed_of("plan.changed", room) for room in body.get("plans", ())]
                feeds += ["receipt.changed"] if body.get("receipts") else []
                feeds += ["lease.changed"] if body.get("leases") else [] if feeds else ["message"]
                self._fed.update({(link.number, feed): seq for feed in feeds})
            case _:
                pass

    def _same_answer(self, question: Question, answer: object) -> None:
        if question.key is None:
            return
        known: Key | None = self._ledger.keys.get((question.agent, question.key))
        if known is None:
            raise Violation("lost", f"key {question.key} of {question.agent} has no effect", question.agent)
        if known.answer is None:
            known.answer = answer
        elif known.answer != answer:
            text = f"key {question.key} of {question.agent}: {answer}, before {known.answer}"
            raise Violation("answered differently", text, question.agent)

    def _same_answer_of_plan(self, question: Question, seq: int, reply: Json) -> None:
        done = self._ledger.agenda.require_true(question.agent, question.type, question.body, seq, reply)
        if done is not None:
            self._same_answer(question, done)

    def _sent(self, question: Question, reply: Json) -> None:
        entry = self._ledger.messages.get(int(reply["id"][1:]))
        if entry is None or entry.actor != question.agent:
            raise Violation("lost", f"{question.agent} was told {reply['id']}; there is {entry}", question.agent)
        event = entry.event
        assert isinstance(event, MessagePosted | MessageSent)
        if msgspec.json.decode(event.body) != question.body["body"]:
            raise Violation("altered", f"{reply['id']} of {question.agent} has another body", question.agent)
        if isinstance(event, MessagePosted):
            told = f"{reply['room']}:{reply['channel']}", reply["n"]
            if told != (event.address, event.n):
                raise Violation("altered", f"{reply['id']}: told {told}, is {event.address} {event.n}", question.agent)
        elif tuple(reply["to"]) not in (tuple(delivery.name for delivery in event.to), ("all",)):
            raise Violation("altered", f"{reply['id']}: told {reply['to']}, is {event.to}", question.agent)

    # Leases.

    def _claimed(self, link: Link, question: Question, seq: int, reply: Json, *, is_fresh: bool) -> None:
        epoch, owner = reply["epoch"], question.body.get("claimant") or question.agent
        term = self._ledger.term_of(epoch)
        if term is None or (term.ask.owner, term.ask.task) != (owner, question.body["task"]):
            raise Violation("lost", f"{owner} was told epoch {epoch} of {question.body['task']}: {term}", owner)
        told = reply["worktree"], tuple(reply["paths"]), reply["pools"], reply["mode"]
        if told != (term.ask.worktree, term.ask.paths, dict(term.ask.pools), term.ask.mode):
            raise Violation("altered", f"{owner} was told {told}; {epoch} is {term.ask}", owner)
        if reply.get("outcome") == "granted" and question.key is not None:
            known = self._ledger.keys.get((question.agent, question.key))
            if known is not None:
                self._same_answer(question, epoch)
        if reply.get("live") is False:
            return
        self._held(link, question, seq, reply, is_fresh=is_fresh)
        place = term.ask.room_name, term.ask.task
        self._ledger.agenda.require_brief(owner, place, seq, reply.get("plan"))
        resume = reply.get("resume")
        if is_fresh and (resume is not None or reply["outcome"] != "renewed"):  # a later claim is not told it again
            self._ledger.records.require_resume(owner, place, epoch, seq, resume)

    def _held(self, link: Link, question: Question, seq: int, reply: Json, *, is_fresh: bool) -> None:
        epoch, owner = reply["epoch"], question.body.get("claimant") or question.agent
        term = self._ledger.term_of(epoch)
        if term is None or (term.ask.owner != owner and question.type != "lease.check") or not term.is_live_at(seq):
            raise Violation("stale accepted", f"{question.type} of {owner} under {epoch} at {seq}: {term}", owner)
        if is_fresh and question.type in ("lease.claim", "lease.renew") and owner == question.agent:
            self._ledger.terms.confirm(term, question.heard_ms, link.number)

    def _kept(self, question: Question, reply: Json) -> None:
        epoch = reply["epoch"]
        term = self._ledger.term_of(epoch)
        kept = [seq for seq, data in term.kept if data == question.body["data"]] if term is not None else []
        if not kept:
            raise Violation("lost", f"the checkpoint of {question.agent} under {epoch}", question.agent)
        if not self._ledger.terms.holds(question.agent, epoch, kept[0]):
            raise Violation("stale accepted", f"a checkpoint of {question.agent} under {epoch}", question.agent)

    def _handed(self, question: Question, reply: Json) -> None:
        epoch, previous = reply["epoch"], question.body.get("epoch")
        if reply["outcome"] == "offered":
            self._sometimes("a lease was offered to somebody offline")
            return
        term = self._ledger.term_of(epoch)
        old = self._ledger.term_of(previous) if previous is not None else None
        is_passed = old is not None and isinstance(old.ended_by, LeaseHandedOff) and old.end == epoch
        if term is None or (previous is not None and not is_passed):
            raise Violation("lost", f"{question.agent} handed {previous} off as {epoch}: {old}", question.agent)
        self._same_answer(question, epoch)

    # Messages.

    def _message(self, agent: str, told: Json) -> None:
        """A message as it was shown to an agent is the one in the journal. Raises `Violation`."""
        seq = int(told["id"][1:])
        entry: Recorded | None = self._ledger.messages.get(seq)
        if entry is None:
            raise Violation("not durable", f"{agent} is shown {told['id']}, which is not in the journal", agent)
        event = entry.event
        if isinstance(event, LeaseHandedOff | LeaseOffered):
            return
        if isinstance(event, Mail):
            self._letter(agent, told, entry, event)
            return
        assert isinstance(event, MessagePosted | MessageSent)
        number: int | None
        if isinstance(event, MessagePosted):
            place, number = f"{told['room']}:{told['channel']}", event.n
            is_here = place == event.address
        else:
            names = [agent, *(role for role, members in self._ledger.mail.members.items() if agent in members)]
            number = next((it.n for it in event.to if it.name in names and told["channel"] == f"@{it.name}"), None)
            is_here = number is not None
        if not is_here or number is None:
            raise Violation("foreign", f"{agent} is shown {told}", agent)
        if told["n"] != number or told["from"] != entry.actor or told["body"] != msgspec.json.decode(event.body):
            raise Violation("altered", f"{agent} is shown {told}; the journal has {entry}", agent)

    def _letter(self, agent: str, told: Json, entry: Recorded, event: Mail) -> None:
        """A message of the hub's own says what happened, to whom it concerns. Raises `Violation`."""
        number = next((delivery.n for delivery in event.deliveries if delivery.name == agent), None)
        if told["channel"] != f"@{agent}" or number is None:
            raise Violation("foreign", f"{agent} is shown {told}", agent)
        said, due = {name: it for name, it in told["body"].items() if name != "next"}, self._ledger.letter(entry)
        if (told["n"], told["from"], said) != (number, "hub", said if due is None else due):
            raise Violation("altered", f"{agent} is shown {told}; {due} is due, of {entry}", agent)

    def _history(self, question: Question, reply: Json) -> None:
        address = question.body.get("channel")
        if address is None:
            return
        told = [int(message["id"][1:]) for message in reply["messages"]]
        position = int(reply["cursor"].partition(":")[2])
        before = question.body.get("before")
        upto = position if before is None else int(before.partition(":")[2]) - 1
        archive, private = self._ledger.archive, self._ledger.privacy.floor(question.agent, address, position)
        for floor in (archive.floor(address, position), archive.floor(address)):
            stream = self._ledger.streams[address]
            stream = stream[bisect_right(stream, max(floor, private)) :]
            upto_index = bisect_right(stream, upto)
            due = stream[max(0, upto_index - len(told)) : upto_index]
            if told == due and not (reply["previous"] is None and len(told) < upto_index):
                return
        raise Violation("wrong page", f"{question.agent} reads {told} of {address}; there is {due}", question.agent)

    def _follow(self, link: Link, kind: str, seq: int) -> None:
        """Each connection has one feed of a kind: it goes forward, from where the hub said that it begins."""
        last = self._fed.get((link.number, kind))
        if last is None or seq <= last:
            raise Violation("repeated", f"{link.owner} is told {kind} {seq} after {last}", link.owner)
        self._fed[link.number, kind] = seq

    def _notice(self, link: Link, kind: str, frame: Json) -> None:
        body, terms = frame["body"], self._ledger.terms
        match kind:
            case "message":
                self._message(link.owner, body)
                self._follow(link, kind, frame["seq"])
            case "inbox.lent":
                told = body["message"]
                self._ledger.mail.hand_out_ahead(link.owner, told["channel"], int(told["id"][1:]), link.number)
                self._message(link.owner, told)
            case "signal":
                self._ledger.market.told(link.owner, link.number, body)
            case "receipt.changed":
                self._ledger.mail.require_told_rightly(link.owner, frame["seq"], body)
                self._follow(link, kind, frame["seq"])
            case "lease.changed":
                self._follow(link, kind, frame["seq"])
            case "value.changed":
                self._ledger.shelf.require_told_rightly(link.owner, frame["seq"], body)
                self._follow(link, _feed_of(kind, body["room"]), frame["seq"])
            case "plan.changed":
                self._ledger.agenda.require_told_rightly(link.owner, frame["seq"], body)
                self._follow(link, _feed_of(kind, body["room"]), frame["seq"])
            case "lease.lost":
                self._note(link, "hears", frame)
                if terms.holds(link.owner, body["epoch"], frame["seq"]):
                    raise Violation("fenced wrongly", f"{link.owner} loses {body['epoch']}, which is live", link.owner)
            case "claim.queued":
                self._note(link, "hears", frame)
                place = terms.places.get(body["place"])
                if body["place"] not in terms.queued:
                    raise Violation("not durable", f"{link.owner} waits at {body['place']}", link.owner)
                if place is not None and (link.number, body["request"]) in self._open:
                    place.link = link.number
            case _:
                pass


def _feed_of(kind: str, room: str) -> str:
    """A connection has one feed of each kind, of values and plans one for each room."""
    return f"{kind} {room}" if kind in FEEDS_OF_ROOMS else kind
