//! How the value of a setting is parsed.

use crate::consume::budget::BudgetError;
use crate::store::mysql::settings::DatabaseUrlError;
use dropgate_shared::code::CodeSecret;
use dropgate_shared::names::{KeyPrefix, is_topic_name};
use std::net::SocketAddr;
use url::Url;

/// A problem with the value of a setting. Follows its name, and never repeats a value that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    #[error("is not set")]
    NotSet,
    #[error(transparent)]
    Database(#[from] DatabaseUrlError),
    #[error("is not an http address")]
    NotHttp,
    #[error("holds more than an address")]
    NotOnlyAddress,
    #[error("is not HOST:PORT")]
    NotBrokers,
    #[error("contains a character that no token has")]
    TokenCharacter,
    #[error("has only {0} bytes")]
    TooShort(usize),
    #[error("is not an address with a port")]
    NotAddress,
    #[error("{0:?} is not supported")]
    Unsupported(String),
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

/// An address of a service that speaks HTTP.
pub fn http_address(url: &str) -> Result<String, SettingError> {
    let fits = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    if fits { Ok(url.to_owned()) } else { Err(SettingError::NotHttp) }
}

/// The same, without anything that may be a secret: such an address may be printed.
pub fn plain_http_address(url: &str) -> Result<String, SettingError> {
    let url = http_address(url)?;
    if url.contains(['@', '?', '#']) { Err(SettingError::NotOnlyAddress) } else { Ok(url) }
}

/// Addresses of Kafka brokers. They are printed: what may be a user, a password or a query is rejected.
pub fn brokers(text: &str) -> Result<String, SettingError> {
    let fits = text.chars().all(|char| char.is_ascii_alphanumeric() || ".-_:[]/, ".contains(char));
    if fits { Ok(text.to_owned()) } else { Err(SettingError::NotBrokers) }
}

/// The prefix of all keys in Redis.
pub fn key_prefix(text: &str) -> Result<KeyPrefix, SettingError> {
    KeyPrefix::parse(text).map_err(|_| SettingError::Unsupported(text.to_owned()))
}

/// The name of a topic.
pub fn topic(text: &str) -> Result<String, SettingError> {
    if is_topic_name(text) { Ok(text.to_owned()) } else { Err(SettingError::Unsupported(text.to_owned())) }
}

/// A token, as it goes into an HTTP header.
pub fn token(token: &str) -> Result<String, SettingError> {
    let fits = token.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(token.to_owned()) } else { Err(SettingError::TokenCharacter) }
}

/// The secret of the coupon codes.
pub fn code_secret(secret: &str) -> Result<CodeSecret, SettingError> {
    CodeSecret::parse(secret).map_err(|_| SettingError::TooShort(secret.len()))
}

/// Where the issuer listens; `None` for `off`.
pub fn listen_address(listen: &str) -> Result<Option<SocketAddr>, SettingError> {
    match listen {
        "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| SettingError::NotAddress),
    }
}

/// One of `known`, whatever its case.
pub fn one_of(value: &str, known: &[&str]) -> Result<String, SettingError> {
    let found = known.iter().find(|name| name.eq_ignore_ascii_case(value));
    found.map(|name| (*name).to_owned()).ok_or_else(|| SettingError::Unsupported(value.to_owned()))
}
