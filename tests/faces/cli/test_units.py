"""The units: deploy/ shows what is written, systemd understands each line, and how exposed they leave the hub."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import require_tool
from tests.figures import tell

from synapse.faces.cli.units import deployed, quoted, socket_unit, system_unit, user_unit

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
EXPOSURE_MAX = {"user": 6.5, "system": 1.5}
"""Of 10, as systemd reckons; it does not know that a user's unit runs without privileges, and counts them all."""


@pytest.mark.parametrize("name", deployed())
def test_deploy_shows_what_is_installed(name: str) -> None:
    assert (DEPLOY / name).read_text() == deployed()[name]


def test_deploy_has_no_other_units() -> None:
    found = {path.name for path in DEPLOY.iterdir() if path.suffix in (".service", ".socket")}
    assert found == set(deployed())


def written(directory: Path, kind: str) -> Path:
    """The unit and its socket, with a program that exists and a home that must be quoted."""
    program, home = quoted(sys.executable), quoted("/srv/a home, 100%")
    text = user_unit(program, home) if kind == "user" else system_unit(program, home, "daemon")
    (directory / "synapse.service").write_text(text)
    (directory / "synapse.socket").write_text(socket_unit("/srv/synapse", user="daemon" if kind == "system" else ""))
    return directory / "synapse.service"


@pytest.mark.parametrize("kind", ["user", "system"])
def test_systemd_understands_each_line(tmp_path: Path, kind: str) -> None:
    analyze = require_tool("systemd-analyze", "systemd")
    unit = written(tmp_path, kind)
    scope = ["--user"] if kind == "user" else []
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    def complaints() -> str:
        command = [analyze, *scope, "verify", "--man=no", str(unit), str(tmp_path / "synapse.socket")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        return "\n".join(line for line in done.stderr.splitlines() if str(tmp_path) in line or "synapse" in line)

    assert complaints() == ""
    unit.write_text(unit.read_text().replace("RestrictRealtime=yes", "RestrictRealTime=yes"))
    assert "RestrictRealTime" in complaints(), "it would say so"


@pytest.mark.parametrize("kind", ["user", "system"])
def test_how_exposed_the_hub_is(tmp_path: Path, kind: str) -> None:
    analyze = require_tool("systemd-analyze", "systemd")
    command = [analyze, "security", "--offline=true", "--no-pager", str(written(tmp_path, kind))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r"Overall exposure level for synapse.service: ([\d.]+)", done.stdout)
    assert found is not None, done
    exposure, most = float(found[1]), EXPOSURE_MAX[kind]
    tell(
        "service", f"exposure of the {kind} unit", exposure, unit="of 10", bound=f"<= {most}", is_kept=exposure <= most
    )
    assert exposure <= most
