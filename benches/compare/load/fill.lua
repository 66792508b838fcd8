-- ARGV: accounts, memories of each, memory, allotment, room. Keys are what redis-benchmark makes of __rand_int__.
local now = tonumber(redis.call('TIME')[1])
for n = 0, tonumber(ARGV[1]) - 1 do
  local account = 'account:' .. n
  redis.call('SET', 'key:' .. redis.sha1hex(string.format('%012d', n)), account)
  redis.call('HSET', account, 'cycle_end', now + 30 * 86400, 'allotment', ARGV[4], 'credits', ARGV[4],
    'memories', ARGV[2], 'memories_max', ARGV[5])
  for _ = 1, tonumber(ARGV[2]) do
    redis.call('XADD', 'memories:' .. account, '*', 'body', ARGV[3])
  end
end
return redis.status_reply('OK')
