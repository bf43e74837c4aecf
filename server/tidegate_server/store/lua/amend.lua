-- AMEND: replaces the payload of a message that is still in the buffer.
--
-- Place, arrival and id stay. The window's limits count the new size. One that is larger than
-- before and passes the conversation's limit changes nothing.
--
-- KEYS  the conversation's (see _prelude), 12 {p}:d:<cid>  13 {p}:e:<cid>
-- ARGV  1 clock  2 cid  3 instance  4 message id  5 payload bytes  6 body
--       7 quota
-- Returns {now, DONE|FULL, window, buffer, batch in front} or {now, UNKNOWN|GONE|SEALED}
-- Cost  O(log messages), and O(messages of a batch) to count anew
local keys, now = conversation_keys(), clock(ARGV[1])
local id, payload = ARGV[4], tonumber(ARGV[5])
local meta = read(keys.meta)
local open, why_not = locate(keys, meta, id, now)
if not open then return {now, why_not} end

local element = redis.call('LINDEX', keys.row, open.place)
local sequence, at, before, flush = header(element, now)
local bytes = open.buffer.bytes + payload - before
local most = unpack_line(QUOTA, ARGV[7]).conversation_bytes
if payload > before and most > 0 and bytes > most then
  return {now, 'FULL', meta.window, meta.buffer, meta.id or ''}
end
redis.call('LSET', keys.row, open.place, string.format('%.0f %.0f %d %d %.0f %s\n', sequence, at,
  payload, flush, now, id) .. ARGV[6])
open.buffer.bytes = bytes
local window = rebuild(open.window, keys.row, open.sealed, open.buffer.riders, now)
local lines = {put_window(keys, {cid = ARGV[2], instance = ARGV[3]}, window, open.buffer, meta.id)}
return {now, 'DONE', lines[1], lines[2], meta.id or ''}
