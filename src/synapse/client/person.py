"""The local person, who acts where no agent is named: `user@host`. On the fast path: standard library only."""

import os

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Mapping


def local_person(environ: "Mapping[str, str]") -> str:
    """The name of this process's user on this host, both made to fit the grammar of names."""
    return f"{segment(_user(environ), 'user')}@{segment(os.uname().nodename, 'host')}"


def segment(text: str, otherwise: str) -> str:
    """A text made to fit a name's segment: lower case, `-` for what is not allowed, at most 64 characters."""
    fit = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text.lower())
    return fit.lstrip("._-")[:64] or otherwise


def _user(environ: "Mapping[str, str]") -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container runs under a uid without a name
        return environ.get("USER") or f"uid{os.getuid()}"
