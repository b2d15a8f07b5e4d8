"""`doctor`: what stands in the way of a hub that works, each with its cure.

It looks and changes nothing. A finding is `ok`, `note` (good to know), `warning` (it works, and may not for long) or
`problem` (it does not work); problems make the exit code 1.
"""

import os
import sys
from shlex import join, quote

from synapse import __version__
from synapse.client.home import UNIX
from synapse.client.secrets import SecretRefused, Secrets
from synapse.errors import EXIT_FAILED, EXIT_OK, Disconnected, HubUnreachable, PeerError, Rejected
from synapse.faces.cli.background import holds_lock, lock_holder
from synapse.faces.cli.call import Call
from synapse.faces.cli.health import ask_status
from synapse.faces.cli.render import print_json, print_text, safe
from synapse.home import (
    HUB_FILE,
    SECRETS,
    HomeRefused,
    HubFile,
    HubFileHidden,
    config_path,
    fallback_socket_path,
    read_hub_file,
    socket_path,
)
from synapse.protocol.trace import traceparent_of

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
DISK_BYTES_MIN = 64 << 20
"""The reserve is 16 MiB; a WAL grows to 16 MiB before it is emptied, and a snapshot needs room beside the last one."""
DISK_BYTES_WARN = 512 << 20
LAG_MS_WARN = 10_000
_PEM_BYTES_MAX = 1 << 20
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy")
_WAL_RESET_FIXED = (3, 51, 3)
"""SQLite from 3.7.0 until then may lose pages when two connections write and checkpoint at once; see its wal.html."""


class Finding:
    """One thing that was looked at. name: which; cure: what to type, or None when nothing is to be done."""

    __slots__ = ("cure", "detail", "level", "name")

    def __init__(self, name: str, level: str, detail: str, cure: str | None = None) -> None:
        self.name = name
        self.level = level
        self.detail = detail
        self.cure = cure


def doctor(call: Call) -> int:
    """Look at everything, and say it."""
    findings = [
        *_program(),
        *_home(call),
        *_configuration(call),
        *_other_homes(call),
        *_disk(call),
        *_socket(call),
        *_open_ports(call),
    ]
    findings += [*_proxies(call), *_trace(call), *_hub(call)]
    has_problem = any(finding.level == PROBLEM for finding in findings)
    if call.as_json:
        shown = [
            {"name": item.name, "level": item.level, "detail": item.detail, "cure": item.cure} for item in findings
        ]
        print_json({"healthy": not has_problem, "findings": shown, "cursor": None})
    else:
        for item in findings:
            print_text(f"{item.level:8}{item.name:14}{safe(item.detail)}")
            if item.cure is not None:
                print_text(f"{'':22}-> {safe(item.cure)}")
        print_text("something does not work" if has_problem else "all is well")
    return EXIT_FAILED if has_problem else EXIT_OK


def _program() -> "Iterator[Finding]":
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("program", OK, f"synapse {__version__}, Python {version}, {sys.executable}")


def _home(call: Call) -> "Iterator[Finding]":
    """Owner and modes of the home and of what is in it, and what keeps a hub from starting there, or an agent out."""
    from synapse.faces.cli.hub import start_faults  # which knows what a start looks at

    home = call.around.home
    try:
        info = os.stat(home)
        entries = list(os.scandir(home))
    except OSError as error:
        faults = [] if call.around.get("uri") else start_faults(home)
        yield from (_refused("home", fault) for fault in faults)
        if not faults and isinstance(error, FileNotFoundError):
            yield Finding("home", NOTE, f"{home}: is not there yet; the first hub makes it")
        elif not faults:
            yield Finding("home", PROBLEM, f"{home}: {error.strerror}", "choose another: --home DIR, or SYNAPSE_HOME")
        return
    if info.st_uid != os.getuid():
        cure = "run as that user, or choose a home of your own: --home DIR, or SYNAPSE_HOME"
        yield Finding("home", PROBLEM, f"{home}: belongs to uid {info.st_uid}, this is uid {os.getuid()}", cure)
        return
    faults = [*([] if call.around.get("uri") else start_faults(home)), *_unusable(call)]
    yield from (_refused("home", fault) for fault in faults)
    open_to_others = [home] if info.st_mode & 0o077 else []
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        is_plain = mode & 0o170000 in (0o100000, 0o040000)  # the socket asks who connects
        if mode & 0o077 and is_plain and entry.name != "config.toml" and not _is_certificate(entry.path):
            open_to_others.append(entry.path)
    if open_to_others:
        cure = f"chmod go= {join(open_to_others)}"
        yield Finding("home", PROBLEM, f"other users may open {', '.join(open_to_others)}", cure)
    elif not faults:
        yield Finding("home", OK, home)


def _refused(name: str, text: str) -> Finding:
    """What was refused, in words whose last part is the cure."""
    detail, _, cure = text.rpartition("; ")
    return Finding(name, PROBLEM, detail, cure) if detail else Finding(name, PROBLEM, text)


def _unusable(call: Call) -> "Iterator[str]":
    """What is in the way of agents and of snapshots while a hub runs."""
    home = call.around.home
    for path in (os.path.join(home, name) for name in (SECRETS, "snapshots")):
        if os.path.lexists(path) and not os.path.isdir(path):
            yield f"{path}: is no directory; remove it, and one is made"
        elif os.path.isdir(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            yield f"{path}: this user may not use it; chmod u+rwx {quote(path)}"
    try:
        file = read_hub_file(home)
        if file is not None and os.access(os.path.join(home, SECRETS), os.X_OK):
            Secrets(home, call.around.environ).kept(file.hub_id, call.me.name)
    except SecretRefused as error:
        yield str(error)
    except (HomeRefused, Rejected, PeerError):  # said elsewhere: of the rendezvous file, and of a name that is none
        return


def _is_certificate(path: str) -> bool:
    """A certificate is for everybody, unless its key is in the same file."""
    try:
        with open(path, "rb") as file:
            text = file.read(_PEM_BYTES_MAX)
    except OSError:  # a directory, for one
        return False
    return text.startswith(b"-----BEGIN CERTIFICATE-----") and len(text) < _PEM_BYTES_MAX and b"PRIVATE KEY" not in text


def _configuration(call: Call) -> "Iterator[Finding]":
    """What the hub would say of its settings, and clients of theirs."""
    from synapse.faces.cli.hub import configuration_fault  # which knows the hub's settings

    path = config_path(call.around.home)
    fault = configuration_fault(call.around.home)
    if fault is None:
        is_there = os.path.exists(path)
        yield Finding(
            "configuration", OK, path if is_there else f"{path} is not there: what no variable sets has its default"
        )
        return
    where = path if fault.startswith(path) else f"{path}, or the SYNAPSE_ variable"
    cure = f"mend {where}: no hub starts with it; docs/reference/settings.md lists all settings"
    yield Finding("configuration", PROBLEM, fault, cure)


def _other_homes(call: Call) -> "Iterator[Finding]":
    """A second journal in another place where a home may be: half of the agents may talk to another hub."""
    places = {os.path.join(os.path.expanduser("~"), ".local", "state", "synapse")}
    for variable, tail in (("XDG_STATE_HOME", "synapse"), ("SYNAPSE_HOME", "")):
        named = os.environ.get(variable)
        if named:
            places.add(os.path.abspath(os.path.join(os.path.expanduser(named), tail)).rstrip("/"))
    here = os.path.realpath(call.around.home)
    for place in sorted(places):
        if os.path.realpath(place) == here or not os.path.exists(os.path.join(place, "journal.db")):
            continue
        try:
            file = read_hub_file(place)
        except HomeRefused:
            file = None
        runs = "a hub runs there" if file is not None and file.is_alive else "no hub runs there"
        cure = "let all agents use one: the same SYNAPSE_HOME for everybody, or none"
        yield Finding("homes", WARNING, f"{place} holds another journal ({runs})", cure)


def _disk(call: Call) -> "Iterator[Finding]":
    place = call.around.home
    while not os.path.exists(place):
        place = os.path.dirname(place)
    free = os.statvfs(place)
    free_bytes = free.f_bavail * free.f_frsize
    words = f"{free_bytes >> 20:,} MiB are free where the home lies"
    cure = "make room; until then the hub may become read-only, and is by itself writable again when there is space"
    if free_bytes < DISK_BYTES_MIN:
        yield Finding("disk", PROBLEM, words, cure)
    elif free_bytes < DISK_BYTES_WARN:
        yield Finding("disk", WARNING, words, cure)
    else:
        yield Finding("disk", OK, words)


def _socket(call: Call) -> "Iterator[Finding]":
    path = socket_path(call.around.home)
    if path == fallback_socket_path(call.around.home):
        yield Finding("socket", NOTE, f"the home's path is too long for a socket's name, so it lies at {path}")


def _open_ports(call: Call) -> "Iterator[Finding]":
    """A port without TLS that other machines reach: somebody has forced it."""
    try:
        file = read_hub_file(call.around.home)
    except HomeRefused:
        return
    for uri in file.uris if file is not None and file.is_alive else ():
        host = uri.removeprefix("ws://").rpartition(":")[0]
        if uri.startswith("ws://") and not host.startswith("127.") and host not in ("[::1]", "localhost"):
            detail = f"the hub listens at {uri}, where other machines can read along: tokens and messages too"
            yield Finding("network", WARNING, detail, "set tls_cert and tls_key, or host = '127.0.0.1'")


def _proxies(call: Call) -> "Iterator[Finding]":
    """The client never uses a proxy; other programs that are pointed at the hub do."""
    found = sorted(name for name in os.environ if name.lower() in _PROXIES and os.environ[name])
    if not found:
        return
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if "127.0.0.1" in spared or spared.strip() == "*":
        return
    detail = f"{', '.join(found)} is set: synapse goes to its hub directly, but curl and others go through the proxy"
    yield Finding("proxy", NOTE, detail, "for those, export NO_PROXY=127.0.0.1,localhost")


def _trace(call: Call) -> "Iterator[Finding]":
    given = call.around.environ.get("TRACEPARENT")
    if given and traceparent_of(given) is None:
        detail = f"TRACEPARENT is no W3C trace context, so no request carries it: {given[:80]}"
        yield Finding("trace", NOTE, detail, "00-<32 hex>-<16 hex>-<2 hex>, or nothing")


def _hub(call: Call) -> "Iterator[Finding]":
    """Whether there is one, whether it answers, and what it says of itself."""
    around = call.around
    uri, start = around.get("uri"), around.start_command
    file: HubFile | None = None
    if uri is None:
        try:
            file = read_hub_file(around.home)
        except HubFileHidden as error:
            yield _refused("hub", str(error))
            return
        except HomeRefused as error:
            yield _lost(around.home, str(error).rpartition("; ")[0], start)
            return
        if file is None:
            yield _lost(around.home, f"no hub runs for {around.home} (it has no {HUB_FILE})", f"{start}, or synapse up")
            return
        if not file.is_alive:
            detail = f"{around.home}/{HUB_FILE} is stale: its process {file.pid} is gone, it did not end by itself"
            yield Finding("hub", PROBLEM, detail, f"{start}, or synapse up; what was acknowledged is still there")
            return
        uri = next((uri for uri in file.uris if uri.startswith(UNIX)), file.uris[0] if file.uris else "?")
    try:
        status = ask_status(call)
    except HubUnreachable as error:
        yield _silent(around.home, file, str(error), start)
        return
    except Rejected as error:
        yield Finding("hub", PROBLEM, f"{uri} refuses: {error}", error.detail.rpartition(": ")[2] or None)
        return
    except (HomeRefused, SecretRefused) as error:
        yield _refused("hub", str(error))
        return
    except (Disconnected, PeerError) as error:
        yield Finding("hub", PROBLEM, f"{uri}: {error}", "look at what listens there")
        return
    yield Finding("hub", OK, f"{uri}, pid {status.get('pid')}, up for {_number(status, 'uptime_ms') // 1000} s")
    yield from _said(status)


def _lost(home: str, why: str, start: str) -> Finding:
    """No word of where the hub is. start: what is to be done when none has the home."""
    pid = lock_holder(home)
    if pid is None:
        return Finding("hub", PROBLEM, why, start)
    cure = (
        f"wait until it is ready, or has ended; a hub that stays so: kill {pid}, what was acknowledged is kept; {start}"
    )
    return Finding("hub", PROBLEM, f"{why}, and the process {pid} has the home: a hub, or a journal verb", cure)


def _silent(home: str, file: HubFile | None, why: str, start: str) -> Finding:
    """A hub that does not answer. file: what the home says of it, if it was looked for there. What does not hold the
    home's lock is no hub, and is left alone."""
    if file is None or not holds_lock(home, file.pid):
        return Finding("hub", PROBLEM, why, start)
    pid = file.pid
    if _is_stopped(pid):
        detail = f"the hub with pid {pid} is stopped (SIGSTOP, or Ctrl-Z), and answers nobody until it goes on"
        return Finding("hub", PROBLEM, detail, f"kill -CONT {pid} lets it go on")
    again = "synapse service start" if file.supervisor == "systemd" else start
    cure = f"kill {pid} ends it, or if it does not within 10 s, kill -9 {pid}: what was acknowledged is kept; {again}"
    return Finding("hub", PROBLEM, why, cure)


def _is_stopped(pid: int) -> bool:
    """True for a process that stands still, where the system tells."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].startswith(b" T")
    except OSError:
        return False


def _said(status: "Json") -> "Iterator[Finding]":
    """What the hub's own status means."""
    theirs = str(status.get("version"))
    if theirs != __version__:
        cure = "restart the hub with the newer of the two"
        yield Finding("version", WARNING, f"the hub is synapse {theirs}, this command is {__version__}", cure)
    reasons = status.get("reasons")
    for reason in reasons if isinstance(reasons, list) else ():
        yield Finding("health", PROBLEM, str(reason), "docs/how-to/troubleshooting.md tells what each reason means")
    base, head, proved = (_number(status, key) for key in ("base", "head", "verified_through"))
    if proved <= base < head:
        yield Finding("journal", NOTE, "the hub is still proving the older part of its journal")
    else:
        yield Finding(
            "journal", OK, f"proved since the start up to {proved}, {_number(status, 'journal_bytes') >> 20} MiB"
        )
    if _number(status, "clock_jumps"):
        jumps, moved_s = _number(status, "clock_jumps"), _number(status, "clock_jumped_ms") / 1000
        often = f"once since the start, by {moved_s:+.0f} s"
        if jumps > 1:
            often = f"{jumps} times since the start, last by {moved_s:+.0f} s"
        detail = f"the wall clock was set, or the machine slept, {often}; no lease ended early or late for it"
        yield Finding("clock", NOTE, detail)
    lag_ms = _number(status, "lease_clock_lag_ms")
    if lag_ms > LAG_MS_WARN:
        detail = f"the hub was stalled or behind for {lag_ms / 1000:.0f} s in all; leases live that much longer"
        yield Finding("lease clock", WARNING, detail, "give the machine room: memory, disk, processor")
    limited = status.get("limited")
    for name in limited if isinstance(limited, list) else ():
        detail = f"{name} was refused within the last minute because it asks too fast"
        yield Finding("rate", WARNING, detail, "find out what it does, or raise limits.rate_agent_per_s")
    if _number(status, "stuck"):
        detail = f"{status.get('stuck')} connections do not read what the hub has for them"
        yield Finding("slow peers", WARNING, detail, "they are cut after a while and resume from their cursors")
    yield from _engine(str(status.get("engine")))


def _engine(engine: str) -> "Iterator[Finding]":
    name, _, version = engine.partition(" ")
    parts = tuple(int(part) for part in version.split(".") if part.isdigit())
    if name == "SQLite" and (3, 7) <= parts < _WAL_RESET_FIXED:
        detail = f"{engine} has the WAL-reset bug; it needs two connections that write, and the hub has one"
        yield Finding("engine", NOTE, detail, "let nothing else open journal.db for writing")
    elif name:
        yield Finding("engine", OK, engine)


def _number(status: "Json", key: str) -> int:
    value = status.get(key)
    return value if isinstance(value, int) else 0
