use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::AutoencoderKL;

/// The sizes of a VAE, as diffusers writes them to `vae/config.json`. The default is Stable Diffusion 1.x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of the image that goes in.
    pub in_channels: usize,
    /// Channels of the image that comes out.
    pub out_channels: usize,
    /// Channels of each level, from fine to coarse. Each level after the first halves the image.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// The latent is multiplied by this on its way to the UNet.
    pub scaling_factor: f64,
    /// Taken off the latent before it is scaled.
    pub shift_factor: Option<f64>,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the coarsest level attends over all positions.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

/// Layers of a level at most, so that a garbled number is told of before it takes all memory.
const MAX_LAYERS: usize = 64;

/// Why a configuration makes no VAE.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaeConfigError {
    /// The text is no JSON of the expected form.
    #[error("the VAE's config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// An option has a value that this VAE does not model.
    #[error("the VAE's config.json: `{option}` is {found}, but only {expected} is supported")]
    Unsupported {
        /// The option's name.
        option: &'static str,
        /// Its value in the file.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// The numbers do not fit each other.
    #[error("the VAE's config.json: {0}")]
    Inconsistent(String),
}

impl VaeConfig {
    /// Reads diffusers' `vae/config.json`.
    ///
    /// # Errors
    /// If the text is no such file, if an option has a value that is not modelled, or if the numbers do not fit each other.
    pub fn from_json(text: &str) -> Result<Self, VaeConfigError> {
        Self::from_value(&serde_json::from_str(text)?)
    }

    /// As [`VaeConfig::from_json`], from a value that is parsed already.
    ///
    /// # Errors
    /// As there.
    pub fn from_value(value: &Value) -> Result<Self, VaeConfigError> {
        let all_are = |found: &Value, allowed: &[&str]| match found {
            Value::Array(each) => each
                .iter()
                .all(|one| one.as_str().is_some_and(|one| allowed.contains(&one))),
            Value::String(one) => allowed.contains(&one.as_str()),
            other => allowed.contains(&other.to_string().as_str()),
        };
        for (option, allowed) in [
            ("act_fn", ["silu", "swish"].as_slice()),
            ("down_block_types", &["DownEncoderBlock2D"]),
            ("up_block_types", &["UpDecoderBlock2D"]),
            ("latents_mean", &["null"]),
            ("latents_std", &["null"]),
        ] {
            if let Some(found) = value.get(option)
                && !all_are(found, allowed)
            {
                return Err(VaeConfigError::Unsupported {
                    option,
                    found: found.to_string(),
                    expected: allowed[0],
                });
            }
        }
        let config: Self = serde_json::from_value(value.clone())?;
        for option in ["down_block_types", "up_block_types"] {
            if let Some(Value::Array(types)) = value.get(option)
                && types.len() != config.block_out_channels.len()
            {
                return Err(VaeConfigError::Inconsistent(format!(
                    "`{option}` has {} entries, `block_out_channels` has {}",
                    types.len(),
                    config.block_out_channels.len()
                )));
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Makes sure that the numbers fit each other, so that [`VaeConfig::init`] does not panic.
    ///
    /// # Errors
    /// Says which option does not fit.
    pub fn check(&self) -> Result<(), VaeConfigError> {
        let inconsistent = |why: String| Err(VaeConfigError::Inconsistent(why));
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 8 {
            return inconsistent(format!(
                "`block_out_channels` has {levels} levels; 1 to 8 are expected"
            ));
        }
        for (option, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if value == 0 {
                return inconsistent(format!("`{option}` must be positive"));
            }
        }
        if self.layers_per_block > MAX_LAYERS {
            return inconsistent(format!(
                "`layers_per_block` is {}; at most {MAX_LAYERS} are expected",
                self.layers_per_block
            ));
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || !channels.is_multiple_of(self.norm_num_groups) {
                return inconsistent(format!(
                    "`block_out_channels` has {channels}, which `norm_num_groups` {} does not divide",
                    self.norm_num_groups
                ));
            }
        }
        if !self.scaling_factor.is_normal() {
            return inconsistent(format!(
                "`scaling_factor` is {}; a number other than 0 is expected",
                self.scaling_factor
            ));
        }
        Ok(())
    }

    /// Pixels of a latent cell's side: 8 in Stable Diffusion.
    pub fn pixels_per_cell(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// The model of these sizes. Its weights are random, and made only when they are used.
    ///
    /// # Panics
    /// If [`VaeConfig::check`] fails.
    pub fn init(&self, device: &Device) -> AutoencoderKL {
        if let Err(error) = self.check() {
            panic!("{error}");
        }
        AutoencoderKL::new(self, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_diffusion_1_is_the_default() {
        assert_eq!(VaeConfig::from_json("{}").unwrap(), VaeConfig::default());
    }

    #[test]
    fn an_option_that_is_not_modelled_is_refused_by_name() {
        let alien = r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#;
        let error = VaeConfig::from_json(alien).unwrap_err().to_string();
        assert!(error.contains("`down_block_types`"), "{error}");
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for text in [
            r#"{"block_out_channels": []}"#,
            r#"{"block_out_channels": [48]}"#,
            r#"{"layers_per_block": 0}"#,
            r#"{"scaling_factor": 0}"#,
            r#"{"down_block_types": ["DownEncoderBlock2D"]}"#,
        ] {
            let error = VaeConfig::from_json(text).unwrap_err();
            assert!(
                matches!(error, VaeConfigError::Inconsistent(_)),
                "{text}: {error}"
            );
        }
    }
}
