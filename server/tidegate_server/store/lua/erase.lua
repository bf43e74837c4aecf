-- ERASE: forgets all that is stored of a conversation.
--
-- The caller names the batches that it knows of; if there are others by now, nothing is erased
-- and it has to look again.
--
-- KEYS  the conversation's (see _prelude), 12 {p}:d:<cid>  13 {p}:e:<cid>  14 {p}:dead
--       15 {p}:dead:<instance>, then per batch {p}:s:<id> {p}:r:<id> {p}:t:<id>
-- ARGV  1 clock  2 cid  3 instance, then the batches' ids in the order of their keys
-- Returns {ERASED, messages, batch in front} or {AGAIN}
-- Cost  O(all that is stored of it)
local keys = conversation_keys()
local cid, instance, known = ARGV[2], ARGV[3], {['']=true}
for i = 4, #ARGV do known[ARGV[i]] = true end
local meta = read(keys.meta)
local there = redis.call('SMEMBERS', keys.letters)
there[#there + 1] = meta.id
for _, line in ipairs(redis.call('LRANGE', keys.past, 0, -1)) do
  there[#there + 1] = string.match(line, '^%d+ (%S+)')
end
for _, id in ipairs(there) do
  if not known[id] then return {'AGAIN'} end
end

local leased = redis.call('ZREM', keys.lease, cid) == 1
redis.call('ZREM', keys.due, cid)
local length = redis.call('LLEN', keys.row)
if meta.id then
  count(keys, leased and 'leased' or 'retrying', -1)
  redis.call('HDEL', keys.idx, meta.id)
end
if meta.window then
  count(keys, 'open', -1)
  count(keys, 'messages', -unpack_line(BUFFER, meta.buffer).count)
end
for i = 4, #ARGV do
  local at = 15 + 3 * (i - 4)
  length = length + redis.call('LLEN', KEYS[at + 2])
  redis.call('ZREM', KEYS[14], ARGV[i])
  redis.call('ZREM', KEYS[15], ARGV[i])
  redis.call('DEL', KEYS[at + 1], KEYS[at + 2], KEYS[at + 3])
end
redis.call('DEL', keys.meta, keys.row, keys.attempts, keys.past, keys.letters, KEYS[12], KEYS[13])
reindex(keys.inst, keys.due, instance)
return {'ERASED', length, meta.id or ''}
