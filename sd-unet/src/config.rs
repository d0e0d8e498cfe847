use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::UNet2DConditionModel;

/// The sizes of a UNet, as diffusers writes them to `unet/config.json`. The default is Stable Diffusion 1.x.
///
/// Options that change the arithmetic and are not modelled here (class embeddings, SDXL's added conditions, …) are refused by
/// [`UNetConfig::from_json`], never ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Side of the training latents, in latent cells (8 pixels in Stable Diffusion).
    pub sample_size: Option<PerAxis>,
    /// Channels of the latent that goes in.
    pub in_channels: usize,
    /// Channels of the prediction that comes out.
    pub out_channels: usize,
    /// Whether the time embedding starts with its cosines.
    pub flip_sin_to_cos: bool,
    /// Shift of the time embedding's frequencies.
    pub freq_shift: f32,
    /// One block a level, from fine to coarse.
    pub down_block_types: Vec<DownBlockType>,
    /// One block a level, from coarse to fine.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels of each level, from fine to coarse.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level; the way up has one more.
    pub layers_per_block: PerLevel<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// ε of the residual blocks' norms.
    pub norm_eps: f64,
    /// Channels of the text embedding.
    pub cross_attention_dim: PerLevel<usize>,
    /// Transformer blocks after each residual block.
    pub transformer_layers_per_block: PerLevel<usize>,
    /// Attention *heads*, for all its name: diffusers kept the name for old files' sake.
    pub attention_head_dim: PerLevel<usize>,
    /// Attention heads, where a file says so by this name; it goes before `attention_head_dim`.
    pub num_attention_heads: Option<PerLevel<usize>>,
    /// Whether `proj_in` and `proj_out` are linear layers (Stable Diffusion 2.x) or 1×1 convolutions (1.x).
    pub use_linear_projection: bool,
    /// Whether attention scores are computed in f32 where the weights are narrower.
    pub upcast_attention: bool,
}

/// One number for all levels, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// The same everywhere.
    Same(T),
    /// From fine to coarse.
    Each(Vec<T>),
}

impl PerLevel<usize> {
    /// The number of level `level`.
    ///
    /// # Panics
    /// If there is none; [`UNetConfig::check`] has made sure of it.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values[level],
        }
    }

    fn fits(&self, levels: usize) -> bool {
        match self {
            Self::Same(value) => *value > 0,
            Self::Each(values) => values.len() == levels && values.iter().all(|&value| value > 0),
        }
    }
}

/// A square's side, or height and width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerAxis {
    /// A square.
    Square(usize),
    /// Height, width.
    HeightWidth(usize, usize),
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks, each followed by attention.
    CrossAttnDownBlock2D,
    /// Residual blocks alone.
    DownBlock2D,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks, each followed by attention.
    CrossAttnUpBlock2D,
    /// Residual blocks alone.
    UpBlock2D,
}

/// A layer of the UNet that attends to the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrossAttention {
    /// Its path in the module, such as `mid_block.attentions.0.transformer_blocks.0.attn2`.
    pub path: String,
    /// Channels of its queries, keys and values, over all heads.
    pub channels: usize,
    /// Its heads.
    pub heads: usize,
    /// Channels of the text that it attends to.
    pub context_channels: usize,
}

impl Default for UNetConfig {
    fn default() -> Self {
        use {DownBlockType::*, UpBlockType::*};
        Self {
            sample_size: Some(PerAxis::Square(64)),
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                DownBlock2D,
            ],
            up_block_types: vec![
                UpBlock2D,
                CrossAttnUpBlock2D,
                CrossAttnUpBlock2D,
                CrossAttnUpBlock2D,
            ],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::Same(2),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::Same(768),
            transformer_layers_per_block: PerLevel::Same(1),
            attention_head_dim: PerLevel::Same(8),
            num_attention_heads: None,
            use_linear_projection: false,
            upcast_attention: false,
        }
    }
}

/// Why a configuration makes no UNet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UNetConfigError {
    /// The text is no JSON of the expected form.
    #[error("the UNet's config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// An option has a value that this UNet does not model.
    #[error("the UNet's config.json: `{option}` is {found}, but only {expected} is supported")]
    Unsupported {
        /// The option's name.
        option: &'static str,
        /// Its value in the file.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// The numbers do not fit each other.
    #[error("the UNet's config.json: {0}")]
    Inconsistent(String),
}

/// Layers of a level at most, so that a garbled number is told of before it takes all memory.
const MAX_LAYERS: usize = 64;

/// Options that are refused unless they have one of these values, which are diffusers' defaults.
const FIXED: &[(&str, &[&str])] = &[
    ("act_fn", &["\"silu\"", "\"swish\""]),
    ("addition_embed_type", &["null"]),
    ("attention_type", &["\"default\""]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &["null"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &["null"]),
    ("downsample_padding", &["1"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &["null"]),
    ("encoder_hid_dim_type", &["null"]),
    ("mid_block_only_cross_attention", &["null", "false"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("mid_block_type", &["\"UNetMidBlock2DCrossAttn\""]),
    ("num_class_embeds", &["null"]),
    ("only_cross_attention", &["false"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("reverse_transformer_layers_per_block", &["null"]),
    ("time_cond_proj_dim", &["null"]),
    ("time_embedding_act_fn", &["null"]),
    ("time_embedding_dim", &["null"]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &["null"]),
];

impl UNetConfig {
    /// Reads diffusers' `unet/config.json`.
    ///
    /// # Errors
    /// If the text is no such file, if an option has a value that is not modelled, or if the numbers do not fit each other.
    pub fn from_json(text: &str) -> Result<Self, UNetConfigError> {
        Self::from_value(&serde_json::from_str(text)?)
    }

    /// As [`UNetConfig::from_json`], from a value that is parsed already.
    ///
    /// # Errors
    /// As there.
    pub fn from_value(value: &Value) -> Result<Self, UNetConfigError> {
        for (option, allowed) in FIXED {
            let expected = allowed[0];
            let same_everywhere = |found: &Value| match found {
                Value::Array(each) => each
                    .iter()
                    .all(|one| allowed.contains(&one.to_string().as_str())),
                one => allowed.contains(&one.to_string().as_str()),
            };
            match value.get(option) {
                Some(found) if !same_everywhere(found) => {
                    return Err(UNetConfigError::Unsupported {
                        option,
                        found: found.to_string(),
                        expected,
                    });
                }
                _ => {}
            }
        }
        let config: Self = serde_json::from_value(value.clone())?;
        config.check()?;
        Ok(config)
    }

    /// Makes sure that the numbers fit each other, so that [`UNetConfig::init`] does not panic.
    ///
    /// # Errors
    /// Says which option does not fit.
    pub fn check(&self) -> Result<(), UNetConfigError> {
        let inconsistent = |why: String| Err(UNetConfigError::Inconsistent(why));
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 16 {
            return inconsistent(format!(
                "`block_out_channels` has {levels} levels; 1 to 16 are expected"
            ));
        }
        for (option, found) in [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
        ] {
            if found != levels {
                return inconsistent(format!(
                    "`{option}` has {found} entries, `block_out_channels` has {levels}"
                ));
            }
        }
        for (option, value) in [
            ("layers_per_block", &self.layers_per_block),
            ("cross_attention_dim", &self.cross_attention_dim),
            (
                "transformer_layers_per_block",
                &self.transformer_layers_per_block,
            ),
            ("attention_head_dim", self.heads()),
        ] {
            if !value.fits(levels) {
                return inconsistent(format!(
                    "`{option}` is {value:?}; one positive number, or one for each of the {levels} levels, is expected"
                ));
            }
        }
        for (option, value) in [
            ("layers_per_block", &self.layers_per_block),
            (
                "transformer_layers_per_block",
                &self.transformer_layers_per_block,
            ),
        ] {
            if (0..levels).any(|level| value.at(level) > MAX_LAYERS) {
                return inconsistent(format!(
                    "`{option}` is {value:?}; at most {MAX_LAYERS} are expected"
                ));
            }
        }
        if self.in_channels == 0 || self.out_channels == 0 || self.norm_num_groups == 0 {
            return inconsistent(
                "`in_channels`, `out_channels` and `norm_num_groups` must be positive".into(),
            );
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            if channels == 0 || !channels.is_multiple_of(self.norm_num_groups) {
                return inconsistent(format!(
                    "`block_out_channels` has {channels}, which `norm_num_groups` {} does not divide",
                    self.norm_num_groups
                ));
            }
            let heads = self.heads().at(level);
            if !channels.is_multiple_of(heads) {
                return inconsistent(format!(
                    "`block_out_channels` has {channels}, which its {heads} attention heads do not divide"
                ));
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) {
            return inconsistent("the first of `block_out_channels` must be even".into());
        }
        Ok(())
    }

    /// Attention heads of each level.
    pub fn heads(&self) -> &PerLevel<usize> {
        self.num_attention_heads
            .as_ref()
            .unwrap_or(&self.attention_head_dim)
    }

    /// The model's cross-attention layers in the order of diffusers' attention processors, which is that of IP-Adapter files: down, up,
    /// mid. Stable Diffusion 1.x has 6, 9 and 1.
    ///
    /// # Panics
    /// If [`UNetConfig::check`] fails.
    pub fn cross_attentions(&self) -> Vec<CrossAttention> {
        use {DownBlockType::CrossAttnDownBlock2D, UpBlockType::CrossAttnUpBlock2D};
        let levels = self.block_out_channels.len();
        let mut all = Vec::new();
        let mut add = |block: String, level: usize, transformers: usize| {
            for transformer in 0..transformers {
                for layer in 0..self.transformer_layers_per_block.at(level) {
                    all.push(CrossAttention {
                        path: format!(
                            "{block}.attentions.{transformer}.transformer_blocks.{layer}.attn2"
                        ),
                        channels: self.block_out_channels[level],
                        heads: self.heads().at(level),
                        context_channels: self.cross_attention_dim.at(level),
                    });
                }
            }
        };
        for (level, kind) in self.down_block_types.iter().enumerate() {
            if *kind == CrossAttnDownBlock2D {
                add(
                    format!("down_blocks.{level}"),
                    level,
                    self.layers_per_block.at(level),
                );
            }
        }
        for (block, kind) in self.up_block_types.iter().enumerate() {
            let level = levels - 1 - block;
            if *kind == CrossAttnUpBlock2D {
                add(
                    format!("up_blocks.{block}"),
                    level,
                    self.layers_per_block.at(level) + 1,
                );
            }
        }
        add("mid_block".to_owned(), levels - 1, 1);
        all
    }

    /// The model of these sizes. Its weights are random, and made only when they are used.
    ///
    /// # Panics
    /// If [`UNetConfig::check`] fails.
    pub fn init(&self, device: &Device) -> UNet2DConditionModel {
        if let Err(error) = self.check() {
            panic!("{error}");
        }
        UNet2DConditionModel::new(self, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_diffusion_1_is_the_default() {
        assert_eq!(UNetConfig::from_json("{}").unwrap(), UNetConfig::default());
    }

    #[test]
    fn an_option_that_is_not_modelled_is_refused_by_name() {
        let sdxl = r#"{"addition_embed_type": "text_time"}"#;
        let error = UNetConfig::from_json(sdxl).unwrap_err().to_string();
        assert!(
            error.contains("`addition_embed_type` is \"text_time\""),
            "{error}"
        );
        let alien = r#"{"down_block_types": ["SimpleCrossAttnDownBlock2D"]}"#;
        assert!(UNetConfig::from_json(alien).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for text in [
            r#"{"block_out_channels": [320, 640]}"#,
            r#"{"block_out_channels": [320, 640, 1280, 1281]}"#,
            r#"{"attention_head_dim": [8, 8]}"#,
            r#"{"attention_head_dim": 0}"#,
            r#"{"norm_num_groups": 0}"#,
            r#"{"block_out_channels": []}"#,
        ] {
            let error = UNetConfig::from_json(text).unwrap_err();
            assert!(
                matches!(error, UNetConfigError::Inconsistent(_)),
                "{text}: {error}"
            );
        }
    }
}
