"""`up` and `down`: a hub that outlives its caller, ended only when it is proved to be this home's."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import where_modes_count
from tests.faces.conftest import environment
from tests.faults.conftest import HubProcess, fill, killed_home, small_disk, wait_until

from synapse.faces.cli.background import holds_lock, program, ready_hub
from synapse.faces.cli.main import main
from synapse.home import HubFile, read_hub_file, write_hub_file

PATIENCE_S = 20.0


class Account:
    """Where `up` is called: a home, and what it may have left in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cwd: Path | None = None
        self.prefix: tuple[str, ...] = ()

    def run(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """One command to its end."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "synapse", *words],
            env=environment(self.home, **{"SYNAPSE_PORT": "0", **env}),
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def json(self, *words: str, code: int = 0, **env: str) -> Any:
        """One command with --json: its one object."""
        done = self.run(*words, "--json", **env)
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def refused(self, *words: str, code: int, **env: str) -> str:
        """The one line of a command that fails."""
        done = self.run(*words, **env)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    @property
    def pid(self) -> int:
        """The pid in hub.json."""
        file = read_hub_file(self.home)
        assert file is not None
        return file.pid

    def kill(self) -> None:
        """End what is left, at once."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.home / "hub.lock").read_text())
            if holds_lock(str(self.home), pid):
                os.kill(pid, signal.SIGKILL)
                wait_until("it is gone", lambda: not holds_lock(str(self.home), pid))


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    found = Account(tmp_path / "home")
    yield found
    found.kill()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ours that is no hub."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_up_starts_a_hub_of_its_own_and_down_lets_it_finish(account: Account, tmp_path: Path) -> None:
    (tmp_path / "worktree").mkdir()
    account.cwd = tmp_path / "worktree"
    done = account.run("up")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("synapse hub ready ws://127.0.0.1:")
    pid = account.pid
    assert f"pid={pid} log={account.home}/hub.log" in done.stdout
    assert os.getsid(pid) == pid, "no terminal can take it along"
    links = [os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "fd/0", "fd/2")]
    assert links == [str(account.home), "/dev/null", str(account.home / "hub.log")]
    assert (account.home / "hub.log").stat().st_mode & 0o777 == 0o600
    assert account.run("health").stdout == "green\n"
    again = account.json("up")
    assert (again["pid"], again["started"]) == (pid, False)
    assert "was up already" in account.run("up").stdout
    assert account.json("down") == {"pid": pid, "stopped": True, "cursor": None}
    assert not (account.home / "hub.json").exists()
    assert '"hub.stopped"' in (account.home / "hub.log").read_text().splitlines()[-1]
    assert "no hub runs for" in account.refused("down", code=69)


def test_the_hub_lives_on_when_the_group_of_its_caller_is_killed(account: Account) -> None:
    script = f"{sys.executable} -m synapse up && echo up && sleep 60"
    env = environment(account.home, SYNAPSE_PORT="0")
    with subprocess.Popen(["sh", "-c", script], env=env, stdout=subprocess.PIPE, start_new_session=True) as caller:
        assert caller.stdout is not None
        assert [caller.stdout.readline()[:17], caller.stdout.readline()] == [b"synapse hub ready", b"up\n"]
        os.killpg(caller.pid, signal.SIGKILL)
        assert caller.stdout.read() == b"", "the hub does not keep the pipe of its caller"
    assert account.run("health").returncode == 0


def test_two_who_say_up_at_once_get_one_hub(account: Account) -> None:
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "synapse", "up", "--json"],
            env=environment(account.home, SYNAPSE_PORT="0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    answers = [json.loads(command.communicate(timeout=PATIENCE_S)[0]) for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0]
    assert {answer["pid"] for answer in answers} == {account.pid}
    assert sorted(answer["started"] for answer in answers) == [False, False, True]


# what down leaves alone


def test_a_hub_that_was_killed_is_told_stale_and_up_brings_it_back(account: Account) -> None:
    before = account.json("up")
    os.kill(account.pid, signal.SIGKILL)
    wait_until("it is gone", lambda: ready_hub(str(account.home)) is None)
    assert "is stale" in account.refused("down", code=69)
    after = account.json("up")
    assert (after["started"], after["journal_id"]) == (True, before["journal_id"])
    assert account.run("down").returncode == 0


def test_a_stale_number_that_is_another_process_now_is_left_alone(
    account: Account, sleeper: "subprocess.Popen[bytes]"
) -> None:
    killed_home(account.home, 1)
    file = read_hub_file(account.home)
    assert file is not None
    stale = HubFile(pid=sleeper.pid, uris=file.uris, journal_id=file.journal_id, hub_id=file.hub_id)
    write_hub_file(account.home, stale)
    (account.home / "hub.lock").write_text(f"{sleeper.pid}\n")
    assert "is another's now; it was left alone" in account.refused("down", code=69)
    assert sleeper.poll() is None
    assert account.json("up")["started"] is True
    assert account.run("down").returncode == 0
    assert sleeper.poll() is None


def test_where_the_system_does_not_tell_who_has_a_file_open_the_lock_itself_does(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(account.home)
    with HubProcess(account.home).until_ready() as hub:
        isdir = os.path.isdir
        monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self/fd" and isdir(path))
        assert holds_lock(home, hub.process.pid)
        assert not holds_lock(home, os.getpid())
        hub.kill()
        assert not holds_lock(home, hub.process.pid), "the number is still in the file"


def test_a_hub_of_a_service_manager_is_left_to_it(account: Account, tmp_path: Path) -> None:
    with HubProcess(account.home, environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")}).until_ready() as hub:
        assert "run by systemd: synapse service stop" in account.refused("down", code=1)
        assert "was up already, run by systemd" in account.run("up").stdout
        assert hub.process.poll() is None


def test_a_process_that_has_the_home_and_is_no_ready_hub_is_left_alone(account: Account) -> None:
    code = "import sys, time; from pathlib import Path; from synapse.journal.lock import HomeLock\n"
    code += "lock = HomeLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    account.home.mkdir(mode=0o700)
    command = [sys.executable, "-c", code, str(account.home)]
    with subprocess.Popen(command, env=environment(account.home), stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert f"the process {holder.pid} has it" in account.refused("down", code=69)
        assert holder.poll() is None
        holder.kill()


def test_the_hub_of_another_user_is_left_alone(
    account: Account, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with HubProcess(account.home).until_ready() as hub:
        me = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: me + 1)
        assert main(["down", "--home", str(account.home)]) == 77
        assert f"belongs to uid {me}" in capsys.readouterr().err
        assert hub.process.poll() is None


# starts that fail


def test_a_home_that_cannot_be_made_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    account = Account(tmp_path / "file" / "home")
    assert "cannot be the home" in account.refused("up", code=78)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_taken_port_is_told_with_the_exit_code_of_the_hub_and_nothing_is_left_running(account: Account) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} is in use" in account.refused("up", code=71, SYNAPSE_PORT=str(port))
        error = account.json("up", code=71, SYNAPSE_PORT=str(port))["error"]
        assert f":{port} is in use" in error["detail"]
    assert account.refused("down", code=69)
    assert not (account.home / "hub.json").exists()


def test_a_hub_that_dies_at_its_start_tells_why(account: Account) -> None:
    account.home.mkdir(mode=0o700)
    (account.home / "config.toml").write_text("prot = 1\n")
    assert "there is no setting prot; did you mean port?" in account.refused("up", code=78)
    (account.home / "config.toml").unlink()
    killed_home(account.home, 1)
    (account.home / "journal.mark").unlink()
    assert "journal.mark: is missing" in account.refused("up", code=78)


def test_on_a_full_disk_the_words_of_the_hub_get_through(account: Account, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        fill(disk)
        account.home = disk / "home"
        line = account.refused("up", code=74)
        assert "the disk is full" in line
        assert account.json("up", code=74)["error"]["detail"] in line
        assert (account.home / "hub.log").stat().st_size == 0


def test_a_home_that_cannot_be_written_is_named_and_not_the_log_in_it(account: Account) -> None:
    account.prefix = where_modes_count()
    account.home.mkdir(mode=0o500)
    line = account.refused("up", code=78)
    assert f"{account.home}: not writable; make it writable for this user" in line


def test_a_rendezvous_file_that_may_not_be_read_is_told_with_its_cure(account: Account) -> None:
    account.prefix = where_modes_count()
    assert account.run("up").returncode == 0
    path = account.home / "hub.json"
    path.chmod(0)
    for verb, code in (("down", 78), ("up", 78), ("status", 69)):
        line = account.refused(verb, code=code)
        assert f"{path}: cannot be read (Permission denied); make it readable for this user" in line
        assert f"(chmod u+rw {path}), or choose another --home\n" in line
    path.chmod(0o600)
    assert account.run("down").returncode == 0


@pytest.mark.parametrize("log", ["missing/hub.log", "home", "file/hub.log"])
def test_a_log_that_cannot_be_written_is_refused_and_nothing_is_changed(
    account: Account, tmp_path: Path, log: str
) -> None:
    (tmp_path / "file").touch()
    if log == "home":
        account.home.mkdir(mode=0o700)
    before = sorted(path for path in tmp_path.rglob("*"))
    line = account.refused("up", code=78, SYNAPSE_LOG_FILE=str(tmp_path / log))
    assert f"{tmp_path / log}: the log cannot be written" in line
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_not_ready_in_time_is_told_and_the_hub_goes_on(account: Account) -> None:
    assert "is not ready yet, and goes on" in account.refused("up", "--wait-ready=0", code=5)
    wait_until("it is ready", lambda: ready_hub(str(account.home)) is not None)
    assert account.json("up", "--wait-ready")["started"] is False


# what it hands on


def test_the_log_goes_where_the_settings_say_and_stderr_moves_with_it(account: Account, tmp_path: Path) -> None:
    account.home.mkdir(mode=0o700)
    log = tmp_path / "elsewhere.log"
    log.write_bytes(b"{}\n" * 21_840)
    (account.home / "config.toml").write_text(f"log_file = '{log}'\nlog_file_bytes_max = 65536\n")
    assert account.json("up")["log"] == str(log)
    assert not (account.home / "hub.log").exists()
    wait_until("it is put aside", lambda: Path(f"{log}.1").exists())
    deadline_s = time.monotonic() + 5
    while os.readlink(f"/proc/{account.pid}/fd/2") != str(log):
        assert time.monotonic() < deadline_s, "stderr stayed behind"
    assert account.run("down").returncode == 0
    assert b"hub.ready" in log.read_bytes()


def test_what_a_service_manager_told_the_caller_is_not_for_the_hub(account: Account, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        account.json("up", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
        file = read_hub_file(account.home)
        assert file is not None
        assert file.supervisor == ""
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_a_token_file_is_found_from_where_up_was_called(account: Account, tmp_path: Path) -> None:
    account.cwd = tmp_path
    assert "tokens/hub" in account.refused("up", "--token-file", "tokens/hub", code=78)
    (tmp_path / "tokens").mkdir()
    assert account.run("up", "--token-file", "tokens/hub").returncode == 0
    assert (tmp_path / "tokens" / "hub").stat().st_mode & 0o777 == 0o600
    assert not (account.home / "token").exists()


def test_the_program_is_named_by_an_absolute_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "synapse"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["./synapse", "up"])
    assert program() == [sys.executable, "-P", "-m", "synapse"]
    script.touch(mode=0o755)
    assert program() == [str(script)]
