-- ADD: takes messages, each into the buffer of its conversation.
--
-- All or none. An id that the conversation has seen within the de-duplication time changes
-- nothing but the count of its copies. The first write is one that a full store refuses, so that
-- a refusal leaves no trace.
--
-- KEYS  1 {p}:ctr  2 {p}:inst, then per instance {p}:due:<instance> {p}:n:<instance>,
--       then per conversation {p}:c:<cid> {p}:m:<cid> {p}:d:<cid> {p}:e:<cid>
-- ARGV  1 clock (ms, '' = the store's)  2 de-duplication ms  3 instances  4 conversations
--       5 messages, then the instances' names, then per conversation: cid, place of its instance,
--       then per message: place of its conversation, id, payload bytes, flush, policy, body
-- Returns per message {BUFFERED|DUPLICATE, sequence, now, opened a window 0|1, window, buffer,
--       batch in front}; window and buffer only for the last message of a conversation.
-- Cost  O(messages), of any length of the buffer.
local BUFFERED, DUPLICATE = 1, 2
local now, keep_ms = clock(ARGV[1]), tonumber(ARGV[2])
local instances, conversations, messages = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local sequence = redis.call('HINCRBY', KEYS[1], 'seq', messages) - messages
local chats, totals = {}, {}

local function load(place)
  local at, arg = 2 + 2 * instances + 4 * (place - 1), 5 + instances + 2 * (place - 1)
  local chat = {meta = KEYS[at + 1], row = KEYS[at + 2], seen = KEYS[at + 3], old = KEYS[at + 4],
                cid = ARGV[arg + 1], instance = tonumber(ARGV[arg + 2]), added = 0}
  local meta = redis.call('HMGET', chat.meta, 'window', 'buffer', 'id')
  chat.window = meta[1] and unpack_line(WINDOW, meta[1])
  chat.buffer = meta[2] and unpack_line(BUFFER, meta[2])
  chat.batch = meta[3] or ''
  chat.was_open = chat.buffer and 1 or 0
  local since = redis.call('HGET', chat.seen, '')
  if since and since + keep_ms <= now then
    redis.call('RENAME', chat.seen, chat.old)
    since = nil
  end
  if not since then redis.call('HSET', chat.seen, '', now) end
  return chat
end

-- The first copy's sequence, if the id was seen.
local function seen_before(chat, id)
  for _, key in ipairs({chat.seen, chat.old}) do
    local entry = redis.call('HGET', key, id)
    if entry then
      local first, at, copies, gone = string.match(entry, '(%d+) (%d+) (%d+)(.*)')
      if at + keep_ms > now then
        redis.call('HSET', key, id, first .. ' ' .. at .. ' ' .. copies + 1 .. gone)
        return tonumber(first)
      end
    end
  end
end

local function take(chat, id, payload, flush, policy, body)
  sequence = sequence + 1
  local head = string.format('%.0f %.0f %d %d 0 %s\n', sequence, now, payload, flush, id)
  local element = head .. body
  redis.call('HSET', chat.seen, id, string.format('%.0f %.0f 0', sequence, now))
  redis.call('RPUSH', chat.row, element)
  chat.added, chat.new = chat.added + 1, true
  local buffer, window = chat.buffer, chat.window
  local riders_only = buffer and buffer.riders == buffer.count
  if not buffer then
    buffer = {opened = now, count = 0, bytes = 0, riders = 0, rebuffers = 0, flushed = 0}
  end
  buffer.last, buffer.count, buffer.bytes = now, buffer.count + 1, buffer.bytes + payload
  chat.buffer = buffer
  if window and riders_only and window.full == 0 and not is_over(window, now) then
    local from = redis.call('LLEN', chat.row) - buffer.count
    chat.window = replay(policy, chat.row, from, buffer.riders, now)
    return 1
  end
  chat.window = window or open_window(policy, now)
  join(chat.window, now, payload, #element, flush)
  return window and 0 or 1
end

local answers, argument = {}, 5 + instances + 2 * conversations
for i = 1, messages do
  local place, id = tonumber(ARGV[argument + 1]), ARGV[argument + 2]
  local chat = chats[place] or load(place)
  chats[place] = chat
  local first = seen_before(chat, id)
  if first then answers[i] = {DUPLICATE, first, now, 0, '', '', chat.batch}
  else
    local opened = take(chat, id, tonumber(ARGV[argument + 3]), tonumber(ARGV[argument + 4]),
      ARGV[argument + 5], ARGV[argument + 6])
    answers[i] = {BUFFERED, sequence, now, opened, '', '', chat.batch}
  end
  chat.answer = answers[i]
  argument = argument + 6
end

for _, chat in pairs(chats) do
  redis.call('PEXPIRE', chat.seen, 2 * keep_ms)
  local waits = chat.buffer
  if waits and chat.answer[1] == DUPLICATE then
    waits = chat.answer[2] >= header(redis.call('LINDEX', chat.row, -chat.buffer.count), now)
  end
  if waits then
    chat.answer[5], chat.answer[6] = pack_line(WINDOW, chat.window), pack_line(BUFFER, chat.buffer)
  end
  if chat.new then
    redis.call('HSET', chat.meta, 'window', pack_line(WINDOW, chat.window),
      'buffer', pack_line(BUFFER, chat.buffer))
    if chat.batch == '' then
      redis.call('ZADD', KEYS[1 + 2 * chat.instance], chat.window.due, chat.cid)
    end
    local total = totals[chat.instance] or {open = 0, messages = 0}
    total.open = total.open + 1 - chat.was_open
    total.messages = total.messages + chat.added
    totals[chat.instance] = total
  end
end
for place, total in pairs(totals) do
  local keys = {ctr = KEYS[1], gauges = KEYS[2 + 2 * place]}
  count(keys, 'open', total.open)
  count(keys, 'messages', total.messages)
  reindex(KEYS[2], KEYS[1 + 2 * place], ARGV[5 + place])
end
return answers
