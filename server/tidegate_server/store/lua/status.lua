-- STATUS: where a conversation stands. Reads only.
--
-- KEYS  the conversation's (see _prelude)
-- ARGV  1 clock  2 cid  3 messages of the batch wanted 0|1
-- Returns {now, meta as flat hash, lease's end, due, newest settled batch, attempts, messages}
-- Cost  O(1), with messages O(messages of the batch)
local keys, now = conversation_keys(), clock(ARGV[1])
local cid = ARGV[2]
local meta = read(keys.meta)
local attempts, messages = {}, {}
if ARGV[3] == '1' and meta.id then
  attempts = redis.call('LRANGE', keys.attempts, 0, -1)
  messages = redis.call('LRANGE', keys.row, 0, unpack_line(BATCH, meta.batch).n - 1)
end
return {now, redis.call('HGETALL', keys.meta), redis.call('ZSCORE', keys.lease, cid) or '',
        redis.call('ZSCORE', keys.due, cid) or '', redis.call('GET', keys.newest) or '',
        attempts, messages}
