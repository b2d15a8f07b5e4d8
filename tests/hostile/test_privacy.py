"""Canaries: what is private carries a random marker, and no byte that reaches anybody else contains it.

Private are direct messages (body, subject, thread, the key they were sent under), private rooms and channels with all
that is said, leased, handed on and held there, and secrets and tokens. The stranger is an agent of the same hub that
asks for everything there is to ask, over both doors, before, while and after the messages pass; beside it a person that
is no member, who was put out, an operator, the health page, the metrics, and the log at its most talkative. Every kind
of secret is said wherever one may be said, in the right places and in wrong ones, and then looked for in all that a hub
leaves behind.
"""

import contextlib
import hashlib
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
from tests.crash.websocket import frames_in, masked, shake_hands
from tests.faults.conftest import ENVIRON, PATIENCE_S, SRC, HubProcess, Line, line_to, operator_at

from synapse.protocol.codec import encode_request
from synapse.protocol.commands import (
    COMMANDS,
    AckInbox,
    ClaimLease,
    CreateChannel,
    CreateRoom,
    HandOffLease,
    Hello,
    JoinRoom,
    ListInbox,
    ListLeases,
    ListRooms,
    ReadHistory,
    SaveCheckpoint,
    SendMessage,
    Subscribe,
    TakeInbox,
    WithdrawClaim,
)
from synapse.protocol.file_commands import BeginFile, CompleteFile, ListFiles, PutChunk
from synapse.protocol.file_replies import ChunkStored, FileBegan, FileCompleted
from synapse.protocol.held_commands import DropHeld, ListHeld, ReleaseHeld
from synapse.protocol.held_replies import HeldEnded, HeldNote
from synapse.protocol.lane_commands import AcceptLane, ListLanes, OfferLane, SendLane, ShowLane
from synapse.protocol.lane_replies import LaneMoved, LanesPage
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.member_replies import Membership
from synapse.protocol.plan_commands import DeclareTask, ListTasks, NoteProgress, ReadProgress
from synapse.protocol.plan_replies import PlanPage, ProgressLine, TaskInfo
from synapse.protocol.question_commands import ListQuestions
from synapse.protocol.question_replies import QuestionsPage
from synapse.protocol.replies import Acked, Inbox, Lease, Place, Rooms, Sent, Subscribed, Taken
from synapse.protocol.session_commands import EndSession, StartSession, UpdateSession
from synapse.protocol.session_replies import SessionKept
from synapse.protocol.token_commands import CreateToken
from synapse.protocol.token_replies import TokenInfo
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo

SECRET: Final = "a secret of thirty-two characters, or more"
END: Final = b'{"type":"ping","id":"end"}'


class Ear:
    """A connection of which every byte is kept. said: all that the hub sent to it."""

    def __init__(self, raw: socket.socket, *, is_web: bool) -> None:
        self.said = b""
        self._raw = raw
        self._is_web = is_web

    def ask(self, *frames: bytes) -> bytes:
        """Send frames, and keep what comes up to the answer of the last; that."""
        begin = len(self.said)
        data = [*frames, END]
        self._raw.sendall(b"".join(map(masked, data)) if self._is_web else b"".join(one + b"\n" for one in data))
        while b'"id":"end"' not in self.said[begin:]:
            found = self._raw.recv(1 << 16)
            assert found, f"the hub hung up: {self.said[-500:]!r}"
            self.said += found
        return self.said[begin:]


@contextmanager
def listening(
    hub: HubProcess, name: str | None, *, is_web: bool, kind: str | None = None, token: str | None = None
) -> Iterator[Ear]:
    """A stranger who has said hello and follows everything that can be followed; an operator where no name is given.
    token: one that shows its role."""
    raw = socket.create_connection(("127.0.0.1", hub.port)) if is_web else socket.socket(socket.AF_UNIX)
    with raw:
        raw.settimeout(PATIENCE_S)
        if is_web:
            assert shake_hands(raw, (hub.home / "token").read_text().strip()) == b""
        else:
            raw.connect(str(hub.home / "hub.sock"))
        ear = Ear(raw, is_web=is_web)
        hello = Hello(operator=True)
        if name is not None:
            hello = Hello(name=name, secret=f"{name}: {SECRET}", lasting=True, kind=kind, token=token)
        everything = Subscribe(
            channels=("main:general", "main:p*"),
            inbox=name is not None,
            receipts=name is not None,
            presence=True,
            leases=True,
            activity=True,
            values=("main",),
            plans=("main",),
            questions=("main",),
        )
        ear.ask(encode_request("hello", hello), encode_request("feed", everything))
        assert b'"subscription"' in ear.said
        yield ear


def questions(words: dict[str, list[object]]) -> Iterator[bytes]:
    """Every command, with every word in every field that takes a text or a list of them, and without any."""
    for name, kind in COMMANDS.items():
        if name == "hello":
            continue
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        required = {field.encode_name: _filled(field.type) for field in fields.values() if field.required}
        yield msgspec.json.encode({"type": name, "id": "q", "body": required})
        for field, values in words.items():
            if field in fields:
                for value in values:
                    body = {**required, field: value}
                    yield msgspec.json.encode({"type": name, "id": "q", "body": body})


def _filled(kind: object) -> object:
    """A lawful value of a required field."""
    return {int: 1, bool: True}.get(kind, "main:general") if isinstance(kind, type) else 1


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that logs all it can."""
    with HubProcess(tmp_path_factory.mktemp("privacy") / "home", "--log-level", "debug") as found:
        yield found.until_ready()


def page(hub: HubProcess, path: str, *headers: str) -> bytes:
    """What a GET answers."""
    head = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", hub.port), PATIENCE_S) as raw:
        raw.sendall("".join(f"{line}\r\n" for line in [*head, ""]).encode())
        found = b""
        while data := raw.recv(1 << 16):
            found += data
    return found


def logged(hub: HubProcess) -> bytes:
    """All that a running hub has logged."""
    return Path(f"/proc/self/fd/{hub._log.fileno()}").read_bytes()


def test_no_marker_of_a_direct_message_reaches_anybody_but_its_recipients(hub: HubProcess) -> None:
    markers = {part: f"canary-{part}-{secrets.token_hex(8)}" for part in ("body", "subject", "thread", "key", "file")}

    def send(line: Line, number: int) -> Sent:
        body = msgspec.Raw(msgspec.json.encode({"text": markers["body"], "file": [markers["file"], number]}))
        command = SendMessage(body=body, to=("bob",), subject=markers["subject"], thread=markers["thread"])
        return line.ask(command, Sent, f"{markers['key']}-{number}")

    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(listening(hub, f"eve-{door}", is_web=door == "web")) for door in ("web", "line")]
        ada, bob = stack.enter_context(line_to(hub.home, "ada")), stack.enter_context(line_to(hub.home, "bob"))
        bob.ask(Subscribe(inbox=True), Subscribed)
        first = send(ada, 1)
        ada.post("in public")
        ids = [first.id, send(ada, 2).id]
        words: dict[str, list[object]] = {
            "id": list(ids),
            "ids": [ids],
            "reply_to": list(ids),
            "since": [first.cursor, first.cursor.partition(":")[0] + ":1"],
            "before": [first.cursor],
            "after": list(ids),
            "sender": ["ada", "bob"],
            "text": ["canary", markers["body"][:12]],
            "to": [["bob"], ["ada"]],
            "name": ["ada", "bob"],
            "task": ["T"],
            "channel": ["main:general", "@bob", "main:@bob"],
            "channels": [["main:general"], ["@bob"]],
            "target": ["main:general", "@bob"],
            "room": ["main"],
            "inbox": [True],
            "all": [True],
            "directed_only": [True],
        }
        asked = list(questions(words))
        assert len(asked) > 150
        for ear in ears:
            for number, question in enumerate(asked):
                ear.ask(question)
                if number % 40 == 0:
                    ids.append(send(ada, 100 + len(ids)).id)
            stolen = SendMessage(body=msgspec.Raw(b'"mine"'), target="main:general")
            ear.ask(encode_request("same key", stolen, f"{markers['key']}-1"))
        # Those for whom they are see them all: the markers were there to be seen.
        assert bob.ask(ListInbox(), Inbox).unacked >= 3
        taken = bob.ask(TakeInbox(), Taken)
        assert taken.message is not None
        shown = msgspec.json.encode(taken)
        assert all(markers[part].encode() in shown for part in ("body", "subject", "thread", "file"))
        bob.ask(AckInbox(all=True), Acked)
        for ear in ears:
            ear.ask(*asked[:20])
        heard = {"web": ears[0].said, "line": ears[1].said}
        heard |= {path: page(hub, path) for path in ("/health", "/metrics", "/", "/inbox?agent=bob")}
    heard |= {"log": logged(hub), "arguments": Path(f"/proc/{hub.process.pid}/cmdline").read_bytes()}
    assert all(heard.values())
    private = [*(marker.encode() for marker in markers.values()), (hub.home / "token").read_bytes().strip()]
    private += [f"{name}: {SECRET}".encode() for name in ("ada", "bob", "eve-web", "eve-line")]
    leaks = [(where, marker) for where, data in heard.items() for marker in private if marker in data]
    # What a stranger asks with comes back to it in the refusal; those words are its own.
    assert leaks == []


def test_no_marker_of_a_private_place_reaches_who_is_no_member(hub: HubProcess) -> None:
    kinds = ("body", "subject", "channel", "task", "title", "path", "key", "value", "note", "progress", "checkpoint")
    words = {kind: f"{kind}-{secrets.token_hex(8)}" for kind in (*kinds, "run", "file")}
    raw = msgspec.Raw(msgspec.json.encode(words["value"]))

    def live(line: Line, number: int) -> None:
        """All that can be done in a private room, and in a private channel of a public one."""
        body = msgspec.Raw(msgspec.json.encode(f"{words['body']} @eve-web @bob {number}"))
        for channel in (f"den:{words['channel']}", "main:private"):
            line.ask(SendMessage(body=body, channel=channel, subject=words["subject"]), Sent)
        line.ask(PutValue(key=words["key"], value=raw, room="den"), ValueInfo)
        task = f"{words['task']}/{number}"
        line.ask(DeclareTask(task=task, title=words["title"], room="den"), TaskInfo)
        paths = (f"src/{words['path']}/{number}",)
        line.ask(ClaimLease(task=task, room="den", note=words["note"], worktree="host:/w", paths=paths), Lease)
        line.ask(NoteProgress(task=task, text=words["progress"], room="den"), ProgressLine)
        kept = msgspec.Raw(msgspec.json.encode(words["checkpoint"]))
        line.ask(SaveCheckpoint(task=task, data=kept, room="den"), Lease)
        session = line.ask(StartSession(room="den", task=words["run"]), SessionKept).session
        line.ask(UpdateSession(task=f"{words['run']}/{number}"), SessionKept)
        line.refused(OfferLane(to="nobody", task=f"{words['run']}/{number}"))
        line.ask(EndSession(session=session), SessionKept)
        data = words["file"].encode()
        digest = hashlib.sha256(data).hexdigest()
        address = f"den:{words['channel']}"
        begin = BeginFile(name=f"{words['file']}.{number}", bytes=len(data), sha256=digest, channel=address)
        file = line.ask(begin, FileBegan).file
        line.ask(PutChunk(file=file, index=0, data=data, sha256=digest), ChunkStored)
        line.ask(CompleteFile(file=file), FileCompleted)
        line.exchange(SendMessage(body=msgspec.Raw(b"null"), target="all", room="den"))  # which stays in inboxes

    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(listening(hub, f"eve-{door}", is_web=door == "web")) for door in ("web", "line")]
        ada, bob = stack.enter_context(line_to(hub.home, "ada")), stack.enter_context(line_to(hub.home, "bob"))
        guest = stack.enter_context(listening(hub, "guest", is_web=False))
        token = a_token(stack.enter_context(operator_at(hub.home)), "agent", rooms=("main",))
        limited = stack.enter_context(listening(hub, "limited", is_web=False, token=token))
        ada.ask(CreateRoom(room="den", private=True), Place)
        ada.ask(CreateChannel(channel=f"den:{words['channel']}"), Place)
        ada.ask(CreateChannel(channel="main:private", private=True), Place)
        live(ada, 1)
        for name in ("bob", "guest"):
            ada.ask(InviteMember(place="den", agent=name), Membership)
        bob.ask(JoinRoom(room="den"), Place)
        everything = Subscribe(channels=("den:*",), values=("den",), plans=("den",))
        guest.ask(encode_request("join", JoinRoom(room="den")), encode_request("all", everything))
        assert guest.said.count(b'"subscription"') > 1
        live(ada, 2)
        ada.ask(KickMember(place="den", agent="guest"), Membership)
        guest.ask()
        cursor = ada.post("in public").cursor
        asked = list(
            questions(
                {
                    "room": ["den", "main"],
                    "rooms": [["den"]],
                    "channel": ["den:general", "main:private", "den:*", "main:*"],
                    "channels": [["den:general"], ["main:private"], ["den:*"], ["main:*"]],
                    "target": ["den:general", "main:private", "all"],
                    "place": ["den", "main:private"],
                    "values": [["den"], True],
                    "plans": [["den"]],
                    "leases": [True],
                    "since": [cursor.partition(":")[0] + ":1", cursor],
                    "owner": ["ada", "bob"],
                    "sender": ["ada"],
                    "agent": ["ada", "bob"],
                    "name": ["ada"],
                    "text": ["body", "private"],
                    "worktree": ["host:/w"],
                }
            )
        )
        contending = ClaimLease(task="T", worktree="host:/w", paths=("src/**",))
        after_kick = len(guest.said)
        for ear in (*ears, guest, limited):
            for number, question in enumerate(asked):
                ear.ask(question)
                if number % 100 == 0:
                    live(ada, 100 + number + 1000 * len(ear.said))
            refused = ear.ask(encode_request("contend", contending))
            assert b'"lease_held"' in refused
            assert b'"owner":"private"' in refused
            waits = msgspec.structs.replace(contending, wait_ms=60_000)
            assert b'"claim.queued"' in ear.ask(encode_request("wait", waits))
            ear.ask(encode_request("go", WithdrawClaim(task="T")))
        # A member sees it all: the markers were there to be seen.
        with listening(hub, "bob", is_web=False) as member:
            member.ask(encode_request("den", everything))
            live(ada, 3)
            shown = member.ask(
                encode_request("leases", ListLeases(room="den")),
                encode_request("history", ReadHistory(channel=f"den:{words['channel']}")),
                encode_request("ledger", ReadProgress(room="den")),
            )
            shown += bob_sees(bob) + bytes(ada.exchange(ListFiles()).body)
        missing = [kind for kind, word in words.items() if word.encode() not in shown]
        assert missing == []
        heard = {"web": ears[0].said, "line": ears[1].said, "guest": guest.said[after_kick:]}
        limited.ask()
        heard |= {"limited": limited.said}
        assert b'"activity"' in limited.said
        heard |= {path: page(hub, path) for path in ("/health", "/metrics", "/")}
    heard |= {"log": logged(hub)}
    leaks = [(where, kind) for where, data in heard.items() for kind, word in words.items() if word.encode() in data]
    assert leaks == []


def bob_sees(bob: Line) -> bytes:
    """What a member finds in its lists."""
    rooms = bob.ask(ListRooms(), Rooms)
    assert "den" in {room.room for room in rooms.rooms}
    return msgspec.json.encode(bob.ask(ListTasks(room="den"), PlanPage))


def markers_of_a_cave() -> dict[str, str]:
    """What carries a marker there, and which."""
    kinds = ("body", "subject", "task", "path", "context", "note", "said")
    return {kind: f"cave-{kind}-{secrets.token_hex(8)}" for kind in kinds}


class Cave:
    """A private room: cleo and dan, a person mia, and for a time a guest. words: the markers of now, by what carries
    them; place: that of its channel."""

    def __init__(self, cleo: Line, dan: Line, guest: Line, mia: Line) -> None:
        self.cleo, self.dan, self.guest = cleo, dan, guest
        self.words, self.place = markers_of_a_cave(), f"cave-channel-{secrets.token_hex(8)}"
        self.channel = f"cave:{self.place}"
        self.last: str | None = None
        cleo.ask(CreateRoom(room="cave", private=True), Place)
        cleo.ask(CreateChannel(channel=self.channel), Place)
        for name, line in (("dan", dan), ("guest", guest), ("mia", mia)):
            cleo.ask(InviteMember(place="cave", agent=name), Membership)
            line.ask(JoinRoom(room="cave"), Place)

    def raw(self, kind: str) -> msgspec.Raw:
        """A marker as JSON."""
        return msgspec.Raw(msgspec.json.encode(self.words[kind]))

    def say(self, who: Line) -> Sent:
        """An answer in the channel of the room."""
        answer = SendMessage(body=self.raw("body"), subject=self.words["subject"], channel=self.channel)
        return who.ask(msgspec.structs.replace(answer, reply_to=self.last), Sent)

    def go_round(self) -> Line:
        """Answers to answers until one is held; who would be the next to answer what was delivered last."""
        for number in range(200):
            who = (self.cleo, self.dan)[number % 2]
            sent = self.say(who)
            if isinstance(sent.held, HeldNote):
                return who
            self.last = sent.id
        raise AssertionError("nothing is held")

    def hold(self, who: Line) -> list[str]:
        """Two more of a chain that is held, in the channel and to all of the room; their ids."""
        group = SendMessage(body=self.raw("body"), subject=self.words["subject"], target="all", room="cave")
        sent = [self.say(who), who.ask(msgspec.structs.replace(group, reply_to=self.last), Sent)]
        assert all(isinstance(one.held, HeldNote) for one in sent)
        return [one.id for one in sent]

    def lane(self, sender: Line, receiver: Line, name: str) -> str:
        """An open lane, with something said in it; its id."""
        session = sender.ask(StartSession(room="cave"), SessionKept).session
        offer = OfferLane(session=session, to=name, context=self.raw("context"), note=self.words["note"])
        lane = sender.ask(offer, LaneMoved).lane
        receiver.ask(AcceptLane(lane=lane), LaneMoved)
        assert sender.exchange(SendLane(lane=lane, body=self.raw("said"))).type == "reply"
        return lane

    def scope(self, number: int) -> ClaimLease:
        """A claim in the room."""
        paths = (f"{self.words['path']}/{number}",)
        return ClaimLease(
            task=f"{self.words['task']}/{number}",
            room="cave",
            note=self.words["note"],
            worktree="host:/cave",
            paths=paths,
        )

    def refuse_strangers(self, names: tuple[str, ...]) -> None:
        """Nobody outside is handed a lease of the room, or offered one, or a lane out of it."""
        task = self.cleo.ask(self.scope(0), Lease).task
        session = self.cleo.ask(StartSession(room="cave"), SessionKept).session
        offer = OfferLane(session=session, to="", context=self.raw("context"), note=self.words["note"])
        for name in names:
            assert self.cleo.refused(HandOffLease(task=task, room="cave", to=name)).code == "not_permitted"
            assert self.cleo.refused(msgspec.structs.replace(offer, to=name)).code == "not_permitted"

    def shows(self, mia: Line, lanes: list[str]) -> bytes:
        """What members find in their lists."""
        questions = mia.ask(ListQuestions(room="cave"), QuestionsPage)
        assert len(questions.questions) == 1
        shown = [mia.exchange(ListHeld()).body, mia.exchange(ListInbox()).body, msgspec.json.encode(questions)]
        shown += [self.cleo.exchange(ShowLane(lane=lane)).body for lane in lanes]
        shown += [self.cleo.exchange(one).body for one in (ListLeases(room="cave"), ListInbox())]
        return b"".join(map(bytes, shown))


def of_a_circle(cave: Cave, ear: Ear, waiting: Line, number: int, *, is_held_inside: bool) -> bytes:
    """What a stranger is answered whose wait would close a circle with cleo, who holds or waits in the room, and does
    the other outside of it."""
    tree = f"host:/tree/{number}"
    own = ClaimLease(task=f"outside/{number}", worktree=tree, paths=("outside",))
    assert b'"granted"' in ear.ask(encode_request("own", own))
    public = msgspec.structs.replace(own, task=f"public/{number}", paths=("public",))
    held, wanted = (cave.scope(number), public) if is_held_inside else (public, cave.scope(number))
    cave.cleo.ask(msgspec.structs.replace(held, worktree=tree), Lease)
    wanted = msgspec.structs.replace(wanted, worktree=tree, paths=own.paths, wait_ms=60_000)
    waiting.send(encode_request(number, wanted) + b"\n")
    while waiting.receive().type != "claim.queued":
        pass
    closing = ClaimLease(task="closing", worktree=tree, whole_worktree=True, wait_ms=60_000)
    return ear.ask(encode_request("closing", closing))


def a_token(operator: Line, role: str, rooms: tuple[str, ...] | None = None) -> str:
    """A token of that role. rooms: the only ones it is for."""
    secret = secrets.token_hex(32)
    operator.ask(CreateToken(hash=hashlib.sha256(secret.encode()).hexdigest(), role=role, rooms=rooms), TokenInfo)
    return secret


def decide(operator: Line, held: list[str]) -> None:
    """An operator is told that messages are held, and not what they say; some are released, the others dropped."""
    told = bytes(operator.exchange(ListHeld()).body)
    assert all(f'"{one}"'.encode() in told for one in held)
    assert b'"body"' not in told
    for one in held[::2]:
        operator.ask(ReleaseHeld(id=one), HeldEnded)
    assert operator.ask(DropHeld(id=held[1], chain=True), HeldEnded).left == 0


def strangers(hub: HubProcess, operator: Line, stack: contextlib.ExitStack) -> dict[str, Ear]:
    """Agents over both doors, a person with a token that says so, and an operator."""
    ears = {door: listening(hub, f"eve-{door}", is_web=door == "web") for door in ("web", "line")}
    ears["hal"] = listening(hub, "hal", is_web=False, kind="human", token=a_token(operator, "human"))
    ears["operator"] = listening(hub, None, is_web=False)
    line_to(hub.home, "sam").close()  # known, and not there
    return {name: stack.enter_context(ear) for name, ear in ears.items()}


FACES: Final = ("held list", "questions", "inbox", "lane list", "state", "digest", "ingest")
"""What a stranger may ask, and the hub's own user, who is an operator where it decides as a person."""


def test_nothing_handed_on_waited_for_or_held_in_a_private_room_reaches_who_is_no_member(hub: HubProcess) -> None:
    with contextlib.ExitStack() as stack:
        operator = stack.enter_context(operator_at(hub.home))
        ears = strangers(hub, operator, stack)
        cleo, waiting = (stack.enter_context(line_to(hub.home, "cleo")) for _ in range(2))
        dan, guest = (stack.enter_context(line_to(hub.home, name)) for name in ("dan", "guest"))
        mia = stack.enter_context(Line(hub.home))
        mia.exchange(
            Hello(name="mia", secret=f"mia: {SECRET}", kind="human", token=a_token(operator, "human"), lasting=True)
        )
        cave = Cave(cleo, dan, guest, mia)
        cave.refuse_strangers(("eve-web", "hal", "sam"))
        who = cave.go_round()
        held = cave.hold(guest)
        lanes = [cave.lane(cleo, guest, "guest"), cave.lane(guest, cleo, "cleo")]

        # Put out, a member hears nothing of its lanes, of what it had sent, and of all that comes.
        ears["guest"] = stack.enter_context(listening(hub, "guest", is_web=False))
        everything = Subscribe(channels=("cave:*",), questions=("cave",), plans=("cave",), values=("cave",))
        assert b'"subscription"' in ears["guest"].ask(encode_request("all", everything))
        cleo.ask(KickMember(place="cave", agent="guest"), Membership)
        ears["guest"].ask()
        unacked = guest.ask(ListInbox(), Inbox).unacked
        assert {one.state for one in cleo.ask(ListLanes(room="cave"), LanesPage).lanes} == {"closed"}
        assert guest.refused(SendLane(lane=lanes[0], body=cave.raw("said"))).code == "not_found"
        before, cave.words = cave.words, markers_of_a_cave()
        held += cave.hold(who)
        lanes.append(cave.lane(cleo, dan, "dan"))

        [question] = mia.ask(ListQuestions(room="cave"), QuestionsPage).questions
        words: dict[str, list[object]] = {
            "id": [*held, question.id],
            "lane": list(lanes),
            "room": ["cave", "main"],
            "rooms": [["cave"]],
            "channel": ["cave:general", "cave:*"],
            "channels": [["cave:*"]],
            "questions": [["cave"], ["main"]],
            "status": ["open", "all"],
            "tag": ["held"],
            "asker": ["cleo", "dan"],
            "receiver": ["guest", "cleo"],
            "inbox": [True],
            "receipts": [True],
        }
        for name, ear in ears.items():
            for asked in questions(words) if name != "operator" else ():  # which may decide
                ear.ask(asked)
            ear.ask(encode_request("held", ListHeld()), encode_request("asked", ListQuestions(status="all")))
        for number, name in enumerate(("web", "line"), 1):
            refused = of_a_circle(cave, ears[name], waiting, number, is_held_inside=name == "line")
            assert b'"deadlock"' in refused
            assert f'["eve-{name}","private","eve-{name}"]'.encode() in refused
            assert b"waits for cleo" not in refused
        heard = {verb: said_by_synapse(hub.home, *verb.split()) for verb in FACES}
        heard |= {f"{verb} of a stranger": said_by_synapse(hub.home, *verb.split(), "--name", "sly") for verb in FACES}
        shown = cave.shows(mia, lanes)
        decide(operator, held)
        assert guest.ask(ListInbox(), Inbox).unacked == unacked, "of what it had sent it is told nothing any more"
        for ear in ears.values():
            ear.ask()
        heard |= {name: ear.said for name, ear in ears.items()}
        heard |= {path: page(hub, path) for path in ("/health", "/metrics", "/")}
    heard |= {"log": logged(hub)}
    late = {**cave.words, "channel": cave.place}
    assert [kind for kind, word in late.items() if word.encode() not in shown] == [], "they were there to be seen"
    leaks = {(where, kind) for where, data in heard.items() for kind, word in late.items() if word.encode() in data}
    leaks |= {
        (where, kind)
        for where, data in heard.items()
        for kind, word in before.items()
        if where != "guest" and word.encode() in data
    }
    assert leaks == {(where, "channel") for where in ("operator", "held list")}, "operators know where, and not what"


def test_the_ear_hears_what_is_said_to_it(hub: HubProcess) -> None:
    marker = f"canary-{secrets.token_hex(8)}"
    with listening(hub, "mallory", is_web=True) as ear, line_to(hub.home, "ada") as ada:
        ada.post(marker)
        ear.ask()
        assert marker.encode() in ear.said
        frames, rest = frames_in(ear.said)
        assert len(frames) > 3
        assert rest == b""


class Canaries:
    """Random words that pass for secrets, by what they are the secret of."""

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}

    def short(self, name: str) -> str:
        """One that is shorter than a secret may be."""
        return self.by_name.setdefault(name, secrets.token_hex(15))

    def __getitem__(self, name: str) -> str:
        return self.by_name.setdefault(name, f"{name.replace(' ', '-')}-{secrets.token_hex(16)}")


def said_by_a_line(hub: HubProcess, *frames: bytes) -> bytes:
    """All that the hub says to one who sends these lines, up to its end or a ping's answer."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(PATIENCE_S)
        raw.connect(str(hub.home / "hub.sock"))
        raw.sendall(b"".join(frame + b"\n" for frame in (*frames, END)))
        found = b""
        while b'"id":"end"' not in found and (data := raw.recv(1 << 16)):
            found += data
        return found


def frame_of(kind: str, body: object, **more: object) -> bytes:
    return msgspec.json.encode({"type": kind, "id": 1, "body": body, **more})


def over_lines(hub: HubProcess, words: Canaries) -> bytes:
    """Secrets in hellos that are heard and in such as are not, and where none belongs."""
    ada = {"name": "ada", "secret": words["ada"]}
    said = said_by_a_line(
        hub,
        frame_of("hello", {**ada, "token": words["wrong token"]}),
        frame_of("hello", {**ada, "secret": words["second hello"]}),
        frame_of("message.send", {"body": "hi", "secret": words["unknown field"]}),
        frame_of("message.send", {"body": "hi", "to": "ada", "priority": 5, "subject": words["wrong type"]}),
        frame_of("ping", {}, token=words["unknown key"]),
        frame_of("lease.claim", {"task": "T1"}, traceparent=words["trace"]),
        b'{"type":"message.send","id":9,"secret":"' + words["cut off"].encode(),
    )
    hellos: list[dict[str, object]] = [
        {"name": "ada", "secret": words["stolen name"]},
        {"name": "ada/sub", "secret": words["sub"], "ancestors": {"ada": words["wrong ancestor"]}},
        {"name": "ada/sub", "secret": words["sub"], "ancestors": {"ada": words["ada"]}},
        {"name": "eve", "secret": words.short("too short")},
        {"name": "eve", "secret": words["too long"] * 5},
        {"name": "eve", "secret": [words["list"]]},
        {"name": "eve", "secret": words["no agent"], "operator": True},
        {"name": "eve", "passphrase": words["misspelt"]},
        {"name": words["secret as name"], "secret": "eve"},
        {"name": "eve", "secret": words["next version"], "protocol": [7, 9]},
    ]
    return said + b"".join(said_by_a_line(hub, frame_of("hello", hello)) for hello in hellos)


def over_http(hub: HubProcess, words: Canaries) -> bytes:
    """Tokens in headers, in queries, in paths, in handshakes; the right one too."""
    token = (hub.home / "token").read_text().strip()
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {'a' * 22}==",
    )
    said = [
        page(hub, "/health", f"Authorization: Bearer {words['bearer']}"),
        page(hub, "/health", f"Authorization: Basic {words['basic']}"),
        page(hub, "/metrics", f"Authorization: Bearer {words['one']}", f"Authorization: Bearer {words['two']}"),
        page(hub, f"/health?token={words['query']}&token={token}"),
        page(hub, f"/{words['path']}/{token}"),
        page(hub, f"/?token={words['query of a handshake']}", *upgrade, f"Authorization: Bearer {words['handshake']}"),
        page(hub, "/", *upgrade, f"Cookie: token={words['cookie']}; right={token}", "Origin: https://example.org"),
        page(hub, "/", f"Host: {words['host']}.example.org"),
        page(hub, "/" + words["head"] * 400),
    ]
    for body in ({"token": words["token of a hello"], "name": "bob"}, {"token": token, "name": "bob", "secret": 5}):
        with socket.create_connection(("127.0.0.1", hub.port), PATIENCE_S) as raw:
            raw.sendall("".join(f"{line}\r\n" for line in ["GET / HTTP/1.1", "Host: localhost", *upgrade, ""]).encode())
            raw.sendall(masked(frame_of("hello", body)))
            while data := raw.recv(1 << 16):
                said.append(data)
    return b"".join(said)


def test_no_secret_that_was_said_anywhere_is_found_in_anything_that_is_left(tmp_path: Path) -> None:
    words = Canaries()
    log, home, copy = tmp_path / "hub.log", tmp_path / "home", tmp_path / "copy"
    with HubProcess(home, "--log-level", "debug", "--log-file", str(log)).until_ready() as hub:
        token = (home / "token").read_text().strip()
        left = {"lines": over_lines(hub, words), "http": over_http(hub, words)}
        with line_to(home, "bob") as bob:
            direct = SendMessage(body=msgspec.Raw(msgspec.json.encode(words["direct"])), to=("ada",))
            bob.ask(direct, Sent)
            bob.refused(msgspec.structs.replace(direct, to=("nobody",), subject=words["subject"]))
        (tmp_path / "eve.secret").write_text(words["of a file"])
        environ = {"SYNAPSE_AGENT_SECRET_FILE": str(tmp_path / "eve.secret")}
        left |= {"by file": said_by_synapse(home, "send", "hi", "--name", "eve", **environ)}
        left |= {"rebound": said_by_synapse(home, "agent", "rebind", "ada")}
        bound = {"name": "ada", "secret": words["rebound"]}
        left |= {"bound anew": said_by_a_line(hub, frame_of("hello", bound))}
        for verb in ("status", "doctor", "health", "who", "config show", "agent list", "journal verify", "pool list"):
            left[verb] = said_by_synapse(home, *verb.split(), "--json") + said_by_synapse(home, *verb.split())
        copy.mkdir()
        left["export"] = said_by_synapse(home, "journal", "export", str(copy / "export.jsonl"))
        left |= {path: page(hub, path) for path in ("/health", "/metrics")}
        left |= {"hub.json": (home / "hub.json").read_bytes(), "processes": arguments_of_all()}
        left |= {"stderr": logged(hub)}
        assert hub.stop().code == 0
    left |= {path.name: path.read_bytes() for path in (log, *copy.iterdir())}
    own_files = {home / "token", *(home / "secrets").rglob("*")}
    left |= {path.name: path.read_bytes() for path in home.rglob("*") if path.is_file() and path not in own_files}
    assert len(left["lines"]) > 2_000
    assert b"request.refused" in left["hub.log"]
    assert b"direct-" in left["export.jsonl"], "an operator's copy has the messages"
    assert b"name_taken" in left["lines"]
    said = {**words.by_name, "token": token}
    found = [(place, name) for place, data in left.items() for name, word in said.items() if word.encode() in data]
    # Who chooses a secret for a name reads it again in the refusal; a message is in the journal, as it must be.
    own = {("lines", "secret as name")}
    own |= {(place, "direct") for place in left if place.startswith(("journal.db", "export.jsonl"))}
    assert set(found) - own == set()


def said_by_synapse(home: Path, *words: str, **environ: str) -> bytes:
    """All that a verb prints."""
    command = [sys.executable, "-m", "synapse", *words, "--home", str(home)]
    done = subprocess.run(command, env={**ENVIRON, "PYTHONPATH": str(SRC), **environ}, capture_output=True)
    return done.stdout + done.stderr


def arguments_of_all() -> bytes:
    """The command lines of all processes, as `ps` shows them to everybody."""
    found = b""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += (folder / "cmdline").read_bytes() + (folder / "comm").read_bytes()
    return found
