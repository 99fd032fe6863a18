//! Settings: their types, how each value is parsed, and how a URL is shown without its secrets.
//!
//! Everything that is wrong is reported at once, by name and with what is expected; secrets are never printed.

pub mod problems;
pub mod redact;
pub mod settings;
pub mod values;
