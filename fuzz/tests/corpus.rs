//! Each target holds its property for its whole corpus, and no corpus is forgotten.
#![allow(clippy::unwrap_used)]

use dropgate_fuzz::TARGETS;
use std::fs;
use std::path::Path;

#[test]
fn every_target_stands_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let inputs: Vec<_> = fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() >= 4, "{name} has {} inputs", inputs.len());
        for input in inputs {
            // The name of an input that fails, above the message of the panic.
            println!("{}", input.display());
            target(&fs::read(&input).unwrap());
        }
    }
    let known = fs::read_dir(folder).unwrap().count();
    assert_eq!(known, TARGETS.len(), "a corpus without a target");
}
