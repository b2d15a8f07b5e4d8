"""`receive`: the file that a message refers to, checked against what its sender said."""

import sys

from synapse.client import files
from synapse.client.chunks import Manifest, manifest_in
from synapse.client.files import FileRefused, file_in
from synapse.errors import EXIT_OK, Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import safe

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def receive(call: Call) -> int:
    """Look the message up, check the file, print its path. Raises `Rejected(not_found)`, `FileRefused`."""
    arguments = call.parsed.arguments
    message = _message(call, arguments[0], None if len(arguments) == 1 else call.address(arguments[1]))
    manifest = manifest_in(message.get("body"))
    if manifest is not None:
        return _fetch(call, arguments[0], message, manifest)
    reference = file_in(message.get("body"))
    if reference is None:
        raise FileRefused(f"message {arguments[0]} refers to no file")
    path = files.receive(reference, call.parsed.text("save"))
    answer: Json = {
        "id": arguments[0],
        "path": path,
        "bytes": reference.bytes,
        "sha256": reference.sha256,
        "verified": True,
        "cursor": message.get("cursor"),
    }
    _show(call, answer, path)
    return EXIT_OK


def _show(call: Call, answer: "Json", path: str) -> None:
    """The path alone: to the letter for a script, and harmless for a terminal, since its sender named it."""
    call.show(answer, safe(path) if sys.stdout is not None and sys.stdout.isatty() else path)


def _fetch(call: Call, name: str, message: "Json", manifest: Manifest) -> int:
    """The content itself, from the hub."""
    from synapse.client.chunks import carry_out, received
    from synapse.faces.cli.files import Asked

    save = call.parsed.text("save")
    if save is None:
        raise UsageError(f"the content of {manifest.name!a} is at the hub: say where it goes with --save PATH")
    path = carry_out(received(manifest, save), Asked(call, call.open()))
    answer: Json = {
        "id": name,
        "path": path,
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "verified": True,
        "cursor": message.get("cursor"),
    }
    _show(call, answer, path)
    return EXIT_OK


def _message(call: Call, name: str, channel: str | None) -> "Json":
    """The message of that id: the one event behind the position before it; or what is not acked in a queue of my roles,
    of which no history is told."""
    if name[:1] != "m" or not name[1:].isdecimal():
        raise UsageError(f"{name!a} is no message id: m and a number")
    link = call.open()
    before = f"{link.await_welcome().get('journal_id')}:{int(name[1:]) - 1}"
    where: Json = {"inbox": True} if channel is None else {"channel": channel}
    found = _first(link.ask("history.read", {**where, "since": before, "limit": 1}))
    if found.get("id") != name and channel is None:
        found = _first(link.ask("inbox.list", {"after": f"m{int(name[1:]) - 1}", "limit": 1}))
    if found.get("id") != name:
        place = "my inbox (what a role was sent is received before it is acked)" if channel is None else channel
        raise Rejected("not_found", f"no message {name} ever came into {place}", {"id": name})
    return found


def _first(page: "Json") -> "Json":
    messages = page.get("messages")
    return messages[0] if isinstance(messages, list) and messages else {}
