"""Python in the documents is right by the type checker: whole programs as they stand, pieces inside of a function.

The programs of README, tutorial and how-tos are also run (tests/test_readme.py), and those of examples/ too
(tests/client/test_client_examples.py); mypy checks examples/ with the rest.
"""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AROUND: Final = """\
import synapse
from synapse import Client, body_of, data_of
from synapse.protocol.notices import Message


class propagate:
    \"\"\"What OpenTelemetry has under this name.\"\"\"

    @staticmethod
    def inject(carrier: dict[str, str]) -> None: ...


def resume(data: object) -> None: ...
async def edit_the_files() -> None: ...
async def write_the_files() -> None: ...


async def piece(client: Client, message: Message) -> None:
"""


def blocks() -> list[tuple[Path, int, str]]:
    """Every block of Python in the documents: where it is, its line, its text."""
    pages = [ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = [(page, page.read_text(encoding="utf-8")) for page in pages]
    return [
        (page.relative_to(ROOT), text.count("\n", 0, found.start()) + 2, found[1])
        for page, text in texts
        for found in BLOCK.finditer(text)
    ]


def is_piece(text: str) -> bool:
    """True for what awaits outside of a function: it stands inside of one."""
    try:
        compile(text, "block", "exec")
    except SyntaxError:
        return True
    return "import synapse" not in text and "from synapse" not in text


def checked(folder: Path, texts: dict[str, str]) -> str:
    """What mypy says, in the strict way of this project."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *sorted(texts)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT / "src"), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    return "\n".join(line for line in done.stdout.splitlines() if "error:" in line) + done.stderr


def test_every_block_of_python_in_the_documents_has_the_right_types(tmp_path: Path) -> None:
    found = blocks()
    assert len(found) > 5
    texts = {
        f"{re.sub(r'[^a-z]', '_', str(page))}_{line}.py": AROUND + indent(text, "    ") if is_piece(text) else text
        for page, line, text in found
    }
    assert checked(tmp_path, texts) == ""
    wrong = {"wrong.py": AROUND + "    await client.send(body='x', too='bob')\n    message.no_such_field\n"}
    assert checked(tmp_path, wrong).count("error:") == 2, "a fault must be found"
