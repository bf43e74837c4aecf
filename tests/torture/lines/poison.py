"""Payloads that kill whoever gets them, and stored elements that nobody can read."""

import asyncio
import random
from datetime import timedelta

from redis.asyncio import Redis

from tests.end_to_end.traffic import Load, Reader, send, settle, window
from tests.support.history import History, Phase, Settlement
from tests.support.stores import StoreProcess, eventually
from tests.torture.forks import ForkedServer
from tests.torture.score import Dose, Line, Score, add_up, in_rounds
from tidegate import Batch, Client
from tidegate_server.store.keys import Keys

_LEASE = timedelta(seconds=1)
_EXPIRIES = 3
_POISON = "poison"
_BODY = b"\n\xff\xff\xff no protobuf"
_DAMAGE = (
    _BODY,
    b"",
    b"no message at all",
    b"1 2 3\n",
    b"x 1 2 0 0 m\nbody",
    b"\xff\xfe\n",
    b"9" * 40,
)


async def _letters(gate: Client, instance: str, reason: str) -> dict[str, str]:
    """The dead letters of a reason: batch id by conversation."""
    return {
        letter.conversation: letter.batch_id
        async for letter in gate.dead_letters(instance)
        if letter.last_error_reason == reason
    }


class _Mortal:
    """A subscriber that loses its connection whenever it gets poison, and comes back."""

    def __init__(self, target: str, history: History, instance: str):
        self._target, self._history, self._instance = target, history, instance
        self.deaths = 0

    async def live(self) -> None:
        while True:
            died = asyncio.Event()
            answering: set[str] = set()

            async def answer(
                batch: Batch, died: asyncio.Event = died, answering: set[str] = answering
            ) -> None:
                if batch.conversation.startswith(_POISON):
                    died.set()
                elif not died.is_set():
                    answering.add(batch.id)
                    await settle(self._history, batch)
                    answering.discard(batch.id)

            async with (
                Client(self._target) as gate,
                Reader(
                    gate,
                    self._history,
                    self._instance,
                    answer=answer,
                    max_in_flight=4,
                    lease=_LEASE,
                ),
            ):
                await died.wait()
                # Cut off in the midst of an ack, it would not know that the batch is settled.
                await eventually(lambda answering=answering: not answering)
            self.deaths += 1


async def _poisoned(dose: Dose) -> Score:
    deaths = 0
    async with (
        StoreProcess() as store,
        ForkedServer(
            dose.directory / "a", store_url=store.user_url, max_expiries=str(_EXPIRIES)
        ) as server,
        Client(server.target) as gate,
    ):

        async def a_round(history: History, instance: str, poisons: int) -> None:
            nonlocal deaths
            mortal = _Mortal(server.target, history, instance)
            life = asyncio.create_task(mortal.live())
            chats = {f"{_POISON} {n}" for n in range(poisons)}
            async with Load([gate], history, instance, producers=4) as load:
                for chat in chats:
                    await send(gate, history, (instance, chat), "m", policy=window(0.02))
                    await load.more(dose.between)

                async def buried() -> bool:
                    return (await _letters(gate, instance, "LEASE_EXPIRED")).keys() == chats

                await eventually(buried, within_s=30)
            for batch_id in (await _letters(gate, instance, "LEASE_EXPIRED")).values():
                _bury(history, batch_id)
            await eventually(history.drained, within_s=30)
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            deaths += mortal.deaths

        tallies = await in_rounds(dose, 1, a_round)
    note = f"subscribers died {deaths} times; a batch is given up after {_EXPIRIES} expiries"
    return add_up(tallies, faults=dose.faults, note=note)


def _bury(history: History, batch_id: str) -> None:
    """The server has ended the batch; after which attempt we need not know."""
    settlement = Settlement(batch_id, _EXPIRIES)
    history.end(history.invoke(settlement), Phase.OK, settlement)


async def _damaged(dose: Dose) -> Score:
    """Elements are damaged in the store itself, in the first, a middle or the last place."""
    chance, unkept = random.Random(dose.seed), list[str]()
    async with (
        StoreProcess() as store,
        ForkedServer(dose.directory / "a", store_url=store.user_url) as server,
        Client(server.target) as gate,
        store.client() as redis,
    ):

        async def a_round(history: History, instance: str, faults: int) -> None:
            chats = {f"damaged {n}" for n in range(faults)}
            async with Reader(gate, history, instance, lease=_LEASE):
                async with Load([gate], history, instance, producers=4) as load:
                    for chat in chats:
                        for n in range(3):
                            await gate.add(instance, chat, "x", message_id=f"m{n}")
                        row = Keys("tg").of("m", f"{instance}/{chat}")
                        await _damage(redis, row, chance.randrange(3), chance.choice(_DAMAGE))
                        await gate.flush(instance, chat)
                        await load.more(dose.between)

                    async def buried() -> bool:
                        return (await _letters(gate, instance, "CORRUPT")).keys() == chats

                    try:
                        await eventually(buried, within_s=10)
                    except TimeoutError:
                        found = await _letters(gate, instance, "CORRUPT")
                        missing = sorted(chats - found.keys())
                        unkept.append(f"no dead letter (CORRUPT) for {missing}")
                await eventually(history.drained, within_s=20)

        tallies = await in_rounds(dose, 20, a_round)
    tallies[0].other.extend(unkept)
    return add_up(tallies, faults=dose.faults)


async def _damage(redis: Redis, row: str, place: int, damage: bytes) -> None:
    """Replace an element, or what is behind its header."""
    if damage is _BODY:
        element = await redis.execute_command("LINDEX", row, place)
        damage = bytes(element or b"").partition(b"\n")[0] + _BODY
    await redis.execute_command("LSET", row, place, damage)


LINES = (
    Line(
        "a payload that kills its subscriber",
        _poisoned,
        short=(1, 50),
        long=(40, 4_000),
        expected="a dead letter after the expiries, the others flow",
    ),
    Line(
        "damaged elements in the store",
        _damaged,
        short=(6, 60),
        long=(600, 6_000),
        expected="dead letters (CORRUPT), the sweep goes on, the others flow",
    ),
)
