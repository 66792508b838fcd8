-- The same in Redis: authenticate by the hash of the key, roll the cycle, debit 2, count, add; answer id and balance.
-- ARGV: key, memory. SHA-1, since a script has no other hash.
local account = redis.call('GET', 'key:' .. redis.sha1hex(ARGV[1]))
if not account then
  return redis.error_reply('REFUSED invalid key')
end
local usage = redis.call('HMGET', account, 'cycle_end', 'allotment', 'credits', 'memories', 'memories_max')
local cycle_end, credits, memories = tonumber(usage[1]), tonumber(usage[3]), tonumber(usage[4])
local now = tonumber(redis.call('TIME')[1])
if now >= cycle_end then
  cycle_end = cycle_end + 30 * 86400
  credits = tonumber(usage[2])
  redis.call('HSET', account, 'cycle_end', cycle_end)
end
if credits < 2 then
  return redis.error_reply('REFUSED out of credits')
end
if memories >= tonumber(usage[5]) then
  return redis.error_reply('REFUSED memory limit')
end
credits = credits - 2
redis.call('HSET', account, 'credits', credits, 'memories', memories + 1)
local id = redis.call('XADD', 'memories:' .. account, '*', 'body', ARGV[2])
return { id, credits }
