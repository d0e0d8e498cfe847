use std::path::Path;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use sd_kernels::linear;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::tokenizer::{parse, read};

/// The sizes of a CLIP text encoder, as in the `config.json` that transformers writes.
///
/// [`Default`] is that of Stable Diffusion 1.x (OpenAI's ViT-L/14). A key that is missing in a file takes transformers' default, which is
/// smaller.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default = "transformers_default")]
pub struct ClipTextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Channels of a hidden state.
    pub hidden_size: usize,
    /// Channels inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Positions that are read at once, with start and end.
    pub max_position_embeddings: usize,
    /// The MLP's activation.
    pub hidden_act: HiddenAct,
    /// ε of the layer norms.
    pub layer_norm_eps: f64,
}

/// The activation inside the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    /// `x · sigmoid(1.702 x)`: OpenAI's models.
    QuickGelu,
    /// `x · Φ(x)`, exact: OpenCLIP's models.
    Gelu,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_attention_heads: 12,
            ..transformers_default()
        }
    }
}

fn transformers_default() -> ClipTextConfig {
    ClipTextConfig {
        vocab_size: 49408,
        hidden_size: 512,
        intermediate_size: 2048,
        num_hidden_layers: 12,
        num_attention_heads: 8,
        max_position_embeddings: 77,
        hidden_act: HiddenAct::QuickGelu,
        layer_norm_eps: 1e-5,
    }
}

impl ClipTextConfig {
    /// Opens the `config.json` of a text encoder, or that of a whole CLIP model, whose `text_config` it takes.
    ///
    /// # Errors
    /// If the file is missing, garbled, or no CLIP text encoder's.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_json(&read(path)?, path)
    }

    /// [`open`](Self::open) for the text of a file; `path` is named in errors.
    ///
    /// # Errors
    /// If the text is garbled, or no CLIP text encoder's.
    pub fn from_json(text: &str, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let expected = "the sizes of a CLIP text encoder";
        let json_error = |source| Error::Json {
            path: path.into(),
            expected,
            source,
        };
        let mut file: serde_json::Map<String, Value> = parse(text, path, expected)?;
        let mut model_types = vec![file.get("model_type").cloned()];
        if let Some(Value::Object(inner)) = file.remove("text_config") {
            file = inner;
            model_types.push(file.get("model_type").cloned());
        }
        for found in model_types.into_iter().flatten() {
            if !["clip", "clip_text_model"]
                .iter()
                .any(|known| found == *known)
            {
                return Err(Error::Value {
                    path: path.into(),
                    key: "model_type".into(),
                    found: found.to_string(),
                    expected: "`clip_text_model` or `clip`".into(),
                });
            }
        }
        // transformers reads null as its default.
        file.retain(|_, value| !value.is_null());
        let config: Self = serde_json::from_value(file.into()).map_err(json_error)?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |key: &str, found: String, expected: &str| {
            Err(Error::Value {
                path: path.into(),
                key: key.into(),
                found,
                expected: expected.into(),
            })
        };
        // Limits far beyond any model, so that a garbled number is an error and no attempt to allocate.
        for (key, value, least, most) in [
            ("vocab_size", self.vocab_size, 3, 1 << 24),
            ("hidden_size", self.hidden_size, 1, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1, 1 << 18),
            ("num_hidden_layers", self.num_hidden_layers, 1, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 10),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                3,
                1 << 16,
            ),
        ] {
            if !(least..=most).contains(&value) {
                return wrong(key, value.to_string(), &format!("{least} to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return wrong(
                "hidden_size",
                self.hidden_size.to_string(),
                &format!(
                    "a multiple of `num_attention_heads`, {}",
                    self.num_attention_heads
                ),
            );
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            let found = self.layer_norm_eps.to_string();
            return wrong(
                "layer_norm_eps",
                found,
                "a small positive number such as 1e-5",
            );
        }
        Ok(())
    }

    /// A text encoder of these sizes. Its weights are random, and are made when they are first used.
    pub fn init(&self, device: &Device) -> ClipTextModel {
        ClipTextModel {
            text_model: self.transformer(device),
        }
    }

    fn transformer(&self, device: &Device) -> ClipTextTransformer {
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
        let embedding = |rows| EmbeddingConfig::new(rows, channels).init(device);
        ClipTextTransformer {
            embeddings: ClipTextEmbeddings {
                token_embedding: embedding(self.vocab_size),
                position_embedding: embedding(self.max_position_embeddings),
            },
            encoder: ClipEncoder {
                layers: (0..self.num_hidden_layers).map(layer).collect(),
            },
            final_layer_norm: norm(),
            epsilon: self.layer_norm_eps,
        }
    }
}

/// The sizes of a CLIP text encoder with its projection.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextProjectionConfig {
    /// The text encoder's sizes.
    pub text: ClipTextConfig,
    /// Channels of a text's embedding.
    pub projection_dim: usize,
    /// The token whose first place is a text's end. 2 stands for the largest token, in transformers as here: published CLIPs say so, whose
    /// end token is 49407.
    pub eos_token_id: u32,
}

impl ClipTextProjectionConfig {
    /// Reads the text of a `config.json`: that of a text encoder with projection, or that of a whole CLIP model. `path` is named in errors.
    ///
    /// # Errors
    /// If the text is garbled, or no such encoder's.
    pub fn from_json(text: &str, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file: serde_json::Map<String, Value> =
            parse(text, path, "the sizes of a CLIP text encoder")?;
        let number = |value: Option<&Value>, key: &str, default: u64, least: u64, most: u64| {
            let value = value.filter(|value| !value.is_null());
            let number = value.map_or(Some(default), Value::as_u64);
            number
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| Error::Value {
                    path: path.into(),
                    key: key.into(),
                    found: value.map_or_else(String::new, ToString::to_string),
                    expected: format!("{least} to {most}"),
                })
        };
        let own = file.get("text_config").and_then(Value::as_object);
        let sizes = own.unwrap_or(&file);
        // The projection belongs to the whole model, and the number in its part may be a mere default.
        let inner = sizes.get("projection_dim");
        let projection_dim = own.and(file.get("projection_dim")).or(inner);
        Ok(Self {
            text: ClipTextConfig::from_json(text, path)?,
            projection_dim: number(projection_dim, "projection_dim", 512, 1, 1 << 16)? as usize,
            eos_token_id: number(sizes.get("eos_token_id"), "eos_token_id", 49407, 0, 1 << 24)?
                as u32,
        })
    }

    /// An encoder of these sizes. Its weights are random, and are made when they are first used.
    pub fn init(&self, device: &Device) -> ClipTextModelWithProjection {
        ClipTextModelWithProjection {
            text_model: self.text.transformer(device),
            text_projection: LinearConfig::new(self.text.hidden_size, self.projection_dim)
                .with_bias(false)
                .init(device),
        }
    }

    /// The place in a text's tokens whose hidden state is its embedding; 0 where there is no end token, as in transformers.
    pub fn end(&self, tokens: &[u32]) -> usize {
        let end = match self.eos_token_id {
            2 => tokens.iter().max().copied().unwrap_or_default(),
            token => token,
        };
        tokens.iter().position(|&token| token == end).unwrap_or(0)
    }
}

/// CLIP's text encoder (Radford et al. 2021), transformers' `CLIPTextModel` without the pooled output.
///
/// Module paths are the keys of transformers' checkpoints. Some checkpoints lack the `text_model.` in front: that is for the loader to add.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: ClipTextTransformer,
}

/// CLIP's text encoder with the projection into the space that texts and pictures share: transformers' `CLIPTextModelWithProjection`, and the
/// text's half of its `CLIPModel`.
///
/// Module paths are the keys of both.
#[derive(Module, Debug)]
pub struct ClipTextModelWithProjection {
    text_model: ClipTextTransformer,
    text_projection: Linear,
}

/// The transformer of the text encoder.
#[derive(Module, Debug)]
struct ClipTextTransformer {
    embeddings: ClipTextEmbeddings,
    encoder: ClipEncoder,
    final_layer_norm: LayerNorm,
    epsilon: f64,
}

/// Embeddings of tokens and positions.
#[derive(Module, Debug)]
struct ClipTextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// The layers of the text encoder.
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

/// Causal self-attention.
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

impl ClipTextModel {
    /// The hidden state behind the last layer and the final norm.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`
    /// - output: `[batch, tokens, channels]`
    ///
    /// # Panics
    /// If there are more tokens than [`positions`](Self::positions), or one has no embedding.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.forward_skip(tokens, 1)
    }

    /// The hidden state behind an earlier layer and the final norm. `clip_skip` is in A1111's count: 1 is the last layer, 2 the one
    /// before it (diffusers' `clip_skip=1`). Layers that are skipped are not computed.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and if `clip_skip` is not in 1 to [`layers`](Self::layers).
    pub fn forward_skip(&self, tokens: Tensor<2, Int>, clip_skip: usize) -> Tensor<3> {
        let layers = self.layers();
        assert!(
            (1..=layers).contains(&clip_skip),
            "clip skip is 1 to {layers}, not {clip_skip}"
        );
        self.text_model.forward(tokens, layers + 1 - clip_skip)
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.text_model.encoder.layers.len()
    }

    /// How many tokens can be read at once, with start and end.
    pub fn positions(&self) -> usize {
        self.text_model
            .embeddings
            .position_embedding
            .weight
            .lazy_shape()[0]
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.text_model
            .embeddings
            .token_embedding
            .weight
            .lazy_device()
    }
}

impl ClipTextModelWithProjection {
    /// The embedding of each text: the hidden state at its end, normed and projected (Radford et al. 2021, §2.4).
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`
    /// - `ends`: of each text the position of its end token, as [`ClipTextProjectionConfig::end`] finds it
    /// - output: `[batch, projection_dim]`, not of length 1
    ///
    /// # Panics
    /// If there are more tokens than the encoder has positions, a token has no embedding, or `ends` has not one position for each text.
    pub fn forward(&self, tokens: Tensor<2, Int>, ends: &[usize]) -> Tensor<2> {
        let [batch, _] = tokens.dims();
        assert_eq!(ends.len(), batch, "one end for each text");
        let hidden = (self.text_model).forward(tokens, self.text_model.encoder.layers.len());
        let at_end = ends.iter().enumerate();
        let pooled = at_end.map(|(i, &end)| hidden.clone().narrow(0, i, 1).narrow(1, end, 1));
        let pooled = Tensor::cat(pooled.collect(), 0).squeeze_dim::<2>(1);
        self.text_projection.forward(pooled)
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.text_projection.weight.lazy_device()
    }
}

impl ClipTextTransformer {
    /// `[batch, tokens]` to `[batch, tokens, channels]`: the hidden state behind the first `layers` layers and the final norm.
    fn forward(&self, tokens: Tensor<2, Int>, layers: usize) -> Tensor<3> {
        let embedded = self.embeddings.forward(tokens);
        let layers = self.encoder.layers[..layers].iter();
        let hidden = layers.fold(embedded, |hidden, layer| layer.forward(hidden));
        sd_kernels::layer_norm(hidden, &self.final_layer_norm, self.epsilon)
    }
}

impl ClipTextEmbeddings {
    /// `[batch, tokens]` to `[batch, tokens, channels]`.
    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = tokens.dims();
        let positions = self.position_embedding.weight.lazy_shape()[0];
        assert!(
            length <= positions,
            "at most {positions} tokens at once, not {length}"
        );
        let places = Tensor::<1, Int>::arange(0..length as i64, &tokens.device()).unsqueeze();
        self.token_embedding.forward(tokens) + self.position_embedding.forward(places)
    }
}

impl ClipEncoderLayer {
    /// `[batch, tokens, channels]` to the same.
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let norm = |hidden, norm| sd_kernels::layer_norm(hidden, norm, self.epsilon);
        let normed = norm(hidden.clone(), &self.layer_norm1);
        let hidden = sd_kernels::add(self.self_attn.forward(normed), hidden);
        let normed = norm(hidden.clone(), &self.layer_norm2);
        sd_kernels::add(self.mlp.forward(normed), hidden)
    }
}

impl ClipAttention {
    /// `[batch, tokens, channels]` to the same.
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, channels] = hidden.dims();
        let split = |projected: Tensor<3>| {
            projected
                .reshape([batch, tokens, self.heads, channels / self.heads])
                .swap_dims(1, 2)
        };
        let query = split(linear(hidden.clone(), &self.q_proj));
        let key = split(linear(hidden.clone(), &self.k_proj));
        let value = split(linear(hidden, &self.v_proj));
        let mixed = sd_kernels::attention(query, key, value, true)
            .swap_dims(1, 2)
            .reshape([batch, tokens, channels]);
        linear(mixed, &self.out_proj)
    }
}

impl ClipMlp {
    /// `[batch, tokens, channels]` to the same.
    fn forward(&self, hidden: Tensor<3>) -> Tensor<3> {
        let inner = linear(hidden, &self.fc1);
        let hidden = match self.activation {
            HiddenAct::QuickGelu => sd_kernels::quick_gelu(inner),
            HiddenAct::Gelu => sd_kernels::gelu(inner),
        };
        linear(hidden, &self.fc2)
    }
}
