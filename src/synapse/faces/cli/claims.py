"""The life of a lease by one-shot calls: `claim`, `renew`, `release`, `park`, `checkpoint`, `handoff`, `withdraw`, and
the checks of guards, `lease check` and `claims check`.

Rule: the epoch is sent where one is known: `--epoch`, else SYNAPSE_EPOCH when SYNAPSE_TASK names the same task, as
`lock` sets both. Without one the hub takes the lease on the task that this agent got last.
"""

import os
from time import time

from synapse.client.worktree import WILDCARDS, files_of
from synapse.errors import EXIT_OK, Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.given import given_json, given_task, given_task_of, given_text
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, safe, span
from synapse.faces.cli.terms import claim_body, milliseconds, require_quoted, working_directory
from synapse.faces.cli.waiting import Claim
from synapse.lean import dumps

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

_QUESTION_CHARS = 12
FILES_A_CALL = 100
"""How many paths one request asks about: with the longest of names they fit a frame."""


def claim(call: Call) -> int:
    """Get a lease, or wait in line for it."""
    parsed = call.parsed
    who = call.worker
    require_quoted(parsed, "synapse claim TASK")
    body, key = claim_body(call, parsed.arguments[0]), parsed.text("idem_key")
    if parsed.has("preempt"):
        link = call.open_as(who)  # so that the agent exists
        body |= {"preempt": True, "claimant": who.name, "wait_ms": 0}
        if link.await_welcome().get("role") != "human":  # who may by its token needs nobody else
            link = call.open_as_operator()
        lease = link.ask("lease.claim", body, idem_key=key)
    else:
        lease = Claim(call, body, key).grant().lease
    if lease.get("live") is False:
        raise Rejected(
            "stale_epoch",
            f"this key got {lease['task']} before with epoch {lease['epoch']}, and that lease has ended: claim with "
            "another key",
            {name: lease.get(name) for name in ("task", "room", "epoch", "status")},
        )
    call.show(lease, described(lease))
    return EXIT_OK


def renew(call: Call) -> int:
    """Move the deadline to the full TTL from now."""
    body = given_task(call)
    ttl_s, note = call.parsed.seconds("ttl"), call.parsed.text("note")
    if ttl_s is not None:
        body["ttl_ms"] = milliseconds(ttl_s)
    if note is not None:
        body["note"] = note
    return _held(call, "lease.renew", body)


def release(call: Call) -> int:
    """Give a lease back."""
    body = given_task(call)
    answer = call.open_as(call.worker).ask("lease.release", body)
    call.show(answer, f"{field(answer, 'task')} is given back, epoch {field(answer, 'epoch')} is over")
    return EXIT_OK


def park(call: Call) -> int:
    """Let the time of a lease stand still, or run on."""
    return _held(call, "lease.park", {**given_task(call), "parked": not call.parsed.has("off")})


def withdraw(call: Call) -> int:
    """Leave the line; or take back the question of that id."""
    if _is_question(call.parsed.arguments[0]):
        from synapse.faces.cli.questions import question_withdraw

        return question_withdraw(call)
    body: Json = {"task": call.parsed.arguments[0], **call.room}
    answer = call.open_as(call.worker).ask("lease.withdraw", body)
    call.show(answer, f"{field(answer, 'task')}: {field(answer, 'withdrawn')} waits ended")
    return EXIT_OK


def _is_question(text: str) -> bool:
    """True for the id of a question: a hub's numbers begin so high that no task is called so."""
    return text[:1] == "q" and len(text) >= _QUESTION_CHARS and text[1:].isascii() and text[1:].isdecimal()


def checkpoint(call: Call) -> int:
    """Leave something for the next holder of the task."""
    parsed = call.parsed
    files = [artefact_of(path) for path in parsed.texts("artefact")]
    given = _with_task(parsed.arguments, has_files=bool(files))
    if not given or (len(given) == 1 and not files):
        raise UsageError(
            "what to keep? synapse checkpoint TASK JSON, or - to read it from stdin; null removes it; within synapse "
            "lock the task is known"
        )
    body = {**given_task_of(call, given[0]), "data": _value(given[1]) if len(given) == 2 else None}
    if files:
        body["artefacts"] = files
    return _held(call, "lease.checkpoint", body)


def _with_task(arguments: list[str], *, has_files: bool) -> list[str]:
    """`[TASK] [JSON | -]` with the task of SYNAPSE_TASK where none is given. One argument alone is then the JSON;
    beside a file, which is enough to keep, it is the task if it begins as one."""
    task = os.environ.get("SYNAPSE_TASK")
    is_task_given = len(arguments) == 2 or (has_files and len(arguments) == 1 and arguments[0][:1].isalnum())
    return arguments if is_task_given or not task else [task, *arguments]


def handoff(call: Call) -> int:
    """Pass a lease on, or offer it."""
    to = call.parsed.text("to")
    if to is None:
        raise UsageError("to whom? synapse handoff TASK --to AGENT")
    return _held(call, "lease.hand_off", {**given_task(call), "to": to})


def lease_check(call: Call) -> int:
    """Is an epoch the live grant of a task?"""
    body = given_task(call)
    if "epoch" not in body:
        raise UsageError("which grant? synapse lease check TASK --epoch N; within synapse lock it is known")
    answer = call.ask("lease.check", body)
    call.show(answer, described(answer))
    return EXIT_OK


def claims_check(call: Call) -> int:
    """Is each file covered by a live lease of mine?"""
    parsed = call.parsed
    worktree, paths = files_of(parsed.arguments, parsed.text("worktree"), working_directory(), os.environ)
    link = call.open()
    answer: Json = {}
    covered: list[Json] = []
    refusals: list[Rejected] = []
    for start in range(0, len(paths), FILES_A_CALL):
        body: Json = {"worktree": worktree, "paths": list(paths[start : start + FILES_A_CALL])}
        if parsed.text("mode") is not None:
            body["mode"] = parsed.text("mode")
        try:
            answer = link.ask("lease.covers", body)
        except Rejected as refusal:
            if refusal.code != "not_covered":
                raise
            refusals.append(_as_typed(refusal, dict(zip(paths, parsed.arguments, strict=True))))
            continue
        found = answer.get("paths")
        covered += found if isinstance(found, list) else []
    if refusals:
        raise _refused_together(refusals)
    answer["paths"] = covered
    lines = (
        f"{field(item, 'path')}  {field(item, 'task')}  epoch {field(item, 'epoch')}{_left(item)}" for item in covered
    )
    call.show(answer, "\n".join(lines))
    return EXIT_OK


def _as_typed(refusal: Rejected, typed: dict[str, str]) -> Rejected:
    """The line to type that a refusal has names the file from the root of its worktree: here, as it was given, its
    wildcards as classes of themselves, and quoted."""
    from shlex import quote  # what is covered does not pay for it

    paths = refusal.facts["paths"]
    path = str(paths[0]["path"]) if isinstance(paths, list) else ""
    given = "".join(f"[{char}]" if char in WILDCARDS else char for char in typed.get(path, path))
    detail = refusal.detail.replace(f"--paths {path}", f"--paths {quote(given)}")
    return Rejected(refusal.code, detail, refusal.facts, retry_after_ms=refusal.retry_after_ms)


def _refused_together(refusals: list[Rejected]) -> Rejected:
    """One refusal for files that were asked about in several calls."""
    first, *others = refusals
    if not others:
        return first
    facts = [refusal.facts for refusal in refusals]
    paths = [path for said in facts for path in said["paths"]]  # type: ignore[attr-defined]  # a list, as PROTOCOL.md has it
    counts = [int(str(said["paths_count"])) for said in facts]
    return Rejected(
        first.code,
        f"{first.detail}; and of the files that were asked about after those, {sum(counts[1:])} are not covered",
        {**facts[0], "paths": paths, "paths_count": sum(counts)},
    )


def described(lease: "Json") -> str:
    """A lease for people: what, until when, and what its last holder left."""
    words = [field(lease, "task"), f"epoch {field(lease, 'epoch')}", scope_words(lease)]
    if lease.get("mode") == "shared":
        words.append("shared")
    match lease.get("outcome"):
        case "offered":
            words.append(f"offered to {field(lease, 'offered_to')}, yours until it is claimed there")
        case "handed_off":
            words.append(f"is {field(lease, 'owner')}'s now")
    left_ms = lease.get("remaining_ms")
    if lease.get("status") != "held":
        words.append(field(lease, "status"))
    elif isinstance(left_ms, int):  # the hub's clock counts it; the time of day is this machine's, which may differ
        words.append(f"until {clock(int(time() * 1000) + left_ms)} ({span(left_ms)})")
    lines = ["  ".join(word for word in words if word)]
    plan = lease.get("plan")
    if isinstance(plan, dict) and plan.get("status") in ("done", "failed", "cancelled"):
        task, status = field(lease, "task"), field(plan, "status")
        lines.append(f"  in the plan it has ended as {status}: synapse task reopen {task} begins it again")
    waits = plan.get("waits_for") if isinstance(plan, dict) else None
    if isinstance(waits, dict) and waits:
        named = ", ".join(f"{safe(task)} ({safe(str(status))})" for task, status in waits.items())
        lines.append(f"  in the plan it waits for {named}")
    return "\n".join([*lines, *left_lines(lease)])


def left_lines(lease: "Json") -> list[str]:
    """What the last holder left, as the answer to a claim has it: its checkpoint, and what is resumed."""
    lines: list[str] = []
    kept = lease.get("checkpoint")
    if isinstance(kept, dict):
        lines.append(
            f"  checkpoint of {field(kept, 'by')}, {clock(kept.get('at_ms'))}: {safe(dumps(kept.get('data')))}"
        )
        artefacts = kept.get("artefacts")
        lines += [f"  {_file(item)}" for item in artefacts] if isinstance(artefacts, list) else []
    resume = lease.get("resume")
    if isinstance(resume, dict):
        lines += _resume_lines(resume)
    return lines


def _resume_lines(resume: "Json") -> list[str]:
    """What a run that broke off left, for who goes on."""
    whose = f"{field(resume, 'session')} of {field(resume, 'agent')}"
    if not resume.get("ready"):
        return [f"  {whose} broke off, and may be resumed from {clock(resume.get('resumable_at_ms'))}"]
    lines = [f"  resumes {whose}, {clock(resume.get('at_ms'))}: {safe(dumps(resume.get('data')))}"]
    artefacts = resume.get("artefacts")
    lines += [f"  {_file(item)}" for item in artefacts] if isinstance(artefacts, list) else []
    return [*lines, f"  synapse session show {field(resume, 'session')}"]


def scope_words(lease: "Json") -> str:
    """What a lease covers, for people; '' when it is the task alone."""
    paths, pools = lease.get("paths"), lease.get("pools")
    words = [safe(str(path)) for path in paths] if isinstance(paths, list) else []
    if lease.get("whole_worktree"):
        words = [f"all of {field(lease, 'worktree')}"]
    if isinstance(pools, dict):
        words += [f"pool {safe(name)}={units}" for name, units in pools.items()]
    return ", ".join(words)


def _left(item: "Json") -> str:
    left_ms = item.get("remaining_ms")
    return f"  {span(left_ms)} left" if isinstance(left_ms, int) else "  parked"


def _file(artefact: "Json") -> str:
    size, digest = field(artefact, "bytes"), field(artefact, "sha256")
    return f"{field(artefact, 'path')}{f'  {size} bytes' if size else ''}{f'  sha256 {digest}' if digest else ''}"


def _held(call: Call, kind: str, body: "Json") -> int:
    answer = call.open_as(call.worker).ask(kind, body)
    call.show(answer, described(answer))
    return EXIT_OK


def _value(argument: str) -> object:
    return given_json(given_text(argument, "keep a reference to a file, with --artefact"), "a checkpoint")


def artefact_of(path: str) -> "Json":
    """A file by where it lies, its size and its hash. Raises `UsageError` for what is no file, OSError."""
    from hashlib import sha256

    digest, size = sha256(), 0
    if not os.path.isfile(path):
        raise UsageError(f"--artefact {path}: there is no such file")
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
            size += len(data)
    return {"path": os.path.abspath(path), "sha256": digest.hexdigest(), "bytes": size}
