//! The environment variables with which a user replaces servers and settings of the stack.

/// The value of the environment variable `name`; an empty one counts as absent.
pub fn env_override(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether `DATABASE_KIND` asks for MariaDB instead of MySQL.
#[must_use]
pub fn wants_mariadb() -> bool {
    env_override("DATABASE_KIND").is_some_and(|kind| kind == "mariadb")
}
