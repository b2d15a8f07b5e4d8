"""The examples, run as they stand against a real hub."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from synapse import Client
from synapse.client.client import body_of

if TYPE_CHECKING:
    from tests.client.conftest import HubProcess

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


async def example(home: Path, name: str, *arguments: str) -> asyncio.subprocess.Process:
    environ = {**os.environ, "SYNAPSE_HOME": str(home)}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / name), *arguments, env=environ, stdout=pipe, stderr=pipe
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


@pytest.mark.slow
async def test_the_echo_answers_and_survives_the_hub(hub: "HubProcess") -> None:
    echo = await example(hub.home, "echo_agent.py")
    assert "echo is online" in await line(echo)
    async with Client(name="ada", home=hub.home) as ada:
        sent = await ada.send("hello", to="echo")
        await hub.kill_and_restart()
        answer = await ada.take(wait=30)
        assert answer is not None
        assert (answer.message.sender, answer.message.reply_to) == ("echo", sent.id)
        assert body_of(answer.message) == "hello"
    echo.terminate()
    await ended(echo)


@pytest.mark.slow
async def test_two_agents_count_to_ten(hub: "HubProcess") -> None:
    code, out, err = await ended(await example(hub.home, "two_agents.py"))
    assert (code, err) == (0, "")
    assert [text.split()[1:] for text in out.splitlines()] == [
        [f"{'odd' if number % 2 else 'even'}:", str(number)] for number in range(1, 11)
    ]


@pytest.mark.slow
async def test_a_follower_goes_on_where_it_was(hub: "HubProcess", tmp_path: Path) -> None:
    place = tmp_path / "cursor"
    async with Client(name="ada", home=hub.home) as ada:
        for number in range(3):
            follower = await example(hub.home, "follow_from_file.py", str(place))
            assert "following from" in await line(follower)
            if number:
                assert await line(follower) == f"{number * 2:>4} ada: while away\n"
            await ada.send("seen", channel="main:general")
            assert await line(follower) == f"{number * 2 + 1:>4} ada: seen\n"
            while not place.exists() or place.read_text() != (await ada.ping()).cursor:
                await asyncio.sleep(0.01)
            follower.kill()
            await ended(follower)
            await ada.send("while away", channel="main:general")


@pytest.mark.slow
async def test_a_follower_that_saw_nothing_goes_on_where_it_began(hub: "HubProcess", tmp_path: Path) -> None:
    place = tmp_path / "cursor"
    async with Client(name="ada", home=hub.home) as ada:
        follower = await example(hub.home, "follow_from_file.py", str(place))
        assert "following from" in await line(follower)
        for _ in range(200):
            if place.exists():
                break
            await asyncio.sleep(0.01)
        follower.kill()
        await ended(follower)
        await ada.send("while away", channel="main:general")
        follower = await example(hub.home, "follow_from_file.py", str(place))
        assert "following from" in await line(follower)
        assert await line(follower) == "   1 ada: while away\n"
        follower.kill()
        await ended(follower)


@pytest.mark.slow
async def test_three_hands_write_each_line_once_over_kills_of_the_hub(hub: "HubProcess", tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    writers = await example(hub.home, "one_file_three_hands.py", str(book))
    for lines in (3, 6):
        while not book.exists() or len(book.read_text().splitlines()) < lines:
            await asyncio.sleep(0.01)
        await hub.kill_and_restart()
    code, out, err = await ended(writers)
    assert (code, err) == (0, "")
    words = [line.split() for line in out.splitlines()]
    assert [int(number) for number, *_ in words] == list(range(1, 13))
    epochs = [int(last) for *_, last in words]
    assert epochs == sorted(set(epochs))


async def test_without_a_hub_an_example_says_how_to_start_one(tmp_path: Path) -> None:
    for name, *arguments in (("echo_agent.py",), ("two_agents.py",), ("one_file_three_hands.py", "book")):
        code, _, err = await ended(await example(tmp_path, name, *arguments))
        assert code == 1
        assert err.startswith("no hub runs for")
        assert "start one: synapse hub" in err
