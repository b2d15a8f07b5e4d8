"""The parser: a table of command lines and what becomes of them."""

import pytest

from synapse.faces.cli.options import NO_END, SWITCH, TEXT, Option, UsageError, Verb, duration, parse
from synapse.faces.cli.verbs import COMMON, VERBS


@pytest.mark.parametrize(
    ("words", "verb", "options", "arguments"),
    [
        ("send hi", "send", {}, ["hi"]),
        ("--json send hi", "send", {"json": True}, ["hi"]),
        ("send hi --json", "send", {"json": True}, ["hi"]),
        ("send --json hi --name ada", "send", {"json": True, "name": "ada"}, ["hi"]),
        ("--name=ada --room x who", "who", {"name": "ada", "room": "x"}, []),
        ("send --to a --to=b,c hi", "send", {"to": ["a", "b,c"]}, ["hi"]),
        ("send --subject= hi", "send", {"subject": ""}, ["hi"]),
        ("send --subject a=b hi", "send", {"subject": "a=b"}, ["hi"]),
        ("send --subject -x hi", "send", {"subject": "-x"}, ["hi"]),
        ("send --reply-to m1 -", "send", {"reply_to": "m1"}, ["-"]),
        ("send -- --json", "send", {}, ["--json"]),
        ("send --wait hi", "send", {"wait": NO_END}, ["hi"]),
        ("send --wait=15m hi", "send", {"wait": 900.0}, ["hi"]),
        ("wait --wait=0", "wait", {"wait": 0.0}, []),
        ("--timeout 2 wait --timeout 3", "wait", {"timeout": 3.0}, []),
        ("room list", "room list", {}, []),
        ("room --json list", "room list", {"json": True}, []),
        ("room create r --type lab", "room create", {"type": "lab"}, ["r"]),
        ("listen a:b c:d", "listen", {}, ["a:b", "c:d"]),
        ("history --limit 5 --from ada", "history", {"limit": 5, "from": "ada"}, []),
        ("-- who", "who", {}, []),
        ("renew T1 --epoch 9007199254740991", "renew", {"epoch": 9007199254740991}, ["T1"]),
        ("--help", None, {"help": True}, []),
        ("-h", None, {"help": True}, []),
        ("--version", None, {"version": True}, []),
        ("--help send", "send", {"help": True}, []),
        ("send --help", "send", {"help": True}, []),
        ("send --help --nonsense", "send", {"help": True}, []),
        ("--name ada send --help", "send", {"name": True, "help": True}, []),
        ("--help --name ada --json send", "send", {"name": True, "json": True, "help": True}, []),
        ("send --subject x --name -h", "send", {"subject": True, "name": True, "help": True}, []),
        ("--name ada --help", None, {"name": True, "help": True}, []),
        ("--name ada room --help", None, {"name": True, "help": True}, ["room"]),
        ("--help room --room main list", "room list", {"room": True, "help": True}, []),
        ("room --help", None, {"help": True}, ["room"]),
        ("channel join -h", "channel join", {"help": True}, []),
    ],
)
def test_a_command_line_is_understood(
    words: str, verb: str | None, options: dict[str, object], arguments: list[str]
) -> None:
    parsed = parse(words.split(), VERBS, COMMON)
    assert (parsed.verb.name if parsed.verb else None) == verb
    assert {name: value for name, value in parsed.options.items() if name != "nonsense"} == options
    assert parsed.arguments == arguments


def test_a_text_with_a_blank_is_no_option() -> None:
    assert parse(["send", "- buy milk"], VERBS, COMMON).arguments == ["- buy milk"]
    assert parse(["send", "--all of it = x"], VERBS, COMMON).arguments == ["--all of it = x"]
    assert parse(["send", "x", "--subject=a b"], VERBS, COMMON).text("subject") == "a b"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "which verb"),
        ("sned hi", r"no verb 'sned'; did you mean send\?"),
        ("borad", "no verb 'borad'"),
        ("room", r"room what\? list, create"),
        ("room lsit", "did you mean room list"),
        ("claim", "something is missing: synapse claim TASK"),
        ("send a b", "'b' is one argument too many.*quotes"),
        ("who x", "'x' is one argument too many"),
        ("send --subjet x hi", r"no option '--subjet'; did you mean --subject\?"),
        ("send -x hi", "no option '-x'"),
        ("--subject x send hi", "before the verb there is no option '--subject'"),
        ("send hi --subject", "--subject S needs a value"),
        ("send --subject --json hi", "--subject S needs a value"),
        ("send --json=yes hi", "--json takes no value"),
        ("send --wait 3 hi", r"'hi' is one argument too many.*--wait takes its value as --wait="),
        ("wait --wait 3", r"'3' is one argument too many: synapse wait \(--wait takes its value as --wait=3\)"),
        ("send --wait=soon hi", "takes a duration"),
        ("send --wait= hi", "takes a duration"),
        ("send --wait=nan hi", "from 0 to 366d, not 'nan'"),
        ("claim T --ttl nan", "from 5s to 24h unless the hub has other limits, not 'nan'"),
        ("claim T --ttl inf", "from 5s to 24h"),
        ("claim T --ttl -1", "from 5s to 24h"),
        ("renew T --ttl=1e999", "from 5s to 24h"),
        ("lock x --wait=nan -- true", "up to 24h unless the hub has other limits, and --wait alone has no end"),
        ("claim T --wait=-1", "up to 24h"),
        ("history --limit 0", "whole number from 1, not '0'"),
        ("history --limit -5", "whole number"),
        ("history --limit 1e3", "whole number"),
        ("history --limit 9007199254740992", "whole number"),
        ("history --limit ٣", "whole number"),
        ("--timeout x who", "--timeout takes a duration"),
    ],
)
def test_what_is_not_understood_names_the_way_out(words: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(words.split(), VERBS, COMMON)


def test_a_switch_takes_its_value_either_way_since_its_verb_has_no_arguments() -> None:
    verb = Verb("hub", "hub", "", (0, 0), "", Option("socket", SWITCH, "yes|no", ""), Option("port", TEXT, "P", ""))
    for words, value in (
        ("--socket=no", "no"),
        ("--socket no", "no"),
        ("--socket", "yes"),
        ("--socket --port 1", "yes"),
    ):
        assert parse(["hub", *words.split()], {"hub": verb}, COMMON).text("socket") == value
    with pytest.raises(UsageError, match="'no' is one argument too many"):
        parse(["hub", "--socket", "no", "no"], {"hub": verb}, COMMON)


def test_what_stands_behind_two_dashes_is_the_command_of_a_verb_that_runs_one() -> None:
    parsed = parse([*["lock", "x", "--json", "--", "make", "-j", "--name", "y", "--"], "\udcff"], VERBS, COMMON)
    assert (parsed.arguments, parsed.options) == (["x"], {"json": True})
    assert parsed.command == ["make", "-j", "--name", "y", "--", "\udcff"]
    assert parse(["lock", "x", "y"], VERBS, COMMON).command == []
    assert parse(["lock", "x", "--help", "--", "--version"], VERBS, COMMON).options == {"help": True}


@pytest.mark.parametrize("words", [["send", "\udcff"], ["send", "x", "--subject", "\udcff"]])
def test_bytes_that_are_no_text_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        parse(words, VERBS, COMMON)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("15m", 900),
        ("8h", 28800),
        ("2d", 172800),
        ("500ms", 0.5),
        ("3s", 3),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text, "--x") == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "1w", "1 m", "1.2.3", ".", "9" * 12, "nan", "inf", "1e3", "٣"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--x takes a duration"):
        duration(text, "--x")
