-- HORIZON: what is due and which leases are over. Reads only; a hint.
--
-- KEYS  1 {p}:inst  2 {p}:lease
-- ARGV  1 clock  2 most of each
-- Returns {now, instances with something due, cids whose lease is over, next time of either}
-- Cost  O(log n + found)
local now, limit = clock(ARGV[1]), tonumber(ARGV[2])
local function upto(key) return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit) end
local next_time = ''
for _, key in ipairs(KEYS) do
  local later = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', now), '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)[2]
  if later and (next_time == '' or tonumber(later) < next_time) then next_time = tonumber(later) end
end
return {now, upto(KEYS[1]), upto(KEYS[2]), next_time}
