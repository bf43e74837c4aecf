-- What every script starts with. Times are milliseconds, sizes bytes, counts messages.
--
-- A window is kept as one line of numbers, named here once:
local WINDOW = {'mode', 'delay', 'grace', 'max_wait', 'max_messages', 'max_bytes',
                'first', 'due', 'why', 'n', 'bytes', 'wire', 'full'}
-- and so is what the buffer knows beyond its first window:
local BUFFER = {'opened', 'last', 'count', 'bytes', 'riders', 'rebuffers', 'flushed'}
-- and what never changes about a batch (its id comes first, its policy last):
local BATCH = {'n', 'bytes', 'first', 'last', 'opened', 'due', 'sealed', 'why', 'rebuffers'}

local FIXED = 1
local DELAY, MAX_WAIT, MAX_MESSAGES, MAX_BYTES, REQUESTED = 1, 2, 3, 4, 5
local DELIVERING, RETRY_SCHEDULED, COMPLETED, DEAD_LETTERED, REBUFFERED, DISCARDED = 1, 2, 3, 4, 5, 6
local MAX_WIRE_BYTES = 3407872

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function unpack_line(names, line)
  local values, i = {}, 0
  for word in string.gmatch(line, '%S+') do
    i = i + 1
    values[names[i] or i] = tonumber(word) or word
  end
  return values
end

local function pack_line(names, values)
  local words = {}
  for i, name in ipairs(names) do words[i] = string.format('%.0f', values[name]) end
  return table.concat(words, ' ')
end

-- A hash as a table. Fields that do not exist are nil.
local function read(key)
  local flat, values = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do values[flat[i]] = flat[i + 1] end
  return values
end

-- The instance's place among the instances: the earliest due time of its conversations.
local function reindex(inst, due, instance)
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', inst, first[2], instance)
  else redis.call('ZREM', inst, instance) end
end

-- A gauge of the instance and of all.
local function count(keys, gauge, change)
  if change ~= 0 then
    redis.call('HINCRBY', keys.ctr, gauge, change)
    redis.call('HINCRBY', keys.gauges, gauge, change)
  end
end

-- The keys of one conversation, in the order in which every script but ADD passes them.
local function conversation_keys()
  return {ctr = KEYS[1], inst = KEYS[2], due = KEYS[3], gauges = KEYS[4], lease = KEYS[5],
          idx = KEYS[6], meta = KEYS[7], row = KEYS[8], attempts = KEYS[9], past = KEYS[10],
          letters = KEYS[11]}
end
