"""The container's and launchd's files: their lines, as far as a machine without docker and macOS can judge them."""

import json
import os
import plistlib
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from tests.faults.conftest import HubProcess

from synapse.faces.cli.options import parse
from synapse.faces.cli.verbs import COMMON, VERBS
from synapse.home import read_hub_file
from synapse.hub.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"
COMPOSE = DEPLOY / "compose.yaml"
KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"}
KNOWN |= {"RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile, each with what follows it."""
    text = re.sub(r"\\\n", "", CONTAINERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage() -> dict[str, list[str]]:
    """The instructions that make the image, by name."""
    found = instructions()
    start = max(at for at, (word, _) in enumerate(found) if word == "FROM")
    stage: dict[str, list[str]] = {}
    for word, rest in found[start:]:
        stage.setdefault(word, []).append(rest)
    return stage


def test_the_image_is_built_from_files_that_are_there_with_instructions_that_exist() -> None:
    assert {word for word, _ in instructions()} <= KNOWN
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            *sources, _ = rest.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_runs_as_nobody_special_and_says_how_it_is() -> None:
    stage = last_stage()
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", stage["USER"][-1])
    assert json.loads(stage["ENTRYPOINT"][0]) == ["synapse"], "the exec form: signals reach the hub"
    assert parse(json.loads(stage["CMD"][0]), VERBS, COMMON).verb is VERBS["hub"]
    flags, _, command = stage["HEALTHCHECK"][0].partition(" CMD ")
    assert json.loads(command) == ["synapse", "health"]
    assert "--interval=" in flags
    assert stage["STOPSIGNAL"] == ["SIGTERM"]
    assert not re.search("token|secret|password", " ".join(stage.get("ENV", [])), re.IGNORECASE)
    [home] = re.findall(r"SYNAPSE_HOME=(\S+)", stage["ENV"][0])
    assert stage["VOLUME"] == [home]
    assert stage["EXPOSE"] == [str(next(setting.default for setting in SETTINGS if setting.name == "port"))]


def test_the_image_can_be_built() -> None:
    builder = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    if builder is None or subprocess.run([builder, "info"], capture_output=True, timeout=60).returncode:
        pytest.skip("no docker or podman answers here")
    if os.environ.get("SYNAPSE_TEST_IMAGES") != "yes":
        pytest.skip("set SYNAPSE_TEST_IMAGES=yes: a build fetches its base image")
    command = [builder, "build", "-q", "-f", str(CONTAINERFILE), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    subprocess.run([builder, "rmi", done.stdout.strip()], capture_output=True, timeout=60)


def compose_environment() -> dict[str, str]:
    """The `environment` of the compose file."""
    block = COMPOSE.read_text().partition("    environment:\n")[2].partition("    secrets:\n")[0]
    return {key: value.strip('"') for key, value in re.findall(r"^ {6}(\w+): (.+)$", block, re.MULTILINE)}


def test_a_hub_runs_under_the_settings_of_the_compose_file(tmp_path: Path) -> None:
    environ = compose_environment()
    assert set(environ) <= {setting.env for setting in SETTINGS}
    assert re.search(r'- "127\.0\.0\.1:8876:8876"', COMPOSE.read_text()), "published for this machine alone"
    token = tmp_path / "token"
    token.write_text("a-token-that-is-long-enough-to-be-one\n")
    token.chmod(0o400)
    environ["SYNAPSE_TOKEN_FILE"] = str(token)
    with HubProcess(tmp_path / "home", environ=environ).until_ready() as hub:
        file = read_hub_file(tmp_path / "home")
        assert file is not None
        [port] = re.findall(r"ws://0\.0\.0\.0:(\d+)", " ".join(file.uris))
        allowed = environ["SYNAPSE_ALLOWED_HOSTS"]
        for host, status in ((allowed, 200), (f"127.0.0.1:{port}", 200), ("elsewhere:8876", 421)):
            assert status_of(int(port), host) == status
        assert not (tmp_path / "home" / "token").exists(), "the mounted one is used"
        assert hub.stop().code == 0


def status_of(port: int, host: str) -> int:
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(10)
        raw.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return int(raw.recv(12).split()[1])


def test_docker_compose_reads_its_file(tmp_path: Path) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not here")
    done = subprocess.run(["docker", "compose", "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_launchd_is_told_to_keep_the_hub_with_options_that_exist() -> None:
    with (DEPLOY / "io.synapse.hub.plist").open("rb") as file:
        found = plistlib.load(file)
    assert found["Label"] == "io.synapse.hub"
    program, verb, *flags = found["ProgramArguments"]
    assert (Path(program).name, verb) == ("synapse", "hub")
    assert set(flags[::2]) <= {setting.flag for setting in SETTINGS}
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["Umask"] == 0o077
    assert found["ExitTimeOut"] > 5, "longer than a hub needs to end"
