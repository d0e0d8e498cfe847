//! What a LoRA file says of itself, in the words of kohya's trainer (`ss_*`), which A1111 and others show, and of Stability's ModelSpec.

use std::collections::BTreeMap;

use sd_diffusion::PredictionType;
use serde_json::json;

use crate::{Base, Dataset, LrScheduler, TrainConfig};

/// What the metadata tells of the model and the pictures.
pub(crate) struct Description {
    model: String,
    model_sha256: Option<String>,
    folder: String,
    pictures: usize,
    /// How often each tag, the caption's parts between commas, occurs.
    tags: BTreeMap<String, usize>,
    steps: usize,
}

impl Description {
    pub fn new(base: &Base, dataset: &Dataset, steps: usize) -> Self {
        let mut tags = BTreeMap::new();
        for sample in &dataset.samples {
            for tag in sample.caption.split(',').map(|t| t.trim().to_lowercase()) {
                if !tag.is_empty() {
                    *tags.entry(tag).or_default() += 1;
                }
            }
        }
        let folder = dataset.folder.canonicalize().ok();
        let folder = folder.as_deref().unwrap_or(&dataset.folder).file_name();
        Self {
            model: base.name.clone(),
            model_sha256: base.sha256.clone(),
            folder: folder.map_or("images".into(), |f| f.to_string_lossy().into_owned()),
            pictures: dataset.samples.len(),
            tags,
            steps,
        }
    }
}

pub(crate) fn metadata(
    name: &str,
    config: &TrainConfig,
    about: &Description,
    prediction: PredictionType,
    done: usize,
) -> BTreeMap<String, String> {
    let per_step = config.batch_size * config.gradient_accumulation;
    let epochs = (done * per_step).div_ceil(about.pictures.max(1));
    let side = config.resolution;
    let optional = |value: Option<f64>| value.map_or("None".to_string(), |v| v.to_string());
    let scheduler = match config.lr_scheduler {
        LrScheduler::Cosine => "cosine",
        LrScheduler::Constant if config.warmup_steps > 0 => "constant_with_warmup",
        LrScheduler::Constant => "constant",
    };
    // kohya keeps what was given on its command line, in quotes.
    let network_args = match config.conv_size() {
        None => json!({}),
        Some(conv) => json!({
            "conv_dim": conv.rank.to_string(),
            "conv_alpha": conv.alpha.to_string(),
        }),
    };
    let text_rate = config.text_encoder_rate();
    let v2 = prediction == PredictionType::VPrediction;
    let mut all = BTreeMap::from(
        [
            ("ss_v2", "False".to_string()),
            ("ss_base_model_version", "sd_v1".into()),
            ("ss_network_module", "networks.lora".into()),
            ("ss_network_dim", config.rank.to_string()),
            ("ss_network_alpha", config.alpha.to_string()),
            ("ss_network_args", network_args.to_string()),
            ("ss_output_name", name.into()),
            ("ss_sd_model_name", about.model.clone()),
            ("ss_learning_rate", config.learning_rate.to_string()),
            ("ss_unet_lr", config.learning_rate.to_string()),
            ("ss_text_encoder_lr", text_rate.to_string()),
            ("ss_lr_scheduler", scheduler.into()),
            ("ss_lr_warmup_steps", config.warmup_steps.to_string()),
            (
                "ss_optimizer",
                format!("AdamW(weight_decay={})", config.weight_decay),
            ),
            ("ss_max_grad_norm", optional(config.max_grad_norm)),
            ("ss_min_snr_gamma", optional(config.min_snr_gamma)),
            ("ss_batch_size_per_device", config.batch_size.to_string()),
            ("ss_total_batch_size", per_step.to_string()),
            (
                "ss_gradient_accumulation_steps",
                config.gradient_accumulation.to_string(),
            ),
            (
                "ss_gradient_checkpointing",
                if config.gradient_checkpointing {
                    "True".into()
                } else {
                    "False".into()
                },
            ),
            ("ss_max_train_steps", about.steps.to_string()),
            ("ss_steps", done.to_string()),
            ("ss_epoch", epochs.to_string()),
            ("ss_num_epochs", epochs.to_string()),
            ("ss_num_train_images", about.pictures.to_string()),
            ("ss_num_reg_images", "0".into()),
            ("ss_resolution", format!("({side}, {side})")),
            ("ss_clip_skip", config.clip_skip.to_string()),
            ("ss_seed", config.seed.to_string()),
            ("ss_mixed_precision", "no".into()),
            ("ss_cache_latents", "True".into()),
            (
                "ss_dataset_dirs",
                json!({ &about.folder: { "n_repeats": 1, "img_count": about.pictures } })
                    .to_string(),
            ),
            (
                "ss_tag_frequency",
                json!({ &about.folder: about.tags }).to_string(),
            ),
            ("modelspec.sai_model_spec", "1.0.1".into()),
            ("modelspec.architecture", "stable-diffusion-v1/lora".into()),
            ("modelspec.implementation", "diffusers".into()),
            ("modelspec.title", name.into()),
            ("modelspec.resolution", format!("{side}x{side}")),
            (
                "modelspec.prediction_type",
                if v2 { "v" } else { "epsilon" }.into(),
            ),
            ("modelspec.trigger_phrase", config.trigger.clone()),
            ("modelspec.encoder_layer", config.clip_skip.to_string()),
            (
                "modelspec.usage_hint",
                format!("({}:1.0) in the prompt", config.trigger),
            ),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    );
    if let Some(hash) = &about.model_sha256 {
        all.insert("ss_new_sd_model_hash".into(), hash.clone());
    }
    all
}
