//! Ports: given ones are checked, others are free ones of the system's choice.

use anyhow::{Result, anyhow, bail};
use std::net::{Ipv4Addr, TcpListener};

/// Where free ports are looked for: below the range out of which systems serve outgoing connections
/// (32768 up on Linux), one of which could otherwise take the port before its server does.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A port on loopback that nobody listens on.
///
/// # Errors
/// If there is none.
pub fn free() -> Result<u16> {
    let length = RANGE.end - RANGE.start;
    for _ in 0..200 {
        let port = RANGE.start + super::random::<2>()?.into_iter().fold(0, |n: u16, b| n << 8 | u16::from(b)) % length;
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no free port was found from {} to {}", RANGE.start, RANGE.end - 1)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The port that the environment variable `name` gives, or `wish` if it is free, or any free one.
///
/// # Errors
/// If the given port is no port or is taken; the message names the variable and the remedy.
pub fn given(name: &str, wish: Option<u16>) -> Result<u16> {
    match std::env::var(name).ok().filter(|value| !value.is_empty()) {
        Some(value) => {
            let port: u16 = value.parse().map_err(|_| anyhow!("{name}={value} is no port: give 1 to 65535"))?;
            if !is_free(port) {
                bail!("{name}={port}: that port is taken. Give another one, or none for a free one");
            }
            Ok(port)
        }
        None => match wish.filter(|port| is_free(*port)) {
            Some(port) => Ok(port),
            None => free(),
        },
    }
}
