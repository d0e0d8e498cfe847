use lora_core::FactorSize;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How a LoRA is trained. The default is the recipe for a character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The word that will call the character, such as `mychar001`.
    pub trigger: String,
    /// Optimizer steps; by default [`auto_steps`] of the pictures.
    pub steps: Option<usize>,
    /// Rank of the factors ("dim").
    pub rank: usize,
    /// The factors' product is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Rank of the factors on the UNet's 3×3 convolutions, kohya's `conv_dim`, which makes the LoRA a LoCon; none leaves all that is outside of
    /// the transformers as it is. See [`lora_core::kohya_sizes`].
    pub conv_rank: Option<usize>,
    /// Alpha of these factors; by default as much of their rank as `alpha` is of `rank`.
    pub conv_alpha: Option<f64>,
    /// Peak learning rate of the UNet's factors.
    pub learning_rate: f64,
    /// Peak learning rate of the text encoder's factors; by default the UNet's. At 0 the text encoder is left as it is, and the captions'
    /// embeddings are computed once.
    pub text_encoder_learning_rate: Option<f64>,
    /// How the learning rate goes on after the warm-up.
    pub lr_scheduler: LrScheduler,
    /// Steps in which the learning rate rises to its peak.
    pub warmup_steps: usize,
    /// Pictures seen at once.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one step.
    pub gradient_accumulation: usize,
    /// Side of the square that every picture is cut to, in pixels.
    pub resolution: usize,
    /// Whether activations are computed again for the backward pass instead of kept (Chen et al. 2016): a third more time, far less memory.
    pub gradient_checkpointing: bool,
    /// γ of the loss weight min(SNR, γ) / SNR (Hang et al. 2023); none weighs all timesteps alike.
    pub min_snr_gamma: Option<f64>,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm, taken over all factors; none leaves them.
    pub max_grad_norm: Option<f64>,
    /// CLIP layers counted from the end, as A1111 counts: 1 takes the last.
    pub clip_skip: usize,
    /// Every random draw follows from this.
    pub seed: u64,
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrScheduler {
    /// Down to 0 along half a cosine (Loshchilov & Hutter 2016).
    #[default]
    Cosine,
    /// At its peak.
    Constant,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            trigger: String::new(),
            steps: None,
            rank: 32,
            alpha: 16.0,
            conv_rank: None,
            conv_alpha: None,
            learning_rate: 1e-4,
            text_encoder_learning_rate: None,
            lr_scheduler: LrScheduler::Cosine,
            warmup_steps: 0,
            batch_size: 2,
            gradient_accumulation: 1,
            resolution: 512,
            gradient_checkpointing: true,
            min_snr_gamma: Some(5.0),
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
            clip_skip: 1,
            seed: 0,
        }
    }
}

/// Steps for a number of pictures: 45 for each, at least 1500, at most 2500.
pub fn auto_steps(images: usize) -> usize {
    images.saturating_mul(45).clamp(1500, 2500)
}

impl TrainConfig {
    /// Makes sure that a run can start with these values.
    ///
    /// # Errors
    /// Names the option that is out of its range.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |option, found: String, expected| {
            Err(TrainError::Option {
                option,
                found,
                expected,
            })
        };
        if self.trigger.trim().is_empty() {
            return refuse(
                "trigger",
                format!("{:?}", self.trigger),
                "a word that the model does not know yet, such as mychar001",
            );
        }
        for (option, value) in [
            ("steps", self.steps.unwrap_or(1)),
            ("gradient-accumulation", self.gradient_accumulation),
            ("clip-skip", self.clip_skip),
        ] {
            if value == 0 {
                return refuse(option, "0".into(), "1 or more");
            }
        }
        if self.conv_rank.is_none() && self.conv_alpha.is_some() {
            return refuse(
                "conv-alpha",
                "no conv-rank beside it".into(),
                "both, or neither",
            );
        }
        for (option, value) in [
            ("rank", self.rank),
            ("conv-rank", self.conv_rank.unwrap_or(1)),
            ("batch-size", self.batch_size),
        ] {
            if !(1..=1024).contains(&value) {
                return refuse(option, value.to_string(), "1 to 1024");
            }
        }
        let finite_positive = |value: f64| value.is_finite() && value > 0.0;
        for (option, value) in [
            ("alpha", self.alpha),
            ("conv-alpha", self.conv_alpha.unwrap_or(1.0)),
            ("learning-rate", self.learning_rate),
            ("min-snr-gamma", self.min_snr_gamma.unwrap_or(1.0)),
            ("max-grad-norm", self.max_grad_norm.unwrap_or(1.0)),
        ] {
            if !finite_positive(value) {
                return refuse(option, value.to_string(), "a number above 0");
            }
        }
        for (option, value) in [
            (
                "text-encoder-learning-rate",
                self.text_encoder_learning_rate.unwrap_or(0.0),
            ),
            ("weight-decay", self.weight_decay),
        ] {
            if !(value == 0.0 || finite_positive(value)) {
                return refuse(option, value.to_string(), "0 or a number above it");
            }
        }
        Ok(())
    }

    /// The share of the peak learning rate at `step` of `steps`, counted from 0.
    pub fn learning_rate_share(&self, step: usize, steps: usize) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        match self.lr_scheduler {
            LrScheduler::Constant => 1.0,
            LrScheduler::Cosine => {
                let left = steps.saturating_sub(self.warmup_steps).max(1);
                let progress = (step - self.warmup_steps) as f64 / left as f64;
                0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }

    /// The size of factors on linear layers and 1×1 convolutions.
    pub fn size(&self) -> FactorSize {
        FactorSize {
            rank: self.rank,
            alpha: self.alpha,
        }
    }

    /// The size of factors on 3×3 convolutions, if these have any.
    pub fn conv_size(&self) -> Option<FactorSize> {
        let rank = self.conv_rank?;
        let share = self.alpha / self.rank as f64;
        Some(FactorSize {
            rank,
            alpha: self.conv_alpha.unwrap_or(rank as f64 * share),
        })
    }

    /// Peak learning rate of the text encoder's factors.
    pub fn text_encoder_rate(&self) -> f64 {
        self.text_encoder_learning_rate
            .unwrap_or(self.learning_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_gives_45_steps_a_picture_within_bounds() {
        assert_eq!([15, 40, 100].map(auto_steps), [1500, 1800, 2500]);
    }

    #[test]
    fn convolutions_are_scaled_as_all_else_is_unless_told_otherwise() {
        let sizes = |conv_alpha| {
            let config = TrainConfig {
                conv_rank: Some(8),
                conv_alpha,
                ..TrainConfig::default()
            };
            config.conv_size().map(|size| (size.rank, size.alpha))
        };
        assert_eq!(TrainConfig::default().conv_size(), None);
        assert_eq!(sizes(None), Some((8, 4.0)));
        assert_eq!(sizes(Some(1.0)), Some((8, 1.0)));
    }

    #[test]
    fn cosine_falls_from_its_peak_after_the_warm_up() {
        let config = TrainConfig {
            warmup_steps: 10,
            ..TrainConfig::default()
        };
        let shares = [0, 5, 10, 60, 109].map(|step| config.learning_rate_share(step, 110));
        assert_eq!(shares[..3], [0.0, 0.5, 1.0]);
        assert!(
            (shares[3] - 0.5).abs() < 1e-12 && shares[4] < 0.001,
            "{shares:?}"
        );
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let good = TrainConfig {
            trigger: "mychar001".into(),
            ..TrainConfig::default()
        };
        assert!(good.check().is_ok());
        for (bad, option) in [
            (
                TrainConfig {
                    trigger: " ".into(),
                    ..good.clone()
                },
                "trigger",
            ),
            (
                TrainConfig {
                    rank: 0,
                    ..good.clone()
                },
                "rank",
            ),
            (
                TrainConfig {
                    batch_size: 0,
                    ..good.clone()
                },
                "batch-size",
            ),
            (
                TrainConfig {
                    learning_rate: f64::NAN,
                    ..good.clone()
                },
                "learning-rate",
            ),
            (
                TrainConfig {
                    alpha: -1.0,
                    ..good.clone()
                },
                "alpha",
            ),
            (
                TrainConfig {
                    conv_rank: Some(0),
                    ..good.clone()
                },
                "conv-rank",
            ),
            (
                TrainConfig {
                    conv_alpha: Some(1.0),
                    ..good.clone()
                },
                "conv-alpha",
            ),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(&format!("--{option}")), "{message}");
        }
    }
}
