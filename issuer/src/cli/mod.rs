//! The command line and the environment: every setting has an environment variable and a flag.

pub mod command;
pub mod connections;
pub mod dlq;
pub mod file;
pub mod help;
pub mod run;
pub mod secret_file;
pub mod verbs;
