-- Finding and changing messages of the open part of a row.

-- The conversation's keys of message ids.
local function seen_keys() return {KEYS[12], KEYS[13]} end

local function id_of(element) return string.match(element, '^%d+ %d+ %d+ [01] %d+ (.-)\n') end

-- Where an id is remembered, its sequence, and whether the message was taken out again.
local function recall(id)
  for _, key in ipairs(seen_keys()) do
    local entry = redis.call('HGET', key, id)
    if entry then
      local sequence, gone = string.match(entry, '^(%d+) %d+ %d+(.*)')
      return key, tonumber(sequence), gone ~= ''
    end
  end
end

-- A message taken out is remembered as such: a late repeat must not bring it back.
local function mark_gone(id)
  local key, _, gone = recall(id)
  if key and not gone then redis.call('HSET', key, id, redis.call('HGET', key, id) .. ' gone') end
end

-- The place of the message with the sequence among row[from ..], by halving; nil if not there.
local function find(row, from, sequence, now)
  local low, high = from, redis.call('LLEN', row) - 1
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local at = header(redis.call('LINDEX', row, middle), now)
    if at == sequence then return middle end
    if at < sequence then low = middle + 1 else high = middle - 1 end
  end
end

-- The open part of a conversation and the place in it of the message with the id. Without a place
-- the second result says why: nothing there, taken out before, or in a batch.
local function locate(keys, meta, id, now)
  local key, sequence, gone = recall(id)
  if not key then return nil, 'UNKNOWN' end
  if gone then return nil, 'GONE' end
  local sealed = meta.id and unpack_line(BATCH, meta.batch).n or 0
  local place = meta.window and find(keys.row, sealed, sequence, now)
  if not place then return nil, 'SEALED' end
  return {sealed = sealed, place = place, window = unpack_line(WINDOW, meta.window),
          buffer = unpack_line(BUFFER, meta.buffer)}
end
