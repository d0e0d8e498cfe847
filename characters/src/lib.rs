//! A production's characters: their pictures, prompts and LoRAs in a library, and the score of whether a character stayed the same.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use burn::tensor::FloatDType;
//! use character_library::{Library, NewCharacter, Prompts, Scorer, Settings};
//! use sd_pipeline::Clip;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let device = parity::device();
//! let library = Library::open("drama-assets")?;
//! let mira = NewCharacter {
//!     name: "mira".into(),
//!     pictures: "pictures/mira".into(),
//!     settings: Settings { class: "woman".into(), ..Settings::recipe("mychar001") },
//!     prompts: Prompts::recipe("mychar001", 1.3),
//! };
//! let (mira, findings) = library.add(&mira, |_, _| ControlFlow::Continue(()))?;
//! println!("{}", findings.lines().join("\n"));
//!
//! let clip = Clip::open("clip-vit-large-patch14", FloatDType::F32, &device)?;
//! let references: Vec<_> = mira.references()?.into_iter().map(|(_, picture)| picture).collect();
//! let scorer = Scorer::new(&clip, mira.settings.face, &references);
//! let drawn = image::open("mira-reads.png")?.into_rgb8();
//! let scores = scorer.score(&[(&drawn, "a woman reads under a tree")]);
//! println!("CLIP-I {:.3}, the references {:.3}", scores.clip_i(), scorer.agreement());
//! # Ok(())
//! # }
//! ```

mod error;
mod face;
mod files;
mod library;
mod losses;
mod page;
mod prompts;
mod recipe;
mod report;
mod score;
mod settings;
mod sheet;
mod text;
mod verdict;

pub use error::LibraryError;
pub use face::FaceRegion;
pub use files::{read_picture, write_png, write_whole};
pub use library::{Character, Library, NewCharacter};
pub use losses::LossLog;
pub use page::page;
pub use prompts::{Expression, Prompts};
pub use recipe::{Amount, Findings};
pub use report::{Drawn, Report, Subject, Way};
pub use score::{Scorer, Scores};
pub use settings::{Drawing, LibrarySettings, LoraVersion, Settings};
pub use sheet::contact_sheet;
pub use verdict::{Thresholds, Verdict, judge};
