use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use crate::TokenMerging;

/// What steers the denoising of one batch: text, and streams of keys and values that are attended to apart from it.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// Text embedding, `[batch, tokens, cross_attention_dim]`.
    pub text: Tensor<3>,
    /// Added to what the text gives, each for itself.
    pub streams: Vec<ImageStream>,
    /// Merges alike positions in self-attention, at less work and some loss; none is the full computation.
    pub merging: Option<TokenMerging>,
}

impl Conditioning {
    /// Steered by text alone: `[batch, tokens, cross_attention_dim]`.
    pub fn text(text: Tensor<3>) -> Self {
        Self {
            text,
            streams: Vec::new(),
            merging: None,
        }
    }

    /// Steered by a stream too.
    pub fn with(mut self, stream: ImageStream) -> Self {
        self.streams.push(stream);
        self
    }

    /// With alike positions merged in self-attention.
    pub fn merging(mut self, merging: TokenMerging) -> Self {
        self.merging = Some(merging);
        self
    }
}

/// Keys and values that every cross-attention layer attends to beside the text's, the decoupled cross-attention of IP-Adapter
/// (Ye et al. 2023, eq. 5). With `λᵢ` a layer's weight and `mᵢ` the mask, a layer gives
///
/// ```text
/// to_out(A(Q, K, V) + Σᵢ λᵢ mᵢ ⊙ A(Q, Kᵢ, Vᵢ))
/// ```
///
/// Its lists are in the order of [`UNet2DConditionModel::cross_attentions`](crate::UNet2DConditionModel::cross_attentions): down, up, mid.
#[derive(Clone, Debug)]
pub struct ImageStream {
    /// Keys and values of each layer.
    pub layers: Vec<KeyValue>,
    /// λ of each layer. A layer of weight 0 is left as it is without the stream, bit for bit.
    pub weights: Vec<f32>,
    /// Where in the picture the stream acts; everywhere if there is none.
    pub mask: Option<Mask>,
}

/// Keys and values of one layer, before they are split into heads.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// `[batch, tokens, channels]`, or `[1, tokens, channels]` for all of the batch.
    pub key: Tensor<3>,
    /// As the key.
    pub value: Tensor<3>,
}

impl ImageStream {
    /// A stream that acts everywhere, with weight 1.
    pub fn new(layers: Vec<KeyValue>) -> Self {
        Self {
            weights: vec![1.0; layers.len()],
            layers,
            mask: None,
        }
    }

    /// Multiplies every layer's weight.
    pub fn weighted(mut self, weight: f32) -> Self {
        for each in &mut self.weights {
            *each *= weight;
        }
        self
    }

    /// Acts where the mask says.
    pub fn masked(mut self, mask: Mask) -> Self {
        self.mask = Some(mask);
        self
    }

    /// What layer `layer` multiplies the stream's attention by, over `height × width` positions, or `None` where that is 0 throughout.
    pub(crate) fn strength(&self, layer: usize, size: [usize; 2]) -> Option<Strength> {
        let weight = self.weights[layer];
        if weight == 0.0 {
            return None;
        }
        let Some(mask) = &self.mask else {
            return Some(Strength::Everywhere(weight));
        };
        let mut cells = mask.resized(size);
        for cell in &mut cells {
            *cell *= weight;
        }
        cells
            .iter()
            .any(|&cell| cell != 0.0)
            .then_some(Strength::Each(cells))
    }
}

/// λ m of one layer.
pub(crate) enum Strength {
    /// One number for all positions.
    Everywhere(f32),
    /// One for each position, row by row.
    Each(Vec<f32>),
}

impl Strength {
    /// # Shapes
    /// - `mixed`, output: `[batch, heads, positions, head_dim]`
    pub fn scale(self, mixed: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Everywhere(1.0) => mixed,
            Self::Everywhere(weight) => mixed * weight,
            Self::Each(cells) => {
                let (device, dtype): (Device, _) = (mixed.device(), mixed.dtype());
                let positions = cells.len();
                let cells = TensorData::new(cells, [1, 1, positions, 1]);
                mixed * Tensor::<4>::from_data(cells, (&device, dtype))
            }
        }
    }
}

/// Where in a picture a stream acts: 1 in full, 0 not at all, anything between in part.
///
/// Each layer sees it at its own height and width, by bicubic interpolation (Keys 1981, a = −0.75) without smoothing, as diffusers'
/// `IPAdapterMaskProcessor.downsample` does it. Beside an edge that may overshoot 0 and 1 a little. diffusers guesses a layer's height
/// and width from their product, which at some sizes whose sides are no multiples of 64 pixels lays its mask askew; here they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    height: usize,
    width: usize,
    values: Arc<[f32]>,
}

impl Mask {
    /// A mask of the picture's `height` and `width` in pixels, its values row by row.
    ///
    /// # Panics
    /// If there are not `height · width` values, none at all, or such as are not finite.
    pub fn new([height, width]: [usize; 2], values: Vec<f32>) -> Self {
        assert!(
            height * width == values.len() && !values.is_empty(),
            "{} values for a mask of {height}×{width} pixels",
            values.len()
        );
        assert!(
            values.iter().all(|value| value.is_finite()),
            "a mask has a value that is not finite"
        );
        Self {
            height,
            width,
            values: values.into(),
        }
    }

    /// Height and width, in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The values at another height and width, row by row.
    pub fn resized(&self, [height, width]: [usize; 2]) -> Vec<f32> {
        let columns = taps(self.width, width);
        let mut narrow = Vec::with_capacity(self.height * width);
        for row in self.values.chunks_exact(self.width) {
            narrow.extend(columns.iter().map(|taps| {
                taps.iter()
                    .map(|&(at, weight)| row[at] * weight)
                    .sum::<f32>()
            }));
        }
        let mut out = Vec::with_capacity(height * width);
        for taps in taps(self.height, height) {
            out.extend((0..width).map(|column| {
                taps.iter()
                    .map(|&(at, weight)| narrow[at * width + column] * weight)
                    .sum::<f32>()
            }));
        }
        out
    }
}

/// For each of `to` cells, the four of `from` that it is made of and their shares; beyond the ends the last cell repeats.
fn taps(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|cell| {
            let centre = scale * (cell as f32 + 0.5) - 0.5;
            let left = centre.floor();
            let t = centre - left;
            let shares = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            std::array::from_fn(|tap| {
                let at = left as isize + tap as isize - 1;
                (at.clamp(0, from as isize - 1) as usize, shares[tap])
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::FloatDType;

    #[test]
    fn a_mask_keeps_its_values_at_its_own_size() {
        let values: Vec<f32> = (0..35).map(|i| (i as f32 * 0.7).sin()).collect();
        let mask = Mask::new([5, 7], values.clone());
        assert_eq!(mask.resized([5, 7]), values);
    }

    #[test]
    fn a_mask_is_zero_away_from_its_edges() {
        let values = (0..64 * 64).map(|i| if i % 64 < 32 { 1.0 } else { 0.0 });
        let mask = Mask::new([64, 64], values.collect());
        let small = mask.resized([8, 8]);
        for row in small.chunks_exact(8) {
            assert!(
                row[..3].iter().all(|cell| (cell - 1.0).abs() < 1e-6),
                "{row:?}"
            );
            assert!(row[5..].iter().all(|&cell| cell == 0.0), "{row:?}");
        }
    }

    #[test]
    fn a_mask_multiplies_in_the_model_s_number_type() {
        let device = parity::device();
        for dtype in [FloatDType::F32, FloatDType::F16, FloatDType::BF16] {
            let mixed = Tensor::<4>::ones([2, 1, 3, 2], &device).cast(dtype);
            let scaled = Strength::Each(vec![0.0, 0.5, -1.0]).scale(mixed.clone());
            assert_eq!(scaled.dtype(), mixed.dtype());
            let once = [0.0, 0.0, 0.5, 0.5, -1.0, -1.0];
            assert_eq!(parity::values(scaled), [once, once].concat());
        }
    }

    #[test]
    #[should_panic(expected = "5 values for a mask of 2×3 pixels")]
    fn a_mask_has_a_value_for_each_pixel() {
        Mask::new([2, 3], vec![0.0; 5]);
    }
}
