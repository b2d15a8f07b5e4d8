"""The client's half of files: by reference, or through the hub in chunks."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from synapse.client import chunks
from synapse.client.asking import Asking
from synapse.client.bodies import body_of, raw_of
from synapse.client.chunks import manifest_in
from synapse.client.files import FileRefused, file_in, receive, refer_to
from synapse.errors import Rejected
from synapse.protocol import commands, file_commands, replies
from synapse.protocol.file_replies import FILE_REPLY_TO, FileInfo, FileLetGo, FilesPage
from synapse.protocol.notices import Message
from synapse.protocol.role_commands import ShowRole
from synapse.protocol.role_replies import RoleInfo

if TYPE_CHECKING:
    from synapse.client.chunks import Json, Step, Steps

_Result = TypeVar("_Result")


class _Done(Exception):
    """The steps are at their end; a StopIteration cannot cross into a future. result: of theirs."""

    def __init__(self, result: object) -> None:
        self.result = result


def recipients_of(to: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    """Agents as they were given; none where None was. Raises `Rejected(no_recipient)` for an empty list: without
    recipients a message would go to a channel, where all read it."""
    if to is None:
        return ()
    names = (to,) if isinstance(to, str) else tuple(to)
    if not names:
        raise Rejected("no_recipient", "to names nobody: give agents, or leave it out for a channel", {"to": []})
    return names


async def _to_its_end(step: "asyncio.Future[Step]") -> "Step":
    """What a thread found. Who is cancelled meanwhile is so when the thread is done: until then the steps run."""
    try:
        await asyncio.wait({step})
    except asyncio.CancelledError:
        while not step.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({step})
        step.exception()  # nobody asks for it
        raise
    return step.result()


class SentFiles(Asking):
    """Files in messages: a part of `Client`."""

    async def send_file(
        self,
        path: str | os.PathLike[str],
        *,
        to: str | tuple[str, ...] | list[str] | None = None,
        channel: str | None = None,
        target: str | None = None,
        subject: str | None = None,
        create: bool = False,
        chunked: bool = False,
        idem_key: str | None = None,
    ) -> replies.Sent:
        """Send a file: a reference, with path, size and SHA-256, while the content stays where it is; or `chunked`,
        the content itself through the hub, to agents, a channel or the members that a role has now, and as the last
        thing the message that says so.
        Interrupted, it goes on when it is sent again: only what is missing goes out, and the message is there once.

        Raises as `send`, `FileRefused` for what is no plain file, and `Rejected`: `too_large`, `limit`.
        """
        names = recipients_of(to)
        if chunked:
            readers, place = (names, channel) if target is None else await self._readers(target)
            place = place if readers or place is not None else self.welcome.home
            steps = chunks.sent(path, to=readers, channel=place, create=create)
            manifest = await self._carry_out(steps)
            body, idem_key = manifest.body(), manifest.idem_key if idem_key is None else idem_key
        else:
            body = (await asyncio.to_thread(refer_to, path)).body()
        command = commands.SendMessage(
            body=raw_of(body), to=names, channel=channel, target=target, subject=subject, create=create
        )
        return await self.request(command, replies.Sent, idem_key=idem_key)

    async def _readers(self, target: str) -> tuple[tuple[str, ...], str | None]:
        """The agents, or the channel, that a target means."""
        names, channel, role = chunks.split_target(target)
        if role is None:
            return names, channel
        members: list[str] = []
        async for page in self._pages(lambda at: ShowRole(role=role, limit=self._page, after=at), RoleInfo):
            members += page.participants or ()
        return chunks.members_of(role, members), None

    async def receive_file(self, message: Message, save: str | os.PathLike[str] | None = None) -> Path:
        """The path of the file that a message refers to, once size and SHA-256 are found to be as they were sent.

        save: a new file that gets the checked content, so that nothing can change between the check and the use; a
        file that comes through the hub needs it, and is fetched into it; interrupted, it goes on when it is received
        again. Raises `FileRefused` when the message refers to none, or the content is not there any more or not the
        same; then nothing is left at `save`. Raises `Rejected(not_found)` where the hub has it no more, ValueError for
        a file that comes through the hub without `save`.
        """
        body = body_of(message)
        manifest = manifest_in(body)
        if manifest is not None:
            if save is None:
                raise ValueError("the content is at the hub: say where it goes with save")
            return Path(await self._carry_out(chunks.received(manifest, save)))
        reference = file_in(body)
        if reference is None:
            raise FileRefused(f"message {message.id} refers to no file")
        return Path(await asyncio.to_thread(receive, reference, save))

    async def files(self) -> tuple[FileInfo, ...]:
        """The files at the hub that are mine, or for me and complete, oldest first; for an operator all. All pages."""
        pages = self._pages(lambda at: file_commands.ListFiles(limit=self._page, after=at), FilesPage)
        return tuple([file async for page in pages for file in page.files])

    async def withdraw_file(self, file: str) -> FileLetGo:
        """Let the hub forget a file of mine, by its id; an operator any. Raises `Rejected(not_found)`."""
        return await self.request(file_commands.WithdrawFile(file=file), FileLetGo)

    async def _carry_out(self, steps: "Steps[_Result]") -> _Result:
        """As `chunks.carry_out`; what reads and hashes runs on other threads."""

        def go_on(answer: "Json | Rejected | None") -> "Step":
            try:
                if isinstance(answer, Rejected):
                    return steps.throw(answer)
                return next(steps) if answer is None else steps.send(answer)
            except StopIteration as end:
                raise _Done(end.value) from None

        answer: Json | Rejected | None = None
        try:
            while True:
                kind, body = await _to_its_end(asyncio.get_running_loop().run_in_executor(None, go_on, answer))
                command = msgspec.convert(body, file_commands.FILE_COMMANDS[kind])
                try:
                    reply = await self.request(command, FILE_REPLY_TO[type(command)])
                    answer = msgspec.json.decode(msgspec.json.encode(reply))
                except Rejected as error:
                    answer = error
        except _Done as done:
            return done.result  # type: ignore[return-value]  # what the steps returned
        finally:
            steps.close()
