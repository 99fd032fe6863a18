pub mod demo;
pub mod status;
pub mod up;
pub mod with_database;
