"""What must happen in Redis in one piece, as Lua: nothing comes between a look and the write that depends on it.

Each script may be sent twice: a connection that breaks does not tell whether the first one arrived. Times are those of the Redis
server, so that the clocks of the machines need not agree.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ASK", "CLAIM", "FINISH", "GIVE_BACK", "PUBLISH", "RENEW", "TAKE"]

_LAST_NUMBER: Final = """
local function last_number(stream)
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return entry and tonumber(string.match(entry[1], '^%d+')) or 0
end
"""
_NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

RENEW: Final = (
    _NOW
    + """
-- owner about events commands | token, ttl, keep, '1' to begin, metered, field, value, ...
local holder = redis.call('GET', KEYS[1])
local token = redis.call('HGET', KEYS[2], 'token')
if (holder and holder ~= ARGV[1]) or (token and token ~= ARGV[1]) then return 'lost' end
if ARGV[4] == '1' and not token and redis.call('EXISTS', KEYS[3]) == 1 then return 'lost' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
-- counted by the owner: neither a clock that was set nor a Redis that was emptied changes a bill
redis.call('HSET', KEYS[2], 'token', ARGV[1], 'seen', now, 'metered_from', now - ARGV[5], unpack(ARGV, 6))
redis.call('HSETNX', KEYS[2], 'started', now)
redis.call('HDEL', KEYS[2], 'orphaned')
for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
return 'owner'
"""
)
"""Begin or go on to own a conversation: ``lost`` if another has it, or had it."""

PUBLISH: Final = (
    _LAST_NUMBER
    + _NOW
    + """
-- owner events about | token, most, number, at, event, ...
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local last = last_number(KEYS[2])
for i = 3, #ARGV, 3 do
  if tonumber(ARGV[i]) > last then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], ARGV[i] .. '-0', 'at', ARGV[i + 1], 'event', ARGV[i + 2])
  end
end
redis.call('HSET', KEYS[3], 'seen', now)
return 1
"""
)
"""Append numbered events; those that are there already stay. -1 if this is not the owner."""

ASK: Final = """
-- owner commands | most, keep, field, value, ...
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""
"""Leave a command for the owner; 0 if there is none."""

TAKE: Final = (
    _NOW
    + """
-- owner taken | token or '', who takes, keep, how long it was waited for
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local taken = redis.call('GET', KEYS[2])
if taken then return taken == ARGV[2] and 1 or 0 end
local asked, waits = tonumber(string.match(ARGV[2], '^%d+')), tonumber(ARGV[4])
if asked and waits and now > asked + waits then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""
)
"""Take a command to do it, or (without a token) so that nobody does it any more: 1 once, 0 if another took it, -1 if not the owner.

What an owner finds when nobody waits for it any more (it was suspended, and ``taken`` has expired) it cannot take either.
"""

CLAIM: Final = (
    _NOW
    + """
-- owner about | token, grace, lease
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {'alive'} end
if not holder then
  if redis.call('EXISTS', KEYS[2]) == 0 or redis.call('HEXISTS', KEYS[2], 'ended') == 1 then return {'gone'} end
  local orphaned = tonumber(redis.call('HGET', KEYS[2], 'orphaned') or 'inf')
  if orphaned > now then redis.call('HSET', KEYS[2], 'orphaned', now) end  -- or the clock was set back
  if now - orphaned < tonumber(ARGV[2]) then return {'orphaned'} end
  redis.call('HSET', KEYS[2], 'token', ARGV[1])
  redis.call('HINCRBY', KEYS[2], 'claims', 1)
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
end
return {'claimed', unpack(redis.call('HGETALL', KEYS[2]))}
"""
)
"""Take over a conversation that has had no owner for ``grace`` ms; the owner, should it wake up, finds that it is one no more."""

GIVE_BACK: Final = (
    _NOW
    + """
-- owner about | token
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'orphaned', now)
return 1
"""
)
"""Leave a claimed conversation to the next look of any cleaner."""

FINISH: Final = (
    _LAST_NUMBER
    + _NOW
    + """
-- owner about events commands | token, linger, reason, event, its number or '0' for the next
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.call('HGET', KEYS[2], 'ended_by') == ARGV[1] and 1 or 0 end
local last, number = last_number(KEYS[3]), tonumber(ARGV[5])
if number == 0 then number = math.max(last, tonumber(redis.call('HGET', KEYS[2], 'number') or '0')) + 1 end
if last < number then
  redis.call('XADD', KEYS[3], string.format('%.0f', number) .. '-0', 'at', string.format('%.3f', now / 1000), 'event', ARGV[4])
end
redis.call('HSET', KEYS[2], 'token', '', 'ended', now, 'ended_by', ARGV[1], 'reason', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('DEL', KEYS[1], KEYS[4])
return 1
"""
)
"""End a conversation: what was told stays for ``linger`` ms, the rest goes. The last event is told, unless it is there already."""
