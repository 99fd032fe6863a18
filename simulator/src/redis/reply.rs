//! What a command answers, and how Redis reads and writes numbers.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

/// A binary-safe string. Cheap to clone: the log and the replicas share it with the data set.
pub type Bytes = Rc<[u8]>;

/// A RESP2 reply.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Int(i64),
    Status(Cow<'static, str>),
    Bulk(Bytes),
    Array(Vec<Reply>),
    /// With its code: `WRONGTYPE Operation against ..`.
    Error(String),
}

/// As `redis-cli` shows it.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("(nil)"),
            Self::Int(number) => write!(f, "(integer) {number}"),
            Self::Status(text) => f.write_str(text),
            Self::Bulk(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Error(text) => write!(f, "(error) {text}"),
        }
    }
}

impl Reply {
    pub(super) const OK: Self = Self::Status(Cow::Borrowed("OK"));

    pub(super) fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().into())
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Int(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(super) fn flag(flag: bool) -> Self {
        Self::Int(flag.into())
    }

    pub(super) fn optional(bytes: Option<&Bytes>) -> Self {
        bytes.map_or(Self::Nil, |bytes| Self::Bulk(bytes.clone()))
    }

    pub(super) fn list<T: Into<Bytes>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Array(items.into_iter().map(|item| Self::Bulk(item.into())).collect())
    }

    /// A score (`addReplyDouble` for RESP2, src/networking.c of 7.0.15).
    pub(super) fn score(score: f64) -> Self {
        Self::bulk(number(score))
    }

    /// The text of a bulk or a status.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes)),
            Self::Status(text) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }
}

/// `%.17g` of C, which is how Redis 7.0 writes a score and a number that a script passes to a command.
/// Redis 7.2 writes the shortest text that reads back as the same number; both agree on whole numbers below
/// 10^17, and the project has no others.
pub(super) fn number(value: f64) -> String {
    const DIGITS: i32 = 17;
    // The usual case, a whole number that is written in full.
    if value == value.trunc() && value.abs() < 1e17 && (value != 0.0 || value.is_sign_positive()) {
        return (value as i64).to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        trimmed(&format!("{value:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
    }
}

/// A whole number, read as strictly as `string2ll` (src/util.c): no plus, no blanks, no leading zeros.
pub(super) fn integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.as_bytes() {
        [b'0'] if text.len() == 1 => Some(0),
        [b'1'..=b'9', ..] => text.parse().ok(),
        _ => None,
    }
}

/// A score (`string2d`, src/util.c: `strtod` without blanks). Hexadecimal is not modelled.
pub(super) fn score(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: f64 = text.parse().ok()?;
    let overflowed = value.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
    (!value.is_nan() && !overflowed).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-17.5, "-17.5"),
            (0.1, "0.10000000000000001"),
            (1_762_000_000_123.0, "1762000000123"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (123_456_789_012_345_680_000.0, "1.2345678901234568e+20"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn numbers_are_read_as_strictly_as_redis_reads_them() {
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808"] {
            assert_eq!(integer(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(integer(b"-9223372036854775808"), Some(i64::MIN));
        for text in ["", " 1", "1 ", "nan", "x", "1e400"] {
            assert_eq!(score(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!((score(b"+1.5e3"), score(b"-inf")), (Some(1_500.0), Some(f64::NEG_INFINITY)));
    }
}
