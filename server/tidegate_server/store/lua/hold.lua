-- HOLD: keeps the conversation's window open for a while: the user is typing.
--
-- Never past max_wait after the first message, never shorter than it was, and never opens a
-- window again that is over.
--
-- KEYS  the conversation's (see _prelude)
-- ARGV  1 clock  2 cid  3 instance  4 hold ms from now
-- Returns {now, was open 0|1, window, buffer, batch in front}
-- Cost  O(1)
local keys, now = conversation_keys(), clock(ARGV[1])
local meta = redis.call('HMGET', keys.meta, 'window', 'buffer', 'id')
if not meta[1] then return {now, 0, '', '', meta[3] or ''} end
local window = unpack_line(WINDOW, meta[1])
if is_over(window, now) then return {now, 0, meta[1], meta[2], meta[3] or ''} end
local limit = window.first + window.max_wait
local till = math.min(now + tonumber(ARGV[4]), limit)
if till > window.due then
  window.due, window.why = till, till == limit and MAX_WAIT or DELAY
end
local buffer = unpack_line(BUFFER, meta[2])
local lines = {put_window(keys, {cid = ARGV[2], instance = ARGV[3]}, window, buffer, meta[3])}
return {now, 1, lines[1], lines[2], meta[3] or ''}
