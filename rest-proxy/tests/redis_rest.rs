//! The contract of the Redis REST gateway, over a real Redis and real HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // helpers of tests are tests

mod common;

use common::{Gateway, RedisServer, TOKEN, answer, until};
use dropgate_local::gateway::redis_rest::{self, DEFAULT_BODY_LIMIT_BYTES, Upstream};
use dropgate_local::gateway::{self, GatewayError, Token};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(5);

async fn gateway() -> (RedisServer, Gateway) {
    let redis = RedisServer::start().await;
    let gateway = gateway_of(&redis, DEFAULT_BODY_LIMIT_BYTES).await;
    (redis, gateway)
}

async fn gateway_of(redis: &RedisServer, body_limit_bytes: usize) -> Gateway {
    let upstream = Upstream::connect(&redis.url(), WAIT).await.unwrap();
    Gateway::serve(redis_rest::router(upstream, Token::new(TOKEN).unwrap(), body_limit_bytes)).await
}

fn result(value: Value) -> (u16, Value) {
    (200, json!({ "result": value }))
}

#[tokio::test]
async fn the_body_form_runs_a_command() {
    let (_redis, gateway) = gateway().await;
    assert_eq!(gateway.post("/", r#"["SET","k","v","EX",100]"#).await, result(json!("OK")));
    assert_eq!(gateway.post("/", r#"["GET","k"]"#).await, result(json!("v")));
    assert_eq!(gateway.post("/", r#"["GET","none"]"#).await, result(Value::Null));
    assert_eq!(gateway.post("/", r#"["INCRBY","n",9007199254740993]"#).await, result(json!(9007199254740993_i64)));
    assert_eq!(gateway.post("/", r#"["HSET","h","a",1,"b",true]"#).await, result(json!(2)));
    assert_eq!(gateway.post("/", r#"["HGETALL","h"]"#).await, result(json!(["a", "1", "b", "true"])));
    assert_eq!(
        gateway.post("/", r#"["EVAL","return {1,{'x',false},'y'}",0]"#).await,
        result(json!([1, ["x", null], "y"]))
    );
    for bad in ["", "{", "[]", "[[\"GET\"]]", "[\"GET\",null]", "{\"GET\":1}"] {
        let (status, body) = gateway.post("/", bad).await;
        assert_eq!(status, 400, "{bad}");
        assert!(body["error"].as_str().unwrap().starts_with("ERR "), "{bad}: {body}");
    }
}

#[tokio::test]
async fn the_path_form_takes_path_then_body_then_query() {
    let (_redis, gateway) = gateway().await;
    let put = gateway.request(Method::PUT, "/set/a%2Fb?EX=100").body("v 1");
    assert_eq!(answer(put).await, result(json!("OK")));
    assert_eq!(gateway.get("/get/a%2Fb").await, result(json!("v 1")));
    let (_, ttl) = gateway.get("/ttl/a%2Fb").await;
    assert!((90..=100).contains(&ttl["result"].as_i64().unwrap()), "{ttl}");
    assert_eq!(gateway.post("/set/a%2Fb?NX", "other").await, result(Value::Null));
    assert_eq!(gateway.get("/mget/a%2Fb/none").await, result(json!(["v 1", null])));
    // HEAD runs the command and shows no body.
    let head = gateway.request(Method::HEAD, "/incr/heads").send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
    assert_eq!(gateway.get("/get/heads").await, result(json!("1")));
    // A GET's body is not an argument.
    let get = gateway.request(Method::GET, "/get/heads").body("ignored");
    assert_eq!(answer(get).await, result(json!("1")));
}

#[tokio::test]
async fn only_the_token_opens_the_door_and_it_is_never_an_argument() {
    let (_redis, gateway) = gateway().await;
    let wrongpass = (401, json!({"error": "WRONGPASS invalid or missing auth token"}));
    let ping = || gateway.bare(Method::POST, "/").body(r#"["PING"]"#);
    assert_eq!(answer(ping()).await, wrongpass);
    assert_eq!(answer(ping().bearer_auth("a-tokem")).await, wrongpass);
    assert_eq!(answer(ping().bearer_auth("")).await, wrongpass);
    assert_eq!(answer(ping().basic_auth("u", Some(TOKEN))).await, wrongpass);
    assert_eq!(answer(ping().header("authorization", format!("bearer {TOKEN}"))).await, result(json!("PONG")));
    assert_eq!(answer(gateway.bare(Method::DELETE, "/pipeline")).await, wrongpass);
    let echo = |token: &str| gateway.bare(Method::GET, &format!("/echo/hi?_token={token}"));
    assert_eq!(answer(echo(TOKEN)).await, result(json!("hi")));
    assert_eq!(answer(echo("wrong")).await, wrongpass);
    // Readiness says nothing secret and needs no token.
    assert_eq!(answer(gateway.bare(Method::GET, "/healthz")).await.0, 200);
}

#[tokio::test]
async fn errors_carry_redis_own_words() {
    let (_redis, gateway) = gateway().await;
    let sha = "ffffffffffffffffffffffffffffffffffffffff";
    assert_eq!(
        gateway.post("/", format!(r#"["EVALSHA","{sha}",0]"#)).await,
        (400, json!({"error": "NOSCRIPT No matching script. Please use EVAL."}))
    );
    assert_eq!(
        gateway.post("/", r#"["GET"]"#).await,
        (400, json!({"error": "ERR wrong number of arguments for 'get' command"}))
    );
    gateway.post("/", r#"["SET","k","v"]"#).await;
    assert_eq!(
        gateway.get("/lpop/k").await,
        (400, json!({"error": "WRONGTYPE Operation against a key holding the wrong kind of value"}))
    );
    let (status, body) = gateway.post("/", r#"["EVAL","return redis.error_reply('DROPGATE it is damaged')",0]"#).await;
    assert_eq!((status, body), (400, json!({"error": "DROPGATE it is damaged"})));
    assert_eq!(answer(gateway.request(Method::DELETE, "/")).await.0, 405);
    assert_eq!(gateway.get("/pipeline").await.0, 405);
    let resp2 = gateway.request(Method::POST, "/").header("upstash-response-format", "resp2").body(r#"["PING"]"#);
    let (status, body) = answer(resp2).await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("resp2"), "{body}");
}

#[tokio::test]
async fn commands_that_would_hold_the_connection_are_refused() {
    let (_redis, gateway) = gateway().await;
    for body in [
        r#"["BLPOP","k",0]"#,
        r#"["subscribe","c"]"#,
        r#"["MONITOR"]"#,
        r#"["WATCH","k"]"#,
        r#"["MULTI"]"#,
        r#"["SELECT",1]"#,
        r#"["CLIENT","REPLY","OFF"]"#,
        r#"["XREAD","BLOCK",0,"STREAMS","s","$"]"#,
    ] {
        let (status, answer) = gateway.post("/", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer["error"].as_str().unwrap().starts_with("ERR Command "), "{body}: {answer}");
    }
    // The shared connection is as it was.
    assert_eq!(gateway.post("/", r#"["PING"]"#).await, result(json!("PONG")));
}

#[tokio::test]
async fn a_pipeline_gives_each_command_its_own_result() {
    let (_redis, gateway) = gateway().await;
    let body = r#"[["SET","k","x"],["INCR","k"],["BLPOP","k",0],[],["GET","k"],["NOSUCH"]]"#;
    let (status, answers) = gateway.post("/pipeline", body).await;
    assert_eq!(status, 200);
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 6);
    assert_eq!(answers[0], json!({"result": "OK"}));
    assert_eq!(answers[1], json!({"error": "ERR value is not an integer or out of range"}));
    assert!(answers[2]["error"].as_str().unwrap().contains("BLPOP"));
    assert_eq!(answers[3], json!({"error": "ERR empty command"}));
    assert_eq!(answers[4], json!({"result": "x"}));
    assert!(answers[5]["error"].as_str().unwrap().starts_with("ERR unknown command"));
    assert_eq!(gateway.post("/pipeline", "[]").await, (400, json!({"error": "ERR empty pipeline request"})));
    assert_eq!(
        gateway.post("/pipeline", r#"["GET","k"]"#).await,
        (400, json!({"error": "ERR failed to parse pipeline request"}))
    );
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let (_redis, gateway) = gateway().await;
    let (status, answers) = gateway.post("/multi-exec", r#"[["SET","k","x"],["INCR","k"],["GET","k"]]"#).await;
    // A command that fails while running does not undo the others: that is Redis's own rule.
    let failed = json!({"error": "ERR value is not an integer or out of range"});
    assert_eq!((status, answers), (200, json!([{"result": "OK"}, failed, {"result": "x"}])));
    for discarded in [r#"[["SET","k","y"],["SET","k"]]"#, r#"[["SET","k","y"],["BLPOP","k",0]]"#] {
        let (status, body) = gateway.post("/multi-exec", discarded).await;
        assert_eq!(status, 400, "{discarded}");
        assert!(body["error"].as_str().unwrap().starts_with("EXECABORT "), "{body}");
    }
    assert_eq!(gateway.get("/get/k").await, result(json!("x")));
}

/// Two counters that only ever move together, read by transactions while others write.
#[tokio::test]
async fn nothing_runs_between_the_commands_of_a_transaction() {
    let (_redis, gateway) = gateway().await;
    let gateway = std::sync::Arc::new(gateway);
    let writers = (0..4).map(|_| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                assert_eq!(gateway.post("/multi-exec", r#"[["INCR","a"],["INCR","b"]]"#).await.0, 200);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut torn = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let (_, both) = gateway.post("/multi-exec", r#"[["GET","a"],["GET","b"]]"#).await;
        torn += usize::from(both[0]["result"] != both[1]["result"]);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(torn, 0);
    assert_eq!(gateway.get("/mget/a/b").await, result(json!(["200", "200"])));
}

#[tokio::test]
async fn base64_carries_any_bytes_and_text_replaces_what_is_no_utf8() {
    let (_redis, gateway) = gateway().await;
    let bytes: Vec<u8> = vec![0x00, 0xff, b'"', 0xc3, 0x28];
    assert_eq!(gateway.post("/set/bin", bytes.clone()).await, result(json!("OK")));
    assert_eq!(gateway.get("/get/bin").await, result(json!("\u{0}\u{fffd}\"\u{fffd}(")));
    let base64 =
        |body: &'static str| gateway.request(Method::POST, "/").header("Upstash-Encoding", "base64").body(body);
    assert_eq!(answer(base64(r#"["GET","bin"]"#)).await, result(json!("AP8iwyg=")));
    assert_eq!(answer(base64(r#"["SET","k","v"]"#)).await, result(json!("OK")));
    assert_eq!(answer(base64(r#"["MGET","k","none"]"#)).await, result(json!(["dg==", null])));
    assert_eq!(answer(base64(r#"["STRLEN","k"]"#)).await, result(json!(1)));
    assert_eq!(
        answer(base64(r#"["GET"]"#)).await,
        (400, json!({"error": "ERR wrong number of arguments for 'get' command"}))
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let redis = RedisServer::start().await;
    let gateway = gateway_of(&redis, 1000).await;
    assert_eq!(gateway.post("/set/k", vec![b'x'; 1000]).await, result(json!("OK")));
    let (status, body) = gateway.post("/set/k", vec![b'x'; 1001]).await;
    assert_eq!((status, body), (413, json!({"error": "ERR max request size exceeded. Limit: 1000 bytes"})));
}

#[tokio::test]
async fn an_outage_is_told_at_once_and_ends_by_itself() {
    let (redis, gateway) = gateway().await;
    assert_eq!(gateway.post("/", r#"["PING"]"#).await, result(json!("PONG")));
    let port = redis.kill();
    let asked = Instant::now();
    let (status, body) = gateway.post("/", r#"["SET","k","v"]"#).await;
    assert_eq!(status, 503);
    assert!(body["error"].as_str().unwrap().starts_with("ERR Redis does not answer"), "{body}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(answer(gateway.bare(Method::GET, "/healthz")).await.0, 503);
    assert_eq!(gateway.post("/pipeline", r#"[["PING"]]"#).await.0, 503);
    assert_eq!(gateway.post("/multi-exec", r#"[["PING"]]"#).await.0, 503);

    let _redis = RedisServer::start_on(port).await;
    until("the gateway is ready again", || async {
        (answer(gateway.bare(Method::GET, "/healthz")).await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.post("/", r#"["SET","k","v"]"#).await, result(json!("OK")));
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_named_with_the_remedy() {
    let url = format!("redis://user:hidden@127.0.0.1:{}", common::free_port());
    let error = Upstream::connect(&url, Duration::from_secs(1)).await.err().unwrap();
    let message = error.to_string();
    assert!(matches!(error, GatewayError::Unreachable { .. }), "{message}");
    assert!(message.contains("REDIS_URL") && message.contains("redis://***@127.0.0.1:"), "{message}");
    let message = Upstream::connect("not:a:hidden:url", WAIT).await.err().unwrap().to_string();
    for message in [message, error.to_string()] {
        assert!(message.contains("REDIS_URL") && !message.contains("hidden"), "{message}");
    }
}

#[tokio::test]
async fn a_password_that_is_missing_or_wrong_is_told_at_once() {
    let redis = RedisServer::start().await;
    let gateway = gateway_of(&redis, DEFAULT_BODY_LIMIT_BYTES).await;
    assert_eq!(gateway.post("/", r#"["CONFIG","SET","requirepass","secret"]"#).await, result(json!("OK")));
    let with = |password: &str| format!("redis://{password}127.0.0.1:{}", redis.port);
    assert!(Upstream::connect(&with(":secret@"), WAIT).await.is_ok());
    for url in [with(""), with(":hidden@")] {
        let asked = Instant::now();
        let message = Upstream::connect(&url, Duration::from_secs(60)).await.err().unwrap().to_string();
        assert!(message.contains("refuses its user or password") && !message.contains("hidden"), "{message}");
        assert!(asked.elapsed() < WAIT, "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_takes_nothing_new() {
    let redis = RedisServer::start().await;
    let upstream = Upstream::connect(&redis.url(), WAIT).await.unwrap();
    let router = redis_rest::router(upstream, Token::new(TOKEN).unwrap(), DEFAULT_BODY_LIMIT_BYTES);
    let listener = gateway::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(gateway::serve(listener, router, async move {
        let _ = stopped.await;
    }));
    // Redis is busy for 700 ms; what it counts first shows that the request has arrived.
    let busy = "redis.call('SET','began',1) local t=redis.call('TIME') local e=t[1]*1000000+t[2]+700000
        while true do t=redis.call('TIME') if t[1]*1000000+t[2]>e then return 'whole' end end";
    let request = common::http().post(&url).bearer_auth(TOKEN).body(json!(["EVAL", busy, 0]).to_string());
    let in_flight = tokio::spawn(answer(request));
    let client = redis::Client::open(redis.url()).unwrap();
    until("the script runs or ran", || async {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_millis(100)));
        match client.get_multiplexed_async_connection_with_config(&config).await {
            // A Redis that does not answer is in the script.
            Err(_) => Some(()),
            Ok(mut connection) => {
                let began: Option<i64> = redis::cmd("GET").arg("began").query_async(&mut connection).await.ok()?;
                began.map(|_| ())
            }
        }
    })
    .await;
    stop.send(()).unwrap();
    assert_eq!(in_flight.await.unwrap(), result(json!("whole")));
    serving.await.unwrap().unwrap();
    assert!(common::http().get(&url).send().await.is_err(), "nobody listens any more");
}

/// The program: what it says when it cannot start, and that SIGTERM ends it well.
#[tokio::test]
async fn the_program_starts_says_why_not_and_stops() {
    let redis = RedisServer::start().await;
    let program = |token: &str, listen: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dropgate-gateway"));
        command.args(["redis", "--listen", listen, "--redis-url", &redis.url()]).env("DROPGATE_GATEWAY_TOKEN", token);
        command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
        command
    };
    let addr = format!("127.0.0.1:{}", common::free_port());
    let failed = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let message = failed(program("", &addr).output().await.unwrap());
    assert!(message.contains("DROPGATE_GATEWAY_TOKEN"), "{message}");

    let running = program("hidden-token", &addr).spawn().unwrap();
    until("the program is ready", || async {
        let health = common::http().get(format!("http://{addr}/healthz")).send().await.ok()?;
        (health.status() == 200).then_some(())
    })
    .await;
    let message = failed(program("hidden-token", &addr).output().await.unwrap());
    assert!(message.contains("is taken") && message.contains("--listen"), "{message}");

    let pid = running.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let output = running.wait_with_output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("stopped") && !log.contains("hidden-token"), "{log}");
}

/// The client that most users of the hosted service have: what it does must work here too.
#[tokio::test]
async fn the_npm_client_works_unchanged() {
    let (_redis, gateway) = gateway().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstash_client.mjs");
    let output = tokio::process::Command::new("node")
        .arg(script)
        .args([&gateway.url, TOKEN])
        .output()
        .await
        .expect("node runs; run `make setup`");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    // Not vacuous: the script says how much it checked.
    assert!(text(&output.stdout).contains("checks passed"), "{}", text(&output.stdout));
}
