"""What every test room shares: tools that may be missing, and properties without a stopwatch."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings

# Under nohup it is ignored, and would be in every process that a test starts: some tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if "SYNAPSE_PLANTED" in os.environ:  # a fault needs no smallest example, and every run of it should find the same one
    settings.register_profile(
        "planted", deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
    )
    settings.load_profile("planted")
elif "CI" not in os.environ:  # under CI, Hypothesis loads a profile of its own, without a deadline and with fixed seeds
    settings.register_profile("synapse", deadline=None, print_blob=True)
    settings.load_profile("synapse")


def require_tool(name: str, package: str) -> str:
    """Path of a command from a Debian package.

    Where it is missing the test is skipped on a user's machine and fails under CI, which installs its tools itself.
    """
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is missing: install {package} (apt-get install {package})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def where_modes_count() -> tuple[str, ...]:
    """What goes before a command so that a file's mode keeps it out, which it does not keep root."""
    if os.geteuid() != 0:
        return ()
    return (require_tool("setpriv", "util-linux"), "--bounding-set=-dac_override,-dac_read_search")


class Certificates(NamedTuple):
    """A CA of the test's own, and what it signed for the names of a hub."""

    ca: Path
    cert: Path
    key: Path


def certificates(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1,IP:127.0.0.2") -> Certificates:
    """A new CA and a certificate for these names, made by openssl."""
    openssl = require_tool("openssl", "openssl")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names").write_text(f"subjectAltName={names}\n", encoding="utf-8")
    days, signed = ("-days", "2"), ("-extfile", "names", "-out", "hub.pem")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for arguments in (
        ("req", "-x509", *new_key, *days, "-subj", "/CN=a test's CA", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", *new_key, "-subj", "/CN=hub", "-keyout", "hub.key", "-out", "hub.csr"),
        ("x509", "-req", "-in", "hub.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", *days, *signed),
    ):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)
    return Certificates(folder / "ca.pem", folder / "hub.pem", folder / "hub.key")


def pytest_configure(config: pytest.Config) -> None:
    """The marker that ties a test to rows of docs/reference/bad-input.md; tests/test_docs.py checks both sides."""
    config.addinivalue_line("markers", "bad_input(*ids): proves these rows of docs/reference/bad-input.md")
