-- ADOPT: puts in its place what a move brings: a conversation, or one batch in a final state.
--
-- Does nothing if any of it is there: then it came before. The first write is one that a full
-- store refuses, so that a refusal leaves no trace.
--
-- KEYS  1 {p}:ctr  2 {p}:inst  3 {p}:due:<instance>  4 {p}:n:<instance>  5 {p}:lease  6 {p}:idx
--       7 {p}:dead  8 {p}:dead:<instance>, then the keys to write
-- ARGV  1 clock  2 instance  3 cid  4 batch id  5 due  6 lease's end  7 dead since ('' = not)
--       8 open  9 messages  10 leased  11 retrying (what they add to the gauges), then per key:
--       its command, ms to live ('' = for good), number of elements, the elements
-- Returns 1, or 0 if it was there
-- Cost  O(all that is stored of it)
local MOST = 1000
local keys = {ctr = KEYS[1], inst = KEYS[2], due = KEYS[3], gauges = KEYS[4]}
for i = 9, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then return 0 end
end

local at = 12
for i = 9, #KEYS do
  local command, ttl, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  for from = at, at + n - 1, MOST do
    redis.call(command, KEYS[i], unpack(ARGV, from, math.min(from + MOST, at + n) - 1))
  end
  at = at + n
  if ttl ~= '' then redis.call('PEXPIRE', KEYS[i], ttl) end
end

local instance, cid, id, due, ends, dead = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if due ~= '' then redis.call('ZADD', keys.due, due, cid) end
if ends ~= '' then redis.call('ZADD', KEYS[5], ends, cid) end
if dead ~= '' then
  redis.call('ZADD', KEYS[7], dead, id)
  redis.call('ZADD', KEYS[8], dead, id)
elseif id ~= '' then redis.call('HSET', KEYS[6], id, cid) end
for i, gauge in ipairs({'open', 'messages', 'leased', 'retrying'}) do
  count(keys, gauge, tonumber(ARGV[7 + i]))
end
reindex(keys.inst, keys.due, instance)
return 1
