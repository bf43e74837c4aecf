-- Which messages a conversation has taken: their ids, in two generations.
--
-- The newer generation takes ids for the de-duplication time, then it is renamed to be the older
-- one. Its field '' says until when it takes ids, and until when the older one has ids that count.
-- Nothing is written to a generation for longer than that time, and every id has to live as long:
-- so each key is told once, when it begins, to expire after twice that time.

-- What is known of the ids that are wanted, in one look or two.
local function load_ids(newer, older, wanted, now, keep_ms)
  local ids = {newer = newer, older = older, now = now, keep_ms = keep_ms, known = {},
               changes = {[newer] = {}, [older] = {}}}
  local found, found_before = redis.call('HMGET', newer, '', unpack(wanted)), {}
  local ends, older_until = string.match(table.remove(found, 1) or '', '(%d+) (%d+)')
  if not ends then ids.begins = {now + keep_ms, 0}
  elseif tonumber(ends) <= now then
    redis.call('RENAME', newer, older)
    ids.begins, ids.turned = {now + keep_ms, ends + keep_ms}, true
    found, found_before = {}, found
  elseif tonumber(older_until) > now then
    found_before = redis.call('HMGET', older, unpack(wanted))
  end
  for i, id in ipairs(wanted) do
    ids.known[id] = found[i] and {key = newer, entry = found[i]}
      or found_before[i] and {key = older, entry = found_before[i]} or nil
  end
  return ids
end

local function change(ids, key, id, entry)
  ids.known[id] = {key = key, entry = entry}
  local changes = ids.changes[key]
  changes[#changes + 1], changes[#changes + 2] = id, entry
end

local function take_id(ids, id, sequence)
  change(ids, ids.newer, id, string.format('%.0f %.0f 0', sequence, ids.now))
end

-- The first copy's sequence if the id still counts as seen. One more copy is counted then.
local function seen_before(ids, id)
  local known = ids.known[id]
  if not known then return nil end
  local first, at, copies, gone = string.match(known.entry, '(%d+) (%d+) (%d+)(.*)')
  if at + ids.keep_ms <= ids.now then return nil end
  change(ids, known.key, id, first .. ' ' .. at .. ' ' .. copies + 1 .. gone)
  return tonumber(first)
end

local function save_ids(ids)
  local newer, older = ids.changes[ids.newer], ids.changes[ids.older]
  if #older > 0 then redis.call('HSET', ids.older, unpack(older)) end
  if ids.begins and (#newer > 0 or ids.turned) then
    redis.call('HSET', ids.newer, '', string.format('%.0f %.0f', unpack(ids.begins)),
      unpack(newer))
    redis.call('PEXPIRE', ids.newer, 2 * ids.keep_ms)
  elseif #newer > 0 then redis.call('HSET', ids.newer, unpack(newer)) end
end
