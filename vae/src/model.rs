use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor, assert_shape};

use crate::VaeConfig;
use crate::layers::{DownBlock, MidBlock, UpBlock, conv1x1, conv3x3, norm};

/// The variational autoencoder of Stable Diffusion (Kingma & Welling 2013; Rombach et al. 2022): images to latents and back.
///
/// Latents are in the UNet's units here, that is, times [`VaeConfig::scaling_factor`]. Field names are diffusers', so a parameter's path in
/// the module is its key in a checkpoint.
#[derive(Module, Debug)]
pub struct AutoencoderKL {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    #[module(skip)]
    config: VaeConfig,
}

/// What an image may be as a latent: a normal distribution for each cell.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[batch, latent_channels, height, width]`, in the UNet's units.
    pub mean: Tensor<4>,
    /// Standard deviation, `[batch, latent_channels, height, width]`, in the UNet's units.
    pub deviation: Tensor<4>,
}

impl Posterior {
    /// The latent that standard normal `noise` of the mean's shape picks.
    pub fn sample(self, noise: Tensor<4>) -> Tensor<4> {
        self.mean + self.deviation * noise
    }
}

impl AutoencoderKL {
    pub(crate) fn new(config: &VaeConfig, device: &Device) -> Self {
        let latent = config.latent_channels;
        Self {
            encoder: Encoder::new(config, device),
            decoder: Decoder::new(config, device),
            quant_conv: config
                .use_quant_conv
                .then(|| conv1x1(2 * latent, 2 * latent, device)),
            post_quant_conv: config
                .use_post_quant_conv
                .then(|| conv1x1(latent, latent, device)),
            config: config.clone(),
        }
    }

    /// # Shapes
    /// - `image`: `[batch, 3, height, width]` in pixels, values in `[-1, 1]`; height and width multiples of [`VaeConfig::pixels_per_cell`]
    /// - output: `[batch, latent_channels, height / 8, width / 8]`
    ///
    /// # Panics
    /// If the image has not the model's channels.
    pub fn encode(&self, image: Tensor<4>) -> Posterior {
        self.posterior(self.moments(image))
    }

    /// Mean and log variance of a picture's latents, `[batch, 2 · latent_channels, height / 8, width / 8]`, in the VAE's own units.
    pub(crate) fn moments(&self, image: Tensor<4>) -> Tensor<4> {
        assert_shape!(image, [_, self.config.in_channels, _, _]);
        let hidden = self.encoder.forward(image);
        match &self.quant_conv {
            Some(conv) => sd_kernels::conv2d(hidden, conv),
            None => hidden,
        }
    }

    /// The distribution that moments tell of.
    pub(crate) fn posterior(&self, moments: Tensor<4>) -> Posterior {
        let mut halves = moments.chunk(2, 1).into_iter();
        let (Some(mean), Some(log_variance)) = (halves.next(), halves.next()) else {
            unreachable!("the encoder gives mean and log variance");
        };
        let shift = self.config.shift_factor.unwrap_or(0.0);
        Posterior {
            mean: (mean - shift) * self.config.scaling_factor,
            deviation: (log_variance.clamp(-30.0, 20.0) * 0.5).exp() * self.config.scaling_factor,
        }
    }

    /// # Shapes
    /// - `latent`: `[batch, latent_channels, height, width]`, in the UNet's units
    /// - output: `[batch, 3, 8 · height, 8 · width]`, values about `[-1, 1]`, not clamped
    ///
    /// # Panics
    /// If the latent has not the model's channels.
    pub fn decode(&self, latent: Tensor<4>) -> Tensor<4> {
        assert_shape!(latent, [_, self.config.latent_channels, _, _]);
        let latent = latent / self.config.scaling_factor + self.config.shift_factor.unwrap_or(0.0);
        let latent = match &self.post_quant_conv {
            Some(conv) => sd_kernels::conv2d(latent, conv),
            None => latent,
        };
        self.decoder.forward(latent)
    }

    /// Gradients reach the decoder alone, so that training leaves all latents as they are.
    pub fn with_frozen_encoder(self) -> Self {
        Self {
            encoder: self.encoder.no_grad(),
            quant_conv: self.quant_conv.map(Module::no_grad),
            ..self
        }
    }

    /// The sizes that it was made with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }
}

/// Image to moments of the latent.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(config: &VaeConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let (groups, last) = (config.norm_num_groups, channels.len() - 1);
        let down_blocks = (0..=last)
            .map(|level| {
                let from = channels[level.saturating_sub(1)];
                let sizes = [from, channels[level]];
                DownBlock::new(sizes, config.layers_per_block, groups, level < last, device)
            })
            .collect();
        Self {
            conv_in: conv3x3(config.in_channels, channels[0], device),
            down_blocks,
            mid_block: MidBlock::new(
                channels[last],
                groups,
                config.mid_block_add_attention,
                device,
            ),
            conv_norm_out: norm(groups, channels[last], device),
            conv_out: conv3x3(channels[last], 2 * config.latent_channels, device),
        }
    }

    fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        let hidden = sd_kernels::conv2d(image, &self.conv_in);
        let hidden = self.down_blocks.iter().fold(hidden, |x, b| b.forward(x));
        let hidden = self.mid_block.forward(hidden);
        let hidden = sd_kernels::group_norm_silu(hidden, &self.conv_norm_out);
        sd_kernels::conv2d(hidden, &self.conv_out)
    }
}

/// Latent to image.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(config: &VaeConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let (groups, last) = (config.norm_num_groups, channels.len() - 1);
        let up_blocks = (0..=last)
            .rev()
            .map(|level| {
                let from = channels[(level + 1).min(last)];
                let sizes = [from, channels[level]];
                UpBlock::new(
                    sizes,
                    config.layers_per_block + 1,
                    groups,
                    level > 0,
                    device,
                )
            })
            .collect();
        Self {
            conv_in: conv3x3(config.latent_channels, channels[last], device),
            mid_block: MidBlock::new(
                channels[last],
                groups,
                config.mid_block_add_attention,
                device,
            ),
            up_blocks,
            conv_norm_out: norm(groups, channels[0], device),
            conv_out: conv3x3(channels[0], config.out_channels, device),
        }
    }

    fn forward(&self, latent: Tensor<4>) -> Tensor<4> {
        let hidden = sd_kernels::conv2d(latent, &self.conv_in);
        let hidden = self.mid_block.forward(hidden);
        let hidden = self.up_blocks.iter().fold(hidden, |x, b| b.forward(x));
        let hidden = sd_kernels::group_norm_silu(hidden, &self.conv_norm_out);
        sd_kernels::conv2d(hidden, &self.conv_out)
    }
}
