-- wrk ... -s requests.lua URL -- KEYS METHOD PATH [BODY]
-- Sends a request with a random key of the file KEYS (one a line); BODY is the file of a JSON body.
-- Every request is a string before the run begins, so that the client costs little and always the same.
-- The last line of the output is the result as JSON; times are in microseconds.

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

local requests, random, count = {}, math.random, 0

function init(args)
  local body
  local headers = { ["Host"] = wrk.headers["Host"] }
  if args[4] then
    body = assert(io.open(args[4])):read("*a")
    headers["Content-Type"] = "application/json"
  end
  for key in io.lines(args[1]) do
    headers["X-API-KEY"] = key
    count = count + 1
    requests[count] = wrk.format(args[2], args[3], headers, body)
  end
  math.randomseed(seed)
end

function request()
  return requests[random(count)]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "bytes": %d, "status": %d, "connect": %d, "read": %d, "write": %d, '
      .. '"timeout": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, summary.duration, summary.bytes, errors.status, errors.connect, errors.read, errors.write,
    errors.timeout, latency:percentile(50), latency:percentile(99), latency.max))
end
