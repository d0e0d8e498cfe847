//! The examiners: two small networks that judge what the pocket model draws. Neither is part of it, nor of any score that the product gives.
//!
//! [`ShotExaminer`] reads from one picture what a caption says: sex, angle, expression, lighting, place and outfit. [`FaceExaminer`] turns a
//! picture into a point by which a character is told from others, whatever the shot; a [`Gallery`] ranks characters by it. Both were trained
//! on pictures of the [`puppet`](crate::puppet) alone, of characters from [`TRAINING`](crate::puppet::TRAINING), roughened as generated
//! pictures are; all figures are of [`HELD_OUT`](crate::puppet::HELD_OUT) characters.

mod eyes;
mod faces;
mod measure;
mod shots;
mod traits;
mod wear;

pub use faces::{Embedding, FaceExaminer, FaceModel, FacePupil, FaceTraining, Gallery};
pub use measure::{
    CROWD, Condition, REFERENCES, Retrieval, crowd, gallery, held_out, measure_faces, measure_shots,
};
pub use shots::{ATTRIBUTES, Reading, Seen, ShotExaminer, ShotModel, ShotTraining};
