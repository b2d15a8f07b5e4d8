"""Lies about files on their way through the hub, by the rule that each breaks; and a file without one."""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from tests.simulation.keeping_lies import compacted
from tests.simulation.kinds import FILES
from tests.simulation.limits import LIMITS
from tests.simulation.mail_lies import den, joined
from tests.simulation.paper import Paper
from tests.simulation.virtual_time import START_AT_MS

from synapse.core.file_events import FileBegun, FileChunked, FileCompleted, FileEnded, FileReceived

CONTENT: Final = b"x" * 1_024 + b"y" * 200
DATE_MS: Final = START_AT_MS + LIMITS.file_ttl_ms


def hexed(data: bytes) -> str:
    return sha256(data).hexdigest()


def begun(
    hub: Paper, content: bytes = CONTENT, *, to: tuple[str, ...] = ("bob",), is_asked: bool = True, **more: Any
) -> int:
    """Ada announces a file; its number."""
    where: dict[str, Any] = {"to": list(to)} if "channel" not in more else {"channel": "zqr1x:general"}
    if is_asked:
        body = {"name": "n", "bytes": len(content), "sha256": hexed(content)}
        hub.hear("ada", "file.begin", body | where)
    fields = {"chunk_bytes": LIMITS.chunk_bytes_max, "expires_at_ms": DATE_MS} | more
    ids = () if "channel" in more else tuple(hub.ids[name] for name in to)
    event = FileBegun(
        agent=hub.ids["ada"], name="n", bytes=len(content), sha256=hexed(content), to=ids, **fields
    )  # fmt: skip
    return hub.write_at(START_AT_MS, "ada", event)


def put(
    hub: Paper, file: int, index: int, who: str = "ada", *, data: bytes | None = None, is_asked: bool = True
) -> None:
    """A chunk of it."""
    size = LIMITS.chunk_bytes_max
    due = CONTENT[index * size : (index + 1) * size]
    if is_asked:
        hub.hear(who, "file.put", {"file": f"f{file}", "index": index, "sha256": hexed(due)})
    hub.write(who, FileChunked(file=file, index=index, data=due if data is None else data, sha256=hexed(due)))


def completed(hub: Paper, file: int, who: str = "ada", *, expires_at_ms: int = DATE_MS) -> None:
    """All of it is there."""
    hub.hear(who, "file.complete", {"file": f"f{file}"})
    hub.write_at(START_AT_MS, who, FileCompleted(file=file, expires_at_ms=expires_at_ms))


def whole(hub: Paper, **more: Any) -> int:
    """Announced, put and complete; its number."""
    file = begun(hub, **more)
    put(hub, file, 0)
    put(hub, file, 1)
    completed(hub, file)
    return file


def received(hub: Paper, file: int, who: str = "bob", *ended: FileEnded) -> None:
    """Somebody has it."""
    hub.hear(who, "file.receive", {"file": f"f{file}"})
    hub.write(who, FileReceived(file=file, agent=hub.ids[who]), *ended)


def over(hub: Paper) -> int:
    """A compaction of all files that have ended is planned; up to where."""
    hub.ledger.plan_compaction(hub.ledger.head, START_AT_MS, {FILES: 1})
    return hub.ledger.head


def told(file: int, **more: Any) -> dict[str, Any]:
    """A whole one of ada's for bob, as it is told."""
    return {
        "file": f"f{file}", "name": "n", "from": "ada", "to": ["bob"], "bytes": len(CONTENT), "sha256": hexed(CONTENT),
        "chunk_bytes": LIMITS.chunk_bytes_max, "chunks": 2, "stored": 2, "complete": True, "begun_at_ms": START_AT_MS,
        "expires_at_ms": DATE_MS,
    } | more  # fmt: skip


def answered(hub: Paper, who: str, kind: str, body: dict[str, Any], reply: dict[str, Any]) -> None:
    """A request and what it is told."""
    hub.reply(who, hub.hear(who, kind, body), reply)


def refused(hub: Paper, who: str, kind: str, body: dict[str, Any], code: str, **facts: object) -> None:
    """A request, and why not."""
    request = hub.hear(who, kind, body)
    hub.say(who, {"type": "error", "id": request, "error": {"code": code, "detail": "", "facts": facts}})


def shown(hub: Paper, who: str, file: int, **more: Any) -> None:
    """What somebody is shown of it."""
    digests = [{"index": 0, "sha256": hexed(CONTENT[:1_024])}, {"index": 1, "sha256": hexed(CONTENT[1_024:])}]
    reply = told(file, digests=digests, next=None) | more
    answered(hub, who, "file.show", {"file": f"f{file}", "limit": 10}, reply)


def read(hub: Paper, who: str, file: int, data: bytes = CONTENT[1_024:]) -> None:
    """What somebody reads as its second chunk."""
    reply = {"file": f"f{file}", "index": 1, "data": b64encode(data).decode(), "sha256": hexed(CONTENT[1_024:])}
    answered(hub, who, "file.read", {"file": f"f{file}", "index": 1}, reply)


# What is in the journal.


def a_file_nobody_announced(hub: Paper) -> None:
    begun(hub, is_asked=False)


def a_chunk_nobody_put(hub: Paper) -> None:
    put(hub, begun(hub), 0, is_asked=False)


def a_file_begun_twice(hub: Paper) -> None:
    begun(hub)
    begun(hub)


def a_file_with_another_date(hub: Paper) -> None:
    begun(hub, expires_at_ms=DATE_MS + 1)


def a_chunk_that_is_not_what_its_digest_says(hub: Paper) -> None:
    put(hub, begun(hub), 0, data=b"z" * 1_024)


def a_file_that_stays_for_ever(hub: Paper) -> None:
    file = begun(hub, b"")
    completed(hub, file, expires_at_ms=DATE_MS * 2)


def more_files_than_an_agent_may_have(hub: Paper) -> None:
    for number in range(LIMITS.files_per_agent_max + 1):
        begun(hub, bytes([number]))


def a_file_that_is_too_large(hub: Paper) -> None:
    begun(hub, b"x" * (LIMITS.file_bytes_max + 1))


def a_chunk_of_a_complete_file(hub: Paper) -> None:
    put(hub, whole(hub), 1)


def a_chunk_of_another_agents_file(hub: Paper) -> None:
    put(hub, begun(hub), 0, "bob")


def complete_with_a_chunk_missing(hub: Paper) -> None:
    file = begun(hub)
    put(hub, file, 1)
    completed(hub, file)


def received_by_somebody_else(hub: Paper) -> None:
    received(hub, whole(hub), "eve")


def ended_before_its_date(hub: Paper) -> None:
    hub.write_at(DATE_MS - 1, "hub", FileEnded(file=whole(hub), reason="expired"))


def ended_and_nobody_has_it(hub: Paper) -> None:
    hub.write("bob", FileEnded(file=whole(hub), reason="received"))


def withdrawn_by_somebody_else(hub: Paper) -> None:
    file = whole(hub)
    hub.hear("bob", "file.withdraw", {"file": f"f{file}"})
    hub.write("bob", FileEnded(file=file, reason="withdrawn"))


def it_stays_when_all_have_it(hub: Paper) -> None:
    received(hub, whole(hub))


def a_chunk_of_an_ended_file(hub: Paper) -> None:
    file = begun(hub)
    hub.write_at(DATE_MS, "hub", FileEnded(file=file, reason="expired"))
    put(hub, file, 0)


def a_chunk_goes_that_may_still_be_read(hub: Paper) -> None:
    whole(hub)
    compacted(hub, over(hub), 4)


# What is told.


def a_begin_of_nothing(hub: Paper) -> None:
    body = {"name": "n", "to": ["bob"], "bytes": len(CONTENT), "sha256": hexed(CONTENT)}
    reply = {"file": "f77", "chunk_bytes": LIMITS.chunk_bytes_max, "chunks": 2, "expires_at_ms": DATE_MS}
    answered(hub, "ada", "file.begin", body, reply)


def a_chunk_that_was_not_kept(hub: Paper) -> None:
    body = {"file": f"f{begun(hub)}", "index": 0, "sha256": hexed(CONTENT[:1_024])}
    answered(hub, "ada", "file.put", body, {"file": body["file"], "index": 0, "already": False})


def complete_and_it_is_not(hub: Paper) -> None:
    file = f"f{begun(hub)}"
    answered(hub, "ada", "file.complete", {"file": file}, {"file": file, "expires_at_ms": DATE_MS})


def a_receipt_that_was_not_kept(hub: Paper) -> None:
    file = f"f{whole(hub)}"
    answered(hub, "bob", "file.receive", {"file": file}, {"file": file, "ended": False})


def withdrawn_and_it_is_there(hub: Paper) -> None:
    file = f"f{whole(hub)}"
    answered(hub, "ada", "file.withdraw", {"file": file}, {"file": file, "ended": True})


def shown_to_somebody_else(hub: Paper) -> None:
    shown(hub, "eve", whole(hub))


def shown_before_it_is_complete(hub: Paper) -> None:
    file = begun(hub)
    shown(hub, "bob", file, complete=False, stored=0, digests=[])


def shown_to_who_came_later(hub: Paper) -> None:
    room = den(hub)
    file = whole(hub, to=(), channel=room + 1)
    joined(hub, room)
    shown(hub, "bob", file, to=None, channel="zqr1x:general")


def shown_with_a_chunk_less(hub: Paper) -> None:
    shown(hub, "bob", whole(hub), stored=1)


def read_by_somebody_else(hub: Paper) -> None:
    read(hub, "eve", whole(hub))


def read_by_who_came_later(hub: Paper) -> None:
    room = den(hub)
    file = whole(hub, to=(), channel=room + 1)
    joined(hub, room)
    read(hub, "bob", file)


def another_content_is_read(hub: Paper) -> None:
    read(hub, "bob", whole(hub), b"z" * 200)


def a_list_without_a_file(hub: Paper) -> None:
    whole(hub)
    answered(hub, "bob", "file.list", {}, {"files": [], "bytes": 0, "next": None})


def a_list_with_what_is_not_there_for_me(hub: Paper) -> None:
    file = whole(hub)
    answered(hub, "eve", "file.list", {}, {"files": [told(file)], "bytes": 0, "next": None})


def another_sum(hub: Paper) -> None:
    file = whole(hub)
    answered(hub, "ada", "file.list", {}, {"files": [told(file)], "bytes": 1, "next": None})


def no_room_and_there_is(hub: Paper) -> None:
    body = {"name": "n", "to": ["bob"], "bytes": 1, "sha256": ""}
    refused(hub, "ada", "file.begin", body, "limit", limit="files_per_agent_max", value=2, used=2)


def too_large_and_it_is_not(hub: Paper) -> None:
    refused(hub, "ada", "file.begin", {"name": "n", "to": ["bob"], "bytes": 1, "sha256": ""}, "too_large")


def not_there_and_it_is(hub: Paper) -> None:
    refused(hub, "bob", "file.show", {"file": f"f{whole(hub)}"}, "not_found")


def missing_and_it_is_there(hub: Paper) -> None:
    refused(hub, "ada", "file.complete", {"file": f"f{whole(hub)}"}, "not_found", missing=1, index=0)


def not_mine_and_it_is(hub: Paper) -> None:
    refused(hub, "ada", "file.withdraw", {"file": f"f{whole(hub)}"}, "not_permitted")


def a_hub_that_forgot_a_file(hub: Paper) -> None:
    whole(hub)
    hub.ledger.parcels.check({}, 0, 0, 0)


def a_hub_that_counts_other_bytes(hub: Paper) -> None:
    file = whole(hub)
    hub.ledger.parcels.check({file: (True, 2, 0)}, 1, 0, 0)


def a_file_stays_past_its_date(hub: Paper) -> None:
    file = whole(hub)
    for working_ms in (0, 4_000):
        hub.ledger.parcels.check({file: (True, 2, 0)}, len(CONTENT), DATE_MS, working_ms)


PARCEL_LIES: dict[Callable[[Paper], None], str] = {
    a_file_nobody_announced: "unasked",
    a_chunk_nobody_put: "unasked",
    a_file_begun_twice: "applied twice",
    a_file_with_another_date: "altered",
    a_chunk_that_is_not_what_its_digest_says: "altered",
    a_file_that_stays_for_ever: "altered",
    more_files_than_an_agent_may_have: "too much",
    a_file_that_is_too_large: "too much",
    a_chunk_of_a_complete_file: "stale accepted",
    a_chunk_of_another_agents_file: "stale accepted",
    complete_with_a_chunk_missing: "not whole",
    received_by_somebody_else: "foreign",
    ended_before_its_date: "ended early",
    ended_and_nobody_has_it: "ended early",
    withdrawn_by_somebody_else: "ended early",
    it_stays_when_all_have_it: "not released",
    a_chunk_of_an_ended_file: "not live",
    a_chunk_goes_that_may_still_be_read: "wrong floor",
    a_begin_of_nothing: "lost",
    a_chunk_that_was_not_kept: "lost",
    complete_and_it_is_not: "lost",
    a_receipt_that_was_not_kept: "lost",
    withdrawn_and_it_is_there: "lost",
    shown_to_somebody_else: "foreign",
    shown_before_it_is_complete: "foreign",
    shown_to_who_came_later: "foreign",
    shown_with_a_chunk_less: "wrong file",
    read_by_somebody_else: "foreign",
    read_by_who_came_later: "foreign",
    another_content_is_read: "altered",
    a_list_without_a_file: "wrong page",
    a_list_with_what_is_not_there_for_me: "wrong page",
    another_sum: "wrong page",
    no_room_and_there_is: "fenced wrongly",
    too_large_and_it_is_not: "fenced wrongly",
    not_there_and_it_is: "fenced wrongly",
    missing_and_it_is_there: "fenced wrongly",
    not_mine_and_it_is: "fenced wrongly",
    a_hub_that_forgot_a_file: "altered",
    a_hub_that_counts_other_bytes: "altered",
    a_file_stays_past_its_date: "expired late",
}


def an_honest_file(hub: Paper) -> None:
    """Cut off and gone on with, shown and read, received by both, and then its chunks may go; another one of a private
    room, which a member with history reads."""
    file = begun(hub, to=("bob", "eve"))
    put(hub, file, 1)
    body = {"name": "n", "to": ["eve", "bob"], "bytes": len(CONTENT), "sha256": hexed(CONTENT)}
    reply = {"file": f"f{file}", "chunk_bytes": LIMITS.chunk_bytes_max, "chunks": 2, "expires_at_ms": DATE_MS}
    answered(hub, "ada", "file.begin", body, reply)
    refused(hub, "ada", "file.complete", {"file": f"f{file}"}, "not_found", missing=1, index=0)
    refused(hub, "bob", "file.show", {"file": f"f{file}"}, "not_found")
    put(hub, file, 0)
    completed(hub, file)
    shown(hub, "bob", file, to=["bob", "eve"])
    read(hub, "eve", file)
    received(hub, file)
    page = {"files": [told(file, to=["bob", "eve"], received=["bob"])], "bytes": len(CONTENT), "next": None}
    answered(hub, "ada", "file.list", {}, page)
    compacted(hub, over(hub), 3)  # announced, complete, received
    received(hub, file, "eve", FileEnded(file=file, reason="received"))
    refused(hub, "eve", "file.read", {"file": f"f{file}", "index": 1}, "not_found")
    compacted(hub, over(hub), 7)
    room = den(hub)
    other = whole(hub, to=(), channel=room + 1)
    joined(hub, room)
    refused(hub, "bob", "file.read", {"file": f"f{other}", "index": 1}, "not_found")
    shown(hub, "ada", other, to=None, channel="zqr1x:general", received=[])
