use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::nn::{Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::module::attention;
use burn::tensor::{Device, Tensor};

/// Channels of a resampler's heads, in every published adapter.
pub(crate) const HEAD: usize = 64;

/// From pooled image embeddings to a few tokens: one linear layer.
#[derive(Module, Debug)]
pub struct ImageProjection {
    proj: Linear,
    norm: LayerNorm,
}

impl ImageProjection {
    pub(crate) fn new(width: usize, tokens: usize, context: usize, device: &Device) -> Self {
        Self {
            proj: LinearConfig::new(width, tokens * context).init(device),
            norm: LayerNormConfig::new(context).init(device),
        }
    }

    /// # Shapes
    /// - `pooled`: `[images, width]`
    /// - output: `[images, tokens, context]`
    pub(crate) fn forward(&self, pooled: Tensor<2>) -> Tensor<3> {
        normed_tokens(self.proj.forward(pooled), &self.norm)
    }
}

/// From an encoder's hidden states to as many tokens: a perceptron on each.
#[derive(Module, Debug)]
pub struct FullProjection {
    proj: (Linear, Gelu, Linear, LayerNorm),
}

impl FullProjection {
    pub(crate) fn new(width: usize, hidden: usize, context: usize, device: &Device) -> Self {
        Self {
            proj: (
                LinearConfig::new(width, hidden).init(device),
                Gelu::new(),
                LinearConfig::new(hidden, context).init(device),
                LayerNormConfig::new(context).init(device),
            ),
        }
    }

    /// # Shapes
    /// - `states`: `[images, positions, width]`
    /// - output: `[images, positions, context]`
    pub(crate) fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        let (first, gelu, second, norm) = &self.proj;
        norm.forward(second.forward(gelu.forward(first.forward(states))))
    }
}

/// From a face embedding to a few tokens: a perceptron.
#[derive(Module, Debug)]
pub struct FaceProjection {
    proj: (Linear, Gelu, Linear),
    norm: LayerNorm,
}

impl FaceProjection {
    pub(crate) fn new(
        width: usize,
        hidden: usize,
        tokens: usize,
        context: usize,
        device: &Device,
    ) -> Self {
        Self {
            proj: (
                LinearConfig::new(width, hidden).init(device),
                Gelu::new(),
                LinearConfig::new(hidden, tokens * context).init(device),
            ),
            norm: LayerNormConfig::new(context).init(device),
        }
    }

    /// # Shapes
    /// - `face`: `[images, width]`
    /// - output: `[images, tokens, context]`
    pub(crate) fn forward(&self, face: Tensor<2>) -> Tensor<3> {
        let (first, gelu, second) = &self.proj;
        let flat = second.forward(gelu.forward(first.forward(face)));
        normed_tokens(flat, &self.norm)
    }
}

/// `[images, tokens · channels]` to `[images, tokens, channels]`, normed.
fn normed_tokens(flat: Tensor<2>, norm: &LayerNorm) -> Tensor<3> {
    let [images, width] = flat.dims();
    let [channels] = norm.gamma.dims();
    norm.forward(flat.reshape([images, width / channels, channels]))
}

/// From an encoder's hidden states to a few tokens, by learned queries (Perceiver, Jaegle et al. 2021).
#[derive(Module, Debug)]
pub struct Resampler {
    /// `[1, tokens, channels]`.
    latents: Param<Tensor<3>>,
    proj_in: Linear,
    layers: Vec<(PerceiverAttention, FeedForward)>,
    proj_out: Linear,
    norm_out: LayerNorm,
}

/// Sizes of a resampler.
pub(crate) struct ResamplerConfig {
    /// Channels of the encoder's hidden states.
    pub width: usize,
    /// Channels within.
    pub channels: usize,
    /// Channels of the attention, over all heads.
    pub inner: usize,
    /// Channels within the feed-forward layers.
    pub hidden: usize,
    pub depth: usize,
    /// Channels of the tokens.
    pub context: usize,
}

impl ResamplerConfig {
    pub fn init(&self, tokens: usize, device: &Device) -> Resampler {
        let latents = burn::nn::Initializer::Normal {
            mean: 0.0,
            std: 1.0 / (self.channels as f64).sqrt(),
        };
        let core = self.core(device);
        Resampler {
            latents: latents.init([1, tokens, self.channels], device),
            proj_in: core.proj_in,
            layers: core.layers,
            proj_out: core.proj_out,
            norm_out: core.norm_out,
        }
    }

    /// Without learned queries.
    pub fn core(&self, device: &Device) -> PerceiverResampler {
        PerceiverResampler {
            proj_in: LinearConfig::new(self.width, self.channels).init(device),
            layers: (0..self.depth).map(|_| self.layer(device)).collect(),
            proj_out: LinearConfig::new(self.channels, self.context).init(device),
            norm_out: LayerNormConfig::new(self.context).init(device),
        }
    }

    fn layer(&self, device: &Device) -> (PerceiverAttention, FeedForward) {
        let norm = || LayerNormConfig::new(self.channels).init(device);
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        let attention = PerceiverAttention {
            norm1: norm(),
            norm2: norm(),
            to_q: linear(self.channels, self.inner),
            to_kv: linear(self.channels, 2 * self.inner),
            to_out: linear(self.inner, self.channels),
        };
        let feed_forward = (
            norm(),
            linear(self.channels, self.hidden),
            Gelu::new(),
            linear(self.hidden, self.channels),
        );
        (attention, feed_forward)
    }
}

impl Resampler {
    /// # Shapes
    /// - `states`: `[images, positions, width]`
    /// - output: `[images, tokens, context]`
    pub(crate) fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        let [images, _, _] = states.dims();
        let [_, tokens, channels] = self.latents.dims();
        let latents = self.latents.val().expand([images, tokens, channels]);
        let latents = resample(&self.layers, self.proj_in.forward(states), latents);
        self.norm_out.forward(self.proj_out.forward(latents))
    }
}

/// A resampler whose queries come from elsewhere.
#[derive(Module, Debug)]
pub struct PerceiverResampler {
    proj_in: Linear,
    layers: Vec<(PerceiverAttention, FeedForward)>,
    proj_out: Linear,
    norm_out: LayerNorm,
}

impl PerceiverResampler {
    /// # Shapes
    /// - `latents`: `[images, tokens, channels]`
    /// - `states`: `[images, positions, width]`
    /// - output: `[images, tokens, context]`
    fn forward(&self, latents: Tensor<3>, states: Tensor<3>) -> Tensor<3> {
        let latents = resample(&self.layers, self.proj_in.forward(states), latents);
        self.norm_out.forward(self.proj_out.forward(latents))
    }
}

/// # Shapes
/// - `states`: `[images, positions, channels]`
/// - `latents`, output: `[images, tokens, channels]`
fn resample(
    layers: &[(PerceiverAttention, FeedForward)],
    states: Tensor<3>,
    mut latents: Tensor<3>,
) -> Tensor<3> {
    for (attention, (norm, widen, gelu, narrow)) in layers {
        latents = attention.forward(states.clone(), latents.clone()) + latents;
        let hidden = gelu.forward(widen.forward(norm.forward(latents.clone())));
        latents = narrow.forward(hidden) + latents;
    }
    latents
}

/// Norm, linear, GELU, linear.
type FeedForward = (LayerNorm, Linear, Gelu, Linear);

/// Attention of the latents to the states and to themselves.
#[derive(Module, Debug)]
pub struct PerceiverAttention {
    norm1: LayerNorm,
    norm2: LayerNorm,
    to_q: Linear,
    /// Keys, then values.
    to_kv: Linear,
    to_out: Linear,
}

impl PerceiverAttention {
    /// # Shapes
    /// - `states`: `[images, positions, channels]`
    /// - `latents`, output: `[images, tokens, channels]`
    fn forward(&self, states: Tensor<3>, latents: Tensor<3>) -> Tensor<3> {
        let (states, latents) = (self.norm1.forward(states), self.norm2.forward(latents));
        let query = self.to_q.forward(latents.clone());
        let key_value = self.to_kv.forward(Tensor::cat(vec![states, latents], 1));
        let [images, tokens, inner] = query.dims();
        let key = key_value.clone().narrow(2, 0, inner);
        let value = key_value.narrow(2, inner, inner);
        let mixed = attention(
            split(query),
            split(key),
            split(value),
            None,
            None,
            Default::default(),
        );
        let mixed = mixed.swap_dims(1, 2).reshape([images, tokens, inner]);
        self.to_out.forward(mixed)
    }
}

/// `[images, tokens, inner]` to `[images, heads, tokens, HEAD]`.
fn split(hidden: Tensor<3>) -> Tensor<4> {
    let [images, tokens, inner] = hidden.dims();
    hidden
        .reshape([images, tokens, inner / HEAD, HEAD])
        .swap_dims(1, 2)
}

/// From a face embedding, and the face's hidden states of an image encoder, to a few tokens.
#[derive(Module, Debug)]
pub struct FacePlusProjection {
    proj: (Linear, Gelu, Linear),
    norm: LayerNorm,
    perceiver_resampler: PerceiverResampler,
    /// The share of the resampled tokens where they are added to the face's own (version 2), `None` where they replace them (version 1).
    #[module(skip)]
    shortcut: Option<f32>,
}

impl FacePlusProjection {
    pub(crate) fn new(
        face: FaceProjection,
        perceiver_resampler: PerceiverResampler,
        shortcut: Option<f32>,
    ) -> Self {
        Self {
            proj: face.proj,
            norm: face.norm,
            perceiver_resampler,
            shortcut,
        }
    }

    /// # Shapes
    /// - `face`: `[images, face_width]`
    /// - `states`: `[images, positions, width]`
    /// - output: `[images, tokens, context]`
    pub(crate) fn forward(&self, face: Tensor<2>, states: Tensor<3>) -> Tensor<3> {
        let (first, gelu, second) = &self.proj;
        let flat = second.forward(gelu.forward(first.forward(face)));
        let face = normed_tokens(flat, &self.norm);
        let resampled = self.perceiver_resampler.forward(face.clone(), states);
        match self.shortcut {
            None => resampled,
            Some(share) => face + resampled * share,
        }
    }
}

/// The projector of one variant.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it in an adapter"
)]
pub enum Projector {
    /// Base, light and vit-G.
    Image(ImageProjection),
    /// Plus and plus-face.
    Resampler(Resampler),
    /// Full-face.
    Full(FullProjection),
    /// FaceID and portrait.
    Face(FaceProjection),
    /// FaceID-Plus.
    FacePlus(FacePlusProjection),
}

/// Does the same in every variant. Derived for an enum, `Module` would put the variant's name into every parameter's path.
macro_rules! in_each {
    ($projector:expr, $each:ident => $body:expr) => {
        match $projector {
            Self::Image($each) => $body,
            Self::Resampler($each) => $body,
            Self::Full($each) => $body,
            Self::Face($each) => $body,
            Self::FacePlus($each) => $body,
        }
    };
    ($projector:expr, $each:ident -> $body:expr) => {
        match $projector {
            Self::Image($each) => Self::Image($body),
            Self::Resampler($each) => Self::Resampler($body),
            Self::Full($each) => Self::Full($body),
            Self::Face($each) => Self::Face($body),
            Self::FacePlus($each) => Self::FacePlus($body),
        }
    };
}

impl Module for Projector {
    fn collect_devices(&self, devices: Devices) -> Devices {
        in_each!(self, each => each.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        in_each!(self, each -> each.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        in_each!(self, each -> each.to_device(device))
    }
    fn train(self) -> Self {
        in_each!(self, each -> each.train())
    }
    fn valid(&self) -> Self {
        in_each!(self, each -> each.valid())
    }
    fn materialize(self) -> Self {
        in_each!(self, each -> each.materialize())
    }
    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        in_each!(self, each => each.visit(visitor));
    }
    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        in_each!(self, each -> each.map(mapper))
    }
}

impl ModuleDisplayDefault for Projector {
    fn content(&self, content: Content) -> Option<Content> {
        in_each!(self, each => ModuleDisplayDefault::content(each, content))
    }
}

impl ModuleDisplay for Projector {
    fn custom_content(&self, content: Content) -> Option<Content> {
        in_each!(self, each => each.custom_content(content))
    }
}
