"""One call of the command line: its surroundings, who it acts as, and its way to the hub and back."""

import os
from time import monotonic, sleep

from synapse.client.home import Surroundings
from synapse.client.link import Link, open_link
from synapse.errors import Disconnected, HubUnreachable, Rejected
from synapse.faces.cli.identity import Identity, who_am_i
from synapse.faces.cli.options import NO_END, Parsed, UsageError, duration, required
from synapse.faces.cli.render import print_json, print_text

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

TIMEOUT_S = 10.0
MAIN = "main"
GENERAL = "general"
PAGE = 200
LONGEST_WAIT_S = 300.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class Call:
    """What a verb works with."""

    __slots__ = ("_identity", "_link", "around", "as_json", "parsed", "timeout_s")

    def __init__(self, parsed: Parsed) -> None:
        """Raises `HomeRefused` for a config.toml that is none, `UsageError` for a time-out that is none and for a flag
        that is empty: what it would have named, nobody may guess."""
        flags: dict[str, str] = {}
        for key in ("home", "uri", "name", "room", "token_file", "tls_ca"):
            text = parsed.text(key)
            if text is not None:
                flags[key] = required(text, key)
        self.parsed = parsed
        looks_for_faults = parsed.verb is not None and parsed.verb.name == "doctor"
        self.around = Surroundings(flags, os.environ, is_config_needed=not looks_for_faults)
        self.as_json = parsed.has("json")
        self.timeout_s = self._timeout_s()
        self._identity: Identity | None = None
        self._link: Link | None = None

    def _timeout_s(self) -> float:
        given, place = self.parsed.seconds("timeout"), "--timeout"
        if given is None:
            if "timeout" not in self.around.settings:
                return TIMEOUT_S
            text, source = self.around.settings["timeout"]
            place = f"the timeout of {source}"
            given = duration(text, place)
        if given <= 0:
            raise UsageError(f"{place} must be longer than nothing")
        return given

    @property
    def me(self) -> Identity:
        """Who this call acts as."""
        if self._identity is None:
            self._identity = who_am_i(self.around)
        return self._identity

    @property
    def worker(self) -> Identity:
        """As `me`, for what holds work or waits for it. Raises `UsageError` for the local user, who is no agent."""
        if not self.me.is_named:
            verb = self.parsed.verb
            raise UsageError(
                f"{verb.name if verb else 'this'} is for an agent with a name of its own: "
                "export SYNAPSE_NAME=$(synapse agent new), or give --name NAME"
            )
        return self.me

    @property
    def room(self) -> "Json":
        """The room in force, as a field of a request; nothing where none is named, which means the home's."""
        room = self.room_name
        return {} if room is None else {"room": room}

    @property
    def room_name(self) -> str | None:
        """The room in force; None where none is named. A channel behind it is a home's, and only that."""
        room = self.around.get("room")
        return None if room is None else room.partition(":")[0]

    @property
    def home_channel(self) -> str:
        """The address of what names none: `general` of the room in force, or the channel that is named behind it."""
        home = self.around.get("room") or MAIN
        return home if ":" in home else f"{home}:{GENERAL}"

    def address(self, text: str) -> str:
        """`room:channel`; a channel alone is in the room in force."""
        return text if ":" in text else f"{self.room_name or MAIN}:{text}"

    def open(self, *, lasting: bool = False) -> Link:
        """A connection on which the hello is posted. Raises `HubUnreachable`, `UsageError`."""
        return self.open_as(self.me, lasting=lasting)

    def open_as(self, who: Identity, *, lasting: bool = False) -> Link:
        """As `open`, under another identity."""
        link = self._connect()
        link.greet(who.name, kind=who.kind, lasting=lasting, home=self.home_channel)
        return link

    def open_as_operator(self) -> Link:
        """A connection without an agent, for who may do anything: the hub's own user on its Unix socket."""
        link = self._connect()
        link.greet(None)
        return link

    def _connect(self) -> Link:
        self.close()
        try:
            self._link = open_link(self.around, self.timeout_s)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return self._link

    def close(self) -> None:
        """Let the connection go that was opened last; there is never more than one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def ask(self, kind: str, body: "Json", *, operator: bool = False) -> "Json":
        """One request on a connection of its own."""
        link = self.open_as_operator() if operator else self.open()
        return link.ask(kind, body)

    def pages(self, kind: str, body: "Json", lists: tuple[str, ...]) -> "Json":
        """All pages of a list in one answer: the first one's, with what the others have in `lists` appended."""
        return pages(self.open(), kind, body, lists)

    def show(self, answer: "Json", text: str) -> None:
        """Print an answer, or what it says to people. `replayed` is for who gave the key: a call that had to come back
        repeats itself under one of its own."""
        if "replayed" in answer and not self.parsed.has("idem_key"):
            answer = {name: value for name, value in answer.items() if name != "replayed"}
        if self.as_json:
            print_json(answer)
        else:
            print_text(text)


def ask_one_of_many(
    link: Link, kind: str, body: "Json", deadline_s: float | None = None, *, idem_key: str | None = None
) -> "Json":
    """As `link.ask`, for verbs that ask often: where that is more than the hub takes of one agent, wait as it says,
    until the deadline on the monotonic clock; without one, for the link's time-out."""
    deadline_s = monotonic() + link.timeout_s if deadline_s is None else deadline_s
    while True:
        try:
            return link.ask(kind, body, idem_key=idem_key)
        except Rejected as refusal:
            pause_s = (refusal.retry_after_ms or 0) / 1000
            if refusal.code != "rate_limited" or monotonic() + pause_s >= deadline_s:
                raise
        sleep(pause_s)


def pages(link: Link, kind: str, body: "Json", lists: tuple[str, ...]) -> "Json":
    """As `Call.pages`, on a connection that is open."""
    answer = ask_one_of_many(link, kind, {**body, "limit": PAGE})
    following = answer.pop("next", None)
    while isinstance(following, str):
        page = ask_one_of_many(link, kind, {**body, "limit": PAGE, "after": following})
        for key in lists:
            more, kept = page.get(key), answer.get(key)
            if isinstance(more, list) and isinstance(kept, list):
                kept.extend(more)
        following = page.get("next")
    return answer


def is_passing(error: Exception) -> bool:
    """True for what a restart of the hub looks like from here: worth coming back."""
    if isinstance(error, Disconnected):
        return error.may_come_back
    if isinstance(error, Rejected):
        return error.code == "draining"
    return isinstance(error, HubUnreachable)


def is_cut_off(error: Exception) -> bool:
    """True when the hub's journal does not go on where a feed was: it was restored, or retention has dropped that."""
    return isinstance(error, Rejected) and error.code in ("log_diverged", "cursor_too_old")


def run_again(error: Exception) -> Exception:
    """What ended a watch that takes no cursor, with the cure that it has."""
    if isinstance(error, Rejected) and is_cut_off(error):
        why = f"the hub's journal does not go on where this watch was ({error.code}): run it again, it begins anew"
        return Rejected(error.code, why, error.facts)
    return error


def longest_wait_s(link: Link) -> float:
    """How long one request may wait: not beyond the hub's limit, nor so long that a dead connection goes unseen."""
    limits = link.await_welcome().get("limits")
    most_ms = limits.get("wait_ms_max") if isinstance(limits, dict) else None
    return min(LONGEST_WAIT_S, most_ms / 1000 if isinstance(most_ms, int) else LONGEST_WAIT_S)


def longest_page(link: Link, most: int = 500) -> int:
    """How many items one page or request may have."""
    limits = link.await_welcome().get("limits")
    allowed = limits.get("page_items_max") if isinstance(limits, dict) else None
    return min(most, allowed) if isinstance(allowed, int) else min(most, PAGE)


class Backoff:
    """Pauses between attempts to come back: doubling up to 2 s, each off by up to a half so that many spread out."""

    __slots__ = ("_next_s",)

    def __init__(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    def pause(self, deadline_s: float = NO_END) -> None:
        """Sleep before the next attempt, not beyond the deadline on the monotonic clock."""
        pause_s = self._next_s * (0.5 + os.urandom(1)[0] / 255)
        self._next_s = min(self._next_s * 2, _LONGEST_PAUSE_S)
        sleep(max(0.0, min(pause_s, deadline_s - monotonic())))


def come_back(call: Call, deadline_s: float, *, lasting: bool = False) -> Link:
    """A new connection, welcomed, after one was lost; tried until the deadline on the monotonic clock.

    Raises `HubUnreachable` when it passes; at once what does not pass by itself, such as a name taken meanwhile.
    """
    backoff = Backoff()
    while True:
        backoff.pause(deadline_s)
        try:
            link = call.open(lasting=lasting)
            link.await_welcome()
            return link
        except (Disconnected, HubUnreachable, Rejected) as error:
            if not is_passing(error):
                raise
            if monotonic() >= deadline_s:
                raise HubUnreachable(f"the connection was lost, and no hub came back in time: {error}") from error
