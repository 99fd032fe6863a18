//! Ports: given ones are checked, others are free ones of the system's choice.

use anyhow::{Result, anyhow, bail};
use std::net::{Ipv4Addr, TcpListener};

/// A port on loopback that nobody listens on.
///
/// # Errors
/// If the system has none.
pub fn free() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The port that the environment variable `name` gives, or `wish` if it is free, or any free one.
///
/// # Errors
/// If the given port is no port or is taken; the message names the variable and the remedy.
pub fn given(name: &str, wish: Option<u16>) -> Result<u16> {
    let takes = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    match std::env::var(name).ok().filter(|value| !value.is_empty()) {
        Some(value) => {
            let port: u16 = value.parse().map_err(|_| anyhow!("{name}={value} is no port: give 1 to 65535"))?;
            if !takes(port) {
                bail!("{name}={port}: that port is taken. Give another one, or none for a free one");
            }
            Ok(port)
        }
        None => match wish.filter(|port| takes(*port)) {
            Some(port) => Ok(port),
            None => free(),
        },
    }
}
