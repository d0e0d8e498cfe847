use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, FloatDType, Tensor, assert_shape};

use crate::Conditioning;
use crate::attention::TransformerConfig;
use crate::blocks::{DownBlock, MidBlock, UpBlock};
use crate::config::{CrossAttention, DownBlockType, UNetConfig, UpBlockType};
use crate::resnet::{ResnetConfig, conv3x3};
use crate::time::{TimestepEmbedding, Timesteps, sinusoids};

/// What the deep layers made in one evaluation, for [`UNet2DConditionModel::forward_from`].
#[derive(Clone, Debug)]
pub struct DeepFeature {
    /// `[batch, channels, height, width]` of the level that it enters on the way up.
    hidden: Tensor<4>,
    /// How many skips lie above it.
    depth: usize,
}

impl DeepFeature {
    /// The batch that it was made for.
    pub fn batch(&self) -> usize {
        self.hidden.dims()[0]
    }
}

/// The UNet of Stable Diffusion (Rombach et al. 2022), which predicts the noise in a latent.
///
/// ```text
/// latent ─ conv_in ─ down 0 ─ down 1 ─ down 2 ─ down 3 ─┐
///                      ╎ skips  ╎        ╎        ╎    mid
/// noise ─ conv_out ── up 3 ─── up 2 ─── up 1 ─── up 0 ──┘
/// ```
///
/// Field names are diffusers', so a parameter's path in the module is its key in a checkpoint.
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
    pub(crate) conv_in: Conv2d,
    pub(crate) time_embedding: TimestepEmbedding,
    pub(crate) down_blocks: Vec<DownBlock>,
    pub(crate) mid_block: MidBlock,
    pub(crate) up_blocks: Vec<UpBlock>,
    pub(crate) conv_norm_out: GroupNorm,
    pub(crate) conv_out: Conv2d,
    #[module(skip)]
    config: UNetConfig,
}

impl UNet2DConditionModel {
    pub(crate) fn new(config: &UNetConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let levels = channels.len();
        let (finest, coarsest) = (channels[0], channels[levels - 1]);
        let resnet = ResnetConfig {
            time_channels: 4 * finest,
            groups: config.norm_num_groups,
            epsilon: config.norm_eps,
        };
        // Cross-attention layers are counted as `UNetConfig::cross_attentions` lists them: down, up, mid.
        let mut counted = 0;
        let mut transformer = |level: usize, transformers: usize| {
            let layers = config.transformer_layers_per_block.at(level);
            let first = counted;
            counted += transformers * layers;
            TransformerConfig {
                channels: channels[level],
                context_channels: config.cross_attention_dim.at(level),
                heads: config.heads().at(level),
                layers,
                first,
                level,
                groups: config.norm_num_groups,
                linear_projection: config.use_linear_projection,
                upcast: config.upcast_attention,
            }
        };

        // The channels of every skip, as the way down leaves them.
        let mut skips = vec![finest];
        let mut down_blocks = Vec::with_capacity(levels);
        for level in 0..levels {
            let (from, to) = (channels[level.saturating_sub(1)], channels[level]);
            let layers = config.layers_per_block.at(level);
            let downsample = level + 1 < levels;
            let attends = config.down_block_types[level] == DownBlockType::CrossAttnDownBlock2D;
            skips.extend(std::iter::repeat_n(to, layers + usize::from(downsample)));
            down_blocks.push(DownBlock::new(
                [from, to],
                layers,
                &resnet,
                attends.then(|| transformer(level, layers)).as_ref(),
                downsample,
                device,
            ));
        }

        let mut up_blocks = Vec::with_capacity(levels);
        let mut from = coarsest;
        for (block, level) in (0..levels).rev().enumerate() {
            let to = channels[level];
            let layers = config.layers_per_block.at(level) + 1;
            let mut taken = skips.split_off(skips.len() - layers);
            taken.reverse();
            let attends = config.up_block_types[block] == UpBlockType::CrossAttnUpBlock2D;
            up_blocks.push(UpBlock::new(
                [from, to],
                &taken,
                &resnet,
                attends.then(|| transformer(level, layers)).as_ref(),
                level > 0,
                device,
            ));
            from = to;
        }

        let mid_block = MidBlock::new(coarsest, &resnet, &transformer(levels - 1, 1), device);

        Self {
            conv_in: conv3x3(config.in_channels, finest, device),
            time_embedding: TimestepEmbedding {
                linear_1: linear(finest, 4 * finest, device),
                linear_2: linear(4 * finest, 4 * finest, device),
            },
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNormConfig::new(config.norm_num_groups, finest)
                .with_epsilon(config.norm_eps)
                .init(device),
            conv_out: conv3x3(finest, config.out_channels, device),
            config: config.clone(),
        }
    }

    /// Predicts the noise (or the velocity, if it was trained so) in a latent.
    ///
    /// # Shapes
    /// - `latent`: `[batch, in_channels, height, width]`, in latent cells
    /// - `timestep`: one for all, or one for each of the batch, in `0..1000`
    /// - `conditioning.text`: `[batch, tokens, cross_attention_dim]`
    /// - `conditioning.streams`: a key, a value and a weight for each of [`cross_attentions`](Self::cross_attentions), in that order
    /// - output: `[batch, out_channels, height, width]`
    ///
    /// # Panics
    /// If the shapes do not fit each other.
    pub fn forward(
        &self,
        latent: Tensor<4>,
        timestep: impl Into<Timesteps>,
        conditioning: &Conditioning,
    ) -> Tensor<4> {
        self.run(latent, timestep.into(), conditioning, usize::MAX, None)
            .0
    }

    /// As [`forward`](Self::forward), and gives the deep feature at `depth` too, from which [`forward_from`](Self::forward_from) makes the
    /// predictions of the next steps: DeepCache (Ma et al. 2024, section 3.2).
    ///
    /// `depth` is how many skips, from the finest on, are to be made anew: at 1 the first convolution's alone (the paper's branch 0, and the
    /// cheapest), at [`depths`](Self::depths) all of them. The prediction is bit for bit the one of `forward`.
    ///
    /// # Panics
    /// If the shapes do not fit each other, or `depth` is 0 or above `depths`.
    pub fn forward_keeping(
        &self,
        latent: Tensor<4>,
        timestep: impl Into<Timesteps>,
        conditioning: &Conditioning,
        depth: usize,
    ) -> (Tensor<4>, DeepFeature) {
        assert!(
            (1..=self.depths()).contains(&depth),
            "a depth of {depth}, where 1 to {} are there",
            self.depths()
        );
        let (noise, hidden) = self.run(latent, timestep.into(), conditioning, depth, None);
        let hidden = hidden.expect("every depth up to the last is passed on the way up");
        (noise, DeepFeature { hidden, depth })
    }

    /// A prediction whose deep feature is an earlier step's: only the layers above it are run.
    ///
    /// It is exact where the feature is the latent's, timestep's and conditioning's own, and close where it is that of a step nearby.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward); the feature's batch, height and width are those of the latent that it was made of, and have to be
    /// this one's.
    ///
    /// # Panics
    /// If the shapes do not fit each other.
    pub fn forward_from(
        &self,
        latent: Tensor<4>,
        timestep: impl Into<Timesteps>,
        conditioning: &Conditioning,
        feature: &DeepFeature,
    ) -> Tensor<4> {
        let (depth, hidden) = (feature.depth, feature.hidden.clone());
        self.run(latent, timestep.into(), conditioning, depth, Some(hidden))
            .0
    }

    /// How many skips lead from the way down to the way up, and so the largest depth of a [`DeepFeature`].
    pub fn depths(&self) -> usize {
        1 + self
            .down_blocks
            .iter()
            .map(DownBlock::layers)
            .sum::<usize>()
    }

    /// The prediction, and the hidden state below the `depth` finest skips, which may be given.
    fn run(
        &self,
        latent: Tensor<4>,
        timestep: Timesteps,
        conditioning: &Conditioning,
        depth: usize,
        mut deep: Option<Tensor<4>>,
    ) -> (Tensor<4>, Option<Tensor<4>>) {
        self.check(&latent, conditioning);
        let time = self.time(&timestep, &latent);
        let made = if deep.is_some() { depth } else { usize::MAX };
        let mut hidden = sd_kernels::conv2d(latent, &self.conv_in);
        let mut skips = vec![hidden.clone()];
        'down: for block in &self.down_blocks {
            for at in 0..block.layers() {
                if skips.len() == made {
                    break 'down;
                }
                hidden = block.layer(at, hidden, &time, conditioning);
                skips.push(hidden.clone());
            }
        }
        if deep.is_none() {
            hidden = self.mid_block.forward(hidden, &time, conditioning);
        }
        let mut below = self.depths();
        for block in &self.up_blocks {
            for at in 0..block.layers() {
                if below == depth {
                    hidden = deep.get_or_insert(hidden).clone();
                }
                if below <= made {
                    let skip = skips.pop().expect("a skip for each layer on the way up");
                    hidden = block.layer(at, hidden, skip, &time, conditioning);
                }
                below -= 1;
            }
            if below < made {
                hidden = block.upsample(hidden, skips.last());
            }
        }
        let hidden = sd_kernels::group_norm_silu(hidden, &self.conv_norm_out);
        (sd_kernels::conv2d(hidden, &self.conv_out), deep)
    }

    fn check(&self, latent: &Tensor<4>, conditioning: &Conditioning) {
        let [batch, _, _, _] = latent.dims();
        assert_shape!(latent, [_, self.config.in_channels, _, _]);
        assert_shape!(conditioning.text, [batch, _, _]);
        if !conditioning.streams.is_empty() {
            let layers = self.cross_attentions().len();
            for stream in &conditioning.streams {
                assert!(
                    stream.layers.len() == layers && stream.weights.len() == layers,
                    "a stream has {} layers and {} weights, the UNet has {layers} cross-attention layers",
                    stream.layers.len(),
                    stream.weights.len()
                );
            }
        }
    }

    /// The embedding of the timesteps, `[batch, 4 · channels]`. Every residual block takes it past a SiLU, so that is applied here.
    pub(crate) fn time(&self, timesteps: &Timesteps, latent: &Tensor<4>) -> Tensor<2> {
        let [batch, _, _, _] = latent.dims();
        let time = sinusoids(timesteps, batch, &self.config, &latent.device());
        let time = time.cast(FloatDType::from(latent.dtype()));
        sd_kernels::silu(self.time_embedding.forward(time))
    }

    /// Its cross-attention layers, as [`UNetConfig::cross_attentions`] lists them.
    pub fn cross_attentions(&self) -> Vec<CrossAttention> {
        self.config.cross_attentions()
    }

    /// The number type that it computes in, and takes latents and text in: that of its norms. Matrices and kernels may be kept in another.
    pub fn dtype(&self) -> DType {
        let norm = self.conv_norm_out.gamma.as_ref();
        norm.expect("the norm has a weight").val().dtype()
    }

    /// The sizes that it was made with.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }
}

fn linear(from: usize, to: usize, device: &Device) -> Linear {
    LinearConfig::new(from, to).init(device)
}
