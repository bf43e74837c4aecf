-- DELETE: throws a dead letter away. That it was is remembered for a while, its messages are not.
--
-- KEYS  the conversation's (see _prelude), the settled batch's (see _settle)
-- ARGV  1 clock  2 batch id  3 status kept ms
-- Returns 1 if it was a dead letter, else 0
-- Cost  O(1)
local keys, settled, now, id = conversation_keys(), settled_keys(), clock(ARGV[1]), ARGV[2]
if redis.call('ZREM', settled.dead, id) == 0 then return 0 end
redis.call('ZREM', settled.dead_of_instance, id)
redis.call('SREM', keys.letters, id)
redis.call('DEL', settled.row)
redis.call('HSET', settled.status, 'state', DISCARDED, 'settled', now, 'expires', now + ARGV[3])
redis.call('PEXPIRE', settled.status, ARGV[3])
redis.call('PEXPIRE', settled.attempts, ARGV[3])
return 1
