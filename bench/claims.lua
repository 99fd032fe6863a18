-- wrk: claims of one campaign, each by another user, in the order of a file of tokens.
-- Arguments: the path, the file, the line to begin with. Prints the summary as one line of JSON.
local requests, next_request = {}, 0

function init(args)
  local path, file, first = args[1], args[2], tonumber(args[3])
  local number = 0
  for token in io.lines(file) do
    number = number + 1
    if number >= first then
      requests[#requests + 1] = wrk.format("POST", path, { Authorization = "Bearer " .. token })
    end
  end
end

function request()
  next_request = next_request + 1
  return requests[(next_request - 1) % #requests + 1]
end

function done(summary, latency)
  print(string.format('{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"lost":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
