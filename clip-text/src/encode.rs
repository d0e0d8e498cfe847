use std::num::NonZeroUsize;

use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};

use crate::model::ClipTextModel;
use crate::prompt::{Chunk, Chunking, Prompt};
use crate::tokenizer::Tokenizer;

/// How prompts are encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// In A1111's count: 1 is the last layer, 2 the one before.
    pub clip_skip: usize,
    /// As in [`Chunking`].
    pub comma_backtrack: usize,
    /// As in [`Chunking`].
    pub max_chunks: Option<NonZeroUsize>,
    /// Every prompt is filled up with empty chunks to this many: for prompts that are encoded apart and used together.
    pub min_chunks: usize,
}

impl Default for EncodeOptions {
    /// The last layer, and A1111's chunks.
    fn default() -> Self {
        let Chunking {
            comma_backtrack,
            max_chunks,
            ..
        } = Chunking::default();
        Self {
            clip_skip: 1,
            comma_backtrack,
            max_chunks,
            min_chunks: 1,
        }
    }
}

impl EncodeOptions {
    /// How [`encode`] cuts a prompt for this pair: chunks of what both read at once, 77 positions in Stable Diffusion.
    pub fn chunking(&self, model: &ClipTextModel, tokenizer: &Tokenizer) -> Chunking {
        Chunking {
            positions: model.positions().min(tokenizer.model_max_length()),
            comma_backtrack: self.comma_backtrack,
            max_chunks: self.max_chunks,
        }
    }
}

/// Prompts, encoded.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[prompts, chunks · positions, channels]`
    pub hidden: Tensor<3>,
    /// How many chunks each prompt has; the shorter ones are filled up with empty chunks.
    pub chunks: usize,
    /// For each prompt, the text that was cut off; empty where all was read.
    pub cut: Vec<String>,
}

/// Encodes prompts as A1111 does: chunk by chunk, then the hidden state of each token times its weight, and the whole chunk times the
/// number that brings its mean back to what it was.
///
/// A chunk in which every weight is 1 is left as the text encoder gave it, to the bit.
///
/// # Panics
/// If there is no prompt, `options.clip_skip` is not in 1 to [`ClipTextModel::layers`], or the tokenizer is not the model's:
/// [`Tokenizer::check`] finds out.
pub fn encode(
    model: &ClipTextModel,
    tokenizer: &Tokenizer,
    prompts: &[&Prompt],
    options: &EncodeOptions,
) -> Encoded {
    assert!(!prompts.is_empty(), "no prompt to encode");
    let chunking = options.chunking(model, tokenizer);
    let (mut rows, cut): (Vec<Vec<Chunk>>, Vec<String>) = prompts
        .iter()
        .map(|prompt| prompt.chunks(tokenizer, &chunking))
        .map(|chunks| (chunks.chunks, chunks.cut))
        .unzip();
    let chunks = rows
        .iter()
        .map(Vec::len)
        .fold(options.min_chunks.max(1), usize::max);
    let empty = Chunk::empty(tokenizer, chunking.positions);
    for row in &mut rows {
        row.resize(chunks, empty.clone());
    }
    let all: Vec<Chunk> = rows.into_iter().flatten().collect();

    let tokens: Vec<i64> = all
        .iter()
        .flat_map(|chunk| &chunk.tokens)
        .map(|&t| t.into())
        .collect();
    let shape = [all.len(), chunking.positions];
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, shape), &model.device());
    let hidden = weigh(model.forward_skip(tokens, options.clip_skip), &all);
    let [_, _, channels] = hidden.dims();
    Encoded {
        hidden: hidden.reshape([prompts.len(), chunks * chunking.positions, channels]),
        chunks,
        cut,
    }
}

/// `[chunks, positions, channels]` to the same, with the weights applied to the chunks that have some.
fn weigh(hidden: Tensor<3>, chunks: &[Chunk]) -> Tensor<3> {
    if !chunks.iter().any(Chunk::is_weighted) {
        return hidden;
    }
    let (device, dtype) = (hidden.device(), FloatDType::from(hidden.dtype()));
    let rows = chunks.iter().enumerate().map(|(i, chunk)| {
        let row = hidden.clone().narrow(0, i, 1);
        if !chunk.is_weighted() {
            return row;
        }
        // In f32: a mean of 59,136 halves would be a sum beyond their range.
        let row = row.cast(FloatDType::F32);
        let weights = TensorData::new(chunk.weights.clone(), [1, chunk.weights.len(), 1]);
        let weights = Tensor::<3>::from_data(weights, (&device, DType::F32));
        let weighted = row.clone() * weights;
        let mean = |tensor: Tensor<3>| tensor.mean().reshape([1, 1, 1]);
        let restore = mean(row) / mean(weighted.clone());
        (weighted * restore).cast(dtype)
    });
    Tensor::cat(rows.collect(), 0)
}
