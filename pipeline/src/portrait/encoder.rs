use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, FloatDType, Tensor};
use clip_vision::Fit;
use image::RgbImage;
use ip_adapter::{EncoderInput, Features, IpAdapter};

use super::cache::hashed;
use super::{HashedFile, PortraitCache};
use crate::{ImageEncoder, ImageEncoderFile, PipelineError};

/// An image encoder that is opened when the first portrait needs it, and its weights then stay until this is dropped.
#[derive(Debug)]
pub struct LazyImageEncoder<'a> {
    path: PathBuf,
    cache: Option<&'a PortraitCache>,
    dtype: FloatDType,
    device: Device,
    files: OnceCell<Vec<HashedFile>>,
    file: OnceCell<ImageEncoderFile>,
    encoder: OnceCell<ImageEncoder>,
}

impl<'a> LazyImageEncoder<'a> {
    /// A folder or a file. An encoder that the cache knows need not be there any more, as long as the cache has all portraits that are asked for.
    ///
    /// # Errors
    /// If the cache does not know it, and it cannot be opened.
    pub fn new(
        path: impl Into<PathBuf>,
        cache: Option<&'a PortraitCache>,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let path = path.into();
        let known = cache.and_then(|cache| cache.known_encoder(&path));
        let encoder = Self {
            path,
            cache,
            dtype,
            device: device.clone(),
            files: known.map_or_else(OnceCell::new, OnceCell::from),
            file: OnceCell::new(),
            encoder: OnceCell::new(),
        };
        if encoder.files.get().is_none() {
            encoder.file()?;
        }
        Ok(encoder)
    }

    /// Where it is, or was.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its weights were read.
    pub fn is_loaded(&self) -> bool {
        self.encoder.get().is_some()
    }

    /// The files that portraits depend on: weights and settings.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn files(&self) -> Result<&[HashedFile], PipelineError> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let list = self.file()?.files();
        let files = match self.cache {
            Some(cache) => cache.learn_encoder(&self.path, &list)?,
            None => hashed(&list)?,
        };
        Ok(self.files.get_or_init(|| files))
    }

    /// If it was opened already, makes sure that it is the one for an adapter; else that is left for when it is.
    pub(super) fn check_opened(&self, adapter: &IpAdapter) -> Result<(), PipelineError> {
        match self.file.get() {
            Some(file) => check(file, adapter),
            None => Ok(()),
        }
    }

    /// What it makes of pictures.
    pub(super) fn features(
        &self,
        adapter: &IpAdapter,
        pictures: &[&RgbImage],
        fit: Fit,
    ) -> Result<Features, PipelineError> {
        let seen = self.encoder(adapter)?.encode(pictures, fit);
        Ok(Features {
            pooled: Some(seen.image_embeds),
            penultimate: Some(seen.penultimate),
            face: None,
        })
    }

    /// The hidden states before the last layer of a grey picture, zero after normalisation.
    pub(super) fn grey(&self, adapter: &IpAdapter) -> Result<Tensor<3>, PipelineError> {
        Ok(self.encoder(adapter)?.mean_grey().penultimate)
    }

    /// Those of a black picture.
    pub(super) fn black(&self, adapter: &IpAdapter) -> Result<Tensor<3>, PipelineError> {
        Ok(self.encoder(adapter)?.black().penultimate)
    }

    /// The number of its hidden states.
    pub(super) fn positions(&self, adapter: &IpAdapter) -> Result<usize, PipelineError> {
        let file = self.file()?;
        check(file, adapter)?;
        Ok(file.config().positions())
    }

    fn file(&self) -> Result<&ImageEncoderFile, PipelineError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        if self.files.get().is_some() && !self.path.exists() {
            return Err(PipelineError::EncoderAbsent {
                path: self.path.clone(),
            });
        }
        let file = ImageEncoderFile::open(&self.path)?;
        Ok(self.file.get_or_init(|| file))
    }

    fn encoder(&self, adapter: &IpAdapter) -> Result<&ImageEncoder, PipelineError> {
        let file = self.file()?;
        check(file, adapter)?;
        if let Some(encoder) = self.encoder.get() {
            return Ok(encoder);
        }
        let encoder = file.load(self.dtype, &self.device)?;
        Ok(self.encoder.get_or_init(|| encoder))
    }
}

fn check(file: &ImageEncoderFile, adapter: &IpAdapter) -> Result<(), PipelineError> {
    let gives = EncoderInput {
        pooled: Some(file.config().projection_dim),
        penultimate: Some(file.config().hidden_size),
        // That comes from elsewhere.
        face: adapter.encoder_input().face,
    };
    Ok(adapter.check_widths(&gives)?)
}
