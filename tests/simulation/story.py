"""The story of a broken promise: what the agents and tasks that it is about did last, in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from traceback import format_exception
from typing import Any, Final

from tests.simulation.terms import Violation

STEPS_TOLD: Final = 30


@dataclass(slots=True)
class Step:
    """Something that happened. frame: what was said, for who `asks` or `hears`."""

    at_s: float
    who: str
    text: str
    link: int = 0
    frame: dict[str, Any] | None = None

    def is_about(self, names: frozenset[str]) -> bool:
        """True when one of these agents or tasks has to do with it."""
        if self.who in names or self.who in ("hub", "weather"):
            return True
        body = {} if self.frame is None else self.frame.get("body") or {}
        return body.get("task") in names

    def in_words(self) -> str:
        """One line."""
        if self.frame is None:
            return f"{self.at_s:10.3f} s  {self.who} {self.text}"
        return f"{self.at_s:10.3f} s  {self.who} {self.text} on connection {self.link}: {_said(self.frame)}"


def _said(frame: dict[str, Any]) -> str:
    what = frame["type"]
    number = f"#{frame['id']} " if frame.get("id") is not None else ""
    if what == "error":
        return f"{number}no at {frame['seq']}: {frame['error']['code']}: {frame['error']['detail'][:120]}"
    shown = (
        "task",
        "epoch",
        "outcome",
        "owner",
        "place",
        "id",
        "ids",
        "acked",
        "to",
        "channel",
        "body",
        "mode",
        "paths",
    )
    body = frame.get("body") or {}
    words = [f"{name}={str(body[name])[:60]}" for name in shown if body.get(name) not in (None, (), [], "")]
    if frame.get("idem_key"):
        words.append(f"key={frame['idem_key'][:8]}")
    at = f" at {frame['seq']}" if "seq" in frame else ""
    return f"{number}{what}{at} {' '.join(words)}"


def told(error: BaseException, steps: Iterable[Step], command: str) -> str:
    """The last steps of those it is about, what broke, and how to see it again."""
    about = frozenset(error.about) if isinstance(error, Violation) else frozenset[str]()
    relevant = [step for step in steps if not about or step.is_about(about)][-STEPS_TOLD:]
    lines = [step.in_words() for step in relevant]
    if not isinstance(error, Violation):
        lines.append("".join(format_exception(error)))
    return "\n".join([*lines, f"broken: {error}", f"again:  {command}"])
