use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

/// A 3×3 convolution that keeps height and width.
pub(crate) fn conv3x3(from: usize, to: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// Residual block with the time embedding added between its convolutions (Ho et al. 2020, appendix B).
#[derive(Module, Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

/// What all residual blocks of a UNet share.
#[derive(Clone, Debug)]
pub(crate) struct ResnetConfig {
    pub time_channels: usize,
    pub groups: usize,
    pub epsilon: f64,
}

impl ResnetConfig {
    pub(crate) fn init(&self, from: usize, to: usize, device: &Device) -> ResnetBlock2D {
        let norm = |channels| {
            GroupNormConfig::new(self.groups, channels)
                .with_epsilon(self.epsilon)
                .init(device)
        };
        ResnetBlock2D {
            norm1: norm(from),
            conv1: conv3x3(from, to, device),
            time_emb_proj: LinearConfig::new(self.time_channels, to).init(device),
            norm2: norm(to),
            conv2: conv3x3(to, to, device),
            conv_shortcut: (from != to).then(|| Conv2dConfig::new([from, to], [1, 1]).init(device)),
        }
    }
}

impl ResnetBlock2D {
    /// # Shapes
    /// - `hidden`: `[batch, channels, height, width]`
    /// - `time`: `[batch, time_channels]`, past its SiLU
    /// - output: `[batch, out_channels, height, width]`
    pub(crate) fn forward(&self, hidden: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let shortcut = match &self.conv_shortcut {
            Some(conv) => sd_kernels::conv2d(hidden.clone(), conv),
            None => hidden.clone(),
        };
        let hidden = sd_kernels::group_norm_silu(hidden, &self.norm1);
        let hidden = sd_kernels::conv2d(hidden, &self.conv1)
            + sd_kernels::linear(time, &self.time_emb_proj).unsqueeze_dims(&[2, 3]);
        let hidden = sd_kernels::group_norm_silu(hidden, &self.norm2);
        sd_kernels::add(sd_kernels::conv2d(hidden, &self.conv2), shortcut)
    }
}
