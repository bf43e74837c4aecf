-- STATUS: where a conversation stands. Reads only.
--
-- KEYS  the conversation's (see _prelude)
-- ARGV  1 clock  2 cid  3 instance  4 messages of the batch wanted 0|1
-- Returns {now, meta as flat hash, lease's end, due, past batches, attempts, messages}
-- Cost  O(past batches), with messages O(messages of the batch)
local keys, now = conversation_keys(), clock(ARGV[1])
local cid = ARGV[2]
local meta = read(keys.meta)
local attempts, messages = {}, {}
if ARGV[4] == '1' and meta.id then
  attempts = redis.call('LRANGE', keys.attempts, 0, -1)
  messages = redis.call('LRANGE', keys.row, 0, unpack_line(BATCH, meta.batch).n - 1)
end
return {now, redis.call('HGETALL', keys.meta), redis.call('ZSCORE', keys.lease, cid) or '',
        redis.call('ZSCORE', keys.due, cid) or '', redis.call('LRANGE', keys.past, 0, -1),
        attempts, messages}
