"""`ask`, `questions`, `answer`, `dismiss`: questions to people.

Who asks may wait: over hubs that die meanwhile, because the question and its answer are durable. What was waited for
and printed is acked, so that it does not come once more from the inbox. Who answers is a person: the operator, where no
name is set, else whoever the token says.
"""

import os
from time import monotonic

from synapse.client.home import find_hub
from synapse.client.link import Link, NoAnswer
from synapse.errors import EXIT_DEADLINE, EXIT_OK, EXIT_REFUSED, Disconnected, HubUnreachable, Rejected
from synapse.faces.cli.call import MAIN, Call, come_back, is_passing, longest_wait_s
from synapse.faces.cli.given import given_json, given_task_of, given_text
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_json, print_text, print_words, safe, safe_lines
from synapse.lean import dumps

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    from synapse.client.link import Notice

    Json: TypeAlias = dict[str, object]

_INSTEAD = "keep a reference to a file instead"


# Asking.


def ask(call: Call) -> int:
    """Ask, and with --wait print what becomes of it. 0 answered, 3 dismissed or withdrawn, 5 the deadline passed."""
    body = _question(call)
    wait_s, key = call.parsed.seconds("wait"), call.parsed.text("idem_key")
    if wait_s is None:
        asked = call.open_as(call.worker).ask("question.ask", body, idem_key=key)
        parked = f"  {field(asked, 'task')} is parked" if asked.get("parks") is not None else ""
        call.show(asked, f"{field(asked, 'id')}  {field(asked, 'title')}{parked}")
        return EXIT_OK
    waits = _Waits(call, body, os.urandom(12).hex() if key is None else key, monotonic() + wait_s)
    return _ended(call, waits.outcome(), waits)


def _question(call: Call) -> "Json":
    """What is asked, from the words of the call. Raises `UsageError`."""
    parsed = call.parsed
    title, question = parsed.arguments[0], parsed.arguments[1:]
    body: Json = {"title": title, **call.room}
    if question:
        body["question"] = given_text(question[0], _INSTEAD)
    context = parsed.text("context")
    if context is not None:
        if question == ["-"] and context == "-":
            raise UsageError("QUESTION and --context cannot both be read from stdin")
        body["context"] = given_json(given_text(context, _INSTEAD), "--context")
    for key, name in (("option", "options"), ("tag", "tags")):
        if parsed.texts(key):
            body[name] = parsed.texts(key)
    for key in ("default", "on_deadline", "priority"):
        if parsed.text(key) is not None:
            body[key] = parsed.text(key)
    session = parsed.text("session") or os.environ.get("SYNAPSE_SESSION")
    if session:
        body["session"] = session
    if parsed.has("free"):
        body["free"] = True
    deadline_s = parsed.seconds("deadline")
    if deadline_s is not None:
        body["deadline_ms"] = int(deadline_s * 1000)
    task = parsed.text("task")
    if task is not None:
        return {**body, **given_task_of(call, task)}
    if parsed.has("epoch"):
        raise UsageError("--epoch is of a lease on a task: give --task too")
    return body


class _Waits:
    """One question on its way to its end. deadline_s: on the monotonic clock. is_replayed: it was asked before, under
    the key of the call."""

    __slots__ = ("_body", "_call", "_deadline_s", "_id", "_key", "is_replayed", "link")

    def __init__(self, call: Call, body: "Json", key: str, deadline_s: float) -> None:
        self._call = call
        self._body = body
        self._key = key
        self._deadline_s = deadline_s
        self._id = ""
        self.is_replayed = False
        self.link: Link = call.open_as(call.worker, lasting=True)

    def outcome(self) -> "Json":
        """The question, closed. Raises `Rejected(deadline)` when it is open still, `HubUnreachable` when the hub never
        said whether it was asked, and as `Link.ask`."""
        while True:
            try:
                return self._outcome()
            except (Disconnected, NoAnswer, Rejected) as error:
                if not is_passing(error):
                    raise
                if monotonic() >= self._deadline_s:
                    raise self._late(error) from error
            try:
                self.link = come_back(self._call, self._deadline_s, lasting=True)
            except HubUnreachable as error:
                raise self._late(error) from error

    def _outcome(self) -> "Json":
        if not self._id:
            try:
                asked = self.link.ask("question.ask", self._body, idem_key=self._key)
            except Rejected as error:
                if error.code != "idem_limit" or self._call.parsed.has("idem_key"):
                    raise
                asked = self.link.ask("question.ask", self._body)  # nothing was asked under the key
            self._id, self.is_replayed = field(asked, "id"), "replayed" in asked
            who, how = _answerer(self.link, asked.get("room"))
            print_words(f"{self._id} waits for {who}, who types: synapse {how}answer {self._id} TEXT")
        while True:
            now_s = min(max(self._deadline_s - monotonic(), 0.0), longest_wait_s(self.link))
            try:
                return self.link.ask("question.wait", {"id": self._id, "wait_ms": int(now_s * 1000)}, wait_s=now_s)
            except Rejected as error:
                if error.code != "deadline":
                    raise
                if self._deadline_s - monotonic() <= 0.001:
                    raise self._late(None) from error

    def _late(self, error: Exception | None) -> Exception:
        if not self._id:
            return HubUnreachable(
                "the time given for waiting is over, and the hub did not say whether it was asked: "
                f"{error}; to be sure that it is asked once: --idem-key {self._key}"
            )
        gone = "" if error is None else f"; the hub is gone: {error}"
        return Rejected(
            "deadline",
            f"nobody answered {self._id} in that time; it is open still, and the answer comes into the inbox{gone}",
            {"id": self._id},
        )

    def ack(self, letter: object) -> None:
        """Be done with the message that says the same. Without a hub it comes again, which is said."""
        deadline_s = monotonic() + self._call.timeout_s
        while True:
            try:
                self.link.ask("inbox.ack", {"ids": [letter]})
                return
            except (Disconnected, NoAnswer, Rejected) as error:
                if not is_passing(error):
                    raise
                if monotonic() >= deadline_s:
                    raise HubUnreachable(f"{letter} was printed and not acked: it comes again ({error})") from error
            self.link = come_back(self._call, deadline_s, lasting=True)


def _ended(call: Call, question: "Json", waits: _Waits) -> int:
    """Print how a question ended, then be done with its letter."""
    outcome = question.get("outcome")
    if call.as_json:
        print_json({**question, "replayed": True} if waits.is_replayed and call.parsed.has("idem_key") else question)
    elif question.get("answer") is not None:
        print_words(f"{field(question, 'id')}: {_how(question)}")
        print_text(safe_lines(str(question.get("answer")), ""))
    else:
        print_words(f"{field(question, 'id')}: {_how(question)}")
    if question.get("letter") is not None:
        waits.ack(question["letter"])
    if outcome in ("answered", "default"):
        return EXIT_OK
    return EXIT_DEADLINE if outcome == "expired" else EXIT_REFUSED


def _how(question: "Json") -> str:
    """How it was closed, in words, without the answer."""
    said = question.get("reason")
    is_plain = said is None or (said, question.get("status")) == ("asked", "withdrawn")
    reason = "" if is_plain else f": {field(question, 'reason')}"
    match question.get("outcome"):
        case "default":
            return "the deadline passed, and the default is the answer"
        case "expired":
            return "the deadline passed, and nobody answered"
        case _:
            return f"{field(question, 'status')} by {field(question, 'by')}{reason}"


# Looking.


def questions(call: Call) -> int:
    """List questions, and with --watch say what becomes of them."""
    parsed = call.parsed
    body: Json = {key: text for key in ("task", "tag") if (text := parsed.text(key)) is not None}
    if parsed.has("all"):
        body["status"] = "all"
    if parsed.has("mine"):
        body["asker"] = call.me.name
    if parsed.has("watch"):
        return _watch(call, {**body, **call.room})
    _show_list(call, call.pages("question.list", {**body, **call.room}, ("questions",)))
    return EXIT_OK


def _show_list(call: Call, answer: "Json") -> None:
    found = answer.get("questions")
    listed = found if isinstance(found, list) else []
    call.show(answer, "\n".join(map(_lines, listed)) if listed else "no questions")


def _watch(call: Call, body: "Json") -> int:
    from synapse.faces.cli.call import pages
    from synapse.faces.cli.follow import cursor_in, stay

    room = body.get("room")

    def rooms(link: Link) -> "Json":
        """All rooms that are there now and that the caller reads; who joins one meanwhile hears of it soon."""
        if room is not None:
            return {"questions": [room]}
        listed = pages(link, "room.list", {}, ("rooms",)).get("rooms")
        found = [one for one in listed if _reads(link, one)] if isinstance(listed, list) else []
        return {"questions": [one["room"] for one in found]}

    def begin(link: Link) -> None:
        _show_list(call, pages(link, "question.list", body, ("questions",)))

    def show(link: Link, notice: "Notice") -> str | None:
        cursor = cursor_in(notice)
        if notice.kind == "question.changed" and all(
            notice.body.get(key) == body[key] for key in ("asker", "task") if key in body
        ):
            _show_change(call, notice.body)
        return cursor

    words = f"watching questions of {room or 'all rooms'}"
    return stay(call, rooms, words, show, begin, is_moving=room is None)


def _reads(link: Link, room: "Json") -> bool:
    """True unless it is a private room that the caller sees in the list, as an admin does, and is no member of."""
    if not room.get("private"):
        return True
    try:
        link.ask("question.list", {"room": room["room"], "limit": 1})
    except Rejected as error:
        if error.code != "not_found":
            raise
        return False
    return True


def _show_change(call: Call, change: "Json") -> None:
    if call.as_json:
        print_json(change)
        return
    where = "" if change.get("room") == MAIN else f"  ({field(change, 'room')})"
    said = f"  {field(change, 'answer')}" if change.get("answer") is not None else ""
    what = f"{field(change, 'change'):10}{field(change, 'id')}  {field(change, 'title')}"
    print_text(f"{what}{where}{said}  by {field(change, 'by')}")


def question_show(call: Call) -> int:
    """Everything about one question."""
    link = call.open()
    answer = link.ask("question.show", {"id": call.parsed.arguments[0]})
    lines = [_lines(answer)]
    if answer.get("question"):
        lines.append(safe_lines(str(answer["question"]), "  "))
    if answer.get("context") is not None:
        lines.append(f"  context: {safe(dumps(answer['context']))}")
    if answer.get("status") == "open":
        who, how = _answerer(link, answer.get("room"))
        lines.append(f"  {who} types: synapse {how}answer {field(answer, 'id')} TEXT")
    call.show(answer, "\n".join(lines))
    return EXIT_OK


def _lines(question: "Json") -> str:
    """A question for a list: what is asked, of what, and what may be answered, or how it ended."""
    words = [field(question, "id")]
    if question.get("priority") != "normal":
        words.append(field(question, "priority"))
    words += [clock(question.get("asked_at_ms")), field(question, "asker")]
    if question.get("task") is not None:
        words.append(field(question, "task") + (" (parked)" if question.get("parks") is not None else ""))
    words.append(field(question, "title"))
    options = question.get("options")
    more: list[str] = []
    if question.get("status") != "open":
        said = f": {field(question, 'answer')}" if question.get("answer") is not None else ""
        more.append(_how(question) + said)
    elif isinstance(options, list):
        more.append("  ".join(f"{number} {safe(str(option))}" for number, option in enumerate(options, 1)))
    if question.get("status") == "open" and question.get("deadline_at_ms") is not None:
        is_default = question.get("on_deadline") == "default"
        then = f"then {field(question, 'default')}" if is_default else "then it expires"
        more.append(f"until {clock(question.get('deadline_at_ms'))}, {then}")
    return "\n".join(["  ".join(words), *(f"  {line}" for line in more)])


# Closing.


def answer(call: Call) -> int:
    """Answer, as a person."""
    parsed = call.parsed
    body: Json = {"id": parsed.arguments[0]}
    option = parsed.whole("option")
    if (option is None) == (len(parsed.arguments) == 1):
        raise UsageError("which answer? synapse answer ID TEXT, or - to read it from stdin, or --option N")
    if option is None:
        body["answer"] = given_text(parsed.arguments[1], _INSTEAD)
    else:
        body["option"] = option
    return _close(call, "question.answer", body)


def dismiss(call: Call) -> int:
    """Say that there is no answer, as a person."""
    body: Json = {"id": call.parsed.arguments[0]}
    if call.parsed.text("reason") is not None:
        body["reason"] = call.parsed.text("reason")
    return _close(call, "question.dismiss", body)


def _close(call: Call, kind: str, body: "Json") -> int:
    link = open_as_person(call)
    try:
        closed = link.ask(kind, body, idem_key=call.parsed.text("idem_key"))
    except Rejected as error:
        if error.code != "not_permitted":
            raise
        who, how = _answerer(link, _room_of(link, body["id"]))
        line = f"{who} types: {'' if how else 'env -u SYNAPSE_NAME '}synapse {how}{kind.partition('.')[2]} {body['id']}"
        raise Rejected(error.code, f"{error.detail}; {line}", error.facts) from error
    _show_closed(call, closed)
    return EXIT_OK


def _room_of(link: Link, question: object) -> object:
    """The room of a question; None where that cannot be seen."""
    try:
        return link.ask("question.show", {"id": question}).get("room")
    except (Disconnected, NoAnswer, Rejected):
        return None


def _answerer(link: Link, room: object) -> tuple[str, str]:
    """Who closes questions of a room, and the flags for that: an operator does not see a private one."""
    try:
        is_private = room not in (None, MAIN) and link.ask("room.info", {"room": room, "limit": 1}).get("private")
    except (Disconnected, NoAnswer, Rejected):  # it is for people to read, and no reason to fail
        is_private = False
    if not is_private:
        return "a person", ""
    return f"a member of {safe(str(room))} with a token of the role human", "--name NAME --token-file FILE "


def open_as_person(call: Call) -> Link:
    """A connection of who closes questions: with no name and no token set, of the operator, where there can be one."""
    if call.me.is_named or call.around.get("token_file") is not None:
        return call.open()
    try:
        is_local = find_hub(call.around).uri.startswith("unix:")
    except ValueError as error:
        raise UsageError(str(error)) from error
    return call.open_as_operator() if is_local else call.open()


def question_withdraw(call: Call) -> int:
    """Take a question back."""
    body: Json = {"id": call.parsed.arguments[0]}
    _show_closed(call, open_as_person(call).ask("question.withdraw", body))
    return EXIT_OK


def _show_closed(call: Call, closed: "Json") -> None:
    already = " already" if closed.get("already") else ""
    said = f" with {field(closed, 'answer')}" if closed.get("answer") is not None else ""
    told = closed.get("told")
    names = f"; {', '.join(safe(str(name)) for name in told)} is told" if isinstance(told, list) and told else ""
    call.show(closed, f"{field(closed, 'id')} is {field(closed, 'status')}{already}{said}{names}")
