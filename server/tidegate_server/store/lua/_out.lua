-- Taking the whole buffer of a conversation away.

-- Nothing of the open part counts any more: only a batch in front keeps the conversation.
local function close_buffer(keys, meta, conversation, messages)
  redis.call('ZREM', keys.due, meta.id and '' or conversation.cid)
  if meta.id then redis.call('HDEL', keys.meta, 'window', 'buffer')
  else
    redis.call('DEL', keys.meta)
    reindex(keys.inst, keys.due, conversation.instance)
  end
  count(keys, 'messages', -messages)
  count(keys, 'open', -1)
end

local function drop_open_part(row, sealed)
  if sealed > 0 then redis.call('LTRIM', row, 0, sealed - 1) else redis.call('DEL', row) end
end
