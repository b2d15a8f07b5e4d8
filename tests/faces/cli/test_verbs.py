"""The table of verbs, the help and the reference say the same."""

import importlib
import re
from pathlib import Path

import pytest

from synapse.faces.cli import places
from synapse.faces.cli.guide import overview, reference_lines, usage
from synapse.faces.cli.verbs import COMMON, VERBS

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "cli.md"
LATER = ("mcp", "web")


def test_the_reference_has_each_verb_and_each_option() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    generated = text.split("<!-- generated: -->\n")[1].split("\n<!-- end -->")[0]
    assert generated == "\n".join(reference_lines())
    for verb in VERBS.values():
        assert f"### `synapse {verb.name}" in text
        for option in verb.options:
            assert f"| `{option.shown}` |" in text


def test_what_is_read_of_the_options_is_the_key_of_one() -> None:
    """One that is misspelt would be read as not given, whatever was typed."""
    keys = {option.key for verb in VERBS.values() for option in (*verb.options, *COMMON.values())}
    read = re.compile(r'parsed\.(?:has|text|texts|number|whole|seconds)\(\s*"([^"]+)"')
    modules = sorted(Path(places.__file__).parent.glob("*.py"))
    found = {key for module in modules for key in read.findall(module.read_text(encoding="utf-8"))}
    assert len(found) > 50, "they are found"
    assert found <= keys, found - keys


def test_help_names_every_verb_and_every_option() -> None:
    whole = overview()
    for verb in VERBS.values():
        assert f"  {verb.name}" in whole
        for option in (*verb.options, *COMMON.values()):
            assert option.shown in usage(verb)
    assert "room join ROOM" in overview("room")
    assert "send" not in overview("room").split("options of every verb")[0]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_the_function_that_carries_it_out(name: str) -> None:
    module = importlib.import_module(f"synapse.faces.cli.{VERBS[name].module}")
    wanted = "run_hub" if name == "hub" else name.replace(" ", "_").replace("-", "_")
    assert callable(getattr(module, wanted))


def test_verbs_of_later_releases_are_unknown() -> None:
    assert not {name.split()[0] for name in VERBS} & set(LATER)
