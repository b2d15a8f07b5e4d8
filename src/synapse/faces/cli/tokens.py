"""`token …`: secrets for others, each with a role. A secret is made here, and the hub hears only its hash."""

import os
from base64 import urlsafe_b64encode
from errno import EEXIST
from hashlib import sha256

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call, pages
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_json, print_text, print_words, table
from synapse.home import place_once

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def token_create(call: Call) -> int:
    """Make a token and print it, or write it into a new file; nobody can show it again."""
    parsed = call.parsed
    role, rooms, ttl_s, path = parsed.text("role"), parsed.text("rooms"), parsed.seconds("expires"), parsed.text("out")
    if role is None:
        raise UsageError("token create needs --role: observer, agent, human or admin")
    if path is not None and os.path.lexists(path):
        raise FileExistsError(EEXIST, os.strerror(EEXIST), path)
    secret = urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    body: Json = {"hash": sha256(secret.encode()).hexdigest(), "role": role, "label": parsed.text("label")}
    if rooms is not None:
        body["rooms"] = [room.strip() for room in rooms.split(",") if room.strip()]
    if ttl_s is not None:
        body["ttl_ms"] = int(ttl_s * 1000)
    answer = call.ask("token.create", body, operator=True)
    if path is not None:
        _write(call, path, secret, answer)
        answer["path"] = os.path.abspath(path)
    else:
        answer["secret"] = secret
    try:
        if call.as_json:
            print_json(answer)
        else:
            print_text(secret if path is None else os.path.abspath(path))
    except OSError:
        if path is None:  # nobody has seen it
            _take_back(call, answer)
        raise
    if not call.as_json:
        print_words(f"{_described(answer)}; it is shown this once{'' if path is None else ' in that file'}")
    if rooms is not None:
        _say_unknown(call, answer)
    return EXIT_OK


def _say_unknown(call: Call, token: "Json") -> None:
    """Rooms may be made after the token; a name that was mistyped would never be."""
    found = pages(call.open_as_operator(), "room.list", {}, ("rooms",))["rooms"]
    there = {room["room"] for room in found if isinstance(room, dict)} if isinstance(found, list) else set()
    granted = token.get("rooms")
    for name in granted if isinstance(granted, list) else []:
        if name not in there:
            print_words(f"there is no room {name} yet: the token is for it once it is made")


def _write(call: Call, path: str, secret: str, answer: "Json") -> None:
    """Keep a token that the hub knows already; where that fails it is taken back."""
    try:
        if place_once(path, f"{secret}\n"):
            return
        why: Exception = FileExistsError(EEXIST, os.strerror(EEXIST), path)
    except OSError as error:
        why = OSError(error.errno, error.strerror, path)  # not the name that it had until it was whole
    _take_back(call, answer)
    raise why


def _take_back(call: Call, token: "Json") -> None:
    """A token that nobody can hold."""
    call.ask("token.revoke", {"token": token["token"]}, operator=True)


def token_list(call: Call) -> int:
    """All tokens, without their secrets."""
    answer = pages(call.open_as_operator(), "token.list", {}, ("tokens",))
    rows = [["ID", "ROLE", "ROOMS", "LABEL", "EXPIRES", "LAST USED", "OPEN", "BY"]]
    for token in _tokens(answer):
        rooms = token.get("rooms")
        rows.append(
            [
                field(token, "token"),
                field(token, "role"),
                ",".join(map(str, rooms)) if isinstance(rooms, list) else "all",
                field(token, "label"),
                _when(token, "expires_at_ms", "never") if token.get("expired") is not True else "expired",
                _when(token, "last_used_at_ms", "-"),
                field(token, "connections"),
                field(token, "created_by"),
            ]
        )
    call.show(answer, table(rows) if len(rows) > 1 else "no tokens but the hub's own")
    return EXIT_OK


def token_revoke(call: Call) -> int:
    """Let nobody in with a token any more, and close what came with it."""
    answer = call.ask("token.revoke", {"token": call.parsed.arguments[0]}, operator=True)
    call.show(answer, f"revoked {field(answer, 'token')}")
    return EXIT_OK


def _described(token: "Json") -> str:
    rooms = token.get("rooms")
    place = f", for {', '.join(map(str, rooms))}" if isinstance(rooms, list) else ""
    until = _when(token, "expires_at_ms", "")
    return f"token {field(token, 'token')}, role {field(token, 'role')}{place}{f', until {until}' if until else ''}"


def _when(token: "Json", key: str, otherwise: str) -> str:
    at_ms = token.get(key)
    return clock(at_ms) if isinstance(at_ms, int) else otherwise


def _tokens(answer: "Json") -> "list[Json]":
    found = answer.get("tokens")
    return [token for token in found if isinstance(token, dict)] if isinstance(found, list) else []
