//! The Kafka model against a real broker: one script runs with the issuer's own adapter, one process a member, and with
//! the model. Both logs must be equal. Needs `make setup`.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "kafka_contract/app.rs"]
mod app;
#[path = "kafka_contract/model.rs"]
mod model;
#[path = "kafka_contract/real.rs"]
mod real;
#[path = "kafka_contract/script.rs"]
mod script;

/// Not a test: the process of a real member is this test binary again.
#[test]
fn member_process() {
    real::member_process();
}

#[test]
fn the_model_does_what_a_real_kafka_does() {
    let expected = real::run();
    let got = model::run();
    for (scenario, lines) in &expected {
        println!("{scenario}\n  {}", lines.join("\n  "));
    }
    assert_eq!(expected.len(), script::SCENARIOS);
    for (real, model) in expected.iter().zip(&got) {
        assert_eq!(real, model, "left is the real Kafka, right is the model");
    }
}
