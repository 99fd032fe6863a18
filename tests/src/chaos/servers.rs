//! Processes that are started again when they end, as a supervisor does.

use dropgate_devstack::{Process, ProcessSpec, Signal};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

/// A process and what is to become of it.
#[derive(Debug)]
pub struct Server {
    spec: ProcessSpec,
    logs: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    process: Option<Process>,
    /// It stays down until the fault ends.
    is_held: bool,
}

impl Server {
    #[must_use]
    pub fn new(process: Process, logs: PathBuf) -> Self {
        let spec = process.spec.clone();
        Self { spec, logs, state: Mutex::new(State { process: Some(process), is_held: false }) }
    }

    /// One that does not run before it is released.
    #[must_use]
    pub fn held(spec: ProcessSpec, logs: PathBuf) -> Self {
        Self { spec, logs, state: Mutex::new(State { process: None, is_held: true }) }
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Starts it if it has ended and is not held down. Returns whether it did.
    pub async fn revive(&self) -> bool {
        let mut state = self.state.lock().await;
        let has_ended = match &mut state.process {
            Some(process) => process.exit_status().unwrap().is_some(),
            None => true,
        };
        if has_ended && !state.is_held {
            state.process = Some(self.spec.clone().start(&self.logs).unwrap());
        }
        has_ended && !state.is_held
    }

    /// Ends it at once; it stays down until [`Server::release`].
    pub async fn kill(&self) {
        let mut state = self.state.lock().await;
        state.is_held = true;
        if let Some(process) = state.process.take() {
            process.kill().unwrap();
        }
    }

    /// Ends it in its own way; it stays down until [`Server::release`].
    pub async fn stop(&self) {
        let process = {
            let mut state = self.state.lock().await;
            state.is_held = true;
            state.process.take()
        };
        if let Some(process) = process {
            process.stop().await.unwrap();
        }
    }

    /// The supervisor may start it.
    pub async fn release(&self) {
        self.state.lock().await.is_held = false;
    }

    pub async fn signal(&self, signal: Signal) {
        if let Some(process) = &self.state.lock().await.process {
            process.signal(signal);
        }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        loop {
            {
                let mut state = self.state.lock().await;
                if state.is_held {
                    return;
                }
                if let Some(process) = &mut state.process
                    && process.exit_status().unwrap().is_none()
                {
                    process.ready().await.unwrap();
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
