"""`service …`: the hub as a unit of systemd, of this user or, with `--system`, of the machine.

Only a unit that says it is ours is written over or removed. Where no systemd answers, nothing is changed and one line
says what to do instead.
"""

import os
import subprocess
import sys
from shutil import which

from synapse.errors import EXIT_LOCKED, EXIT_NOT_FOUND, EXIT_NOT_PERMITTED, EXIT_OK, EXIT_UNREACHABLE
from synapse.faces.cli.background import Failed, log_path, program, ready_hub
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import print_words, safe
from synapse.faces.cli.units import SERVICE, SYSTEM_HOME, SYSTEM_USER, TAG, quoted, system_unit, user_unit

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

ASK_S = 30.0
"""How long the manager may take for what it answers at once. A start may take as long as its unit says."""
INSTEAD = "run the hub in the background instead: synapse up"


class Manager:
    """systemd, of this user or of the machine. path: where its unit of the hub lies."""

    def __init__(self, call: Call) -> None:
        self.is_system = call.parsed.has("system")
        self._scope = [] if self.is_system else ["--user"]
        named = os.environ.get("XDG_CONFIG_HOME", "")
        config = named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), ".config")
        directory = "/etc/systemd/system" if self.is_system else os.path.join(config, "systemd", "user")
        self.path = os.path.join(directory, SERVICE)

    def require(self) -> None:
        """Raises `Failed` when no such manager answers, and before anything is changed that is not ours to change."""
        if which("systemctl") is None:
            raise Failed(f"there is no systemd on this machine (no systemctl); {INSTEAD}")
        done = self._run(["show", "--property=Version"], ASK_S)
        if done.returncode:
            whose = "of the machine" if self.is_system else "of this user"
            raise Failed(f"no systemd {whose} answers ({_first_line(done.stderr)}); {INSTEAD}")

    def require_installed(self) -> str:
        """The text of the unit. Raises `Failed` when there is none."""
        self.require()
        text = self.read()
        if text is None:
            raise Failed(f"{self.path}: there is no such unit; synapse service install writes it", EXIT_NOT_FOUND)
        return text

    def read(self) -> str | None:
        """The unit as it is; None when there is none."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def require_ours(self, text: str | None) -> None:
        """Raises `Failed` for a unit that somebody else wrote."""
        if text is not None and not text.startswith(TAG):
            raise Failed(f"{self.path}: is not from synapse service install, and is left alone; move it away first")

    def ask(self, *words: str) -> None:
        """systemctl, which must do it. Raises `Failed`."""
        done = self._run(list(words), ASK_S)
        if done.returncode:
            raise Failed(f"systemctl {' '.join(words)}: {_first_line(done.stderr)}")

    def wait_for(self, verb: str) -> str | None:
        """systemctl start or stop, however long it takes; why it did not, None when it did."""
        done = self._run([verb, SERVICE], None)
        return None if done.returncode == 0 else _first_line(done.stderr)

    def properties(self) -> dict[str, str]:
        """What the manager knows of the unit."""
        names = "UnitFileState,ActiveState,SubState,MainPID,NRestarts,StatusText,Result,ExecMainStatus"
        done = self._run(["show", f"--property={names}", SERVICE], ASK_S)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def journal(self) -> list[str]:
        """The command that shows the unit's log."""
        return ["journalctl", f"--unit={SERVICE}" if self.is_system else f"--user-unit={SERVICE}"]

    def _run(self, words: list[str], timeout_s: float | None) -> "subprocess.CompletedProcess[str]":
        command = ["systemctl", *self._scope, "--no-ask-password", *words]
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"systemctl {' '.join(words)}: no answer within {timeout_s:g} s") from None


def service_install(call: Call) -> int:
    """Write the unit, and have it started with the user's session, or with the machine. Raises `Failed`."""
    manager = Manager(call)
    home, text = _unit(call, manager)
    if call.parsed.has("dry_run"):
        call.show({"path": manager.path, "home": home, "text": text, "changed": False, "cursor": None}, text.rstrip())
        return EXIT_OK
    _require_root(manager)
    manager.require()
    before = manager.read()
    manager.require_ours(before)
    try:
        if before != text:
            _write(manager.path, text)
        manager.ask("daemon-reload")
        manager.ask("enable", SERVICE)
    except (Failed, OSError):
        _put_back(manager.path, before)
        raise
    answer: Json = {"path": manager.path, "home": home, "changed": before != text, "enabled": True, "cursor": None}
    what = "unchanged" if before == text else "written" if before is None else "written anew; restart it to use it"
    scope = " --system" if manager.is_system else ""
    call.show(answer, f"{manager.path} {what}; start it: synapse service start{scope}")
    return EXIT_OK


def service_start(call: Call) -> int:
    """Start the unit, and wait until the hub is ready. Raises `Failed`, with the exit code of the hub."""
    manager = Manager(call)
    manager.require_installed()
    if not manager.is_system:
        other = ready_hub(call.around.home)
        if other is not None and not other.supervisor:
            raise Failed(f"a hub runs in the background already, pid {other.pid}: synapse down first", EXIT_LOCKED)
    why = manager.wait_for("start")
    if why is not None:
        raise _start_failed(manager.properties(), why)
    return _show_state(call, manager)


def _start_failed(found: dict[str, str], why: str) -> Failed:
    """What the hub said last, with its exit code; where it is not to blame, what systemctl said."""
    code, words = found.get("ExecMainStatus", ""), found.get("StatusText")
    if not code.isdigit() or not 0 < int(code) < 126:
        return Failed(f"systemctl start: {why}; synapse service logs may tell more")
    return Failed(safe(words or f"the hub ended with {code}; synapse service logs may tell why"), int(code))


def service_stop(call: Call) -> int:
    """Stop the unit: the hub answers what it was asked, and ends. Raises `Failed`."""
    manager = Manager(call)
    manager.require_installed()
    why = manager.wait_for("stop")
    if why is not None:
        raise Failed(f"systemctl stop: {why}")
    call.show({"path": manager.path, "stopped": True, "cursor": None}, f"{SERVICE} has ended")
    return EXIT_OK


def service_status(call: Call) -> int:
    """How the unit is, in one line; exit 69 when it does not run. Raises `Failed`."""
    manager = Manager(call)
    manager.require_installed()
    return _show_state(call, manager)


def _show_state(call: Call, manager: Manager) -> int:
    found = manager.properties()
    pid, restarts = found.get("MainPID", "0"), found.get("NRestarts", "0")
    is_active = found.get("ActiveState") == "active"
    answer: Json = {
        "path": manager.path,
        "active": found.get("ActiveState"),
        "state": found.get("SubState"),
        "enabled": found.get("UnitFileState") == "enabled",
        "pid": int(pid) if pid.isdigit() and int(pid) else None,
        "restarts": int(restarts) if restarts.isdigit() else None,
        "result": found.get("Result"),
        "status": found.get("StatusText"),
        "cursor": None,
    }
    words = [f"{found.get('ActiveState')} ({found.get('SubState')})", str(found.get("UnitFileState"))]
    words += [f"pid {pid}", f"{restarts} restarts"] if is_active else [f"result {found.get('Result')}"]
    words += [found["StatusText"]] if found.get("StatusText") else []
    call.show(answer, safe(" · ".join(words)))
    return EXIT_OK if is_active else EXIT_UNREACHABLE


def service_logs(call: Call) -> int:
    """Become journalctl, for the unit. Raises `Failed`."""
    manager = Manager(call)
    manager.require_installed()
    if which("journalctl") is None:
        raise Failed("there is no journalctl on this machine")
    own = log_path(call.around)
    if own is not None:
        print_words(f"the hub itself writes its log to {own} (log_file)")
    command = [*manager.journal(), "--no-pager", f"--lines={call.parsed.number('lines', 100)}"]
    command += ["--output=json" if call.as_json else "--output=cat"]
    command += ["--follow"] if call.parsed.has("follow") else []
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 - it has the terminal from here on


def service_uninstall(call: Call) -> int:
    """Stop the unit and take it away; the home stays. Raises `Failed`."""
    manager = Manager(call)
    _require_root(manager)
    manager.require_ours(manager.require_installed())
    manager.ask("disable", "--now", SERVICE)
    os.unlink(manager.path)
    manager.ask("daemon-reload")
    call.show({"path": manager.path, "removed": True, "cursor": None}, f"{manager.path} is removed; the home is not")
    return EXIT_OK


def _unit(call: Call, manager: Manager) -> tuple[str, str]:
    """The home, and the unit's text. Raises `Failed`, `UsageError`."""
    home = call.around.home
    if manager.is_system and not call.parsed.has("home") and not os.environ.get("SYNAPSE_HOME"):
        home = SYSTEM_HOME
    if call.parsed.has("run_as") and not manager.is_system:
        raise UsageError("--run-as goes with --system: a unit of this user runs the hub as this user")
    try:
        command, place = " ".join(quoted(word) for word in program()), quoted(home)
        if not manager.is_system:
            return home, user_unit(command, place)
        return home, system_unit(command, place, quoted(call.parsed.text("run_as") or SYSTEM_USER))
    except ValueError as error:
        raise Failed(str(error)) from error


def _require_root(manager: Manager) -> None:
    if manager.is_system and os.geteuid() != 0:
        raise Failed("the machine's units are root's: sudo synapse service …", EXIT_NOT_PERMITTED)


def _write(path: str, text: str) -> None:
    """Put the unit in place, whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.{os.getpid()}.new"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError:
        _put_back(draft, None)
        raise


def _put_back(path: str, before: str | None) -> None:
    if before is not None:
        _write(path, before)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return safe(lines[0]) if lines else "it says nothing"
