//! How much memory the work takes on the CPU, told before it begins.

use burn::tensor::{DType, FloatDType};

use crate::{Checkpoint, MatrixType, OpenOptions, Part, Request, StoredType};

/// Bytes that activations take for each pixel of a batch, at most at once: the VAE's in drawing, the UNet's in denoising, a block of it in
/// training with gradient checkpointing, all of it without. They are what peaks at 512×512 on the CPU left beside the weights.
const DECODING: u64 = 2_900;
const DENOISING: u64 = 1_000;
const TRAINING: u64 = 3_500;

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
        let more = denoising(request).max(decoding(request));
        self.total().saturating_add(more)
    }

    /// With what [`StableDiffusion::generate_once`](crate::StableDiffusion::generate_once) needs beside them: when it decodes, the other parts are gone.
    pub fn to_draw_once(&self, request: &Request) -> u64 {
        let whole = self.total().saturating_add(denoising(request));
        whole.max(self.vae.saturating_add(decoding(request)))
    }

    /// With what a training step with gradient checkpointing needs beside them, for pictures of `resolution` pixels squared.
    pub fn to_train(&self, resolution: usize, batch: usize) -> u64 {
        let pixels = area(resolution, resolution).saturating_mul(batch as u64);
        self.total().saturating_add(pixels.saturating_mul(TRAINING))
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
    let pixels = area(request.width, request.height);
    let tile = match request.vae_tile {
        0 => pixels,
        side => pixels.min(area(side, side)),
    };
    tile.saturating_mul(DECODING)
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
