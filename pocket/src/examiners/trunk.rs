use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, PaddingConfig2d};
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use sd_kernels::{conv2d, group_norm_silu};

use crate::school::SIZE;

/// Channels at a half, a quarter, an eighth and a sixteenth of a picture's side.
const WIDTHS: [usize; 4] = [32, 48, 96, 96];
/// Channels that a norm takes together.
const TOGETHER: usize = 8;
/// What an examiner's last layer reads: the last level's channels at 3 × 3 places.
pub(super) const FEATURES: usize = WIDTHS[3] * 9;
/// Pictures that are read at once.
const AT_ONCE: usize = 32;

/// The part that both examiners have, each with weights of its own: a residual network (He et al. 2015) of 3×3 convolutions that keep the
/// size, with norms in front of them and means of 2 × 2 places between the levels.
#[derive(Module, Debug)]
pub struct Trunk {
    conv_in: Conv2d,
    norm_in: GroupNorm,
    levels: Vec<Level>,
    norm_out: GroupNorm,
}

/// Two convolutions; the second is a residual one.
#[derive(Module, Debug)]
pub struct Level {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
}

impl Trunk {
    /// A trunk with random weights.
    pub fn new(device: &Device) -> Self {
        let level = |width: &[usize]| Level {
            norm1: norm(width[0], device),
            conv1: conv3x3(width[0], width[1], device),
            norm2: norm(width[1], device),
            conv2: conv3x3(width[1], width[1], device),
        };
        Self {
            conv_in: conv3x3(12, WIDTHS[0], device),
            norm_in: norm(WIDTHS[0], device),
            levels: WIDTHS.windows(2).map(level).collect(),
            norm_out: norm(WIDTHS[3], device),
        }
    }

    /// # Shapes
    /// - `image`: `[batch, 3, 96, 96]`, values in `[-1, 1]`
    /// - output: `[batch, 864]`
    pub fn forward(&self, image: Tensor<4>) -> Tensor<2> {
        // Squares of 2 × 2 pixels become channels, so that no detail is lost.
        let [batch, colours, height, width] = image.dims();
        let squares = image
            .reshape([batch, colours, height / 2, 2, width / 2, 2])
            .permute([0, 1, 3, 5, 2, 4])
            .reshape([batch, colours * 4, height / 2, width / 2]);
        let edges = conv2d(squares, &self.conv_in);
        // Means of what is not linear: those of lines would be nothing.
        let mut hidden = group_norm_silu(edges, &self.norm_in);
        for level in &self.levels {
            hidden = level.forward(halve(hidden));
        }
        let hidden = halve(group_norm_silu(hidden, &self.norm_out));
        hidden.flatten(1, 3)
    }
}

impl Level {
    /// # Shapes
    /// - `hidden`: `[batch, from, height, width]`
    /// - output: `[batch, to, height, width]`
    fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        let hidden = conv2d(group_norm_silu(hidden, &self.norm1), &self.conv1);
        let change = conv2d(group_norm_silu(hidden.clone(), &self.norm2), &self.conv2);
        hidden + change
    }
}

fn conv3x3(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

fn norm(channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(channels / TOGETHER, channels).init(device)
}

/// The means of 2 × 2 places.
fn halve(hidden: Tensor<4>) -> Tensor<4> {
    avg_pool2d(hidden, AvgPoolOptions::new([2, 2]).with_stride([2, 2]))
}

/// Pictures as numbers: `[batch, 3, 96, 96]`, in `[-1, 1]`. Those of another size are resized.
pub(super) fn tensor_of(pictures: &[RgbImage], device: &Device) -> Tensor<4> {
    let side = SIZE as u32;
    let mut values = Vec::with_capacity(pictures.len() * 3 * SIZE * SIZE);
    for picture in pictures {
        let resized;
        let fitting = if picture.dimensions() == (side, side) {
            picture
        } else {
            resized = resize(picture, side, side, FilterType::Triangle);
            &resized
        };
        for channel in 0..3 {
            let bytes = fitting.iter().skip(channel).step_by(3);
            values.extend(bytes.map(|&byte| f32::from(byte) / 127.5 - 1.0));
        }
    }
    Tensor::from_data(
        TensorData::new(values, [pictures.len(), 3, SIZE, SIZE]),
        device,
    )
}

/// A model's output for each picture, some pictures at a time.
pub(super) fn read_each(
    pictures: &[RgbImage],
    device: &Device,
    read: impl Fn(Tensor<4>) -> Tensor<2>,
) -> Vec<Vec<f32>> {
    let mut rows = Vec::with_capacity(pictures.len());
    for some in pictures.chunks(AT_ONCE) {
        let output = read(tensor_of(some, device));
        let [_, width] = output.dims();
        let numbers: Vec<f32> = output.into_data().iter::<f32>().collect();
        rows.extend(numbers.chunks_exact(width).map(<[f32]>::to_vec));
    }
    rows
}
