-- NACK: gives a batch back as not processed.
--
-- RETRY waits out the backoff, and after the last one makes it a dead letter. RELEASE is due at
-- once and does not count as an attempt. REBUFFER puts the messages back into the buffer.
-- DEAD_LETTER gives up now. Tokens as in ACK.
--
-- KEYS  the conversation's (see _prelude), the settled batch's (see _settle)
-- ARGV  1 clock  2 cid  3 instance  4 batch id  5 token  6 action  7 status kept ms
--       8 reason  9 message  10 least wait ms, then the backoffs in ms, one a retry
-- Returns {now, DONE|ALREADY, state, next attempt, due of the rest} or {now, LOST|UNKNOWN}
-- Cost  O(1) for RETRY and RELEASE, else O(messages of the batch)
local keys, settled, now = conversation_keys(), settled_keys(), clock(ARGV[1])
local conversation = {cid = ARGV[2], instance = ARGV[3]}
local id, token, action = ARGV[4], ARGV[5], ARGV[6]
local verdict = token .. ' ' .. action
local meta = read(keys.meta)
local before = judge(keys, settled, meta, id, token, action, conversation.cid, now)
if before then return before end

local reason, message = ARGV[8], ARGV[9]

local function end_as(state)
  local due = finish(keys, settled, meta, conversation,
    {state = state, verdict = verdict, reason = reason, message = message},
    {status = tonumber(ARGV[7]), row = 0}, now)
  return {now, 'DONE', state, '', due}
end

if action == 'DEAD_LETTER' then return end_as(DEAD_LETTERED) end
if action == 'REBUFFER' then return end_as(REBUFFERED) end
if action == 'RELEASE' then
  local leased = wait(keys, conversation, now)
  redis.call('HSET', keys.meta, 'token', '', 'ended', verdict)
  if leased then
    redis.call('HINCRBY', keys.meta, 'attempt', -1)
    redis.call('RPOP', keys.attempts)
  end
  return {now, 'DONE', RETRY_SCHEDULED, now, now}
end

local nacks = meta.nacks + 1
local backoff = ARGV[10 + nacks]
if not backoff then return end_as(DEAD_LETTERED) end
local due = now + math.max(tonumber(ARGV[10]), tonumber(backoff))
wait(keys, conversation, due)
redis.call('HSET', keys.meta, 'token', '', 'ended', verdict, 'nacks', nacks,
  'reason', reason, 'error', message)
end_attempt(keys, now, reason, message)
return {now, 'DONE', RETRY_SCHEDULED, due, due}
