//! The model and a real server, side by side.

use dropgate_shared::scripts::Script;
use dropgate_simulator::clock::Clock;
use dropgate_simulator::redis::{Reply, Server};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where the server's copies of the scripts read the time.
const TIME_KEY: &str = "contract:time";
pub const START_MS: u64 = 1_800_000_000_000;

/// A `redis-server` of its own, in a folder of its own.
pub struct Redis {
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

    pub fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
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

    pub fn ok<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let reply = self.command(args);
        assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
    }
}

/// The model and the server, side by side.
pub struct Pair {
    pub model: Server,
    pub redis: Redis,
    pub compared: usize,
    /// Errors by their code, those that ended a script with a `+`.
    errors: BTreeMap<String, usize>,
}

impl Pair {
    pub fn start() -> Self {
        let model = Server::new(Clock::starting_at(START_MS), 5);
        let mut pair = Self { model, redis: Redis::start(), compared: 0, errors: BTreeMap::new() };
        pair.write_time();
        pair
    }

    fn write_time(&mut self) {
        let us = self.model.clock.now_us();
        let (seconds, us) = ((us / 1_000_000).to_string(), (us % 1_000_000).to_string());
        self.redis.ok(&["HSET", TIME_KEY, "s", &seconds, "us", &us]);
    }

    pub async fn pass(&mut self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        self.write_time();
    }

    /// Runs a command on both, and compares.
    pub fn both<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let (expected, seen) = (self.redis.command(args), self.model.command(args));
        self.compare(args, expected, seen)
    }

    pub fn script(&mut self, script: &Script, keys: &[String], args: &[String], by_name: bool) -> Reply {
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
        if let Reply::Error(text) = &expected {
            let code = text.split(' ').next().unwrap_or_default();
            let in_script = if text.contains(" script: ") { "+" } else { "" };
            *self.errors.entry(format!("{code}{in_script}")).or_default() += 1;
        }
        let (expected, seen) = (canonical(&name, expected), canonical(&name, seen));
        assert_eq!(seen, expected, "the model's reply, and the server's, to {shown:?}");
        seen
    }

    /// A whole scan on both: the same entries.
    pub fn scan(&mut self, verb: &str, key: &str, count: &str) {
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

    /// How many errors of this code there were; `+` after it: those that ended a script.
    pub fn errors(&self, code: &str) -> usize {
        self.errors.get(code).copied().unwrap_or(0)
    }

    /// Everything that both hold.
    pub fn compare_data(&mut self) {
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
