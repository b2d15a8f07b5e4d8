"""`up` and `down`: the hub as a background process of its own, where no service manager runs it.

`up` answers when the hub is ready, or has died and why. `down` ends only what it has proved to be this home's hub: the
process that hub.json names and that holds the home's lock; a number in a file is no proof.
"""

import os
import sys
from time import monotonic, sleep

from synapse.client.home import Surroundings
from synapse.errors import (
    EXIT_DEADLINE,
    EXIT_FAILED,
    EXIT_JOURNAL,
    EXIT_LOCKED,
    EXIT_NOT_PERMITTED,
    EXIT_OK,
    EXIT_UNREACHABLE,
    SynapseError,
)
from synapse.faces.cli.call import Call
from synapse.home import HomeRefused, HubFile, HubFileHidden, config_path, ensure_home, read_hub_file
from synapse.lean import loads

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import NoReturn

LOG_FILE = "hub.log"
LOCK_FILE = "hub.lock"
START_S = 30.0
STOP_S = 10.0
LOSER_S = 5.0
"""How long `up` waits for the hub that has the home already, once its own was refused it."""
_PAUSE_S = 0.02
_NOT_FOR_US = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""What a service manager has told the process that calls `up`, and not its hub."""


class Failed(SynapseError):
    """The hub did not start or end as it was told to. One line with the cure, and its own exit code."""

    def __init__(self, text: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def up(call: Call) -> int:
    """Start the hub of this home in the background, unless one is up. Raises `Failed`, `HomeRefused`."""
    home = call.around.home
    running = ready_hub(home)
    if running is not None:
        return _say_up(call, running, None)
    log = log_path(call.around) or os.path.join(home, LOG_FILE)
    if os.path.dirname(log) == home:
        ensure_home(home)
    try:
        descriptor = _open_log(log)
    except OSError as error:
        if os.path.dirname(log) == home and not os.access(home, os.W_OK):
            why = f"{home}: not writable; make it writable for this user, or choose another --home"
            raise Failed(why, EXIT_JOURNAL) from error
        raise Failed(
            f"{log}: the log cannot be written ({error.strerror}); choose another: log_file", EXIT_JOURNAL
        ) from error
    ensure_home(home)
    said_at = os.fstat(descriptor).st_size
    pid, answer = _spawn(call, descriptor, log)
    try:
        started = _until_ready(call, pid)
        if isinstance(started, HubFile):
            return _say_up(call, started, log)
        words = _answered(answer) or _last_words(descriptor, said_at)
    finally:
        os.close(answer)
    if started == EXIT_LOCKED:
        other = _awaited(home, monotonic() + LOSER_S)
        if other is not None:
            return _say_up(call, other, None)
        try:
            read_hub_file(home)
        except HomeRefused as error:
            if isinstance(error, HubFileHidden):  # this is why the one that has the home was not seen
                raise
    raise Failed(words or f"it ended with {started} before it was ready; {log} may tell why", started)


def _say_up(call: Call, file: HubFile, log: str | None) -> int:
    """log: where the log of a hub lies that was started just now; None when it was up already."""
    answer: dict[str, object] = {
        "pid": file.pid,
        "uris": list(file.uris),
        "journal_id": file.journal_id,
        "hub_id": file.hub_id,
        "started": log is not None,
        "log": log,
        "cursor": None,
    }
    words = f"synapse hub ready {' '.join(file.uris)} journal={file.journal_id} pid={file.pid}"
    by = f", run by {file.supervisor}" if file.supervisor else ""
    call.show(answer, f"{words} log={log}" if log is not None else f"{words} (was up already{by})")
    return EXIT_OK


def down(call: Call) -> int:
    """End the hub of this home. Raises `Failed`, `HomeRefused`."""
    home = call.around.home
    file = read_hub_file(home)
    if file is None:
        raise Failed(_nobody(home), EXIT_UNREACHABLE)
    pid = file.pid
    if not file.is_alive:
        raise Failed(f"no hub runs for {home}: its hub.json is stale, the process {pid} is gone", EXIT_UNREACHABLE)
    process = _open_process(pid)  # from here on the number cannot become another process's
    try:
        owner = _uid_of(pid)
        if owner is not None and owner != os.getuid():
            raise Failed(f"the process {pid} belongs to uid {owner}, and you are {os.getuid()}", EXIT_NOT_PERMITTED)
        if not holds_lock(home, pid):
            detail = f"its hub.json is stale, and the process {pid} is another's now; it was left alone"
            raise Failed(f"no hub runs for {home}: {detail}", EXIT_UNREACHABLE)
        if file.supervisor:
            cure = "synapse service stop" if file.supervisor == "systemd" else f"stop it with {file.supervisor}"
            raise Failed(f"the hub with pid {pid} is run by {file.supervisor}: {cure}")
        _terminate(pid, process)
    finally:
        if process is not None:
            os.close(process)
    deadline_s = monotonic() + STOP_S
    while file.is_alive:
        if monotonic() > deadline_s:
            raise Failed(
                f"the hub with pid {pid} was told to end, and is still there after {STOP_S:g} s; if it must be, "
                f"kill -9 {pid}: what was acknowledged is kept",
                EXIT_DEADLINE,
            )
        sleep(_PAUSE_S)
    call.show({"pid": pid, "stopped": True, "cursor": None}, f"the hub with pid {pid} has ended")
    return EXIT_OK


def _nobody(home: str) -> str:
    pid = lock_holder(home)
    if pid is not None:
        return f"no hub is ready for {home}; the process {pid} has it: a hub that is starting, or a journal verb"
    return f"no hub runs for {home}"


# who runs


def ready_hub(home: str) -> HubFile | None:
    """The hub that is ready in this home, proved by its lock; None when none is."""
    file = _hub_file(home)
    return file if file is not None and file.is_alive and holds_lock(home, file.pid) else None


def _hub_file(home: str) -> HubFile | None:
    try:
        return read_hub_file(home)
    except HomeRefused:  # the next hub writes a new one
        return None


def holds_lock(home: str, pid: int) -> bool:
    """True when this process holds the lock of the home. It is not tried, which could refuse a hub that starts."""
    path = os.path.join(home, LOCK_FILE)
    try:
        lock = os.stat(path)
    except OSError:
        return False
    descriptors = f"/proc/{pid}/fd"
    if os.path.isdir("/proc/self/fd"):
        return any(os.path.samestat(lock, found) for found in _files_of(descriptors))
    return _locker(home) == pid and _is_locked(path)


def lock_holder(home: str) -> int | None:
    """The process that holds the lock of the home; None where none does, or the lock file cannot be read."""
    pid = _locker(home)
    return pid if pid is not None and holds_lock(home, pid) else None


def _files_of(directory: str) -> list[os.stat_result]:
    found = []
    try:
        for name in os.listdir(directory):
            try:
                found.append(os.stat(f"{directory}/{name}"))
            except OSError:  # closed meanwhile
                continue
    except OSError:
        return []
    return found


def _is_locked(path: str) -> bool:
    """Where the system does not tell who has a file open: whether somebody has locked it."""
    import fcntl

    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _locker(home: str) -> int | None:
    """The pid in the lock file. It may be one of long ago."""
    try:
        with open(os.path.join(home, LOCK_FILE), "rb") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


# start and stop


def program() -> list[str]:
    """What runs `synapse`, by its absolute path: the script that was called, else this Python with the module."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "synapse" and os.access(script, os.X_OK) and os.path.isfile(script):
        return [script]
    return [sys.executable, "-P", "-m", "synapse"]


def log_path(around: Surroundings) -> str | None:
    """Where settings of the hub put its log; None when they do not. What else is wrong with them, the hub says."""
    named = around.environ.get("SYNAPSE_LOG_FILE")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    try:
        with open(config_path(around.home), "rb") as file:
            data = file.read()
    except OSError:
        return None
    if b"log_file" not in data:
        return None
    import tomllib

    try:
        found = tomllib.loads(data.decode()).get("log_file")
    except ValueError:
        return None
    return os.path.join(around.home, os.path.expanduser(found)) if isinstance(found, str) and found else None


def _open_log(path: str) -> int:
    """Raises OSError, also for what is no file. A pipe is not waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if os.fstat(descriptor).st_mode & 0o170000 != 0o100000:
        os.close(descriptor)
        raise OSError(0, "not a file")
    return descriptor


def _spawn(call: Call, log: int, log_name: str) -> tuple[int, int]:
    """A hub in a session of its own: its pid, and a pipe that it refuses its start through. On a full disk the log
    takes no words; the pipe goes with this process, and the hub writes nothing more to it once it is ready."""
    environ = {key: text for key, text in call.around.environ.items() if not key.startswith(_NOT_FOR_US)}
    token_file = call.parsed.text("token_file") or environ.get("SYNAPSE_TOKEN_FILE")
    if token_file:  # the hub's directory is another
        environ["SYNAPSE_TOKEN_FILE"] = os.path.abspath(os.path.expanduser(token_file))
    home = call.around.home
    command = [*program(), "hub", "--json", "--home", home, "--log-file", log_name]
    answer, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(command, environ, (out, log), home)
    os.close(out)
    return pid, answer


def _become(command: list[str], environ: dict[str, str], streams: tuple[int, int], directory: str) -> "NoReturn":
    """Be the hub. Never returns, whatever happens."""
    try:
        os.setsid()
        os.chdir(directory)  # the caller's may go away
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        for number, descriptor in enumerate(streams, 1):
            os.dup2(descriptor, number)
        os.closerange(3, 65_536)
        os.execve(command[0], command, environ)  # noqa: S606 - a program of ours, without a shell
    except OSError as error:
        os.write(2, f"synapse hub: {command[0]} cannot be run: {error.strerror}\n".encode())
    finally:
        os._exit(EXIT_FAILED)


def _until_ready(call: Call, pid: int) -> "HubFile | int":
    """The rendezvous of the hub that was started, or the exit code of one that died. Raises `Failed` after long."""
    wait_s = call.parsed.seconds("wait_ready")
    deadline_s = monotonic() + (START_S if wait_s is None else wait_s)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code > 0 else EXIT_FAILED
        file = _hub_file(call.around.home)
        if file is not None and file.pid == pid:
            return file
        if monotonic() > deadline_s:
            raise Failed(f"the hub with pid {pid} is not ready yet, and goes on", EXIT_DEADLINE)
        sleep(_PAUSE_S)


def _awaited(home: str, deadline_s: float) -> HubFile | None:
    """The hub of another `up` that came first, once it is ready."""
    while (file := ready_hub(home)) is None and monotonic() < deadline_s:
        sleep(_PAUSE_S)
    return file


def _open_process(pid: int) -> int | None:
    """A descriptor that stands for this very process, where the system has such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _terminate(pid: int, process: int | None) -> None:
    import signal

    try:
        if process is None:
            os.kill(pid, signal.SIGTERM)
        else:
            signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has ended by itself
    except PermissionError:
        raise Failed(f"the process {pid} belongs to another user", EXIT_NOT_PERMITTED) from None


def _answered(answer: int) -> str:
    """Why the hub refused its start, when it has ended and said so."""
    os.set_blocking(answer, False)
    try:
        said = loads(os.read(answer, 64 << 10).decode())
    except (BlockingIOError, ValueError):
        return ""
    error = said.get("error") if isinstance(said, dict) else None
    detail = error.get("detail") if isinstance(error, dict) else None
    return detail if isinstance(detail, str) else ""


def _last_words(log: int, since: int) -> str:
    """What the hub said when it died: its last line that is no line of the log."""
    lines = os.pread(log, 64 << 10, since).decode(errors="replace").splitlines()
    words = [line for line in lines if line.strip() and not line.startswith("{")]
    return words[-1].removeprefix("synapse hub: ").removeprefix("synapse: ") if words else ""
