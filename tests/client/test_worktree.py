"""Which worktree a directory lies in, and what its patterns are from the root."""

import os
import subprocess
from pathlib import Path

import pytest

from synapse.client.worktree import branch_of, files_of, folds_case, relative, scope_of, worktree_of
from synapse.core.scopes import compile_pattern, normal_path, overlaps
from synapse.errors import Rejected

HOST = os.uname().nodename


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A worktree with a directory below."""
    top = tmp_path.resolve() / "Work"
    (top / ".git").mkdir(parents=True)
    (top / "src" / "deep").mkdir(parents=True)
    return top


def test_the_nearest_parent_with_git_is_the_worktree(root: Path) -> None:
    assert worktree_of(str(root / "src" / "deep")) == (f"{HOST}:{root}", str(root))
    assert worktree_of(str(root)) == (f"{HOST}:{root}", str(root))
    (root / "src" / ".git").write_text("gitdir: ../elsewhere\n")
    assert worktree_of(str(root / "src" / "deep")) == (f"{HOST}:{root}/src", f"{root}/src")


def test_two_ways_to_one_directory_are_one_worktree(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root / "src")
    assert worktree_of(str(tmp_path / "link")) == worktree_of(str(root))
    assert relative("a.py", str(tmp_path / "link"), str(root)) == "src/a.py"


@pytest.mark.parametrize(
    ("pattern", "sent"),
    [
        ("link/a.py", "src/deep/a.py"),
        ("link", "src/deep"),
        ("link/", "src/deep"),
        ("link/**", "src/deep/**"),
        ("link/new/a.py", "src/deep/new/a.py"),
        ("src/up/a.py", "a.py"),
        ("src/up", "."),
        ("lin*/a.py", "lin*/a.py"),
        ("file.py", "file.py"),
        ("starred/a*", "[*]x/a*"),
        ("nowhere/a.py", "nowhere/a.py"),
        ("dangling/a.py", "src/gone/a.py"),
    ],
)
def test_a_directory_that_is_a_link_is_the_one_it_leads_to(root: Path, pattern: str, sent: str) -> None:
    (root / "*x").mkdir()
    for name, target in (
        ("link", "src/deep"),
        ("src/up", ".."),
        ("file.py", "src/a.py"),
        ("starred", "*x"),
        ("dangling", "src/gone"),
    ):
        (root / name).symlink_to(target)
    (root / "src" / "a.py").touch()
    assert relative(pattern, str(root), str(root)) == sent


def test_a_link_out_of_the_worktree_leaves_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Rejected, match=f"bad_scope: the path 'out/a.py' lies outside of the worktree {root}"):
        relative("out/a.py", str(root), str(root))
    with pytest.raises(Rejected, match=r"bad_scope: .* outside"):
        files_of(["out/a.py"], None, str(root), {})


@pytest.mark.parametrize("git", ["repository", "linked worktree"])
def test_what_lies_in_a_worktree_inside_this_one_is_asked_for_there(root: Path, git: str) -> None:
    inner = root / "src" / "lib"
    inner.mkdir()
    if git == "repository":
        (inner / ".git").mkdir()
    else:
        (inner / ".git").write_text("gitdir: /elsewhere\n")
    (root / "way").symlink_to(inner)
    for pattern in ("src/lib/x.c", "src/lib/**", "src/lib/new/*.c", "way/x.c", "src/deep/../lib/x.c"):
        with pytest.raises(Rejected) as caught:
            relative(pattern, str(root), str(root))
        if ".." not in pattern:
            assert f"{inner}, which is a worktree of its own inside {root}" in str(caught.value)
    for path in ("lib/x*.c", "./lib/x.c"):
        with pytest.raises(Rejected, match="a worktree of its own"):
            files_of([path], None, str(root / "src"), {})
    assert relative("src/lib", str(root), str(root)) == "src/lib", "as a submodule it is a path of the outer one"
    assert files_of(["src/lib"], None, str(root), {}) == (f"{HOST}:{root}", ("src/lib",))
    assert relative("src/**", str(root), str(root)) == "src/**"
    assert scope_of(["x.c"], None, str(inner), {})[:2] == (f"{HOST}:{inner}", ("x.c",))


def test_a_file_that_is_a_link_is_a_file_of_its_own_unless_a_claim_of_it_means_a_directory(root: Path) -> None:
    (root / "link").symlink_to("src/deep")
    (root / "src" / "deep" / "a*").symlink_to("b.py")
    found = files_of(["link", "link/a*", "link/c.py"], None, str(root), {})[1]
    assert found == ("src/deep", "src/deep/a*", "src/deep/c.py")
    assert scope_of(["link"], None, str(root), {})[1] == ("src/deep",)
    assert scope_of(["link/c.py"], "box", str(root), {})[1] == ("link/c.py",), (
        "as written, of a worktree that was named"
    )


def test_without_git_the_directory_itself_is_the_worktree(tmp_path: Path) -> None:
    assert worktree_of(str(tmp_path)) == (f"{HOST}:{tmp_path.resolve()}", str(tmp_path.resolve()))


@pytest.mark.parametrize(
    ("pattern", "sent"),
    [
        ("a.py", "src/a.py"),
        ("./a.py", "src/a.py"),
        (".//a.py", "src/a.py"),
        ("deep/", "src/deep/"),
        (".", "src"),
        ("./", "src"),
        ("**", "src/**"),
        ("../lib/*.c", "lib/*.c"),
        ("..", "."),
        ("../.", "."),
    ],
)
def test_patterns_are_relative_to_the_working_directory(root: Path, pattern: str, sent: str) -> None:
    assert relative(pattern, str(root / "src"), str(root)) == sent


def test_in_the_root_patterns_are_as_written(root: Path) -> None:
    for pattern in ("a.py", "src/**", ".", "x/"):
        assert relative(pattern, str(root), str(root)) == pattern


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        ("{root}/lib/a.py", "../lib/a.py"),
        ("{root}/src/a.py", "a.py"),
        ("{root}/src/", "."),
        ("{root}/new/dir/x", "../new/dir/x"),
        ("deep/../a.py", "a.py"),
        ("./deep/../../lib/a.py", "../lib/a.py"),
        ("../../Work/lib/a.py", "../lib/a.py"),
    ],
)
def test_a_path_that_is_absolute_or_takes_a_turn_is_refused_with_what_to_write(
    root: Path, pattern: str, instead: str, *, is_file: bool
) -> None:
    written = pattern.format(root=root)
    with pytest.raises(Rejected, match="bad_scope") as raised:
        relative(written, str(root / "src"), str(root), is_file=is_file)
    assert raised.value.detail.endswith(f"in {root}/src it is written '{instead}'"), raised.value.detail
    assert raised.value.facts == {"path": written}
    if pattern.startswith("{root}/"):
        from_root = pattern.removeprefix("{root}/").rstrip("/")
        assert relative(instead, str(root / "src"), str(root)) == from_root, "and it is that file"


def test_a_glob_is_respelt_up_to_its_first_wildcard(root: Path) -> None:
    (root / "link").symlink_to("src/deep")
    for written, instead in ((f"{root}/lib/*.c", "lib/*.c"), (f"{root}/link/**", "src/deep/**")):
        with pytest.raises(Rejected, match="bad_scope") as raised:
            relative(written, str(root), str(root))
        assert raised.value.detail.endswith(f"it is written '{instead}'")
    with pytest.raises(Rejected, match="outside of the worktree"):
        relative("/etc/*/x", str(root), str(root))
    with pytest.raises(Rejected, match="behind a wildcard"):
        relative("*/../x", str(root), str(root))


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../../x", "../..", "/", "deep/../../../x"])
def test_what_lies_outside_is_said_to_with_the_root(root: Path, pattern: str) -> None:
    with pytest.raises(Rejected, match=f"lies outside of the worktree {root}[;:]"):
        relative(pattern, str(root / "src"), str(root))


def test_the_root_by_its_absolute_path_is_the_root(root: Path) -> None:
    assert relative(str(root), str(root / "src"), str(root)) == "."
    assert relative(f"{root}/src/..", str(root), str(root)) == "."


@pytest.mark.parametrize("pattern", ["", "~/x", "~ada", ":(top)x", "C:/x", "x\\y", "x\0y"])
def test_what_is_no_path_is_passed_on_and_refused(root: Path, pattern: str) -> None:
    sent = relative(pattern, str(root / "src"), str(root))
    assert sent in (pattern, f"src/{pattern}")
    with pytest.raises(Rejected, match="bad_scope"):
        normal_path(sent)


def test_the_root_asked_for_as_a_path_is_refused_with_the_way_out(root: Path) -> None:
    for pattern, cwd in ((".", root), ("..", root / "src")):
        with pytest.raises(Rejected, match="whole_worktree"):
            normal_path(relative(pattern, str(cwd), str(root)))


@pytest.mark.parametrize(("name", "pattern", "file"), [("[id]", "*.ts", "a.ts"), ("a*b?", "x*", "x1")])
def test_wildcards_of_a_directorys_own_name_are_spelt(root: Path, name: str, pattern: str, file: str) -> None:
    (root / name).mkdir()
    sent = normal_path(relative(pattern, str(root / name), str(root)))
    own = compile_pattern("".join(f"[{c}]" if c in "*?[" else c for c in f"{name}/{file}"))
    other = compile_pattern(f"i/{file}" if name == "[id]" else f"aXb1/{file}")
    assert overlaps(compile_pattern(sent), own)
    assert not overlaps(compile_pattern(sent), other)


def test_a_plain_path_in_such_a_directory_covers_what_is_below_or_is_refused(root: Path) -> None:
    (root / "[id]").mkdir()
    (root / "a*b").mkdir()
    sent = relative("lib", str(root / "[id]"), str(root))
    assert overlaps(compile_pattern(normal_path(sent)), compile_pattern("[[]id]/lib/x.py"))
    with pytest.raises(Rejected, match="backslash"):
        normal_path(relative("lib", str(root / "a*b"), str(root)))


def test_a_worktree_that_was_named_takes_patterns_as_written(root: Path) -> None:
    cwd = str(root / "src")
    assert scope_of(["a", "../x"], None, cwd, {}) == (f"{HOST}:{root}", ("src/a", "x"), False)
    assert scope_of(["a", "../x"], None, cwd, {"SYNAPSE_WORKTREE": "box"}) == ("box", ("a", "../x"), False)
    assert scope_of(["a"], "mine", cwd, {"SYNAPSE_WORKTREE": "box"}) == ("mine", ("a",), False)


def test_paths_of_files_have_no_wildcards(root: Path) -> None:
    (root / "[id]").mkdir()
    (root / "a*b").mkdir()
    known = f"{HOST}:{root}"
    assert files_of(["x*", "../a"], None, str(root / "[id]"), {}) == (known, ("[id]/x*", "a"))
    assert files_of(["x"], None, str(root / "a*b"), {}) == (known, ("a*b/x",))
    assert files_of(["../x"], None, str(root / "src"), {"SYNAPSE_WORKTREE": "box"}) == ("box", ("../x",))


def test_a_directory_beside_the_root_is_not_below_it(root: Path) -> None:
    beside = root.with_name("Work2")
    beside.mkdir()
    assert relative("a", str(beside), str(root)) == "a"


def test_folding_is_found_by_looking_for_a_name_in_other_letters(root: Path, tmp_path: Path) -> None:
    assert not folds_case(str(root))
    (root / ".GIT").mkdir()
    assert not folds_case(str(root)), "another directory of that name is no proof"
    (tmp_path / "box").mkdir()
    assert not folds_case(str(tmp_path / "box"))


def test_a_file_system_that_finds_both_spellings_folds(root: Path) -> None:
    linked = root / "src"
    (linked / ".git").write_text("gitdir: x\n")
    os.link(linked / ".git", linked / ".GIT")  # one file under two names, as such a file system shows it
    assert folds_case(str(linked))


def test_the_branch_is_read_from_head(root: Path) -> None:
    assert branch_of(str(root)) is None
    head = root / ".git" / "HEAD"
    head.write_text("ref: refs/heads/topic/one\n")
    assert branch_of(str(root)) == "topic/one"
    head.write_text("0123456789012345678901234567890123456789\n")
    assert branch_of(str(root)) is None
    head.write_bytes(b"\xff\xfe")
    assert branch_of(str(root)) is None


def test_the_branch_of_a_linked_worktree_is_its_own(tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / "other"

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(main), *arguments], check=True, capture_output=True)

    main.mkdir()
    git("init", "-b", "trunk")
    git("-c", "user.name=ada", "-c", "user.email=ada@example.org", "commit", "--allow-empty", "-m", "first")
    git("worktree", "add", "-b", "topic", str(other))
    assert (branch_of(str(main)), branch_of(str(other))) == ("trunk", "topic")
    assert worktree_of(str(other))[1] == str(other.resolve())


def test_the_directory_of_git_may_be_named_relative_to_the_worktree(root: Path) -> None:
    (root / ".git" / "modules").mkdir()
    (root / ".git" / "modules" / "HEAD").write_text("ref: refs/heads/within\n")
    (root / "src" / ".git").write_text("gitdir: ../.git/modules\n")
    assert branch_of(str(root / "src")) == "within"


def test_the_root_of_the_file_system_is_a_worktree_like_any_other() -> None:
    assert worktree_of("/") == (f"{HOST}:/", "/")
    assert relative("etc/x", "/", "/") == "etc/x"
    assert relative("x", "/usr", "/") == "usr/x"
    assert not folds_case("/")
