//! The whole crate, through its public face.

mod apply;
mod models;
mod peers;
mod read;
mod train;
mod write;
