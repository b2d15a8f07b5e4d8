"""The synchronous client: the same names, and calls, feeds and leases that a plain script can use."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from tests.library_reference import FEEDS

import synapse
from synapse import body_of
from synapse.client import blocking
from synapse.client.blocking import BlockingClient, BlockingFeed, BlockingLease
from synapse.client.client import Client
from synapse.client.leases import HeldLease
from synapse.errors import Disconnected, HubUnreachable, LeaseLost, Rejected, SynapseError
from synapse.protocol.terms import Artefact

OF_THE_LIFELINE = {"command", "confirmed", "fail", "follow", "has", "hear", "hear_typing", "is_listening", "leave"} | {
    "on_caught_up",
    "on_subscribed",
}
"""What a feed has for the connection that it is followed over."""


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

    def run(self, text: str) -> "subprocess.CompletedProcess[str]":
        """A script with a client `hub` of this one, in a process of its own, where warnings are errors."""
        start = f"import synapse\nhub = synapse.connect(name='ada', home={str(self.home)!r})\n"
        command = [sys.executable, "-W", "error", "-c", start + text]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ScriptHub]:
    made = ScriptHub(tmp_path / "home")
    made.start()
    yield made
    made.end()


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


@pytest.mark.parametrize(
    ("theirs", "ours", "own"),
    [(Client, BlockingClient, {"connect"}), (HeldLease, BlockingLease, set[str]())]
    + [(kind, BlockingFeed, OF_THE_LIFELINE) for kind in FEEDS],
)
def test_it_has_every_name_of_its_asynchronous_twin(theirs: type, ours: type, own: set[str]) -> None:
    names = public(theirs) - own
    assert names - public(ours) == set()
    for name in names:
        one, other = getattr(theirs, name), getattr(ours, name)
        if inspect.isfunction(one):
            assert not inspect.iscoroutinefunction(other), f"{name} would have to be awaited"
            assert parameters(other) == parameters(one), name
        else:
            assert isinstance(one, property)
            assert isinstance(other, property)
            assert one.fget is not None
            assert other.fget is not None
            assert inspect.signature(other.fget).return_annotation == inspect.signature(one.fget).return_annotation


def test_connect_takes_what_a_client_takes() -> None:
    assert parameters(synapse.connect) == [one for one in parameters(Client) if one.name != "wiring"]


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
        with pytest.raises(LeaseLost, match="released"):
            lease.check()
        with bob.lease("T1", worktree="w", paths=["src/**"]) as inherited:
            assert inherited.epoch > lease.epoch
            assert inherited.checkpoint is not None
            inherited.hand_off("ada")
            with pytest.raises(LeaseLost, match="handed_off"):
                inherited.check()


def test_a_lease_that_is_lost_says_so_at_once_and_at_the_end_of_its_block(hub: ScriptHub) -> None:
    operator = synapse.connect(home=hub.home, operator=True)
    with operator, hub.connect("ada") as ada, hub.connect("bob") as bob:
        with pytest.raises(LeaseLost), ada.lease("T1") as lease:
            bob.ping()
            operator.claim("T1", terms=synapse.Terms(preempt=True, claimant="bob"))
            assert lease.lost.wait(5)
            assert not lease.is_live
            with pytest.raises(LeaseLost, match="preempted"):
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


def everything(client: BlockingClient) -> str:
    """The cursor before all that ever happened."""
    return f"{client.welcome.journal_id}:0"


def iterate(client: BlockingClient, begun: threading.Event) -> None:
    for _ in client.messages("main:general", since=everything(client)):
        begun.set()


def follow(client: BlockingClient, begun: threading.Event) -> None:
    with client.subscribe("main:general", since=everything(client)) as feed:
        for _ in feed:
            begun.set()


def hold(client: BlockingClient, begun: threading.Event) -> None:
    with client.lease(f"T{time.monotonic_ns()}") as lease:
        begun.set()
        assert lease.lost.wait(5)


def work(client: BlockingClient, begun: threading.Event) -> None:
    while True:
        client.ping()
        begun.set()


@pytest.mark.parametrize(("do", "end"), [(iterate, None), (follow, None), (hold, LeaseLost), (work, Disconnected)])
def test_close_ends_what_other_threads_do(
    hub: ScriptHub, do: Callable[[BlockingClient, threading.Event], None], end: type[SynapseError] | None
) -> None:
    with hub.connect("bob") as bob:
        bob.send("x", channel="main:general")
    for _ in range(20):
        ada, begun, ends = hub.connect("ada"), threading.Event(), list[object]()

        def run(ada: BlockingClient = ada, begun: threading.Event = begun, ends: list[object] = ends) -> None:
            try:
                do(ada, begun)
                ends.append(None)
            except SynapseError as error:
                ends.append(type(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert begun.wait(5)
        ada.close()
        thread.join(5)
        assert ends == [end]


def test_what_does_not_end_by_itself_is_cancelled_when_the_loop_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "ENDING_S", 0.01, raising=False)
    loop = blocking._Loop()
    endless = loop.start(asyncio.Event().wait())
    loop.stop()
    with pytest.raises(CancelledError):
        endless.result(timeout=5)
    loop.stop()
    with pytest.raises(Disconnected):
        loop.start(asyncio.Event().wait())


def test_ctrl_c_in_an_iteration_is_a_keyboard_interrupt_and_ends_its_subscription(hub: ScriptHub) -> None:
    main = threading.main_thread().ident
    assert main is not None
    with hub.connect("ada") as ada:
        for items in (ada.messages("main:general"), ada.inbox_messages(), ada.happenings(follow=True)):
            threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
            with pytest.raises(KeyboardInterrupt):
                for _ in items:
                    pass
            assert list(items) == []
        assert ada.status().counts.subscriptions == 0


@pytest.mark.parametrize(
    "text",
    [
        "it = hub.all_history('main:general'); next(it)",
        "it = hub.messages('main:general', since=hub.welcome.journal_id + ':0'); next(it)",
        "it = hub.happenings(); next(it)",
        "f = hub.subscribe('main:general', since=hub.welcome.journal_id + ':0'); f.__enter__(); it = iter(f); next(it)",
        "def held():\n with hub.lease('T1'): yield\nit = held(); next(it)",
        "def connected():\n with hub: yield\nit = connected(); next(it)",
    ],
    ids=["all_history", "messages", "happenings", "subscribe", "lease", "connect"],
)
def test_a_script_that_ends_without_close_ends(hub: ScriptHub, text: str) -> None:
    done = hub.run(f"hub.send('x', channel='main:general')\n{text}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_iterators_that_outlive_the_client_end_and_say_nothing(hub: ScriptHub) -> None:
    text = """
import gc
for n in range(3): hub.send(n, channel="main:general")
first = hub.welcome.journal_id + ":0"
messages, history = hub.messages("main:general", since=first), hub.all_history("main:general")
dropped, dropped_too = hub.happenings(), hub.all_history("main:general")
feed = hub.value_changes()
with feed:
    for each in (messages, history, dropped, dropped_too): next(each)
    hub.put("key", 1)
    changes = iter(feed)
    next(changes)
    hub.close()
    assert list(changes) == list(feed) == list(messages) == []
try: next(history)
except synapse.errors.Disconnected: pass
else: raise SystemExit("a history that was cut off looks whole")
del messages, history, dropped, dropped_too, changes, feed
gc.collect()
"""
    done = hub.run(text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_generator_that_is_dropped_on_the_clients_own_thread_ends_its_subscription(hub: ScriptHub) -> None:
    with hub.connect("ada") as ada:
        ada.send("x", channel="main:general")
        kept = [ada.messages("main:general", since=everything(ada))]
        next(kept[0])

        async def collect() -> None:
            kept.clear()

        ada._loop.run(collect())
        while ada.status().counts.subscriptions > 0:
            assert ada.is_connected


def test_a_block_in_which_the_client_is_closed_keeps_its_own_error(hub: ScriptHub) -> None:
    error = ValueError("own")
    ada = hub.connect("ada")
    with pytest.raises(ValueError, match="own"), ada.lease("T1") as lease:
        ada.close()
        assert lease.lost.is_set()
        raise error
    assert ["lease on T1" in note for note in error.__notes__] == [True]
    ada = hub.connect("ada")
    with pytest.raises(ValueError, match="own"), ada.presence():
        ada.close()
        raise error
    ada = hub.connect("ada")
    with ada.presence():
        ada.close()
    ada = hub.connect("ada")
    with pytest.raises(LeaseLost, match="disconnected"), ada.lease("T2"):
        ada.close()


def test_a_lease_that_was_handed_off_is_nothing_to_lose(hub: ScriptHub) -> None:
    with hub.connect("bob") as bob, hub.connect("ada") as ada:
        began_s = time.monotonic()
        with ada.lease("T1") as lease:
            assert lease.hand_off("bob").outcome == "handed_off"
            assert not lease.is_live
            ada.close()
        assert time.monotonic() - began_s < 2
        assert [held.task for held in bob.leases(owner="bob")] == ["T1"]


def test_a_lease_has_files_in_its_checkpoint_and_what_a_run_left(hub: ScriptHub) -> None:
    file = Artefact(path="report.md")
    with hub.connect("ada") as ada, hub.connect("bob") as bob:
        with ada.lease("T1") as lease:
            lease.save({"step": 1}, [file])
            assert lease.resume is None
        broken_off = ada.claim("T1", ttl=0.5)
        session = ada.start_session(task="T1")
        ada.checkpoint_session({"step": 2}, epoch=broken_off.epoch)
        with bob.lease("T1", wait=10) as again:
            assert again.checkpoint is not None
            assert again.checkpoint.artefacts == (file,)
            assert again.resume is not None
            assert again.resume.session == session.session


def test_a_feed_of_messages_knows_who_is_typing(hub: ScriptHub) -> None:
    ada, bob = hub.connect("ada"), hub.connect("bob")
    with ada, bob, ada.subscribe("main:general") as feed, ada.presence() as present:
        assert list(feed.typing) == []
        bob.say_typing("main:general")
        bob.ping()
        assert [notice.sender for notice in feed.typing] == ["bob"]
        bob.send("x", channel="main:general")
        next(iter(feed))
        assert [*feed.typing, *present.typing] == []


def test_without_a_hub_it_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(HubUnreachable):
        synapse.connect(name="ada", home=tmp_path / "nothing")
    assert threading.active_count() == before
