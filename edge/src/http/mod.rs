//! Requests, responses, routes and problems.

pub mod common_headers;
pub mod problem;
pub mod request;
pub mod response;
pub mod route;
