"""What every test room shares: tools that may be missing, and properties without a stopwatch."""

import os
import shutil

import pytest
from hypothesis import settings

if "CI" not in os.environ:  # under CI, Hypothesis loads a profile of its own, without a deadline and with fixed seeds
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


def pytest_configure(config: pytest.Config) -> None:
    """The marker that ties a test to rows of docs/reference/bad-input.md; tests/test_docs.py checks both sides."""
    config.addinivalue_line("markers", "bad_input(*ids): proves these rows of docs/reference/bad-input.md")
