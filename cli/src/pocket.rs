//! The model that comes with samecast, under the name `pocket`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use samecast_pocket::model;

use crate::args::Model;
use crate::failure::{Blame, Failure};
use crate::portraits::cache_folder;

/// What `--model` calls it. A folder of this name is `./pocket`.
pub const NAME: &str = "pocket";

/// A command's model, with the folder in place of the name.
///
/// # Errors
/// If the embedded model is asked for and cannot be had.
pub fn resolved(model: &Model) -> Result<Model, Failure> {
    Ok(Model {
        model: path_of(&model.model)?,
        ..model.clone()
    })
}

/// The folder that `pocket` stands for; any other path is itself.
///
/// # Errors
/// As [`resolved`].
pub fn path_of(model: &Path) -> Result<PathBuf, Failure> {
    match model == Path::new(NAME) {
        true => folder(),
        false => Ok(model.to_path_buf()),
    }
}

/// The one place from which the embedded model is taken: unpacked where the system keeps what can be made again, under a name that changes
/// with the model.
fn folder() -> Result<PathBuf, Failure> {
    let name = format!("pocket-{}", model::version());
    let folder = cache_folder(&name).unwrap_or_else(|| std::env::temp_dir().join(name));
    model::unpack(&folder).context("--model pocket").work()?;
    Ok(folder)
}

/// What lies beside a model in its own folder, where it has it: pocket has all of it.
#[derive(Debug, Default)]
pub struct Beside {
    /// A CLIP that scores, or that an adapter was trained with.
    pub image_encoder: Option<PathBuf>,
    /// An IP-Adapter.
    pub ip_adapter: Option<PathBuf>,
}

impl Beside {
    /// Looks into a model's folder: `clip/` or `image_encoder/`, and the files of `ip_adapter/`, of which a plus-type one comes first.
    pub fn of(model: &Path) -> Self {
        let encoders = ["clip", "image_encoder"].map(|name| model.join(name));
        let adapters = std::fs::read_dir(model.join("ip_adapter"));
        let mut adapters: Vec<PathBuf> = adapters
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|ending| ending == "safetensors")
            })
            .collect();
        adapters.sort_by_key(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (!name.contains("plus"), name)
        });
        Self {
            image_encoder: encoders
                .into_iter()
                .find(|path| path.join("config.json").is_file()),
            ip_adapter: adapters.into_iter().next(),
        }
    }
}
