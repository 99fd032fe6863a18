//! Reads settings one by one and collects every problem.

use std::cell::RefCell;

/// Where the gate runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine: insecure settings are accepted, responses say how long they took.
    Development,
    /// Deployed, for tests.
    Staging,
    /// Deployed, for everybody.
    Production,
}

/// The problems say what happened and what is expected. They do not repeat a value: it may be a secret in the wrong
/// place, and a gate that is misconfigured shows them to everybody.
pub struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    /// `ENVIRONMENT`, if it is valid. Other settings depend on it.
    pub environment: Option<Environment>,
    problems: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let mut reader = Self { get, environment: None, problems: RefCell::default() };
        let words = [
            ("development", Some(Environment::Development)),
            ("staging", Some(Environment::Staging)),
            ("production", Some(Environment::Production)),
        ];
        if !reader.required("ENVIRONMENT", "development, staging or production").is_empty() {
            reader.environment = reader.word("ENVIRONMENT", None, &words);
        }
        reader
    }

    pub fn problem(&self, text: impl Into<String>) {
        self.problems.borrow_mut().push(text.into());
    }

    pub fn into_problems(self) -> Vec<String> {
        self.problems.take()
    }

    /// The setting, if it is there and not empty.
    pub fn find(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    /// The setting; empty, with a problem, where it is missing.
    pub fn required(&self, name: &str, expected: &str) -> String {
        self.find(name).unwrap_or_else(|| {
            self.problem(format!("{name} is missing; expected {expected}"));
            String::new()
        })
    }

    /// A URL, without the slash at its end. Secrets are sent there, so production requires TLS.
    pub fn url(&self, name: &str, value: &str) -> String {
        if !value.starts_with("https://") && !value.starts_with("http://") {
            self.problem(format!("{name} is not a URL; expected https://.. or http://.."));
        } else if self.environment == Some(Environment::Production) && !value.starts_with("https://") {
            self.problem(format!("{name} is not encrypted; expected https://.. where ENVIRONMENT=production"));
        }
        value.trim_end_matches('/').to_owned()
    }

    pub fn required_url(&self, name: &str) -> String {
        let value = self.required(name, "the URL of the service, https://..");
        if value.is_empty() { value } else { self.url(name, &value) }
    }

    pub fn number(&self, name: &str, default: u32, (least, most): (u32, u32), unit: &str) -> u32 {
        match self.find(name).map(|v| v.parse::<u32>()) {
            None => default,
            Some(Ok(n)) if (least..=most).contains(&n) => n,
            Some(_) => {
                self.problem(format!("{name} is not valid; expected a number of {unit} from {least} to {most}"));
                default
            }
        }
    }

    /// One of several words.
    pub fn word<T: Copy>(&self, name: &str, default: T, words: &[(&str, T)]) -> T {
        let Some(value) = self.find(name) else { return default };
        words.iter().find(|(word, _)| *word == value).map_or_else(
            || {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                self.problem(format!("{name} is not supported; expected {}", words.join(" or ")));
                default
            },
            |(_, meaning)| *meaning,
        )
    }
}
