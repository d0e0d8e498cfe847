use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    GroupNorm, GroupNormConfig, Identity, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{Device, FloatDType, Tensor, assert_shape};
use sd_kernels::linear;

use crate::conditioning::{Conditioning, KeyValue, Strength};
use crate::merging::Matching;

/// Sizes of one level's transformers.
#[derive(Clone, Debug)]
pub(crate) struct TransformerConfig {
    pub channels: usize,
    pub context_channels: usize,
    pub heads: usize,
    /// Blocks of each transformer.
    pub layers: usize,
    /// The index of the level's first cross-attention layer among the UNet's.
    pub first: usize,
    /// 0 is the finest.
    pub level: usize,
    pub groups: usize,
    pub linear_projection: bool,
    pub upcast: bool,
}

/// Transformer over the positions of a feature map: self-attention, cross-attention to the text, feed-forward
/// (Rombach et al. 2022, appendix E.2.1).
#[derive(Module, Debug)]
pub struct Transformer2DModel {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Projection,
}

impl TransformerConfig {
    /// The level's transformer number `at`.
    pub(crate) fn init(&self, at: usize, device: &Device) -> Transformer2DModel {
        let projection = || Projection::new(self.channels, self.linear_projection, device);
        Transformer2DModel {
            norm: GroupNormConfig::new(self.groups, self.channels)
                .with_epsilon(1e-6)
                .init(device),
            proj_in: projection(),
            transformer_blocks: (0..self.layers)
                .map(|layer| self.block(self.first + at * self.layers + layer, device))
                .collect(),
            proj_out: projection(),
        }
    }

    fn block(&self, layer: usize, device: &Device) -> BasicTransformerBlock {
        let norm = || {
            LayerNormConfig::new(self.channels)
                .with_epsilon(EPSILON)
                .init(device)
        };
        BasicTransformerBlock {
            norm1: norm(),
            attn1: self.attention(self.channels, device),
            norm2: norm(),
            attn2: self.attention(self.context_channels, device),
            norm3: norm(),
            ff: FeedForward {
                net: (
                    Geglu {
                        proj: LinearConfig::new(self.channels, 8 * self.channels).init(device),
                    },
                    Identity::new(),
                    LinearConfig::new(4 * self.channels, self.channels).init(device),
                ),
            },
            layer,
            level: self.level,
        }
    }

    fn attention(&self, context_channels: usize, device: &Device) -> Attention {
        let without_bias = |from| {
            LinearConfig::new(from, self.channels)
                .with_bias(false)
                .init(device)
        };
        Attention {
            to_q: without_bias(self.channels),
            to_k: without_bias(context_channels),
            to_v: without_bias(context_channels),
            to_out: [LinearConfig::new(self.channels, self.channels).init(device)],
            heads: self.heads,
            upcast: self.upcast,
        }
    }
}

impl Transformer2DModel {
    /// # Shapes
    /// - `hidden`, output: `[batch, channels, height, width]`
    pub(crate) fn forward(&self, hidden: Tensor<4>, conditioning: &Conditioning) -> Tensor<4> {
        let [batch, channels, height, width] = hidden.dims();
        let positions = sd_kernels::group_norm(hidden.clone(), &self.norm)
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2);
        let mut positions = self.proj_in.forward(positions);
        for block in &self.transformer_blocks {
            positions = block.forward(positions, [height, width], conditioning);
        }
        let positions = self.proj_out.forward(positions);
        let hidden = hidden.reshape([batch, channels, height * width]);
        sd_kernels::add(positions.swap_dims(1, 2), hidden).reshape([batch, channels, height, width])
    }
}

/// Epsilon of the layer norms.
const EPSILON: f64 = 1e-5;

fn layer_norm(hidden: Tensor<3>, norm: &LayerNorm) -> Tensor<3> {
    sd_kernels::layer_norm(hidden, norm, EPSILON)
}

/// Self-attention, cross-attention, feed-forward, each normalised before and added after.
#[derive(Module, Debug)]
pub struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
    /// The index of `attn2` among the UNet's cross-attention layers.
    layer: usize,
    /// The UNet's level that it is in; 0 is the finest.
    level: usize,
}

impl BasicTransformerBlock {
    /// # Shapes
    /// - `hidden`, output: `[batch, positions, channels]`, where the positions are `height · width`
    fn forward(
        &self,
        hidden: Tensor<3>,
        size: [usize; 2],
        conditioning: &Conditioning,
    ) -> Tensor<3> {
        let normed = layer_norm(hidden.clone(), &self.norm1);
        let merging = conditioning.merging;
        let mixed = match merging.map_or(0, |merging| merging.merged(self.level, size)) {
            0 => self.attn1.forward(normed.clone(), normed),
            count => {
                let matching = Matching::new(hidden.clone(), size, count);
                let merged = matching.merge(normed);
                matching.part(self.attn1.forward(merged.clone(), merged))
            }
        };
        let hidden = sd_kernels::add(mixed, hidden);
        let normed = layer_norm(hidden.clone(), &self.norm2);
        let streams = conditioning.streams.iter().filter_map(|stream| {
            let strength = stream.strength(self.layer, size)?;
            Some((&stream.layers[self.layer], strength))
        });
        let text = conditioning.text.clone();
        let hidden = sd_kernels::add(self.attn2.cross(normed, text, streams), hidden);
        let normed = layer_norm(hidden.clone(), &self.norm3);
        sd_kernels::add(self.ff.forward(normed), hidden)
    }
}

/// Multi-head attention: self-attention where the context is the hidden state, else cross-attention.
#[derive(Module, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: [Linear; 1],
    heads: usize,
    upcast: bool,
}

impl Attention {
    /// # Shapes
    /// - `hidden`, output: `[batch, positions, channels]`
    /// - `context`: `[batch, tokens, context_channels]`
    fn forward(&self, hidden: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        self.cross(hidden, context, std::iter::empty())
    }

    /// Attention to the context and, apart from it, to streams: `to_out(A(Q, K, V) + Σᵢ λᵢ mᵢ ⊙ A(Q, Kᵢ, Vᵢ))`.
    ///
    /// # Shapes
    /// - `hidden`, output: `[batch, positions, channels]`
    /// - `context`: `[batch, tokens, context_channels]`
    /// - keys and values of `streams`: `[1 or batch, tokens, channels]`
    fn cross<'a>(
        &self,
        hidden: Tensor<3>,
        context: Tensor<3>,
        streams: impl Iterator<Item = (&'a KeyValue, Strength)>,
    ) -> Tensor<3> {
        let [batch, positions, channels] = hidden.dims();
        assert_shape!(context, [batch, _, _]);
        let query = self.split(linear(hidden, &self.to_q));
        let key = self.split(linear(context.clone(), &self.to_k));
        let value = self.split(linear(context, &self.to_v));
        let mut mixed = self.attend(query.clone(), key, value);
        for (KeyValue { key, value }, strength) in streams {
            let for_all = |tensor: &Tensor<3>| {
                let [_, tokens, _] = tensor.dims();
                let dtype: FloatDType = query.dtype().into();
                let tensor = tensor.clone().cast(dtype);
                self.split(tensor.expand([batch, tokens, channels]))
            };
            let image = self.attend(query.clone(), for_all(key), for_all(value));
            mixed = mixed + strength.scale(image);
        }
        let mixed = mixed.swap_dims(1, 2).reshape([batch, positions, channels]);
        linear(mixed, &self.to_out[0])
    }

    /// # Shapes
    /// - all, output: `[batch, heads, positions or tokens, head_dim]`
    fn attend(&self, query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
        if self.upcast {
            let dtype: FloatDType = query.dtype().into();
            let wide = |tensor: Tensor<4>| tensor.cast(FloatDType::F32);
            sd_kernels::attention(wide(query), wide(key), wide(value), false).cast(dtype)
        } else {
            sd_kernels::attention(query, key, value, false)
        }
    }

    /// `[batch, positions, channels]` to `[batch, heads, positions, head_dim]`.
    fn split(&self, hidden: Tensor<3>) -> Tensor<4> {
        let [batch, positions, channels] = hidden.dims();
        hidden
            .reshape([batch, positions, self.heads, channels / self.heads])
            .swap_dims(1, 2)
    }
}

/// GEGLU, then a linear layer; `net.1` is the reference's dropout.
#[derive(Module, Debug)]
pub struct FeedForward {
    net: (Geglu, Identity, Linear),
}

/// The projection that GEGLU gates.
#[derive(Module, Debug)]
pub struct Geglu {
    proj: Linear,
}

impl FeedForward {
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let gated = sd_kernels::geglu(linear(hidden, &self.net.0.proj));
        linear(gated, &self.net.2)
    }
}

/// Into a transformer and out of it: a 1×1 convolution in Stable Diffusion 1.x, a linear layer in 2.x. Both do the same to positions, but
/// their weights, and so a LoRA's factors, have the layer's own shape in files.
#[derive(Clone, Debug)]
pub enum Projection {
    /// Weight `[channels, channels, 1, 1]`.
    Conv(Conv2d),
    /// Weight `[channels, channels]`.
    Linear(Linear),
}

impl Projection {
    fn new(channels: usize, linear: bool, device: &Device) -> Self {
        if linear {
            Self::Linear(LinearConfig::new(channels, channels).init(device))
        } else {
            Self::Conv(Conv2dConfig::new([channels, channels], [1, 1]).init(device))
        }
    }

    /// # Shapes
    /// - `positions`, output: `[batch, positions, channels]`
    fn forward(&self, positions: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Linear(layer) => linear(positions, layer),
            Self::Conv(layer) => sd_kernels::pointwise(positions, layer),
        }
    }
}

/// Does the same in both variants. Derived for an enum, `Module` would put the variant's name into every parameter's path.
macro_rules! in_both {
    ($projection:expr, $layer:ident => $body:expr) => {
        match $projection {
            Self::Conv($layer) => $body,
            Self::Linear($layer) => $body,
        }
    };
    ($projection:expr, $layer:ident -> $body:expr) => {
        match $projection {
            Self::Conv($layer) => Self::Conv($body),
            Self::Linear($layer) => Self::Linear($body),
        }
    };
}

impl Module for Projection {
    fn collect_devices(&self, devices: Devices) -> Devices {
        in_both!(self, layer => layer.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        in_both!(self, layer -> layer.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        in_both!(self, layer -> layer.to_device(device))
    }
    fn train(self) -> Self {
        in_both!(self, layer -> layer.train())
    }
    fn valid(&self) -> Self {
        in_both!(self, layer -> layer.valid())
    }
    fn materialize(self) -> Self {
        in_both!(self, layer -> layer.materialize())
    }
    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        in_both!(self, layer => layer.visit(visitor));
    }
    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        in_both!(self, layer -> layer.map(mapper))
    }
}

impl ModuleDisplayDefault for Projection {
    fn content(&self, content: Content) -> Option<Content> {
        in_both!(self, layer => ModuleDisplayDefault::content(layer, content))
    }
}

impl ModuleDisplay for Projection {
    fn custom_content(&self, content: Content) -> Option<Content> {
        in_both!(self, layer => layer.custom_content(content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditioning::{ImageStream, Mask};
    use burn::module::Module;
    use burn::tensor::Distribution;
    use parity::{device, values};

    const SIZE: [usize; 2] = [8, 16];

    fn config(upcast: bool) -> TransformerConfig {
        TransformerConfig {
            channels: 32,
            context_channels: 24,
            heads: 4,
            layers: 1,
            first: 0,
            level: 0,
            groups: 8,
            linear_projection: false,
            upcast,
        }
    }

    fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn stream(batch: usize, tokens: usize, device: &Device) -> ImageStream {
        ImageStream::new(vec![KeyValue {
            key: random([batch, tokens, 32], device),
            value: random([batch, tokens, 32], device),
        }])
    }

    /// 1 in the right half of 64 × 128 pixels.
    fn right_half() -> Mask {
        let pixels = (0..64 * 128).map(|at| if at % 128 < 64 { 0.0 } else { 1.0 });
        Mask::new([64, 128], pixels.collect())
    }

    #[test]
    fn outside_a_mask_cross_attention_is_what_it_was_bit_for_bit() {
        for (upcast, batch) in [(false, 1), (true, 2)] {
            let device = device();
            let attention = config(upcast).attention(24, &device);
            let hidden = random([2, SIZE[0] * SIZE[1], 32], &device);
            let text = random([2, 77, 24], &device);
            let mask = right_half();
            let streams = [
                stream(batch, 4, &device).masked(mask.clone()),
                stream(batch, 16, &device)
                    .weighted(-3.0)
                    .masked(mask.clone()),
            ];
            let plain = values(attention.forward(hidden.clone(), text.clone()));
            let layers = streams
                .iter()
                .map(|stream| (&stream.layers[0], stream.strength(0, SIZE).unwrap()));
            let steered = values(attention.cross(hidden, text, layers));

            let cells = mask.resized(SIZE);
            let rows = plain.chunks_exact(32).zip(steered.chunks_exact(32));
            let (mut outside, mut inside) = (0, 0);
            for ((before, after), cell) in rows.zip(cells.iter().cycle()) {
                if *cell == 0.0 {
                    outside += 1;
                    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(before), bits(after));
                } else if *cell > 0.9 {
                    inside += 1;
                    assert_ne!(before, after);
                }
            }
            // Two columns beside the edge on either side are mixed.
            assert!(
                outside >= 2 * 8 * 6 && inside >= 2 * 8 * 6,
                "{outside} {inside}"
            );
        }
    }

    #[test]
    fn gradients_reach_keys_and_values_through_a_mask() {
        let device = device().autodiff();
        let attention = config(false).attention(24, &device).no_grad();
        let stream = stream(1, 4, &device);
        let kv = KeyValue {
            key: stream.layers[0].key.clone().require_grad(),
            value: stream.layers[0].value.clone().require_grad(),
        };
        let strength = stream.masked(right_half()).strength(0, SIZE).unwrap();
        let hidden = random([2, SIZE[0] * SIZE[1], 32], &device);
        let text = random([2, 77, 24], &device);
        let out = attention.cross(hidden, text, [(&kv, strength)].into_iter());
        let gradients = out.powi_scalar(2).sum().backward();
        for tensor in [&kv.key, &kv.value] {
            let gradient = tensor.grad(&gradients).expect("a gradient");
            assert!(gradient.abs().sum().into_scalar::<f32>() > 1e-3);
        }
        assert!(attention.to_k.weight.val().grad(&gradients).is_none());
    }

    #[test]
    fn a_stream_has_a_layer_for_each_of_the_unet_s() {
        let config = crate::UNetConfig {
            block_out_channels: vec![32; 4],
            cross_attention_dim: crate::PerLevel::Same(24),
            ..Default::default()
        };
        let unet = config.init(&device());
        let conditioning =
            Conditioning::text(random([1, 77, 24], &device())).with(stream(1, 4, &device()));
        let latent = Tensor::zeros([1, 4, 8, 8], &device());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            unet.forward(latent, 1.0, &conditioning)
        }));
        let panic = result.expect_err("one layer is not sixteen");
        let text = panic.downcast_ref::<String>().expect("a message");
        assert!(
            text.contains("1 layers and 1 weights, the UNet has 16"),
            "{text}"
        );
    }

    #[test]
    fn layers_are_where_the_configuration_lists_them() {
        let config = crate::UNetConfig {
            block_out_channels: vec![32, 64, 96, 128],
            transformer_layers_per_block: crate::PerLevel::Each(vec![1, 2, 1, 1]),
            attention_head_dim: crate::PerLevel::Same(4),
            cross_attention_dim: crate::PerLevel::Same(24),
            ..Default::default()
        };
        let (unet, layers) = (config.init(&device()), config.cross_attentions());
        assert_eq!(layers.len(), 2 + 4 + 2 + 3 + 6 + 3 + 1);
        assert_eq!(
            layers[layers.len() - 1].path,
            "mid_block.attentions.0.transformer_blocks.0.attn2"
        );
        let mut shapes = Shapes::default();
        unet.visit(&mut shapes);
        for layer in &layers {
            let shape = shapes.found.get(&format!("{}.to_k.weight", layer.path));
            assert_eq!(shape, Some(&vec![24, layer.channels]), "{}", layer.path);
        }
        // Keys of another layer's channels would not fit.
        let keys = layers.iter().map(|layer| {
            let key = random([1, 3, layer.channels], &device());
            KeyValue {
                value: key.clone(),
                key,
            }
        });
        let text = random([1, 77, 24], &device());
        let conditioning = Conditioning::text(text).with(ImageStream::new(keys.collect()));
        let latent = Tensor::zeros([1, 4, 8, 8], &device());
        assert_eq!(
            unet.forward(latent, 1.0, &conditioning).dims(),
            [1, 4, 8, 8]
        );
    }

    #[derive(Default)]
    struct Shapes {
        path: Vec<String>,
        found: std::collections::BTreeMap<String, Vec<usize>>,
    }

    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            self.found
                .insert(self.path.join("."), param.lazy_shape().to_vec());
        }
    }
}
