//! The fused paths of the CPU backend, as an extension of burn's backends.
//!
//! Everything here takes contiguous f32 slices and gives vectors; [`ops`] turns burn's tensors into them, and gives each operation its gradient.

mod attention;
mod bf16;
mod convolution;
mod gemm;
mod math;
mod memory;
mod norm;
mod ops;
mod pointwise;
mod tile;
mod turn;

pub(crate) use bf16::{
    allow as allow_rounding, available as can_round, convolves as rounds_convolutions,
};
pub(crate) use memory::{keep_freed_memory, return_freed_memory};
pub(crate) use ops::{CpuOps, Factored, all_fused, is_short, on_cpu, rounds_products, stays_short};
