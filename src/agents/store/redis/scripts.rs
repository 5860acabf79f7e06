//! The changes that must happen whole or not at all, in Redis' own language. Each is told all names of keys that it may
//! touch, but for the indexes, whose names the session itself remembers.

use redis::Script;

/// All of them.
pub(super) struct Scripts {
    pub(super) write: Script,
    pub(super) remove: Script,
    pub(super) acquire: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) swap: Script,
    pub(super) stop: Script,
    pub(super) holder: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            write: Script::new(WRITE),
            remove: Script::new(REMOVE),
            acquire: Script::new(ACQUIRE),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
            swap: Script::new(SWAP),
            stop: Script::new(STOP),
            holder: Script::new(HOLDER),
        }
    }
}

/// Creates a session (expected version 0) or changes one. Gives a word and a number.
const WRITE: &str = r"
local session, lease, turns, words, usage, usage_at, usage_of, stops = unpack(KEYS)
local id, change, expected, token, fence = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local plain, sealed, score, indexes = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local number, turn_plain, turn_sealed, run, used, used_at = unpack(ARGV, 10, 15)

local version = tonumber(redis.call('HGET', session, 'version') or 0)
if expected == 0 and version > 0 then return {'exists', version} end
if expected > 0 then
    if version == 0 then return {'gone', 0} end
    if redis.call('HGET', session, 'change') == change then return {'done', version} end
    if token ~= '' and redis.call('HGET', lease, 'token') ~= token then
        return {'fenced', tonumber(redis.call('HGET', lease, 'fence') or 0)}
    end
    if version ~= expected then return {'conflict', version} end
end
for _, index in ipairs(cjson.decode(redis.call('HGET', session, 'indexes') or '[]')) do
    redis.call('ZREM', index, id)
end
fence = math.max(fence, tonumber(redis.call('HGET', session, 'fence') or 0))
redis.call('HSET', session, 'version', version + 1, 'change', change, 'fence', fence,
    'plain', plain, 'sealed', sealed, 'indexes', indexes)
for _, index in ipairs(cjson.decode(indexes)) do redis.call('ZADD', index, score, id) end
if number ~= '' then
    redis.call('HSET', turns, number, turn_plain)
    redis.call('HSET', words, number, turn_sealed)
    redis.call('HSET', usage, run, used)
    redis.call('ZADD', usage_at, used_at, run)
    redis.call('SADD', usage_of, run)
    redis.call('SREM', stops, run)
end
return {'done', version + 1}
";

const REMOVE: &str = r"
local session, turns, words, usage, usage_at, usage_of, stops = unpack(KEYS)
local id, everything = ARGV[1], ARGV[2]
for _, index in ipairs(cjson.decode(redis.call('HGET', session, 'indexes') or '[]')) do
    redis.call('ZREM', index, id)
end
if everything == '1' then
    for _, run in ipairs(redis.call('SMEMBERS', usage_of)) do
        redis.call('HDEL', usage, run)
        redis.call('ZREM', usage_at, run)
    end
    redis.call('DEL', usage_of)
end
redis.call('DEL', turns, words, stops)
return redis.call('DEL', session)
";

/// The number of the next lease is larger than that of the last one and than any that the caller knows of, which matters
/// when Redis has lost what it knew.
const ACQUIRE: &str = r"
local lease, lock = unpack(KEYS)
local token, ttl, floor, holder, instead = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local known = tonumber(redis.call('HGET', lease, 'fence') or 0)
if redis.call('HGET', lease, 'token') == token then
    redis.call('SET', lock, token, 'PX', ttl)
    return {'lease', known, ''}
end
local held_by = redis.call('GET', lock)
if held_by and held_by ~= instead then
    return {'held', 0, held_by .. redis.call('HGET', lease, 'holder')}
end
local fence = math.max(known, floor) + 1
redis.call('HSET', lease, 'fence', fence, 'token', token, 'holder', holder)
redis.call('SET', lock, token, 'PX', ttl)
return {'lease', fence, ''}
";

const RENEW: &str = r"
local lease, lock = unpack(KEYS)
if redis.call('HGET', lease, 'token') ~= ARGV[1] then
    return tonumber(redis.call('HGET', lease, 'fence') or 0)
end
redis.call('SET', lock, ARGV[1], 'PX', ARGV[2])
return -1
";

const RELEASE: &str = r"
local lease, lock = unpack(KEYS)
if redis.call('HGET', lease, 'token') == ARGV[1] then redis.call('DEL', lock) end
return 1
";

/// Replaces a field of a hash if it is what it was.
const SWAP: &str = r"
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
";

/// Asks for a run to be stopped; 0 if there is no such session.
const STOP: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('SADD', KEYS[2], ARGV[1])
return 1
";

/// Who has a lease; false, which is nil, if its time is over.
const HOLDER: &str = r"
local lease, lock = unpack(KEYS)
if redis.call('EXISTS', lock) == 0 then return false end
return redis.call('HGET', lease, 'holder')
";
