//! What surrounds a script: its first line, and the checks before each command that it calls.
//!
//! Sources: `evalExtractShebangFlags` (src/eval.c), `scriptCall` and the checks above it (src/script.c) of
//! Redis 7.0.15; `allow-key-locking` from Upstash's documentation (redis/features/key-locking).

use super::commands::{self, Keys, Machine};
use super::faults::{CommandFault, Strikes};
use super::reply::{Bytes, Reply};

/// The error of a command that needs memory when there is none.
pub const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";
/// The error of a writing command at a replica.
pub const READ_ONLY: &str = "READONLY You can't write against a read only replica.";

/// The flags of a script's first line, `#!lua flags=..`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// There is such a line: the flags hold for the call as a whole, not for its first write.
    pub declared: bool,
    pub no_writes: bool,
    pub allow_oom: bool,
    pub key_locking: bool,
}

impl Flags {
    /// The flags of `text`, and the text without its first line, but with that line's end so that line
    /// numbers stay.
    pub fn split(text: &[u8], upstash: bool) -> Result<(Self, &[u8]), String> {
        let mut flags = Self::default();
        if !text.starts_with(b"#!") {
            return Ok((flags, text));
        }
        let end = text.iter().position(|byte| *byte == b'\n').ok_or("ERR Invalid script shebang")?;
        let (line, body) = text.split_at(end);
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("#!lua") => {}
            engine => return Err(format!("ERR Unexpected engine in script shebang: {}", engine.unwrap_or_default())),
        }
        flags.declared = true;
        for word in words {
            let Some(names) = word.strip_prefix("flags=") else {
                return Err(format!("ERR Unknown lua shebang option: {word}"));
            };
            for name in names.split(',') {
                match name {
                    "no-writes" => flags.no_writes = true,
                    "allow-oom" => flags.allow_oom = true,
                    "allow-key-locking" if upstash => flags.key_locking = true,
                    "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                    _ => return Err(format!("ERR Unexpected flag in script shebang: {name}")),
                }
            }
        }
        Ok((flags, body))
    }
}

/// A script while it runs.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub machine: Machine,
    pub flags: Flags,
    /// Memory was full when the call began.
    pub out_of_memory: bool,
    pub read_only_server: bool,
    /// `KEYS`.
    pub keys: Vec<Bytes>,
    pub fault: Option<CommandFault>,
    pub strikes: Strikes,
    /// It has called a writing command that was let through, whether or not that changed anything.
    pub dirty: bool,
}

impl Run {
    /// `redis.call`, up to the decision what an error does to the script.
    pub fn call(&mut self, args: &[Bytes]) -> Reply {
        self.checked(args).unwrap_or_else(Reply::Error)
    }

    fn checked(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let name = args.first().ok_or("ERR Please specify at least one argument for this redis lib call")?;
        let command = commands::find(name).ok_or("ERR Unknown Redis command called from script")?;
        if !command.takes(args.len()) {
            return Err("ERR Wrong number of args calling Redis command from script".to_owned());
        }
        let run = match command.run {
            Some(run) if !command.barred_from_scripts() => run,
            _ => return Err("ERR This Redis command is not allowed from script".to_owned()),
        };
        if let Some(error) = self.fault.as_mut().and_then(|fault| fault.strikes(command.name)) {
            self.strikes.add("command_in_script");
            return Err(error);
        }
        if self.flags.key_locking {
            self.check_locks(command, args)?;
        }
        if command.writes() {
            if self.flags.no_writes {
                return Err("ERR Write commands are not allowed from read-only scripts.".to_owned());
            }
            if !self.dirty && self.read_only_server {
                self.strikes.add("read_only");
                return Err(READ_ONLY.to_owned());
            }
            // Only the first write is refused, and only if it needs memory: a script that frees memory
            // first runs to its end.
            if command.grows() && !self.dirty && self.out_of_memory && !self.flags.allow_oom {
                self.strikes.add("out_of_memory");
                return Err(OOM.to_owned());
            }
            self.dirty = true;
        }
        run(&mut self.machine, args).map_err(Into::into)
    }

    fn check_locks(&self, command: &commands::Command, args: &[Bytes]) -> Result<(), String> {
        if command.keys == Keys::None && command.writes() {
            // The documentation says that it is rejected, not in which words.
            return Err(format!("ERR {} is not allowed when 'allow-key-locking' flag is set", command.name));
        }
        match command.keys_of(args).iter().find(|key| !self.keys.contains(key)) {
            Some(key) => Err(format!(
                "ERR Dynamic keys are not allowed in Lua scripts when 'allow-key-locking' flag is set. Key was: {}",
                String::from_utf8_lossy(key)
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_read_as_redis_reads_it() {
        let read = |text: &str, upstash| Flags::split(text.as_bytes(), upstash).map(|(flags, _)| flags);
        let plain = Flags::default();
        assert_eq!(read("return 1", false), Ok(plain));
        let declared = Flags { declared: true, ..plain };
        assert_eq!(read("#!lua\nreturn 1", false), Ok(declared));
        let both = Flags { no_writes: true, allow_oom: true, ..declared };
        assert_eq!(read("#!lua flags=no-writes,allow-oom\n", false), Ok(both));
        assert_eq!(read("#!lua flags=allow-key-locking\n", true), Ok(Flags { key_locking: true, ..declared }));
        for (text, error) in [
            ("#!lua flags=allow-key-locking\n", "ERR Unexpected flag in script shebang: allow-key-locking"),
            ("#!lua", "ERR Invalid script shebang"),
            ("#!sh\n", "ERR Unexpected engine in script shebang: #!sh"),
            ("#!lua name=x\n", "ERR Unknown lua shebang option: name=x"),
        ] {
            assert_eq!(read(text, false), Err(error.to_owned()));
        }
        assert_eq!(Flags::split(b"#!lua\nreturn 1", false).unwrap().1, b"\nreturn 1");
    }
}
