//! Times in three forms: ms since the epoch (Redis, Kafka), DATETIME(3) in UTC (MySQL) and RFC 3339 (people).

use std::sync::Arc;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// The wall clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> PrimitiveDateTime + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(|| {
            let now = OffsetDateTime::now_utc();
            PrimitiveDateTime::new(now.date(), now.time())
        }))
    }

    /// A clock that shows what `now_ms` returns, in ms since the epoch.
    pub fn new(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || from_ms(now_ms()).unwrap_or(PrimitiveDateTime::MAX)))
    }

    /// The present, to the ms.
    #[must_use]
    pub fn now(&self) -> PrimitiveDateTime {
        to_the_ms((self.0)())
    }

    /// The present, in ms since the epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        to_ms(self.now())
    }
}

/// The time `ms` after the epoch, or `None` beyond the year 9999, which no DATETIME can hold.
#[must_use]
pub fn from_ms(ms: u64) -> Option<PrimitiveDateTime> {
    let time = OffsetDateTime::UNIX_EPOCH.checked_add(Duration::milliseconds(i64::try_from(ms).ok()?))?;
    Some(PrimitiveDateTime::new(time.date(), time.time()))
}

/// Ms since the epoch; 0 for any time before it.
#[must_use]
pub fn to_ms(time: PrimitiveDateTime) -> u64 {
    u64::try_from(time.assume_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    #[error("{0:?} is not an RFC 3339 time; expected a time such as 2026-11-27T09:00:00Z")]
    Malformed(String),
    #[error("{0:?} is before 1970")]
    TooEarly(String),
}

/// Reads an RFC 3339 time, to the ms.
pub fn parse(text: &str) -> Result<PrimitiveDateTime, TimeError> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimeError::Malformed(text.to_owned()))?;
    let time = time.to_offset(time::UtcOffset::UTC);
    let time = to_the_ms(PrimitiveDateTime::new(time.date(), time.time()));
    if time.assume_utc() < OffsetDateTime::UNIX_EPOCH {
        return Err(TimeError::TooEarly(text.to_owned()));
    }
    Ok(time)
}

/// RFC 3339 in UTC.
#[must_use]
pub fn format(time: PrimitiveDateTime) -> String {
    // Any time that MySQL can hold has an RFC 3339 form.
    time.assume_utc().format(&Rfc3339).unwrap_or_default()
}

/// DATETIME(3) keeps ms; what is written must compare equal to what is read back.
fn to_the_ms(time: PrimitiveDateTime) -> PrimitiveDateTime {
    let ms = time.millisecond();
    time.replace_nanosecond(u32::from(ms) * 1_000_000).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ms_survive_the_way_there_and_back() {
        for ms in [0, 1, 1_763_700_000_123, 253_402_300_799_999] {
            assert_eq!(to_ms(from_ms(ms).unwrap()), ms);
        }
        assert_eq!(from_ms(253_402_300_800_000), None, "the year 10000");
        assert_eq!(from_ms(u64::MAX), None);
    }

    #[test]
    fn people_write_rfc_3339() {
        let time = parse("2026-11-27T10:00:00.1239+01:00").unwrap();
        assert_eq!(format(time), "2026-11-27T09:00:00.123Z");
        assert!(parse("tomorrow").unwrap_err().to_string().contains("RFC 3339"));
        assert!(parse("1969-12-31T23:59:59Z").is_err());
    }
}
