//! Ports on loopback: the user's choice is checked, the others are free ones.

use crate::settings::env_override;
use anyhow::{Context as _, Result, anyhow, bail};
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the range of outgoing connections (32768 up on Linux), one of which could otherwise take the port
/// before its server does.
const RANGE: Range<u16> = 15_000..32_000;

/// A port that nothing listens on.
pub fn free() -> Result<u16> {
    let random = || u16::try_from(RandomState::new().hash_one(()) % u64::from(RANGE.end - RANGE.start)).ok();
    let mut ports = std::iter::repeat_with(random).take(200).flatten().map(|offset| RANGE.start + offset);
    ports.find(|port| is_free(*port)).with_context(|| format!("found no free port in {RANGE:?}"))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The port that the environment variable `name` sets, else `preferred` if it is free, else any free one.
pub fn choose(name: &str, preferred: Option<u16>) -> Result<u16> {
    match env_override(name) {
        Some(value) => {
            let port: u16 = value
                .parse()
                .map_err(|_| anyhow!("{name}={value} is not a port: set it to 1 to 65535, or unset it"))?;
            if !is_free(port) {
                bail!("{name}={port}: this port is taken; choose another one, or unset {name} to use a free one");
            }
            Ok(port)
        }
        None => match preferred.filter(|port| is_free(*port)) {
            Some(port) => Ok(port),
            None => free(),
        },
    }
}
