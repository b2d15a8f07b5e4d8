"""Resources through the client: what one lends, another takes under a lease."""

from typing import TYPE_CHECKING

import pytest

from synapse.client.client import data_of
from synapse.errors import Rejected
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People


async def test_what_one_lends_another_takes_under_a_lease(people: "type[People]") -> None:
    async with MemoryHub() as hub, people(hub).client("ada") as ada, people(hub).client("bob") as bob:
        offered = await ada.offer_resource("gpu", "compute", capacity=2, ttl=60, data={"host": "box"})
        assert (offered.owner, offered.status) == ("ada", "offered")
        async with bob.lease("T1", pools={"gpu": 1}):
            [seen] = await bob.resources(kind="compute")
            assert (seen.held, data_of(seen), seen.presence) == (1, {"host": "box"}, "online")
            assert (await ada.withdraw_resource("gpu")).held == 1
            with pytest.raises(Rejected, match="lends gpu no more"):
                await ada.claim("T2", pools={"gpu": 1})
        assert await bob.resources() == ()
