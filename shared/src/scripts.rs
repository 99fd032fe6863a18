//! The Lua scripts that run inside Redis, with the SHA-1 computed at build.

/// A Lua script: its text and the SHA-1 by which EVALSHA calls it.
#[derive(Debug)]
pub struct Script {
    /// File name without its ending; a stable label for logs and metrics.
    pub name: &'static str,
    /// The script.
    pub text: &'static str,
    /// SHA-1 of [`Script::text`], lower-case hex.
    pub sha1: &'static str,
    /// The script for a hosted Redis that locks only the named keys
    /// (`#!lua flags=allow-key-locking`, Upstash; plain Redis rejects that flag).
    pub locking_text: &'static str,
    /// SHA-1 of [`Script::locking_text`], lower-case hex.
    pub locking_sha1: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/scripts.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locking_variant_is_the_same_script_behind_the_flag() {
        for script in ALL {
            assert_eq!(script.locking_text, format!("#!lua flags=allow-key-locking\n{}", script.text));
            assert_ne!(script.sha1, script.locking_sha1);
            assert_eq!(script.sha1.len(), 40);
            assert!(!script.text.contains("dg:"), "{}: keys have a prefix that can be set", script.name);
        }
    }
}
