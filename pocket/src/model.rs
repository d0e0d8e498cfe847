//! The model itself, within the program: a Stable Diffusion 1.x of 96 pixels in diffusers' layout, with the encoders that its pictures
//! are scored by.
//!
//! | folder | what |
//! |---|---|
//! | `tokenizer/`, `text_encoder/`, `unet/`, `vae/`, `scheduler/` | the model, as diffusers opens it |
//! | `clip/` | image encoder and text encoder in one space, a transformers `CLIPModel`, for the score and the adapters |
//! | `ip_adapter/` | a base and a plus-type IP-Adapter |

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::write_whole;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        /// Every file of the model: its name in the folder, and its bytes.
        pub const FILES: &[(&str, &[u8])] =
            &[$(($name, include_bytes!(concat!("../model/", $name)))),+];
    };
}

files!(
    "clip/config.json",
    "clip/merges.txt",
    "clip/model.safetensors",
    "clip/preprocessor_config.json",
    "clip/special_tokens_map.json",
    "clip/tokenizer_config.json",
    "clip/vocab.json",
    "ip_adapter/ip-adapter-plus.safetensors",
    "ip_adapter/ip-adapter.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
);

/// The SHA-256 that each file is known by, as `sha256sum` writes them.
const SUMS: &str = include_str!("../model/SHA256SUMS");

/// Why the model could not be unpacked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file within the program is not what it was made as.
    #[error(
        "`{file}` within the program is damaged: its SHA-256 is {found}, expected {expected}; build or install the program anew"
    )]
    Damaged {
        /// The file's name in the model's folder.
        file: String,
        /// The sum that it should have.
        expected: String,
        /// The sum that it has.
        found: String,
    },
    /// A file could not be written.
    #[error("`{}` cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A name for this very model: 16 hexadecimal digits that follow from all of its files.
pub fn version() -> String {
    sha256(SUMS.as_bytes())[..16].to_owned()
}

/// Writes the model's files into `folder`, those that are not there yet as they should be. A file is there whole or not at all.
///
/// # Errors
/// If a file within the program is damaged, which is then named, or one cannot be written.
pub fn unpack(folder: &Path) -> Result<(), ModelError> {
    unpack_files(FILES, SUMS, folder)
}

fn unpack_files(files: &[(&str, &[u8])], sums: &str, folder: &Path) -> Result<(), ModelError> {
    for (name, bytes) in files {
        let line = |line: &str| {
            line.split_once("  ")
                .filter(|(_, file)| file == name)
                .is_some()
        };
        let expected = sums.lines().find(|text| line(text));
        let expected = expected.map_or("", |text| text.split(' ').next().unwrap_or_default());
        let found = sha256(bytes);
        if found != expected {
            return Err(ModelError::Damaged {
                file: (*name).to_owned(),
                expected: expected.to_owned(),
                found,
            });
        }
    }
    for (name, bytes) in files {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|there| there == *bytes) {
            continue;
        }
        write_whole(&path, bytes).map_err(|source| ModelError::Write { path, source })?;
    }
    Ok(())
}

/// The SHA-256 of some bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_the_sums_and_fit_a_package() {
        let names: Vec<&str> = SUMS
            .lines()
            .filter_map(|line| line.split("  ").nth(1))
            .collect();
        let ours: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ours);
        let size: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(size <= 9_500_000, "{size} bytes");
    }

    #[test]
    fn unpacking_twice_writes_once_and_mends_what_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        unpack(folder.path()).unwrap();
        let index = folder.path().join("model_index.json");
        let weights = folder.path().join("vae/config.json");
        let before = fs::metadata(&weights).unwrap().modified().unwrap();
        fs::write(&index, "{").unwrap();
        unpack(folder.path()).unwrap();
        assert!(
            fs::read_to_string(&index)
                .unwrap()
                .contains("StableDiffusionPipeline")
        );
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn a_damaged_file_is_named_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let files: &[(&str, &[u8])] = &[("vae/config.json", b"{}")];
        let error = unpack_files(files, SUMS, folder.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("vae/config.json") && error.contains("44136fa3"),
            "{error}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
