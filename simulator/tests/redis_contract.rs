//! The model of Redis against a real `redis-server`: the same sequences on both, every reply compared, and at the
//! end the whole data set.
//!
//! The project's scripts run on the model as they are. On the server their `redis.call('TIME')` reads a hash that
//! holds the model's time; that changes a script's SHA-1, so digests in errors are masked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_shared::scripts::{ADMIT, CONFIRM, LEASE, PUBLISH, RESTORE, Script, TAKE_DUE, UPDATE};
use dropgate_simulator::clock::Clock;
use dropgate_simulator::random::Random;
use dropgate_simulator::redis::{ACL_DENIED, CommandFault, Reply, Server};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where the server's copies of the scripts read the time.
const TIME_KEY: &str = "contract:time";
const START_MS: u64 = 1_800_000_000_000;

/// A `redis-server` of its own, in a folder of its own.
struct Redis {
    process: Child,
    stream: BufReader<TcpStream>,
    _folder: TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    fn start() -> Self {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let caches = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        let cache = variable("DROPGATE_CACHE").or_else(|| caches.map(|folder| folder.join("dropgate")));
        let installed = cache.map(|cache| cache.join("bin/redis-server")).filter(|path| path.exists());
        let program = installed.unwrap_or_else(|| "redis-server".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new(&program)
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run `make setup`", program.display()));
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match TcpStream::connect(format!("127.0.0.1:{port}")) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "redis-server does not listen: {error}"),
            }
            std::thread::yield_now();
        };
        stream.set_nodelay(true).unwrap();
        Self { process, stream: BufReader::new(stream), _folder: folder }
    }

    fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let arg = arg.as_ref();
            request.extend(format!("${}\r\n", arg.len()).into_bytes());
            request.extend(arg);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r\n").unwrap()).into_owned();
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "+" => Reply::Status(rest.to_owned().into()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()),
            "$" if number() >= 0 => {
                let mut bytes = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut bytes).unwrap();
                Reply::Bulk(bytes[..bytes.len() - 2].into())
            }
            "*" if number() >= 0 => Reply::Array((0..number()).map(|_| self.reply()).collect()),
            "$" | "*" => Reply::Nil,
            _ => panic!("not RESP2: {line}"),
        }
    }

    fn ok<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let reply = self.command(args);
        assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
    }
}

/// The model and the server, side by side.
struct Pair {
    model: Server,
    redis: Redis,
    compared: usize,
    errors: usize,
}

impl Pair {
    fn start() -> Self {
        let model = Server::new(Clock::starting_at(START_MS), 5);
        let mut pair = Self { model, redis: Redis::start(), compared: 0, errors: 0 };
        pair.tell_time();
        pair
    }

    fn tell_time(&mut self) {
        let us = self.model.clock.now_us();
        let (seconds, us) = ((us / 1_000_000).to_string(), (us % 1_000_000).to_string());
        self.redis.ok(&["HSET", TIME_KEY, "s", &seconds, "us", &us]);
    }

    async fn pass(&mut self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        self.tell_time();
    }

    /// Runs a command on both, and compares.
    fn both<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let (expected, seen) = (self.redis.command(args), self.model.command(args));
        self.compare(args, expected, seen)
    }

    fn script(&mut self, script: &Script, keys: &[String], args: &[String], by_name: bool) -> Reply {
        let text = on_server(script);
        let count = keys.len().to_string();
        let call = |verb: &str, body: &str| -> Vec<String> {
            let head = [verb, body, &count].map(str::to_owned);
            head.into_iter().chain(keys.iter().cloned()).chain(args.iter().cloned()).collect()
        };
        // By name the model may lack the script; the server then runs it all the same, so load it there only.
        let seen = match by_name {
            true => {
                self.model.command(&["SCRIPT", "LOAD", script.text]);
                self.model.command(&call("EVALSHA", script.sha1))
            }
            false => self.model.command(&call("EVAL", script.text)),
        };
        let expected = self.redis.command(&call("EVAL", &text));
        self.compare(&call(script.name, ""), expected, seen)
    }

    fn compare<A: AsRef<[u8]>>(&mut self, args: &[A], expected: Reply, seen: Reply) -> Reply {
        let shown: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg.as_ref()).into_owned()).collect();
        let name = shown.first().map(|name| name.to_lowercase()).unwrap_or_default();
        self.compared += 1;
        self.errors += usize::from(matches!(expected, Reply::Error(_)));
        let (expected, seen) = (canonical(&name, expected), canonical(&name, seen));
        assert_eq!(seen, expected, "the model's reply, and the server's, to {shown:?}");
        seen
    }

    /// A whole scan on both: the same entries.
    fn scan(&mut self, verb: &str, key: &str, count: &str) {
        type Ask<'a> = &'a mut dyn FnMut(&str) -> Reply;
        let whole = |ask: Ask<'_>| {
            let (mut cursor, mut seen) = ("0".to_owned(), Vec::new());
            loop {
                let reply = ask(&cursor);
                let Reply::Array(parts) = reply else { return Err(reply) };
                let [next, Reply::Array(page)] = &parts[..] else { panic!("{parts:?}") };
                let width = if verb == "SSCAN" { 1 } else { 2 };
                seen.extend(page.chunks(width).map(<[Reply]>::to_vec));
                cursor = next.text().unwrap().into_owned();
                if cursor == "0" {
                    break;
                }
            }
            seen.sort_by_key(|entry| format!("{entry:?}"));
            seen.dedup();
            Ok(seen)
        };
        let args = |cursor: &str| [verb, key, cursor, "COUNT", count].map(str::to_owned);
        let expected = whole(&mut |cursor| self.redis.command(&args(cursor)));
        let seen = whole(&mut |cursor| self.model.command(&args(cursor)));
        assert_eq!(seen, expected, "{verb} {key}");
        self.compared += 1;
    }

    /// Everything that both hold.
    fn compare_data(&mut self) {
        let Reply::Array(keys) = self.redis.command(&["KEYS", "*"]) else { panic!() };
        let mut keys: Vec<String> = keys.iter().map(|key| key.text().unwrap().into_owned()).collect();
        keys.retain(|key| key != TIME_KEY);
        assert_eq!(self.model.inspect(&["DBSIZE"]), Reply::Int(keys.len() as i64));
        for key in &keys {
            let kind = self.both(&["TYPE", key]);
            match kind.text().unwrap().as_ref() {
                "hash" => drop(self.both(&["HGETALL", key])),
                "set" => drop(self.both(&["SMEMBERS", key])),
                "zset" => drop(self.both(&["ZRANGE", key, "0", "-1", "WITHSCORES"])),
                _ => drop(self.both(&["GET", key])),
            }
        }
    }
}

fn on_server(script: &Script) -> String {
    script.text.replace("redis.call('TIME')", &format!("redis.call('HMGET', '{TIME_KEY}', 's', 'us')"))
}

/// A reply without what may differ: the order of what has none, and digests of scripts.
fn canonical(name: &str, reply: Reply) -> Reply {
    let width = match name {
        "hgetall" => 2,
        "hkeys" | "hvals" | "smembers" => 1,
        _ => 0,
    };
    match reply {
        Reply::Array(mut parts) if matches!(name, "hscan" | "zscan") => {
            let page = parts.pop().map(|page| canonical("hgetall", page));
            parts.extend(page);
            Reply::Array(parts)
        }
        Reply::Array(items) if width > 0 => {
            let mut entries: Vec<Vec<Reply>> = items.chunks(width).map(<[Reply]>::to_vec).collect();
            entries.sort_by_key(|entry| format!("{entry:?}"));
            Reply::Array(entries.concat())
        }
        Reply::Error(text) => Reply::Error(masked(&text)),
        other => other,
    }
}

fn masked(text: &str) -> String {
    match text.split_once("script: ") {
        Some((before, after)) if after.len() > 40 => format!("{before}script: SHA{}", &after[40..]),
        _ => text.to_owned(),
    }
}

/// Draws commands and calls of scripts.
struct Generator(Random);

const CAMPAIGNS: [&str; 2] = ["a", "b"];
const USERS: [&str; 14] = ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "é", "a b", "x:y", "-", "9", ""];
const RAW_KEYS: [&str; 6] = ["k1", "k2", "dg:{a}:meta", "dg:{a}:claims", "dg:{a}:outbox", "dg:campaigns"];
const FIELDS: [&str; 7] = ["f1", "f2", "u1", "u2", "count", "capacity", ""];
const VALUES: [&str; 7] = ["v", "", "12", "-3", "3:1800000000000:a", "9223372036854775807", "é\r\n"];
const INTEGERS: [&str; 9] = ["0", "1", "-1", "2", "-2", "100", "x", "1.5", "9223372036854775807"];
const SCORES: [&str; 11] = ["0", "1", "-1", "2.5", "-0.25", "1800000000000", "inf", "-inf", "nan", "x", ""];
const BOUNDS: [&str; 10] = ["-inf", "+inf", "0", "(0", "1", "(2.5", "1800000000000", "x", "", "("];

/// Commands and their arguments: K key, F field or member, V value, I integer, S score, B bound; in brackets what
/// may be left out, `*` the group before once more or not.
const RAW: &[&str] = &[
    "HSET K F V", "HSET K F V F V", "HSET K F V F", "HSETNX K F V", "HGET K F", "HMGET K F F", "HGETALL K", "HLEN K",
    "HKEYS K", "HVALS K", "HDEL K F F", "HEXISTS K F", "HINCRBY K F I", "ZADD K S F", "ZADD K NX S F S F",
    "ZADD K XX S F", "ZADD K GT S F", "ZADD K LT CH S F", "ZADD K CH S F S F", "ZADD K XX GT CH S F", "ZADD K NX XX S F",
    "ZADD K GT LT S F", "ZADD K INCR S F", "ZADD K NX INCR S F", "ZADD K INCR S F S F", "ZADD K NX", "ZADD K S F S",
    "ZINCRBY K S F", "ZREM K F F", "ZCARD K", "ZSCORE K F", "ZMSCORE K F F", "ZRANGE K I I", "ZRANGE K I I WITHSCORES",
    "ZRANGE K I I REV", "ZRANGE K B B BYSCORE", "ZRANGE K B B BYSCORE REV LIMIT I I WITHSCORES", "ZRANGE K I I LIMIT I I",
    "ZRANGEBYSCORE K B B", "ZRANGEBYSCORE K B B LIMIT I I", "ZRANGEBYSCORE K B B WITHSCORES LIMIT 0 I",
    "ZRANGEBYSCORE K B B LIMIT I", "ZCOUNT K B B", "ZREMRANGEBYSCORE K B B", "ZPOPMIN K", "ZPOPMIN K I", "SADD K F F",
    "SREM K F F", "SMEMBERS K", "SISMEMBER K F", "SMISMEMBER K F F", "SCARD K", "GET K", "MGET K K", "SET K V",
    "SET K V NX", "SET K V XX", "SET K V NX GET", "SET K V XX GET", "SET K V NX XX", "SET K V NO", "DEL K", "DEL K K",
    "UNLINK K", "EXISTS K K", "INCR K", "DECR K", "INCRBY K I", "TYPE K", "PING", "PING V", "PING V V", "NOPE K V",
    "HSCAN K x", "HSCAN none 0 COUNT x", "HSCAN K 0 COUNT I MATCH *", "ZSCAN K 0 NO", "FLUSHALL NO", "CONFIG", "EVAL x",
    "EVAL x I", "EVALSHA x 0", "SCRIPT LOAD", "SCRIPT EXISTS x", "SCRIPT NO x", "SCRIPT FLUSH NO", "hget K F",
];

impl Generator {
    fn one(&mut self, items: &[&str]) -> String {
        (*self.0.pick(items).unwrap()).to_owned()
    }

    fn many(&mut self, items: &[&str], most: u64) -> Vec<String> {
        (0..self.0.range(1..=most)).map(|_| self.one(items)).collect()
    }

    fn raw(&mut self) -> Vec<String> {
        let form = self.one(RAW);
        let mut args: Vec<String> = form
            .split(' ')
            .map(|word| match word {
                "K" => self.one(&RAW_KEYS),
                "F" => self.one(&FIELDS),
                "V" => self.one(&VALUES),
                "I" => self.one(&INTEGERS),
                "S" => self.one(&SCORES),
                "B" => self.one(&BOUNDS),
                word => word.to_owned(),
            })
            .collect();
        // FLUSHALL alone would take the server's time with it.
        if self.0.chance(0.03) && form != "FLUSHALL NO" {
            args.truncate(self.0.range(1..=args.len() as u64) as usize);
        }
        args
    }

    fn call(&mut self) -> (&'static Script, Vec<String>, Vec<String>) {
        let campaign = self.one(&CAMPAIGNS);
        let key = |name: &str| format!("dg:{{{campaign}}}:{name}");
        let (meta, claims, outbox) = (key("meta"), key("claims"), key("outbox"));
        let state = |generator: &mut Self| generator.one(&["open", "open", "open", "paused", "closed"]);
        let settings = |generator: &mut Self| {
            let opens = generator.one(&["1", "1800000001000"]);
            let closes = generator.one(&["0", "0", "0", "1800000300000"]);
            vec![state(generator), generator.one(&["3", "5", "9", "x"]), opens, closes]
        };
        match self.0.below(16) {
            0..7 => {
                let mut args = vec![self.one(&["5000", "5000", "5000", "1", "x"])];
                if !self.0.chance(0.02) {
                    args.extend(self.many(&USERS, 6));
                }
                (&ADMIT, vec![meta, claims, outbox], args)
            }
            7..9 => {
                let mut args = Vec::new();
                for _ in 0..self.0.below(4) {
                    let entry = format!("{}:{}:{}", self.0.range(1..=9), START_MS, self.one(&["i", "r", "d", "a"]));
                    args.extend([self.one(&USERS), entry]);
                }
                (&CONFIRM, vec![claims, outbox], args)
            }
            9 => {
                let mut args = Vec::new();
                for _ in 0..self.0.range(0..=3) {
                    args.extend([self.one(&["100", "900000", "14400000"]), self.one(&USERS)]);
                }
                (&LEASE, vec![outbox], args)
            }
            10 => {
                let mut args = settings(self);
                args.push(self.one(&["0", "1", "2"]));
                (&PUBLISH, vec![meta, claims], args)
            }
            11 => (&RESTORE, vec![claims, outbox], if self.0.chance(0.1) { vec![] } else { self.many(&USERS, 5) }),
            12..15 => {
                let args = [self.one(&["1", "2", "100"]), self.one(&["5000", "x"]), "900000".to_owned()];
                (&TAKE_DUE, vec![claims, outbox], args.to_vec())
            }
            _ => (&UPDATE, vec![meta], settings(self)),
        }
    }

    /// One step on both: a script, a raw command, or a scan.
    fn step(&mut self, pair: &mut Pair) {
        match self.0.below(20) {
            0..10 => {
                let (script, keys, args) = self.call();
                let by_name = self.0.chance(0.5);
                pair.script(script, &keys, &args, by_name);
            }
            10..19 => {
                let args = self.raw();
                pair.both(&args);
            }
            _ => {
                let (verb, key) = (self.one(&["HSCAN", "ZSCAN", "SSCAN"]), self.one(&RAW_KEYS));
                pair.scan(&verb, &key, "7");
            }
        }
    }

    /// Makes the campaigns right again, so that the scripts do more than report damage.
    fn repair(&mut self, pair: &mut Pair) {
        for key in RAW_KEYS {
            if self.0.chance(0.7) {
                pair.both(&["DEL", key]);
            }
        }
        for campaign in CAMPAIGNS {
            let keys = [format!("dg:{{{campaign}}}:meta"), format!("dg:{{{campaign}}}:claims")];
            let capacity = self.one(&["3", "9", "40"]);
            pair.script(&PUBLISH, &keys, &["open", &capacity, "1", "0", "0"].map(str::to_owned), false);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn random_sequences_are_answered_alike() {
    let mut admitted = 0;
    for seed in 0..4 {
        let mut pair = Pair::start();
        let mut generator = Generator(Random::new(seed));
        for step in 0..2_000 {
            if step % 40 == 0 {
                generator.repair(&mut pair);
            }
            if generator.0.chance(0.2) {
                let ms = generator.0.range(1..=4_000);
                pair.pass(ms).await;
            }
            generator.step(&mut pair);
            let claims = pair.model.inspect(&["HLEN", "dg:{a}:claims"]);
            admitted = admitted.max(if let Reply::Int(count) = claims { count } else { 0 });
        }
        pair.compare_data();
        assert!(pair.compared >= 2_000 && (200..1_200).contains(&pair.errors), "{} errors", pair.errors);
    }
    assert!(admitted >= 9, "the scripts did admit: {admitted}");
}

#[tokio::test(start_paused = true)]
async fn with_memory_full_and_on_a_replica_the_same_is_refused() {
    let mut refused = [0, 0];
    for seed in 10..14 {
        let mut pair = Pair::start();
        let mut generator = Generator(Random::new(seed));
        for round in 0..12 {
            generator.repair(&mut pair);
            for _ in 0..20 {
                generator.step(&mut pair);
            }
            let before = pair.errors;
            let full = round % 2 == 0;
            match full {
                true => pair.redis.ok(&["CONFIG", "SET", "maxmemory", "1"]),
                false => pair.redis.ok(&["REPLICAOF", "127.0.0.1", "1"]),
            }
            (pair.model.out_of_memory, pair.model.read_only) = (full, !full);
            for _ in 0..60 {
                generator.step(&mut pair);
            }
            for text in SHEBANGS {
                pair.both(&["EVAL", text, "2", "k1", "k2"]);
            }
            pair.redis.ok(&["CONFIG", "SET", "maxmemory", "0"]);
            pair.redis.ok(&["REPLICAOF", "NO", "ONE"]);
            (pair.model.out_of_memory, pair.model.read_only) = (false, false);
            refused[usize::from(full)] += pair.errors - before;
        }
        pair.compare_data();
        assert!(pair.model.strikes().of("out_of_memory") > 50 && pair.model.strikes().of("read_only") > 50);
    }
    assert!(refused.iter().all(|count| *count > 400), "{refused:?}");
}

/// Scripts with and without declared flags that write, free, or only read.
const SHEBANGS: &[&str] = &[
    "#!lua\nreturn 1",
    "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], 'v')",
    "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])",
    "#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 'v')",
    "#!lua flags=no-writes,allow-oom\nreturn redis.call('DEL', KEYS[1])",
    "return redis.call('SET', KEYS[1], 'v')",
    "return redis.pcall('SET', KEYS[1], 'v')",
    "redis.call('DEL', KEYS[2]) return redis.call('SET', KEYS[1], 'v')",
    "redis.pcall('ZREM', KEYS[2], 'none') return redis.call('SET', KEYS[1], 'v')",
    "redis.call('GET', KEYS[2]) return redis.call('SET', KEYS[1], 'v')",
];

#[tokio::test(start_paused = true)]
async fn a_command_without_permission_fails_alike_in_the_middle_of_a_script() {
    let mut struck = 0;
    for (seed, command) in (20..).zip(["zadd", "hset", "zrem", "hlen"]) {
        let mut pair = Pair::start();
        let mut generator = Generator(Random::new(seed));
        generator.repair(&mut pair);
        pair.redis.ok(&["ACL", "SETUSER", "limited", "on", "nopass", "~*", "+@all", &format!("-{command}")]);
        pair.redis.ok(&["AUTH", "limited", "any"]);
        pair.model.fail_command_in_script(Some(CommandFault::from(command, 1, ACL_DENIED)));
        for _ in 0..150 {
            let (script, keys, args) = generator.call();
            pair.script(script, &keys, &args, false);
        }
        struck += pair.model.strikes().of("command_in_script");
        pair.redis.ok(&["AUTH", "default", "any"]);
        pair.model.fail_command_in_script(None);
        pair.compare_data();
    }
    assert!(struck > 100, "{struck}");
}

/// Conversions between Lua and replies, and the forms of errors.
const LUA: &[&str] = &[
    "return 1", "return 1.9", "return -1.9", "return 2^53", "return 'a'", "return nil", "return false", "return true",
    "return {1, 2.7, {'x', false, true, {}}, 'y', nil, 'never'}", "return {err='MY text'}", "return {err='word'}",
    "return {err='MY two\\r\\nlines\\r\\n'}", "return {ok='fine'}", "return {ok='two\\r\\nlines'}", "return {double=1.5}",
    "return {double=3}", "return function() end", "return {1, redis.error_reply('IN list')}", "return redis.error_reply('x')",
    "return redis.error_reply('MY x\\r\\n')", "return redis.error_reply('-MY x')", "return redis.error_reply()",
    "return redis.error_reply({})", "return redis.status_reply('x')", "return redis.status_reply()",
    "return redis.sha1hex('')", "return redis.sha1hex()", "return redis.call('NOPE')", "return redis.pcall('NOPE')",
    "return redis.call()", "return redis.pcall()", "return redis.call('GET')", "return redis.pcall('GET')",
    "return redis.call('EVAL', 'return 1', 0)", "return redis.call('SCRIPT', 'FLUSH')", "return redis.call('SET', {}, 1)",
    "return redis.pcall('SET', KEYS[1], {})", "redis.call('SET', KEYS[1], 2^40) return redis.call('GET', KEYS[1])",
    "redis.call('SET', KEYS[1], 1.5) return redis.call('GET', KEYS[1])",
    "redis.call('SET', KEYS[1], 1e300) return redis.call('GET', KEYS[1])",
    "redis.call('SET', KEYS[1], -0.001) return redis.call('GET', KEYS[1])",
    "return {pcall(redis.call, 'NOPE')}", "return {pcall(error, 'x')}", "return {pcall(error, 'x', 0)}",
    "return {pcall(function() error({err='MY t'}) end)}", "return {pcall(function() error({code=1}) end)}",
    "return {pcall(function(a, b) return a, b end, 1, 2)}", "error('boom')", "error('boom', 0)", "error({err='MY err'})",
    "error({err='MY err'}, 2)", "local x = nil\nreturn x.y", "return 1 + {}", "x = 1", "return y", "return _G.y",
    "string.rep = 1", "redis.x = 1", "KEYS = nil", "\n\nredis.call('NOPE')", "return tostring(redis.call('GET', 'none'))",
    "local f = function() return redis.call('NOPE') end\nreturn f()", "local function f()\n  error('deep')\nend\nf()",
    "return type(redis.call('SET', KEYS[1], 'v'))", "return redis.call('SET', KEYS[1], 'v').ok",
    "return redis.call('SET', KEYS[1], 'v')", "return select('#', redis.call('HMGET', 'none', 'a', 'b'))",
    "return {xpcall(function() redis.call('NOPE') end, function(e) return e.err end)}",
    "return {xpcall(function() error('x', 0) end, function(e) return e .. '!' end)}",
    "return tostring(12345678901234567890)", "return string.format('%d', 3.99)", "return {#KEYS, #ARGV, KEYS[2], ARGV[3]}",
    "return {unpack(ARGV)}", "return {string.find('a:b', ':')}", "return {('x'):rep(3), #'abc', tonumber('0x10')}",
    "return redis.call('PING')", "return {redis.call('EXISTS', 'none'), redis.call('TYPE', 'none')}", "return math.floor(-1.5)",
    "return {redis.LOG_WARNING, redis.REPL_ALL, redis.replicate_commands()}", "return table.concat(ARGV, ',')",
    "local t = {} for i = 1, 7000 do t[i] = i end return #redis.call('HMGET', 'none', unpack(t))",
    "local t = {} for i = 1, 9000 do t[i] = i end return redis.call('HMGET', 'none', unpack(t))",
    "return (", "return 'a' .. nil", "goto", "#!lua", "#!sh\nreturn 1", "#!lua name=x\nreturn 1", "#!lua flags=x\nreturn 1",
    "#!lua flags=allow-key-locking\nreturn 1", "#!lua flags=no-cluster,allow-stale\nreturn KEYS[1]",
    "#!lua\nerror('on line two')", "return redis.call('set', KEYS[1], '')", "local a <const> = 1", "",
];

#[tokio::test(start_paused = true)]
async fn values_and_errors_cross_between_lua_and_redis_alike() {
    let mut pair = Pair::start();
    for text in LUA.iter().chain(SHEBANGS) {
        pair.both(&["EVAL", text, "2", "k1", "k2", "a", "", "é"]);
        let sha = pair.both(&["SCRIPT", "LOAD", text]);
        if let Some(sha) = sha.text() {
            pair.both(&["EVALSHA", &sha, "1", "k1", "b"]);
            pair.both(&["EVALSHA", &sha.to_uppercase(), "1", "k1", "b"]);
            pair.both(&["SCRIPT", "EXISTS", &sha, "none"]);
        }
    }
    for count in ["x", "-1", "2", "1.0", ""] {
        pair.both(&["EVAL", "return 1", count, "k"]);
    }
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    pair.both(&["EVALSHA", sha, "0"]);
    pair.both(&["SCRIPT", "FLUSH"]);
    pair.both(&["EVALSHA", sha, "0"]);
    pair.both(&["EVALSHA", sha, "x"]);
    pair.both(&["EVALSHA", "short", "x"]);
    let long = "x".repeat(300);
    pair.both(&["NOPE", "a\r\nb", &long, "c"]);
    pair.both(&[&long, "a"]);
    pair.compare_data();
    assert!(pair.compared > 300);
}

#[tokio::test(start_paused = true)]
async fn large_collections_are_scanned_to_the_same_end() {
    let mut pair = Pair::start();
    for n in 0..700 {
        let (name, score) = (format!("n{n}"), (n % 50).to_string());
        pair.both(&["HSET", "h", &name, "v"]);
        pair.both(&["ZADD", "z", &score, &name]);
        pair.both(&["SADD", "s", &name]);
    }
    for count in ["1", "10", "1000"] {
        pair.scan("HSCAN", "h", count);
        pair.scan("ZSCAN", "z", count);
        pair.scan("SSCAN", "s", count);
    }
    pair.both(&["ZRANGEBYSCORE", "z", "-inf", "10", "WITHSCORES", "LIMIT", "5", "100"]);
    pair.compare_data();
    pair.both(&["FLUSHALL"]);
    pair.compare_data();
    pair.both(&["DBSIZE"]);
}
