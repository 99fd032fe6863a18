//! Whether Redis takes the writes that gate and issuer make, tried with keys of no campaign.

use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;

/// # Errors
/// [`Fault`] with the remedy.
pub async fn probe<H: Http>(redis: &RedisRest<H>) -> Result<(), Fault> {
    // A campaign's id contains no space.
    let key = |name: &str| format!("{}{{a probe}}:{name}", redis.prefix().as_str());
    redis
        .eval(&scripts::PROBE, &[&key("hash"), &key("sorted-set")], &[] as &[&str])
        .await
        .map(drop)
        .map_err(with_remedy)
}

/// Redis's own words begin with one of these, wherever a service puts them.
fn with_remedy(mut fault: Fault) -> Fault {
    const REMEDIES: [(&str, &str); 6] = [
        ("READONLY", "this is a replica: UPSTASH_REDIS_REST_URL must lead to the primary"),
        ("OOM", "Redis's memory is full: raise maxmemory, and keep maxmemory-policy noeviction"),
        (
            "NOPERM",
            "this user may not write: its ACL must allow +hset +hdel +zadd +zrem +sadd +eval +evalsha on the keys",
        ),
        ("MISCONF", "Redis stops writes since it cannot save to its disk: see its log"),
        ("NOREPLICAS", "too few replicas are connected for min-replicas-to-write"),
        ("DENIED", "Redis rejects the connection: see its log"),
    ];
    let found =
        REMEDIES.iter().find(|(word, _)| fault.detail.split(|c: char| !c.is_ascii_uppercase()).any(|w| w == *word));
    if let Some((_, remedy)) = found {
        fault.detail = format!("{} ({remedy})", fault.detail);
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropgate_shared::http::HttpResponse;
    use dropgate_shared::redis_rest::decode;

    #[test]
    fn each_reason_has_its_remedy() {
        for (error, remedy) in [
            ("READONLY You can't write against a read only replica.", "lead to the primary"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "raise maxmemory"),
            ("NOPERM this user has no permissions to run the 'hset' command", "+hset"),
            ("ERR Error running script: @user_script:6: OOM command not allowed", "raise maxmemory"),
            ("MISCONF Redis is configured to save RDB snapshots", "its disk"),
            ("ERR unknown command", "ERR unknown command"),
        ] {
            let body = format!("{{\"error\":{error:?}}}").into_bytes();
            let fault = decode(&HttpResponse { status: 400, body }).unwrap_err();
            assert!(with_remedy(fault.clone()).detail.contains(remedy), "{fault}");
        }
    }
}
