"""`file …`: what lies at the hub on its way; and the way there and back for `send --chunked` and `receive`."""

from time import monotonic

from synapse.client.chunks import carry_out, members_of, sent, split_target
from synapse.client.link import Link, NoAnswer
from synapse.errors import EXIT_OK, Disconnected, HubUnreachable, Rejected
from synapse.faces.cli.call import Call, ask_one_of_many, come_back, is_passing, pages
from synapse.faces.cli.render import clock, field, safe, table

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def file_list(call: Call) -> int:
    """Print the files, oldest first."""
    link = call.open_as_operator() if call.parsed.has("operator") else call.open()
    answer = pages(link, "file.list", {}, ("files",))
    files = answer.get("files")
    rows = [_row(file) for file in files] if isinstance(files, list) else []
    call.show(answer, table(rows) if rows else "no files")
    return EXIT_OK


def _row(file: "Json") -> list[str]:
    to = file.get("to")
    place = ", ".join(map(str, to)) if isinstance(to, list) else field(file, "channel")
    stored, chunks = file.get("stored"), file.get("chunks")
    state = "complete" if file.get("complete") else f"{stored} of {chunks} chunks"
    until = file.get("expires_at_ms")
    return [
        field(file, "file"),
        safe(str(file.get("name") or "(not told)")),
        f"{field(file, 'bytes')} bytes",
        f"{field(file, 'from')} → {safe(place)}",
        state,
        f"until {clock(until)}" if isinstance(until, int) else "",
    ]


def file_withdraw(call: Call) -> int:
    """Let the hub forget a file."""
    file = call.parsed.arguments[0]
    answer = call.ask("file.withdraw", {"file": file}, operator=call.parsed.has("operator"))
    call.show(answer, f"withdrew {safe(file)}")
    return EXIT_OK


def bring(call: Call, link: Link, message: "Json") -> "tuple[Link, Json, str]":
    """Bring the file whose path is the message's body to the hub, for where the message goes; the connection it ended
    on, the body that says so, and the key under which that is sent once."""
    to, channel = message.get("to"), message.get("channel")
    names = tuple(map(str, to)) if isinstance(to, list) else ()
    asked = Asked(call, link)
    if "target" in message:
        names, channel, role = split_target(str(message["target"]))
        if role is not None:
            names = members_of(role, pages(link, "role.info", {"role": role}, ("participants",)).get("participants"))
    place = None if names else str(channel or call.home_channel)
    steps = sent(str(message["body"]), to=names, channel=place, create="create" in message)
    manifest = carry_out(steps, asked)
    return asked.link, manifest.body(), manifest.idem_key


class Asked:
    """One request and its answer, over restarts of the hub, each within the call's time; all may be repeated."""

    __slots__ = ("_call", "link")

    def __init__(self, call: Call, link: Link) -> None:
        self._call = call
        self.link = link

    def __call__(self, kind: str, body: "Json") -> "Json":
        """Ask. Raises `Rejected`, `HubUnreachable`."""
        deadline_s = monotonic() + self._call.timeout_s
        while True:
            try:
                return ask_one_of_many(self.link, kind, body, deadline_s)
            except (Disconnected, NoAnswer, Rejected) as error:
                if not is_passing(error):
                    raise
                if monotonic() >= deadline_s:
                    raise HubUnreachable(f"{error}; run it again, and it goes on where it was") from error
            self.link = come_back(self._call, deadline_s)
