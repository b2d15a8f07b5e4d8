"""The child beside the hub is started again when it dies, and ends with whoever keeps it."""

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from synapse.hub.companion import Companion, command_of
from synapse.hub.settings import Settings


def test_it_speaks_over_the_unix_socket_where_there_is_one() -> None:
    settings = Settings(home=Path("/x/home"))
    command = command_of(settings, ["ws://127.0.0.1:1", "unix:/x/hub.sock"])
    assert command[command.index("--uri") + 1] == "unix:/x/hub.sock"
    assert command_of(settings, ["ws://127.0.0.1:1"])[-1] == "ws://127.0.0.1:1"


def test_it_looks_as_often_and_waits_as_long_as_the_settings_say() -> None:
    settings = Settings(home=Path("/x/home"), supervise_every_s=7, supervise_orphaned_s=8, supervise_tries=9)
    command = command_of(settings, ["unix:/x/hub.sock"])
    told = {flag: command[command.index(flag) + 1] for flag in ("--every", "--orphaned", "--tries")}
    assert told == {"--every": "7", "--orphaned": "8", "--tries": "9"}


def test_it_has_the_hubs_token_wherever_that_lies() -> None:
    command = command_of(Settings(home=Path("/x/home"), token_file=Path("/y/tok")), ["ws://127.0.0.1:1"])
    assert command[command.index("--token-file") + 1] == "/y/tok"
    assert "--token-file" not in command_of(Settings(home=Path("/x/home")), ["ws://127.0.0.1:1"])


async def test_a_child_that_dies_is_started_again_and_the_last_one_ends_with_its_keeper(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lives = tmp_path / "lives"
    script = (
        f"import os, sys, time\nlives = open({str(lives)!r}, 'a')\n"
        f"lives.write(str(os.getpid()) + '\\n')\nlives.flush()\n"
        f"if len(open({str(lives)!r}).readlines()) < 3: sys.exit('synapse: no luck')\ntime.sleep(60)\n"
    )
    with caplog.at_level(logging.INFO):
        keeping = asyncio.create_task(Companion([sys.executable, "-c", script], 0.01).run())
        async with asyncio.timeout(20):
            while not lives.exists() or len(lives.read_text().split()) < 3:
                await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.wait({keeping})
    pids = lives.read_text().split()
    assert len(pids) == 3
    assert not Path(f"/proc/{pids[-1]}").exists()
    said = [record.getMessage() for record in caplog.records]
    assert said.count("the supervisor ended with exit code 1; it is started again") == 2
    assert "no luck" in said
