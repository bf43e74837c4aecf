"""Bugs that are planted to see whether they are found: each is one change of the server's text."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import tidegate_server


@dataclass(frozen=True, slots=True)
class Bug:
    """In `file` of the package, `text` becomes `instead`."""

    name: str
    file: str
    text: str
    instead: str
    slow: bool = False
    """It shows only after a lease, or in the end."""


def planted(bug: Bug | None, folder: Path) -> Path:
    """A folder with a copy of the server's package that has the bug."""
    copy = folder / "tidegate_server"
    (source,) = tidegate_server.__path__
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if bug:
        place = copy / bug.file
        text = place.read_text()
        if text.count(bug.text) != 1:
            raise ValueError(f"{bug.name}: {bug.file} has its text {text.count(bug.text)} times")
        place.write_text(text.replace(bug.text, bug.instead))
    return folder


BUGS = (
    Bug(
        "an ack is taken with any token",
        "store/lua/_settle.lua",
        "if meta.token == token then return nil end",
        "if true then return nil end",
        slow=True,
    ),
    Bug(
        "a claim leaves the conversation among those that are due",
        "store/lua/claim.lua",
        "redis.call('ZREM', keys.due, cid)\n",
        "",
    ),
    Bug(
        "a buffer expires",
        "store/lua/add.lua",
        "redis.call('RPUSH', chat.row, unpack(chat.elements))",
        "redis.call('RPUSH', chat.row, unpack(chat.elements)) redis.call('PEXPIRE', chat.row, 40)",
        slow=True,
    ),
    Bug(
        "an ack throws away the whole list",
        "store/lua/_settle.lua",
        "if redis.call('LLEN', from) == n then",
        "if true then",
    ),
    Bug(
        "the id of a message is not remembered",
        "store/lua/_ids.lua",
        "change(ids, ids.newer, id, string.format('%.0f %.0f 0', sequence, ids.now))",
        "",
    ),
    Bug(
        "a message is put in front of the others",
        "store/lua/add.lua",
        "redis.call('RPUSH', chat.row, unpack(chat.elements))",
        "redis.call('LPUSH', chat.row, unpack(chat.elements))",
    ),
    Bug(
        "sequences are used again",
        "store/lua/add.lua",
        "local sequence = redis.call('HINCRBY', KEYS[1], 'seq', ARGV[5]) - ARGV[5]",
        "local sequence = (redis.call('HINCRBY', KEYS[1], 'seq', ARGV[5]) - ARGV[5]) % 100",
    ),
    Bug(
        "a batch whose lease is over gets a new id",
        "store/lua/expire.lua",
        "wait(keys, conversation, now)\n",
        "wait(keys, conversation, now)\n"
        "redis.call('HDEL', keys.idx, id)\n"
        "redis.call('HSET', keys.idx, id .. '0', conversation.cid)\n"
        "redis.call('HSET', keys.meta, 'id', id .. '0')\n",
        slow=True,
    ),
    Bug(
        "a window closes at half of its length",
        "store/lua/_window.lua",
        "w.first, w.due, w.why, w.n, w.bytes, w.wire, w.full = now, now + w.delay,",
        "w.first, w.due, w.why, w.n, w.bytes, w.wire, w.full = now, now + w.delay / 2,",
    ),
    Bug(
        "a batch is dropped after its last retry",
        "store/lua/nack.lua",
        "if not backoff then return end_as(DEAD_LETTERED) end",
        "if not backoff then return end_as(COMPLETED) end",
        slow=True,
    ),
    Bug(
        "a batch that comes again takes newer messages along",
        "store/lua/claim.lua",
        "return answer(ends, batch.n)",
        "return answer(ends, redis.call('LLEN', keys.row))",
    ),
    Bug(
        "an add is answered before the store has it",
        "store/redis/deliveries.py",
        "            return await group.join(messages)\n",
        "            import asyncio, time\n"
        "            from tidegate_server.core.model import AddOutcome\n"
        "            from tidegate_server.store.base import Added\n"
        "            joined = group.join(messages)\n"
        "            joined.add_done_callback(lambda done: done.cancelled() or done.exception())\n"
        "            if (await asyncio.wait([joined], timeout=0.005))[0]:\n"
        "                return joined.result()\n"
        "            now_ms, told = round(time.time() * 1000), {'buffer_created': False}\n"
        "            told |= {'buffer': None, 'due_ms': None, 'in_flight': None}\n"
        "            return [Added(AddOutcome.BUFFERED, 0, now_ms, **told) for _ in messages]\n",
    ),
)
