"""A payload is hashed as the release before hashed it, so that keys hold over an upgrade of the hub."""

from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec
from tests.core.conftest import World

from synapse.core.kernel import REPEATABLE, payload_hash

HASHES: Final = """
AcceptLane 5c3d77ca  AckInbox e08d8b0f  AnswerQuestion e5e5321d  AskQuestion 297f9165  BeginFile d35257a0
ClaimLease 03fb0d2f  ClearValues e6591c37  CloseLane 8b1f0543  CompleteFile f1890183  CreateChannel 0aa6d628
CreateRoom dc7f7fdb  CreateToken 8da724ac  DeclareTask 62984dd8  DeclareTasks bcb2312b  DeclineLane 9612f5dd
DeleteChannel 12b79d18  DeletePool e9b405cc  DeleteRole 17525580  DeleteRoom 5d135284  DeleteValue 2a61e2f9
DismissQuestion b66a082e  DropDead 23a8630b  DropHeld 54dc7c23  EndSession 5084aa0e  ForgetAgent c3f89161
HandOffLease 32028283  InviteMember 29caad77  JoinChannel ab16ac32  JoinRole b71699aa  JoinRoom 0c181b49
KickMember 8d4e5087  LeaveChannel 36022a20  LeaveRole 66e90795  LeaveRoom e174930b  NoteProgress 008eb32b
OfferLane bcc0e939  OfferResource 4042018d  ParkLease 8e876c49  PutChunk cf0941e8  PutValue fbe4469b
RebindAgent 9574e6b8  ReceiveFile ade7e66d  ReleaseHeld bb7e42e9  ReleaseLease 5c357d16  RemoveTask fc0122ac
RenewLease a0f44a27  ResendDead 7e03efd4  RevokeToken e4593f9d  SaveCheckpoint accd23a4  SaveSessionPoint 148fc790
SendLane e1d5e261  SendMessage 7877a7e2  SetCard 19fa68e0  SetPool ecdb5e1d  StartSession a65c8fe4
TransferValue acdb86f1  UpdateSession 648fed9e  UpdateTask 392aaec2  WithdrawClaim 5274a7ce  WithdrawFile fac9ea08
WithdrawQuestion 6ca67d7d  WithdrawResource c5007695
"""
"""Each command that takes a key, and the beginning of the hash of its least payload."""


def least(kind: type[Any]) -> Any:
    """A value of the type, with what must be said; of a list of objects, one."""
    if kind in (str, bool, int):
        return kind(1)
    if kind is bytes:
        return b"1"
    if kind is msgspec.Raw:
        return msgspec.Raw(b"1")
    if issubclass(get_origin(kind) or kind, msgspec.Struct):
        hints = get_type_hints(kind)
        found = {field.name: (hints[field.name], field.required) for field in msgspec.structs.fields(kind)}
        return kind(**{name: least(hint) for name, (hint, required) in found.items() if required or structs_of(hint)})
    assert structs_of(kind), f"no sample of {kind} is known"
    return tuple(least(struct) for struct in structs_of(kind))


def structs_of(hint: Any) -> list[type[Any]]:
    """The objects of which a field holds a list."""
    kinds = [kind for option in (hint, *get_args(hint)) if get_origin(option) is tuple for kind in get_args(option)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


def test_every_payload_is_hashed_as_the_release_before_hashed_it() -> None:
    world = World()
    world.join("ada")
    now = {}
    for kind in sorted(REPEATABLE, key=lambda kind: kind.__name__):
        command = least(kind)
        now[kind.__name__] = payload_hash(command, msgspec.json.encode(command), world.by("ada"))[:8]
    known = dict(zip(HASHES.split()[::2], HASHES.split()[1::2], strict=True))
    changed = [name for name in known if now.get(name) != known[name]]
    assert not changed, (
        f"{changed}: over an upgrade their repeats would be refused idem_conflict for a day. Cut a new field from what "
        "`payload_hash` is of while it has its default, as `under` is; or tell it in the changelog, and write here: "
        + " ".join(f"{name} {now.get(name)}" for name in changed)
    )
    assert sorted(known) == sorted(now), f"new: {[f'{name} {now[name]}' for name in now if name not in known]}"
