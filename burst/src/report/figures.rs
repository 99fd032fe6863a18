//! The numbers of a run. They describe; they do not judge.

use crate::load::ledger::{Ledger, Rows, Try};
use crate::load::outcome::{Cause, Outcome};
use crate::watch::Sight;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Latencies, in microseconds, from the scheduled moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half were at most this.
    pub p50_us: u64,
    /// 90 % were at most this.
    pub p90_us: u64,
    /// 99 % were at most this.
    pub p99_us: u64,
    /// 99.9 % were at most this.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
    /// For drawing: pairs of percentile (0 to 100) and latency.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    fn of(values_us: impl Iterator<Item = u64>) -> Self {
        // 1 us to an hour at three digits: 60 kB, and no value is lost.
        let Ok(mut histogram) = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3) else {
            return Self::default();
        };
        for value_us in values_us {
            histogram.saturating_record(value_us);
        }
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
            curve: histogram
                .iter_quantiles(5)
                .map(|point| (point.quantile_iterated_to() * 100.0, point.value_iterated_to()))
                .collect(),
        }
    }
}

/// What became of the claims, each counted once, by its last answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ends {
    /// 202.
    pub admitted: usize,
    /// 200: the same again.
    pub already: usize,
    /// Sold out.
    pub sold_out: usize,
    /// Closed or not open.
    pub not_open: usize,
    /// Nothing definite, however often it was asked.
    pub undecided: usize,
    /// Not an answer to a valid claim.
    pub odd: usize,
}

/// Answers within one slice of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Claims that fell due.
    pub due: u32,
    /// 202.
    pub admitted: u32,
    /// 200.
    pub already: u32,
    /// 410 and 403.
    pub denied: u32,
    /// Asked to come again, or no answer.
    pub undecided: u32,
    /// Not an answer to a valid claim.
    pub odd: u32,
}

/// Somebody who got a coupon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Winner {
    /// The slot, by MySQL if it was read.
    pub slot: u32,
    /// Who.
    pub user: String,
    /// The code.
    pub code: String,
    /// Time of admission, in ms since the epoch.
    pub admitted_ms: i64,
    /// From the scheduled moment to the first answer that told him; none if no answer did.
    pub answered_us: Option<u64>,
    /// When the row was written, by the issuer's clock, in ms since the start.
    pub row_ms: Option<i64>,
}

/// All numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// N.
    pub capacity: u32,
    /// Distinct users.
    pub users: u32,
    /// Claims in the schedule: users and repeats.
    pub claims: usize,
    /// Requests sent in all.
    pub requests: usize,
    /// What became of the claims.
    pub ends: Ends,
    /// Users who were told that they are in.
    pub users_in: usize,
    /// Users who asked more than once and were answered each time, all alike.
    pub repeats_alike: usize,
    /// Requests beyond the first of a claim.
    pub asked_again: usize,
    /// Undecided answers by cause.
    pub undecided: Vec<(&'static str, usize)>,
    /// From the scheduled moment to the definite answer, or to the moment of giving up.
    pub latency: Latency,
    /// The same for the claims that were admitted.
    pub latency_admitted: Latency,
    /// How long first requests waited for a free connection.
    pub sent_late: Latency,
    /// Answers a second, from the start to the last answer.
    pub answers_per_s: f64,
    /// The last answer, from the start.
    pub last_answer_us: u64,
    /// When the last of N slots had been told; none if they were not all told.
    pub sold_out_us: Option<u64>,
    /// When the first user was told `sold out`.
    pub first_sold_out_us: Option<u64>,
    /// The scheduled moment of the latest arrival that was admitted.
    pub latest_admitted_due_us: Option<u64>,
    /// The scheduled moment of the earliest arrival that was told `sold out`.
    pub earliest_sold_out_due_us: Option<u64>,
    /// Rows of `coupons`; none if MySQL was not read.
    pub rows: Option<usize>,
    /// Rows of `refusals`.
    pub refusals: usize,
    /// The last row by the issuer's clock, in ms from the start.
    pub last_row_ms: Option<i64>,
    /// How the number of rows grew, as this run saw it.
    pub sights: Vec<Sight>,
    /// When each user who is in first heard so, in ms since the start.
    pub promised_ms: Vec<f64>,
    /// Width of a slice in ms.
    pub slice_ms: u64,
    /// Answers over time.
    pub slices: Vec<Slice>,
    /// Who won, by slot.
    pub winners: Vec<Winner>,
}

/// No chart needs more slices than this.
const SLICES: u64 = 240;
const SLICE_WIDTHS_MS: [u64; 7] = [50, 100, 250, 500, 1_000, 5_000, 30_000];

/// Counts.
#[must_use]
pub fn figures(ledger: &Ledger, rows: Option<&Rows>, capacity: u32, sights: Vec<Sight>) -> Figures {
    let last = ledger.last_tries();
    let due_us = |claim: u32| ledger.arrivals.get(claim as usize).map_or(0, |arrival| arrival.due_us);
    let latency_us = |one: &Try| one.answered_us.saturating_sub(due_us(one.claim));
    let ended = || last.iter().copied().flatten();
    let last_answer_us = ledger.tries.last().map_or(0, |one| one.answered_us);
    let dues = |keep: fn(&Outcome) -> bool| ended().filter(move |one| keep(&one.outcome)).map(|one| due_us(one.claim));

    Figures {
        capacity,
        users: ledger.crowd.users(),
        claims: ledger.arrivals.len(),
        requests: ledger.tries.len(),
        ends: ends(ended()),
        users_in: first_told(ledger).len(),
        repeats_alike: repeats_alike(ledger),
        asked_again: ledger.tries.iter().filter(|one| one.number > 1).count(),
        undecided: Cause::ALL
            .into_iter()
            .map(|cause| (cause.label(), ledger.tries.iter().filter(|one| one.outcome.cause() == Some(cause)).count()))
            .filter(|(_, count)| *count > 0)
            .collect(),
        latency: Latency::of(ended().map(latency_us)),
        latency_admitted: Latency::of(
            ended().filter(|one| matches!(one.outcome, Outcome::Admitted(_))).map(latency_us),
        ),
        sent_late: Latency::of(
            ledger.tries.iter().filter(|t| t.number == 1).map(|t| t.sent_us.saturating_sub(due_us(t.claim))),
        ),
        answers_per_s: if last_answer_us == 0 { 0.0 } else { ledger.tries.len() as f64 * 1e6 / last_answer_us as f64 },
        last_answer_us,
        sold_out_us: sold_out_us(ledger, capacity),
        first_sold_out_us: ledger.tries.iter().find(|t| t.outcome == Outcome::SoldOut).map(|t| t.answered_us),
        latest_admitted_due_us: dues(|outcome| matches!(outcome, Outcome::Admitted(_))).max(),
        earliest_sold_out_due_us: dues(|outcome| *outcome == Outcome::SoldOut).min(),
        rows: rows.map(|rows| rows.coupons.len()),
        refusals: rows.map_or(0, |rows| rows.refusals.len()),
        last_row_ms: rows.and_then(|r| r.coupons.iter().map(|row| row.issued_ms - ledger.started_ms).max()),
        sights,
        promised_ms: first_told(ledger).values().map(|one| one.answered_us as f64 / 1000.0).collect(),
        slice_ms: slice_ms(last_answer_us),
        slices: slices(ledger, last_answer_us),
        winners: winners(ledger, rows),
    }
}

fn ends<'a>(last: impl Iterator<Item = &'a Try>) -> Ends {
    let mut ends = Ends::default();
    for one in last {
        let counter = match one.outcome {
            Outcome::Admitted(_) => &mut ends.admitted,
            Outcome::Already(_) => &mut ends.already,
            Outcome::SoldOut => &mut ends.sold_out,
            Outcome::Closed | Outcome::NotOpen => &mut ends.not_open,
            Outcome::Undecided { .. } => &mut ends.undecided,
            Outcome::Odd { .. } => &mut ends.odd,
        };
        *counter += 1;
    }
    ends
}

/// Users with several claims whose definite answers are all `in`, with one slot and code, or all `no`.
fn repeats_alike(ledger: &Ledger) -> usize {
    let mut answers: HashMap<u32, (HashSet<u32>, Vec<&Outcome>)> = HashMap::new();
    for one in ledger.tries.iter().filter(|one| one.outcome.cause().is_none()) {
        if let Some(user) = ledger.user(one) {
            let entry = answers.entry(user).or_default();
            entry.0.insert(one.claim);
            entry.1.push(&one.outcome);
        }
    }
    let key = |outcome: &Outcome| outcome.told().map(|told| (told.slot, told.code.clone()));
    answers
        .values()
        .filter(|(claims, outcomes)| {
            claims.len() > 1 && outcomes.windows(2).all(|w| w.first().map(|o| key(o)) == w.last().map(|o| key(o)))
        })
        .count()
}

/// When the last of `capacity` different slots was first told.
fn sold_out_us(ledger: &Ledger, capacity: u32) -> Option<u64> {
    let mut slots = HashSet::new();
    ledger.tries.iter().find_map(|one| {
        slots.insert(one.outcome.told()?.slot);
        (slots.len() >= capacity as usize).then_some(one.answered_us)
    })
}

fn slice_ms(last_answer_us: u64) -> u64 {
    let last_ms = last_answer_us / 1000;
    SLICE_WIDTHS_MS.into_iter().find(|width| last_ms / width < SLICES).unwrap_or(last_ms / SLICES + 1)
}

fn slices(ledger: &Ledger, last_answer_us: u64) -> Vec<Slice> {
    let width_us = slice_ms(last_answer_us) * 1000;
    let count = usize::try_from(last_answer_us / width_us).unwrap_or(0) + 1;
    let mut slices = vec![Slice::default(); count];
    let at = |us: u64| usize::try_from(us / width_us).unwrap_or(usize::MAX);
    for arrival in &ledger.arrivals {
        if let Some(slice) = slices.get_mut(at(arrival.due_us)) {
            slice.due += 1;
        }
    }
    for one in &ledger.tries {
        if let Some(slice) = slices.get_mut(at(one.answered_us)) {
            let counter = match one.outcome {
                Outcome::Admitted(_) => &mut slice.admitted,
                Outcome::Already(_) => &mut slice.already,
                Outcome::SoldOut | Outcome::Closed | Outcome::NotOpen => &mut slice.denied,
                Outcome::Undecided { .. } => &mut slice.undecided,
                Outcome::Odd { .. } => &mut slice.odd,
            };
            *counter += 1;
        }
    }
    slices
}

/// By user, the first answer that told him that he is in.
fn first_told(ledger: &Ledger) -> BTreeMap<u32, &Try> {
    let mut told = BTreeMap::new();
    for one in ledger.tries.iter().filter(|one| one.outcome.told().is_some()) {
        if let Some(user) = ledger.user(one) {
            told.entry(user).or_insert(one);
        }
    }
    told
}

fn winners(ledger: &Ledger, rows: Option<&Rows>) -> Vec<Winner> {
    let told = first_told(ledger);
    let answered_us = |one: &Try| {
        let arrival = ledger.arrivals.get(one.claim as usize)?;
        Some(one.answered_us.saturating_sub(arrival.due_us))
    };
    let mut winners: Vec<Winner> = match rows {
        Some(rows) => rows
            .coupons
            .iter()
            .map(|row| Winner {
                slot: row.slot,
                user: row.user.clone(),
                code: row.code.clone(),
                admitted_ms: row.admitted_ms,
                answered_us: ledger
                    .crowd
                    .index(&row.user)
                    .and_then(|user| told.get(&user))
                    .and_then(|t| answered_us(t)),
                row_ms: Some(row.issued_ms - ledger.started_ms),
            })
            .collect(),
        None => told
            .iter()
            .filter_map(|(user, one)| {
                let word = one.outcome.told()?;
                Some(Winner {
                    slot: word.slot,
                    user: ledger.crowd.name(*user),
                    code: word.code.as_deref().unwrap_or_default().to_owned(),
                    admitted_ms: i64::try_from(word.admitted_ms).unwrap_or(i64::MAX),
                    answered_us: answered_us(one),
                    row_ms: None,
                })
            })
            .collect(),
    };
    winners.sort_by_key(|winner| winner.slot);
    winners
}
