//! How much memory the work takes, told before it begins.

use burn::tensor::{DType, FloatDType};

use crate::{Checkpoint, MatrixType, OpenOptions, Part, Request, StableDiffusion, StoredType};

/// Bytes that activations take for each pixel of a batch, at most at once: the VAE's in drawing, the UNet's in denoising, a block of it in
/// training with gradient checkpointing. Those of drawing and of training are what peaks at 512×512 on the CPU left beside the weights; that of
/// denoising is an estimate.
const DRAWING: u64 = 2_900;
const DENOISING: u64 = 1_000;
const TRAINING: u64 = 3_500;

impl StableDiffusion {
    /// Bytes that the weights of an opened checkpoint will take.
    pub fn weights_memory(
        checkpoint: &Checkpoint,
        options: &OpenOptions,
        dtype: FloatDType,
    ) -> u64 {
        let parts = [
            (Part::TextEncoder, dtype, MatrixType::Computed),
            (Part::Unet, dtype, options.unet_matrices),
            (Part::Vae, FloatDType::F32, MatrixType::Computed),
        ];
        let part = |(part, dtype, matrices): (Part, FloatDType, MatrixType)| -> u64 {
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
        parts.into_iter().map(part).sum()
    }

    /// Bytes that drawing takes beside the weights, on the CPU. Pictures are denoised together and decoded one by one. That is for
    /// [`generate`](Self::generate); [`generate_once`](Self::generate_once) needs less, since most weights are gone when it decodes.
    pub fn drawing_memory(request: &Request) -> u64 {
        let pixels = area(request.width, request.height);
        let tile = match request.vae_tile {
            0 => pixels,
            side => pixels.min(area(side, side)),
        };
        let batch = pixels.saturating_mul(request.count as u64);
        (tile.saturating_mul(DRAWING)).max(batch.saturating_mul(DENOISING))
    }

    /// Bytes that a training step with gradient checkpointing takes beside the weights, on the CPU.
    pub fn training_memory(resolution: usize, batch: usize) -> u64 {
        let batch = area(resolution, resolution).saturating_mul(batch as u64);
        batch.saturating_mul(TRAINING)
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
