//! The configuration file: TOML whose keys are the names of the environment variables in lower case.
//!
//! Its values become the defaults of the arguments, so the order is flag, environment, file. The
//! process's own environment is never changed.

use clap::{Arg, Command};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names the file where `--config` does not.
pub const VARIABLE: &str = "ISSUER_CONFIG";

/// The file that the command line names (`--config FILE`, `--config=FILE`), else the environment.
///
/// Read before everything else: what the file says decides how the rest is read.
#[must_use]
pub fn named(args: impl IntoIterator<Item = OsString>, variable: Option<OsString>) -> Option<PathBuf> {
    let mut args = args.into_iter().skip(1);
    let mut found = None;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--") => break,
            Some("--config") => found = args.next(),
            Some(text) => found = text.strip_prefix("--config=").map(OsString::from).or(found),
            None => {}
        }
    }
    found.or(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// `command` with the settings of the file as defaults.
pub fn with_file(command: Command, path: &Path) -> Result<Command, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::Unreadable { path: path.to_owned(), error })?;
    let settings = read(&text, &names(&command))
        .map_err(|problems| FileError::Invalid { path: path.to_owned(), problems: problems.join("\n  ") })?;
    Ok(defaults(command, &settings))
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the configuration file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    /// All its problems, one line each. No value is repeated: it may be a secret.
    #[error("the configuration file {} is invalid:\n  {problems}", path.display())]
    Invalid { path: PathBuf, problems: String },
}

/// Every setting that has an environment variable, in lower case.
fn names(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(Arg::get_env).filter_map(|name| name.to_str());
    let own = own.filter(|name| *name != VARIABLE).map(str::to_ascii_lowercase);
    own.chain(command.get_subcommands().flat_map(names)).collect()
}

fn read(text: &str, names: &BTreeSet<String>) -> Result<BTreeMap<String, &'static str>, Vec<String>> {
    // The parser's text quotes the line, which may hold a secret: only the place where it stopped is reported.
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text.get(..span.start).unwrap_or(text).lines().count().max(1));
        vec![format!("line {line} is not TOML: {}", error.message())]
    })?;
    let (mut settings, mut problems) = (BTreeMap::new(), Vec::new());
    for (key, value) in table {
        if !names.contains(&key) {
            let nearest =
                names.iter().max_by(|a, b| strsim::jaro_winkler(a, &key).total_cmp(&strsim::jaro_winkler(b, &key)));
            let nearest = nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
            problems.push(format!("{key} is not a setting{nearest}"));
            continue;
        }
        match scalar(&value) {
            // Defaults live as long as the process does.
            Some(text) => {
                settings.insert(key, &*text.leak());
            }
            None => problems.push(format!(
                "{key} has an unsupported type; expected a string, a number, true or false, or a list of strings"
            )),
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(values) => {
            let texts: Option<Vec<&str>> = values.iter().map(toml::Value::as_str).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn defaults(command: Command, settings: &BTreeMap<String, &'static str>) -> Command {
    let value = |arg: &Arg| settings.get(&arg.get_env()?.to_str()?.to_ascii_lowercase()).copied();
    command
        .mut_args(|arg| match value(&arg) {
            // It may be a secret, and --help shows defaults.
            Some(value) if arg.get_action().takes_values() => arg.default_value(value).hide_default_value(true),
            Some(value) => arg.default_value(value),
            None => arg,
        })
        .mut_subcommands(|sub| defaults(sub, settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    fn command() -> Command {
        let secret = Arg::new("secret").long("secret").env("TEST_ONLY_SECRET");
        let flag = Arg::new("flag").long("flag").env("TEST_ONLY_FLAG").action(ArgAction::SetTrue);
        let path = Arg::new("path").long("path").env("PATH");
        Command::new("x").subcommand(Command::new("run").args([secret, flag, path]))
    }

    #[test]
    fn the_file_is_named_by_the_command_line_before_the_environment() {
        let named = |args: &[&str]| {
            let args = ["issuer"].iter().chain(args).map(OsString::from);
            named(args, Some("env".into())).map(|path| path.display().to_string()).unwrap()
        };
        assert_eq!(named(&["run", "--config", "a"]), "a");
        assert_eq!(named(&["--config=b", "run"]), "b");
        assert_eq!(named(&["run", "--", "--config", "a"]), "env");
    }

    #[test]
    fn the_order_is_flag_environment_file() {
        let command = command();
        let text = "test_only_secret = 'from file'\ntest_only_flag = true\npath = 'from file'";
        let settings = read(text, &names(&command)).unwrap();
        let matches = defaults(command.clone(), &settings).get_matches_from(["x", "run"]);
        let run = matches.subcommand_matches("run").unwrap();
        assert_eq!(run.get_one::<String>("secret").unwrap(), "from file");
        assert!(run.get_flag("flag"));
        // The environment of every process has a PATH.
        assert_ne!(run.get_one::<String>("path").unwrap(), "from file");
        let matches = defaults(command, &settings).get_matches_from(["x", "run", "--secret", "from flag"]);
        assert_eq!(matches.subcommand_matches("run").unwrap().get_one::<String>("secret").unwrap(), "from flag");
    }

    #[test]
    fn every_problem_is_reported_and_no_value() {
        let names = names(&command());
        let problems = read("test_only_secrte = 'hunter2'\ntest_only_flag = { a = 1 }", &names).unwrap_err();
        assert_eq!(
            problems,
            [
                "test_only_flag has an unsupported type; expected a string, a number, true or false, or a list of \
                 strings",
                "test_only_secrte is not a setting; did you mean test_only_secret?",
            ]
        );
        let problems = read("\npath = 'x'\ntest_only_secret = hunter2", &names).unwrap_err();
        assert!(problems[0].starts_with("line 3 is not TOML") && !problems[0].contains("hunter2"), "{problems:?}");
    }
}
