"""`manifest`: what agents say they can do, and what I say of myself."""

from synapse.client.home import find_hub
from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.given import given_file, given_json, given_text
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import field, print_json, safe, table

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

_LISTS = ("skills", "task_classes", "models", "tags", "capabilities")
FIELDS = ("description", "version", "client", "display_name", "personality", "avatar", *_LISTS)
_MANY = {"task_class": "task_classes", "model": "models", "tag": "tags", "capability": "capabilities"}
_TEXTS = {"description": "description", "agent_version": "version", "client": "client", "display_name": "display_name"}


def manifest(call: Call) -> int:
    """The cards of all, or one."""
    parsed = call.parsed
    for_a2a = parsed.has("a2a")
    if for_a2a and not parsed.arguments:
        raise UsageError("whose card? synapse manifest NAME --a2a")
    if (parsed.text("url") or parsed.text("binding")) and not for_a2a:
        raise UsageError("--url and --binding are for --a2a")
    if parsed.arguments:
        card = call.ask("card.get", {"name": parsed.arguments[0]})
        if for_a2a:
            return _as_a2a(call, card)
        call.show(card, _described(card))
        return EXIT_OK
    body: Json = {key: text for key in ("skill", "tag") if (text := parsed.text(key)) is not None}
    answer = call.pages("card.list", body, ("cards",))
    rows = [["NAME", "KIND", "THERE", "STATUS", "SKILLS", "MODELS", "TAGS", "DESCRIPTION"]]
    for card in _items(answer.get("cards")):
        skills = ",".join(field(skill, "id") for skill in _items(card.get("skills")))
        row = [field(card, key) for key in ("name", "kind", "presence", "status")]
        rows.append([*row, skills, _words(card, "models"), _words(card, "tags"), field(card, "description")])
    nobody = "no agent says what it can do" if not body else "no agent says that of itself"
    call.show(answer, table(rows) if len(rows) > 1 else nobody)
    return EXIT_OK


def manifest_set(call: Call) -> int:
    """Say something of myself; what is not named stays."""
    parsed = call.parsed
    body = _from_file(call) if parsed.has("file") else {}
    for option, name in _TEXTS.items():
        if parsed.has(option):
            body[name] = parsed.text(option)
    for option, name in _MANY.items():
        if parsed.has(option):
            body[name] = parsed.texts(option)
    if parsed.has("skill"):
        body["skills"] = [_skill(text) for text in parsed.texts("skill")]
    for name in parsed.texts("clear"):
        name = name.replace("-", "_")
        if name not in FIELDS:
            raise UsageError(f"--clear takes a field of the card, not {name!a}: {', '.join(FIELDS)}")
        body[name] = [] if name in _LISTS else ""
    if not body:
        raise UsageError("what to say? synapse manifest set --description D, --skill ID, --file FILE, …")
    card = call.open_as(call.worker).ask("card.set", body)
    call.show(card, _described(card))
    return EXIT_OK


def _from_file(call: Call) -> "Json":
    path = call.parsed.text("file") or ""
    if path == "-":
        text = given_text("-", "a card is small")
    else:
        text = given_file(path)
    found = given_json(text, f"--file {path}")
    if not isinstance(found, dict):
        raise UsageError(f"--file {path} is no JSON object of fields: {', '.join(FIELDS)}")
    return found


def _skill(text: str) -> "Json":
    word, _, description = text.partition("=")
    return {"id": word, "name": word, "description": description or word}


def _as_a2a(call: Call, card: "Json") -> int:
    """Print it as A2A has it; with --json with a cursor, as every object of ours."""
    from synapse.client.a2a import OWN_BINDING, agent_card

    url = call.parsed.text("url")
    binding = call.parsed.text("binding") or ("JSONRPC" if url else OWN_BINDING)
    made = agent_card(card, url or _hub_uri(call), binding)
    print_json({**made, "cursor": card.get("cursor")} if call.as_json else made)
    return EXIT_OK


def _hub_uri(call: Call) -> str:
    """Where others reach the hub: not by the Unix socket, if there is another door."""
    where = find_hub(call.around)
    others = where.file.uris if where.file is not None else ()
    return next((uri for uri in others if not uri.startswith("unix:")), where.uri)


def _described(card: "Json") -> str:
    there = [field(card, key) for key in ("presence", "status") if card.get(key)]
    lines = [" ".join([f"{field(card, 'name')} ({field(card, 'kind')})", *there])]
    lines += [f"  {field(card, 'description')}"] if card.get("description") else []
    for skill in _items(card.get("skills")):
        tags = _words(skill, "tags")
        lines.append(f"  skill {field(skill, 'id')}: {field(skill, 'description')}{f'  [{tags}]' if tags else ''}")
    for name in ("task_classes", "models", "tags", "capabilities"):
        lines += [f"  {name.replace('_', ' ')}: {_words(card, name)}"] if card.get(name) else []
    for name in ("version", "client"):
        lines += [f"  {name}: {field(card, name)}"] if card.get(name) else []
    return "\n".join(lines)


def _words(card: "Json", name: str) -> str:
    words = card.get(name)
    return ", ".join(safe(str(word)) for word in words) if isinstance(words, list) else ""


def _items(value: object) -> "list[Json]":
    return value if isinstance(value, list) else []
