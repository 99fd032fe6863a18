//! Problems with the settings.

use super::values::SettingError;
use std::fmt;

/// Problems with settings, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is incomplete:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Problems {
    /// Parses a required setting. An empty one counts as absent: that is how it looks in many a shell.
    pub fn need<T>(
        &mut self,
        name: &str,
        expected: &str,
        value: Option<&String>,
        parse: impl Fn(&str) -> Result<T, SettingError>,
    ) -> Option<T> {
        match given(value).ok_or(SettingError::NotSet).and_then(parse) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.add(format!("{name} {problem}; expected {expected}"));
                None
            }
        }
    }

    /// Adds a line.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// The settings, if there is no problem.
    pub fn or<T>(self, settings: Option<T>) -> Result<T, Self> {
        settings.filter(|_| self.0.is_empty()).ok_or(self)
    }

    /// One line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// What is set and not empty.
#[must_use]
pub fn given(value: Option<&String>) -> Option<&str> {
    value.map(|value| value.trim()).filter(|value| !value.is_empty())
}
