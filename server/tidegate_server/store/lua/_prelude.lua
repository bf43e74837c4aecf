-- What every script starts with. Times are milliseconds, sizes bytes, counts messages.
--
-- A window, and what the buffer knows beyond its first window, are kept as lines of numbers, and so
-- is what never changes about a batch. Here each number has its name:
local function line_of(names)
  names.pattern = string.rep('(%d+) ', #names - 1) .. '(%d+)'
  names.format = string.rep('%.0f ', #names - 1) .. '%.0f'
  return names
end
local POLICY = line_of {'mode', 'delay', 'grace', 'max_wait', 'max_messages', 'max_bytes'}
local WINDOW = line_of {'mode', 'delay', 'grace', 'max_wait', 'max_messages', 'max_bytes',
                        'first', 'due', 'why', 'n', 'bytes', 'wire', 'full'}
local BUFFER = line_of {'opened', 'last', 'count', 'bytes', 'riders', 'rebuffers', 'flushed'}
-- Limits of what waits, 0 = none, in the order of core/quota.py.
local QUOTA = line_of {'conversation_messages', 'conversation_bytes', 'instance_messages',
                       'instance_buffers', 'store_messages', 'store_buffers'}
local BATCH = line_of {'n', 'bytes', 'first', 'last', 'opened', 'due', 'sealed', 'why', 'rebuffers'}

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
  local words, values = {string.match(line, names.pattern)}, {}
  for i = 1, #names do values[names[i]] = tonumber(words[i]) end
  return values
end

local function pack_line(names, values)
  local words = {}
  for i = 1, #names do words[i] = values[names[i]] end
  return string.format(names.format, unpack(words))
end

-- The number of the first limit that is passed, nil if none is.
local function first_passed(quota, would_wait)
  for limit, name in ipairs(QUOTA) do
    if quota[name] > 0 and would_wait[name] > quota[name] then return limit end
  end
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
