//! What an isolate remembers.

pub mod campaigns;
pub mod marks;
pub mod single_flight;
pub mod sold_out;
