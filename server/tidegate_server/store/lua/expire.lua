-- EXPIRE: takes back a batch whose lease is over.
--
-- It is due at once, under the token that it had, so that a late ack still counts while nobody
-- has claimed it. After too many expiries it becomes a dead letter: a batch that kills its
-- subscribers must come to an end.
--
-- KEYS  the conversation's (see _prelude), the settled batch's (see _settle)
-- ARGV  1 clock  2 cid  3 instance  4 batch id  5 most expiries  6 status kept ms
-- Returns {now, DONE, state, next attempt, due} or {now, NONE}
-- Cost  O(1), for a dead letter O(messages of the batch)
local keys, settled, now = conversation_keys(), settled_keys(), clock(ARGV[1])
local conversation, id = {cid = ARGV[2], instance = ARGV[3]}, ARGV[4]
local meta = read(keys.meta)
local ends = redis.call('ZSCORE', keys.lease, conversation.cid)
if meta.id ~= id or not ends or tonumber(ends) > now then return {now, 'NONE'} end

local expiries, reason = meta.expiries + 1, 'LEASE_EXPIRED'
if expiries >= tonumber(ARGV[5]) then
  local due = finish(keys, settled, meta, conversation,
    {state = DEAD_LETTERED, verdict = meta.token .. ' expire', reason = reason, message = ''},
    {status = tonumber(ARGV[6]), row = 0}, now)
  return {now, 'DONE', DEAD_LETTERED, '', due}
end
wait(keys, conversation, now)
redis.call('HSET', keys.meta, 'expiries', expiries, 'reason', reason, 'error', '')
end_attempt(keys, now, reason, '')
return {now, 'DONE', RETRY_SCHEDULED, now, now}
