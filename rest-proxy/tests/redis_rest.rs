//! The contract of the Redis REST proxy, over a real Redis and real HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // helpers of tests are not #[test]s

mod common;

use common::{Proxy, RedisServer, TOKEN, response, until};
use dropgate_rest_proxy::redis_rest::{self, DEFAULT_BODY_LIMIT_BYTES, Upstream};
use dropgate_rest_proxy::{StartError, Token, listen, serve};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(5);

async fn start() -> (RedisServer, Proxy) {
    let redis = RedisServer::start().await;
    let proxy = proxy_over(&redis, DEFAULT_BODY_LIMIT_BYTES).await;
    (redis, proxy)
}

async fn proxy_over(redis: &RedisServer, body_limit_bytes: usize) -> Proxy {
    let upstream = Upstream::connect(&redis.url(), WAIT).await.unwrap();
    Proxy::serve(redis_rest::router(upstream, Token::new(TOKEN).unwrap(), body_limit_bytes)).await
}

fn result(value: Value) -> (u16, Value) {
    (200, json!({ "result": value }))
}

#[tokio::test]
async fn the_body_form_runs_a_command() {
    let (_redis, proxy) = start().await;
    assert_eq!(proxy.post("/", r#"["SET","k","v","EX",100]"#).await, result(json!("OK")));
    assert_eq!(proxy.post("/", r#"["GET","k"]"#).await, result(json!("v")));
    assert_eq!(proxy.post("/", r#"["GET","none"]"#).await, result(Value::Null));
    assert_eq!(proxy.post("/", r#"["INCRBY","n",9007199254740993]"#).await, result(json!(9007199254740993_i64)));
    assert_eq!(proxy.post("/", r#"["HSET","h","a",1,"b",true]"#).await, result(json!(2)));
    assert_eq!(proxy.post("/", r#"["HGETALL","h"]"#).await, result(json!(["a", "1", "b", "true"])));
    assert_eq!(
        proxy.post("/", r#"["EVAL","return {1,{'x',false},'y'}",0]"#).await,
        result(json!([1, ["x", null], "y"]))
    );
    for bad in ["", "{", "[]", "[[\"GET\"]]", "[\"GET\",null]", "{\"GET\":1}"] {
        let (status, body) = proxy.post("/", bad).await;
        assert_eq!(status, 400, "{bad}");
        assert!(body["error"].as_str().unwrap().starts_with("ERR "), "{bad}: {body}");
    }
}

#[tokio::test]
async fn the_path_form_takes_path_then_body_then_query() {
    let (_redis, proxy) = start().await;
    let put = proxy.request(Method::PUT, "/set/a%2Fb?EX=100").body("v 1");
    assert_eq!(response(put).await, result(json!("OK")));
    assert_eq!(proxy.get("/get/a%2Fb").await, result(json!("v 1")));
    let (_, ttl) = proxy.get("/ttl/a%2Fb").await;
    assert!((90..=100).contains(&ttl["result"].as_i64().unwrap()), "{ttl}");
    assert_eq!(proxy.post("/set/a%2Fb?NX", "other").await, result(Value::Null));
    assert_eq!(proxy.get("/mget/a%2Fb/none").await, result(json!(["v 1", null])));
    // HEAD runs the command and shows no body.
    let head = proxy.request(Method::HEAD, "/incr/heads").send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
    assert_eq!(proxy.get("/get/heads").await, result(json!("1")));
    // A GET's body is not an argument.
    let get = proxy.request(Method::GET, "/get/heads").body("ignored");
    assert_eq!(response(get).await, result(json!("1")));
}

#[tokio::test]
async fn every_request_needs_the_token_and_the_token_is_never_an_argument() {
    let (_redis, proxy) = start().await;
    let wrongpass = (401, json!({"error": "WRONGPASS invalid or missing auth token"}));
    let ping = || proxy.bare(Method::POST, "/").body(r#"["PING"]"#);
    assert_eq!(response(ping()).await, wrongpass);
    assert_eq!(response(ping().bearer_auth("a-tokem")).await, wrongpass);
    assert_eq!(response(ping().bearer_auth("")).await, wrongpass);
    assert_eq!(response(ping().basic_auth("u", Some(TOKEN))).await, wrongpass);
    assert_eq!(response(ping().header("authorization", format!("bearer {TOKEN}"))).await, result(json!("PONG")));
    assert_eq!(response(proxy.bare(Method::DELETE, "/pipeline")).await, wrongpass);
    let echo = |token: &str| proxy.bare(Method::GET, &format!("/echo/hi?_token={token}"));
    assert_eq!(response(echo(TOKEN)).await, result(json!("hi")));
    assert_eq!(response(echo("wrong")).await, wrongpass);
    // Readiness contains no secret and needs no token.
    assert_eq!(response(proxy.bare(Method::GET, "/healthz")).await.0, 200);
}

#[tokio::test]
async fn errors_have_the_text_of_redis() {
    let (_redis, proxy) = start().await;
    let sha = "ffffffffffffffffffffffffffffffffffffffff";
    assert_eq!(
        proxy.post("/", format!(r#"["EVALSHA","{sha}",0]"#)).await,
        (400, json!({"error": "NOSCRIPT No matching script. Please use EVAL."}))
    );
    assert_eq!(
        proxy.post("/", r#"["GET"]"#).await,
        (400, json!({"error": "ERR wrong number of arguments for 'get' command"}))
    );
    proxy.post("/", r#"["SET","k","v"]"#).await;
    assert_eq!(
        proxy.get("/lpop/k").await,
        (400, json!({"error": "WRONGTYPE Operation against a key holding the wrong kind of value"}))
    );
    let (status, body) = proxy.post("/", r#"["EVAL","return redis.error_reply('DROPGATE it is damaged')",0]"#).await;
    assert_eq!((status, body), (400, json!({"error": "DROPGATE it is damaged"})));
    assert_eq!(response(proxy.request(Method::DELETE, "/")).await.0, 405);
    assert_eq!(proxy.get("/pipeline").await.0, 405);
    let resp2 = proxy.request(Method::POST, "/").header("upstash-response-format", "resp2").body(r#"["PING"]"#);
    let (status, body) = response(resp2).await;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("resp2"), "{body}");
}

#[tokio::test]
async fn commands_that_would_block_the_connection_are_rejected() {
    let (_redis, proxy) = start().await;
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
        let (status, response) = proxy.post("/", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(response["error"].as_str().unwrap().starts_with("ERR Command "), "{body}: {response}");
    }
    // The shared connection still works.
    assert_eq!(proxy.post("/", r#"["PING"]"#).await, result(json!("PONG")));
}

#[tokio::test]
async fn a_pipeline_gives_each_command_its_own_result() {
    let (_redis, proxy) = start().await;
    let body = r#"[["SET","k","x"],["INCR","k"],["BLPOP","k",0],[],["GET","k"],["NOSUCH"]]"#;
    let (status, results) = proxy.post("/pipeline", body).await;
    assert_eq!(status, 200);
    let results = results.as_array().unwrap();
    assert_eq!(results.len(), 6);
    assert_eq!(results[0], json!({"result": "OK"}));
    assert_eq!(results[1], json!({"error": "ERR value is not an integer or out of range"}));
    assert!(results[2]["error"].as_str().unwrap().contains("BLPOP"));
    assert_eq!(results[3], json!({"error": "ERR empty command"}));
    assert_eq!(results[4], json!({"result": "x"}));
    assert!(results[5]["error"].as_str().unwrap().starts_with("ERR unknown command"));
    assert_eq!(proxy.post("/pipeline", "[]").await, (400, json!({"error": "ERR empty pipeline request"})));
    assert_eq!(
        proxy.post("/pipeline", r#"["GET","k"]"#).await,
        (400, json!({"error": "ERR failed to parse pipeline request"}))
    );
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let (_redis, proxy) = start().await;
    let (status, results) = proxy.post("/multi-exec", r#"[["SET","k","x"],["INCR","k"],["GET","k"]]"#).await;
    // A command that fails while running does not undo the others: that is Redis's own rule.
    let failed = json!({"error": "ERR value is not an integer or out of range"});
    assert_eq!((status, results), (200, json!([{"result": "OK"}, failed, {"result": "x"}])));
    for discarded in [r#"[["SET","k","y"],["SET","k"]]"#, r#"[["SET","k","y"],["BLPOP","k",0]]"#] {
        let (status, body) = proxy.post("/multi-exec", discarded).await;
        assert_eq!(status, 400, "{discarded}");
        assert!(body["error"].as_str().unwrap().starts_with("EXECABORT "), "{body}");
    }
    assert_eq!(proxy.get("/get/k").await, result(json!("x")));
}

/// Two counters that only ever move together, read by transactions while others write.
#[tokio::test]
async fn nothing_runs_between_the_commands_of_a_transaction() {
    let (_redis, proxy) = start().await;
    let proxy = std::sync::Arc::new(proxy);
    let writers = (0..4).map(|_| {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                assert_eq!(proxy.post("/multi-exec", r#"[["INCR","a"],["INCR","b"]]"#).await.0, 200);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut torn = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let (_, both) = proxy.post("/multi-exec", r#"[["GET","a"],["GET","b"]]"#).await;
        torn += usize::from(both[0]["result"] != both[1]["result"]);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(torn, 0);
    assert_eq!(proxy.get("/mget/a/b").await, result(json!(["200", "200"])));
}

#[tokio::test]
async fn base64_preserves_any_bytes_and_text_replaces_bytes_that_are_not_utf8() {
    let (_redis, proxy) = start().await;
    let bytes: Vec<u8> = vec![0x00, 0xff, b'"', 0xc3, 0x28];
    assert_eq!(proxy.post("/set/bin", bytes.clone()).await, result(json!("OK")));
    assert_eq!(proxy.get("/get/bin").await, result(json!("\u{0}\u{fffd}\"\u{fffd}(")));
    let base64 = |body: &'static str| proxy.request(Method::POST, "/").header("Upstash-Encoding", "base64").body(body);
    assert_eq!(response(base64(r#"["GET","bin"]"#)).await, result(json!("AP8iwyg=")));
    assert_eq!(response(base64(r#"["SET","k","v"]"#)).await, result(json!("OK")));
    assert_eq!(response(base64(r#"["MGET","k","none"]"#)).await, result(json!(["dg==", null])));
    assert_eq!(response(base64(r#"["STRLEN","k"]"#)).await, result(json!(1)));
    assert_eq!(
        response(base64(r#"["GET"]"#)).await,
        (400, json!({"error": "ERR wrong number of arguments for 'get' command"}))
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_rejected_and_one_at_the_limit_is_accepted() {
    let redis = RedisServer::start().await;
    let proxy = proxy_over(&redis, 1000).await;
    assert_eq!(proxy.post("/set/k", vec![b'x'; 1000]).await, result(json!("OK")));
    let (status, body) = proxy.post("/set/k", vec![b'x'; 1001]).await;
    assert_eq!((status, body), (413, json!({"error": "ERR max request size exceeded. Limit: 1000 bytes"})));
}

#[tokio::test]
async fn an_outage_is_reported_at_once_and_ends_by_itself() {
    let (redis, proxy) = start().await;
    assert_eq!(proxy.post("/", r#"["PING"]"#).await, result(json!("PONG")));
    let port = redis.kill();
    let asked = Instant::now();
    let (status, body) = proxy.post("/", r#"["SET","k","v"]"#).await;
    assert_eq!(status, 503);
    assert!(body["error"].as_str().unwrap().starts_with("ERR Redis does not answer"), "{body}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(response(proxy.bare(Method::GET, "/healthz")).await.0, 503);
    assert_eq!(proxy.post("/pipeline", r#"[["PING"]]"#).await.0, 503);
    assert_eq!(proxy.post("/multi-exec", r#"[["PING"]]"#).await.0, 503);

    let _redis = RedisServer::start_on(port).await;
    until("the proxy is ready again", || async {
        (response(proxy.bare(Method::GET, "/healthz")).await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(proxy.post("/", r#"["SET","k","v"]"#).await, result(json!("OK")));
}

#[tokio::test]
async fn an_unreachable_redis_is_named_with_the_remedy() {
    let port = common::free_port();
    let url = format!("redis://user:hidden@127.0.0.1:{port}");
    let error = Upstream::connect(&url, Duration::from_secs(1)).await.err().unwrap();
    let message = error.to_string();
    assert!(matches!(error, StartError::Unreachable { .. }), "{message}");
    assert!(
        message.contains("REDIS_URL") && message.contains(&format!("127.0.0.1:{port} did not respond")),
        "{message}"
    );
    let message = Upstream::connect("not:a:hidden:url", WAIT).await.err().unwrap().to_string();
    for message in [message, error.to_string()] {
        assert!(message.contains("REDIS_URL") && !message.contains("hidden"), "{message}");
    }
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_reported_at_once() {
    let redis = RedisServer::start().await;
    let proxy = proxy_over(&redis, DEFAULT_BODY_LIMIT_BYTES).await;
    assert_eq!(proxy.post("/", r#"["CONFIG","SET","requirepass","secret"]"#).await, result(json!("OK")));
    let with = |password: &str| format!("redis://{password}127.0.0.1:{}", redis.port);
    assert!(Upstream::connect(&with(":secret@"), WAIT).await.is_ok());
    for url in [with(""), with(":hidden@")] {
        let asked = Instant::now();
        let message = Upstream::connect(&url, Duration::from_secs(60)).await.err().unwrap().to_string();
        assert!(message.contains("rejects the user or password") && !message.contains("hidden"), "{message}");
        assert!(asked.elapsed() < WAIT, "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn stopping_finishes_requests_in_flight_and_accepts_no_others() {
    let redis = RedisServer::start().await;
    let upstream = Upstream::connect(&redis.url(), WAIT).await.unwrap();
    let router = redis_rest::router(upstream, Token::new(TOKEN).unwrap(), DEFAULT_BODY_LIMIT_BYTES);
    let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, router, async move {
        let _ = stopped.await;
    }));
    // Redis is busy for 700 ms; the key that it sets first shows that the request has arrived.
    let busy = "redis.call('SET','began',1) local t=redis.call('TIME') local e=t[1]*1000000+t[2]+700000
        while true do t=redis.call('TIME') if t[1]*1000000+t[2]>e then return 'whole' end end";
    let request = common::http().post(&url).bearer_auth(TOKEN).body(json!(["EVAL", busy, 0]).to_string());
    let in_flight = tokio::spawn(response(request));
    let client = redis::Client::open(redis.url()).unwrap();
    until("the script runs or ran", || async {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_millis(100)));
        match client.get_multiplexed_async_connection_with_config(&config).await {
            // A Redis that does not respond is in the script.
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
    assert!(common::http().get(&url).send().await.is_err(), "the port is still open");
}

/// The program: its messages when it cannot start, and its exit status after SIGTERM.
#[tokio::test]
async fn the_program_starts_or_reports_why_not_and_stops_on_sigterm() {
    let redis = RedisServer::start().await;
    let program = |token: &str, listen: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dropgate-rest-proxy"));
        command
            .args(["redis", "--listen", listen, "--redis-url", &redis.url()])
            .env("DROPGATE_REST_PROXY_TOKEN", token);
        command.stderr(std::process::Stdio::piped()).kill_on_drop(true);
        command
    };
    let addr = format!("127.0.0.1:{}", common::free_port());
    let failed = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let message = failed(program("", &addr).output().await.unwrap());
    assert!(message.contains("DROPGATE_REST_PROXY_TOKEN"), "{message}");

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

/// The client that most users of the hosted service have must work here too.
#[tokio::test]
async fn the_npm_client_works_unchanged() {
    let (_redis, proxy) = start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstash_client.mjs");
    let output = tokio::process::Command::new("node")
        .arg(script)
        .args([&proxy.url, TOKEN])
        .output()
        .await
        .expect("node runs; run `make setup`");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    // Not vacuous: the script prints the number of its checks.
    assert!(text(&output.stdout).contains("checks passed"), "{}", text(&output.stdout));
}
