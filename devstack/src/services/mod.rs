//! dropgate's own programs as processes of the stack.

pub mod gate;
pub mod issuer;
pub mod rest_proxy;
