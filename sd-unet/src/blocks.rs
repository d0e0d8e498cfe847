use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};

use crate::Conditioning;
use crate::attention::{Transformer2DModel, TransformerConfig};
use crate::resnet::{ResnetBlock2D, ResnetConfig, conv3x3};

/// A level on the way down: residual blocks, each with its transformer where the level has them, then half the size.
#[derive(Module, Debug)]
pub struct DownBlock {
    attentions: Option<Vec<Transformer2DModel>>,
    resnets: Vec<ResnetBlock2D>,
    downsamplers: Option<[Downsample2D; 1]>,
}

impl DownBlock {
    pub(crate) fn new(
        [from, to]: [usize; 2],
        layers: usize,
        resnet: &ResnetConfig,
        transformer: Option<&TransformerConfig>,
        downsample: bool,
        device: &Device,
    ) -> Self {
        Self {
            attentions: transformer.map(|t| (0..layers).map(|at| t.init(at, device)).collect()),
            resnets: (0..layers)
                .map(|layer| resnet.init(if layer == 0 { from } else { to }, to, device))
                .collect(),
            downsamplers: downsample.then(|| [Downsample2D::new(to, device)]),
        }
    }

    /// How many layers there are, each of which leaves a skip for the way up: the residual blocks, and what halves the size.
    pub(crate) fn layers(&self) -> usize {
        self.resnets.len() + self.downsamplers.iter().len()
    }

    /// Layer `at`.
    pub(crate) fn layer(
        &self,
        at: usize,
        hidden: Tensor<4>,
        time: &Tensor<2>,
        conditioning: &Conditioning,
    ) -> Tensor<4> {
        match (self.resnets.get(at), &self.downsamplers) {
            (Some(resnet), _) => {
                let hidden = resnet.forward(hidden, time.clone());
                match &self.attentions {
                    Some(attentions) => attentions[at].forward(hidden, conditioning),
                    None => hidden,
                }
            }
            (None, Some([downsampler])) => sd_kernels::conv2d(hidden, &downsampler.conv),
            (None, None) => hidden,
        }
    }
}

/// The coarsest level: a residual block, a transformer, a residual block.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: [Transformer2DModel; 1],
    resnets: [ResnetBlock2D; 2],
}

impl MidBlock {
    pub(crate) fn new(
        channels: usize,
        resnet: &ResnetConfig,
        transformer: &TransformerConfig,
        device: &Device,
    ) -> Self {
        Self {
            attentions: [transformer.init(0, device)],
            resnets: [0, 1].map(|_| resnet.init(channels, channels, device)),
        }
    }

    pub(crate) fn forward(
        &self,
        hidden: Tensor<4>,
        time: &Tensor<2>,
        conditioning: &Conditioning,
    ) -> Tensor<4> {
        let hidden = self.resnets[0].forward(hidden, time.clone());
        let hidden = self.attentions[0].forward(hidden, conditioning);
        self.resnets[1].forward(hidden, time.clone())
    }
}

/// A level on the way up: residual blocks over the hidden state and a skip, each with its transformer, then twice the size.
#[derive(Module, Debug)]
pub struct UpBlock {
    attentions: Option<Vec<Transformer2DModel>>,
    resnets: Vec<ResnetBlock2D>,
    upsamplers: Option<[Upsample2D; 1]>,
}

impl UpBlock {
    /// `skips` are the channels of the skips, in the order in which they are taken.
    pub(crate) fn new(
        [from, to]: [usize; 2],
        skips: &[usize],
        resnet: &ResnetConfig,
        transformer: Option<&TransformerConfig>,
        upsample: bool,
        device: &Device,
    ) -> Self {
        Self {
            attentions: transformer
                .map(|t| (0..skips.len()).map(|at| t.init(at, device)).collect()),
            resnets: skips
                .iter()
                .enumerate()
                .map(|(layer, skip)| {
                    resnet.init(if layer == 0 { from } else { to } + skip, to, device)
                })
                .collect(),
            upsamplers: upsample.then(|| {
                [Upsample2D {
                    conv: conv3x3(to, to, device),
                }]
            }),
        }
    }

    /// How many layers there are, each of which takes a skip: the residual blocks.
    pub(crate) fn layers(&self) -> usize {
        self.resnets.len()
    }

    /// Layer `at`, over the hidden state and a skip.
    pub(crate) fn layer(
        &self,
        at: usize,
        hidden: Tensor<4>,
        skip: Tensor<4>,
        time: &Tensor<2>,
        conditioning: &Conditioning,
    ) -> Tensor<4> {
        let hidden = Tensor::cat(vec![hidden, skip], 1);
        let hidden = self.resnets[at].forward(hidden, time.clone());
        match &self.attentions {
            Some(attentions) => attentions[at].forward(hidden, conditioning),
            None => hidden,
        }
    }

    /// Whether it ends with twice the size.
    pub(crate) fn doubles(&self) -> bool {
        self.upsamplers.is_some()
    }

    /// What comes after the layers: twice the size, which the next skip says exactly.
    pub(crate) fn upsample(&self, hidden: Tensor<4>, next: Option<&Tensor<4>>) -> Tensor<4> {
        match (&self.upsamplers, next) {
            (Some([upsampler]), Some(next)) => {
                let [_, _, height, width] = next.dims();
                upsampler.forward(hidden, [height, width])
            }
            _ => hidden,
        }
    }
}

/// Half the height and width, rounded up.
#[derive(Module, Debug)]
pub struct Downsample2D {
    conv: Conv2d,
}

impl Downsample2D {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            conv: Conv2dConfig::new([channels, channels], [3, 3])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
        }
    }
}

/// Twice the height and width by repeating each cell, then a convolution.
#[derive(Module, Debug)]
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// Doubled, then cut to `size`: where that is odd, nearest interpolation picks the very same cells.
    fn forward(&self, hidden: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let [batch, channels, height, width] = hidden.dims();
        if size == [2 * height, 2 * width] {
            return sd_kernels::upsample_conv2d(hidden, &self.conv);
        }
        let doubled = hidden
            .reshape([batch, channels, height, 1, width, 1])
            .expand([batch, channels, height, 2, width, 2])
            .reshape([batch, channels, 2 * height, 2 * width]);
        let cut = doubled.slice([0..batch, 0..channels, 0..size[0], 0..size[1]]);
        sd_kernels::conv2d(cut, &self.conv)
    }
}
