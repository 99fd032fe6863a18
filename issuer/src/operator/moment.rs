//! Times for a person: by the clock of their machine, in UTC, and from now.

use crate::timestamp;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use time::PrimitiveDateTime;

/// `2026-11-27 18:00:00 +09:00 (2026-11-27T09:00:00Z), in 1 d 22 h`; only UTC where the machine shows UTC.
#[must_use]
pub fn shown(at: PrimitiveDateTime, now: PrimitiveDateTime) -> String {
    shown_in(&TimeZone::system(), at, now)
}

fn shown_in(zone: &TimeZone, at: PrimitiveDateTime, now: PrimitiveDateTime) -> String {
    let (utc, distance) = (timestamp::format(at), distance(at, now));
    let ms = i64::try_from(timestamp::to_ms(at)).unwrap_or(i64::MAX);
    match Timestamp::from_millisecond(ms).map(|at| at.to_zoned_datetime(zone.clone())) {
        Ok(local) if !local.offset().is_zero() => {
            format!("{} ({utc}), {distance}", local.strftime("%Y-%m-%d %H:%M:%S %:z"))
        }
        _ => format!("{utc}, {distance}"),
    }
}

/// `in 1 d 22 h`, `3 min 5 s ago` or `now`: the two greatest units.
#[must_use]
pub fn distance(at: PrimitiveDateTime, now: PrimitiveDateTime) -> String {
    let (at_ms, now_ms) = (timestamp::to_ms(at), timestamp::to_ms(now));
    let seconds = at_ms.abs_diff(now_ms) / 1_000;
    let [days, hours, minutes] = [86_400, 3_600, 60].map(|unit| seconds / unit);
    let length = match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => return "now".to_owned(),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    };
    if at_ms > now_ms { format!("in {length}") } else { format!("{length} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::parse;
    use jiff::tz::Offset;

    #[test]
    fn a_time_is_shown_here_in_utc_and_from_now() {
        let (at, now) = (parse("2026-11-27T09:00:00Z").unwrap(), parse("2026-11-25T11:00:00Z").unwrap());
        let seoul = TimeZone::fixed(Offset::from_hours(9).unwrap());
        assert_eq!(shown_in(&seoul, at, now), "2026-11-27 18:00:00 +09:00 (2026-11-27T09:00:00Z), in 1 d 22 h");
        assert_eq!(shown_in(&TimeZone::UTC, at, now), "2026-11-27T09:00:00Z, in 1 d 22 h");
    }

    /// The offset is that of the day, not of today.
    #[test]
    fn daylight_saving_time_counts() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now = parse("2026-07-01T00:00:00Z").unwrap();
        let local = |at: &str| shown_in(&berlin, parse(at).unwrap(), now).split(" (").next().unwrap().to_owned();
        assert_eq!(local("2026-07-02T08:00:00Z"), "2026-07-02 10:00:00 +02:00");
        assert_eq!(local("2026-12-02T08:00:00Z"), "2026-12-02 09:00:00 +01:00");
    }

    #[test]
    fn distances_have_two_units() {
        let now = parse("2026-11-25T11:00:00Z").unwrap();
        for (at, expected) in [
            ("2026-11-25T11:00:00.900Z", "now"),
            ("2026-11-25T11:00:40Z", "in 40 s"),
            ("2026-11-25T11:03:05Z", "in 3 min 5 s"),
            ("2026-11-25T14:05:59Z", "in 3 h 5 min"),
            ("2026-11-25T10:59:59Z", "1 s ago"),
            ("2026-11-23T10:00:00Z", "2 d 1 h ago"),
        ] {
            assert_eq!(distance(parse(at).unwrap(), now), expected, "{at}");
        }
    }
}
