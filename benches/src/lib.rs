//! Every kernel and model of the workspace at Stable Diffusion 1.5's sizes, to be timed alone (`cargo bench`) or beside PyTorch
//! (`side_by_side/`). The cases stand in `side_by_side/cases.json`, which both sides read.

mod case;
mod pattern;

pub use case::{Case, Operation, Output, Place, Work, cases, prepare};
pub use pattern::{fill, pattern};
