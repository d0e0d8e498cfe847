//! How much memory the work takes on the CPU, told before it begins.

use burn::tensor::{DType, FloatDType};

use crate::{Checkpoint, MatrixType, OpenOptions, Part, Request, StoredType};

/// Bytes that activations take for each pixel of a batch, at most at once: the VAE's when it encodes and when it decodes, the UNet's in
/// denoising with guidance, a block of it in training with gradient checkpointing, all of it without. They are what peaks at 512×512 on the
/// CPU left beside the weights.
const ENCODING: u64 = 1_900;
const DECODING: u64 = 2_900;
const DENOISING: u64 = 1_000;
const TRAINING_CHECKPOINTED: u64 = 4_000;
const TRAINING: u64 = 6_200;

/// Bytes that the weights of a model take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightsMemory {
    /// The text encoder's.
    pub text_encoder: u64,
    /// The UNet's.
    pub unet: u64,
    /// The VAE's.
    pub vae: u64,
}

impl WeightsMemory {
    /// Those of an opened checkpoint, as [`StableDiffusion::load`](crate::StableDiffusion::load) will keep them.
    pub fn of(checkpoint: &Checkpoint, options: &OpenOptions, dtype: FloatDType) -> Self {
        let part = |part: Part, dtype: FloatDType, matrices: MatrixType| -> u64 {
            let weights = checkpoint.weights(part);
            let size = |(ours, theirs): (&str, &str)| {
                let shape = weights.shape(ours).unwrap_or_default();
                let stored = weights.file().dtype(theirs);
                let kept = match matrices {
                    MatrixType::As(kept) if shape.len() > 1 => bytes(kept),
                    MatrixType::Stored if shape.len() > 1 && is_short(stored) => 2,
                    _ => bytes(dtype),
                };
                shape.iter().product::<usize>() as u64 * kept
            };
            weights.names().map(size).sum()
        };
        Self {
            text_encoder: part(Part::TextEncoder, dtype, MatrixType::Computed),
            unet: part(Part::Unet, dtype, options.unet_matrices),
            vae: part(Part::Vae, FloatDType::F32, MatrixType::Computed),
        }
    }

    /// Of all parts.
    pub fn total(&self) -> u64 {
        self.text_encoder + self.unet + self.vae
    }

    /// With what [`StableDiffusion::generate`](crate::StableDiffusion::generate) needs beside them.
    pub fn to_draw(&self, request: &Request) -> u64 {
        let more = [encoding(request), denoising(request), decoding(request)];
        self.total()
            .saturating_add(more.into_iter().fold(0, u64::max))
    }

    /// With what [`StableDiffusion::generate_once`](crate::StableDiffusion::generate_once) needs beside them. It drops each part when it is
    /// done: the text encoder before it denoises, the UNet before it decodes.
    pub fn to_draw_once(&self, request: &Request) -> u64 {
        let stages = [
            (self.total(), encoding(request)),
            (self.unet + self.vae, denoising(request)),
            (self.vae, decoding(request)),
        ];
        let stages = stages.map(|(weights, more)| weights.saturating_add(more));
        stages.into_iter().fold(0, u64::max)
    }

    /// With what a training step needs beside them, for pictures of `resolution` pixels squared.
    pub fn to_train(&self, resolution: usize, batch: usize, gradient_checkpointing: bool) -> u64 {
        let pixels = area(resolution, resolution).saturating_mul(batch as u64);
        let each = match gradient_checkpointing {
            true => TRAINING_CHECKPOINTED,
            false => TRAINING,
        };
        self.total().saturating_add(pixels.saturating_mul(each))
    }
}

/// Pictures are denoised together.
fn denoising(request: &Request) -> u64 {
    area(request.width, request.height)
        .saturating_mul(request.count as u64)
        .saturating_mul(DENOISING)
}

/// And decoded one by one.
fn decoding(request: &Request) -> u64 {
    tile(request).saturating_mul(DECODING)
}

/// The one that it begins with, if there is one.
fn encoding(request: &Request) -> u64 {
    match request.init {
        Some(_) => tile(request).saturating_mul(ENCODING),
        None => 0,
    }
}

/// Pixels that the VAE works on at once.
fn tile(request: &Request) -> u64 {
    let pixels = area(request.width, request.height);
    match request.vae_tile {
        0 => pixels,
        side => pixels.min(area(side, side)),
    }
}

fn area(width: usize, height: usize) -> u64 {
    (width as u64).saturating_mul(height as u64)
}

fn bytes(dtype: FloatDType) -> u64 {
    DType::from(dtype).size() as u64
}

fn is_short(stored: Option<StoredType>) -> bool {
    matches!(stored, Some(StoredType::F16 | StoredType::BF16))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::InitImage;

    /// What `samecast generate` took at 512×512 with a checkpoint of Stable Diffusion 1.5's size in f16.
    #[test]
    fn what_is_told_is_what_was_measured() {
        let weights = WeightsMemory {
            text_encoder: 492_000_000,
            unet: 1_721_000_000,
            vae: 335_000_000,
        };
        let one = Request {
            width: 512,
            height: 512,
            ..Request::default()
        };
        let two = Request {
            count: 2,
            vae_tile: 128,
            ..one.clone()
        };
        let begun = Request {
            init: Some(InitImage {
                picture: RgbImage::new(512, 512),
                strength: 0.25,
            }),
            ..one.clone()
        };
        for (request, measured) in [(one, 2.59e9), (two, 2.60e9), (begun, 3.03e9)] {
            let told = weights.to_draw_once(&request) as f64;
            let apart = (told - measured) / measured;
            assert!(apart.abs() < 0.05, "{told:e}, measured {measured:e}");
        }
        // `samecast train` at batch 2, in f32.
        let weights = WeightsMemory {
            text_encoder: 492_000_000,
            unet: 3_438_000_000,
            vae: 335_000_000,
        };
        for (gradient_checkpointing, measured) in [(true, 6.4e9), (false, 7.48e9)] {
            let told = weights.to_train(512, 2, gradient_checkpointing) as f64;
            let apart = (told - measured) / measured;
            assert!(apart.abs() < 0.05, "{told:e}, measured {measured:e}");
        }
    }
}
