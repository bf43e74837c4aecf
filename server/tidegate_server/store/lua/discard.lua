-- DISCARD: drops the conversation's buffer without delivering it. A batch in front stays.
--
-- The ids stay remembered, so that a late repeat of an add does not bring a message back.
--
-- KEYS  the conversation's (see _prelude), 12 {p}:d:<cid>  13 {p}:e:<cid>
-- ARGV  1 clock  2 cid  3 instance
-- Returns the number of messages dropped
-- Cost  O(messages of the buffer)
local keys = conversation_keys()
local meta = read(keys.meta)
if not meta.window then return 0 end
local sealed = meta.id and unpack_line(BATCH, meta.batch).n or 0
local messages = redis.call('LLEN', keys.row) - sealed
close_buffer(keys, meta, {cid = ARGV[2], instance = ARGV[3]}, messages)
for i = sealed, sealed + messages - 1, 16 do
  for _, element in ipairs(redis.call('LRANGE', keys.row, i, i + 15)) do
    local id = id_of(element)
    if id then mark_gone(id) end
  end
end
drop_open_part(keys.row, sealed)
return messages
