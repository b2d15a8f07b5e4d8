"""What the documents say about the protocol is what the types say; every row of bad input has its test."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from synapse import Client
from synapse.core.happenings import KINDS, REMEMBERED
from synapse.core.lifecycle import diagram
from synapse.protocol.codes import CLOSES, ERRORS
from synapse.protocol.commands import COMMANDS
from synapse.protocol.digest_replies import DigestAsk, DigestBlock, DigestCounts, DigestNeed, DigestOwn
from synapse.protocol.limits import Limits
from synapse.protocol.names import NAME_MAX, RESERVED, SEGMENT, TASK
from synapse.protocol.notices import NOTICES
from synapse.protocol.plan_replies import ProgressLine, TaskHolder, TaskInfo
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo
from synapse.protocol.replies import REPLY_TO, Checkpoint, Covered, Happened, Lease, LeaseWaiter, PoolInfo, TaskBrief
from synapse.protocol.terms import Artefact

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = ROOT / "PROTOCOL.md"
ERRORS_PAGE = ROOT / "docs" / "reference" / "errors.md"
BAD_INPUT_PAGE = ROOT / "docs" / "reference" / "bad-input.md"
PERFORMANCE_PAGE = ROOT / "docs" / "performance.md"
CLIENT_PAGE = ROOT / "docs" / "reference" / "client.md"

LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows_of(text: str) -> Iterator[list[str]]:
    """The cells of every table row."""
    for line in FENCE.sub("", text).splitlines():
        if line.startswith("|") and not line.startswith("|-"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def section_of(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above; '' when there is none."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    if found is None:
        return ""
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", FENCE.sub(lambda fence: " " * len(fence[0]), rest), re.MULTILINE)
    return rest[: end.start()] if end is not None else rest


def told_of(text: str, name: str) -> str:
    """Where a command or notice is explained: under its own heading, or in its table row."""
    return section_of(text, f"`{name}`") or next(
        ("| " + " | ".join(row) for row in rows_of(text) if row[0] == f"`{name}`"), ""
    )


def anchors_of(text: str) -> set[str]:
    """The anchors that a heading gets on GitHub."""
    found: dict[str, int] = {}
    anchors = set()
    for _, title in HEADING.findall(FENCE.sub("", text)):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return anchors


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_explained_with_all_its_fields(name: str) -> None:
    told = told_of(text_of(PROTOCOL), name)
    assert told, f"{name} has neither heading nor row"
    fields = [field.encode_name for field in msgspec.structs.fields(COMMANDS[name])]
    assert [field for field in fields if f"`{field}`" not in told] == []


COMMON = frozenset({"cursor", "room", "channel", "messages"})
TOLD_ONCE = {Lease: "A lease", TaskInfo: "A task", QuestionInfo: "A question", QuestionClosed: "The end of a question"}
"""Replies of several commands have a heading of their own, to which each of these commands links."""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.split(".")[0] not in {"room", "channel"}])
def test_every_reply_is_explained_with_all_its_fields(name: str) -> None:
    text, kind = text_of(PROTOCOL), REPLY_TO[COMMANDS[name]]
    told = told_of(text, name)
    if kind in TOLD_ONCE:
        heading = TOLD_ONCE[kind]
        assert f"[{heading.lower()}](#{heading.lower().replace(' ', '-')})" in told, "a link to where it is explained"
        told = section_of(text, heading)
    fields = [field.encode_name for field in msgspec.structs.fields(kind)]
    if name == "hub.status":
        fields = ["reasons", "head", "base", "read_only", "counts"]
    if name == "agent.list":
        fields = list(get_type_hints(_item_of(kind, "agents")))
    assert [field for field in fields if f"`{field}`" not in told and field not in COMMON] == []


def _item_of(kind: type[msgspec.Struct], field: str) -> type[msgspec.Struct]:
    item: type[msgspec.Struct] = get_type_hints(kind)[field].__args__[0]
    return item


def test_every_part_of_a_reply_about_leases_is_explained_with_all_its_fields() -> None:
    text = text_of(PROTOCOL)
    for kind, told in (
        (Checkpoint, section_of(text, "A lease")),
        (LeaseWaiter, section_of(text, "A lease")),
        (Artefact, section_of(text, "`lease.checkpoint`")),
        (Covered, section_of(text, "`lease.covers`")),
        (Happened, section_of(text, "`task.explain`")),
        (PoolInfo, section_of(text, "`pool.list`")),
        (TaskBrief, section_of(text, "A lease")),
        (TaskHolder, section_of(text, "A task")),
        (ProgressLine, section_of(text, "`task.note`")),
        (DigestAsk, section_of(text, "`digest.read`")),
        (DigestBlock, section_of(text, "`digest.read`")),
        (DigestNeed, section_of(text, "`digest.read`")),
        (DigestOwn, section_of(text, "`digest.read`")),
        (DigestCounts, section_of(text, "`digest.read`")),
    ):
        fields = [field.encode_name for field in msgspec.structs.fields(kind)]
        assert [field for field in fields if f"`{field}`" not in told and field not in COMMON] == [], kind.__name__


@pytest.mark.parametrize("name", NOTICES)
def test_every_notice_is_explained_with_all_its_fields(name: str) -> None:
    told = told_of(text_of(PROTOCOL), name)
    fields = [field.encode_name for field in msgspec.structs.fields(NOTICES[name])]
    assert [field for field in fields if f"`{field}`" not in told] == []


def test_no_command_or_notice_is_explained_that_does_not_exist() -> None:
    titles = re.findall(r"^### `([\w.]+)`$", text_of(PROTOCOL), re.MULTILINE)
    assert set(titles) <= COMMANDS.keys() | NOTICES.keys()
    assert len(titles) == len(set(titles))


def test_the_index_lists_every_command_and_notice_in_order() -> None:
    index = section_of(text_of(PROTOCOL), "Index")
    assert re.findall(r"^\| \[`([\w.]+)`\]", index, re.MULTILINE) == [*COMMANDS, *NOTICES]


def test_the_tables_of_codes_are_those_of_the_source() -> None:
    errors = {row[0]: row[1] for row in rows_of(section_of(text_of(PROTOCOL), "Errors"))}
    assert errors == {"code": "meaning"} | {f"`{code}`": meaning for code, (_, meaning) in ERRORS.items()}
    closes = {row[0]: row[1] for row in rows_of(section_of(text_of(PROTOCOL), "Closing"))}
    assert closes == {"code": "meaning"} | {str(code): meaning for code, meaning in CLOSES.items()}


def test_the_table_of_limits_is_that_of_the_source() -> None:
    rows = {row[0]: row[1] for row in rows_of(section_of(text_of(PROTOCOL), "Limits"))}
    limits = {f"`{name}`": str(value) for name, value in msgspec.structs.asdict(Limits()).items()}
    assert rows == {"limit": "default"} | limits


def test_the_grammar_of_names_is_that_of_the_source() -> None:
    told = section_of(text_of(PROTOCOL), "Names and addresses")
    assert f"seg = {SEGMENT}" in told
    assert f"task    = {TASK} " in told
    assert f"at most {NAME_MAX} characters" in told
    assert set(re.findall(r"`(\w+)`", told.partition("Reserved:")[2].partition(". ")[0])) == RESERVED


def test_the_figure_of_the_statuses_is_that_of_the_source() -> None:
    drawn = re.findall(
        r"^```mermaid\n(.*?)\n```$", text_of(ROOT / "docs/topics/plan-and-leases.md"), re.MULTILINE | re.DOTALL
    )
    assert drawn == [diagram()]


def test_every_error_has_its_row_with_exit_code_meaning_and_what_to_do() -> None:
    rows = [row for row in rows_of(text_of(ERRORS_PAGE)) if row[0] != "code"]
    assert [row[:3] for row in rows] == [
        [f"`{code}`", str(exit_code), text] for code, (exit_code, text) in ERRORS.items()
    ]
    assert [row[0] for row in rows if len(row) != 4 or not row[3]] == []


def test_the_reserved_codes_are_called_so() -> None:
    from tests.protocol.test_codes import RESERVED as UNSAID

    reserved = {row[0].strip("`") for row in rows_of(text_of(ERRORS_PAGE)) if "Reserved:" in row[-1]}
    assert reserved == UNSAID


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_link_inside_the_repository_leads_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(path))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file) if file else path
        if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors_of(text_of(goal))):
            broken.append(target)
    assert broken == []


# bad input


def proofs() -> Iterator[tuple[str, str]]:
    """Every (row id, test) of a `bad_input` marker on a test function."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.bad_input":
                    for argument in mark.args:
                        assert isinstance(argument, ast.Constant), f"{path.name}:{mark.lineno}: write the id itself"
                        yield str(argument.value), f"{path.name}::{node.name}"


def listed() -> list[str]:
    return [row[0] for row in rows_of(text_of(BAD_INPUT_PAGE)) if row[0] != "id"]


def test_every_row_of_bad_input_has_a_test() -> None:
    proved = {row for row, _ in proofs()}
    assert [row for row in listed() if row not in proved] == []


def test_every_test_of_bad_input_has_its_row() -> None:
    assert sorted(f"{row}: {test}" for row, test in proofs() if row not in listed()) == []


def test_rows_of_bad_input_are_numbered_once_and_in_order() -> None:
    numbers = [int(row.removeprefix("BI-")) for row in listed()]
    assert numbers == sorted(set(numbers))


def test_every_kind_of_what_happens_is_explained() -> None:
    told = section_of(text_of(PROTOCOL), "`events.read`")
    unsaid = [kind for kind in KINDS if f"`{kind}`" not in told and f"`{kind.partition('.')[2]}`" not in told]
    assert unsaid == [], "add them to the table of kinds below `events.read` in PROTOCOL.md"
    assert [kind for kind in REMEMBERED if f"`{kind}`" not in told] == []


def test_the_contents_of_the_protocol_are_its_headings() -> None:
    text = FENCE.sub("", text_of(PROTOCOL))
    contents = re.findall(r"^- \[(.+)\]\(#.+\)$", text.partition("\n## ")[0], re.MULTILINE)
    assert contents == re.findall(r"^## (.+)$", text, re.MULTILINE)


# the client


def methods_of_the_page() -> dict[str, list[str]]:
    """The names of the arguments that each method's row has: of `send(body, to=)` body and to."""
    calls = (re.fullmatch(r"`(\w+)\((.*)\)`", row[0]) for row in rows_of(section_of(text_of(CLIENT_PAGE), "Methods")))
    return {call[1]: re.findall(r"(\w+)(?:=\w*)?(?:,|$)", call[2]) for call in calls if call is not None}


def test_every_method_of_the_client_has_its_row_with_all_its_arguments() -> None:
    real = {
        name: list(inspect.signature(method).parameters)[1:]
        for name, method in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_")
    }
    told = methods_of_the_page()
    assert sorted(real.keys() ^ told.keys()) == []
    assert {name: told[name] for name in real if told[name] != real[name]} == {}


# the benchmarks


def test_every_gate_is_in_the_table_of_gates() -> None:
    rows = [set(re.findall(r"[\w-]+", row[0])) for row in rows_of(section_of(text_of(PERFORMANCE_PAGE), "Gates"))]
    promised = re.findall(r'Gate\(\s*"([^"]+)",\s*"[^"]+",\s*AT_', text_of(ROOT / "benchmarks" / "gates.py"))
    assert len(promised) > 30
    assert [name for name in promised if not any(set(re.findall(r"[\w-]+", name)) <= row for row in rows)] == []
