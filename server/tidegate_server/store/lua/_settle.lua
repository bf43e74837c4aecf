-- How a batch leaves the front of its conversation, or waits there for its next delivery.

-- The keys of what is remembered of a batch in a final state.
local function settled_keys()
  return {status = KEYS[12], row = KEYS[13], attempts = KEYS[14],
          dead = KEYS[15], dead_of_instance = KEYS[16]}
end

-- The answer to a verdict on a batch that is not this token's to settle. nil: it is.
-- A verdict is "<token> <action>"; its repeat is recognised by it.
local function judge(keys, settled, meta, id, token, action, cid, now)
  local verdict = token .. ' ' .. action
  if meta.id == id then
    if meta.token == token then return nil end
    if meta.ended ~= verdict then return {now, 'LOST'} end
    local wait = redis.call('ZSCORE', keys.due, cid)
    return {now, 'ALREADY', wait and RETRY_SCHEDULED or DELIVERING, wait or ''}
  end
  local past = redis.call('HMGET', settled.status, 'verdict', 'state')
  if not past[1] then return {now, 'UNKNOWN'} end
  if past[1] ~= verdict then return {now, 'LOST'} end
  return {now, 'ALREADY', tonumber(past[2]), ''}
end

local function end_attempt(keys, now, reason, message)
  local newest = redis.call('LINDEX', keys.attempts, -1)
  if not newest then return end
  local legible, attempt = pcall(cjson.decode, newest)
  if not legible or type(attempt) ~= 'table' or attempt.ended then return end
  attempt.ended, attempt.reason, attempt.message = string.format('%.0f', now), reason, message
  redis.call('LSET', keys.attempts, -1, cjson.encode(attempt))
end

-- Moves the first n elements of a list. The whole list only changes its name.
local function move(from, to, n)
  if redis.call('LLEN', from) == n then
    redis.call('RENAME', from, to)
    return
  end
  for i = 0, n - 1, 16 do
    redis.call('RPUSH', to, unpack(redis.call('LRANGE', from, i, math.min(i + 15, n - 1))))
  end
  redis.call('LTRIM', from, n, -1)
end

local function forget_after(key, ms)
  if ms then redis.call('PEXPIRE', key, ms) end
end

-- Adds a batch to the conversation's past, newest first, and drops what has been forgotten.
local function remember(keys, id, batch, state, now, keep_ms)
  redis.call('LPUSH', keys.past, string.format('%.0f %s %.0f %.0f %d', now, id, batch.first,
    batch.last, state))
  redis.call('PEXPIRE', keys.past, keep_ms)
  while true do
    local oldest = redis.call('LINDEX', keys.past, -1)
    if string.match(oldest, '%d+') + keep_ms > now then return end
    redis.call('RPOP', keys.past)
  end
end

-- Puts the messages of the batch back into the buffer, in front. They ride along: the window of
-- the newer messages stands, and without any it opens anew.
local function unseal(keys, meta, batch, now)
  local buffer = meta.buffer and unpack_line(BUFFER, meta.buffer)
  local before = meta.window and unpack_line(WINDOW, meta.window)
  if not buffer then
    local _, last = header(redis.call('LINDEX', keys.row, batch.n - 1) or '', now)
    buffer = {last = last, count = 0, bytes = 0, riders = 0, flushed = 0}
    count(keys, 'open', 1)
  end
  buffer.opened = batch.opened
  buffer.count, buffer.bytes = buffer.count + batch.n, buffer.bytes + batch.bytes
  buffer.riders, buffer.rebuffers = buffer.riders + batch.n, batch.rebuffers + 1
  local window
  if before then window = rebuild(before, keys.row, 0, buffer.riders, now)
  else window = replay(meta.policy, keys.row, 0, buffer.riders, now) end
  count(keys, 'messages', batch.n)
  meta.buffer, meta.window = pack_line(BUFFER, buffer), pack_line(WINDOW, window)
  redis.call('HSET', keys.meta, 'buffer', meta.buffer, 'window', meta.window)
end

-- Brings the batch to the final state outcome.state and opens what waits behind it. The messages
-- are kept for keep.row ms, what is known of it for keep.status ms, and everything of a dead
-- letter for good. Returns when the rest is due, '' if there is none.
local function finish(keys, settled, meta, conversation, outcome, keep, now)
  local batch, state = unpack_line(BATCH, meta.batch), outcome.state
  local leased = redis.call('ZREM', keys.lease, conversation.cid) == 1
  local was_due = redis.call('ZREM', keys.due, conversation.cid) == 1
  count(keys, leased and 'leased' or 'retrying', -1)
  redis.call('HDEL', keys.idx, meta.id)
  end_attempt(keys, now, outcome.reason or '', outcome.message or '')

  local dead = state == DEAD_LETTERED
  redis.call('HSET', settled.status, 'batch', meta.batch, 'policy', meta.policy, 'cid', conversation.cid,
    'state', state, 'attempt', meta.attempt, 'reason', outcome.reason or meta.reason or '',
    'error', outcome.message or meta.error or '', 'verdict', outcome.verdict, 'settled', now,
    'expires', dead and '' or now + keep.status)
  remember(keys, meta.id, batch, state, now, keep.status)
  if redis.call('EXISTS', keys.attempts) == 1 then
    redis.call('RENAME', keys.attempts, settled.attempts)
    forget_after(settled.attempts, not dead and keep.status)
  end
  forget_after(settled.status, not dead and keep.status)

  if state == REBUFFERED then unseal(keys, meta, batch, now)
  elseif dead or keep.row > 0 then
    move(keys.row, settled.row, batch.n)
    forget_after(settled.row, not dead and keep.row)
  else redis.call('LTRIM', keys.row, batch.n, -1) end
  if dead then
    redis.call('ZADD', settled.dead, now, meta.id)
    redis.call('ZADD', settled.dead_of_instance, now, meta.id)
    redis.call('SADD', keys.letters, meta.id)
  end

  local due = ''
  if meta.window then
    redis.call('HDEL', keys.meta, 'id', 'batch', 'policy', 'token', 'attempt', 'nacks',
      'expiries', 'ended', 'reason', 'error')
    due = unpack_line(WINDOW, meta.window).due
    redis.call('ZADD', keys.due, due, conversation.cid)
  else redis.call('DEL', keys.meta) end
  if was_due or due ~= '' then reindex(keys.inst, keys.due, conversation.instance) end
  return due
end

-- Has the batch wait, under the same id, until `due`. Returns whether it was leased till now.
local function wait(keys, conversation, due)
  local leased = redis.call('ZREM', keys.lease, conversation.cid) == 1
  redis.call('ZADD', keys.due, due, conversation.cid)
  reindex(keys.inst, keys.due, conversation.instance)
  if leased then
    count(keys, 'leased', -1)
    count(keys, 'retrying', 1)
  end
  return leased
end
