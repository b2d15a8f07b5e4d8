"""`lock`: a command that runs for as long as its lease is held.

Rule 1: the end of the command begins before the hub gives the lease to anybody else. `lock` counts from the moment at
which it asked for what was last confirmed, nine tenths of the TTL or of the grace that a lost connection leaves,
whichever is shorter; a thread of its own sees to that, whatever the hub and the connection do. Rule 2: what is ended
gets SIGTERM, and SIGKILL five seconds later, with its whole process group. Only with a terminal on stdin the command
stays in the group of `lock`, so that it can read, and Ctrl-C and Ctrl-Z reach both: there it alone is ended, not what
it started. Rule 3: who kills `lock` itself with SIGKILL leaves the command without a guard; its epoch is what protects
then.
"""

import os
import signal
import sys
import threading
from time import monotonic

from synapse.client.link import Link, NoAnswer
from synapse.errors import EXIT_LOCKED, EXIT_REFUSED, Disconnected, HubUnreachable, LeaseLost, Rejected, SynapseError
from synapse.faces.cli.call import Call, come_back, is_passing
from synapse.faces.cli.claims import left_lines
from synapse.faces.cli.options import UsageError, whole_number
from synapse.faces.cli.render import print_json, print_words
from synapse.faces.cli.terms import claim_body, require_quoted
from synapse.faces.cli.waiting import Claim, Grant

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from types import FrameType
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

TTL_MS = 30_000
RENEWALS = 3
"""A lease is renewed this often in the time that it has."""
BELIEF = 0.9
"""The part of what the hub promised that is counted on."""
GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
RELEASE_S = 2.0
"""How long giving the lease back may take; it ends by itself too."""
RETRY_S = 0.5
_POLL_S = 0.02
GONE = frozenset({"stale_epoch", "not_holder", "not_found"})
"""Refusals of what carries the epoch that mean: this grant has ended."""
CONFLICTS = frozenset({"lease_held", "lease_queued", "deadline"})

EXIT_LOST = EXIT_LOCKED
EXIT_NOT_EXECUTABLE = 126
EXIT_NO_COMMAND = 127

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
_OF_TERMINAL = ("SIGINT", "SIGQUIT")
_EXPORTED = {
    "home": "SYNAPSE_HOME",
    "uri": "SYNAPSE_URI",
    "name": "SYNAPSE_NAME",
    "room": "SYNAPSE_ROOM",
    "token_file": "SYNAPSE_TOKEN_FILE",
    "tls_ca": "SYNAPSE_TLS_CA",
}


_FILES = {"SYNAPSE_HOME", "SYNAPSE_TOKEN_FILE", "SYNAPSE_TLS_CA"}


class Conflict(Rejected):
    """It is held by another. exit_code: what --conflict-exit-code says."""

    def __init__(self, error: Rejected, exit_code: int) -> None:
        super().__init__(error.code, error.detail, error.facts, retry_after_ms=error.retry_after_ms)
        self.exit_code = exit_code


def lock(call: Call) -> int:
    """Claim, run, release; the command's exit code."""
    parsed = call.parsed
    _ = call.worker
    require_quoted(parsed, "synapse lock NAME -- COMMAND")
    if not parsed.command:
        raise UsageError("what is to be run? synapse lock NAME -- COMMAND")
    conflict = parsed.text("conflict_exit_code")
    conflict_code = EXIT_REFUSED if conflict is None else whole_number(conflict, "--conflict-exit-code", 0)
    if conflict_code > 255:
        raise UsageError(f"--conflict-exit-code is a process's exit code, 0 to 255, not {conflict_code}")
    task = parsed.text("task")
    if not parsed.arguments[0] or task == "":
        raise UsageError("the name of the lock is empty: is a variable not set?")
    body = _body(call, parsed.arguments[0], task)
    program = _program(parsed.command[0])
    if isinstance(program, int):
        what = "cannot be executed" if program == EXIT_NOT_EXECUTABLE else "there is no such command"
        return _say_not_run(call, f"{parsed.command[0]}: {what}", program)
    try:
        held = _acquire(call, body)
    except Rejected as error:
        if error.code in CONFLICTS and conflict is not None:
            raise Conflict(error, conflict_code) from error
        raise
    for line in left_lines(held.lease):  # the claim took it up: nobody is told it again
        print_words(line.strip())
    return held.run(program, parsed.command)


def _body(call: Call, name: str, task: str | None) -> "Json":
    """What is claimed: the task that was named, or `lock/NAME`.

    A task is one of its room. The name alone excludes in all rooms, so it is a worktree of its own too: those are the
    hub's. With paths it would be a second worktree, and a claim has one.
    """
    body = claim_body(call, f"lock/{name}" if task is None else task)
    if task is None and "worktree" not in body:
        body |= {"worktree": f"lock:{name}", "whole_worktree": True}
    return {"ttl_ms": TTL_MS, **body, "reentrant": False, "tied": True}


def _program(name: str) -> str | int:
    """Where a command lies; else the exit code that a shell has for it. Before the lease is claimed."""
    code = EXIT_NO_COMMAND
    folders = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        path = os.path.join(folder or ("" if "/" in name else "."), name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        if os.path.isfile(path) or (os.path.isdir(path) and "/" in name):
            code = EXIT_NOT_EXECUTABLE
    return code


def _say_not_run(call: Call, detail: str, code: int) -> int:
    """Say why the command was not run; the exit code for that."""
    print_words(detail)
    if call.as_json:
        what = "not_executable" if code == EXIT_NOT_EXECUTABLE else "no_command"
        print_json({"error": {"code": what, "detail": detail, "facts": {}}})
    return code


def _acquire(call: Call, body: "Json") -> "Held":
    """A grant that is fresh enough to begin under it. Who waited in line asked long ago, so it asks again."""
    wait_ms = body.get("wait_ms", 0)
    deadline_s = monotonic() + wait_ms / 1000 if isinstance(wait_ms, int) else 0.0
    while True:
        held = Held(call, Claim(call, body, None, lasting=True).grant())
        try:
            if held.lease.get("live") is not False:
                held.refresh()
                return held
        except Rejected as error:
            if error.code not in GONE:
                raise
        if isinstance(wait_ms, int) and wait_ms:
            body = {**body, "wait_ms": max(1, int((deadline_s - monotonic()) * 1000))}


class Held:
    """A lease, and the command that runs under it.

    Three threads: the first waits for the command and forwards signals, `_keep` renews and listens, `_watch` ends the
    command when no renewal came in time.
    """

    __slots__ = (
        "_call",
        "_confirmed_s",
        "_has_group",
        "_is_over",
        "_link",
        "_lock",
        "_lost",
        "_lost_s",
        "_pending",
        "_pid",
        "_span_s",
        "lease",
    )

    def __init__(self, call: Call, grant: Grant) -> None:
        self.lease = grant.lease
        self._call = call
        self._link = grant.link
        self._confirmed_s = grant.asked_s
        self._span_s = _span_s(grant.link, grant.lease)
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._lost: str | None = None
        self._lost_s = 0.0
        self._pid = 0
        self._has_group = not sys.stdin.isatty() if sys.stdin is not None else True
        self._pending: list[int] = []

    @property
    def _body(self) -> "Json":
        return {"task": self.lease["task"], "room": self.lease["room"], "epoch": self.lease["epoch"]}

    @property
    def _renew_at_s(self) -> float:
        return self._confirmed_s + self._span_s / RENEWALS

    @property
    def _believed_until_s(self) -> float:
        return self._confirmed_s + self._span_s * BELIEF

    def refresh(self) -> None:
        """Renew when that is due. Raises as `Link.ask`."""
        if monotonic() >= self._renew_at_s:
            self._renew()

    # The command.

    def run(self, program: str, command: list[str]) -> int:
        """Run it to its end; the exit code of `lock`."""
        numbers = [int(getattr(signal, name)) for name in _FORWARDED]
        handlers = {number: signal.signal(number, self._forward) for number in numbers if _is_heeded(number)}
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who started this may ignore it, and then nobody is waited for
        try:
            if not self._pending:
                code = self._run(program, command)
            else:
                code = 128 + self._pending[0]
        finally:
            self._is_over.set()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._lost is None:
            self._lost = self._give_back()
        elif self._lost == "unconfirmed":
            self._give_back()  # the hub may be there again, and others wait
        return code if self._lost is None else self._say_lost(self._lost)

    def _run(self, program: str, command: list[str]) -> int:
        try:
            environment, defaults = self._environment(), (signal.SIGPIPE, signal.SIGXFSZ)  # which Python ignores
            if self._has_group:
                pid = os.posix_spawn(program, command, environment, setpgroup=0, setsigdef=defaults)
            else:
                pid = os.posix_spawn(program, command, environment, setsigdef=defaults)
        except OSError as error:
            return _say_not_run(self._call, f"{program}: {error.strerror or error}", EXIT_NOT_EXECUTABLE)
        with self._lock:
            self._pid = pid
        for number in self._pending:
            self._forward(number, None)
        for work in (self._keep, self._watch):
            threading.Thread(target=work, daemon=True).start()
        _, status = os.waitpid(pid, 0)
        with self._lock:
            self._pid = 0
            self._is_over.set()
        if self._lost is not None and self._has_group:
            _end_group(pid, self._lost_s + GRACE_S)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _environment(self) -> dict[str, str]:
        """What the command inherits: the task and its epoch, and what flags said about the hub and who acts."""
        parsed = self._call.parsed
        named = {variable: text for key, variable in _EXPORTED.items() if (text := parsed.text(key))}
        for variable in _FILES & named.keys():
            named[variable] = os.path.abspath(os.path.expanduser(named[variable]))
        lease = {"SYNAPSE_TASK": str(self.lease["task"]), "SYNAPSE_EPOCH": str(self.lease["epoch"])}
        return {**os.environ, **named, **lease}

    def _forward(self, number: int, frame: "FrameType | None") -> None:
        """A signal to `lock` is one to its command. The terminal's own have reached both where they share a group."""
        if not self._pid:
            self._pending.append(number)
        elif self._has_group or signal.Signals(number).name not in _OF_TERMINAL:
            self._signal(self._pid, number)

    def _signal(self, pid: int, number: int) -> None:
        try:
            (os.killpg if self._has_group else os.kill)(pid, number)
        except ProcessLookupError:
            return

    # Keeping the lease.

    def _keep(self) -> None:
        """Renew, and listen for its loss, until the command has ended."""
        is_tied = True
        try:
            while not self._is_over.is_set():
                try:
                    if not (is_tied and self._listen()):
                        self._renew()
                        is_tied = True
                except (Disconnected, NoAnswer, Rejected) as error:
                    if is_passing(error):
                        is_tied = False  # a renewal over the new connection ties it again
                        self._come_back()
                    elif isinstance(error, Rejected) and error.code not in GONE:
                        self._is_over.wait(RETRY_S)  # refused for now, such as by a rate limit
                    else:
                        raise
        except LeaseLost as lost:
            self._lose(lost.reason)
        except Rejected as error:
            self._lose(error.code)
        except (SynapseError, OSError):
            self._lose("unconfirmed")

    def _come_back(self) -> None:
        """A new connection, in time. Raises `HubUnreachable`."""
        if not self._is_over.is_set():
            print_words("the connection is lost; coming back")
            self._link = come_back(self._call, self._believed_until_s, lasting=True)

    def _listen(self) -> bool:
        """True when something was heard before the next renewal was due. Raises `LeaseLost`."""
        try:
            notice = self._link.notice(max(0.0, self._renew_at_s - monotonic()))
        except TimeoutError:
            return False
        if notice.kind == "lease.lost" and notice.body.get("epoch") == self.lease["epoch"]:
            raise LeaseLost(str(self.lease["task"]), 0, str(notice.body.get("reason")))
        return True

    def _renew(self) -> None:
        asked_s = monotonic()
        self._link.ask("lease.renew", self._body)
        self._confirmed_s = asked_s

    def _watch(self) -> None:
        """End the command when it may not be believed any more that the lease is held."""
        while not self._is_over.wait(max(0.0, self._believed_until_s - monotonic())):
            if monotonic() >= self._believed_until_s:
                self._lose("unconfirmed")
                return

    def _lose(self, reason: str) -> None:
        """End the command: SIGTERM, and SIGKILL to what is still there after the grace."""
        with self._lock:
            if self._lost is not None or self._is_over.is_set() or not self._pid:
                return
            self._lost, self._lost_s = reason, monotonic()
            self._signal(self._pid, signal.SIGTERM)
            self._signal(self._pid, signal.SIGCONT)  # what is stopped would not notice
        if not self._is_over.wait(GRACE_S):
            with self._lock:
                if self._pid:
                    self._signal(self._pid, signal.SIGKILL)

    def _give_back(self) -> str | None:
        """Release it, over a connection of its own, because the other is waited on. The reason when it was lost."""
        call = Call(self._call.parsed)
        call.timeout_s = min(call.timeout_s, RELEASE_S)
        deadline_s = monotonic() + RELEASE_S
        key: str | None = os.urandom(12).hex()
        link: Link | None = None
        try:
            while True:
                try:
                    link = call.open() if link is None else link
                    link.ask("lease.release", self._body, idem_key=key)
                    return None
                except (Disconnected, HubUnreachable, NoAnswer, Rejected) as error:
                    if isinstance(error, Rejected) and error.code == "idem_limit":
                        key = None  # its epoch ends it once as well
                        continue
                    if not is_passing(error) or monotonic() >= deadline_s:
                        raise
                link = come_back(call, deadline_s)
        except Rejected as error:
            if error.code in GONE:
                return error.code
            print_words(f"the lease is not given back, and ends by itself: {error.detail}")
        except (SynapseError, OSError) as error:
            print_words(f"the lease is not given back, and ends by itself: {error}")
        finally:
            call.close()
        return None

    def _say_lost(self, reason: str) -> int:
        body = self._body
        detail = f"the lease on {body['task']} (epoch {body['epoch']}) was lost while the command ran: {reason}"
        print_words(detail)
        if self._call.as_json:
            print_json({"error": {"code": "lease_lost", "detail": detail, "facts": {**body, "reason": reason}}})
        return EXIT_LOST


def _span_s(link: Link, lease: "Json") -> float:
    """How long the lease is sure to live after what was last confirmed: its TTL, or the grace of a lost connection."""
    limits = link.await_welcome().get("limits")
    grace_ms = limits.get("tie_grace_ms") if isinstance(limits, dict) else None
    spans = [ms for ms in (lease.get("ttl_ms"), grace_ms) if isinstance(ms, int)]
    return min(spans, default=TTL_MS) / 1000


def _is_heeded(number: int) -> bool:
    """False for what this process was told to ignore, as `nohup` does; the command ignores it too."""
    return signal.getsignal(number) != signal.SIG_IGN


def _end_group(group: int, deadline_s: float) -> None:
    """Wait until nothing of a process group is left; SIGKILL for what is, after the deadline."""
    wait = threading.Event().wait
    try:
        while monotonic() < deadline_s:
            os.killpg(group, 0)
            wait(_POLL_S)
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
