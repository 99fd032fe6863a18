//! One program for all targets: `FUZZ_TARGET` names it. The arguments are libFuzzer's.
#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<dropgate_fuzz::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let Some(target) = dropgate_fuzz::target(&name) else {
            eprintln!("FUZZ_TARGET {name:?} is no target; expected one of {:?}", dropgate_fuzz::TARGETS.map(|it| it.0));
            std::process::exit(2);
        };
        target
    });
    target(data);
});
