-- ACK: settles a batch as processed.
--
-- Only the newest token settles, also after its lease has run out, as long as nobody has claimed
-- the batch since. With `only if current` it succeeds only if no newer message waits; else all of
-- the messages are one buffer again.
--
-- KEYS  the conversation's (see _prelude), the settled batch's (see _settle)
-- ARGV  1 clock  2 cid  3 instance  4 batch id  5 token  6 ack | current
--       7 status kept ms  8 messages kept ms
-- Returns {now, DONE|ALREADY, state, next attempt, due of the rest} or {now, LOST|UNKNOWN}
-- Cost  O(1) if nothing waits behind the batch, else O(messages of the batch)
local keys, settled, now = conversation_keys(), settled_keys(), clock(ARGV[1])
local id, token, action = ARGV[4], ARGV[5], ARGV[6]
local meta = read(keys.meta)
local before = judge(keys, settled, meta, id, token, action, ARGV[2], now)
if before then return before end
local buffer = action == 'current' and meta.buffer and unpack_line(BUFFER, meta.buffer)
local state = buffer and buffer.count > buffer.riders and REBUFFERED or COMPLETED
local due = finish(keys, settled, meta, {cid = ARGV[2], instance = ARGV[3]},
  {state = state, verdict = token .. ' ' .. action},
  {status = tonumber(ARGV[7]), row = tonumber(ARGV[8])}, now)
return {now, 'DONE', state, '', due}
