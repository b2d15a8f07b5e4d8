"""Bad input about leases: each is refused with its code, says the numbers, and changes nothing."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest
from tests.test_transcripts import secret_of

from synapse.core.state import digest
from synapse.protocol.limits import Limits
from synapse.testing import MemoryHub, MemoryPeer

REPO: Final = "box:/repo"
WHOLE: Final = 2**53 - 1


class Bench:
    """A hub with a few leases: ada has T1 (src/**), bob T2 (docs/**), both a share of `read`; a pool of two."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.peers: dict[str, MemoryPeer] = {}
        self.epochs: dict[str, int] = {}
        self._ids = 1

    async def greet(self, name: str, hello: Mapping[str, object]) -> None:
        self.peers[name] = self.hub.connect()
        answer = await self.ask(name, "hello", hello)
        assert answer["type"] == "reply", answer

    async def frame(self, who: str, text: str) -> dict[str, Any]:
        """The answer to a frame as it is written. (Any: it is compared as the JSON that it is.)"""
        await self.peers[who].send(text.encode())
        await self.hub.settle()
        (answer,) = [json.loads(frame) for frame in self.peers[who].received_now()]
        assert isinstance(answer, dict)
        return answer

    async def ask(self, who: str, kind: str, body: Mapping[str, object]) -> dict[str, Any]:
        self._ids += 1
        return await self.frame(who, json.dumps({"type": kind, "id": self._ids, "body": body}))

    async def claim(self, who: str, task: str, **body: object) -> None:
        answer = await self.ask(who, "lease.claim", {"task": task, **body})
        assert answer["type"] == "reply", answer
        self.epochs[f"{who} {task}"] = answer["body"]["epoch"]

    async def assert_refused(self, who: str, kind: str, body: Mapping[str, object] | str, code: str, words: str) -> Any:
        """The facts of a refusal that has changed nothing. body: as text when no JSON library would write it."""
        before, seq = digest(self.hub.state), self.hub.state.seq
        soft = dict(self.hub.state.soft.leasing.deadlines)
        if isinstance(body, str):
            answer = await self.frame(who, f'{{"type":"{kind}","id":1,"body":{body}}}')
        else:
            answer = await self.ask(who, kind, body)
        assert answer["type"] == "error", answer
        error = answer["error"]
        assert error["code"] == code, error
        assert words in error["detail"]
        assert (digest(self.hub.state), self.hub.state.seq) == (before, seq)
        assert self.hub.state.soft.leasing.deadlines == soft
        return error["facts"]


LIMITS: Final = Limits(
    leases_per_agent_max=4, waits_per_agent_max=1, checkpoint_bytes_max=64, artefacts_max=1, paths_max=3
)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with MemoryHub(limits=LIMITS) as hub:
        bench = Bench(hub)
        for name in ("ada", "bob"):
            await bench.greet(name, {"name": name, "secret": secret_of(name)})
        await bench.greet("boss", {"operator": True})
        await bench.ask("boss", "pool.set", {"pool": "gpu", "capacity": 2})
        await bench.claim("ada", "T1", worktree=REPO, paths=["src/**"])
        await bench.claim("bob", "T2", worktree=REPO, paths=["docs/**"])
        for name in ("ada", "bob"):
            await bench.claim(name, "read", mode="shared")
        yield bench


OUTSIDE: Final = [
    ("../other", "holds '..'"),
    ("src/../../other", "holds '..'"),
    ("/etc/passwd", "is absolute"),
    ("src\\a.py", "holds a backslash"),
    ("C:/repo/a.py", "drive letter"),
    ("~/a.py", "begins with '~'"),
    (":(glob)src", "begins with ':'"),
    ("", "names no path"),
    (".", "names no path"),
    ("./", "names no path"),
    ("src/\x1b[31m", "control characters"),
]


@pytest.mark.bad_input("BI-30")
@pytest.mark.parametrize(("path", "words"), OUTSIDE, ids=[ascii(path) for path, _ in OUTSIDE])
async def test_a_path_that_leaves_the_worktree_or_is_none_is_refused(bench: Bench, path: str, words: str) -> None:
    facts = await bench.assert_refused(
        "bob", "lease.claim", {"task": "T9", "worktree": REPO, "paths": ["free", path]}, "bad_scope", words
    )
    assert "path" in facts


@pytest.mark.bad_input("BI-12", "BI-30")
@pytest.mark.parametrize("text", ["a\\u0000b", "a\\ud800b"])
async def test_what_is_no_text_is_malformed_before_it_is_a_path(bench: Bench, text: str) -> None:
    body = f'{{"task":"T9","worktree":"{REPO}","paths":["{text}"]}}'
    await bench.assert_refused("bob", "lease.claim", body, "malformed", "")


ODD: Final = [
    ("app/[id", "leaves the class"),
    ("app/[z-a]", "runs backwards"),
    ("app/[[:alpha:]]", "names a class of characters"),
    ("app/[é]", "other than ASCII"),
    ("src**", "reads in two ways"),
    ("sr*/", "ends in '/' after a wildcard"),
]


@pytest.mark.bad_input("BI-31")
@pytest.mark.parametrize(("path", "words"), ODD, ids=[ascii(path) for path, _ in ODD])
async def test_a_pattern_that_git_cannot_match_or_reads_in_two_ways_is_refused(
    bench: Bench, path: str, words: str
) -> None:
    await bench.assert_refused(
        "bob", "lease.claim", {"task": "T9", "worktree": REPO, "paths": [path]}, "bad_scope", words
    )


@pytest.mark.bad_input("BI-32")
async def test_too_much_of_a_scope_is_refused_with_the_numbers(bench: Bench) -> None:
    claim = {"task": "T9", "worktree": REPO}
    facts = await bench.assert_refused(
        "bob", "lease.claim", {**claim, "paths": ["a" * 513]}, "bad_scope", "513 characters"
    )
    assert (facts["chars"], facts["path_chars_max"]) == (513, 512)
    facts = await bench.assert_refused(
        "bob", "lease.claim", {**claim, "paths": ["a*/" * 17 + "a"]}, "bad_scope", "17 wild"
    )
    assert (facts["wildcards"], facts["path_wildcards_max"]) == (17, 16)
    facts = await bench.assert_refused("bob", "lease.claim", {**claim, "paths": list("abcd")}, "too_large", "4 paths")
    assert (facts["paths"], facts["paths_max"]) == (4, 3)
    await bench.assert_refused(
        "bob", "lease.claim", {"task": "T9", "worktree": "w" * 513, "paths": ["a"]}, "bad_request", "worktree"
    )


@pytest.mark.bad_input("BI-33")
async def test_half_a_scope_is_refused_and_never_completed(bench: Bench) -> None:
    await bench.assert_refused("bob", "lease.claim", {"task": "T9", "paths": ["a"]}, "bad_request", "worktree")
    await bench.assert_refused("bob", "lease.claim", {"task": "T9", "whole_worktree": True}, "bad_request", "worktree")
    await bench.assert_refused("bob", "lease.claim", {"task": "T9", "worktree": REPO}, "bad_scope", "whole_worktree")
    both = {"task": "T9", "worktree": REPO, "paths": ["a"], "whole_worktree": True}
    await bench.assert_refused("bob", "lease.claim", both, "bad_request", "not both")


TTLS: Final = [
    ("0", "bad_request"),
    ("-1", "bad_request"),
    ("4999", "bad_request"),
    ("86400001", "bad_request"),
    (str(WHOLE), "bad_request"),
    (str(WHOLE + 1), "malformed"),
    ("NaN", "malformed"),
    ("Infinity", "malformed"),
    ("1e999", "malformed"),
    ("true", "malformed"),
    ("5000.5", "bad_request"),
    ('"5000"', "bad_request"),
]


@pytest.mark.bad_input("BI-11", "BI-34")
@pytest.mark.parametrize(("ttl", "code"), TTLS, ids=[ttl for ttl, _ in TTLS])
async def test_a_ttl_that_is_no_time_is_refused(bench: Bench, ttl: str, code: str) -> None:
    await bench.assert_refused("bob", "lease.claim", f'{{"task":"T9","ttl_ms":{ttl}}}', code, "")
    facts = await bench.assert_refused("bob", "lease.renew", f'{{"task":"T2","ttl_ms":{ttl}}}', code, "")
    if ttl in ("0", "-1", "4999", "86400001"):
        assert (facts["min"], facts["max"]) == (5_000, 24 * 3600 * 1000)


@pytest.mark.bad_input("BI-35")
@pytest.mark.parametrize("task", ["", "a" * 129, "two words", ".hidden", "tâche", "a:b", "a\nb"])
async def test_a_task_outside_its_grammar_is_refused_by_every_command(bench: Bench, task: str) -> None:
    for kind, more in (
        ("lease.claim", {}),
        ("lease.renew", {}),
        ("lease.release", {}),
        ("lease.withdraw", {}),
        ("lease.checkpoint", {"data": 1}),
        ("lease.hand_off", {"to": "bob"}),
        ("lease.park", {"parked": True}),
        ("lease.check", {"epoch": 1}),
        ("task.explain", {}),
    ):
        facts = await bench.assert_refused("bob", kind, {"task": task, **more}, "bad_name", "task id")
        assert "pattern" in facts


@pytest.mark.bad_input("BI-36")
async def test_words_that_a_claim_does_not_know_are_refused(bench: Bench) -> None:
    for field, value, words in (
        ("mode", "write", "exclusive, shared"),
        ("priority", "highest", "low, normal, high, urgent"),
        ("wait_ms", -1, "wait_ms"),
        ("wait_ms", 24 * 3600 * 1000 + 1, "wait_ms"),
        ("note", "", "note"),
        ("note", "n" * 513, "note"),
        ("branch", "b" * 513, "branch"),
        ("tll_ms", 60_000, "tll_ms"),
    ):
        await bench.assert_refused("bob", "lease.claim", {"task": "T9", field: value}, "bad_request", words)


@pytest.mark.bad_input("BI-37")
async def test_units_that_a_pool_does_not_have_are_refused(bench: Bench) -> None:
    for pools, code, words in (
        ({"cpu": 1}, "not_found", "gpu"),
        ({"gpu": 0}, "bad_request", "it has 2"),
        ({"gpu": -1}, "bad_request", "it has 2"),
        ({"gpu": 3}, "bad_request", "it has 2"),
        ({f"p{number}": 1 for number in range(9)}, "too_large", "9 pools"),
    ):
        await bench.assert_refused("bob", "lease.claim", {"task": "T9", "pools": pools}, code, words)
    await bench.claim("ada", "T3", pools={"gpu": 2})
    forever = {"task": "T9", "pools": {"gpu": 1}, "wait_ms": None}
    await bench.assert_refused("bob", "lease.claim", forever, "bad_request", "deadline")
    for capacity in (0, -1, 1_000_001):
        await bench.assert_refused("boss", "pool.set", {"pool": "gpu", "capacity": capacity}, "bad_request", "capacity")
    await bench.assert_refused("boss", "pool.set", {"pool": "GPU", "capacity": 1}, "bad_name", "pool")
    await bench.assert_refused("boss", "pool.delete", {"pool": "gpu"}, "not_empty", "1 leases")
    await bench.assert_refused("ada", "pool.set", {"pool": "gpu", "capacity": 9}, "not_permitted", "operator")


@pytest.mark.bad_input("BI-38")
async def test_an_epoch_that_is_not_mine_or_not_live_is_refused_and_the_live_one_named(bench: Bench) -> None:
    old = bench.epochs["bob T2"]
    await bench.claim("bob", "T2", worktree=REPO, paths=["docs/**", "notes"])
    now = bench.epochs["bob T2"]
    assert now > old
    for epoch in (old, bench.epochs["ada T1"], bench.epochs["ada read"], 0, -1, WHOLE):
        for kind, more in (
            ("lease.renew", {}),
            ("lease.release", {}),
            ("lease.checkpoint", {"data": 1}),
            ("lease.hand_off", {"to": "ada"}),
            ("lease.park", {"parked": True}),
            ("lease.check", {}),
        ):
            facts = await bench.assert_refused(
                "bob", kind, {"task": "T2", "epoch": epoch, **more}, "stale_epoch", "bob holds it now"
            )
            assert [holder["epoch"] for holder in facts["holders"]] == [now]
    facts = await bench.assert_refused("ada", "lease.release", {"task": "T2", "epoch": now}, "stale_epoch", "bob")
    assert facts["holders"][0]["owner"] == "bob"


@pytest.mark.bad_input("BI-39")
async def test_a_hand_off_to_oneself_to_nobody_or_of_what_one_does_not_hold_is_refused(bench: Bench) -> None:
    for body, code in (
        ({"task": "T1", "to": "ada"}, "bad_request"),
        ({"task": "T1", "to": "nobody"}, "not_found"),
        ({"task": "T1", "to": ""}, "bad_name"),
        ({"task": "T1", "to": "Ada"}, "bad_name"),
        ({"task": "T2", "to": "bob"}, "not_holder"),
        ({"task": "T9", "to": "bob"}, "not_found"),
    ):
        await bench.assert_refused("ada", "lease.hand_off", body, code, "")


@pytest.mark.bad_input("BI-40")
async def test_an_upgrade_with_other_readers_and_a_circle_of_waits_are_refused_with_the_names(bench: Bench) -> None:
    upgrade = {"task": "read", "mode": "exclusive", "wait_ms": 60_000}
    facts = await bench.assert_refused("ada", "lease.claim", upgrade, "deadlock", "upgrade")
    assert facts["cycle"] == ["ada", "bob", "ada"]
    await bench.ask("ada", "lease.claim", {"task": "T2", "wait_ms": 60_000})
    circle = {"task": "T1", "wait_ms": 60_000}
    facts = await bench.assert_refused("bob", "lease.claim", circle, "deadlock", "bob waits for ada waits for bob")
    assert facts["cycle"] == ["bob", "ada", "bob"]


@pytest.mark.bad_input("BI-41")
async def test_one_lease_one_wait_or_one_byte_too_many_is_refused_with_the_limit(bench: Bench) -> None:
    for body in ({"data": "x" * 64}, {"data": None, "artefacts": [{"path": "a"}, {"path": "b"}]}):
        await bench.assert_refused("ada", "lease.checkpoint", {"task": "T1", **body}, "too_large", "at most")
    for task in ("T5", "T6"):
        await bench.claim("ada", task)
    facts = await bench.assert_refused("ada", "lease.claim", {"task": "T7"}, "limit", "leases_per_agent_max")
    assert facts == {"limit": "leases_per_agent_max", "value": 4, "owner": "ada"}
    await bench.ask("bob", "lease.claim", {"task": "T5", "wait_ms": 60_000})
    facts = await bench.assert_refused(
        "bob", "lease.claim", {"task": "T6", "wait_ms": 60_000}, "limit", "waits_per_agent_max"
    )
    assert facts == {"limit": "waits_per_agent_max", "value": 1}


@pytest.mark.bad_input("BI-42")
async def test_taking_what_another_holds_needs_a_person_or_an_operator_with_a_claimant(bench: Bench) -> None:
    claim = {"task": "T1", "preempt": True}
    await bench.assert_refused("bob", "lease.claim", claim, "not_permitted", "role human")
    await bench.assert_refused("bob", "lease.claim", {"task": "T1", "claimant": "ada"}, "not_permitted", "operator")
    await bench.assert_refused("boss", "lease.claim", claim, "bad_request", "claimant")
    await bench.assert_refused("boss", "lease.claim", {"task": "T1", "claimant": "bob"}, "bad_request", "preempt")
    await bench.assert_refused("boss", "lease.claim", {**claim, "claimant": "nobody"}, "not_found", "nobody")
    for kind in ("lease.renew", "lease.release"):
        await bench.assert_refused("boss", kind, {"task": "T1"}, "anonymous", "agent")
        await bench.assert_refused("bob", kind, {"task": "T1"}, "not_holder", "ada")
