//! What `verify` found, and the verdict on it. No I/O.

use crate::operator::masked;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Examples kept of each finding.
const EXAMPLES: usize = 5;

/// What can be found. In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// More rows than were ever granted, or a slot beyond.
    BeyondCapacity,
    /// A user with two coupons.
    UserTwice,
    /// A user with a coupon and a refusal.
    CouponAndRefusal,
    /// A code that is not the one of its campaign and user.
    WrongCode,
    /// The gate promises more than MySQL has granted.
    GatePromisesMore,
    /// Redis calls a claim settled, and there is no row.
    ToldWithoutRow,
    /// Admitted; no row, no obligation, nothing on its way.
    Stranded,
    /// An obligation whose claim is gone.
    OutboxWithoutClaim,
    /// A claim entry that cannot be read.
    Unreadable,
    /// A row that Redis does not know of.
    RowWithoutClaim,
    /// Redis tells another slot or another outcome than MySQL.
    ToldOtherwise,
    /// The gate has counted more slots than there are claims.
    CountOff,
    /// There are claims that the gate has not counted: Redis was rebuilt while they were on their way.
    Uncounted,
    /// State, capacity or window at the gate are not those of MySQL.
    GateDiffers,
    /// The row exists, and Redis calls the claim admitted.
    Unconfirmed,
    /// Admitted, no row yet, in the outbox.
    Owed,
    /// The record is in the dead-letter topic.
    DeadLettered,
    /// The slot that MySQL settled on is not the one that Redis had proposed.
    SlotResolved,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Good to know.
    Note,
    /// Not at its end.
    UnderWay,
    /// Whether it is broken cannot be told.
    Unknown,
    /// A promise is broken.
    Violated,
}

/// The whole in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Every promise is kept, nothing is open.
    #[serde(rename = "holds")]
    Holds,
    /// Nothing is broken, something is open.
    #[serde(rename = "under way")]
    UnderWay,
    /// A promise is broken.
    #[serde(rename = "violated")]
    Violated,
    /// A source did not answer.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Verdict {
    /// The process's exit status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Violated => 1,
            Self::Unknown => 3,
            Self::UnderWay => 4,
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::UnderWay => "under way",
            Self::Violated => "violated",
            Self::Unknown => "unknown",
        }
    }
}

/// What mends a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Publish the campaign as a whole.
    Publish,
    /// Tell Redis what MySQL has.
    Confirm,
    /// Put the obligation back into the outbox.
    Restore,
}

impl Kind {
    /// The invariant, the finding in words, and what helps.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::BeyondCapacity => {
                ("I1", "coupons beyond the capacity", "the constraints of the schema are gone: issuer check-config")
            }
            Self::UserTwice => {
                ("I2", "users with two coupons", "the constraints of the schema are gone: issuer check-config")
            }
            Self::CouponAndRefusal => {
                ("I3", "users with a coupon and a refusal", "their coupon counts; delete the refusal by hand")
            }
            Self::WrongCode => (
                "I5",
                "codes that are not those of their users",
                "is COUPON_CODE_SECRET the one of the gate and the issuer?",
            ),
            Self::GatePromisesMore => ("I1", "the gate admits more than MySQL has granted", "issuer reconcile --apply"),
            Self::ToldWithoutRow => (
                "I3",
                "claims that Redis calls settled, without a row",
                "is DATABASE_URL the right database, and was it restored from a backup?",
            ),
            Self::Stranded => {
                ("I3", "admitted claims without a row that nobody will send again", "issuer reconcile --apply")
            }
            Self::OutboxWithoutClaim => (
                "I3",
                "obligations whose claim is gone from Redis",
                "Redis has lost data; their slots are not known any more, the users may claim again",
            ),
            Self::Unreadable => ("I3", "claims in Redis that cannot be read", "somebody else writes these keys"),
            Self::RowWithoutClaim => {
                ("I4", "rows whose claim is gone from Redis", "Redis has lost data: issuer reconcile --apply")
            }
            Self::ToldOtherwise => ("I5", "claims that Redis tells otherwise than MySQL", "issuer reconcile --apply"),
            Self::CountOff => ("I10", "slots that the gate counts and nobody holds", "issuer reconcile --apply"),
            Self::Uncounted => (
                "I10",
                "claims that the gate has not counted, so that it may admit too many; MySQL will refuse them",
                "issuer reconcile --apply",
            ),
            Self::GateDiffers => ("", "settings at the gate that are not those of MySQL", "issuer reconcile --apply"),
            Self::Unconfirmed => (
                "I3",
                "coupons that Redis does not know to be issued",
                "the sweeper tells it, or at once: issuer reconcile --apply",
            ),
            Self::Owed => (
                "I3",
                "admitted claims whose row is still to come",
                "wait; if it lasts: is the issuer running, and the gate's cron?",
            ),
            Self::DeadLettered => (
                "I3",
                "admitted claims in the dead-letter topic",
                "issuer dlq list --remaining, mend the cause, issuer dlq replay",
            ),
            Self::SlotResolved => {
                ("", "coupons under another slot than Redis had proposed", "nothing to do: the users hold them")
            }
        }
    }

    /// What mends it, where a command can.
    #[must_use]
    pub fn repair(self) -> Option<Repair> {
        match self {
            Self::RowWithoutClaim | Self::CountOff | Self::Uncounted | Self::GateDiffers | Self::GatePromisesMore => {
                Some(Repair::Publish)
            }
            Self::ToldOtherwise | Self::Unconfirmed => Some(Repair::Confirm),
            Self::Stranded => Some(Repair::Restore),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Finding {
    count: u64,
    examples: Vec<String>,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The campaign.
    pub campaign: String,
    /// Its state in MySQL.
    pub state: String,
    /// Its newest allotment.
    pub capacity: u32,
    /// Coupon rows.
    pub coupons: u64,
    /// Refusal rows.
    pub refusals: u64,
    /// Claims in Redis, where it answered.
    pub claims: Option<u64>,
    /// Obligations, where Redis answered.
    pub waiting: Option<u64>,
    /// Records of all campaigns that wait for the issuer, where Kafka answered.
    pub lag: Option<u64>,
    /// Whether codes were computed again.
    pub codes_checked: bool,
    /// Whether the gate knows the campaign; `None` where Redis did not answer.
    pub published: Option<bool>,
    /// Why something is not known.
    pub unknown: Vec<String>,
    findings: BTreeMap<Kind, Finding>,
}

#[derive(Serialize)]
struct Told<'a> {
    campaign: &'a str,
    verdict: Verdict,
    state: &'a str,
    capacity: u32,
    coupons: u64,
    refusals: u64,
    claims: Option<u64>,
    outbox: Option<u64>,
    lag: Option<u64>,
    codes_checked: bool,
    unknown: &'a [String],
    findings: Vec<ToldFinding<'a>>,
}

#[derive(Serialize)]
struct ToldFinding<'a> {
    finding: Kind,
    weight: Weight,
    invariant: Option<&'a str>,
    text: &'a str,
    count: u64,
    examples: Vec<String>,
    remedy: &'a str,
}

impl Report {
    /// A report of nothing yet.
    #[must_use]
    pub fn new(campaign: String, codes_checked: bool) -> Self {
        Self { campaign, codes_checked, ..Self::default() }
    }

    /// Notes a finding of one user or slot.
    pub fn found(&mut self, kind: Kind, example: &str) {
        let finding = self.findings.entry(kind).or_default();
        finding.count += 1;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example.to_owned());
        }
    }

    /// Notes a finding without examples.
    pub fn counted(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            self.findings.entry(kind).or_default().count += count;
        }
    }

    /// How often `kind` was found.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.findings.get(&kind).map_or(0, |finding| finding.count)
    }

    fn weight(&self, kind: Kind) -> Weight {
        match kind {
            Kind::SlotResolved => Weight::Note,
            Kind::GateDiffers | Kind::Uncounted | Kind::Unconfirmed | Kind::Owed | Kind::DeadLettered => {
                Weight::UnderWay
            }
            // A record that waits in Kafka may be the missing one; and while rows are written, their confirmation
            // is on its way to a Redis that may have been rebuilt.
            Kind::Stranded | Kind::RowWithoutClaim => match self.lag {
                Some(0) => Weight::Violated,
                Some(_) => Weight::UnderWay,
                None => Weight::Unknown,
            },
            _ => Weight::Violated,
        }
    }

    /// The verdict. While a source does not answer, nothing is called violated but what MySQL alone proves.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let worst = self.findings.keys().map(|kind| self.weight(*kind)).max().unwrap_or(Weight::Note);
        match worst {
            _ if self.count(Kind::BeyondCapacity) + self.count(Kind::UserTwice) > 0 => Verdict::Violated,
            _ if !self.unknown.is_empty() => Verdict::Unknown,
            Weight::Unknown => Verdict::Unknown,
            Weight::Violated => Verdict::Violated,
            Weight::UnderWay => Verdict::UnderWay,
            Weight::Note if self.waiting.is_some_and(|waiting| waiting > 0) => Verdict::UnderWay,
            Weight::Note => Verdict::Holds,
        }
    }

    /// Whether `repair` is called for.
    #[must_use]
    pub fn needs(&self, repair: Repair) -> bool {
        (repair == Repair::Publish && self.published == Some(false))
            || self.findings.keys().any(|kind| kind.repair() == Some(repair))
    }

    /// Whether there is anything that `reconcile` can mend.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        [Repair::Publish, Repair::Confirm, Repair::Restore].into_iter().any(|repair| self.needs(repair))
    }

    /// What `reconcile` would do.
    #[must_use]
    pub fn plan(&self) -> String {
        let mut plan = Vec::new();
        if self.needs(Repair::Publish) {
            plan.push("publish the campaign: Redis gets its settings and every holder from MySQL".to_owned());
        }
        if self.needs(Repair::Confirm) {
            let count = self.count(Kind::Unconfirmed) + self.count(Kind::ToldOtherwise);
            plan.push(format!("confirm {count} claims to Redis as MySQL has them, and end their obligations"));
        }
        if self.needs(Repair::Restore) {
            let count = self.count(Kind::Stranded);
            plan.push(format!("put {count} obligations back into the outbox, for the sweeper to send again"));
        }
        match plan.is_empty() {
            true => "plan: nothing that a repair could mend".to_owned(),
            false => format!("plan:\n  {}", plan.join("\n  ")),
        }
    }

    /// For a terminal.
    #[must_use]
    pub fn human(&self, show_users: bool) -> String {
        let known = |figure: Option<u64>| figure.map_or_else(|| "unknown".to_owned(), |figure| figure.to_string());
        let mut text = format!(
            "campaign   {} ({})\nMySQL      {} coupons of {}, {} refusals\nRedis      {} claims, {} in the outbox\nKafka      {} records wait for the issuer\ncodes      {}\n\n",
            self.campaign,
            self.state,
            self.coupons,
            self.capacity,
            self.refusals,
            known(self.claims),
            known(self.waiting),
            known(self.lag),
            if self.codes_checked { "computed again" } else { "not checked (COUPON_CODE_SECRET is not set)" },
        );
        for (kind, finding) in &self.findings {
            let (invariant, words, remedy) = kind.words();
            let weight = match self.weight(*kind) {
                Weight::Note => "note",
                Weight::UnderWay => "under way",
                Weight::Unknown => "unknown",
                Weight::Violated => "VIOLATED",
            };
            let _ = writeln!(text, "{weight:9}  {invariant:3} {} {words}", finding.count);
            let examples = examples(finding, show_users);
            if !examples.is_empty() {
                let _ = writeln!(text, "               such as {}", examples.join(", "));
            }
            let _ = writeln!(text, "               {remedy}");
        }
        for why in &self.unknown {
            let _ = writeln!(text, "unknown        {why}");
        }
        let _ = write!(text, "VERDICT: {}", self.verdict().as_str());
        text
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self, show_users: bool) -> String {
        let findings = self.findings.iter().map(|(kind, finding)| {
            let (invariant, text, remedy) = kind.words();
            ToldFinding {
                finding: *kind,
                weight: self.weight(*kind),
                invariant: Some(invariant).filter(|invariant| !invariant.is_empty()),
                text,
                count: finding.count,
                examples: examples(finding, show_users),
                remedy,
            }
        });
        let told = Told {
            campaign: &self.campaign,
            verdict: self.verdict(),
            state: &self.state,
            capacity: self.capacity,
            coupons: self.coupons,
            refusals: self.refusals,
            claims: self.claims,
            outbox: self.waiting,
            lag: self.lag,
            codes_checked: self.codes_checked,
            unknown: &self.unknown,
            findings: findings.collect(),
        };
        serde_json::to_string_pretty(&told).unwrap_or_default()
    }
}

fn examples(finding: &Finding, show_users: bool) -> Vec<String> {
    finding.examples.iter().map(|user| if show_users { user.clone() } else { masked(user) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lag: Option<u64>) -> Report {
        Report { campaign: "c".to_owned(), published: Some(true), waiting: Some(0), lag, ..Report::default() }
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_finding() {
        let mut it = report(Some(0));
        assert_eq!(it.verdict(), Verdict::Holds);
        it.found(Kind::SlotResolved, "u");
        assert_eq!(it.verdict(), Verdict::Holds);
        it.found(Kind::Owed, "u");
        assert_eq!(it.verdict(), Verdict::UnderWay);
        it.found(Kind::ToldWithoutRow, "u");
        assert_eq!(it.verdict(), Verdict::Violated);
        it.unknown.push("Kafka is away".to_owned());
        assert_eq!(it.verdict(), Verdict::Unknown, "not violated while a source is away");
        it.counted(Kind::BeyondCapacity, 1);
        assert_eq!(it.verdict(), Verdict::Violated, "MySQL alone proves it");
    }

    #[test]
    fn a_claim_that_nobody_will_send_is_judged_by_what_kafka_holds() {
        for (lag, verdict) in [(Some(0), Verdict::Violated), (Some(3), Verdict::UnderWay), (None, Verdict::Unknown)] {
            let mut it = report(lag);
            it.found(Kind::Stranded, "u");
            assert_eq!(it.verdict(), verdict, "{lag:?}");
            assert!(it.needs(Repair::Restore) && !it.needs(Repair::Publish));
        }
    }

    #[test]
    fn users_are_masked_unless_they_are_asked_for() {
        let mut it = report(Some(0));
        it.found(Kind::Owed, "alice@example.org");
        assert!(!it.human(false).contains("alice") && !it.json(false).contains("alice"));
        assert!(it.human(true).contains("alice@example.org") && it.json(true).contains("alice@example.org"));
    }

    #[test]
    fn statuses_are_those_of_the_help() {
        for (verdict, status) in
            [(Verdict::Holds, 0), (Verdict::Violated, 1), (Verdict::Unknown, 3), (Verdict::UnderWay, 4)]
        {
            assert_eq!(verdict.status(), status);
            assert!(crate::cli::args::VERDICTS.contains(&format!("{status}  {}", verdict.as_str())));
        }
    }
}
