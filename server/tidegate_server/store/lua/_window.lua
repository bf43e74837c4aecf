-- When a window closes: the same decisions as core/window.py, in the same order.

local function is_over(w, now) return now >= w.due end

local function close(w, now, why)
  if not is_over(w, now) then w.due, w.why = now, why end
end

local function fill(w, now, why)
  close(w, now, why)
  w.full = 1
end

local function fits(w, payload, wire)
  if w.full == 1 then return false end
  return w.n == 0 or (w.bytes + payload <= w.max_bytes and w.wire + wire <= MAX_WIRE_BYTES)
end

local function count_in(w, now, payload, wire)
  w.n, w.bytes, w.wire = w.n + 1, w.bytes + payload, w.wire + wire
  if w.n >= w.max_messages then fill(w, now, MAX_MESSAGES)
  elseif w.bytes >= w.max_bytes or w.wire >= MAX_WIRE_BYTES then fill(w, now, MAX_BYTES) end
end

local function stretch(w, now)
  if is_over(w, now) then return end
  local till, why
  if w.mode == FIXED then
    till, why = math.min(now + w.grace, w.first + w.delay + w.grace), DELAY
  else
    local limit = w.first + w.max_wait
    till = math.min(now + w.delay, limit)
    why = till == limit and MAX_WAIT or DELAY
  end
  if till > w.due then w.due, w.why = till, why end
end

local function open_window(policy, now)
  local w = unpack_line(POLICY, policy)
  w.first, w.due, w.why, w.n, w.bytes, w.wire, w.full = now, now + w.delay, DELAY, 0, 0, 0, 0
  return w
end

-- Whether the message is in the window.
local function join(w, now, payload, wire, flush)
  if not fits(w, payload, wire) then
    fill(w, now, MAX_BYTES)
    return false
  end
  stretch(w, now)
  count_in(w, now, payload, wire)
  if flush == 1 then close(w, now, REQUESTED) end
  return true
end

local function ride(w, payload, wire)
  if not fits(w, payload, wire) then
    fill(w, w.first, MAX_BYTES)
    return false
  end
  count_in(w, w.first, payload, wire)
  return true
end

local function policy_of(w) return pack_line(POLICY, w) end

-- What a stored element says of itself. One that is damaged counts with its whole length.
local function header(element, now)
  local seq, at, payload, flush = string.match(element, '^(%d+) (%d+) (%d+) ([01]) %d+ ')
  if not seq then return 0, now, #element, 0 end
  return tonumber(seq), tonumber(at), tonumber(payload), tonumber(flush)
end

-- The first window of the row from `from` on, as if its messages arrived one by one; nil if there
-- are none. Reads a few elements at a time, since payloads are large and a window's limits small.
-- None arrived later than now, whatever a clock said that was set back since.
local function replay(policy, row, from, riders, now)
  local w, i, done = nil, 0, false
  if riders > 0 then
    local newer = redis.call('LINDEX', row, from + riders)
    local _, at = header(newer or '', now)
    w = open_window(policy, math.min(at, now))
  end
  repeat
    local elements = redis.call('LRANGE', row, from + i, from + i + 15)
    for _, element in ipairs(elements) do
      local _, at, payload, flush = header(element, now)
      at = math.min(at, now)
      w = w or open_window(policy, at)
      local joined
      if i < riders then joined = ride(w, payload, #element)
      else joined = join(w, at, payload, #element, flush) end
      i = i + 1
      if not joined or w.full == 1 then done = true break end
    end
  until done or #elements < 16
  return w
end

-- The window after a change to its messages. They are counted anew; the end moves only if the
-- window is full now and was not over.
local function rebuild(w, row, from, riders, now)
  local counted = replay(policy_of(w), row, from, riders, now)
  if not counted then return nil end
  if counted.full == 1 and not is_over(w, now) then counted.due = now
  else counted.due, counted.why = w.due, w.why end
  counted.first = w.first
  return counted
end

-- Writes the window and its place in the index, unless a batch is in front. The first write is
-- one that a full store allows. Returns the two lines as they are stored.
local function put_window(keys, conversation, window, buffer, in_front)
  local lines = {pack_line(WINDOW, window), pack_line(BUFFER, buffer)}
  redis.call('ZREM', keys.due, '')
  redis.call('HSET', keys.meta, 'window', lines[1], 'buffer', lines[2])
  if not in_front then
    redis.call('ZADD', keys.due, window.due, conversation.cid)
    reindex(keys.inst, keys.due, conversation.instance)
  end
  return lines[1], lines[2]
end
