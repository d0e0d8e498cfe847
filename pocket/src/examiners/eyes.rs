use std::ops::Range;

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

/// Channels that a norm takes together.
const TOGETHER: usize = 8;
/// Where a face is looked for, with room around it: rows and columns of a picture.
const MIDDLE: [Range<usize>; 2] = [12..76, 16..80];
/// What an examiner's last layer reads.
pub(super) const FEATURES: usize = 80 * 4 * 4 + 64 * 3 * 3;
/// Pictures that are read at once.
const AT_ONCE: usize = 32;

/// The part that both examiners have, each with weights of its own: one look at the middle of the picture, where a look or the shape of an
/// eye is a matter of few pixels, and one at the whole, at half the size.
#[derive(Module, Debug)]
pub struct Eyes {
    middle: Trunk,
    whole: Trunk,
}

impl Eyes {
    /// Eyes with random weights.
    pub fn new(device: &Device) -> Self {
        Self {
            middle: Trunk::new(&[32, 40, 64, 80], device),
            whole: Trunk::new(&[24, 32, 64, 64], device),
        }
    }

    /// # Shapes
    /// - `image`: `[batch, 3, 96, 96]`, values in `[-1, 1]`
    /// - output: `[batch, 1856]`
    pub fn forward(&self, image: Tensor<4>) -> Tensor<2> {
        let [batch, colours, _, _] = image.dims();
        let [rows, columns] = MIDDLE;
        let middle = image.clone().slice([0..batch, 0..colours, rows, columns]);
        let middle = self.middle.forward(middle);
        let whole = self.whole.forward(halve(image));
        Tensor::cat(vec![middle, whole], 1)
    }
}

/// A residual network (He et al. 2015) of 3×3 convolutions that keep the size, with norms in front of them and means of 2 × 2 places behind
/// each level.
#[derive(Module, Debug)]
pub struct Trunk {
    conv_in: Conv2d,
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
    /// A trunk of these channels, with random weights.
    fn new(widths: &[usize], device: &Device) -> Self {
        let level = |width: &[usize]| Level {
            norm1: norm(width[0], device),
            conv1: conv3x3(width[0], width[1], device),
            norm2: norm(width[1], device),
            conv2: conv3x3(width[1], width[1], device),
        };
        Self {
            conv_in: conv3x3(12, widths[0], device),
            levels: widths.windows(2).map(level).collect(),
            norm_out: norm(widths[widths.len() - 1], device),
        }
    }

    /// # Shapes
    /// - `image`: `[batch, 3, height, width]`
    /// - output: `[batch, channels · height / 16 · width / 16]`
    fn forward(&self, image: Tensor<4>) -> Tensor<2> {
        // Squares of 2 × 2 pixels become channels, so that no detail is lost.
        let [batch, colours, height, width] = image.dims();
        let squares = image
            .reshape([batch, colours, height / 2, 2, width / 2, 2])
            .permute([0, 1, 3, 5, 2, 4])
            .reshape([batch, colours * 4, height / 2, width / 2]);
        let mut hidden = conv2d(squares, &self.conv_in);
        for (index, level) in self.levels.iter().enumerate() {
            if index > 0 {
                hidden = halve(hidden);
            }
            hidden = level.forward(hidden);
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
