//! `NAME_FILE` for every secret: a setting whose value `--help` must not show can be read from a file instead.
//!
//! The pair is derived from the arguments themselves (`hide_env_values`), so that no secret lacks its file.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use std::collections::BTreeMap;

/// Why a secret cannot be read from its file. Follows nothing: it names the setting and the file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("{0} and {0}_FILE are both set; expected one of them")]
    Both(String),
    #[error("{name}_FILE {path}: {error}")]
    Unreadable { name: String, path: String, error: std::io::Error },
    #[error("{name}_FILE {path} is empty; expected the value of {name}")]
    Empty { name: String, path: String },
}

fn secrets(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.is_hide_env_values_set() && arg.get_action().takes_values())
}

fn name_of(secret: &Arg) -> String {
    secret.get_env().map_or_else(|| secret.get_id().to_string(), |name| name.to_string_lossy().into_owned())
}

fn file_id(secret: &Arg) -> String {
    format!("{}_file", secret.get_id())
}

/// `command` with an argument and a variable for the file of each secret. Its help shows no value of a variable: what
/// is no secret may hold one by mistake.
#[must_use]
pub fn with_file_arguments(command: Command) -> Command {
    let files: Vec<Arg> = secrets(&command)
        .map(|secret| {
            // Variables and identifiers live as long as the process does.
            let (id, variable) = (&*file_id(secret).leak(), &*format!("{}_FILE", name_of(secret)).leak());
            let long = &*format!("{}-file", secret.get_long().unwrap_or(id)).leak();
            Arg::new(id)
                .long(long)
                .env(variable)
                .value_name("FILE")
                .help(format!("A file that holds {}", name_of(secret)))
        })
        .collect();
    let command = command.args(files).mut_args(|arg| arg.hide_env_values(true));
    command.mut_subcommands(with_file_arguments)
}

/// `command` with what the files hold as the values of the secrets that `matches` names by a file.
///
/// # Errors
/// [`SecretFileError`] where a secret is given twice, or where its file holds nothing.
pub fn with_contents(command: Command, matches: &ArgMatches) -> Result<Command, SecretFileError> {
    let (mut at, mut chosen) = (&command, matches);
    while let Some((name, sub)) = chosen.subcommand() {
        let Some(found) = at.find_subcommand(name) else { break };
        (at, chosen) = (found, sub);
    }
    let mut contents = BTreeMap::new();
    let has_file = |secret: &&Arg| at.get_arguments().any(|arg| *arg.get_id() == file_id(secret));
    for secret in at.get_arguments().filter(has_file) {
        let file = file_id(secret);
        let Some(path) = chosen.get_one::<String>(&file).filter(|path| !path.is_empty()) else { continue };
        // What the configuration file says is a default.
        let is_default = |id: &str| chosen.value_source(id) == Some(ValueSource::DefaultValue);
        let id = secret.get_id().as_str();
        let name = name_of(secret);
        match (chosen.value_source(id).is_some(), is_default(id), is_default(&file)) {
            (true, false, true) => continue,
            (true, true, true) | (true, false, false) => return Err(SecretFileError::Both(name)),
            _ => {}
        }
        let path = path.clone();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return Err(SecretFileError::Unreadable { name, path, error }),
        };
        let text = text.strip_suffix('\n').map_or(&*text, |text| text.strip_suffix('\r').unwrap_or(text));
        if text.trim().is_empty() {
            return Err(SecretFileError::Empty { name, path });
        }
        contents.insert(id.to_owned(), &*text.to_owned().leak());
    }
    Ok(set(command, &contents))
}

fn set(command: Command, contents: &BTreeMap<String, &'static str>) -> Command {
    command
        .mut_args(|arg| match contents.get(arg.get_id().as_str()) {
            Some(text) => arg.default_value(*text).hide_default_value(true),
            None => arg,
        })
        .mut_subcommands(|sub| set(sub, contents))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn command() -> Command {
        let secret = Arg::new("secret").long("secret").env("TEST_ONLY_SECRET").hide_env_values(true);
        let other = Arg::new("other").long("other").env("TEST_ONLY_OTHER");
        with_file_arguments(Command::new("x").subcommand(Command::new("run").args([secret, other])))
    }

    fn read(args: &[&str]) -> Result<String, String> {
        let args: Vec<&str> = ["x", "run"].iter().chain(args).copied().collect();
        let matches = command().get_matches_from(&args);
        let command = with_contents(command(), &matches).map_err(|error| error.to_string())?;
        let matches = command.get_matches_from(&args);
        Ok(matches.subcommand_matches("run").unwrap().get_one::<String>("secret").cloned().unwrap_or_default())
    }

    #[test]
    fn a_secret_comes_from_its_file_or_from_its_variable_and_never_from_both() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        assert_eq!(
            read(&["--secret-file", &path]).unwrap_err(),
            format!("TEST_ONLY_SECRET_FILE {path} is empty; expected the value of TEST_ONLY_SECRET")
        );
        file.write_all(b"of the file\r\n").unwrap();
        assert_eq!(read(&["--secret-file", &path]).unwrap(), "of the file");
        assert_eq!(read(&["--secret", "of the flag"]).unwrap(), "of the flag");
        assert_eq!(
            read(&["--secret", "x", "--secret-file", &path]).unwrap_err(),
            "TEST_ONLY_SECRET and TEST_ONLY_SECRET_FILE are both set; expected one of them"
        );
        let missing = read(&["--secret-file", "/no/such/file"]).unwrap_err();
        assert!(missing.starts_with("TEST_ONLY_SECRET_FILE /no/such/file: No such file"), "{missing}");
        assert!(command().find_subcommand("run").unwrap().get_arguments().all(|arg| arg.get_id() != "other_file"));
    }
}
