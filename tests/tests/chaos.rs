//! Random faults on real servers for one round, judged by the simulator's oracle (I1 to I10); `make chaos` runs many.
#![allow(clippy::unwrap_used, clippy::panic)]

use dropgate_tests::chaos::{self, Options};
use dropgate_tests::{programs, until};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_survives_a_round_of_random_faults() {
    let options = Options { time: Duration::ZERO, seed: 1, with_data_loss: false, only: Vec::new() };
    let dir = programs().parent().unwrap().join("e2e/chaos");
    let outcome = chaos::run(&options, &programs(), &dir).await;
    println!("{}", outcome.table(false));
    assert!(outcome.violations.is_empty(), "{:#?}\nlogs and evidence in {}", outcome.violations, dir.display());
    assert!(outcome.faults_struck() >= 8, "only {} faults struck", outcome.faults_struck());
    assert!(outcome.answers > 100 && outcome.looks > 0, "nothing was judged: {outcome:?}");
}

/// However the command ends, no server outlives it.
#[tokio::test]
async fn no_process_outlives_the_command() {
    for (seed, signal) in [("901", "-INT"), ("902", "-TERM"), ("903", "-KILL")] {
        let (mut command, dir) = start(seed).await;
        assert!(!left_in(&dir).is_empty(), "no server was running: the end was not tested");
        assert!(Command::new("kill").arg(signal).arg(command.id().to_string()).status().unwrap().success());
        until("the command has ended", async || command.try_wait().unwrap().is_some()).await;
        if signal == "-KILL" {
            // The kernel ends them in its own time.
            until("every process has ended", async || left_in(&dir).is_empty()).await;
        }
        assert_eq!(left_in(&dir), Vec::<PathBuf>::new(), "{signal}");
    }
}

/// Starts the command, and waits until the crowd claims.
async fn start(seed: &str) -> (Child, PathBuf) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let mut command = command.args(["--seed", seed]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(command.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let (printed, dir) = first.trim().split_once(", everything in ").unwrap();
    assert_eq!(printed, format!("seed {seed}"), "the seed is printed first");
    let timeline = Path::new(dir).join("timeline.log");
    until("a fault strikes", async || {
        std::fs::read_to_string(&timeline).is_ok_and(|text| text.contains("round 1 begins") && text.contains("fault"))
    })
    .await;
    (command, PathBuf::from(dir))
}

/// The processes that work in this folder, by their programs.
fn left_in(dir: &Path) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let works_here = |process: &PathBuf| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    processes.filter(works_here).filter_map(|process| std::fs::read_link(process.join("exe")).ok()).collect()
}
