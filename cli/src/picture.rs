use std::path::Path;

use anyhow::Context;
use image::DynamicImage;

use crate::failure::{Blame, Failure};

/// Reads the picture that an option names, upright.
///
/// # Errors
/// If it is none.
pub fn read_picture(option: &str, path: &Path) -> Result<DynamicImage, Failure> {
    read(&format!("--{option} "), path)
}

/// Reads a picture that is an argument of its own, upright.
///
/// # Errors
/// If it is none.
pub fn read_argument(path: &Path) -> Result<DynamicImage, Failure> {
    read("", path)
}

fn read(option: &str, path: &Path) -> Result<DynamicImage, Failure> {
    character_library::read_picture(path)
        .with_context(|| {
            format!(
                "{option}{}: is no picture that can be read; a PNG, JPEG, WebP or BMP file is expected",
                path.display()
            )
        })
        .input()
}
