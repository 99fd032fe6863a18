//! Random steps: calls of the scripts, commands, scans.

use crate::pair::{Pair, START_MS};
use dropgate_shared::scripts::{ADMIT, CONFIRM, LEASE, PUBLISH, RECALL, RESTORE, Script, TAKE_DUE, UPDATE};
use dropgate_simulator::random::Random;

/// Draws commands and calls of scripts.
pub struct Generator(pub Random);

const CAMPAIGNS: [&str; 2] = ["a", "b"];
const USERS: [&str; 14] = ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "é", "a b", "x:y", "-", "9", ""];
const RAW_KEYS: [&str; 6] = ["k1", "k2", "dg:{a}:meta", "dg:{a}:claims", "dg:{a}:outbox", "dg:campaigns"];
const FIELDS: [&str; 7] = ["f1", "f2", "u1", "u2", "count", "capacity", ""];
const VALUES: [&str; 7] = ["v", "", "12", "-3", "3:1800000000000:a", "9223372036854775807", "é\r\n"];
const VERSIONS: [&str; 4] = ["1", "2", "2", "3"];
const INTEGERS: [&str; 9] = ["0", "1", "-1", "2", "-2", "100", "x", "1.5", "9223372036854775807"];
const SCORES: [&str; 11] = ["0", "1", "-1", "2.5", "-0.25", "1800000000000", "inf", "-inf", "nan", "x", ""];
const BOUNDS: [&str; 10] = ["-inf", "+inf", "0", "(0", "1", "(2.5", "1800000000000", "x", "", "("];

/// Commands and their arguments: K key, F field or member, V value, I integer, S score, B bound.
const RAW: &str = "
    HSET K F V | HSET K F V F V | HSET K F V F | HSETNX K F V | HGET K F | HMGET K F F | HGETALL K | HLEN K |
    HKEYS K | HVALS K | HDEL K F F | HEXISTS K F | HINCRBY K F I | ZADD K S F | ZADD K NX S F S F | ZADD K XX S F |
    ZADD K GT S F | ZADD K LT CH S F | ZADD K CH S F S F | ZADD K XX GT CH S F | ZADD K NX XX S F | ZADD K GT LT S F |
    ZADD K INCR S F | ZADD K NX INCR S F | ZADD K INCR S F S F | ZADD K NX | ZADD K S F S | ZINCRBY K S F |
    ZREM K F F | ZCARD K | ZSCORE K F | ZMSCORE K F F | ZRANGE K I I | ZRANGE K I I WITHSCORES | ZRANGE K I I REV |
    ZRANGE K B B BYSCORE | ZRANGE K B B BYSCORE REV LIMIT I I WITHSCORES | ZRANGE K I I LIMIT I I |
    ZRANGEBYSCORE K B B | ZRANGEBYSCORE K B B LIMIT I I | ZRANGEBYSCORE K B B WITHSCORES LIMIT 0 I |
    ZRANGEBYSCORE K B B LIMIT I | ZCOUNT K B B | ZREMRANGEBYSCORE K B B | ZPOPMIN K | ZPOPMIN K I | SADD K F F |
    SREM K F F | SMEMBERS K | SISMEMBER K F | SMISMEMBER K F F | SCARD K | GET K | MGET K K | SET K V | SET K V NX |
    SET K V XX | SET K V NX GET | SET K V XX GET | SET K V NX XX | SET K V NO | DEL K | DEL K K | UNLINK K |
    EXISTS K K | INCR K | DECR K | INCRBY K I | TYPE K | PING | PING V | PING V V | NOPE K V | HSCAN K x |
    HSCAN none 0 COUNT x | HSCAN K 0 COUNT I MATCH * | ZSCAN K 0 NO | FLUSHALL NO | CONFIG | EVAL x | EVAL x I |
    EVALSHA x 0 | SCRIPT LOAD | SCRIPT EXISTS x | SCRIPT NO x | SCRIPT FLUSH NO | hget K F";

impl Generator {
    fn one(&mut self, items: &[&str]) -> String {
        (*self.0.pick(items).unwrap()).to_owned()
    }

    fn many(&mut self, items: &[&str], most: u64) -> Vec<String> {
        (0..self.0.range(1..=most)).map(|_| self.one(items)).collect()
    }

    fn raw(&mut self) -> Vec<String> {
        let forms: Vec<&str> = RAW.split('|').map(str::trim).collect();
        let form = self.one(&forms);
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

    pub fn call(&mut self) -> (&'static Script, Vec<String>, Vec<String>) {
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
                let mut args =
                    vec![self.one(&["5000", "5000", "5000", "1", "x"]), self.one(&["K1", "K1", "K2,K1", "K3"])];
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
                (&CONFIRM, vec![meta, claims, outbox], args)
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
                args.push(self.one(&VERSIONS));
                args.extend([self.one(&["K1", "K2,K1", "K3"]), self.one(&["", "", "K1"])]);
                (&PUBLISH, vec![meta, claims], args)
            }
            11 if self.0.chance(0.5) => {
                let mut args = vec![self.one(&["100", "900000"])];
                for _ in 0..self.0.below(4) {
                    args.extend([self.one(&USERS), format!("{}:{}:a", self.0.range(1..=9), START_MS)]);
                }
                (&RECALL, vec![meta, claims, outbox], args)
            }
            11 => (&RESTORE, vec![claims, outbox], if self.0.chance(0.1) { vec![] } else { self.many(&USERS, 5) }),
            12..15 => {
                let args = [self.one(&["1", "2", "100"]), self.one(&["5000", "x"]), "900000".to_owned()];
                (&TAKE_DUE, vec![claims, outbox, meta], args.to_vec())
            }
            _ => {
                let mut args = settings(self);
                args.push(self.one(&VERSIONS));
                (&UPDATE, vec![meta], args)
            }
        }
    }

    /// One step on both: a script, a raw command, or a scan.
    pub fn step(&mut self, pair: &mut Pair) {
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
    pub fn repair(&mut self, pair: &mut Pair) {
        for key in RAW_KEYS {
            if self.0.chance(0.7) {
                pair.both(&["DEL", key]);
            }
        }
        for campaign in CAMPAIGNS {
            let keys = [format!("dg:{{{campaign}}}:meta"), format!("dg:{{{campaign}}}:claims")];
            let capacity = self.one(&["3", "9", "40"]);
            pair.script(&PUBLISH, &keys, &["open", &capacity, "1", "0", "9", "K1", ""].map(str::to_owned), false);
        }
    }
}
