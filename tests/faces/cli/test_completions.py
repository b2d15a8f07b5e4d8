"""`completions`: what each shell offers is what the table of verbs holds."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import require_tool

from synapse.faces.cli.completions import SHELLS, script
from synapse.faces.cli.main import main
from synapse.faces.cli.verbs import COMMON, VERBS

FIRST = {name.split()[0] for name in VERBS}
LINES: dict[tuple[str, ...], set[str]] = {
    ("",): FIRST,
    ("cl",): {"claim", "claims"},
    ("room", ""): {name.split()[1] for name in VERBS if name.startswith("room ")},
    ("room", "jo"): {"join"},
    ("--name", "ada", "journal", "ver"): {"verify"},
    ("claim", "T1", "--wh"): {"--whole-worktree"},
    ("claim", "T1", "--pa"): {"--paths"},
    ("send", "--na"): {"--name"},
    ("lease", "check", "--ep"): {"--epoch"},
    ("journal", ""): {name.split()[1] for name in VERBS if name.startswith("journal ")},
    ("state", "--ow"): {"--owner"},
}


def bash(path: Path, words: tuple[str, ...]) -> set[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {path}; COMP_WORDS=(synapse {quoted}); COMP_CWORD={len(words)}; _synapse; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return set(run("bash", "--norc", "-c", program))


def zsh(path: Path, words: tuple[str, ...]) -> set[str]:
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        "compadd() { print -l -- ${(P)argv[-1]} }; _files() { print FILES }; _normal() { }; "
        f"words=(synapse {quoted}); CURRENT={len(words) + 1}; source {path}"
    )
    return {word for word in run("zsh", "-f", "-c", program) if word.startswith(words[-1])}


def fish(path: Path, words: tuple[str, ...]) -> set[str]:
    line = " ".join(("synapse", *words))
    found = run("fish", "--no-config", "-c", f"source {path}; complete -C '{line}'")
    return {word.split("\t")[0] for word in found}


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [word for word in done.stdout.split("\n") if word]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_offers_what_may_come_next(shell: str, words: tuple[str, ...], tmp_path: Path) -> None:
    require_tool(shell, shell)
    path = tmp_path / "completions"
    path.write_text(script(shell), encoding="utf-8")
    assert {"bash": bash, "zsh": zsh, "fish": fish}[shell](path, words) == LINES[words]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_and_every_option_is_in_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completions", shell]) == 0
    text = capsys.readouterr().out
    dashes = "-l " if shell == "fish" else "--"
    for verb in VERBS.values():
        assert all(word in text for word in verb.name.split())
        assert all(f"{dashes}{option.name}" in text for option in (*verb.options, *COMMON.values()))


def test_another_shell_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completions", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_bash_takes_the_script_as_it_is() -> None:
    assert shutil.which("bash") is not None
    done = subprocess.run(["bash", "-n"], input=script("bash"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
