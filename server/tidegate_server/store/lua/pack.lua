-- PACK: what a move takes along of a conversation, or of a batch in a final state. Reads only.
--
-- KEYS  1 {p}:due:<instance>, for a batch {p}:dead  2 {p}:lease, then the keys to read
-- ARGV  1 clock  2 cid or batch id, then each key's command: HGETALL|LRANGE|SMEMBERS
-- Returns {due or dead since, lease's end, per key {ms to live (-1 = for good), elements}}
-- Cost  O(all that is stored of it)
local contents = {}
for i = 3, #KEYS do
  local command, range = ARGV[i], {}
  if command == 'LRANGE' then range = {0, -1} end
  contents[i - 2] = {redis.call('PTTL', KEYS[i]), redis.call(command, KEYS[i], unpack(range))}
end
return {redis.call('ZSCORE', KEYS[1], ARGV[2]) or '', redis.call('ZSCORE', KEYS[2], ARGV[2]) or '',
        contents}
