"""The synchronous client: the same names, and calls, feeds and leases that a plain script can use."""

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import synapse
from synapse import body_of
from synapse.client.blocking import BlockingClient
from synapse.client.client import Client
from synapse.errors import Disconnected, HubUnreachable, LeaseLost, Rejected


class ScriptHub:
    """A hub in a process, for a test without an event loop."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "synapse", "hub", "--port", "0", "--home", str(self.home)]
        short = {**os.environ, "SYNAPSE_LIMIT_TTL_MS_MIN": "500"}
        self._process = subprocess.Popen(
            command, env=short, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("synapse hub ready")

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.communicate()

    def connect(self, name: str) -> BlockingClient:
        return synapse.connect(name=name, home=self.home)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ScriptHub]:
    made = ScriptHub(tmp_path / "home")
    made.start()
    yield made
    made.end()


def test_it_has_every_name_of_the_asynchronous_client() -> None:
    public = {name for name in vars(Client) if not name.startswith("_")} - {"connect"}
    assert public <= set(vars(BlockingClient))
    for name in public - {"subscribe", "presence", "lease_changes", "value_changes", "deliveries"}:
        theirs, ours = getattr(Client, name), getattr(BlockingClient, name)
        if inspect.isfunction(theirs):
            assert not inspect.iscoroutinefunction(ours), f"{name} would have to be awaited"
            assert name == "close" or inspect.signature(ours) == inspect.signature(theirs)


def test_a_script_sends_takes_and_reads(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada, hub.connect("bob") as bob:
        assert ada.welcome.name == "ada"
        sent = ada.send("to bob", to="bob")
        taken = bob.take(wait=5.0)
        assert taken is not None
        assert (taken.message.id, body_of(taken.message)) == (sent.id, "to bob")
        bob.ack(sent.id)
        with bob.deliveries(2) as feed:
            sent = ada.send("to bob, too", to="bob")
            assert next(iter(feed)).message.id == sent.id
            assert bob.ack(sent.id).acked == (sent.id,)
        for n in range(300):
            ada.send(n, channel="main:general")
        assert [body_of(message) for message in bob.all_history("main:general")] == list(range(300))
        assert {agent.name for agent in bob.who()} == {"ada", "bob"}


def test_a_feed_is_a_plain_loop_and_ends_with_its_block(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada, hub.connect("bob") as bob:
        with bob.subscribe("main:general") as feed:
            ada.send("one")
            ada.send("two")
            heard = []
            for message in feed:
                heard.append(body_of(message))
                if len(heard) == 2:
                    break
            assert heard == ["one", "two"]
            assert feed.cursor == message.cursor
        with bob.presence() as present:
            assert {agent.name for agent in next(iter(present)).agents} == {"ada", "bob"}
        with bob.lease_changes() as changes:
            ada.claim("T1")
            assert next(iter(changes)).task == "T1"
        ada.send("three")
        with bob.subscribe("main:general", since=feed.cursor) as again:
            assert body_of(next(iter(again))) == "three"


def test_a_generator_that_is_left_early_ends_its_subscription(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada:
        for _ in range(20):  # more than a connection may have at once
            messages = ada.messages("main:general")
            threading.Timer(0.05, ada.send, ("x",)).start()
            assert body_of(next(messages)) == "x"
            messages.close()  # type: ignore[attr-defined]  # it is a generator
        assert ada.status().counts.subscriptions == 0


def test_a_lease_is_held_while_the_block_runs_and_renewed_meanwhile(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada, hub.connect("bob") as bob:
        with ada.lease("T1", paths=["src/**"], worktree="w", ttl=1.0) as lease:
            assert lease.is_live
            lease.check()
            lease.save({"step": 1})
            with pytest.raises(Rejected, match="lease_held"):
                bob.claim("T2", paths=["src/a.py"], worktree="w")
            assert not lease.lost.wait(1.5), "longer than its TTL: the thread renews it"
            assert lease.is_live
            assert bob.check_lease("T1", lease.epoch).owner == "ada"
        with bob.lease("T1", worktree="w", paths=["src/**"]) as inherited:
            assert inherited.epoch > lease.epoch
            assert inherited.checkpoint is not None


def test_a_lease_that_is_lost_says_so_at_once_and_at_the_end_of_its_block(hub: ScriptHub) -> None:
    operator = synapse.connect(home=hub.home, operator=True)
    with operator, hub.connect("ada") as ada, hub.connect("bob") as bob:
        with pytest.raises(LeaseLost), ada.lease("T1") as lease:
            bob.ping()
            operator.claim("T1", terms=synapse.Terms(preempt=True, claimant="bob"))
            assert lease.lost.wait(5)
            assert not lease.is_live
            with pytest.raises(LeaseLost):
                lease.check()
        error = KeyError("what the block itself ran into")
        with pytest.raises(KeyError) as raised, ada.lease("T3") as lease:
            operator.claim("T3", terms=synapse.Terms(preempt=True, claimant="bob"))
            assert lease.lost.wait(5)
            raise error
        assert "T3" in raised.value.__notes__[0]


def test_a_claim_that_is_refused_or_waits_in_vain_raises_and_holds_nothing(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada, hub.connect("bob") as bob:
        ada.claim("T1")
        with pytest.raises(Rejected, match="lease_held"), bob.lease("T1"):
            pytest.fail("it was not granted")
        with pytest.raises(Rejected, match="deadline"), bob.lease("T1", wait=0.2):
            pytest.fail("it was not granted")
        assert [lease.owner for lease in ada.leases()] == ["ada"]


def test_calls_go_on_over_a_kill_of_the_hub(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada:
        first = ada.send("before")
        hub.end()
        threading.Timer(0.5, hub.start).start()
        second = ada.send("after")
        assert (first.n, second.n) == (1, 2)


def test_several_threads_share_one_client(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada:
        numbers: list[int] = []

        def work() -> None:
            for _ in range(50):
                n = ada.send("x").n
                assert isinstance(n, int)
                numbers.append(n)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(numbers) == list(range(1, 201))


def test_after_close_every_call_says_so_and_no_thread_is_left(hub: ScriptHub) -> None:
    before = threading.active_count()
    ada = hub.connect("ada")
    waiting: list[Exception] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            ada.take(wait=None)
        except Disconnected as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(5)
    ada.ping()
    ada.close()
    ada.close()
    thread.join(5)
    assert len(waiting) == 1
    with pytest.raises(Disconnected, match="closed"):
        ada.ping()
    assert threading.active_count() == before


def test_without_a_hub_it_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(HubUnreachable):
        synapse.connect(name="ada", home=tmp_path / "nothing")
    assert threading.active_count() == before
