"""What is built: a source archive, and from it a wheel that a fresh environment can install, run and type-check.

Built from the files that git knows, as a clean clone has them. Nothing is fetched: the backend and the three libraries
are those of the environment that runs the tests.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from tests.conftest import require_tool

from synapse import __version__

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE_S: Final = 60
HOOK: Final = "import sys, hatchling.build as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
pytestmark = pytest.mark.xdist_group("packaging")


class Built(NamedTuple):
    """The two archives."""

    sdist: Path
    wheel: Path


class Installed(NamedTuple):
    """A fresh environment with the wheel."""

    folder: Path
    environ: dict[str, str]

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """One program of the environment to its end."""
        command = [str(self.folder / "bin" / program), *words]
        return subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def told(self, *words: str) -> str:
        """What `synapse` answers."""
        done = self.run("synapse", *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


def require_backend() -> None:
    """Skip without the backend; fail under CI."""
    if importlib.util.find_spec("hatchling") is None:
        reason = "hatchling is missing: make test installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def call_hook(hook: str, source: Path, into: Path) -> Path:
    """Build an archive as a frontend does (PEP 517), in a process of its own."""
    command = [sys.executable, "-c", HOOK, hook, str(into)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both archives, the wheel from the unpacked source archive."""
    require_backend()
    require_tool("git", "git")
    folder = tmp_path_factory.mktemp("packaging")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            copy = folder / "clone" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    sdist = call_hook("build_sdist", folder / "clone", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    [source] = (folder / "unpacked").iterdir()
    return Built(sdist, call_hook("build_wheel", source, folder))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A fresh environment with the wheel; the libraries it needs are lent by this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, str(built.wheel)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    [site] = (folder / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text("".join(f"{sysconfig.get_path(name)}\n" for name in ("purelib", "platlib")))
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("SYN", "PYTHON", "COV"))}
    return Installed(folder, {**kept, "SYNAPSE_HOME": str(folder / "home"), "SYNAPSE_NAME": "ada"})


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"synapse_hub-{__version__}.dist-info/METADATA").decode())


def test_the_source_archive_has_what_it_takes_to_read_test_and_build(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert built.sdist.name == f"synapse_hub-{__version__}.tar.gz"
    wanted = {"pyproject.toml", "README.md", "LICENSE", "PROTOCOL.md", "ARCHITECTURE.md", "Makefile", "PKG-INFO"}
    wanted |= {"src/synapse/py.typed", "src/synapse/journal/schema.sql", "tests/test_packaging.py", "docs/index.md"}
    wanted |= {"examples/two_agents.py", "deploy/README.md", "docs/reference/protocol.schema.json"}
    assert wanted - names == set()
    assert [name for name in names if "__pycache__" in name or name.startswith(".venv")] == []


def test_the_wheel_has_the_package_whole_and_nothing_else(built: Built) -> None:
    names = names_in(built.wheel)
    about = f"synapse_hub-{__version__}.dist-info/"
    assert built.wheel.name == f"synapse_hub-{__version__}-py3-none-any.whl"
    here = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("*")
        if path.suffix in (".py", ".sql") or path.name == "py.typed"
    }
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert names >= here & {name.removeprefix("src/") for name in tracked}
    assert {"synapse/py.typed", "synapse/journal/schema.sql", f"{about}licenses/LICENSE"} <= names
    assert [name for name in names if not name.startswith(("synapse/", about))] == []
    assert [name for name in names if "test" in name and name != "synapse/testing.py"] == []


def test_the_metadata_say_what_pyproject_says(built: Built) -> None:
    said, meant = metadata_of(built.wheel), project()
    assert (said["Name"], said["Version"]) == (meant["name"], meant["version"]) == ("synapse-hub", __version__)
    assert (said["Summary"], said["Requires-Python"]) == (meant["description"], meant["requires-python"])
    assert (said["License-Expression"], said["License-File"]) == ("MIT", "LICENSE")
    needed = [re.split(r"\W", requirement)[0] for requirement in said.get_all("Requires-Dist", [])]
    assert sorted(needed) == ["h11", "msgspec", "websockets"]
    assert len(said.get_all("Classifier", [])) > 5
    assert str(said.get_payload()).startswith("# Synapse")


def test_a_fresh_environment_runs_the_command_a_hub_and_a_message(installed: Installed) -> None:
    assert installed.told("--version") == f"synapse {__version__}\n"
    where = installed.run("python", "-c", "import synapse; print(synapse.__file__)").stdout
    assert where.startswith(str(installed.folder)), "the one that was installed, not the one beside the tests"
    hub = subprocess.Popen(
        [installed.folder / "bin" / "synapse", "hub", "--port", "0"],
        env=installed.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert hub.stdout is not None
        ready = hub.stdout.readline()
        assert ready.startswith("synapse hub ready "), hub.communicate()
        sent = json.loads(installed.told("send", "from a wheel", "--json"))
        [line] = installed.told("history", "--json").splitlines()
        assert (json.loads(line)["id"], json.loads(line)["body"]) == (sent["id"], "from a wheel")
        assert json.loads(installed.told("journal", "verify", "--json"))["events"] > 0
        program = "import synapse\nwith synapse.connect() as hub: print(hub.send('and from Python').n)"
        assert installed.run("python", "-c", program).stdout == "2\n"
    finally:
        hub.send_signal(signal.SIGTERM)
        hub.communicate(timeout=PATIENCE_S)
    assert hub.returncode == 0


def test_the_module_runs_as_the_command_does(installed: Installed) -> None:
    assert installed.run("python", "-m", "synapse", "--version").stdout == f"synapse {__version__}\n"
    assert len(json.loads(installed.told("schema"))["$defs"]) > 100
