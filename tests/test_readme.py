"""What README, tutorial, how-tos and topics tell people to type is typed here, and what they say must come out.

    ```console     run:  `$ COMMAND`, or `ada$ COMMAND` for a terminal of its own; what follows is its output
    ```sh          run:  all lines, in the terminal without a name
    ```python      run:  the whole program, in the terminal without a name
    ```bash        not run: it needs what a test has not (a clone, a service manager, another machine)

A command exits 0, or N where it ends in `# exit N`. `synapse hub`, `listen` and `board --watch` stay in the foreground
of their terminal: their output is awaited while others go on, and `^C` ends them. A `synapse claim … --wait`, without
end or of ten seconds and more, has its terminal too until it is granted: its first line is awaited, then others go on,
and the rest must have come by the next command there. In shown output, `…` stands for anything; `/home/ada` for the
home directory, `box` for the machine; ids, positions, ports, pids, times and widths of columns may differ. An id in a
command stands for the one that came out where the document shows it.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from synapse.faces.cli.background import holds_lock
from synapse.faces.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent
HOW_TOS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/how-to").glob("*.md"))
PLAYED_FENCE = re.compile(r"^```(sh|console|python)\b", re.MULTILINE)
TOPICS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs/topics").glob("*.md")
    if PLAYED_FENCE.search(path.read_text(encoding="utf-8"))
)
PLAYED = ("README.md", "docs/tutorial.md", *TOPICS, *HOW_TOS)
LINKED = sorted(
    {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    | {"README.md", "ARCHITECTURE.md", "deploy/README.md"}
)
PATIENCE_S = 20.0

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"([a-z]*)\$ (.*)")
EXIT = re.compile(r"#\s*exit (\d+)\s*$")
STAYS = re.compile(r"synapse (--\S+ \S+ )*(hub|listen|board --watch)\b")
FIRST_WORDS = {
    "hub": "synapse hub ready …",
    "listen": "synapse: listening as …",
    "board --watch": "synapse: watching the plan of …",
}
IN_LINE = re.compile(r"synapse (--\S+ \S+ )*(claim|ask) .*--wait(=\d\d+)?")
SHOWN_ID = re.compile(r"\b[mqlstf]\d{6,}")
VARYING = (
    (re.compile("(box:)?/home/ada"), r"\S*"),
    (re.compile(r"\d+\\ min\\ \d+\\ s"), r"\d+ min \d+ s"),
    (re.compile(r"\d\d:\d\d:\d\d"), r"\d\d:\d\d:\d\d"),
    (re.compile(r"127\\\.0\\\.0\\\.1:\d+"), r"127\.0\.0\.1:\d+"),
    (re.compile(r"pid\\ \d+"), r"pid\ \d+"),
    (SHOWN_ID, r"([mqlstf]\d+)"),
    (re.compile(r"\b[0-9a-f]{16}\b"), r"[0-9a-f]{16}"),
    (re.compile(r"(?<![\\\w+{])\d{10,}"), r"\d+"),
    (re.compile(r"agent\\-[0-9a-f]{8}"), r"agent\-[0-9a-f]{8}"),
    (re.compile(r"(\\ )+"), r"\s+"),
    (re.compile("…"), ".*"),
)


@dataclass(slots=True)
class Step:
    """One command of a terminal, and the lines said to come out."""

    terminal: str
    command: str
    expected: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The exit code it should have."""
        found = EXIT.search(self.command)
        return int(found[1]) if found else 0

    @property
    def stays(self) -> bool:
        """True for what keeps its terminal until `^C`, or until it is granted what it waits for."""
        return STAYS.match(self.command) is not None or self.is_in_line

    @property
    def is_in_line(self) -> bool:
        """True for a claim that others must act to grant."""
        return IN_LINE.fullmatch(self.command) is not None


def steps_of(text: str) -> Iterator[Step]:
    """The commands of a document in order."""
    for language, block in FENCE.findall(text):
        if language == "sh":
            yield Step("", block)
        elif language == "python":
            yield Step("", f"python - <<'END OF PROGRAM'\n{block}END OF PROGRAM")
        elif language == "console":
            step: Step | None = None
            for line in block.splitlines():
                if found := PROMPT.fullmatch(line):
                    if step is not None:
                        yield step
                    step = Step(found[1], found[2])
                else:
                    assert step is not None, f"a console block begins with a prompt, not with {line!r}"
                    step.expected.append(line)
            if step is not None:
                yield step


def pattern_of(line: str) -> re.Pattern[str]:
    """What a shown line of output stands for."""
    pattern = re.escape(line.rstrip())
    for varying, stands_for in VARYING:
        pattern = varying.sub(lambda _, stands_for=stands_for: stands_for, pattern)  # type: ignore[misc]  # bound per loop
    return re.compile(pattern + r"\s*")


def missing(expected: list[str], output: str, ids: dict[str, str] | None = None) -> str | None:
    """The first expected line that does not come, in order; None when all do. ids: gets which real id came out for
    each that is shown."""
    lines = iter(output.splitlines())
    for wanted in expected:
        pattern = pattern_of(wanted)
        found = next((match for line in lines if (match := pattern.fullmatch(line))), None) if wanted.strip() else None
        if wanted.strip() and found is None:
            return wanted
        if found is not None and ids is not None:
            ids |= zip(SHOWN_ID.findall(wanted), found.groups(), strict=True)
    return None


class Terminal:
    """A shell that remembers its variables and its directory, and what was left running in it. ids: the real one of
    each id that the document shows, for all its terminals."""

    def __init__(self, directory: Path, environ: dict[str, str], ids: dict[str, str]) -> None:
        self._directory = directory
        self._ids = ids
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._count = 0
        self._staying: tuple[Step, int, Path] | None = None

    def run(self, step: Step) -> None:
        """Type a command, and compare what comes out."""
        if self._staying is not None and self._staying[0].is_in_line:
            self.finish()
        assert self._staying is None, f"{self._staying} still has the terminal"
        if step.stays:
            self._stay(step)
            return
        code, output = self._type(step.command)
        assert code == step.exit_code, f"{step.command}\nexit {code}, not {step.exit_code}:\n{output}"
        wanted = missing(step.expected, output, self._ids)
        assert wanted is None, f"{step.command}\ndid not print {wanted!r} but\n{output}"

    def _type(self, command: str) -> tuple[int, str]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._count += 1
        command = SHOWN_ID.sub(lambda found: self._ids.get(found[0], found[0]), command)
        mark = f"--- {os.getpid()} {self._count} done "
        self._shell.stdin.write(f"{command}\necho '{mark}'$?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        for line in self._shell.stdout:
            before, found, code = line.rstrip("\n").partition(mark)
            lines.append(before)
            if found:
                return int(code), "\n".join(lines)
        raise AssertionError(f"{command}\nended the shell:\n" + "\n".join(lines))

    def _stay(self, step: Step) -> None:
        self._count += 1
        path = self._directory / f"output-{id(self)}-{self._count}"
        path.touch()  # the shell's child may come to it later than the first look
        command = step.command.partition("#")[0]
        code, pid = self._type(f"{command} >{path} 2>&1 & echo $!")
        assert code == 0, pid
        self._staying = (step, int(pid.strip()), path)
        if step.is_in_line:
            assert step.expected, f"{step.command} says that it waits: show it"
            first = step.expected[0]
        else:
            first = FIRST_WORDS[STAYS.match(step.command)[2]]  # type: ignore[index]  # it stays
        self._await([first])

    def _await(self, expected: list[str]) -> None:
        assert self._staying is not None
        step, _, path = self._staying
        deadline_s = time.monotonic() + PATIENCE_S
        while (wanted := missing(expected, path.read_text(), self._ids)) is not None:
            assert time.monotonic() < deadline_s, f"{step.command}\ndid not print {wanted!r} but\n{path.read_text()}"
            time.sleep(0.02)

    def finish(self) -> None:
        """The claim that waited here is granted, and ends by itself."""
        assert self._staying is not None, "nothing waits"
        step, pid, path = self._staying
        self._await(step.expected)
        code, _ = self._type(f"wait {pid}")
        assert code == 0, f"{step.command}\nexit {code}:\n{path.read_text()}"
        self._staying = None

    def interrupt(self) -> None:
        """`^C`: end what stays, after everything it was said to print. A shell's `&` ignores SIGINT, hence SIGTERM."""
        assert self._staying is not None, "^C, and nothing runs"
        step, pid, _ = self._staying
        self._await(step.expected)
        code, output = self._type(f"kill {pid} 2>/dev/null; wait {pid}")
        assert code in (0, 128 + signal.SIGTERM, 128 + signal.SIGKILL), f"{step.command}\nexit {code}\n{output}"
        self._staying = None

    def close(self) -> None:
        """End it. What it was left to print must be there."""
        try:
            if self._staying is not None:
                self._await(self._staying[0].expected)
        finally:
            os.killpg(self._shell.pid, signal.SIGKILL)
            self._shell.communicate()


def play(text: str, directory: Path, environ: dict[str, str]) -> int:
    """Type all commands of a document; how many there were."""
    terminals: dict[str, Terminal] = {}
    ids: dict[str, str] = {}
    count = 0
    try:
        for step in steps_of(text):
            terminal = terminals.get(step.terminal)
            if terminal is None:
                terminal = terminals[step.terminal] = Terminal(directory, environ, ids)
            is_interrupted = step.expected[-1:] == ["^C"]
            if is_interrupted:
                step.expected.pop()
            if step.command == "^C":
                terminal.interrupt()
                continue
            count += 1
            terminal.run(step)
            if is_interrupted:
                terminal.interrupt()
        for terminal in terminals.values():
            terminal.close()
        terminals.clear()
    finally:
        for terminal in terminals.values():
            try:
                terminal.close()
            except AssertionError:
                continue  # an earlier one is on its way up
    return count


@pytest.fixture
def account() -> Iterator[Path]:
    """A person's fresh home directory. Its path is short, so that the hub's socket lies in the home."""
    with tempfile.TemporaryDirectory(prefix="syn-", dir="/tmp") as directory:
        yield Path(directory)
        for lock in Path(directory).rglob("hub.lock"):  # `synapse up` in a document that failed half-way
            pid = int(lock.read_text())
            if holds_lock(str(lock.parent), pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def surroundings(account: Path) -> dict[str, str]:
    """Nothing set, `synapse` in the path, and a port of its own."""
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "USER") if key in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "HOME": str(account), "PATH": path, "SYNAPSE_PORT": "0", "PYTHONUTF8": "1"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PLAYED)
def test_what_a_document_tells_to_type_works(name: str, account: Path, surroundings: dict[str, str]) -> None:
    count = play((ROOT / name).read_text(encoding="utf-8"), account, surroundings)
    assert count or name.endswith("troubleshooting.md"), f"{name} has no command that is run"


def test_the_table_of_verbs_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row for row in text.partition("## Verbs")[2].partition("\n## ")[0].splitlines() if row.startswith("| `")]
    named = set(re.findall(r"`([a-z-]+)", "\n".join(rows)))
    assert {verb.split()[0] for verb in VERBS} - named == set()


@pytest.mark.parametrize("name", LINKED)
def test_links_of_a_document_lead_to_files_of_the_repository(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    relative = [target for target in targets if target and "://" not in target]
    absent = [target for target in relative if not ((ROOT / name).parent / target).exists()]
    assert absent == []


FALSE = [
    ("$ false", "exit 1, not 0"),
    ("$ true   # exit 3", "exit 0, not 3"),
    ("$ echo one\ntwo", "did not print 'two'"),
    ("$ echo one; echo two\ntwo\none", "did not print 'one'"),
    ("$ echo m12345678 12:30:00\nm87654321  1:30:00", "did not print"),
]


@pytest.mark.parametrize(("block", "complaint"), FALSE)
def test_what_a_document_says_wrongly_is_found(
    block: str, complaint: str, account: Path, surroundings: dict[str, str]
) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        play(f"```console\n{block}\n```\n", account, surroundings)


def test_what_a_document_says_rightly_is_taken(account: Path, surroundings: dict[str, str]) -> None:
    text = "\n".join(
        [
            "```console",
            "ada$ export NAME=ada; cd /",
            "ada$ echo $NAME; pwd; exit_code() { return 3; }; exit_code   # exit 3",
            "ada",
            "/",
            "bob$ echo ${NAME:-nobody} m12345678   pid 17",
            "nobody  m87654321 pid 4",
            "$ echo a; echo b; echo c",
            "a",
            "c",
            "cleo$ echo said m3764885856976902 to q3764885856976903",
            "said m1111111 to q2222222",
            "$ echo m1111111; true q2222222 || exit",
            "m3764885856976902",
            "$ test q2222222 = q3764885856976903",
            "```",
            "```bash",
            "exit 1",
            "```",
        ]
    )
    assert play(text, account, surroundings) == 7
