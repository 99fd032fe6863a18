//! One target for each thing that a stranger or a server may send. A target panics if its property does not hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod gate;
mod parsers;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// The targets, by the name of their corpus in `fuzz/corpus/`.
pub const TARGETS: [(&str, Target); 9] = [
    ("claim_entry", parsers::claim_entry),
    ("gate", gate::exchange),
    ("ids", parsers::ids),
    ("jwks", parsers::jwks),
    ("jwt", parsers::jwt),
    ("kafka_rest", parsers::kafka_rest),
    ("record", parsers::record),
    ("redis_rest", parsers::redis_rest),
    ("route", parsers::route),
];

#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
