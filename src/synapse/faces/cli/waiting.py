"""To be granted a lease, over hubs that die meanwhile: the place in line is durable, and taken up again.

Rule 1: the same request comes again, under its key or with its place, so that it stands in line once. Rule 2: the time
that was given is counted here too, because a hub that restarted gives the whole of it again. Rule 3: who is ended while
it waits leaves its place, so that nobody waits behind it in vain, and gives back what it was granted, also when the hub
says so only now.
"""

import os
from time import monotonic

from synapse.client.link import Link, NoAnswer
from synapse.errors import Disconnected, HubUnreachable, Rejected, SynapseError
from synapse.faces.cli.call import Call, come_back, is_passing
from synapse.faces.cli.options import NO_END
from synapse.faces.cli.render import field, print_words, safe, span

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from types import FrameType
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

SILENCE_S = 60.0
"""How long the hub may be silent before it is asked whether it still lives."""
SLACK_S = 1.0
"""How long the hub's own word about the deadline is waited for."""
LAST_WORDS_S = 1.0
"""How long each of the hub's answers is waited for by a process that is being ended."""


class Ended(KeyboardInterrupt):
    """A signal that ends this process came while it had something to put in order. exit_code: 128 and its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_code = 128 + signal_number


class Grant:
    """A lease that was granted. asked_s: when it was asked for, on the monotonic clock. link: which it came on."""

    __slots__ = ("asked_s", "lease", "link")

    def __init__(self, lease: "Json", link: Link, asked_s: float) -> None:
        self.lease = lease
        self.link = link
        self.asked_s = asked_s


class Claim:
    """One claim on its way to a grant. key: the caller's own idempotency key. lasting: the connection stays."""

    __slots__ = ("_body", "_call", "_deadline_s", "_has_own_key", "_holders", "_key", "_lasting", "_place", "_request")

    def __init__(self, call: Call, body: "Json", key: str | None, *, lasting: bool = False) -> None:
        wait_ms = body.get("wait_ms", 0)
        self._call = call
        self._body = body
        self._has_own_key = key is not None
        self._key = key
        self._lasting = lasting or self.is_patient
        self._place: object = None
        self._holders: object = None
        self._request = ""
        left_s = wait_ms / 1000 if isinstance(wait_ms, int) and wait_ms else call.timeout_s
        self._deadline_s = NO_END if wait_ms is None else monotonic() + left_s
        if not self._has_own_key and (self.is_patient or body.get("reentrant") is False):
            self._key = os.urandom(12).hex()  # else the claim would meet its own ghost when it comes back

    @property
    def is_patient(self) -> bool:
        """True when it waits in line."""
        return self._body.get("wait_ms", 0) != 0

    def grant(self) -> Grant:
        """Ask until there is an answer. Raises as `Link.ask`; `Rejected(deadline)`; `Ended` when a signal comes."""
        link = self._call.open_as(self._call.worker, lasting=self._lasting)
        while True:
            asked_s = monotonic()
            try:
                return Grant(self._ask(link), link, asked_s)
            except (Disconnected, NoAnswer, Rejected) as error:
                if isinstance(error, Rejected) and error.code == "idem_limit" and not self._has_own_key:
                    self._key = None  # its place brings it back as well
                    continue
                if not is_passing(error):
                    raise
                if monotonic() >= self._deadline_s:
                    raise self._late(error) from error
            try:
                link = come_back(self._call, self._deadline_s, lasting=self._lasting)
            except HubUnreachable as error:
                raise self._late(error) from error

    def _ask(self, link: Link) -> "Json":
        body = self._body
        if self._key is None and self._place is not None:
            body = {**body, "place": self._place}
        self._request = link.post("lease.claim", body, idem_key=self._key)
        if not self.is_patient:
            return link.answer(self._request)
        handlers = catch_signals()
        try:
            link.ask("ping", {})  # what the hub says of the place comes before the pong
            return self._await(link)
        except KeyboardInterrupt:
            self._leave(link)
            raise
        finally:
            restore_signals(handlers)

    def _await(self, link: Link) -> "Json":
        """The answer, however long it takes. Raises `Rejected(deadline)` when the hub does not say it in time."""
        while True:
            self._hear(link)
            left_s = self._deadline_s - monotonic() + SLACK_S
            if left_s <= 0:
                break
            try:
                return link.answer(self._request, wait_s=min(left_s, SILENCE_S) - link.timeout_s)
            except NoAnswer:
                if left_s > SILENCE_S:
                    link.ask("ping", {})
        try:
            link.ask("lease.withdraw", self._own_place)
        except Rejected as error:
            if error.code != "not_found":  # it was granted in this moment, or ended by others
                raise
        try:
            return link.answer(self._request)
        except Rejected as error:
            if error.code != "withdrawn":
                raise
            raise self._late(None) from error

    @property
    def _own_place(self) -> "Json":
        body: Json = {"task": self._body["task"], **self._call.room}
        return body if self._place is None else {**body, "place": self._place}

    def _hear(self, link: Link) -> None:
        """Say in which place it stands, and behind whom."""
        while link.notices:
            notice = link.notices.pop(0)
            if notice.kind == "claim.queued" and notice.body.get("request") == self._request:
                self._place, self._holders = notice.body.get("place"), notice.body.get("holders")
                behind = _held(self._holders)
                print_words(
                    f"{field(notice.body, 'task')}: waiting in line, position {field(notice.body, 'position')}"
                    + (f"; {behind}" if behind else "")
                )

    def _leave(self, link: Link) -> None:
        """Leave the line, and give back what was granted in the same moment. Never raises."""
        link.timeout_s = LAST_WORDS_S
        try:
            self._hear(link)
            if self._place is None:
                link.ask("ping", {})  # a hub that is slow says now what became of the claim
                self._hear(link)
            if self._place is not None:
                try:
                    link.ask("lease.withdraw", self._own_place)
                except Rejected:
                    pass  # it was granted in this moment
                else:
                    return
            lease = link.answer(self._request)
            if lease.get("outcome") != "renewed":
                body: Json = {"task": lease["task"], "room": lease["room"], "epoch": lease["epoch"]}
                link.ask("lease.release", body)
        except (SynapseError, OSError):
            return  # the hub finds within ten seconds that nobody waits there

    def _late(self, error: Exception | None) -> Exception:
        """The deadline, as a refusal that names who holds it as far as is known. When no hub was there to say it, what
        happened: the lease may have been granted or not."""
        if isinstance(error, Rejected) or (error is not None and not self.is_patient):
            return error
        behind = _held(self._holders)
        if error is not None:
            return HubUnreachable(
                f"the time given for waiting for {self._body['task']} is over{f' ({behind})' if behind else ''}, and "
                f"the hub did not say whether it was granted: {error}"
            )
        facts: Json = {} if self._holders is None else {"holders": self._holders}
        return Rejected(
            "deadline",
            f"{self._body['task']} was not free in the time given for waiting{f': {behind}' if behind else ''}",
            facts,
        )


def _held(holders: object) -> str:
    """Who stands in the way, of the `holders` that the hub names."""
    if not isinstance(holders, list) or not holders:
        return ""
    first = holders[0]
    left_ms, paths = first.get("expires_in_ms"), first.get("paths")
    what = f" ({', '.join(safe(str(path)) for path in paths[:3])})" if isinstance(paths, list) and paths else ""
    until = f"for another {span(left_ms)}" if isinstance(left_ms, int) else "and it is parked"
    more = f", and {len(holders) - 1} more stand in the way" if len(holders) > 1 else ""
    return (
        f"{field(first, 'owner')} holds {field(first, 'task')}{what} with epoch {field(first, 'epoch')} {until}{more}"
    )


def catch_signals() -> "dict[int, object]":
    """Let SIGTERM and SIGHUP end what follows in order, with `Ended`. Returns what was done about them before."""
    import signal

    def end(number: int, frame: "FrameType | None") -> None:
        raise Ended(number)

    caught = (signal.SIGTERM, signal.SIGHUP)
    return {int(number): signal.signal(number, end) for number in caught if signal.getsignal(number) != signal.SIG_IGN}


def restore_signals(handlers: "dict[int, object]") -> None:
    """Undo `catch_signals`."""
    import signal

    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]  # it is what signal.signal gave
