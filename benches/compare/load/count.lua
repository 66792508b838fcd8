-- ARGV: accounts. The memories that are there, by their lists.
local total = 0
for n = 0, tonumber(ARGV[1]) - 1 do
  total = total + redis.call('XLEN', 'memories:account:' .. n)
end
return total
