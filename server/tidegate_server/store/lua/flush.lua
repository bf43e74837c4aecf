-- FLUSH: closes the conversation's window now.
--
-- Messages beyond the window's limits follow at once. A window that is over stays as it is.
--
-- KEYS  the conversation's (see _prelude)
-- ARGV  1 clock  2 cid  3 instance
-- Returns {now, was open 0|1, window, buffer, batch in front}
-- Cost  O(1)
local keys, now = conversation_keys(), clock(ARGV[1])
local meta = redis.call('HMGET', keys.meta, 'window', 'buffer', 'id')
if not meta[1] then return {now, 0, '', '', meta[3] or ''} end
local window, buffer = unpack_line(WINDOW, meta[1]), unpack_line(BUFFER, meta[2])
local was_open = is_over(window, now) and 0 or 1
close(window, now, REQUESTED)
buffer.flushed = header(redis.call('LINDEX', keys.row, -1) or '', now)
local lines = {put_window(keys, {cid = ARGV[2], instance = ARGV[3]}, window, buffer, meta[3])}
return {now, was_open, lines[1], lines[2], meta[3] or ''}
