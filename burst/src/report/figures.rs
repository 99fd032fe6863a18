//! The numbers of a run. They describe; they do not judge.

use super::latency::Latency;
use crate::load::ledger::{Attempt, Ledger};
use crate::load::outcome::{ClaimOutcome, UndecidedReason};
use crate::rows::{Rows, Sample};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Each claim counted once, by its last response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClaimCounts {
    pub admitted: usize,
    pub already: usize,
    pub sold_out: usize,
    /// Closed or not open.
    pub not_open: usize,
    /// Still undecided after the last attempt.
    pub undecided: usize,
    #[serde(rename = "odd")]
    pub invalid: usize,
}

/// Responses within one interval of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TimeSlice {
    /// Claims that became due.
    pub due: u32,
    pub admitted: u32,
    pub already: u32,
    /// Sold out, closed or not open.
    pub denied: u32,
    pub undecided: u32,
    #[serde(rename = "odd")]
    pub invalid: u32,
}

/// A user who got a coupon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Winner {
    /// By MySQL if it was read, otherwise as promised.
    pub slot: u32,
    pub user: String,
    pub code: String,
    /// Time of admission, in ms since the epoch.
    pub admitted_ms: i64,
    /// From the due time of the claim to the first promise; none if no response contained one.
    pub answered_us: Option<u64>,
    /// When the row was written, by the issuer's clock, in ms since the start.
    pub row_ms: Option<i64>,
}

/// All numbers. Times count from the start unless their name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub capacity: u32,
    /// Distinct users.
    pub users: u32,
    /// Claims in the schedule, repeats included.
    pub claims: usize,
    pub requests: usize,
    pub ends: ClaimCounts,
    /// Users who were promised a slot.
    pub users_in: usize,
    /// Users with several claims and equal responses to all of them.
    pub repeats_alike: usize,
    /// Requests beyond the first of each claim.
    pub asked_again: usize,
    /// Undecided responses by reason.
    pub undecided: Vec<(&'static str, usize)>,
    /// From the due time of a claim to its definite response, or to the moment of giving up.
    pub latency: Latency,
    /// The same for the claims that were admitted.
    pub latency_admitted: Latency,
    /// How long first attempts waited for a free connection.
    pub sent_late: Latency,
    /// Responses a second, from the start to the last response.
    pub answers_per_s: f64,
    pub last_answer_us: u64,
    /// When the last of N slots was promised; none if not all were.
    pub sold_out_us: Option<u64>,
    /// When the first user got `sold out`.
    pub first_sold_out_us: Option<u64>,
    /// Due time of the last arrival that was admitted.
    pub latest_admitted_due_us: Option<u64>,
    /// Due time of the first arrival that got `sold out`.
    pub earliest_sold_out_due_us: Option<u64>,
    /// Rows of `coupons`; none if MySQL was not read.
    pub rows: Option<usize>,
    /// Rows of `refusals`.
    pub refusals: usize,
    /// The last row by the issuer's clock.
    pub last_row_ms: Option<i64>,
    /// How the number of rows grew, as this run observed it.
    #[serde(rename = "sights")]
    pub samples: Vec<Sample>,
    /// When each admitted user got their first promise.
    pub promised_ms: Vec<f64>,
    /// Width of a slice.
    pub slice_ms: u64,
    pub slices: Vec<TimeSlice>,
    /// By slot.
    pub winners: Vec<Winner>,
}

/// More slices than this are finer than the chart.
const SLICES: u64 = 240;
const SLICE_WIDTHS_MS: [u64; 7] = [50, 100, 250, 500, 1_000, 5_000, 30_000];

#[must_use]
pub fn figures(ledger: &Ledger, rows: Option<&Rows>, capacity: u32, samples: Vec<Sample>) -> Figures {
    let attempts = &ledger.attempts;
    let last = ledger.last_attempts();
    let last = || last.iter().copied().flatten();
    let due_us = |claim: u32| ledger.arrivals.get(claim as usize).map_or(0, |arrival| arrival.due_us);
    let latency_us = |attempt: &Attempt| attempt.answered_us.saturating_sub(due_us(attempt.claim));
    let is_admitted = |outcome: &ClaimOutcome| matches!(outcome, ClaimOutcome::Admitted(_));
    let last_answer_us = attempts.last().map_or(0, |attempt| attempt.answered_us);
    let dues_us = |keep: fn(&ClaimOutcome) -> bool| last().filter(move |a| keep(&a.outcome)).map(|a| due_us(a.claim));
    let promises = first_promises(ledger);

    Figures {
        capacity,
        users: ledger.crowd.users(),
        claims: ledger.arrivals.len(),
        requests: attempts.len(),
        ends: claim_counts(last()),
        users_in: promises.len(),
        repeats_alike: repeats_alike(ledger),
        asked_again: attempts.iter().filter(|attempt| attempt.number > 1).count(),
        undecided: UndecidedReason::ALL
            .into_iter()
            .map(|reason| {
                let with_reason = attempts.iter().filter(|a| a.outcome.undecided_reason() == Some(reason));
                (reason.label(), with_reason.count())
            })
            .filter(|(_, count)| *count > 0)
            .collect(),
        latency: Latency::of(last().map(latency_us)),
        latency_admitted: Latency::of(last().filter(|attempt| is_admitted(&attempt.outcome)).map(latency_us)),
        sent_late: Latency::of(
            attempts.iter().filter(|a| a.number == 1).map(|a| a.sent_us.saturating_sub(due_us(a.claim))),
        ),
        answers_per_s: if last_answer_us == 0 { 0.0 } else { attempts.len() as f64 * 1e6 / last_answer_us as f64 },
        last_answer_us,
        sold_out_us: sold_out_us(ledger, capacity),
        first_sold_out_us: attempts.iter().find(|a| a.outcome == ClaimOutcome::SoldOut).map(|a| a.answered_us),
        latest_admitted_due_us: dues_us(is_admitted).max(),
        earliest_sold_out_due_us: dues_us(|outcome| *outcome == ClaimOutcome::SoldOut).min(),
        rows: rows.map(|rows| rows.coupons.len()),
        refusals: rows.map_or(0, |rows| rows.refusals.len()),
        last_row_ms: rows.and_then(|r| r.coupons.iter().map(|row| row.issued_ms - ledger.started_ms).max()),
        samples,
        promised_ms: promises.values().map(|attempt| attempt.answered_us as f64 / 1000.0).collect(),
        slice_ms: slice_ms(last_answer_us),
        slices: slices(ledger, last_answer_us),
        winners: winners(ledger, rows, &promises),
    }
}

fn claim_counts<'a>(last: impl Iterator<Item = &'a Attempt>) -> ClaimCounts {
    let mut counts = ClaimCounts::default();
    for attempt in last {
        let counter = match attempt.outcome {
            ClaimOutcome::Admitted(_) => &mut counts.admitted,
            ClaimOutcome::Already(_) => &mut counts.already,
            ClaimOutcome::SoldOut => &mut counts.sold_out,
            ClaimOutcome::Closed | ClaimOutcome::NotOpen => &mut counts.not_open,
            ClaimOutcome::Undecided { .. } => &mut counts.undecided,
            ClaimOutcome::Invalid { .. } => &mut counts.invalid,
        };
        *counter += 1;
    }
    counts
}

/// Users with several claims whose definite responses all promise the same slot and code, or all deny.
fn repeats_alike(ledger: &Ledger) -> usize {
    let mut responses: HashMap<u32, (HashSet<u32>, Vec<&ClaimOutcome>)> = HashMap::new();
    for attempt in ledger.attempts.iter().filter(|attempt| attempt.outcome.undecided_reason().is_none()) {
        if let Some(user) = ledger.user(attempt) {
            let (claims, outcomes) = responses.entry(user).or_default();
            claims.insert(attempt.claim);
            outcomes.push(&attempt.outcome);
        }
    }
    let key = |outcome: &ClaimOutcome| outcome.promise().map(|promise| (promise.slot, promise.code.clone()));
    let alike =
        |outcomes: &[&ClaimOutcome]| outcomes.windows(2).all(|w| w.first().map(|o| key(o)) == w.last().map(|o| key(o)));
    responses.values().filter(|(claims, outcomes)| claims.len() > 1 && alike(outcomes)).count()
}

/// When the last of `capacity` different slots was first promised.
fn sold_out_us(ledger: &Ledger, capacity: u32) -> Option<u64> {
    let mut slots = HashSet::new();
    ledger.attempts.iter().find_map(|attempt| {
        slots.insert(attempt.outcome.promise()?.slot);
        (slots.len() >= capacity as usize).then_some(attempt.answered_us)
    })
}

fn slice_ms(last_answer_us: u64) -> u64 {
    let last_ms = last_answer_us / 1000;
    SLICE_WIDTHS_MS.into_iter().find(|width| last_ms / width < SLICES).unwrap_or(last_ms / SLICES + 1)
}

fn slices(ledger: &Ledger, last_answer_us: u64) -> Vec<TimeSlice> {
    let width_us = slice_ms(last_answer_us) * 1000;
    let count = usize::try_from(last_answer_us / width_us).unwrap_or(0) + 1;
    let mut slices = vec![TimeSlice::default(); count];
    let at = |us: u64| usize::try_from(us / width_us).unwrap_or(usize::MAX);
    for arrival in &ledger.arrivals {
        if let Some(slice) = slices.get_mut(at(arrival.due_us)) {
            slice.due += 1;
        }
    }
    for attempt in &ledger.attempts {
        if let Some(slice) = slices.get_mut(at(attempt.answered_us)) {
            let counter = match attempt.outcome {
                ClaimOutcome::Admitted(_) => &mut slice.admitted,
                ClaimOutcome::Already(_) => &mut slice.already,
                ClaimOutcome::SoldOut | ClaimOutcome::Closed | ClaimOutcome::NotOpen => &mut slice.denied,
                ClaimOutcome::Undecided { .. } => &mut slice.undecided,
                ClaimOutcome::Invalid { .. } => &mut slice.invalid,
            };
            *counter += 1;
        }
    }
    slices
}

/// By user, the first attempt whose response promised a slot.
fn first_promises(ledger: &Ledger) -> BTreeMap<u32, &Attempt> {
    let mut first = BTreeMap::new();
    for attempt in ledger.attempts.iter().filter(|attempt| attempt.outcome.promise().is_some()) {
        if let Some(user) = ledger.user(attempt) {
            first.entry(user).or_insert(attempt);
        }
    }
    first
}

fn winners(ledger: &Ledger, rows: Option<&Rows>, promises: &BTreeMap<u32, &Attempt>) -> Vec<Winner> {
    let answered_us = |attempt: &Attempt| {
        let arrival = ledger.arrivals.get(attempt.claim as usize)?;
        Some(attempt.answered_us.saturating_sub(arrival.due_us))
    };
    let mut winners: Vec<Winner> = match rows {
        Some(rows) => rows
            .coupons
            .iter()
            .map(|row| {
                let promise = ledger.crowd.index(&row.user).and_then(|user| promises.get(&user));
                Winner {
                    slot: row.slot,
                    user: row.user.clone(),
                    code: row.code.clone(),
                    admitted_ms: row.admitted_ms,
                    answered_us: promise.and_then(|attempt| answered_us(attempt)),
                    row_ms: Some(row.issued_ms - ledger.started_ms),
                }
            })
            .collect(),
        None => promises
            .iter()
            .filter_map(|(user, attempt)| {
                let promise = attempt.outcome.promise()?;
                Some(Winner {
                    slot: promise.slot,
                    user: ledger.crowd.name(*user),
                    code: promise.code.as_deref().unwrap_or_default().to_owned(),
                    admitted_ms: i64::try_from(promise.admitted_ms).unwrap_or(i64::MAX),
                    answered_us: answered_us(attempt),
                    row_ms: None,
                })
            })
            .collect(),
    };
    winners.sort_by_key(|winner| winner.slot);
    winners
}
