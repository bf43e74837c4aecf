-- CLAIM: leases a conversation's next batch, forming it first if its window is over.
--
-- This is where a buffer is sealed: a message that the store takes before this script joins, one
-- after it opens the next buffer. A repeat with the token in force answers the same batch. The
-- first write takes the conversation out of the due index, which a full store allows.
--
-- KEYS  the conversation's (see _prelude)
-- ARGV  1 clock  2 cid  3 instance  4 token  5 lease ms  6 channel  7 subscriber
-- Returns {now, BATCH, meta as flat hash, lease's end, messages} or {now, EARLY, due} or {now, NONE}
-- Cost  O(messages of the batch)
local keys, now = conversation_keys(), clock(ARGV[1])
local cid, instance, token = ARGV[2], ARGV[3], ARGV[4]

local function answer(ends, n)
  return {now, 'BATCH', redis.call('HGETALL', keys.meta), ends,
          redis.call('LRANGE', keys.row, 0, n - 1)}
end

local function seal(meta)
  local window, buffer = unpack_line(WINDOW, meta.window), unpack_line(BUFFER, meta.buffer)
  local first, at = header(redis.call('LINDEX', keys.row, 0) or '', now)
  local last = header(redis.call('LINDEX', keys.row, window.n - 1) or '', now)
  local fence = redis.call('HINCRBY', keys.ctr, 'fence', 1)
  local partition = string.match(keys.ctr, '{p(%d+)}')
  local id = string.format('%s-%.0f-%.0f', partition, fence, now)
  local batch = {n = window.n, bytes = window.bytes, first = first, last = last, opened = at,
                 due = window.due, sealed = now, why = window.why, rebuffers = buffer.rebuffers}
  redis.call('HSET', keys.meta, 'id', id, 'batch', pack_line(BATCH, batch),
    'policy', policy_of(window), 'nacks', 0, 'expiries', 0)
  redis.call('HSET', keys.idx, id, cid)

  buffer.count, buffer.bytes = buffer.count - window.n, buffer.bytes - window.bytes
  count(keys, 'messages', -window.n)
  if buffer.count == 0 then
    redis.call('HDEL', keys.meta, 'window', 'buffer')
    count(keys, 'open', -1)
    return batch
  end
  buffer.riders = math.max(0, buffer.riders - window.n)
  if buffer.riders == 0 then buffer.rebuffers = 0 end
  local rest = replay(policy_of(window), keys.row, window.n, buffer.riders, now)
  local _, opened = header(redis.call('LINDEX', keys.row, window.n), now)
  local newer = header(redis.call('LINDEX', keys.row, window.n + buffer.riders) or '', now)
  if newer > 0 and newer <= buffer.flushed then close(rest, now, REQUESTED) end
  buffer.opened = opened
  redis.call('HSET', keys.meta, 'window', pack_line(WINDOW, rest),
    'buffer', pack_line(BUFFER, buffer))
  return batch
end

local meta = read(keys.meta)
local ends = redis.call('ZSCORE', keys.lease, cid)
if ends and meta.token == token then return answer(ends, unpack_line(BATCH, meta.batch).n) end
local due = redis.call('ZSCORE', keys.due, cid)
if not due then return {now, 'NONE'} end
if tonumber(due) > now then return {now, 'EARLY', tonumber(due)} end

redis.call('ZREM', keys.due, cid)
local batch
if meta.id then
  batch = unpack_line(BATCH, meta.batch)
  count(keys, 'retrying', -1)
else batch = seal(meta) end
local attempt = (meta.attempt or 0) + 1
redis.call('HSET', keys.meta, 'token', token, 'attempt', attempt)
redis.call('RPUSH', keys.attempts, cjson.encode({number = attempt, channel = tonumber(ARGV[6]),
  subscriber = ARGV[7], started = string.format('%.0f', now)}))
ends = now + tonumber(ARGV[5])
redis.call('ZADD', keys.lease, ends, cid)
count(keys, 'leased', 1)
reindex(keys.inst, keys.due, instance)
return answer(ends, batch.n)
