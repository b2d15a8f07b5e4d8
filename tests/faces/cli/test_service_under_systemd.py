"""`service …` against a real systemd of a user, in namespaces of its own: the hub comes back by itself.

systemd runs in a fresh mount, pid and cgroup namespace, and nothing of the machine's own is asked. Where
that is not permitted (it needs root and a cgroup2 hierarchy), the test is skipped; test_service.py has the same verbs
against a systemctl of paper.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import require_tool
from tests.faces.conftest import environment
from tests.figures import tell
from tests.hub.test_supervision import tcp_at

from synapse.faces.cli.units import quoted, socket_unit, system_unit

PATIENCE_S = 20.0
BACK_S_MAX = 10.0
INNER = """
mount -t tmpfs tmpfs /run || exit 9
umount -R -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 9
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR" || exit 9
"$1" --user --unit=basic.target --log-target=console --log-level=warning
"""


class UserManager:
    """A systemd of its own, and commands beside it."""

    def __init__(self, directory: Path, cgroup: Path, program: str) -> None:
        self.directory = directory
        self.home = directory / "a home, 100%"
        self.units = directory / ".config" / "systemd" / "user"
        self._cgroup = cgroup
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the rest
        cgroup.mkdir()
        own = {
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": "/run/user/synapse",
            "XDG_CONFIG_HOME": str(directory / ".config"),
            "SYSTEMD_UNIT_PATH": f"{self.units}:/usr/lib/systemd/user:/lib/systemd/user",
            "SYNAPSE_PORT": "0",
        }
        self.environ = {**environment(self.home, **own), "PATH": os.environ["PATH"]}
        self.environ.pop("DBUS_SESSION_BUS_ADDRESS", None)
        command = ["unshare", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc"]
        self.process = subprocess.Popen(
            [
                "sh",
                "-c",
                f'echo 0 > "{cgroup}/cgroup.procs" && exec "$@"',
                "sh",
                *command,
                "sh",
                "-c",
                INNER,
                "sh",
                program,
            ],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )

    def until_up(self) -> str | None:
        """Wait until it answers; why it cannot."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            if self.init and self.run("systemctl", "--user", "is-system-running").stdout.strip() in (
                "running",
                "degraded",
            ):
                return None
            time.sleep(0.05)
        self._said.seek(0)
        return self._said.read().decode().strip() or f"it does not answer ({self.process.poll()})"

    @property
    def init(self) -> str:
        """The pid of systemd as the machine sees it; '' while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return children.read_text().strip()
        except OSError:
            return ""

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command beside systemd."""
        inside = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--cgroup", "--"]
        return subprocess.run(
            [*inside, *command], env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def synapse(self, *words: str, code: int = 0) -> str:
        """A verb: what it says."""
        done = self.run(sys.executable, "-P", "-m", "synapse", *words)
        assert done.returncode == code, (words, done)
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *words: str, code: int = 0) -> Any:
        """A verb's object."""
        return json.loads(self.synapse(*words, "--json", code=code).splitlines()[0])

    def drop_in(self, text: str) -> None:
        """Change the unit as people do, beside it."""
        directory = self.units / "synapse.service.d"
        directory.mkdir(exist_ok=True)
        (directory / "test.conf").write_text(text)
        assert self.run("systemctl", "--user", "daemon-reload").returncode == 0

    def until_back(self, pid: int) -> tuple[Any, float]:
        """The status once another process than `pid` is ready, and how long that took."""
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE_S:
            done = self.run(sys.executable, "-P", "-m", "synapse", "service", "status", "--json")
            if done.returncode == 0 and (status := json.loads(done.stdout))["pid"] != pid:
                return status, time.monotonic() - begun
            time.sleep(0.05)
        raise AssertionError(done)

    def close(self) -> None:
        """End everything in it, with what it made."""
        if self.process.poll() is None:
            self.process.kill()  # and its child with it
        self.process.wait(PATIENCE_S)
        self._said.close()
        deadline_s = time.monotonic() + PATIENCE_S
        while self._cgroup.exists() and time.monotonic() < deadline_s:
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                with contextlib.suppress(OSError):  # not empty for a moment longer
                    os.rmdir(directory)
            time.sleep(0.02)


def cgroup2_root() -> Path | None:
    """Where this machine has mounted its cgroup2 hierarchy."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, _ = line.split(" ", 3)
        if kind == "cgroup2":
            return Path(place)
    return None


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    require_tool("systemctl", "systemd")
    require_tool("nsenter", "util-linux")
    root = cgroup2_root() if sys.platform == "linux" else None
    program = next(
        (path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.access(path, os.X_OK)), ""
    )
    if os.geteuid() != 0 or root is None or not program:
        pytest.skip("a systemd of one's own needs root and a cgroup2 hierarchy")
    with tempfile.TemporaryDirectory(prefix="syn-", dir="/tmp") as directory:
        try:
            found = UserManager(Path(directory), root / f"synapse-test-{os.getpid()}", program)
        except OSError as error:
            pytest.skip(f"no cgroup can be made: {error}")
        try:
            why = found.until_up()
            if why is not None:
                pytest.skip(f"no systemd can be run here: {why}")
            yield found
        finally:
            found.close()


@pytest.fixture
def installed(manager: UserManager) -> Iterator[UserManager]:
    """With the unit; afterwards without it."""
    manager.synapse("service", "install")
    manager.drop_in(
        f"[Service]\nEnvironment=SYNAPSE_PORT=0 PYTHONPATH={manager.environ['PYTHONPATH']}\nWatchdogSec=2\n"
    )
    yield manager
    manager.synapse("service", "uninstall")
    shutil.rmtree(manager.units / "synapse.service.d")


def test_a_unit_that_is_installed_runs_the_hub_and_is_taken_away_again(installed: UserManager) -> None:
    assert "there is no such unit" not in installed.synapse("service", "status", code=69)
    assert "active (running)" in installed.synapse("service", "start")
    status = installed.json("service", "status")
    assert (status["active"], status["enabled"], status["restarts"]) == ("active", True, 0)
    assert "ready at ws://127.0.0.1:" in status["status"]
    file = json.loads((installed.home / "hub.json").read_text())
    assert (file["pid"], file["supervisor"]) == (status["pid"], "systemd")
    assert installed.synapse("health") == "green\n"
    assert "synapse service stop" in installed.synapse("down", code=1)
    assert "was up already, run by systemd" in installed.synapse("up")
    assert "unchanged" in installed.synapse("service", "install")
    installed.synapse("service", "stop")
    assert not (installed.home / "hub.json").exists(), "it has ended in order"
    assert installed.json("service", "status", code=69)["result"] == "success"


@pytest.mark.prove
def test_a_hub_that_is_killed_is_back_by_itself_with_all_that_was_acknowledged(installed: UserManager) -> None:
    installed.synapse("service", "start")
    longest = 0.0
    for number in range(3):
        installed.synapse("send", f"message {number}")
        pid = installed.json("service", "status")["pid"]
        assert installed.run("kill", "-9", str(pid)).returncode == 0
        status, took_s = installed.until_back(pid)
        longest = max(longest, took_s)
        assert status["restarts"] == number + 1
    tell(
        "service", "kill -9 to ready again", longest, unit="s", bound=f"< {BACK_S_MAX:g}", is_kept=longest < BACK_S_MAX
    )
    history = installed.synapse("history", "--json")
    assert [json.loads(line)["body"] for line in history.splitlines()] == [f"message {number}" for number in range(3)]
    assert longest < BACK_S_MAX


@pytest.mark.prove
def test_a_hub_that_stands_still_is_bitten_by_the_watchdog_and_comes_back(installed: UserManager) -> None:
    installed.synapse("service", "start")
    time.sleep(2.5)  # longer than the watchdog waits: it is fed
    status = installed.json("service", "status")
    assert (status["active"], status["restarts"]) == ("active", 0)
    assert installed.run("kill", "-STOP", str(status["pid"])).returncode == 0
    back, took_s = installed.until_back(status["pid"])
    tell(
        "service", "standing still to ready again", took_s, unit="s", bound="watchdog 2 s", is_kept=took_s < BACK_S_MAX
    )
    assert back["restarts"] == 1
    assert took_s < BACK_S_MAX


def test_a_hub_that_a_restart_does_not_help_is_not_restarted_and_says_why(installed: UserManager) -> None:
    installed.home.mkdir(mode=0o700, exist_ok=True)
    (installed.home / "config.toml").write_text("stats_log_s = -1\n")
    try:
        assert "stats_log_s: -1 is not within" in installed.synapse("service", "start", code=78)
        status = installed.json("service", "status", code=69)
        assert (status["active"], status["restarts"]) == ("failed", 0)
    finally:
        (installed.home / "config.toml").unlink()


def test_a_hub_in_the_background_is_in_the_way_of_the_unit(installed: UserManager) -> None:
    installed.synapse("up")
    assert "synapse down first" in installed.synapse("service", "start", code=75)
    installed.synapse("down")


def test_the_hub_works_behind_all_that_the_machines_unit_shuts(manager: UserManager) -> None:
    """systemd is root here, so that it can carry out what needs privileges, whatever kind of manager it is."""
    if sys.executable.startswith(("/tmp/", "/var/tmp/")):
        pytest.skip(f"the unit has a /tmp of its own, and this Python lies there: {sys.executable}")
    home, place = "/run/home of the hub", manager.units / "synapse.service"
    text = system_unit(" ".join(map(quoted, (sys.executable, "-P", "-m", "synapse"))), quoted(home), "root")
    place.parent.mkdir(parents=True, exist_ok=True)
    environ = f"Environment=SYNAPSE_PORT=0 PYTHONPATH={manager.environ['PYTHONPATH']}"
    place.write_text(text.replace("[Service]\n", f"[Service]\n{environ}\n"))
    try:
        assert manager.run("mkdir", "-m", "700", home).returncode == 0
        assert manager.run("systemctl", "--user", "daemon-reload").returncode == 0
        done = manager.run("systemctl", "--user", "start", "synapse.service")
        assert done.returncode == 0, manager.run("systemctl", "--user", "status", "synapse.service").stdout
        assert manager.synapse("--home", home, "send", "hello").startswith("m")
        assert manager.json("--home", home, "journal", "verify")["events"] > 2, "its children may run"
        pid = manager.json("service", "status")["pid"]
        seen = manager.run("nsenter", f"--target={pid}", "--mount", "--", "touch", "/usr/x", "/etc/x")
        assert seen.stderr.count("Read-only file system") == 2
        capabilities = manager.run("grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|Seccomp):", f"/proc/{pid}/status").stdout
        assert capabilities.split() == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
        assert manager.run("systemctl", "--user", "stop", "synapse.service").returncode == 0
        assert manager.json("service", "status", code=69)["result"] == "success"
    finally:
        manager.run("systemctl", "--user", "stop", "synapse.service")
        place.unlink()
        manager.run("systemctl", "--user", "daemon-reload")


def test_doors_of_a_socket_unit_start_the_hub_and_stay_open_while_it_is_away(installed: UserManager) -> None:
    with contextlib.ExitStack() as stack:
        port = tcp_at(stack).getsockname()[1]
    (installed.units / "synapse.socket").write_text(socket_unit(quoted(str(installed.home)).strip('"'), port=port))
    systemctl = ("systemctl", "--user")
    try:
        assert installed.run(*systemctl, "daemon-reload").returncode == 0
        done = installed.run(*systemctl, "start", "synapse.socket")
        assert done.returncode == 0, done.stderr
        installed.synapse("service", "status", code=69)
        uri = f"unix:{installed.home}/hub.sock"
        assert installed.synapse("--uri", uri, "health") == "green\n", "the first call starts it"
        pid = installed.json("service", "status")["pid"]
        assert f"ws://127.0.0.1:{port}" in json.loads((installed.home / "hub.json").read_text())["uris"]
        with socket.create_connection(("127.0.0.1", port)) as _:
            assert installed.run("kill", "-9", str(pid)).returncode == 0
            with socket.create_connection(("127.0.0.1", port)) as raw:  # at once: it is not refused, it waits
                raw.settimeout(PATIENCE_S)
                raw.sendall(f"GET /health HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
                assert raw.recv(12) == b"HTTP/1.1 200"
        assert installed.until_back(pid)[0]["restarts"] == 1
    finally:
        installed.run(*systemctl, "stop", "synapse.socket", "synapse.service")
        (installed.units / "synapse.socket").unlink()
        installed.run(*systemctl, "daemon-reload")
