//! The OpenAPI document against the real gate: every documented response is requested and matches, and no response
//! is undocumented. A response is (operation, status, name of its example); problems are named by their type.
//!
//! To document a new response: add it to `edge/public/openapi.json` with an example, and a line to `cases`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{System, repo, tokens};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

const CLAIM: &str = "POST /v1/campaigns/{campaign}/claims";
const OWN: &str = "GET /v1/campaigns/{campaign}/claims/me";
const CAMPAIGN: &str = "GET /v1/campaigns/{campaign}";
const HEALTH: &str = "GET /healthz";
/// Every path that the document does not list: its `components/responses` `NotFound` and `TooLong`.
const OTHER_PATH: &str = "GET /{elsewhere}";
const OTHER_RESPONSES: [(u16, &str); 2] = [(404, "NotFound"), (414, "TooLong")];
const START: &str = "GET /";
const PAGE: &str = "GET /c/{campaign}";
const DOCUMENT: &str = "GET /openapi.json";

/// Headers that the protocol or the runtime adds to any response.
const COMMON: [&str; 6] = ["content-type", "content-length", "date", "connection", "keep-alive", "transfer-encoding"];
/// Headers that every response may have, by the introduction of the document.
const EVERYWHERE: [&str; 5] =
    ["x-request-id", "vary", "access-control-allow-origin", "access-control-expose-headers", "server-timing"];
/// A page of the allow-list.
const ORIGIN: &str = "https://shop.example";

/// The condition under which a request is sent.
#[derive(Clone, Copy, PartialEq)]
enum Condition {
    Normal,
    RedisIsDown,
    /// A gate that lacks a setting.
    Misconfigured,
    /// A gate whose rate limit is always reached.
    LimitReached,
    /// A gate with a challenge that always fails.
    ChallengeFails,
}

/// One documented response, and the request that must get it.
struct Case {
    operation: &'static str,
    status: u16,
    name: &'static str,
    during: Condition,
    /// The campaign in the operation's path.
    campaign: String,
    user: Option<String>,
    /// Instead of the operation's own.
    method: Option<Method>,
    body_bytes: usize,
    /// Sends the request again with the ETag of the first response.
    again: bool,
}

fn case(operation: &'static str, status: u16, name: &'static str, campaign: &str) -> Case {
    let campaign = campaign.to_owned();
    let (during, user) = (Condition::Normal, Some("some-user".to_owned()));
    Case { operation, status, name, during, campaign, user, method: None, body_bytes: 0, again: false }
}

impl Case {
    fn by(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    fn anonymous(mut self) -> Self {
        self.user = None;
        self
    }

    fn body(mut self, bytes: usize) -> Self {
        self.body_bytes = bytes;
        self
    }

    fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    fn during(mut self, during: Condition) -> Self {
        self.during = during;
        self
    }

    fn again(mut self) -> Self {
        self.again = true;
        self
    }

    async fn send(&self, gate: &str) -> ReceivedResponse {
        let (method, path) = self.operation.split_once(' ').unwrap();
        let path = path.replace("{campaign}", &self.campaign).replace("{elsewhere}", &format!("v2/{}", self.campaign));
        let method = self.method.clone().unwrap_or_else(|| method.parse().unwrap());
        let url = format!("{gate}{path}");
        let mut request = dropgate_devstack::http_client().request(method, &url);
        request = request.header("origin", ORIGIN).header("x-request-id", "r-1");
        if let Some(user) = &self.user {
            request = request.header("x-user-id", user).header("x-challenge", "a token");
        }
        if self.again {
            let first = dropgate_devstack::http_client().get(&url).send().await.unwrap();
            request = request.header("if-none-match", &first.headers()["etag"]);
        }
        if self.body_bytes > 0 {
            request = request.body(vec![b' '; self.body_bytes]);
        }
        let response = request.send().await.unwrap();
        let headers: Vec<(String, String)> =
            response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap().to_owned())).collect();
        ReceivedResponse { status: response.status().as_u16(), headers, body: response.text().await.unwrap() }
    }
}

/// A campaign in each state.
struct Campaigns {
    open: String,
    early: String,
    over: String,
    paused: String,
    sold_out: String,
}

#[rustfmt::skip]
fn cases(at: &Campaigns) -> Vec<Case> {
    use Condition::{ChallengeFails, LimitReached, Misconfigured, RedisIsDown};
    let open = at.open.as_str();
    let mut cases = vec![
        case(CLAIM, 202, "admitted", open).by("newcomer"),
        case(CLAIM, 200, "admitted", open).by("was-admitted"),
        case(CLAIM, 200, "issued", open).by("was-issued"),
        case(CLAIM, 200, "refused", open).by("was-refused"),
        case(CLAIM, 400, "bad-request", "UPPER"),
        case(CLAIM, 400, "bad-request", open).by(&"x".repeat(129)),
        case(CLAIM, 401, "unauthenticated", open).anonymous(),
        case(CLAIM, 403, "not-open", &at.early),
        case(CLAIM, 403, "challenge-failed", open).during(ChallengeFails),
        case(CLAIM, 404, "unknown-campaign", "no-such-campaign"),
        case(CLAIM, 405, "method-not-allowed", open).method(Method::GET),
        case(CLAIM, 410, "sold-out", &at.sold_out),
        case(CLAIM, 410, "closed", &at.over),
        case(CLAIM, 413, "too-large", open).body(4097),
        case(CLAIM, 429, "too-many-requests", open).during(LimitReached),
        case(CLAIM, 503, "paused", &at.paused),
        case(CLAIM, 503, "unavailable", open).during(RedisIsDown),
        case(CLAIM, 503, "misconfigured", open).during(Misconfigured),

        case(OWN, 200, "admitted", open).by("was-admitted"),
        case(OWN, 200, "issued", open).by("was-issued"),
        case(OWN, 200, "refused", open).by("was-refused"),
        case(OWN, 400, "bad-request", "UPPER"),
        case(OWN, 401, "unauthenticated", open).anonymous(),
        case(OWN, 404, "no-claim", open).by("another-user"),
        case(OWN, 404, "unknown-campaign", "no-such-campaign"),
        case(OWN, 405, "method-not-allowed", open).method(Method::POST),
        case(OWN, 413, "too-large", open).body(4097),
        case(OWN, 429, "too-many-requests", open).during(LimitReached),
        case(OWN, 503, "unavailable", open).during(RedisIsDown),
        case(OWN, 503, "misconfigured", open).during(Misconfigured),

        case(CAMPAIGN, 200, "open", open),
        case(CAMPAIGN, 200, "not-open", &at.early),
        case(CAMPAIGN, 200, "paused", &at.paused),
        case(CAMPAIGN, 200, "closed", &at.over),
        case(CAMPAIGN, 200, "sold-out", &at.sold_out),
        case(CAMPAIGN, 400, "bad-request", "UPPER"),
        case(CAMPAIGN, 404, "unknown-campaign", "no-such-campaign"),
        case(CAMPAIGN, 405, "method-not-allowed", open).method(Method::PUT),
        case(CAMPAIGN, 413, "too-large", open).body(4097),
        // Not in the gate's cache of the last second.
        case(CAMPAIGN, 503, "unavailable", "not-looked-at").during(RedisIsDown),
        case(CAMPAIGN, 503, "misconfigured", open).during(Misconfigured),

        case(HEALTH, 200, "ok", open),
        case(HEALTH, 405, "method-not-allowed", open).method(Method::POST),
        case(HEALTH, 413, "too-large", open).body(4097),
        case(HEALTH, 503, "misconfigured", open).during(Misconfigured),

        case("OPTIONS /v1/campaigns/{campaign}/claims", 204, "", open),
        case("OPTIONS /v1/campaigns/{campaign}/claims/me", 204, "", open),
        case("OPTIONS /v1/campaigns/{campaign}", 204, "", open),
        case("OPTIONS /healthz", 204, "", open),
        // The preflight request of a page of the allow-list.
        case("OPTIONS /v1/campaigns/{campaign}/claims", 204, "", open).during(ChallengeFails),

        case(OTHER_PATH, 404, "not-found", open),
        case(OTHER_PATH, 414, "too-long", &"x".repeat(2048)),
        case(START, 200, "", open),
        case(START, 304, "", open).again(),
        case(PAGE, 200, "", open),
        case(PAGE, 304, "", open).again(),
        case(DOCUMENT, 200, "", open),
        case(DOCUMENT, 304, "", open).again(),
    ];
    // Public operations need no user.
    for case in &mut cases {
        if ![CLAIM, OWN].contains(&case.operation) {
            case.user = None;
        }
    }
    cases
}

#[derive(Debug)]
struct ReceivedResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl ReceivedResponse {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The name of the document's example: the last part of a problem's type, a claim's status, a campaign's state.
    fn name(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let word = ["type", "status", "state"].iter().find_map(|key| body[key].as_str()).unwrap_or_default();
        word.rsplit(':').next().unwrap_or_default().to_owned()
    }
}

/// The document; `follow` resolves its references.
struct OpenApi(Value);

/// A value, its schema, and the name for errors.
type SchemaCheck = Value;

/// Operation, status and name of the example.
type DocumentedResponse = (String, u16, String);

impl OpenApi {
    fn read() -> Self {
        let text = std::fs::read_to_string(repo().join("edge/public/openapi.json")).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(at) => self.0.pointer(at.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{at} does not exist")),
            None => value,
        }
    }

    fn response(&self, operation: &str, status: u16) -> Option<&Value> {
        if operation == OTHER_PATH {
            let response = OTHER_RESPONSES.iter().find(|(known, _)| *known == status);
            return response.map(|(_, name)| &self.0["components"]["responses"][name]);
        }
        let (method, path) = operation.split_once(' ').unwrap();
        let response = &self.0["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
        (!response.is_null()).then(|| self.follow(response))
    }

    fn documented_responses(&self) -> BTreeSet<DocumentedResponse> {
        let mut all = BTreeSet::new();
        let mut add = |operation: &str, status: u16, response: &Value| {
            let examples =
                response["content"].as_object().and_then(|kinds| kinds.values().next()?["examples"].as_object());
            let names: Vec<&str> = examples.map_or(vec![""], |examples| examples.keys().map(String::as_str).collect());
            all.extend(names.into_iter().map(|name| (operation.to_owned(), status, name.to_owned())));
        };
        for (path, methods) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let Some(responses) = operation["responses"].as_object() else { continue };
                for (status, response) in responses {
                    let name = format!("{} {path}", method.to_uppercase());
                    add(&name, status.parse().unwrap(), self.follow(response));
                }
            }
        }
        for (status, name) in OTHER_RESPONSES {
            add(OTHER_PATH, status, &self.0["components"]["responses"][name]);
        }
        all
    }

    /// All differences of `received` from the document; values with a schema are added to `checks`.
    fn errors(&self, operation: &str, received: &ReceivedResponse, checks: &mut Vec<SchemaCheck>) -> Vec<String> {
        let mut check = |what: &str, schema: &Value, value: Value| {
            let what = format!("{operation} {} {:?}: {what}", received.status, received.name());
            checks.push(json!({ "what": what, "schema": schema, "value": value }));
        };
        let Some(response) = self.response(operation, received.status) else {
            return vec![format!("status {} is not documented", received.status)];
        };
        let mut errors = Vec::new();
        let documented: Map<String, Value> = response["headers"].as_object().cloned().unwrap_or_default();
        for (name, header) in &documented {
            let header = self.follow(header);
            match received.header(&name.to_lowercase()) {
                Some(value) => check(name, &header["schema"], value.into()),
                None if header["required"] == true => errors.push(format!("no header {name}")),
                None => {}
            }
        }
        // The platform adds headers to the files of the page.
        if ![START, PAGE, DOCUMENT].contains(&operation) {
            let common = |name: &str| COMMON.contains(&name) || EVERYWHERE.contains(&name);
            let known = |name: &str| common(name) || documented.keys().any(|k| k.eq_ignore_ascii_case(name));
            errors.extend(
                received
                    .headers
                    .iter()
                    .filter(|(name, _)| !known(name))
                    .map(|(name, _)| format!("undocumented header {name}")),
            );
        }
        let kind = received.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        match response["content"].as_object() {
            None => {
                if !received.body.is_empty() {
                    errors.push("a body, but none is documented".to_owned());
                }
            }
            Some(kinds) => match kinds.get(kind) {
                None => errors.push(format!("the content type {kind:?} is not documented")),
                Some(content) => {
                    let body: Value =
                        serde_json::from_str(&received.body).unwrap_or_else(|_| received.body.clone().into());
                    check("body", &content["schema"], body.clone());
                    if kind == "application/problem+json" && body["status"] != received.status {
                        errors.push("the body has another status".to_owned());
                    }
                }
            },
        }
        errors
    }

    /// The values that do not match their schemas, by ajv, the validator that `make openapi` uses too.
    fn schema_errors(&self, checks: &[SchemaCheck]) -> Vec<String> {
        let input = json!({ "components": self.0["components"], "checks": checks }).to_string();
        let node =
            Command::new("node").arg(repo().join("edge/fits.mjs")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut node = node.unwrap();
        node.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = node.wait_with_output().unwrap();
        assert!(done.status.success(), "edge/fits.mjs failed");
        let output: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(output["checked"], checks.len());
        output["misfits"].as_array().unwrap().iter().map(|misfit| misfit.as_str().unwrap().to_owned()).collect()
    }
}

/// Sends the requests of one condition and returns the responses.
async fn send_all(cases: &[Case], during: Condition, gate: &str) -> Vec<(&'static str, String, ReceivedResponse)> {
    let mut responses = Vec::new();
    for case in cases.iter().filter(|case| case.during == during) {
        let response = case.send(gate).await;
        responses.push((case.operation, format!("{} {:?}", case.status, case.name), response));
    }
    responses
}

#[tokio::test]
async fn every_response_is_documented_and_every_documented_response_occurs() {
    let document = OpenApi::read();
    let mut system = System::start("openapi").await;
    let publish = |id: &str, more: &[&str]| {
        system.stack.run_issuer(&[&["campaign", "create", id, "--capacity", "10"], more].concat()).unwrap();
        system.stack.run_issuer(&["campaign", "publish", id]).unwrap();
        id.to_owned()
    };
    let at = Campaigns {
        open: publish("open", &[]),
        early: publish("early", &["--opens-at", "2099-01-01T00:00:00Z"]),
        over: publish("over", &["--opens-at", "2020-01-01T00:00:00Z", "--closes-at", "2021-01-01T00:00:00Z"]),
        paused: publish("paused", &[]),
        sold_out: system.campaign(1),
    };
    system.redis(&["HSET", "dg:{paused}:meta", "state", "paused"]).await;
    assert_eq!(system.claim(&at.sold_out, "the one").await.status, 202);
    // Claims in each state; without an outbox entry, so that no process changes them.
    for (user, entry) in [("was-admitted", "8:900:a"), ("was-issued", "9:900:i"), ("was-refused", "10:900:r")] {
        system.redis(&["HSET", "dg:{open}:claims", user, entry]).await;
    }
    let gate = system.url("");
    let cases = cases(&at);

    let auth = ("AUTH", "insecure-header");
    let misconfigured = system.stack.gate("misconfigured", &[auth, ("KAFKA_REST_URL", "")], &[]).await.unwrap();
    let mut responses = send_all(&cases, Condition::Misconfigured, &misconfigured.url).await;
    let limited = system.stack.gate("limited", &[auth], &["LIMIT_PER_USER"]).await.unwrap();
    responses.extend(send_all(&cases, Condition::LimitReached, &limited.url).await);
    let verdict =
        tokens::JsonServer::serve(&json!({ "success": false, "error-codes": ["invalid-input-response"] })).await;
    let more = [auth, ("TURNSTILE_SECRET", "s"), ("TURNSTILE_URL", &verdict.url), ("CORS_ORIGINS", ORIGIN)];
    let challenging = system.stack.gate("challenging", &more, &[]).await.unwrap();
    let challenged = send_all(&cases, Condition::ChallengeFails, &challenging.url).await;
    for (operation, _, response) in &challenged {
        assert_eq!(response.header("access-control-allow-origin"), Some(ORIGIN), "{operation}");
        assert_eq!(response.header("x-request-id"), Some("r-1"), "{operation}");
    }
    responses.extend(challenged);
    responses.extend(send_all(&cases, Condition::Normal, &gate).await);
    responses.extend(
        system
            .stack
            .without("redis", false, async { Ok(send_all(&cases, Condition::RedisIsDown, &gate).await) })
            .await
            .unwrap(),
    );
    assert_eq!(responses.len(), cases.len());

    let documented = document.documented_responses();
    let (mut errors, mut checks) = (Vec::new(), Vec::new());
    let mut received = BTreeSet::new();
    for (operation, expected, response) in &responses {
        let got = format!("{} {:?}", response.status, response.name());
        let key = ((*operation).to_owned(), response.status, response.name());
        if got != *expected {
            errors.push(format!("{operation}: expected {expected}, got {got}"));
        }
        if !documented.contains(&key) {
            errors.push(format!("{operation} {got} is not documented"));
        }
        errors.extend(
            document.errors(operation, response, &mut checks).iter().map(|c| format!("{operation} {got}: {c}")),
        );
        received.insert(key);
    }
    for (operation, status, name) in documented.difference(&received) {
        errors.push(format!("{operation} {status} {name:?} is documented, but no case requests it"));
    }
    errors.extend(document.schema_errors(&checks));
    assert!(errors.is_empty(), "{}", errors.join("\n"));

    // A GET may be a HEAD: the same status and headers, and no body.
    let head = case(CAMPAIGN, 200, "open", &at.open).method(Method::HEAD).send(&gate).await;
    assert_eq!((head.status, head.header("cache-control"), head.body.as_str()), (200, Some("public, max-age=1"), ""));
    system.stop().await;
}
