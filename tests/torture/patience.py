"""Producers and subscribers that take a refusal for what it is, and go on."""

import asyncio
import itertools
import random

from tests.end_to_end.traffic import Load, send, settle
from tests.support.history import History
from tidegate import Batch, Client, ResourceExhausted

_PAUSE_S = 0.02


class PatientLoad(Load):
    """A load that goes on with another message when the store is full."""

    refused = 0

    async def _produce(self, producer: str, gate: Client) -> None:
        for n in itertools.count():
            if self._stopping:
                return
            chat = random.choice(self._chats)
            try:
                await send(gate, self._history, chat, f"{producer}-{n}", policy=self._policy)
                self.sent += 1
            except ResourceExhausted as error:
                if error.reason != "STORE_FULL":
                    raise
                self.refused += 1
                await asyncio.sleep(_PAUSE_S)


async def settle_in_time(history: History, batch: Batch) -> None:
    """Acknowledge, again and again while the store is full."""
    while True:
        try:
            await settle(history, batch)
            return
        except ResourceExhausted as error:
            if error.reason != "STORE_FULL":
                raise
            await asyncio.sleep(_PAUSE_S)
