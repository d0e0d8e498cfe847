use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{Device, Tensor};
use sd_kernels::linear;
use serde_json::Value;

use crate::error::Result;
use crate::json::{Object, parse};

/// The sizes of a CLIP image encoder, as in the `config.json` that transformers writes.
///
/// [`Default`] is [`vit_h_14`](Self::vit_h_14), the encoder of IP-Adapter's models for Stable Diffusion 1.5. A key that is missing in a file
/// takes transformers' default, which is that of OpenAI's ViT-B/32.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipVisionConfig {
    /// Channels of a hidden state.
    pub hidden_size: usize,
    /// Channels inside the MLP.
    pub intermediate_size: usize,
    /// Channels of an image embedding.
    pub projection_dim: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// The MLP's activation.
    pub hidden_act: HiddenAct,
    /// ε of the layer norms.
    pub layer_norm_eps: f64,
}

/// The activation inside the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenAct {
    /// `x · sigmoid(1.702 x)`: OpenAI's models.
    QuickGelu,
    /// `x · Φ(x)`, exact: OpenCLIP's models.
    Gelu,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self::vit_h_14()
    }
}

const EXPECTED: &str = "the sizes of a CLIP image encoder";

impl ClipVisionConfig {
    /// OpenAI's ViT-L/14: 304 M parameters.
    pub fn vit_l_14() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            projection_dim: 768,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            image_size: 224,
            patch_size: 14,
            hidden_act: HiddenAct::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }

    /// OpenCLIP's ViT-H/14: 632 M parameters.
    pub fn vit_h_14() -> Self {
        Self {
            hidden_size: 1280,
            intermediate_size: 5120,
            projection_dim: 1024,
            num_hidden_layers: 32,
            hidden_act: HiddenAct::Gelu,
            ..Self::vit_l_14()
        }
    }

    /// OpenCLIP's ViT-bigG/14: 1845 M parameters.
    pub fn vit_bigg_14() -> Self {
        Self {
            hidden_size: 1664,
            intermediate_size: 8192,
            projection_dim: 1280,
            num_hidden_layers: 48,
            hidden_act: HiddenAct::Gelu,
            ..Self::vit_l_14()
        }
    }

    /// Reads the text of a `config.json`: that of an image encoder, or that of a whole CLIP model, whose `vision_config` it takes.
    ///
    /// # Errors
    /// If the text is garbled, or no CLIP image encoder's.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::from_value(&parse(text, EXPECTED)?)
    }

    /// [`from_json`](Self::from_json) for what a parser made of the text.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_value(value: &Value) -> Result<Self> {
        let whole = Object::new(value, EXPECTED)?;
        let own = whole.inner("vision_config")?;
        let model_types = ["clip_vision_model", "clip"];
        for object in [Some(&whole), own.as_ref()].into_iter().flatten() {
            if let Some(found) = object.get("model_type")
                && !model_types.iter().any(|known| found == *known)
            {
                return object.wrong("model_type", "\"clip_vision_model\" or \"clip\"");
            }
        }
        let nested = own.is_some();
        if !nested && whole.get("model_type").is_some_and(|found| found == "clip") {
            return whole.wrong("vision_config", "the image encoder's part of a CLIP model");
        }
        let sizes = own.as_ref().unwrap_or(&whole);
        // Limits far beyond any model, so that a garbled number is an error and no attempt to allocate.
        let projection_dim = sizes.count("projection_dim", 512, 1 << 16)?;
        let config = Self {
            hidden_size: sizes.count("hidden_size", 768, 1 << 16)?,
            intermediate_size: sizes.count("intermediate_size", 3072, 1 << 18)?,
            projection_dim: match nested {
                // The projection belongs to the whole model, and the number in its part may be a mere default.
                true => whole.count("projection_dim", projection_dim, 1 << 16)?,
                false => projection_dim,
            },
            num_hidden_layers: sizes.count("num_hidden_layers", 12, 1 << 10)?,
            num_attention_heads: sizes.count("num_attention_heads", 12, 1 << 10)?,
            image_size: sizes.count("image_size", 224, 1 << 12)?,
            patch_size: sizes.count("patch_size", 32, 1 << 12)?,
            hidden_act: match sizes.get("hidden_act").map(Value::as_str) {
                None | Some(Some("quick_gelu")) => HiddenAct::QuickGelu,
                Some(Some("gelu")) => HiddenAct::Gelu,
                Some(_) => return sizes.wrong("hidden_act", "\"gelu\" or \"quick_gelu\""),
            },
            layer_norm_eps: sizes.number("layer_norm_eps", 1e-5)?,
        };
        if sizes.count("num_channels", 3, 1 << 10)? != 3 {
            return sizes.wrong("num_channels", "3, for red, green and blue");
        }
        if !config
            .hidden_size
            .is_multiple_of(config.num_attention_heads)
        {
            let heads = config.num_attention_heads;
            return sizes.wrong(
                "hidden_size",
                format!("a multiple of `num_attention_heads`, {heads}"),
            );
        }
        if config.patch_size > config.image_size {
            let side = config.image_size;
            return sizes.wrong("patch_size", format!("at most `image_size`, {side}"));
        }
        if !(config.layer_norm_eps > 0.0 && config.layer_norm_eps < 1.0) {
            return sizes.wrong("layer_norm_eps", "a small positive number such as 1e-5");
        }
        Ok(config)
    }

    /// Hidden states of a picture: one of the class token, and one of each patch. 257 at 224 pixels in patches of 14.
    pub fn positions(&self) -> usize {
        1 + (self.image_size / self.patch_size).pow(2)
    }

    /// An image encoder of these sizes. Its weights are random, and are made when they are first used.
    pub fn init(&self, device: &Device) -> ClipVisionModelWithProjection {
        let channels = self.hidden_size;
        let norm = || {
            LayerNormConfig::new(channels)
                .with_epsilon(self.layer_norm_eps)
                .init(device)
        };
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let layer = |_| ClipEncoderLayer {
            self_attn: ClipAttention {
                q_proj: linear(channels, channels),
                k_proj: linear(channels, channels),
                v_proj: linear(channels, channels),
                out_proj: linear(channels, channels),
                heads: self.num_attention_heads,
            },
            layer_norm1: norm(),
            mlp: ClipMlp {
                fc1: linear(channels, self.intermediate_size),
                fc2: linear(self.intermediate_size, channels),
                activation: self.hidden_act,
            },
            layer_norm2: norm(),
            epsilon: self.layer_norm_eps,
        };
        let patch = [self.patch_size; 2];
        let normal = Initializer::Normal {
            mean: 0.0,
            std: (channels as f64).powf(-0.5),
        };
        ClipVisionModelWithProjection {
            vision_model: ClipVisionTransformer {
                embeddings: ClipVisionEmbeddings {
                    class_embedding: normal.init([channels], device),
                    patch_embedding: Conv2dConfig::new([3, channels], patch)
                        .with_stride(patch)
                        .with_bias(false)
                        .init(device),
                    position_embedding: EmbeddingConfig::new(self.positions(), channels)
                        .init(device),
                    image_size: self.image_size,
                },
                pre_layrnorm: norm(),
                encoder: ClipEncoder {
                    layers: (0..self.num_hidden_layers).map(layer).collect(),
                },
                post_layernorm: norm(),
                epsilon: self.layer_norm_eps,
            },
            visual_projection: LinearConfig::new(channels, self.projection_dim)
                .with_bias(false)
                .init(device),
        }
    }
}

/// CLIP's image encoder (Radford et al. 2021): a Vision Transformer (Dosovitskiy et al. 2021) whose class token is projected into the space
/// that pictures and texts share.
///
/// Module paths are the keys of transformers' `CLIPVisionModelWithProjection`, `pre_layrnorm` as it is spelt there.
#[derive(Module, Debug)]
pub struct ClipVisionModelWithProjection {
    vision_model: ClipVisionTransformer,
    visual_projection: Linear,
}

/// What the image encoder tells of pictures.
#[derive(Debug, Clone)]
pub struct ClipVisionOutput {
    /// The class token's hidden state, normed and projected: `[batch, projection_dim]`.
    pub image_embeds: Tensor<2>,
    /// What goes into the last layer, without a norm: transformers' `hidden_states[-2]`, `[batch, positions, hidden_size]`. The class token
    /// comes first, then the patches in reading order.
    pub penultimate: Tensor<3>,
    /// What comes out of the last layer, without a norm: transformers' `last_hidden_state`, `[batch, positions, hidden_size]`.
    pub last: Tensor<3>,
}

/// The transformer of the image encoder.
#[derive(Module, Debug)]
struct ClipVisionTransformer {
    embeddings: ClipVisionEmbeddings,
    pre_layrnorm: LayerNorm,
    encoder: ClipEncoder,
    post_layernorm: LayerNorm,
    epsilon: f64,
}

/// Embeddings of the class token, of patches and of positions.
#[derive(Module, Debug)]
struct ClipVisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    image_size: usize,
}

/// The layers of the image encoder.
#[derive(Module, Debug)]
struct ClipEncoder {
    layers: Vec<ClipEncoderLayer>,
}

/// A transformer layer, with its norms in front of what they norm.
#[derive(Module, Debug)]
struct ClipEncoderLayer {
    self_attn: ClipAttention,
    layer_norm1: LayerNorm,
    mlp: ClipMlp,
    layer_norm2: LayerNorm,
    epsilon: f64,
}

/// Self-attention, in which every position sees every other.
#[derive(Module, Debug)]
struct ClipAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

/// Two linear layers with an activation between.
#[derive(Module, Debug)]
struct ClipMlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: HiddenAct,
}

impl ClipVisionModelWithProjection {
    /// Encodes pictures.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`, normalised as by a [`ClipImageProcessor`](crate::ClipImageProcessor), in any
    ///   floating-point type: the encoder computes in that of its weights
    ///
    /// # Panics
    /// If the pictures are of another size.
    pub fn forward(&self, pixels: Tensor<4>) -> ClipVisionOutput {
        let ClipVisionTransformer {
            embeddings,
            pre_layrnorm,
            encoder,
            post_layernorm,
            epsilon,
        } = &self.vision_model;
        let embedded = embeddings.forward(pixels);
        let mut hidden = sd_kernels::layer_norm(embedded, pre_layrnorm, *epsilon);
        let mut penultimate = hidden.clone();
        for layer in &encoder.layers {
            penultimate = hidden;
            hidden = layer.forward(penultimate.clone());
        }
        let class = hidden.clone().narrow(1, 0, 1);
        let pooled = sd_kernels::layer_norm(class, post_layernorm, *epsilon).squeeze_dim::<2>(1);
        ClipVisionOutput {
            image_embeds: self.visual_projection.forward(pooled),
            penultimate,
            last: hidden,
        }
    }

    /// Side of the pictures that it takes, in pixels.
    pub fn image_size(&self) -> usize {
        self.vision_model.embeddings.image_size
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.visual_projection.weight.lazy_device()
    }
}

impl ClipVisionEmbeddings {
    /// `[batch, 3, image_size, image_size]` to `[batch, positions, channels]`.
    fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let [batch, colours, height, width] = pixels.dims();
        let side = self.image_size;
        assert!(
            colours == 3 && [height, width] == [side; 2],
            "the image encoder takes [batch, 3, {side}, {side}], not [{batch}, {colours}, {height}, {width}]"
        );
        let class = self.class_embedding.val();
        let pixels = pixels.cast(class.dtype());
        let patches = self.patch_embedding.forward(pixels);
        let patches = patches.flatten::<3>(2, 3).swap_dims(1, 2);
        let [_, _, channels] = patches.dims();
        let class = class.reshape([1, 1, channels]).expand([batch, 1, channels]);
        let positions = self.position_embedding.weight.val().unsqueeze::<3>();
        Tensor::cat(vec![class, patches], 1) + positions
    }
}

impl ClipEncoderLayer {
    /// `[batch, positions, channels]` to the same.
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let norm = |hidden, norm| sd_kernels::layer_norm(hidden, norm, self.epsilon);
        let normed = norm(hidden.clone(), &self.layer_norm1);
        let hidden = sd_kernels::add(self.self_attn.forward(normed), hidden);
        let normed = norm(hidden.clone(), &self.layer_norm2);
        sd_kernels::add(self.mlp.forward(normed), hidden)
    }
}

impl ClipAttention {
    /// `[batch, positions, channels]` to the same.
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, positions, channels] = hidden.dims();
        let split = |projected: Tensor<3>| {
            projected
                .reshape([batch, positions, self.heads, channels / self.heads])
                .swap_dims(1, 2)
        };
        let query = split(linear(hidden.clone(), &self.q_proj));
        let key = split(linear(hidden.clone(), &self.k_proj));
        let value = split(linear(hidden, &self.v_proj));
        let mixed = sd_kernels::attention(query, key, value, false)
            .swap_dims(1, 2)
            .reshape([batch, positions, channels]);
        linear(mixed, &self.out_proj)
    }
}

impl ClipMlp {
    /// `[batch, positions, channels]` to the same.
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let inner = linear(hidden, &self.fc1);
        let hidden = match self.activation {
            HiddenAct::QuickGelu => sd_kernels::quick_gelu(inner),
            HiddenAct::Gelu => sd_kernels::gelu(inner),
        };
        linear(hidden, &self.fc2)
    }
}
