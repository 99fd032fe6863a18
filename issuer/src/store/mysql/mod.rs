//! MySQL and MariaDB: one pool, the schema, and every SQL statement of the program.

pub mod connection;
pub mod constraint_check;
pub mod database;
pub mod error;
mod grants;
mod pool;
pub mod schema;
mod session;
pub mod settings;
mod steps;
mod values;
