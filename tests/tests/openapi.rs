//! The OpenAPI document against the real gate: every documented answer is driven and fits, and no answer comes that is
//! not documented. An answer is (operation, status, name of its example); problems are named by their type.
//!
//! To document a new answer: add it to `edge/public/openapi.json` with an example, and a line to `cases`.
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
/// The document's `components/responses` `NotFound` and `TooLong`: every address that it does not list.
const ELSEWHERE: &str = "GET /{elsewhere}";
const ELSEWHERES: [(u16, &str); 2] = [(404, "NotFound"), (414, "TooLong")];
const START: &str = "GET /";
const PAGE: &str = "GET /c/{campaign}";
const DOCUMENT: &str = "GET /openapi.json";

/// Headers that the protocol or the runtime adds to any answer.
const COMMON: [&str; 6] = ["content-type", "content-length", "date", "connection", "keep-alive", "transfer-encoding"];
/// Headers that the document's introduction promises of every answer.
const EVERYWHERE: [&str; 5] =
    ["x-request-id", "vary", "access-control-allow-origin", "access-control-expose-headers", "server-timing"];
/// A page of the allow-list.
const ORIGIN: &str = "https://shop.example";

/// Under which circumstances a case is driven.
#[derive(Clone, Copy, PartialEq)]
enum While {
    AllIsWell,
    RedisIsAway,
    /// A gate that lacks a setting.
    Misconfigured,
    /// A gate whose visitors have used up their limit.
    LimitIsReached,
    /// A gate that wants proof that visitors are no programs, which nobody has.
    ChallengeIsFailed,
}

/// One documented answer, and a request that must get it.
struct Case {
    operation: &'static str,
    status: u16,
    name: &'static str,
    during: While,
    /// The campaign in the operation's path.
    campaign: String,
    user: Option<String>,
    /// Instead of the operation's own.
    method: Option<Method>,
    body_bytes: usize,
    /// Asks a second time, with the first answer's ETag.
    again: bool,
}

fn case(operation: &'static str, status: u16, name: &'static str, campaign: &str) -> Case {
    let campaign = campaign.to_owned();
    let (during, user) = (While::AllIsWell, Some("somebody".to_owned()));
    Case { operation, status, name, during, campaign, user, method: None, body_bytes: 0, again: false }
}

impl Case {
    fn by(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    fn by_nobody(mut self) -> Self {
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

    fn during(mut self, during: While) -> Self {
        self.during = during;
        self
    }

    fn again(mut self) -> Self {
        self.again = true;
        self
    }

    async fn send(&self, gate: &str) -> Answer {
        let (method, path) = self.operation.split_once(' ').unwrap();
        let path = path.replace("{campaign}", &self.campaign).replace("{elsewhere}", &format!("v2/{}", self.campaign));
        let method = self.method.clone().unwrap_or_else(|| method.parse().unwrap());
        let url = format!("{gate}{path}");
        let mut request = dropgate_local::http_client().request(method, &url);
        request = request.header("origin", ORIGIN).header("x-request-id", "r-1");
        if let Some(user) = &self.user {
            request = request.header("x-user-id", user).header("x-challenge", "a token");
        }
        if self.again {
            let first = dropgate_local::http_client().get(&url).send().await.unwrap();
            request = request.header("if-none-match", &first.headers()["etag"]);
        }
        if self.body_bytes > 0 {
            request = request.body(vec![b' '; self.body_bytes]);
        }
        let response = request.send().await.unwrap();
        let headers: Vec<(String, String)> =
            response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), v.to_str().unwrap().to_owned())).collect();
        Answer { status: response.status().as_u16(), headers, body: response.text().await.unwrap() }
    }
}

/// The campaigns in the states that an answer may depend on.
struct Campaigns {
    open: String,
    early: String,
    over: String,
    paused: String,
    sold_out: String,
}

#[rustfmt::skip]
fn cases(at: &Campaigns) -> Vec<Case> {
    use While::{ChallengeIsFailed, LimitIsReached, Misconfigured, RedisIsAway};
    let open = at.open.as_str();
    let mut cases = vec![
        case(CLAIM, 202, "admitted", open).by("newcomer"),
        case(CLAIM, 200, "admitted", open).by("was-admitted"),
        case(CLAIM, 200, "issued", open).by("was-issued"),
        case(CLAIM, 200, "refused", open).by("was-refused"),
        case(CLAIM, 400, "bad-request", "UPPER"),
        case(CLAIM, 400, "bad-request", open).by(&"x".repeat(129)),
        case(CLAIM, 401, "unauthenticated", open).by_nobody(),
        case(CLAIM, 403, "not-open", &at.early),
        case(CLAIM, 403, "challenge-failed", open).during(ChallengeIsFailed),
        case(CLAIM, 404, "unknown-campaign", "no-such-campaign"),
        case(CLAIM, 405, "method-not-allowed", open).method(Method::GET),
        case(CLAIM, 410, "sold-out", &at.sold_out),
        case(CLAIM, 410, "closed", &at.over),
        case(CLAIM, 413, "too-large", open).body(4097),
        case(CLAIM, 429, "too-many-requests", open).during(LimitIsReached),
        case(CLAIM, 503, "paused", &at.paused),
        case(CLAIM, 503, "unavailable", open).during(RedisIsAway),
        case(CLAIM, 503, "misconfigured", open).during(Misconfigured),

        case(OWN, 200, "admitted", open).by("was-admitted"),
        case(OWN, 200, "issued", open).by("was-issued"),
        case(OWN, 200, "refused", open).by("was-refused"),
        case(OWN, 400, "bad-request", "UPPER"),
        case(OWN, 401, "unauthenticated", open).by_nobody(),
        case(OWN, 404, "no-claim", open).by("somebody else"),
        case(OWN, 404, "unknown-campaign", "no-such-campaign"),
        case(OWN, 405, "method-not-allowed", open).method(Method::POST),
        case(OWN, 413, "too-large", open).body(4097),
        case(OWN, 429, "too-many-requests", open).during(LimitIsReached),
        case(OWN, 503, "unavailable", open).during(RedisIsAway),
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
        // Not one that the gate has looked at within the last second.
        case(CAMPAIGN, 503, "unavailable", "not-looked-at").during(RedisIsAway),
        case(CAMPAIGN, 503, "misconfigured", open).during(Misconfigured),

        case(HEALTH, 200, "ok", open),
        case(HEALTH, 405, "method-not-allowed", open).method(Method::POST),
        case(HEALTH, 413, "too-large", open).body(4097),
        case(HEALTH, 503, "misconfigured", open).during(Misconfigured),

        case("OPTIONS /v1/campaigns/{campaign}/claims", 204, "", open),
        case("OPTIONS /v1/campaigns/{campaign}/claims/me", 204, "", open),
        case("OPTIONS /v1/campaigns/{campaign}", 204, "", open),
        case("OPTIONS /healthz", 204, "", open),
        // A page of the allow-list asks before it claims.
        case("OPTIONS /v1/campaigns/{campaign}/claims", 204, "", open).during(ChallengeIsFailed),

        case(ELSEWHERE, 404, "not-found", open),
        case(ELSEWHERE, 414, "too-long", &"x".repeat(2048)),
        case(START, 200, "", open),
        case(START, 304, "", open).again(),
        case(PAGE, 200, "", open),
        case(PAGE, 304, "", open).again(),
        case(DOCUMENT, 200, "", open),
        case(DOCUMENT, 304, "", open).again(),
    ];
    // What is nobody's secret needs no name.
    for case in &mut cases {
        if ![CLAIM, OWN].contains(&case.operation) {
            case.user = None;
        }
    }
    cases
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// As the document's examples are called: the last word of a problem's type, a claim's status, a campaign's state.
    fn name(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let word = ["type", "status", "state"].iter().find_map(|key| body[key].as_str()).unwrap_or_default();
        word.rsplit(':').next().unwrap_or_default().to_owned()
    }
}

/// The document, with its references followed.
struct Document(Value);

/// A value and the schema that it has to fit, with the name under which a misfit is reported.
type Check = Value;

/// An answer that the document promises.
type Promise = (String, u16, String);

impl Document {
    fn read() -> Self {
        let text = std::fs::read_to_string(repo().join("edge/public/openapi.json")).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(at) => self.0.pointer(at.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{at} leads nowhere")),
            None => value,
        }
    }

    fn response(&self, operation: &str, status: u16) -> Option<&Value> {
        if operation == ELSEWHERE {
            let response = ELSEWHERES.iter().find(|(known, _)| *known == status);
            return response.map(|(_, name)| &self.0["components"]["responses"][name]);
        }
        let (method, path) = operation.split_once(' ').unwrap();
        let response = &self.0["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
        (!response.is_null()).then(|| self.follow(response))
    }

    /// All that is promised.
    fn promises(&self) -> BTreeSet<Promise> {
        let mut promises = BTreeSet::new();
        let mut add = |operation: &str, status: u16, response: &Value| {
            let examples =
                response["content"].as_object().and_then(|kinds| kinds.values().next()?["examples"].as_object());
            let names: Vec<&str> = examples.map_or(vec![""], |examples| examples.keys().map(String::as_str).collect());
            promises.extend(names.into_iter().map(|name| (operation.to_owned(), status, name.to_owned())));
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
        for (status, name) in ELSEWHERES {
            add(ELSEWHERE, status, &self.0["components"]["responses"][name]);
        }
        promises
    }

    /// Everything about `answer` that is not as documented; what has to fit a schema is left in `checks`.
    fn complaints(&self, operation: &str, answer: &Answer, checks: &mut Vec<Check>) -> Vec<String> {
        let mut check = |what: &str, schema: &Value, value: Value| {
            let what = format!("{operation} {} {:?}: {what}", answer.status, answer.name());
            checks.push(json!({ "what": what, "schema": schema, "value": value }));
        };
        let Some(response) = self.response(operation, answer.status) else {
            return vec![format!("the status {} is not documented", answer.status)];
        };
        let mut complaints = Vec::new();
        let documented: Map<String, Value> = response["headers"].as_object().cloned().unwrap_or_default();
        for (name, header) in &documented {
            let header = self.follow(header);
            match answer.header(&name.to_lowercase()) {
                Some(value) => check(name, &header["schema"], value.into()),
                None if header["required"] == true => complaints.push(format!("no header {name}")),
                None => {}
            }
        }
        // The page's own files carry what the platform adds.
        if ![START, PAGE, DOCUMENT].contains(&operation) {
            let common = |name: &str| COMMON.contains(&name) || EVERYWHERE.contains(&name);
            let known = |name: &str| common(name) || documented.keys().any(|k| k.eq_ignore_ascii_case(name));
            complaints.extend(
                answer
                    .headers
                    .iter()
                    .filter(|(name, _)| !known(name))
                    .map(|(name, _)| format!("undocumented header {name}")),
            );
        }
        let kind = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
        match response["content"].as_object() {
            None => {
                if !answer.body.is_empty() {
                    complaints.push("a body where none is documented".to_owned());
                }
            }
            Some(kinds) => match kinds.get(kind) {
                None => complaints.push(format!("the content type {kind:?} is not documented")),
                Some(content) => {
                    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| answer.body.clone().into());
                    check("body", &content["schema"], body.clone());
                    if kind == "application/problem+json" && body["status"] != answer.status {
                        complaints.push("the body tells another status".to_owned());
                    }
                }
            },
        }
        complaints
    }

    /// Where the values do not fit their schemas. ajv judges, the validator that `make openapi` uses too.
    fn misfits(&self, checks: &[Check]) -> Vec<String> {
        let question = json!({ "components": self.0["components"], "checks": checks }).to_string();
        let node =
            Command::new("node").arg(repo().join("edge/fits.mjs")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut node = node.unwrap();
        node.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
        let done = node.wait_with_output().unwrap();
        assert!(done.status.success(), "edge/fits.mjs failed");
        let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(answer["checked"], checks.len());
        answer["misfits"].as_array().unwrap().iter().map(|misfit| misfit.as_str().unwrap().to_owned()).collect()
    }
}

/// Drives the cases of one circumstance. Returns what came of each.
async fn drive(cases: &[Case], during: While, gate: &str) -> Vec<(&'static str, String, Answer)> {
    let mut answers = Vec::new();
    for case in cases.iter().filter(|case| case.during == during) {
        let answer = case.send(gate).await;
        answers.push((case.operation, format!("{} {:?}", case.status, case.name), answer));
    }
    answers
}

#[tokio::test]
async fn every_answer_is_as_documented_and_every_documented_answer_is_given() {
    let document = Document::read();
    let mut system = System::start("openapi").await;
    let made = |id: &str, more: &[&str]| {
        system.stack.issuer(&[&["campaign", "create", id, "--capacity", "10"], more].concat()).unwrap();
        system.stack.issuer(&["campaign", "publish", id]).unwrap();
        id.to_owned()
    };
    let at = Campaigns {
        open: made("open", &[]),
        early: made("early", &["--opens-at", "2099-01-01T00:00:00Z"]),
        over: made("over", &["--opens-at", "2020-01-01T00:00:00Z", "--closes-at", "2021-01-01T00:00:00Z"]),
        paused: made("paused", &[]),
        sold_out: system.campaign(1),
    };
    system.redis(&["HSET", "dg:{paused}:meta", "state", "paused"]).await;
    assert_eq!(system.claim(&at.sold_out, "the one").await.status, 202);
    // Claims in each state, as the issuer leaves them; nothing waits in the outbox that would move them on.
    for (user, entry) in [("was-admitted", "8:900:a"), ("was-issued", "9:900:i"), ("was-refused", "10:900:r")] {
        system.redis(&["HSET", "dg:{open}:claims", user, entry]).await;
    }
    let gate = system.url("");
    let cases = cases(&at);

    let auth = ("AUTH", "insecure-header");
    let misconfigured = system.stack.gate("misconfigured", &[auth, ("KAFKA_REST_URL", "")], &[]).await.unwrap();
    let mut answers = drive(&cases, While::Misconfigured, &misconfigured.url).await;
    let limited = system.stack.gate("limited", &[auth], &["LIMIT_PER_USER"]).await.unwrap();
    answers.extend(drive(&cases, While::LimitIsReached, &limited.url).await);
    let verdict =
        tokens::Document::serve(&json!({ "success": false, "error-codes": ["invalid-input-response"] })).await;
    let more = [auth, ("TURNSTILE_SECRET", "s"), ("TURNSTILE_URL", &verdict.url), ("CORS_ORIGINS", ORIGIN)];
    let challenging = system.stack.gate("challenging", &more, &[]).await.unwrap();
    let challenged = drive(&cases, While::ChallengeIsFailed, &challenging.url).await;
    for (operation, _, answer) in &challenged {
        assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN), "{operation}");
        assert_eq!(answer.header("x-request-id"), Some("r-1"), "{operation}");
    }
    answers.extend(challenged);
    answers.extend(drive(&cases, While::AllIsWell, &gate).await);
    answers.extend(
        system
            .stack
            .without("redis", false, async { Ok(drive(&cases, While::RedisIsAway, &gate).await) })
            .await
            .unwrap(),
    );
    assert_eq!(answers.len(), cases.len());

    let promised = document.promises();
    let (mut complaints, mut checks) = (Vec::new(), Vec::new());
    let mut given = BTreeSet::new();
    for (operation, expected, answer) in &answers {
        let got = format!("{} {:?}", answer.status, answer.name());
        let promise = ((*operation).to_owned(), answer.status, answer.name());
        if got != *expected {
            complaints.push(format!("{operation}: expected {expected}, got {got}"));
        }
        if !promised.contains(&promise) {
            complaints.push(format!("{operation} {got} is not documented"));
        }
        complaints.extend(
            document.complaints(operation, answer, &mut checks).iter().map(|c| format!("{operation} {got}: {c}")),
        );
        given.insert(promise);
    }
    for (operation, status, name) in promised.difference(&given) {
        complaints.push(format!("{operation} {status} {name:?} is documented, but no case drives it"));
    }
    complaints.extend(document.misfits(&checks));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));

    // A GET may be a HEAD: the same status and headers, and no body.
    let head = case(CAMPAIGN, 200, "open", &at.open).method(Method::HEAD).send(&gate).await;
    assert_eq!((head.status, head.header("cache-control"), head.body.as_str()), (200, Some("public, max-age=1"), ""));
    system.stop().await;
}
