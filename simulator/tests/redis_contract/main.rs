//! The model of Redis against a real `redis-server`: the same sequences on both, every reply compared, and at the
//! end the whole data set.
//!
//! The project's scripts run on the model as they are. On the server their `redis.call('TIME')` reads a hash that
//! holds the model's time; that changes a script's SHA-1, so digests in errors are masked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod generator;
mod lua;
mod pair;

use dropgate_simulator::random::Random;
use dropgate_simulator::redis::{ACL_DENIED, CommandFault, Reply};
use generator::Generator;
use pair::Pair;

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
        assert!(pair.compared >= 2_000);
        for (code, least) in [("WRONGTYPE", 20), ("WRONGTYPE+", 5), ("DROPGATE", 5), ("ERR", 20), ("ERR+", 5)] {
            assert!(pair.errors(code) >= least, "{code}: {}", pair.errors(code));
        }
    }
    assert!(admitted >= 9, "the scripts did admit: {admitted}");
}

#[tokio::test(start_paused = true)]
async fn with_memory_full_and_on_a_replica_the_same_is_refused() {
    for seed in 10..14 {
        let mut pair = Pair::start();
        let mut generator = Generator(Random::new(seed));
        for round in 0..12 {
            generator.repair(&mut pair);
            for _ in 0..20 {
                generator.step(&mut pair);
            }
            let full = round % 2 == 0;
            match full {
                true => pair.redis.ok(&["CONFIG", "SET", "maxmemory", "1"]),
                false => pair.redis.ok(&["REPLICAOF", "127.0.0.1", "1"]),
            }
            (pair.model.out_of_memory, pair.model.read_only) = (full, !full);
            for _ in 0..60 {
                generator.step(&mut pair);
            }
            for text in lua::FLAGS {
                pair.both(&["EVAL", text, "2", "k1", "k2"]);
            }
            pair.redis.ok(&["CONFIG", "SET", "maxmemory", "0"]);
            pair.redis.ok(&["REPLICAOF", "NO", "ONE"]);
            (pair.model.out_of_memory, pair.model.read_only) = (false, false);
        }
        pair.compare_data();
        for code in ["OOM", "OOM+", "READONLY", "READONLY+"] {
            assert!(pair.errors(code) >= 10, "{code}: {}", pair.errors(code));
        }
        assert!(pair.model.strikes().of("out_of_memory") > 50 && pair.model.strikes().of("read_only") > 50);
    }
}

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

#[tokio::test(start_paused = true)]
async fn values_and_errors_cross_between_lua_and_redis_alike() {
    let mut pair = Pair::start();
    for text in lua::CONVERSIONS.iter().chain(lua::FLAGS) {
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
