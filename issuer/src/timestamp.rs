//! Times between three worlds: ms since the epoch (Redis, Kafka), DATETIME(3) in UTC (MySQL) and
//! RFC 3339 (people).

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// The time `ms` after the epoch, or `None` beyond the year 9999, which no DATETIME can hold.
#[must_use]
pub fn from_ms(ms: u64) -> Option<PrimitiveDateTime> {
    let time = OffsetDateTime::UNIX_EPOCH.checked_add(Duration::milliseconds(i64::try_from(ms).ok()?))?;
    Some(PrimitiveDateTime::new(time.date(), time.time()))
}

/// Ms since the epoch; 0 for any time before it.
#[must_use]
pub fn to_ms(moment: PrimitiveDateTime) -> u64 {
    u64::try_from(moment.assume_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// The present by the machine's clock, to the ms.
#[must_use]
pub fn now() -> PrimitiveDateTime {
    let now = OffsetDateTime::now_utc();
    to_the_ms(PrimitiveDateTime::new(now.date(), now.time()))
}

/// Reads an RFC 3339 time, to the ms.
///
/// # Errors
/// What would be right, for a human.
pub fn parse(text: &str) -> Result<PrimitiveDateTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| format!("{text:?} is no RFC 3339 time such as 2026-11-27T09:00:00Z"))?
        .to_offset(time::UtcOffset::UTC);
    let moment = to_the_ms(PrimitiveDateTime::new(time.date(), time.time()));
    if moment.assume_utc() < OffsetDateTime::UNIX_EPOCH {
        return Err(format!("{text:?} lies before 1970"));
    }
    Ok(moment)
}

/// RFC 3339 in UTC.
#[must_use]
pub fn format(moment: PrimitiveDateTime) -> String {
    // Any time that MySQL can hold has an RFC 3339 form.
    moment.assume_utc().format(&Rfc3339).unwrap_or_default()
}

/// DATETIME(3) keeps ms; what is written must compare equal to what is read back.
fn to_the_ms(moment: PrimitiveDateTime) -> PrimitiveDateTime {
    let ms = moment.millisecond();
    moment.replace_nanosecond(u32::from(ms) * 1_000_000).unwrap_or(moment)
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
        let moment = parse("2026-11-27T10:00:00.1239+01:00").unwrap();
        assert_eq!(format(moment), "2026-11-27T09:00:00.123Z");
        assert!(parse("tomorrow").unwrap_err().contains("RFC 3339"));
        assert!(parse("1969-12-31T23:59:59Z").is_err());
    }
}
