//! When each claim is due, decided before the first one is sent.

use super::random::Random;
use std::time::Duration;

/// Distribution of the arrivals over the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ArrivalPattern {
    /// A Poisson process with a fixed total
    Poisson,
    /// At equal distances
    Even,
}

/// The settings of a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Distinct users.
    pub users: u32,
    /// Additional claims by users who already claimed, as a share of `users`.
    pub repeats: f64,
    /// The window in which every claim is due.
    pub over: Duration,
    pub pattern: ArrivalPattern,
    pub seed: u64,
}

/// One claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Microseconds since the start.
    pub due_us: u64,
    /// Users are numbered from 0 in the order of their first arrival.
    pub user: u32,
    /// Whether this user has an earlier arrival.
    pub repeat: bool,
}

/// A repeat comes with equal probability from one of the latest users (a double tap: the first response
/// is probably still pending) or from any earlier user.
const DOUBLE_TAP_AMONG: u64 = 16;

/// The arrivals in the order of their due times. The same plan gives the same arrivals.
#[must_use]
pub fn plan(plan: &Plan) -> Vec<Arrival> {
    let mut random = Random::new(plan.seed);
    let users = u64::from(plan.users);
    let repeats = (f64::from(plan.users) * plan.repeats).round().max(0.0) as u64;
    let total = users + repeats;
    let window_us = u64::try_from(plan.over.as_micros()).unwrap_or(u64::MAX);

    let mut dues_us: Vec<u64> = match plan.pattern {
        // Given their number, the arrivals of a Poisson process are independent and uniform.
        ArrivalPattern::Poisson => (0..total).map(|_| random.below(window_us.max(1))).collect(),
        ArrivalPattern::Even => (0..total)
            .map(|i| u64::try_from(u128::from(window_us) * u128::from(i) / u128::from(total)).unwrap_or(0))
            .collect(),
    };
    dues_us.sort_unstable();

    let (mut firsts_left, mut repeats_left, mut arrived) = (users, repeats, 0_u64);
    dues_us
        .into_iter()
        .map(|due_us| {
            // Drawn without replacement; the first arrival of all cannot be a repeat.
            let repeat = arrived > 0 && random.below(firsts_left + repeats_left) < repeats_left;
            let user = if repeat {
                repeats_left -= 1;
                if random.below(2) == 0 {
                    arrived - 1 - random.below(arrived.min(DOUBLE_TAP_AMONG))
                } else {
                    random.below(arrived)
                }
            } else {
                firsts_left = firsts_left.saturating_sub(1);
                arrived += 1;
                arrived - 1
            };
            Arrival { due_us, user: u32::try_from(user).unwrap_or(u32::MAX), repeat }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn crowd(seed: u64, pattern: ArrivalPattern) -> Vec<Arrival> {
        plan(&Plan { users: 1000, repeats: 0.2, over: Duration::from_secs(1), pattern, seed })
    }

    #[test]
    fn the_same_seed_is_the_same_crowd() {
        assert_eq!(crowd(7, ArrivalPattern::Poisson), crowd(7, ArrivalPattern::Poisson));
        assert_ne!(crowd(7, ArrivalPattern::Poisson), crowd(8, ArrivalPattern::Poisson));
    }

    #[test]
    fn everyone_comes_once_and_repeats_come_later() {
        for pattern in [ArrivalPattern::Poisson, ArrivalPattern::Even] {
            let arrivals = crowd(1, pattern);
            assert_eq!(arrivals.len(), 1200);
            assert!(arrivals.is_sorted_by_key(|a| a.due_us));
            assert!(arrivals.iter().all(|a| a.due_us < 1_000_000));
            let mut seen = HashSet::new();
            for arrival in &arrivals {
                assert_eq!(arrival.repeat, !seen.insert(arrival.user), "{arrival:?}");
            }
            assert_eq!(seen, (0..1000).collect());
        }
    }

    #[test]
    fn patterns_differ() {
        let gaps = |pattern| {
            let arrivals = crowd(3, pattern);
            let gaps: Vec<u64> = arrivals.windows(2).map(|w| w[1].due_us - w[0].due_us).collect();
            (gaps.iter().min().copied().unwrap(), gaps.iter().max().copied().unwrap())
        };
        let (least, most) = gaps(ArrivalPattern::Even);
        assert!(most - least <= 1, "{least} {most}");
        let (least, most) = gaps(ArrivalPattern::Poisson);
        // The mean gap is 833 us; a Poisson process has some far below and some far above.
        assert!(least < 20 && most > 3000, "{least} {most}");
        // And no drift: half of them come in the first half.
        let early = crowd(3, ArrivalPattern::Poisson).iter().filter(|a| a.due_us < 500_000).count();
        assert!((500..700).contains(&early), "{early}");
    }

    #[test]
    fn some_repeats_are_double_taps() {
        let arrivals = plan(&Plan {
            users: 10_000,
            repeats: 0.2,
            over: Duration::from_secs(1),
            pattern: ArrivalPattern::Poisson,
            seed: 1,
        });
        let mut first = std::collections::HashMap::new();
        let mut soon = 0;
        for arrival in &arrivals {
            let due_us = *first.entry(arrival.user).or_insert(arrival.due_us);
            soon += usize::from(arrival.repeat && arrival.due_us - due_us < 5_000);
        }
        assert!(soon > 500, "{soon} of 2000 repeats within 5 ms of the first claim");
    }

    #[test]
    fn edges() {
        let none =
            Plan { users: 0, repeats: 0.5, over: Duration::from_secs(1), pattern: ArrivalPattern::Even, seed: 1 };
        assert_eq!(plan(&none), []);
        let at_once =
            plan(&Plan { users: 3, repeats: 2.0, over: Duration::ZERO, pattern: ArrivalPattern::Poisson, seed: 1 });
        assert_eq!(at_once.len(), 9);
        assert!(at_once.iter().all(|a| a.due_us == 0));
        assert!(!at_once[0].repeat);
    }
}
