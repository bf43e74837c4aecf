-- EXTEND: moves the end of a lease.
--
-- Only for the newest token, and only while nobody has taken the lease back.
--
-- KEYS  the conversation's (see _prelude), the settled batch's (see _settle)
-- ARGV  1 clock  2 cid  3 instance  4 batch id  5 token  6 lease ms from now
-- Returns {now, DONE, the lease's end} or {now, LOST|UNKNOWN}
-- Cost  O(1)
local keys, settled, now = conversation_keys(), settled_keys(), clock(ARGV[1])
local cid, id, token = ARGV[2], ARGV[4], ARGV[5]
local meta = read(keys.meta)
if meta.id ~= id then
  return {now, redis.call('EXISTS', settled.status) == 1 and 'LOST' or 'UNKNOWN'}
end
if meta.token ~= token or not redis.call('ZSCORE', keys.lease, cid) then return {now, 'LOST'} end
local ends = now + tonumber(ARGV[6])
redis.call('ZREM', keys.lease, cid)
redis.call('ZADD', keys.lease, ends, cid)
return {now, 'DONE', ends}
