"""A card as the agent card of A2A 1.0, for catalogues that know that form.

A2A wants of each card what ours may leave out; then something true stands there instead: the kind of the agent for its
description, its inbox for its only skill. The hub does not speak A2A: unless an address that does is named, the one
interface is the hub's own, under a binding that A2A clients pass over.
"""

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

A2A_VERSION = "1.0"
OWN_BINDING = "SYNAPSE"
TEXT, JSON = "text/plain", "application/json"


def agent_card(card: "Mapping[str, object]", url: str, binding: str = OWN_BINDING) -> "Json":
    """The A2A agent card of a card as `card.get` answers it. url, binding: where and how the agent is reached."""
    name = str(card["name"])
    found = card.get("skills")
    skills = [_skill(skill) for skill in found] if isinstance(found, list) else []
    made: Json = {
        "name": card.get("display_name") or name,
        "description": card.get("description") or card.get("personality") or f"{name}, of kind {card.get('kind')}",
        "version": card.get("version") or "0",
        "supportedInterfaces": [
            {"url": url, "protocolBinding": binding, "protocolVersion": A2A_VERSION, "tenant": name}
        ],
        "capabilities": {"streaming": False, "pushNotifications": False, "extendedAgentCard": False},
        "defaultInputModes": [TEXT, JSON],
        "defaultOutputModes": [TEXT, JSON],
        "skills": skills or [_inbox(name)],
    }
    avatar = card.get("avatar")
    if isinstance(avatar, str) and avatar.startswith("https://"):
        made["iconUrl"] = avatar
    return made


def _skill(skill: "Mapping[str, object]") -> "Json":
    return {
        "id": skill["id"],
        "name": skill["name"],
        "description": skill["description"],
        "tags": skill.get("tags") or [skill["id"]],
    }


def _inbox(name: str) -> "Json":
    return {
        "id": "messages",
        "name": "Messages",
        "description": f"Takes messages in the inbox of {name}.",
        "tags": ["messages"],
    }
