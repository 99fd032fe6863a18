//! The promises as code. Each check names the invariant that it stands for.
//!
//! Two liberties are taken, both documented in `docs/correctness.md`: a claim that Redis has lost before
//! its record reached Kafka is owed no longer (nobody knows of it), and where Redis has lost
//! acknowledged writes a user may be refused after an admission: only if somebody else has their slot, and no free slot
//! went to anybody who was admitted later.

use crate::history::{Admitted, Answer, Answered, CampaignFacts};
use crate::violation::{Kind, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// How long an isolate may answer "sold out" from its memory: 0.8 s, and an answer of Redis that was on its way.
const REMEMBERED_MS: u64 = 2_000;

/// Collects violations.
#[derive(Debug, Default)]
pub struct Oracle {
    pub violations: Vec<Violation>,
}

impl Oracle {
    pub fn found(&mut self, kind: Kind, detail: impl Into<String>) {
        let violation = Violation { kind, detail: detail.into() };
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    /// What must hold at every moment: I1, I2, I4, I11.
    pub fn always(&mut self, campaign: usize, facts: &CampaignFacts) {
        let capacity = facts.capacity as usize;
        if facts.coupons.len() > capacity {
            self.found(Kind::OverCapacity, format!("c{campaign}: {} coupons of {capacity}", facts.coupons.len()));
        }
        for early in facts.admissions.iter().filter(|admitted| admitted.entry.admitted_ms < facts.opens_ms) {
            let text = format!("c{campaign}: {} was admitted before the opening", early.user);
            self.found(Kind::OpenedEarly, text);
        }
        let mut users = BTreeSet::new();
        let mut slots = BTreeSet::new();
        let admitted: BTreeSet<&str> = facts.admissions.iter().map(|admitted| admitted.user.as_str()).collect();
        for (user, slot, _) in &facts.coupons {
            if *slot < 1 || *slot > facts.capacity {
                self.found(Kind::OverCapacity, format!("c{campaign}: {user} has slot {slot} of {capacity}"));
            }
            if !users.insert(user) {
                self.found(Kind::Doubled, format!("c{campaign}: {user} has two coupons"));
            }
            if !slots.insert(slot) {
                self.found(Kind::Doubled, format!("c{campaign}: slot {slot} is taken twice"));
            }
            if !admitted.contains(user.as_str()) {
                self.found(Kind::Spurious, format!("c{campaign}: {user} has a coupon and was never admitted"));
            }
        }
    }

    /// What must hold when all is quiet: I3, I10 and who is refused.
    pub fn quiet(&mut self, campaign: usize, facts: &CampaignFacts, answers: &[Answered]) {
        let told = told_admitted(campaign, answers);
        let mut seen = BTreeSet::new();
        for admitted in &facts.admissions {
            let user = admitted.user.as_str();
            if !seen.insert(user) {
                continue;
            }
            let settled = facts.row_of(user).is_some() || facts.is_refused(user) || facts.dead_letters.contains(user);
            // Nobody knows of a claim that Redis lost before its record reached Kafka, or whose row MySQL lost too.
            let forgotten =
                facts.lost.contains_key(user) && (!facts.in_kafka.contains(user) || facts.rows_lost.contains(user));
            if !settled && !forgotten {
                self.found(Kind::Owed, format!("c{campaign}: {user} was admitted and has neither coupon nor refusal"));
            }
        }
        for (user, refused_admitted_ms) in &facts.refusals {
            if facts.row_of(user).is_some() {
                self.found(Kind::CouponAndRefusal, format!("c{campaign}: {user} has a coupon and a refusal"));
                continue;
            }
            let own = facts.admissions.iter().find(|admitted| admitted.user == *user);
            // Admitted under a capacity that MySQL has lost.
            let is_beyond = own.is_some_and(|own| facts.raise_lost && own.entry.slot.get() > facts.capacity);
            if is_beyond {
                continue;
            }
            if told.contains(user.as_str()) && !facts.redis_lost_data() {
                self.found(
                    Kind::RefusedAfterAdmission,
                    format!("c{campaign}: {user} was told \"admitted\" and is refused, although Redis lost nothing"),
                );
            }
            // Who has the slot that Redis proposed to them takes nothing from anybody. Only free slots are given away.
            let later = facts.coupons.iter().find(|(holder, slot, at)| {
                let is_own = |admitted: &Admitted| admitted.user == *holder && admitted.entry.slot.get() == *slot;
                let is_of_raise = *slot > facts.first_capacity;
                at > refused_admitted_ms && !is_of_raise && !facts.admissions.iter().any(is_own)
            });
            if let Some((later, slot, at)) = later {
                self.found(
                    Kind::NotFirstCome,
                    format!(
                        "c{campaign}: {user}, admitted at {refused_admitted_ms}, is refused, and {later}, admitted at \
                         {at}, got the free slot {slot}"
                    ),
                );
            }
            // Whose claim was never lost, and whose slot was proposed to nobody else, keeps that slot. But a claim that
            // was admitted before may have got it as a free one, before Redis proposed it.
            if let Some(own) = own
                && !facts.coupons.iter().any(|(_, slot, at)| *slot == own.entry.slot.get() && at < refused_admitted_ms)
                && !facts.lost.contains_key(user)
                && !facts.admissions.iter().any(|other| other.user != *user && other.entry.slot == own.entry.slot)
            {
                let text = format!("c{campaign}: {user} is refused, although nobody else was admitted to their slot");
                self.found(Kind::NotFirstCome, text);
            }
        }
        if facts.outbox > 0 {
            self.found(Kind::Owed, format!("c{campaign}: {} entries stay in the outbox", facts.outbox));
        }
        if let Some((count, claims)) = &facts.redis {
            if *count != facts.coupons.len() as u64 {
                self.found(
                    Kind::CountOff,
                    format!("c{campaign}: Redis counts {count} slots, MySQL has {} coupons", facts.coupons.len()),
                );
            }
            for (user, slot, _) in &facts.coupons {
                let wanted = format!("{slot}:");
                let entry = claims.get(user).map(String::as_str).unwrap_or_default();
                if !(entry.starts_with(&wanted) && entry.ends_with(":i")) {
                    self.found(
                        Kind::CountOff,
                        format!("c{campaign}: {user} has slot {slot} in MySQL, and Redis says {entry:?}"),
                    );
                }
            }
        }
    }

    /// I5, I8 and I12: the answers that one user got, in the order of time.
    pub fn answers(&mut self, facts: &[CampaignFacts], answers: &[Answered]) {
        let mut holds: BTreeMap<(usize, &str), (&Answered, u32)> = BTreeMap::new();
        for answered in answers {
            let Answered { campaign, user, answer, .. } = answered;
            let Some(facts) = facts.get(*campaign) else { continue };
            let lost_at = facts.lost.get(user);
            let key = (*campaign, user.as_str());
            match answer {
                Answer::Holds { slot, code, .. } => {
                    if let Some((code, row)) = code.as_ref().zip(facts.codes.get(user))
                        && code != row
                    {
                        let text = format!("c{campaign}: {user} was shown {code}, and their row has {row}");
                        self.found(Kind::OtherCode, text);
                    }
                    holds.insert(key, (answered, *slot));
                }
                Answer::Unexpected(text) => {
                    self.found(Kind::Contradiction, format!("c{campaign}: {user} was answered {text}"));
                }
                // Every campaign of a plan is published before the first visitor comes.
                Answer::UnknownCampaign => {
                    let text = format!("c{campaign}: {user} was told \"no such campaign\" at {} ms", answered.at_ms);
                    self.found(Kind::RefusedHolder, text);
                }
                denial if denial.denies() => {
                    // A claim that Redis lost is no claim until its record heals it.
                    let before_loss = lost_at.is_none_or(|lost_ms| answered.at_ms <= *lost_ms);
                    // Every isolate may remember "sold out" for a moment.
                    let is_remembered =
                        |lost_ms: &u64| (*lost_ms..lost_ms + REMEMBERED_MS).contains(&answered.asked_ms);
                    if *denial == Answer::SoldOut && facts.lost.values().any(is_remembered) {
                        continue;
                    }
                    if let Some((earlier, slot)) = holds.get(&key)
                        && earlier.at_ms <= answered.asked_ms
                        && before_loss
                    {
                        self.found(
                            Kind::Contradiction,
                            format!(
                                "c{campaign}: {user} was told slot {slot} at {} ms and {denial:?} at {} ms",
                                earlier.at_ms, answered.at_ms
                            ),
                        );
                    }
                    let held = facts
                        .admissions
                        .iter()
                        .any(|admitted| admitted.user == *user && admitted.at_ms < answered.asked_ms);
                    if held && before_loss {
                        self.found(
                            Kind::RefusedHolder,
                            format!(
                                "c{campaign}: {user} holds a claim and was told {denial:?} at {} ms",
                                answered.at_ms
                            ),
                        );
                    }
                }
                _ => {}
            }
        }
    }
}

fn told_admitted(campaign: usize, answers: &[Answered]) -> BTreeSet<&str> {
    let holds = |answer: &Answer| matches!(answer, Answer::Holds { status, .. } if status != "refused");
    answers
        .iter()
        .filter(|answered| answered.campaign == campaign && holds(&answered.answer))
        .map(|answered| answered.user.as_str())
        .collect()
}
