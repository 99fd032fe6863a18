//! Requests, responses and routes.

pub mod request;
pub mod response;
pub mod route;
