-- REMOVE: takes a message out of the buffer. The last one out closes the window without a batch.
--
-- Its id stays remembered, so that a late repeat of the add does not bring it back.
--
-- KEYS  the conversation's (see _prelude), 12 {p}:d:<cid>  13 {p}:e:<cid>
-- ARGV  1 clock  2 cid  3 instance  4 message id
-- Returns {now, DONE, window, buffer, batch in front} or {now, UNKNOWN|GONE|SEALED}
-- Cost  O(messages of the buffer)
local keys, now = conversation_keys(), clock(ARGV[1])
local conversation, id = {cid = ARGV[2], instance = ARGV[3]}, ARGV[4]
local meta = read(keys.meta)
local open, why_not = locate(keys, meta, id, now)
if not open then return {now, why_not} end

local buffer, sealed = open.buffer, open.sealed
local _, _, payload = header(redis.call('LINDEX', keys.row, open.place), now)
redis.call('ZREM', keys.due, '')
mark_gone(id)
if buffer.count == 1 then
  close_buffer(keys, meta, conversation, 1)
  drop_open_part(keys.row, sealed)
  return {now, 'DONE', '', '', meta.id or ''}
end
redis.call('LSET', keys.row, open.place, '')
redis.call('LREM', keys.row, 1, '')
count(keys, 'messages', -1)
buffer.count, buffer.bytes = buffer.count - 1, buffer.bytes - payload
if open.place - sealed < buffer.riders then buffer.riders = buffer.riders - 1 end
if buffer.riders == 0 then buffer.rebuffers = 0 end
local _, opened = header(redis.call('LINDEX', keys.row, sealed), now)
local _, last = header(redis.call('LINDEX', keys.row, -1), now)
buffer.opened, buffer.last = opened, last
local window = rebuild(open.window, keys.row, sealed, buffer.riders, now)
local lines = {put_window(keys, conversation, window, buffer, meta.id)}
return {now, 'DONE', lines[1], lines[2], meta.id or ''}
