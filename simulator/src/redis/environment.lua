-- What a script sees. Runs once for each VM.
-- Arguments: functions of the simulator. Returns: the environment of scripts, the table of KEYS and ARGV, and
-- the function that runs a compiled script.
local call, pcall_command, sha1hex, plain, failure = ...
local base_pcall, base_xpcall, error, select, type, tostring = pcall, xpcall, error, select, type, tostring

local function readonly(content)
  return setmetatable({}, {
    __index = content,
    __newindex = function() error('Attempt to modify a readonly table', 2) end,
  })
end

local function err(text)
  return { err = text }
end

-- redis.error_reply: "CODE text" stays, a single word becomes "ERR word" (luaPushErrorBuff, src/script_lua.c).
local function error_reply(...)
  local text = ...
  if select('#', ...) ~= 1 or type(text) ~= 'string' then return err('ERR wrong number or type of arguments') end
  if text:sub(1, 1) == '-' then text = text:sub(2) end
  local code, rest = text:match('^([^ ]*) (.*)$')
  if not code then code, rest = 'ERR', text end
  return err(code .. ' ' .. rest:gsub('^[\r\n]+', ''):gsub('[\r\n]+$', ''))
end

local function status_reply(...)
  local text = ...
  if select('#', ...) ~= 1 or type(text) ~= 'string' then return err('ERR wrong number or type of arguments') end
  return { ok = text }
end

-- Redis 7 raises tables and hands their text to pcall, as older versions did (luaRedisPcall).
local function caught(ok, problem, ...)
  if ok then return ok, problem, ... end
  problem = plain(problem)
  if type(problem) == 'table' and type(problem.err) == 'string' then problem = problem.err end
  return false, problem
end

-- math.random is left out: nothing in the simulator draws from a source of its own.
math.random, math.randomseed = nil, nil

local globals = {
  _VERSION = _VERSION, assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next,
  pairs = pairs, rawequal = rawequal, rawget = rawget, rawset = rawset, select = select,
  setmetatable = setmetatable, tonumber = tonumber, tostring = tostring, type = type, unpack = unpack,
  math = readonly(math), string = readonly(string), table = readonly(table),
  pcall = function(...) return caught(base_pcall(...)) end,
  xpcall = function(body, handler)
    return base_xpcall(body, function(problem) return handler(plain(problem)) end)
  end,
  redis = readonly({
    call = call, pcall = pcall_command, sha1hex = sha1hex, error_reply = error_reply, status_reply = status_reply,
    replicate_commands = function() return true end,
    setresp = function() end, set_repl = function() end, log = function() end,
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
    REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
    REDIS_VERSION = '7.0.15', REDIS_VERSION_NUM = 0x0007000f,
  }),
}
setmetatable(globals, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
})
local environment = readonly(globals)
globals._G = environment

local function run(body)
  return base_xpcall(body, failure)
end

return environment, globals, run
