"""`supervisor`: watch rooms, and see to it that no task is forgotten."""

import asyncio
import os
import signal
import sys

from synapse.client.calls import RequestTimeout
from synapse.client.client import Card, Client, Wiring
from synapse.client.home import find_hub
from synapse.client.transport import HubDialer
from synapse.errors import EXIT_OK, Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.given import require_stdin
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import print_json, print_text, print_words, safe
from synapse.faces.supervisor import Terms, sentence
from synapse.faces.supervisor_rounds import Done, supervise

NAME = "supervisor"
"""Who it is unless --name says otherwise: all supervisors of a hub are one agent."""
EVERY_S = 30.0
_SECONDS_MIN = 1.0


def supervisor(call: Call) -> int:
    """Watch until SIGTERM, SIGINT or SIGHUP, or look once."""
    for name in ("stalled", "orphaned", "every"):
        given = call.parsed.seconds(name)
        if given is not None and given < _SECONDS_MIN:
            raise UsageError(f"--{name} must be at least {_SECONDS_MIN:g} s")
    if call.parsed.number("tries", 1) < 1:
        raise UsageError("--tries must be at least 1")
    if call.parsed.has("until_eof"):
        require_stdin()
    return asyncio.run(_watch(call))


async def _watch(call: Call) -> int:
    parsed, around = call.parsed, call.around
    name = parsed.text("name") or NAME
    try:
        uri = find_hub(around).uri
    except ValueError as error:
        raise UsageError(str(error)) from error
    client = Client(
        uri,
        name=name,
        card=Card(kind="service"),
        home=around.home,
        token=around.token(uri),
        timeout=call.timeout_s,
        wiring=Wiring(dial=HubDialer(around, None)),  # which knows what flags said, --tls-ca too
    )
    async with client:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, stopped.set)
        if parsed.has("until_eof"):
            try:
                loop.add_reader(sys.stdin.fileno(), _read_to_end, stopped)
            except PermissionError:  # epoll takes no file: nobody could write to it later, so it has ended
                stopped.set()
        terms = _terms(call, client)
        every_s = parsed.seconds("every") or EVERY_S
        print_words(f"watching as {name}: stalled after {terms.stalled_ms / 1000:g} s, every {every_s:g} s")
        while not stopped.is_set():
            round_ = asyncio.ensure_future(_round(call, client, terms))
            ended = asyncio.ensure_future(stopped.wait())
            await asyncio.wait({round_, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not round_.done():
                round_.cancel()
                await asyncio.wait({round_})
                break
            round_.result()
            if parsed.has("once"):
                break
            try:
                await asyncio.wait_for(stopped.wait(), every_s)
            except TimeoutError:
                continue
    return EXIT_OK


def _read_to_end(stopped: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stopped.set()


def _terms(call: Call, client: Client) -> Terms:
    stalled_s, orphaned_s = call.parsed.seconds("stalled"), call.parsed.seconds("orphaned")
    return Terms(
        stalled_ms=client.welcome.limits.stalled_ms if stalled_s is None else int(stalled_s * 1000),
        orphaned_ms=60_000 if orphaned_s is None else int(orphaned_s * 1000),
        tries=call.parsed.number("tries", 3),
    )


async def _round(call: Call, client: Client, terms: Terms) -> None:
    """All rooms, one after the other. What is refused is said, and the next round tries again."""
    named = call.parsed.texts("room")
    is_once = call.parsed.has("once")
    try:
        rooms = named or [room.room for room in await client.rooms()]
        for room in rooms:
            try:
                for done in await supervise(client, room, terms, print_words):
                    _say(call, done)
            except Rejected as refusal:
                if is_once and named:
                    raise
                print_words(f"{room}: {refusal}")
    except RequestTimeout as error:  # the hub is away: the client comes back to it by itself
        if is_once:
            raise
        print_words(str(error))


def _say(call: Call, done: Done) -> None:
    record = done.record
    if call.as_json:
        print_json(
            {
                "room": done.room,
                "task": record.task,
                "cause": record.cause,
                "what": done.what,
                "since_at_ms": record.since_at_ms,
                "to": list(done.to),
                "cursor": done.cursor,
            }
        )
    else:
        print_text(f"{safe(done.room)}  {done.what}  {safe(sentence(record))}  → {', '.join(map(safe, done.to))}")
