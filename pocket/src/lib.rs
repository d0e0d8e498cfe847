//! pocket
pub mod puppet;
