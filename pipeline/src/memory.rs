//! How much memory the work takes on the CPU, told before it begins.

use burn::tensor::{DType, FloatDType};
use lora_core::{Component, FactorSize, kohya_sizes};

use crate::{Checkpoint, MatrixType, OpenOptions, Part, Request, StoredType};

/// Bytes that activations take for each pixel of a batch, at most at once: the VAE's when it encodes and when it decodes, the UNet's in
/// denoising with guidance, a block of it in training with gradient checkpointing, all of it without. They are what peaks at 512×512 on the
/// CPU left beside the weights.
const ENCODING: u64 = 1_900;
const DECODING: u64 = 2_900;
const DENOISING: u64 = 1_000;
const TRAINING_CHECKPOINTED: u64 = 2_300;
const TRAINING: u64 = 6_200;

/// Bytes that each number of a LoRA's factors takes in training: itself, its gradient, and AdamW's two moments.
const TRAINED: u64 = 4 * 4;

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
            vae: part(Part::Vae, FloatDType::F32, options.vae_matrices()),
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
    pub fn to_train(
        &self,
        resolution: usize,
        batch: usize,
        gradient_checkpointing: bool,
        convolutions: TrainedConvolutions,
    ) -> u64 {
        let pixels = area(resolution, resolution).saturating_mul(batch as u64);
        // Without checkpointing, the kernels with their factors added in are kept until their gradients are known.
        let (each, kernels) = match gradient_checkpointing {
            true => (TRAINING_CHECKPOINTED, 0),
            false => (TRAINING, 4 * convolutions.kernels),
        };
        self.total()
            .saturating_add(pixels.saturating_mul(each))
            .saturating_add(kernels + TRAINED * convolutions.factors)
    }
}

/// What a LoCon trains of a UNet and a LoRA does not: its residual blocks, downsamplers and upsamplers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainedConvolutions {
    /// Numbers of the weights that get factors.
    pub kernels: u64,
    /// Numbers of these factors.
    pub factors: u64,
}

impl TrainedConvolutions {
    /// Those of a checkpoint's UNet, by [`kohya_sizes`]; none if no convolution is trained.
    pub fn of(checkpoint: &Checkpoint, size: FactorSize, conv: Option<FactorSize>) -> Self {
        let weights = checkpoint.weights(Part::Unet);
        let shapes = weights.names().filter_map(|(ours, _)| {
            let path = ours.strip_suffix(".weight")?;
            Some((path, weights.shape(ours)?))
        });
        Self::among(shapes, size, conv)
    }

    fn among<'a>(
        shapes: impl Iterator<Item = (&'a str, &'a [usize])>,
        size: FactorSize,
        conv: Option<FactorSize>,
    ) -> Self {
        let locon = kohya_sizes(Component::Unet, size, conv);
        let lora = kohya_sizes(Component::Unet, size, None);
        let mut sum = Self::default();
        for (path, shape) in shapes.filter(|(_, shape)| shape.len() > 1) {
            let Some(FactorSize { rank, .. }) = locon(path, shape) else {
                continue;
            };
            if lora(path, shape).is_none() {
                let fan_in: usize = shape[1..].iter().product();
                sum.kernels += (shape[0] * fan_in) as u64;
                sum.factors += (rank * (shape[0] + fan_in)) as u64;
            }
        }
        sum
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
        let none = TrainedConvolutions::default();
        for (gradient_checkpointing, measured) in [(true, 5.44e9), (false, 7.48e9)] {
            let told = weights.to_train(512, 2, gradient_checkpointing, none) as f64;
            let apart = (told - measured) / measured;
            assert!(apart.abs() < 0.05, "{told:e}, measured {measured:e}");
        }
        // And with the UNet in 16 bits.
        let short = WeightsMemory {
            unet: 1_719_000_000,
            ..weights
        };
        let told = short.to_train(512, 2, true, none) as f64;
        assert!((told - 3.73e9).abs() < 0.05 * 3.73e9, "{told:e}");
        // What `--conv-rank 32` adds to it, for all modules of a UNet of this size.
        let locon = TrainedConvolutions {
            kernels: 590_028_800,
            factors: 20_060_160,
        };
        for (gradient_checkpointing, measured) in [(true, 0.3e9), (false, 2.6e9)] {
            let told =
                |convolutions| weights.to_train(512, 2, gradient_checkpointing, convolutions);
            let more = (told(locon) - told(none)) as f64;
            assert!(
                (more - measured).abs() < 0.1e9,
                "{more:e}, measured {measured:e}"
            );
        }
    }

    #[test]
    fn a_locon_trains_what_a_lora_leaves() {
        let size = |rank| FactorSize { rank, alpha: 16.0 };
        let shapes: [(&str, &[usize]); 5] = [
            ("down_blocks.0.resnets.0.conv1", &[8, 4, 3, 3]),
            ("down_blocks.0.resnets.0.conv_shortcut", &[8, 4, 1, 1]),
            ("down_blocks.0.resnets.0.norm1", &[4]),
            ("down_blocks.0.attentions.0.proj_in", &[8, 8, 1, 1]),
            ("conv_in", &[4, 4, 3, 3]),
        ];
        let none = TrainedConvolutions::among(shapes.into_iter(), size(3), None);
        assert_eq!(none, TrainedConvolutions::default());
        let found = TrainedConvolutions::among(shapes.into_iter(), size(3), Some(size(2)));
        let expected = TrainedConvolutions {
            kernels: 8 * 36 + 8 * 4,
            factors: 2 * (8 + 36) + 3 * (8 + 4),
        };
        assert_eq!(found, expected);
    }
}
