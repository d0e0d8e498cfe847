use std::fs;
use std::io;
use std::path::Path;

use anyhow::Result;
use clip_text::{ClipTextConfig, Tokenizer};
use sd_vae::VaeConfig;
use serde_json::{Value, json};

use crate::files::write_whole;

use super::export::save_with;
use super::{
    Clip, LOGIT_SCALE, clip_text_config, clip_vision_config, scheduler_config, unet_config,
};

/// Side of the pocket model's pictures in pixels.
pub const SIZE: usize = 96;

/// Writes `model_index.json` and every `config.json` of the folder, as diffusers reads them.
///
/// # Errors
/// If a file cannot be written.
pub fn write_configs(folder: &Path, vae: &VaeConfig, text: &ClipTextConfig) -> io::Result<()> {
    let write =
        |name: &str, json: Value| write_whole(&folder.join(name), format!("{json:#}\n").as_bytes());
    write(
        "model_index.json",
        json!({
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.35.0",
            "feature_extractor": [null, null],
            "image_encoder": [null, null],
            "requires_safety_checker": false,
            "safety_checker": [null, null],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }),
    )?;
    let scheduler = scheduler_config();
    write(
        "scheduler/scheduler_config.json",
        json!({
            "_class_name": "DDIMScheduler",
            "beta_end": scheduler.beta_end,
            "beta_schedule": "scaled_linear",
            "beta_start": scheduler.beta_start,
            "clip_sample": false,
            "num_train_timesteps": scheduler.num_train_timesteps,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": false,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        }),
    )?;
    let levels = vae.block_out_channels.len();
    write(
        "vae/config.json",
        json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": vae.block_out_channels,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "in_channels": vae.in_channels,
            "latent_channels": vae.latent_channels,
            "layers_per_block": vae.layers_per_block,
            "mid_block_add_attention": vae.mid_block_add_attention,
            "norm_num_groups": vae.norm_num_groups,
            "out_channels": vae.out_channels,
            "sample_size": SIZE,
            "scaling_factor": vae.scaling_factor,
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
        }),
    )?;
    write("text_encoder/config.json", text_json(text))?;
    let unet = unet_config();
    write(
        "unet/config.json",
        json!({
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "attention_head_dim": unet.attention_head_dim,
            "block_out_channels": unet.block_out_channels,
            "center_input_sample": false,
            "cross_attention_dim": unet.cross_attention_dim,
            "down_block_types": unet.down_block_types,
            "downsample_padding": 1,
            "flip_sin_to_cos": unet.flip_sin_to_cos,
            "freq_shift": unet.freq_shift,
            "in_channels": unet.in_channels,
            "layers_per_block": unet.layers_per_block,
            "mid_block_scale_factor": 1,
            "norm_eps": unet.norm_eps,
            "norm_num_groups": unet.norm_num_groups,
            "out_channels": unet.out_channels,
            "sample_size": unet.sample_size,
            "up_block_types": unet.up_block_types,
        }),
    )
}

/// Writes image encoder and text encoder as one folder of a transformers `CLIPModel`, with the tokenizer of another.
///
/// # Errors
/// If a file cannot be read or written.
pub fn write_clip(clip: &Clip, folder: &Path, tokenizer: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for name in [
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.json",
    ] {
        write_whole(&folder.join(name), &fs::read(tokenizer.join(name))?)?;
    }
    let write =
        |name: &str, json: Value| write_whole(&folder.join(name), format!("{json:#}\n").as_bytes());
    let vision = clip_vision_config();
    let mut text = text_json(&clip_text_config(Tokenizer::open(folder)?.vocab_size()));
    text["projection_dim"] = vision.projection_dim.into();
    let scale = LOGIT_SCALE.ln();
    write(
        "config.json",
        json!({
            "architectures": ["CLIPModel"],
            "logit_scale_init_value": scale,
            "model_type": "clip",
            "projection_dim": vision.projection_dim,
            "text_config": text,
            "vision_config": {
                "attention_dropout": 0.0,
                "hidden_act": "quick_gelu",
                "hidden_size": vision.hidden_size,
                "image_size": vision.image_size,
                "intermediate_size": vision.intermediate_size,
                "layer_norm_eps": vision.layer_norm_eps,
                "model_type": "clip_vision_model",
                "num_attention_heads": vision.num_attention_heads,
                "num_channels": 3,
                "num_hidden_layers": vision.num_hidden_layers,
                "patch_size": vision.patch_size,
                "projection_dim": vision.projection_dim,
            },
        }),
    )?;
    write(
        "preprocessor_config.json",
        json!({
            "crop_size": {"height": SIZE, "width": SIZE},
            "do_center_crop": true,
            "do_convert_rgb": true,
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
            "rescale_factor": 1.0 / 255.0,
            "size": {"shortest_edge": SIZE},
        }),
    )?;
    let weights = folder.join("model.safetensors");
    let numbers = [("logit_scale", scale as f32)];
    Ok(save_with(clip, &weights, clip_name, &numbers)?)
}

/// The name that a parameter of [`Clip`] has in a transformers `CLIPModel`.
pub fn clip_name(path: &str) -> Option<String> {
    let part = path.strip_prefix("vision.").or(path.strip_prefix("text."));
    Some(part.unwrap_or(path).to_owned())
}

fn text_json(text: &ClipTextConfig) -> Value {
    // Start and end of a text are the last two tokens.
    json!({
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": text.vocab_size - 2,
        "eos_token_id": text.vocab_size - 1,
        "hidden_act": "quick_gelu",
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "layer_norm_eps": text.layer_norm_eps,
        "max_position_embeddings": text.max_position_embeddings,
        "model_type": "clip_text_model",
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "pad_token_id": text.vocab_size - 1,
        "projection_dim": text.hidden_size,
        "vocab_size": text.vocab_size,
    })
}
