//! Rules that `tests/redis_contract/` cannot compare with a server: faults, replicas, the hosted service.

use super::*;
use crate::random::Random;
use dropgate_shared::scripts::{ADMIT, CONFIRM, TAKE_DUE};
use std::time::Duration;

const START_MS: u64 = 1_800_000_000_000;

fn server() -> Server {
    Server::new(Clock::starting_at(START_MS), 7)
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

fn eval(server: &mut Server, script: &str, keys: &[&str], args: &[&str]) -> Reply {
    let count = keys.len().to_string();
    let mut all = vec!["EVAL", script, &count];
    all.extend(keys);
    all.extend(args);
    server.command(&all)
}

const KEYS: [&str; 3] = ["dg:{c}:meta", "dg:{c}:claims", "dg:{c}:outbox"];

fn publish(server: &mut Server, capacity: &str) {
    let [meta, ..] = KEYS;
    server.command(&[
        "HSET",
        meta,
        "state",
        "open",
        "capacity",
        capacity,
        "count",
        "0",
        "opens_ms",
        "1",
        "closes_ms",
        "0",
    ]);
}

fn admit(server: &mut Server, users: &[&str]) -> Reply {
    let mut args = vec!["5000", ""];
    args.extend(users);
    eval(server, ADMIT.text, &KEYS, &args)
}

fn texts(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Array(items) => items.iter().map(|item| item.text().unwrap_or_default().into_owned()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_real_scripts_run_on_the_servers_own_clock() {
    let mut server = server();
    publish(&mut server, "2");
    server.clock = server.clock.skewed(50);
    let now = START_MS + 50;
    let (entry, second) = (format!("+1:{now}:a"), format!("+2:{now}:a"));
    let held = format!("2:{now}");
    let reply = admit(&mut server, &["ann", "bob", "cy"]);
    assert_eq!(texts(&reply), ["1", &now.to_string(), &held, "", &entry, &second, "full"]);
    tokio::time::sleep(Duration::from_millis(5_000)).await;
    let due = eval(&mut server, TAKE_DUE.text, &[KEYS[1], KEYS[2], KEYS[0]], &["10", "5000", "900000"]);
    assert_eq!(texts(&due)[..4], ["2", &(now + 5_000).to_string(), "", "ann"]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fails_in_a_script_leaves_what_was_written_before() {
    let mut server = server();
    publish(&mut server, "2");
    server.fail_command_in_script(Some(CommandFault::once("zadd", 2, ACL_DENIED)));
    let script = "redis.call('HSET', KEYS[1], ARGV[1], 'v') return redis.call('ZADD', KEYS[2], 1, ARGV[1])";
    let write = |server: &mut Server, user: &str| eval(server, script, &KEYS[1..], &[user]);
    assert_eq!(write(&mut server, "ann"), Reply::Int(1), "the first ZADD is let through");
    let reply = write(&mut server, "bob");
    let Reply::Error(text) = &reply else { panic!("{reply:?}") };
    let sha = lua::sha1_hex(script.as_bytes());
    assert!(text.starts_with(&format!("{ACL_DENIED} script: {sha}, on @user_script:")), "{text}");
    assert_eq!(server.inspect(&["HEXISTS", KEYS[1], "bob"]), Reply::Int(1), "HSET came before");
    assert_eq!(server.inspect(&["ZSCORE", KEYS[2], "bob"]), Reply::Nil);
    assert_eq!(server.strikes().of("command_in_script"), 1);
    assert_eq!(server.lose_suffix(1), 1);
    assert_eq!(server.inspect(&["HEXISTS", KEYS[1], "bob"]), Reply::Int(0), "half a script is one unit too");
    server.fail_command_in_script(Some(CommandFault::from("hmget", 1, WRONG_TYPE)));
    for _ in 0..3 {
        assert!(matches!(admit(&mut server, &["bob"]), Reply::Error(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_loses_whole_units_and_a_snapshot_brings_all_back() {
    let mut server = server();
    publish(&mut server, "9");
    admit(&mut server, &["ann", "bob"]);
    let snapshot = server.snapshot();
    admit(&mut server, &["ann"]);
    server.command(&["ZREM", KEYS[2], "nobody"]);
    admit(&mut server, &["cy"]);
    server.command(&["DEL", KEYS[1]]);
    assert_eq!(server.lose_suffix(2), 2, "what changed nothing is no unit");
    assert_eq!(server.snapshot(), snapshot);
    server.command(&["FLUSHALL"]);
    assert_eq!(server.inspect(&["DBSIZE"]), Reply::Int(0));
    assert_eq!(server.lose_suffix(1), 1);
    assert_eq!(server.snapshot(), snapshot);
    server.command(&["FLUSHALL"]);
    server.restore(&snapshot);
    assert_eq!(server.snapshot(), snapshot);
    assert_eq!(server.lose_suffix(5), 0, "what a restart has found on disk stays");
    assert_eq!((server.strikes().of("units_lost"), server.strikes().of("restored")), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn replicas_lag_by_writes_or_by_time_and_answer_in_turn() {
    let mut server = server();
    server.command(&["SET", "k", "0"]);
    server.set_replicas(&[Lag::Writes(1), Lag::Ms(100), Lag::Writes(0)]);
    server.command(&["SET", "k", "1"]);
    server.command(&["SET", "k", "2"]);
    let mut get = || server.command(&["GET", "k"]).text().map(std::borrow::Cow::into_owned);
    let seen: Vec<_> = (0..4).map(|_| get().unwrap()).collect();
    assert_eq!(seen, ["1", "0", "2", "1"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get().as_deref(), Some("2"), "the second replica has followed");
    assert_eq!(server.strikes().of("stale_read"), 3);
    let read = eval(&mut server, "return redis.call('GET', KEYS[1])", &["k"], &[]);
    assert_eq!(read, Reply::bulk("2"), "scripts run at the leader");
    // A failover loses what the lagging replica never had; the others follow it back.
    assert_eq!(server.lose_suffix(2), 2);
    for _ in 0..3 {
        assert_eq!(server.command(&["GET", "k"]), Reply::bulk("0"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_refuses_a_scripts_first_write_only() {
    let mut server = server();
    publish(&mut server, "9");
    admit(&mut server, &["ann"]);
    server.out_of_memory = true;
    assert_eq!(server.command(&["SET", "k", "v"]), error(OOM));
    assert_eq!(server.command(&["ZREM", KEYS[2], "nobody"]), Reply::Int(0));
    let Reply::Error(text) = admit(&mut server, &["bob"]) else { panic!("admitted") };
    assert_eq!(text, OOM, "as the script returns it");
    assert!(matches!(admit(&mut server, &["ann"]), Reply::Array(_)), "a repetition needs no write");
    let frees_first = "redis.call('ZREM', KEYS[1], 'nobody') return redis.call('HSET', KEYS[2], 'f', 'v')";
    assert_eq!(eval(&mut server, frees_first, &["z", "h"], &[]), Reply::Int(1));
    let declared = |flags: &str| format!("#!lua{flags}\nreturn redis.call('HSET', KEYS[1], ARGV[1], 'v')");
    assert_eq!(eval(&mut server, &declared(""), &["h"], &["a"]), error(OOM), "refused as a whole");
    assert_eq!(eval(&mut server, &declared(" flags=allow-oom"), &["h"], &["a"]), Reply::Int(1));
    let text = "ERR Write commands are not allowed from read-only scripts.";
    let Reply::Error(reply) = eval(&mut server, &declared(" flags=no-writes"), &["h"], &["b"]) else { panic!() };
    assert!(reply.starts_with(text), "{reply}");
    assert_eq!(server.strikes().of("out_of_memory"), 4);
}

#[tokio::test(start_paused = true)]
async fn a_replica_rejects_writes() {
    let mut server = server();
    publish(&mut server, "9");
    server.read_only = true;
    assert_eq!(server.command(&["HSET", "h", "f", "v"]), error(READ_ONLY));
    let Reply::Error(text) = admit(&mut server, &["ann"]) else { panic!("admitted") };
    assert!(text.starts_with(READ_ONLY), "{text}");
    assert_eq!(eval(&mut server, "#!lua\nreturn 1", &[], &[]), error(READ_ONLY));
    assert_eq!(eval(&mut server, "#!lua flags=no-writes\nreturn 1", &[], &[]), Reply::Int(1));
    assert_eq!(server.strikes().of("read_only"), 3);
}

#[tokio::test(start_paused = true)]
async fn the_hosted_service_locks_the_declared_keys_alone() {
    let mut server = server();
    let Reply::Error(refused) = eval(&mut server, ADMIT.locking_text, &KEYS, &["5000", "", "ann"]) else { panic!() };
    assert_eq!(refused, "ERR Unexpected flag in script shebang: allow-key-locking");
    server.upstash = true;
    publish(&mut server, "9");
    let reply = eval(&mut server, ADMIT.locking_text, &KEYS, &["5000", "", "ann"]);
    assert!(matches!(reply, Reply::Array(_)), "{reply:?}");
    let call = |sha: &'static str| vec!["EVALSHA", sha, "2", KEYS[1], KEYS[2], "ann", "1:1:i"];
    assert_eq!(server.command(&call(CONFIRM.locking_sha1)), error(NO_SCRIPT));
    let dynamic = "#!lua flags=allow-key-locking\nreturn redis.call('GET', 'x' .. KEYS[1])";
    let Reply::Error(text) = eval(&mut server, dynamic, &["k"], &[]) else { panic!() };
    assert!(text.contains("Dynamic keys are not allowed") && text.contains("Key was: xk"), "{text}");
    assert!(matches!(server.command(&["CONFIG", "GET", "maxmemory-policy"]), Reply::Error(_)));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_one_world_reaches_another() {
    let (mut one, mut other) = (server(), server());
    eval(&mut one, "return redis.call('SET', KEYS[1], ARGV[1])", &["k"], &["v"]);
    assert_eq!(other.command(&["GET", "k"]), Reply::Nil);
    let known = "b22ff9a6b4b4a5d3e8ea7c0eb2a23a5bd0aaeb6b";
    assert_eq!(other.command(&["SCRIPT", "EXISTS", known]), Reply::Array(vec![Reply::Int(0)]));
    let sha = one.command(&["SCRIPT", "LOAD", "return 1"]).text().unwrap().into_owned();
    assert_eq!(other.command(&["EVALSHA", &sha, "0"]), error(NO_SCRIPT), "compiled is not loaded");
    assert_eq!(one.command(&["EVALSHA", &sha.to_uppercase(), "0"]), Reply::Int(1));
    one.flush_scripts();
    assert_eq!(one.command(&["EVALSHA", &sha, "0"]), error(NO_SCRIPT));
    // Neither a global nor a changed library survives.
    for script in ["leak = 1", "string.format = nil", "redis.call = nil", "_G.leak = 1"] {
        let Reply::Error(text) = eval(&mut one, script, &[], &[]) else { panic!("{script}") };
        assert!(text.contains("Attempt to modify a readonly table"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn lists_without_order_come_in_an_order_of_the_seed() {
    let listed = |seed: u64| {
        let mut server = Server::new(Clock::starting_at(START_MS), seed);
        for n in 0..50 {
            server.command(&["SADD", "s", &format!("m{n}")]);
        }
        texts(&server.command(&["SMEMBERS", "s"]))
    };
    assert_eq!(listed(1), listed(1));
    assert_ne!(listed(1), listed(2));
    assert_eq!(listed(2).len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_scan_returns_what_stays_whatever_comes_and_goes() {
    for repeats in [false, true] {
        let mut server = server();
        server.set_scan_repeats(repeats);
        for n in 0..500 {
            server.command(&["HSET", "h", &format!("stays{n}"), "v", &format!("goes{n}"), "v"]);
        }
        let (mut cursor, mut pages, mut seen) = ("0".to_owned(), 0, Vec::new());
        loop {
            let reply = server.command(&["HSCAN", "h", &cursor, "COUNT", "37"]);
            let Reply::Array(parts) = &reply else { panic!("{reply:?}") };
            seen.extend(texts(&parts[1]).into_iter().step_by(2));
            server.command(&["HDEL", "h", &format!("goes{pages}")]);
            server.command(&["HSET", "h", &format!("comes{pages}"), "v"]);
            pages += 1;
            cursor = parts[0].text().unwrap().into_owned();
            if cursor == "0" {
                break;
            }
        }
        assert!(pages > 20, "{pages}");
        let total = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.iter().filter(|name| name.starts_with("stays")).count(), 500);
        assert_eq!(total > seen.len(), repeats, "entries come twice only if asked for");
    }
}

/// A unit of writes; `n` makes its values unlike all before.
fn write(server: &mut Server, random: &mut Random, n: usize) {
    let name = |random: &mut Random, kind: &str| format!("{kind}{}", random.below(4));
    let (hash, sorted, set, text) = (name(random, "h"), name(random, "z"), name(random, "s"), name(random, "t"));
    let (member, value) = (name(random, "m"), n.to_string());
    let reply = match random.below(11) {
        0..2 => server.command(&["HSET", &hash, &member, &value, "more", "v"]),
        2 => server.command(&["HDEL", &hash, &member, "more"]),
        3 => server.command(&["ZADD", &sorted, &value, &member, &value, "more"]),
        4 => server.command(&["ZREM", &sorted, &member, "more"]),
        5 => server.command(&["SADD", &set, &member]),
        6 => server.command(&["SREM", &set, &member]),
        7 => server.command(&["SET", &text, &value]),
        8 => server.command(&["DEL", &hash, &sorted, &text]),
        9 => {
            let script = "redis.call('SET', KEYS[1], ARGV[2] .. '-')
                redis.call('HSET', KEYS[2], ARGV[1], 'gone', 'f', ARGV[2])
                redis.call('HDEL', KEYS[2], ARGV[1])
                redis.call('ZADD', KEYS[3], 1, ARGV[1], ARGV[2], ARGV[1])
                return redis.call('SET', KEYS[1], ARGV[2])";
            eval(server, script, &[&text, &hash, &sorted], &[&member, &value])
        }
        _ if n.is_multiple_of(7) => server.command(&["FLUSHALL"]),
        _ => server.command(&["PING"]),
    };
    assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn losing_units_and_lagging_behind_are_moments_of_the_past() {
    const LAG: usize = 3;
    let reads: [&[&str]; 4] = [&["HGETALL", "h1"], &["ZRANGE", "z1", "0", "-1"], &["SMEMBERS", "s1"], &["GET", "t1"]];
    let mut random = Random::new(9);
    let mut server = server();
    server.set_replicas(&[Lag::Writes(LAG as u64)]);
    let mut past = vec![server.snapshot()];
    let (mut lost, mut stale, mut replica) = (0, 0, 0);
    for n in 0..3_000 {
        write(&mut server, &mut random, n);
        let now = server.snapshot();
        if past.last() != Some(&now) {
            past.push(now);
        }
        if random.chance(0.02) {
            let count = random.range(1..=6) as usize;
            let undone = server.lose_suffix(count);
            assert!(undone == count || past.len() <= count, "{undone} of {count}");
            past.truncate(past.len() - undone);
            assert_eq!(Some(&server.snapshot()), past.last());
            lost += undone;
        }
        // It follows when it is asked, and goes back with the leader.
        replica = past.len().saturating_sub(LAG + 1).max(replica).min(past.len() - 1);
        let mut then = self::server();
        then.restore(&past[replica]);
        let read = reads[n % reads.len()];
        let (seen, leader) = (server.command(read), server.inspect(read));
        assert_eq!(seen, then.command(read), "{n}");
        stale += usize::from(seen != leader);
    }
    assert!(lost > 100 && stale > 100, "{lost} {stale}");
    assert_eq!(server.strikes().of("stale_read"), stale as u64);
}
