-- REQUEUE: puts the messages of a dead letter back into the buffer, due at once.
--
-- As if they arrived again: new sequence, new time, the same ids. The first write takes the
-- batch out of the index of dead letters, so this happens exactly once.
--
-- KEYS  the conversation's (see _prelude), the settled batch's (see _settle), 17 {p}:d:<cid>
--       18 {p}:e:<cid>
-- ARGV  1 clock  2 cid  3 instance  4 batch id  5 de-duplication ms
-- Returns {now, applied 0|1, window, buffer, batch in front}
-- Cost  O(messages of the batch)
local keys, settled, now = conversation_keys(), settled_keys(), clock(ARGV[1])
local conversation, id = {cid = ARGV[2], instance = ARGV[3]}, ARGV[4]
if redis.call('ZREM', settled.dead, id) == 0 then return {now, 0, '', '', ''} end
redis.call('ZREM', settled.dead_of_instance, id)
redis.call('SREM', keys.letters, id)
local policy = redis.call('HGET', settled.status, 'policy')
local ids = load_ids(KEYS[17], KEYS[18], {}, now, tonumber(ARGV[5]))
local meta, n = read(keys.meta), redis.call('LLEN', settled.row)
local window = meta.window and unpack_line(WINDOW, meta.window) or open_window(policy, now)
local buffer = meta.buffer and unpack_line(BUFFER, meta.buffer)
if not buffer then
  buffer = {opened = now, count = 0, bytes = 0, riders = 0, rebuffers = 0}
  count(keys, 'open', 1)
end
local sequence = redis.call('HINCRBY', keys.ctr, 'seq', n) - n

local function again(element)
  sequence = sequence + 1
  local payload, flush, rest = string.match(element, '^%d+ %d+ (%d+) ([01])( .*)$')
  if payload then
    element = string.format('%.0f %.0f %s %s', sequence, now, payload, flush) .. rest
    take_id(ids, string.match(rest, '^ %d+ (.-)\n'), sequence)
  end
  payload = tonumber(payload or #element)
  redis.call('RPUSH', keys.row, element)
  buffer.count, buffer.bytes = buffer.count + 1, buffer.bytes + payload
  join(window, now, payload, #element, 0)
end

for i = 0, n - 1, 16 do
  for _, element in ipairs(redis.call('LRANGE', settled.row, i, i + 15)) do again(element) end
end
close(window, now, REQUESTED)
buffer.last, buffer.flushed = now, sequence
count(keys, 'messages', n)
save_ids(ids)
redis.call('DEL', settled.status, settled.row, settled.attempts)
local lines = {put_window(keys, conversation, window, buffer, meta.id)}
return {now, 1, lines[1], lines[2], meta.id or ''}
