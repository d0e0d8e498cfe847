use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, TensorData};
use ip_adapter::{FaceIdPlus, IpAdapter, Options};
use lora_core::{Component, Factor, Lora};
use sd_unet::CrossAttention;

use super::hash::sha256_of_file;
use crate::{PipelineError, TensorFile};

/// An IP-Adapter from a file: `.safetensors`, or `.bin` without running any code that it may hold.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    /// The adapter.
    pub adapter: IpAdapter,
    /// Its file.
    pub path: PathBuf,
    /// The file's SHA-256, in lower-case hexadecimal.
    pub sha256: String,
    pub(super) device: Device,
    pub(super) dtype: FloatDType,
}

impl AdapterFile {
    /// Opens a file. `face_id_plus` says the version of a FaceID-Plus adapter, which its tensors do not tell.
    ///
    /// # Errors
    /// If it cannot be read, or is no adapter for Stable Diffusion 1.x with all its tensors and no others.
    pub fn open(
        path: impl AsRef<Path>,
        face_id_plus: Option<FaceIdPlus>,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let path = path.as_ref();
        let unreadable = |source| PipelineError::Unreadable {
            path: path.to_path_buf(),
            source,
        };
        std::fs::metadata(path).map_err(unreadable)?;
        let file = TensorFile::open(path)?;
        let own = |name: &str| name.starts_with("image_proj.") || name.starts_with("ip_adapter.");
        let read = file.names().any(own);
        let tensors = file.names().map(|name| {
            // Of a large file that is something else, names are enough to say so.
            let data = match read {
                true => file.read(name, FloatDType::F32)?,
                false => TensorData::new(vec![0f32], [1]),
            };
            Ok((name.to_owned(), data))
        });
        let tensors = tensors.collect::<Result<Vec<_>, PipelineError>>()?;
        let options = Options {
            dtype,
            face_id_plus,
        };
        let name = path.display().to_string();
        Ok(Self {
            adapter: IpAdapter::from_tensors(&name, tensors, &options, device)?,
            path: path.to_path_buf(),
            sha256: sha256_of_file(path).map_err(unreadable)?,
            device: device.clone(),
            dtype,
        })
    }

    /// The LoRA that a FaceID adapter brings for the UNet and was trained with, or `None` if it brings none.
    ///
    /// # Errors
    /// If it does not fit a UNet with these layers.
    pub fn lora(&self, layers: &[CrossAttention]) -> Result<Option<Lora>, PipelineError> {
        let factors: Vec<Factor> = self
            .adapter
            .low_rank(layers)?
            .into_iter()
            .map(|pair| {
                let (down, up) = (pair.down, pair.up);
                let (rank, fan_in, fan_out) = (down.shape()[0], down.shape()[1], up.shape()[0]);
                let tensor = |data| burn::tensor::Tensor::<2>::from_data(data, &self.device);
                Factor {
                    path: pair.path,
                    down: tensor(down),
                    up: tensor(up),
                    alpha: rank as f64,
                    rank,
                    shape: vec![fan_out, fan_in],
                }
            })
            .collect();
        if factors.is_empty() {
            return Ok(None);
        }
        let name = self.path.display().to_string();
        let lora = Lora::from_factors(&name, [(Component::Unet, factors)])?;
        Ok(Some(lora))
    }
}
