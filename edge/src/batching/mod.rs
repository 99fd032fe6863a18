//! Work in batches, by few at a time.

pub mod admission_queue;
pub mod batch_queue;
pub mod permits;
