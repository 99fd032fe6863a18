//! The scripts on the model of Redis: what holds where a command within them fails, memory is full, or the history of
//! claims was lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_shared::scripts::{ADMIT, CONFIRM, LEASE, PROBE, PUBLISH, RECALL, RESTORE, Script, TAKE_DUE, UPDATE};
use dropgate_simulator::clock::Clock;
use dropgate_simulator::mutant::Mutant;
use dropgate_simulator::redis::{ACL_DENIED, CommandFault, OOM, Reply, Server};

const START_MS: u64 = 1_800_000_000_000;
const META: &str = "dg:{c}:meta";
const CLAIMS: &str = "dg:{c}:claims";
const OUTBOX: &str = "dg:{c}:outbox";

struct Redis(Server, Option<Mutant>);

impl Redis {
    /// With a campaign of `capacity` slots.
    fn with(capacity: &str) -> Self {
        let mut redis = Self(Server::new(Clock::starting_at(START_MS), 7), None);
        redis.publish(capacity, "1");
        redis
    }

    fn run(&mut self, script: &Script, keys: &[&str], args: &[&str]) -> Reply {
        let count = keys.len().to_string();
        let changed = self.1.and_then(|mutant| mutant.script(script));
        let head = ["EVAL", changed.as_deref().unwrap_or(script.text), &count];
        let command: Vec<&str> = head.iter().chain(keys).chain(args).copied().collect();
        self.0.command(&command)
    }

    fn publish(&mut self, capacity: &str, version: &str) -> Reply {
        self.run(&PUBLISH, &[META, CLAIMS], &["open", capacity, "1", "0", version, "KEY1", ""])
    }

    fn update(&mut self, state: &str, version: &str) -> Reply {
        self.run(&UPDATE, &[META], &[state, "9", "1", "0", version])
    }

    /// The answers, or none where the call failed.
    fn admit(&mut self, users: &[&str]) -> Option<Vec<String>> {
        let args: Vec<&str> = ["5000", "KEY1"].iter().chain(users).copied().collect();
        match self.run(&ADMIT, &[META, CLAIMS, OUTBOX], &args) {
            Reply::Array(items) => Some(items.iter().skip(4).map(text).collect()),
            Reply::Error(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn confirm(&mut self, pairs: &[(&str, &str)]) -> Reply {
        let args: Vec<&str> = pairs.iter().flat_map(|(user, entry)| [*user, *entry]).collect();
        self.run(&CONFIRM, &[META, CLAIMS, OUTBOX], &args)
    }

    fn take_due(&mut self) -> Vec<String> {
        match self.run(&TAKE_DUE, &[CLAIMS, OUTBOX, META], &["10", "5000", "900000"]) {
            Reply::Array(items) => items.iter().skip(3).map(text).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn number(&mut self, command: &[&str]) -> i64 {
        match self.0.inspect(command) {
            Reply::Int(number) => number,
            other => other.text().map_or(-1, |text| text.parse().unwrap()),
        }
    }

    fn count(&mut self) -> i64 {
        self.number(&["HGET", META, "count"])
    }

    fn claims(&mut self) -> i64 {
        self.number(&["HLEN", CLAIMS])
    }

    fn owed(&mut self) -> i64 {
        self.number(&["ZCARD", OUTBOX])
    }

    fn fail(&mut self, command: &'static str, nth: u32) {
        self.0.fail_command_in_script(Some(CommandFault::once(command, nth, ACL_DENIED)));
    }
}

fn text(reply: &Reply) -> String {
    reply.text().unwrap_or_default().into_owned()
}

fn version(reply: &Reply) -> Option<String> {
    reply.text().map(|text| text.into_owned())
}

#[tokio::test(start_paused = true)]
async fn whichever_write_of_an_admission_fails_nothing_is_left_of_it() {
    for (command, nth) in [("zadd", 1), ("hset", 1), ("hset", 2)] {
        let mut redis = Redis::with("9");
        redis.admit(&["ann"]).unwrap();
        redis.fail(command, nth);
        assert_eq!(redis.admit(&["bob", "cy", "bob"]), None, "{command} {nth}");
        assert_eq!((redis.claims(), redis.count(), redis.owed()), (1, 1, 1), "{command} {nth}");
        let entry = format!("2:{START_MS}:a");
        assert_eq!(redis.admit(&["dan", "bob"]).unwrap()[0], format!("+{entry}"), "no slot is lost or given twice");
        assert_eq!((redis.claims(), redis.count(), redis.owed()), (3, 3, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn an_admission_that_can_undo_nothing_promises_nothing() {
    let mut redis = Redis::with("9");
    redis.0.fail_command_in_script(Some(CommandFault::from("hset", 2, ACL_DENIED)));
    assert_eq!(redis.admit(&["ann"]), None);
    redis.0.fail_command_in_script(None);
    assert_eq!((redis.claims(), redis.count(), redis.owed()), (0, 1, 0), "too few can be admitted, never too many");
    redis.publish("9", "1");
    assert_eq!(redis.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_repetition_creates_a_lost_outbox_entry_again_until_the_row_exists() {
    let mut redis = Redis::with("9");
    redis.admit(&["ann", "bob"]).unwrap();
    redis.confirm(&[("bob", &format!("2:{START_MS}:i"))]);
    redis.0.command(&["DEL", OUTBOX]);
    redis.0.out_of_memory = true;
    assert_eq!(redis.admit(&["ann"]).unwrap(), [format!("=1:{START_MS}:a")], "a repetition needs no memory");
    redis.0.out_of_memory = false;
    redis.admit(&["bob", "ann"]).unwrap();
    assert_eq!(redis.number(&["ZSCORE", OUTBOX, "ann"]), START_MS as i64 + 5_000);
    assert_eq!(redis.owed(), 1, "what is issued is not owed");
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_fails_leaves_the_outbox_entry_and_the_count() {
    for (command, nth) in [("hset", 1), ("hset", 2), ("zrem", 2)] {
        let mut redis = Redis::with("9");
        redis.admit(&["ann"]).unwrap();
        let pairs = [("ann", "1:1:i"), ("old", "2:1:i")];
        redis.fail(command, nth);
        assert!(matches!(redis.confirm(&pairs), Reply::Error(_)), "{command} {nth}");
        assert_eq!((redis.owed(), redis.count()), (1, redis.claims()), "{command} {nth}");
        redis.0.fail_command_in_script(None);
        assert_eq!(redis.confirm(&pairs), Reply::Int(1));
        assert_eq!((redis.owed(), redis.count(), redis.claims()), (0, 2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_frees_memory_runs_when_memory_is_full() {
    let mut redis = Redis::with("9");
    redis.admit(&["ann", "bob", "cy"]).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    redis.0.out_of_memory = true;
    assert_eq!(redis.0.command(&["HSET", "h", "f", "v"]), Reply::Error(OOM.to_owned()));
    assert_eq!(redis.admit(&["dan"]), None);
    assert_eq!(redis.take_due().len(), 6);
    assert!(version(&redis.run(&LEASE, &[OUTBOX], &["100", "ann"])).is_some_and(|now| now.starts_with("18")));
    assert_eq!(redis.confirm(&[("ann", "1:1:i"), ("bob", "2:1:r"), ("old", "4:1:i")]), Reply::Int(2));
    redis.0.command(&["DEL", OUTBOX]);
    assert_eq!(redis.run(&RESTORE, &[CLAIMS, OUTBOX], &["ann", "cy"]), Reply::Int(1));
    assert_eq!(redis.update("paused", "2"), Reply::Int(1));
    assert!(matches!(redis.publish("9", "2"), Reply::Array(_)));
    assert_eq!(redis.count(), 3);
}

/// Claims that Redis has lost, and that wait in MySQL.
#[tokio::test(start_paused = true)]
async fn a_claim_that_is_written_back_is_counted_and_owed_once() {
    for (command, nth) in [("", 0), ("zadd", 1), ("hset", 1), ("hset", 2)] {
        let mut redis = Redis::with("9");
        redis.admit(&["ann"]).unwrap();
        let args = ["900000", "ann", "5:1:a", "old", "1:1:a"];
        if nth > 0 {
            redis.fail(command, nth);
            assert!(matches!(redis.run(&RECALL, &[META, CLAIMS, OUTBOX], &args), Reply::Error(_)), "{command} {nth}");
            assert_eq!((redis.claims(), redis.count()), (1, 1), "{command} {nth}");
            redis.0.fail_command_in_script(None);
        }
        assert_eq!(redis.run(&RECALL, &[META, CLAIMS, OUTBOX], &args), Reply::Int(1));
        assert_eq!(redis.run(&RECALL, &[META, CLAIMS, OUTBOX], &args), Reply::Int(0), "again");
        assert_eq!((redis.claims(), redis.count(), redis.owed()), (2, 2, 2));
        assert_eq!(redis.admit(&["old", "ann"]).unwrap(), ["=1:1:a", &format!("=1:{START_MS}:a")]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outbox_entry_without_its_claim_is_removed() {
    let mut redis = Redis::with("9");
    redis.admit(&["ann", "bob"]).unwrap();
    redis.0.command(&["HDEL", CLAIMS, "bob"]);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(redis.take_due(), ["ann", &format!("1:{START_MS}:a"), "bob", ""]);
    assert_eq!(redis.owed(), 1);
}

/// A Redis that was lost is published again while records wait, and others are admitted before these are written.
#[tokio::test(start_paused = true)]
async fn the_count_is_right_once_the_rows_of_both_histories_are_confirmed() {
    let users = |name: &str, from: u32, to: u32| -> Vec<String> { (from..=to).map(|n| format!("{name}{n}")).collect() };
    let confirm = |redis: &mut Redis, users: &[String], from: u32, status: &str| {
        for (slot, user) in (from..).zip(users) {
            redis.confirm(&[(user, &format!("{slot}:1:{status}"))]);
        }
    };
    for old_first in [true, false] {
        let mut redis = Redis::with("100");
        redis.0.command(&["FLUSHALL"]);
        confirm(&mut redis, &users("old", 1, 60), 1, "i");
        assert_eq!(redis.0.inspect(&["EXISTS", META]), Reply::Int(0), "a confirmation publishes nothing");
        redis.publish("100", "1");
        assert_eq!(redis.count(), 60);
        let new = users("new", 61, 110);
        let refs: Vec<&str> = new.iter().map(String::as_str).collect();
        let admitted = redis.admit(&refs).unwrap().iter().filter(|answer| answer.starts_with('+')).count();
        assert_eq!(admitted, 40);
        let (late, new) = (users("old", 61, 100), new[..40].to_vec());
        let (issued, refused) = if old_first { (late, new) } else { (new, late) };
        confirm(&mut redis, &issued, 61, "i");
        confirm(&mut redis, &refused, 61, "r");
        assert_eq!((redis.count(), redis.claims(), redis.owed()), (100, 140, 0));
        redis.publish("130", "2");
        assert_eq!(redis.count(), 100, "published again, it stays right");
        let more = users("more", 1, 50);
        let refs: Vec<&str> = more.iter().map(String::as_str).collect();
        assert_eq!(redis.admit(&refs).unwrap().iter().filter(|answer| answer.starts_with('+')).count(), 30);
        confirm(&mut redis, &refused[..1], 131, "i");
        assert_eq!(redis.count(), 131, "refused before a raise, and issued after all");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_claim_holds_no_slot_and_the_mutant_that_keeps_it_differs() {
    for (mutant, count) in [(None, 1), (Some(Mutant::CountFromClaims), 2)] {
        let mut redis = Redis::with("9");
        redis.1 = mutant;
        redis.admit(&["ann", "bob"]).unwrap();
        redis.confirm(&[("ann", "1:1:i"), ("bob", "2:1:r")]);
        assert_eq!(redis.count(), count);
    }
}

#[tokio::test(start_paused = true)]
async fn only_who_is_to_get_a_code_needs_its_secret() {
    let mut redis = Redis::with("1");
    let (ann, full) = (redis.admit(&["ann"]).unwrap(), Some(vec!["full".to_owned()]));
    let mut ask = |key_ids: &str, user: &str| {
        let reply = redis.run(&ADMIT, &[META, CLAIMS, OUTBOX], &["5000", key_ids, user]);
        match reply {
            Reply::Array(items) => Some(items.iter().skip(4).map(text).collect()),
            Reply::Error(text) => {
                assert!(text.starts_with("DROPGATE_CODE_KEY "), "{text}");
                None
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask("KEY2", "bob"), full, "the secret of a campaign that is sold out was removed");
    assert_eq!(ask("KEY2", "ann"), None);
    assert_eq!(ask("KEY2,KEY1", "ann"), Some(vec![ann[0].replace('+', "=")]));

    // A campaign of before there were key ids: it is the only secret, and with two nobody can say which.
    redis.0.command(&["HDEL", META, "code_key"]);
    let admit = |redis: &mut Redis, key_ids: &str| {
        matches!(redis.run(&ADMIT, &[META, CLAIMS, OUTBOX], &["5000", key_ids, "ann"]), Reply::Array(_))
    };
    assert_eq!((admit(&mut redis, "KEY1"), admit(&mut redis, "KEY2,KEY1")), (true, false));
    redis.publish("1", "2");
    assert!(admit(&mut redis, "KEY2,KEY1"), "published with the only secret, it names it");
}

#[tokio::test(start_paused = true)]
async fn settings_of_an_older_version_are_rejected() {
    let mut redis = Redis::with("9");
    assert_eq!(redis.update("paused", "3"), Reply::Int(1));
    assert_eq!(version(&redis.publish("9", "2")), Some("3".to_owned()));
    assert_eq!(version(&redis.update("open", "2")), Some("3".to_owned()));
    assert_eq!(redis.admit(&["ann"]).unwrap(), ["paused"]);
    assert_eq!(redis.update("open", "3"), Reply::Int(1), "the same version may be repeated");
    redis.0.command(&["FLUSHALL"]);
    assert_eq!(redis.update("open", "4"), Reply::Int(0), "not published");
    redis.0.command(&["HSET", META, "count", "7"]);
    assert_eq!(redis.update("open", "4"), Reply::Int(0), "a meta without a state is none");
    assert_eq!(redis.run(&ADMIT, &[META, CLAIMS, OUTBOX], &["5000", "ann"]), Reply::Nil);
    assert!(matches!(redis.publish("9", "1"), Reply::Array(_)), "Redis has lost the version");
}

/// `check-config` and the start of the issuer try it: whatever fails, nothing is left.
#[test]
fn a_probe_reports_what_no_script_could_write_and_leaves_nothing() {
    let probe = |redis: &mut Redis| match redis.run(&PROBE, &["dg:{a probe}:h", "dg:{a probe}:z"], &[]) {
        Reply::Int(1) => String::new(),
        Reply::Error(error) => error,
        other => panic!("{other:?}"),
    };
    let left = |redis: &mut Redis| {
        ["dg:{a probe}:h", "dg:{a probe}:z"].map(|key| matches!(redis.0.inspect(&["EXISTS", key]), Reply::Int(0)))
    };
    let mut redis = Redis::with("3");
    assert_eq!((probe(&mut redis).as_str(), left(&mut redis)), ("", [true; 2]));
    redis.0.out_of_memory = true;
    assert!(probe(&mut redis).contains(OOM.split(' ').next().unwrap()));
    redis.0.out_of_memory = false;
    redis.0.read_only = true;
    assert!(probe(&mut redis).contains("READONLY"));
    redis.0.read_only = false;
    for command in ["hset", "zadd", "zrem", "hdel"] {
        redis.0.fail_command_in_script(Some(CommandFault::once(command, 1, ACL_DENIED)));
        assert!(probe(&mut redis).contains(ACL_DENIED.split(' ').next().unwrap()), "{command}");
        redis.0.fail_command_in_script(None);
        // What could not be removed is of no campaign, and the next probe removes it.
        assert_eq!((probe(&mut redis).as_str(), left(&mut redis)), ("", [true; 2]), "{command}");
    }
}
