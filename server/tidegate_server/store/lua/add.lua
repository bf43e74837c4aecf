-- ADD: takes messages, each into the buffer of its conversation.
--
-- All or none, but for those that pass a limit: of these nothing is stored. An id that the
-- conversation has seen within the de-duplication time changes nothing but the count of its
-- copies. The first write is one that a full store refuses, so that a refusal leaves no trace.
--
-- KEYS  1 {p}:ctr  2 {p}:inst, then per instance {p}:due:<instance> {p}:n:<instance>,
--       then per conversation {p}:c:<cid> {p}:m:<cid> {p}:d:<cid> {p}:e:<cid>
-- ARGV  1 clock (ms, '' = the store's)  2 de-duplication ms  3 instances  4 conversations
--       5 messages, then per instance: name, quota, then per conversation: cid, place of its
--       instance, then per message: place of its conversation, id, payload bytes, flush, policy,
--       body
-- Returns {now, per message {BUFFERED, sequence, opened a window 0|1}, or {DUPLICATE, sequence of
--       the first copy, 0}, or {FULL, number of the limit, 0}, per conversation {window, buffer,
--       batch in front, first sequence of the buffer if there was a duplicate}}
-- Cost  O(messages), of any length of the buffer.
local BUFFERED, DUPLICATE, FULL = 1, 2, 3
local now, keep_ms = clock(ARGV[1]), tonumber(ARGV[2])
local sequence = redis.call('HINCRBY', KEYS[1], 'seq', ARGV[5]) - ARGV[5]
local instances, chats, messages = {}, {}, {}

local key_at, argument_at = 2, 5
local function key() key_at = key_at + 1 return KEYS[key_at] end
local function argument() argument_at = argument_at + 1 return ARGV[argument_at] end

-- What waits in an instance, or in the store. It is asked only where that is limited.
local function load_gauges(name, limited)
  local found = limited and redis.call('HMGET', name, 'messages', 'open') or {}
  local messages, open = tonumber(found[1] or 0), tonumber(found[2] or 0)
  return {name = name, messages = messages, open = open, was = {messages = messages, open = open}}
end

local function save_gauges(gauges)
  for _, gauge in ipairs {'messages', 'open'} do
    local change = gauges[gauge] - gauges.was[gauge]
    if change > 0 then redis.call('HINCRBY', gauges.name, gauge, change) end
  end
end

local function load_chat(chat)
  local meta = redis.call('HMGET', chat.meta, 'window', 'buffer', 'id')
  chat.window = meta[1] and unpack_line(WINDOW, meta[1])
  chat.buffer = meta[2] and unpack_line(BUFFER, meta[2])
  chat.batch = meta[3] or ''
  chat.due = chat.window and chat.window.due
  chat.ids = load_ids(chat.newer, chat.older, chat.wanted, now, keep_ms)
end

local limits_of_all = false
for i = 1, tonumber(ARGV[3]) do
  local due, gauges, name, quota = key(), key(), argument(), unpack_line(QUOTA, argument())
  instances[i] = {due = due, name = name, quota = quota,
                  gauges = load_gauges(gauges, quota.instance_messages + quota.instance_buffers > 0)}
  limits_of_all = quota.store_messages + quota.store_buffers > 0
end
local all = load_gauges(KEYS[1], limits_of_all)
for i = 1, tonumber(ARGV[4]) do
  chats[i] = {meta = key(), row = key(), newer = key(), older = key(), cid = argument(),
              instance = instances[tonumber(argument())], wanted = {}, elements = {}}
end
for i = 1, tonumber(ARGV[5]) do
  messages[i] = {chat = chats[tonumber(argument())], id = argument(),
                 payload = tonumber(argument()), flush = tonumber(argument()),
                 policy = argument(), body = argument()}
  local wanted = messages[i].chat.wanted
  wanted[#wanted + 1] = messages[i].id
end

-- The number of the first limit that the message would pass, as core/quota.py has it.
local function limit_passed(chat, payload)
  local buffer, here = chat.buffer, chat.instance.gauges
  return first_passed(chat.instance.quota, {
    conversation_messages = (buffer and buffer.count or 0) + 1,
    conversation_bytes = (buffer and buffer.bytes or 0) + payload,
    instance_messages = here.messages + 1,
    instance_buffers = buffer and 0 or here.open + 1,
    store_messages = all.messages + 1,
    store_buffers = buffer and 0 or all.open + 1,
  })
end

local function open_buffer(chat)
  chat.buffer = {opened = now, count = 0, bytes = 0, riders = 0, rebuffers = 0, flushed = 0}
  for _, gauges in ipairs {all, chat.instance.gauges} do gauges.open = gauges.open + 1 end
end

local function append(chat)
  if #chat.elements > 0 then redis.call('RPUSH', chat.row, unpack(chat.elements)) end
  chat.elements = {}
end

-- Puts the message into the buffer. Returns its sequence, and whether it opened the window.
local function take(chat, message)
  sequence = sequence + 1
  local payload, flush = message.payload, message.flush
  local element = string.format('%.0f %.0f %d %d 0 %s\n', sequence, now, payload, flush,
    message.id) .. message.body
  take_id(chat.ids, message.id, sequence)
  chat.elements[#chat.elements + 1] = element
  if not chat.buffer then open_buffer(chat) end
  local buffer, window = chat.buffer, chat.window
  local riders_only = window and buffer.riders == buffer.count
  buffer.last, buffer.count, buffer.bytes = now, buffer.count + 1, buffer.bytes + payload
  for _, gauges in ipairs {all, chat.instance.gauges} do gauges.messages = gauges.messages + 1 end
  chat.changed = true
  if riders_only and window.full == 0 and not is_over(window, now) then
    append(chat)
    local from = redis.call('LLEN', chat.row) - buffer.count
    chat.window = replay(message.policy, chat.row, from, buffer.riders, now)
    return sequence, 1
  end
  chat.window = window or open_window(message.policy, now)
  join(chat.window, now, payload, #element, flush)
  return sequence, window and 0 or 1
end

-- The conversation's place among those that are due. Only one that moves back may have been the
-- first of its instance; then the new first has to be looked for.
local function place(chat)
  local due, instance = chat.window.due, chat.instance
  if due == chat.due then return end
  redis.call('ZADD', instance.due, due, chat.cid)
  if chat.due and due > chat.due then instance.look = true
  else instance.first = math.min(due, instance.first or due) end
end

-- Returns where the conversation stands now.
local function save(chat)
  append(chat)
  save_ids(chat.ids)
  if not chat.buffer then return {'', '', chat.batch, 0} end
  local window, buffer = pack_line(WINDOW, chat.window), pack_line(BUFFER, chat.buffer)
  if chat.changed then
    redis.call('HSET', chat.meta, 'window', window, 'buffer', buffer)
    if chat.batch == '' then place(chat) end
  end
  local first = chat.copies and redis.call('LINDEX', chat.row, -chat.buffer.count)
  return {window, buffer, chat.batch, first and header(first, now) or 0}
end

for _, chat in ipairs(chats) do load_chat(chat) end
local outcomes, states = {}, {}
for i, message in ipairs(messages) do
  local chat = message.chat
  local first = seen_before(chat.ids, message.id)
  local limit = not first and limit_passed(chat, message.payload)
  chat.copies = chat.copies or first
  if first then outcomes[i] = {DUPLICATE, first, 0}
  elseif limit then outcomes[i] = {FULL, limit, 0}
  else outcomes[i] = {BUFFERED, take(chat, message)} end
end
for i, chat in ipairs(chats) do states[i] = save(chat) end
for _, instance in ipairs(instances) do
  save_gauges(instance.gauges)
  if instance.look then reindex(KEYS[2], instance.due, instance.name)
  elseif instance.first then redis.call('ZADD', KEYS[2], 'LT', instance.first, instance.name) end
end
save_gauges(all)
return {now, outcomes, states}
