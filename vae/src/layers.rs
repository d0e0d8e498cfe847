use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use sd_kernels::linear;

/// ε of every norm of the VAE.
const EPSILON: f64 = 1e-6;

pub(crate) fn conv3x3(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

pub(crate) fn conv1x1(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [1, 1]).init(device)
}

pub(crate) fn norm(groups: usize, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(groups, channels)
        .with_epsilon(EPSILON)
        .init(device)
}

/// Residual block of two 3×3 convolutions.
#[derive(Module, Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    pub(crate) fn new(from: usize, to: usize, groups: usize, device: &Device) -> Self {
        Self {
            norm1: norm(groups, from, device),
            conv1: conv3x3(from, to, device),
            norm2: norm(groups, to, device),
            conv2: conv3x3(to, to, device),
            conv_shortcut: (from != to).then(|| conv1x1(from, to, device)),
        }
    }

    /// `[batch, channels, height, width]` in and out.
    pub(crate) fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.conv_shortcut {
            Some(conv) => sd_kernels::conv2d(hidden.clone(), conv),
            None => hidden.clone(),
        };
        let hidden = sd_kernels::group_norm_silu(hidden, &self.norm1);
        let hidden = sd_kernels::conv2d(hidden, &self.conv1);
        let hidden = sd_kernels::group_norm_silu(hidden, &self.norm2);
        sd_kernels::add(sd_kernels::conv2d(hidden, &self.conv2), shortcut)
    }
}

/// Self-attention over all positions, with a single head.
#[derive(Module, Debug)]
pub struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: [Linear; 1],
}

impl Attention {
    fn new(channels: usize, groups: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(channels, channels).init(device);
        Self {
            group_norm: norm(groups, channels, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: [linear()],
        }
    }

    /// `[batch, channels, height, width]` in and out.
    fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = hidden.dims();
        let positions = sd_kernels::group_norm(hidden.clone(), &self.group_norm)
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2);
        let one_head = |tensor: Tensor<3>| tensor.unsqueeze_dim::<4>(1);
        let query = one_head(linear(positions.clone(), &self.to_q));
        let key = one_head(linear(positions.clone(), &self.to_k));
        let value = one_head(linear(positions, &self.to_v));
        let mixed = sd_kernels::attention(query, key, value, false).squeeze_dim::<3>(1);
        let mixed = linear(mixed, &self.to_out[0]);
        let hidden = hidden.reshape([batch, channels, height * width]);
        sd_kernels::add(mixed.swap_dims(1, 2), hidden).reshape([batch, channels, height, width])
    }
}

/// The coarsest level: a residual block, attention, a residual block.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: Option<[Attention; 1]>,
    resnets: [ResnetBlock2D; 2],
}

impl MidBlock {
    pub(crate) fn new(channels: usize, groups: usize, attends: bool, device: &Device) -> Self {
        Self {
            attentions: attends.then(|| [Attention::new(channels, groups, device)]),
            resnets: [0, 1].map(|_| ResnetBlock2D::new(channels, channels, groups, device)),
        }
    }

    pub(crate) fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        let mut hidden = self.resnets[0].forward(hidden);
        if let Some([attention]) = &self.attentions {
            hidden = attention.forward(hidden);
        }
        self.resnets[1].forward(hidden)
    }
}

/// A level of the encoder.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResnetBlock2D>,
    downsamplers: Option<[Downsample2D; 1]>,
}

impl DownBlock {
    pub(crate) fn new(
        [from, to]: [usize; 2],
        layers: usize,
        groups: usize,
        downsample: bool,
        device: &Device,
    ) -> Self {
        Self {
            resnets: resnets([from, to], layers, groups, device),
            downsamplers: downsample.then(|| {
                [Downsample2D {
                    conv: Conv2dConfig::new([to, to], [3, 3])
                        .with_stride([2, 2])
                        // One row below and one column to the right, as the model was trained.
                        .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1))
                        .init(device),
                }]
            }),
        }
    }

    pub(crate) fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        let hidden = self.resnets.iter().fold(hidden, |x, r| r.forward(x));
        match &self.downsamplers {
            Some([downsampler]) => sd_kernels::conv2d(hidden, &downsampler.conv),
            None => hidden,
        }
    }
}

/// A level of the decoder.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<ResnetBlock2D>,
    upsamplers: Option<[Upsample2D; 1]>,
}

impl UpBlock {
    pub(crate) fn new(
        [from, to]: [usize; 2],
        layers: usize,
        groups: usize,
        upsample: bool,
        device: &Device,
    ) -> Self {
        Self {
            resnets: resnets([from, to], layers, groups, device),
            upsamplers: upsample.then(|| {
                [Upsample2D {
                    conv: conv3x3(to, to, device),
                }]
            }),
        }
    }

    pub(crate) fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        let hidden = self.resnets.iter().fold(hidden, |x, r| r.forward(x));
        match &self.upsamplers {
            Some([upsampler]) => upsampler.forward(hidden),
            None => hidden,
        }
    }
}

fn resnets(
    [from, to]: [usize; 2],
    layers: usize,
    groups: usize,
    device: &Device,
) -> Vec<ResnetBlock2D> {
    (0..layers)
        .map(|layer| ResnetBlock2D::new(if layer == 0 { from } else { to }, to, groups, device))
        .collect()
}

/// Half the height and width.
#[derive(Module, Debug)]
pub struct Downsample2D {
    conv: Conv2d,
}

/// Twice the height and width by repeating each pixel, then a convolution.
#[derive(Module, Debug)]
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    fn forward(&self, hidden: Tensor<4>) -> Tensor<4> {
        sd_kernels::upsample_conv2d(hidden, &self.conv)
    }
}
