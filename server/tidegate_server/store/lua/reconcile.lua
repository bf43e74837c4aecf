-- RECONCILE: repairs what cannot happen, in one conversation.
--
-- A conversation with messages is in exactly one of the indexes, an unsettled batch can be found
-- by its id, and no time is further ahead than its policy allows. What no script can have written
-- is lost: a batch's messages go back to the buffer, and messages whose window is lost get one of
-- the policy given. Writes nothing where all is well.
--
-- What began in the future shows that the clock was set back, or that this is another machine's
-- since a failover. It begins now, and what hangs on it moves with it.
--
-- KEYS  the conversation's (see _prelude)
-- ARGV  1 clock  2 cid  3 instance  4 policy for a lost window  5 longest lease or retry ms
-- Returns the number of repairs
-- Cost  O(1), for a lost window O(messages of a batch)
local keys, now = conversation_keys(), clock(ARGV[1])
local cid, instance, farthest = ARGV[2], ARGV[3], now + tonumber(ARGV[5])
local repairs = 0
local SLACK = 1000  -- ms that a clock may be set back by, and nobody will mind
for key, kind in pairs({[keys.meta] = 'hash', [keys.row] = 'list', [keys.attempts] = 'list'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
    repairs = repairs + 1
  end
end
local meta, length = read(keys.meta), redis.call('LLEN', keys.row)

local function says(names, line) return line and string.match(line, '^' .. names.pattern .. '$') end
local function lose(...)
  redis.call('HDEL', keys.meta, ...)
  for _, field in ipairs({...}) do meta[field] = nil end
  repairs = repairs + 1
end

local batch = says(BATCH, meta.batch) and unpack_line(BATCH, meta.batch)
local counts = tonumber(meta.attempt) and tonumber(meta.nacks) and tonumber(meta.expiries)
local named = meta.id and string.match(meta.id, '^%d+%-%d+%-%d+$')
if length > 0 and (meta.id or meta.batch) and not (named and batch and batch.n > 0
    and batch.n <= length and counts and says(POLICY, meta.policy)) then
  if meta.id then redis.call('HDEL', keys.idx, meta.id) end
  lose('id', 'batch', 'policy', 'token', 'attempt', 'nacks', 'expiries', 'ended', 'reason', 'error')
end
local waiting = length - (meta.id and batch.n or 0)
local buffer = says(BUFFER, meta.buffer) and unpack_line(BUFFER, meta.buffer)
if length > 0 and (meta.window or meta.buffer) and not (says(WINDOW, meta.window) and buffer
    and buffer.count == waiting) then
  lose('window', 'buffer')
end
local lease, due = redis.call('ZSCORE', keys.lease, cid), redis.call('ZSCORE', keys.due, cid)

local function place(index, at)
  redis.call('ZREM', keys.lease, cid)
  redis.call('ZREM', keys.due, cid)
  if at then redis.call('ZADD', index, at, cid) end
  repairs = repairs + 1
end

-- How far ahead the batch's last attempt began, or ended, by the clock of today.
local function attempt_ahead()
  local newest = redis.call('LINDEX', keys.attempts, -1)
  if not newest then return 0 end
  local _, attempt = pcall(cjson.decode, newest)
  local at = type(attempt) == 'table' and tonumber(attempt.ended or attempt.started)
  if at then return at - now, attempt end
  redis.call('DEL', keys.attempts)
  repairs = repairs + 1
  return 0
end

local function move_back(index, at, ahead, attempt)
  place(index, at - ahead)
  attempt[attempt.ended and 'ended' or 'started'] = string.format('%.0f', now)
  redis.call('LSET', keys.attempts, -1, cjson.encode(attempt))
end

local sealed = meta.id and unpack_line(BATCH, meta.batch).n or 0
if length == 0 then
  if next(meta) or lease or due then
    place(keys.due, nil)
    redis.call('DEL', keys.meta)
    if meta.id then redis.call('HDEL', keys.idx, meta.id) end
  end
elseif meta.id then
  local ahead, attempt = attempt_ahead()
  if ahead > SLACK and (lease or due) then
    move_back(lease and keys.lease or keys.due, lease or due, ahead, attempt)
  elseif lease and tonumber(lease) > farthest then place(keys.lease, farthest)
  elseif lease and due then place(keys.lease, lease)
  elseif due and tonumber(due) > farthest then place(keys.due, farthest)
  elseif not lease and not due then place(keys.due, now) end
  if redis.call('HGET', keys.idx, meta.id) ~= cid then
    redis.call('HSET', keys.idx, meta.id, cid)
    repairs = repairs + 1
  end
end
if length > sealed then
  local window = meta.window and unpack_line(WINDOW, meta.window)
  local far = window and now + math.max(window.delay + window.grace, window.max_wait)
  if not window or not meta.buffer then
    local _, opened = header(redis.call('LINDEX', keys.row, sealed), now)
    local _, last = header(redis.call('LINDEX', keys.row, -1), now)
    window = replay(ARGV[4], keys.row, sealed, 0, now)
    local buffer = {opened = opened, last = last, count = length - sealed, bytes = 0,
                    riders = 0, rebuffers = 0, flushed = 0}
    for i = sealed, length - 1, 16 do
      for _, element in ipairs(redis.call('LRANGE', keys.row, i, i + 15)) do
        local _, _, payload = header(element, now)
        buffer.bytes = buffer.bytes + payload
      end
    end
    redis.call('ZREM', keys.due, '')
    redis.call('HSET', keys.meta, 'buffer', pack_line(BUFFER, buffer))
    repairs = repairs + 1
  elseif window.first > now + SLACK or window.due > far then
    local ahead = math.max(0, window.first - now)
    window.first, window.due = window.first - ahead, math.min(window.due - ahead, far)
    redis.call('ZREM', keys.due, '')
    repairs = repairs + 1
  end
  if repairs > 0 then redis.call('HSET', keys.meta, 'window', pack_line(WINDOW, window)) end
  if not meta.id and (lease or not due or tonumber(due) ~= window.due) then
    place(keys.due, window.due)
  end
end
if repairs > 0 then reindex(keys.inst, keys.due, instance) end
return repairs
