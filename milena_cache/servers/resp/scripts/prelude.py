"""Pure. The Lua code by which the sandbox is made, in Lua 5.4: it has what scripts reach, and their bounds.

How a script is stopped: a hook runs every EVERY instructions of the interpreter. Once a bound is exceeded it raises
an error, and from then on another one at each instruction, so that no `pcall` of the script holds it up. The
runtime is of no use after that, and is dropped.

What is left out, and why:

- all that reaches out of the script or compiles code: io, os, package, debug, load, require, dofile, string.dump;
- coroutines, whose instructions no hook counts;
- `xpcall` as it is: (1) the hook raises its error; (2) the handler is called within the hook, where no hook runs;
  (3) it loops. Here it is a `pcall`, and the handler is called after that. `__gc`, `__close` and collectgarbage are
  left out for the same reason;
- functions of C that can run for any time without an instruction: table.move, and string.rep of nothing. Functions
  of `table` take no table with a metatable, whose `__len` or `__index` would have them loop. Patterns are taken if
  the most that they can cost is low;
- the metatable of strings, and the tables of functions themselves: a script gets proxies, since what it changes
  in one of them would reach scripts after it;
- functions of Python: `redis.call` is a function of Lua around one, which gets and returns nothing but texts,
  numbers and nil, and raises nothing.
"""

from __future__ import annotations

from typing import Final

# Instructions of the interpreter from one check of the bounds to the next.
EVERY: Final = 100

PRELUDE: Final = rb"""
local fetch, item, EVERY, instructions, soft_bytes, seconds, most_bytes = ...
local assert, error, getmetatable, ipairs = assert, error, getmetatable, ipairs
local next, pairs, pcall = next, pairs, pcall
local rawequal, rawget, rawlen, select, setmetatable = rawequal, rawget, rawlen, select, setmetatable
local tonumber, tostring, type, load = tonumber, tostring, type, load
local string, table, math = string, table, math
local xpcall, sethook, getinfo, clock, collect = xpcall, debug.sethook, debug.getinfo, os.clock, collectgarbage
local concat, unpack, insert, remove, sort = table.concat, table.unpack, table.insert, table.remove, table.sort
local rep, find, match, gmatch, gsub, byte, format =
    string.rep, string.find, string.match, string.gmatch, string.gsub, string.byte, string.format
local floor, ceil, tointeger, huge = math.floor, math.ceil, math.tointeger, math.huge

-- ---- bounds

local left, deadline, reason = 0, 0, nil

local function ending() error(reason, 0) end

local function stop(why)
    reason = why
    sethook(ending, "", 1)
    error(why, 0)
end

local function check()
    left = left - EVERY
    if left < 0 then stop("it has more than " .. instructions .. " instructions") end
    if collect("count") * 1024 > soft_bytes then stop("it takes more than " .. soft_bytes .. " bytes of memory") end
    if clock() > deadline then stop("it takes more than " .. seconds .. " s") end
end

local function check_memory()
    if collect("count") * 1024 > soft_bytes then stop("it takes more than " .. soft_bytes .. " bytes of memory") end
end

-- ---- what scripts reach

local protected = setmetatable({}, {__mode = "k"})

local function proxy(inner)
    local outer = setmetatable({}, {
        __index = inner,
        __newindex = function() error("Attempt to modify a readonly table", 2) end,
        __metatable = false,
    })
    protected[outer] = true
    return outer
end

local function plain(t)
    if type(t) ~= "table" or getmetatable(t) ~= nil then
        error("a table without a metatable is expected", 3)
    end
end

function string.rep(s, n, sep)
    if type(s) == "number" then s = tostring(s) end
    n = tonumber(n)
    if type(s) ~= "string" or n == nil or (sep ~= nil and type(sep) ~= "string") then
        error("bad argument to 'rep'", 2)
    end
    local size = #s + (sep and #sep or 0)
    if n < 1 or size == 0 then return "" end
    if size * n > most_bytes then error("resulting string too large", 2) end
    return rep(s, floor(n), sep)
end

-- The most that a pattern can cost: every quantifier may try all of what is left, from every place.
local QUANTIFIERS = {[42] = true, [43] = true, [45] = true, [63] = true}
local function check_pattern(s, p)
    if type(s) == "number" then s = tostring(s) end
    if type(p) == "number" then p = tostring(p) end
    if type(s) ~= "string" or type(p) ~= "string" then error("bad argument: a string is expected", 3) end
    if #p > 256 then error("pattern too long", 3) end
    local cost, at = #p + 1, 1
    while at <= #p do
        local c = byte(p, at)
        local tried = QUANTIFIERS[c]
        if c == 37 then
            at = at + 1
            c = byte(p, at)
            tried = c and (c == 98 or c == 102 or (c >= 48 and c <= 57))
        end
        if tried then cost = cost * (#s + 1) end
        if cost > 1e9 then break end
        at = at + 1
    end
    if cost * (#s + 1) > 1e7 then error("pattern too complex for a text of this length", 3) end
    return s, p
end

function string.find(s, p, init, exact)
    if exact then
        if type(s) == "number" then s = tostring(s) end
        if type(p) == "number" then p = tostring(p) end
        if type(s) ~= "string" or type(p) ~= "string" then error("bad argument: a string is expected", 2) end
        if (#s + 1) * (#p + 1) > 2e8 then error("texts too long to be searched", 2) end
        return find(s, p, init, true)
    end
    s, p = check_pattern(s, p)
    return find(s, p, init)
end
function string.match(s, p, init) s, p = check_pattern(s, p) return match(s, p, init) end
function string.gmatch(s, p) s, p = check_pattern(s, p) return gmatch(s, p) end
function string.gsub(s, p, by, n)
    s, p = check_pattern(s, p)
    if type(by) == "table" then plain(by) end
    return gsub(s, p, by, n)
end
function string.byte(s, first, last)
    if type(s) == "number" then s = tostring(s) end
    if type(s) ~= "string" then error("bad argument to 'byte'", 2) end
    if first ~= nil and last ~= nil and #s > 4096 then
        first, last = tonumber(first), tonumber(last)
        if first == nil or last == nil then error("bad argument to 'byte'", 2) end
        if first < 0 then first = #s + first + 1 end
        if last < 0 then last = #s + last + 1 end
        if last - first > 4096 then error("string slice too long", 2) end
    end
    return byte(s, first, last)
end
string.dump, string.pack, string.unpack, string.packsize = nil, nil, nil, nil

local safe_table = {
    concat = function(t, sep, i, j)
        plain(t)
        i, j = i or 1, j or #t
        if type(i) ~= "number" or type(j) ~= "number" or j - i > rawlen(t) then error("bad range", 2) end
        if sep ~= nil and type(sep) ~= "string" then sep = tostring(sep) end
        if #(sep or "") * (j - i) > most_bytes then error("resulting string too large", 2) end
        return concat(t, sep, i, j)
    end,
    unpack = function(t, i, j)
        plain(t)
        i, j = i or 1, j or #t
        if type(i) ~= "number" or type(j) ~= "number" or j - i > 8000 then error("too many results", 2) end
        return unpack(t, i, j)
    end,
    insert = function(t, ...) plain(t) return insert(t, ...) end,
    remove = function(t, ...) plain(t) return remove(t, ...) end,
    sort = function(t, by)
        plain(t)
        if rawlen(t) > 1024 then error("too many elements to sort", 2) end
        return sort(t, by)
    end,
    pack = table.pack,
}
math.pow = function(x, y) return x ^ y end
math.randomseed = nil

-- As in Redis, what is caught of an error reply is its text.
local function caught(done, err, ...)
    if not done and type(err) == "table" and type(rawget(err, "err")) == "string" then err = rawget(err, "err") end
    return done, err, ...
end

local hidden = {
    assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs,
    pcall = function(...) return caught(pcall(...)) end,
    rawequal = rawequal, rawget = rawget, rawlen = rawlen, select = select, tonumber = tonumber,
    tostring = tostring, type = type, _VERSION = _VERSION,
    string = proxy(string), table = proxy(safe_table), math = proxy(math), unpack = safe_table.unpack,
    getmetatable = function(t) if type(t) == "table" and not protected[t] then return getmetatable(t) end end,
    setmetatable = function(t, meta)
        if type(t) ~= "table" or protected[t] then error("Attempt to modify a readonly table", 2) end
        if meta ~= nil then
            if type(meta) ~= "table" then error("bad argument #2 to 'setmetatable'", 2) end
            if rawget(meta, "__gc") ~= nil or rawget(meta, "__close") ~= nil then
                error("__gc and __close are not available in scripts", 2)
            end
        end
        return setmetatable(t, meta)
    end,
    xpcall = function(f, handler, ...)
        local results = table.pack(pcall(f, ...))
        if results[1] then return unpack(results, 1, results.n) end
        return false, handler(results[2])
    end,
}

local environment = setmetatable({}, {
    __index = function(_, name)
        local value = hidden[name]
        if value == nil then
            error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
        end
        return value
    end,
    __newindex = function() error("Attempt to modify a readonly table", 2) end,
    __metatable = false,
})
protected[environment] = true
hidden._G = environment

-- ---- redis.call

local function text_of(number)
    if number == floor(number) and number > -1e17 and number < 1e17 then return format("%d", number) end
    return format("%.17g", number)
end

local function call(...)
    check_memory()
    local argv, size = {...}, 0
    local number = select("#", ...)
    if number == 0 then return {err = "ERR Please specify at least one argument for this redis lib call"} end
    if number > 4096 then return {err = "ERR too many arguments for a command of a script"} end
    for at = 1, number do
        local kind = type(argv[at])
        if kind == "number" then
            argv[at] = text_of(argv[at])
        elseif kind ~= "string" then
            return {err = "ERR Lua redis lib command arguments must be strings or integers"}
        end
        size = size + #argv[at]
    end
    if size > most_bytes then return {err = "ERR the arguments of a command of a script are too long"} end
    local kind, value = fetch(unpack(argv, 1, number))
    if kind == "value" then return value end
    if kind == "null" then return false end
    if kind == "status" then return {ok = value} end
    if kind == "error" then return {err = value} end
    local items = {}
    for at = 1, value do
        check_memory()
        local found = item(at)
        if found == nil then found = false end
        items[at] = found
    end
    return items
end

local function error_text(text)
    if byte(text, 1) == 45 then text = string.sub(text, 2) end
    local has_code = find(text, " ", 1, true)
    text = gsub(text, "[\r\n]", " ")
    if has_code then return text end
    return "ERR " .. text
end

local function quiet() end

hidden.redis = proxy({
    pcall = call,
    call = function(...)
        local reply = call(...)
        if type(reply) == "table" and reply.err then error(reply, 0) end
        return reply
    end,
    error_reply = function(text)
        if type(text) ~= "string" then return {err = "ERR wrong number or type of arguments"} end
        return {err = error_text(text)}
    end,
    status_reply = function(text)
        if type(text) ~= "string" then return {err = "ERR wrong number or type of arguments"} end
        return {ok = text}
    end,
    log = quiet, setresp = quiet, replicate_commands = function() return true end,
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
})
hidden.server = hidden.redis

-- ---- a run

local function reply_of(value, parts, depth)
    local kind = type(value)
    if kind == "string" then
        insert(parts, "$" .. #value .. "\r\n")
        insert(parts, value)
        insert(parts, "\r\n")
    elseif kind == "number" then
        if value ~= value or value == huge or value == -huge then value = math.mininteger end
        value = tointeger(value >= 0 and floor(value) or ceil(value)) or math.mininteger
        insert(parts, ":" .. value .. "\r\n")
    elseif value == true then
        insert(parts, ":1\r\n")
    elseif kind ~= "table" then
        insert(parts, "_\r\n")
    else
        if depth > 32 then error("the reply is nested too deeply", 0) end
        local err, ok = rawget(value, "err"), rawget(value, "ok")
        if type(err) == "string" then
            insert(parts, "-" .. gsub(err, "[\r\n]", " ") .. "\r\n")
        elseif type(ok) == "string" then
            insert(parts, "+" .. gsub(ok, "[\r\n]", " ") .. "\r\n")
        else
            local number = 0
            while rawget(value, number + 1) ~= nil do number = number + 1 end
            insert(parts, "*" .. number .. "\r\n")
            for at = 1, number do reply_of(rawget(value, at), parts, depth + 1) end
        end
    end
end

local functions, number_of_functions = {}, 0

-- Returns true, or false and why the source is no script.
local function compile(digest, source)
    if functions[digest] then return true end
    -- Where a variable is to be closed there are no tail calls: the line of `return redis.call(...)` is known.
    local compiled, why = load("local __line <close> = nil " .. source, "=user_script", "t", environment)
    if not compiled then return false, why end
    if number_of_functions >= 256 then functions, number_of_functions = {}, 0 end
    functions[digest], number_of_functions = compiled, number_of_functions + 1
    return true
end

local function begun(digest, keys, ...)
    local arguments = {...}
    local KEYS, ARGV = {}, {}
    for at = 1, keys do KEYS[at] = arguments[at] end
    for at = keys + 1, #arguments do ARGV[at - keys] = arguments[at] end
    hidden.KEYS, hidden.ARGV = KEYS, ARGV
    local parts = {}
    reply_of(functions[digest](), parts, 0)
    return concat(parts)
end

local line

-- Called where an error is raised that nothing catches: remembers the script's line. As short as this, since it may
-- be called within the hook.
local function locate(err)
    for level = 2, 8 do
        local found = getinfo(level, "Sl")
        if not found then break end
        if found.source == "=user_script" then
            line = found.currentline
            break
        end
    end
    return err
end

-- The text of an error that has ended a script, as in Redis: with the script's digest and line.
local function ended_by(err, digest)
    local text
    if type(err) == "table" then
        text = rawget(err, "err")
        if type(text) ~= "string" then text = "ERR unknown error" end
    else
        text = "ERR " .. gsub(tostring(err), "^prelude:%d+: ", "")
    end
    text = gsub(text, "[\r\n]", " ")
    if line then text = text .. " script: " .. digest .. ", on @user_script:" .. line .. "." end
    return text
end

-- Returns true and the encoded reply, or false and the error; raises the reason if it was stopped.
local function run(digest, ...)
    left, deadline, line = instructions, clock() + seconds, nil
    sethook(check, "", EVERY)
    local done, result = xpcall(begun, locate, digest, ...)
    sethook()
    hidden.KEYS, hidden.ARGV = nil, nil
    if not done then result = ended_by(result, digest) end
    return done, result
end

return compile, run
"""
