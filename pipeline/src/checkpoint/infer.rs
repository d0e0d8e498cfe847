//! The configuration of a component, told from its tensors' names and shapes: a single file carries none.
//!
//! What shapes do not tell is Stable Diffusion 1.x's: eight heads in the UNet, 64 channels a head in CLIP, groups of 32, quick GELU,
//! and the VAE's scale of 0.18215.

use std::collections::BTreeSet;

use clip_vision::ClipVisionConfig;
use serde_json::{Value, json};

use super::{Part, Weights};

/// Groups of every group norm.
const GROUPS: usize = 32;
/// Heads of the UNet's attention.
const HEADS: usize = 8;
/// Channels of a head in CLIP.
const CLIP_HEAD: usize = 64;
/// The VAE's scale: latents of about unit variance.
const VAE_SCALE: f64 = 0.18215;

/// diffusers' or transformers' `config.json` of these weights; else what does not fit.
pub(super) fn config(part: Part, weights: &Weights) -> Result<Value, String> {
    let shapes = Shapes(weights);
    match part {
        Part::Unet => unet(&shapes),
        Part::Vae => vae(&shapes),
        Part::TextEncoder => text_encoder(&shapes),
    }
}

struct Shapes<'a>(&'a Weights);

impl Shapes<'_> {
    /// One axis of a tensor.
    fn axis(&self, name: &str, axis: usize) -> Result<usize, String> {
        let shape = self.shape(name)?;
        match shape.get(axis) {
            Some(&length) if length > 0 => Ok(length),
            _ => Err(format!(
                "{} has shape {shape:?}, expected axis {axis} to have a length",
                self.named(name)
            )),
        }
    }

    fn shape(&self, name: &str) -> Result<&[usize], String> {
        self.0
            .shape(name)
            .ok_or_else(|| format!("it has no `{name}` (in diffusers' names), without which the model's size is unknown"))
    }

    fn has(&self, prefix: &str) -> bool {
        self.0.names().any(|(name, _)| name.starts_with(prefix))
    }

    fn named(&self, name: &str) -> String {
        let theirs = self.0.names().find(|(ours, _)| *ours == name);
        format!("`{}`", theirs.map_or(name, |(_, theirs)| theirs))
    }

    /// How many numbers follow `prefix`, which are to be 0, 1, 2, ….
    fn count(&self, prefix: &str) -> Result<usize, String> {
        let mut indices = BTreeSet::new();
        for (name, _) in self.0.names() {
            let index = name
                .strip_prefix(prefix)
                .and_then(|rest| rest.split('.').next());
            if let Some(index) = index {
                let index: usize = index
                    .parse()
                    .map_err(|_| format!("`{name}`: expected a number after `{prefix}`"))?;
                indices.insert(index);
            }
        }
        let count = indices.len();
        match indices.last() {
            None => Err(format!("it has no `{prefix}0`")),
            Some(&last) if last >= count => Err(format!(
                "it has {count} blocks `{prefix}…`, but their numbers go up to {last}"
            )),
            _ => Ok(count),
        }
    }
}

/// One number where all are the same, else a list.
fn same(values: &[usize]) -> Value {
    match values {
        [first, rest @ ..] if rest.iter().all(|value| value == first) => json!(first),
        values => json!(values),
    }
}

fn divisible(what: &str, channels: &[usize], by: usize) -> Result<(), String> {
    match channels.iter().find(|&&channels| channels % by != 0) {
        None => Ok(()),
        Some(odd) => Err(format!(
            "{what} has {odd} channels, which Stable Diffusion 1.x's {by} do not divide; such a model opens as a diffusers folder, whose \
             config.json tells the rest"
        )),
    }
}

fn unet(shapes: &Shapes<'_>) -> Result<Value, String> {
    let levels = shapes.count("down_blocks.")?;
    let up_levels = shapes.count("up_blocks.")?;
    if up_levels != levels {
        return Err(format!(
            "the UNet has {levels} levels down and {up_levels} up"
        ));
    }
    let (mut channels, mut layers, mut depths) = (Vec::new(), Vec::new(), Vec::new());
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let mut attention = "mid_block.attentions.0.".to_owned();
    for level in 0..levels {
        let block = format!("down_blocks.{level}.");
        channels.push(shapes.axis(&format!("{block}resnets.0.conv1.weight"), 0)?);
        layers.push(shapes.count(&format!("{block}resnets."))?);
        if shapes.has(&format!("{block}attentions.")) {
            attention = format!("{block}attentions.0.");
            depths.push(Some(
                shapes.count(&format!("{attention}transformer_blocks."))?,
            ));
            down.push("CrossAttnDownBlock2D");
        } else {
            depths.push(None);
            down.push("DownBlock2D");
        }
        up.push(if shapes.has(&format!("up_blocks.{level}.attentions.")) {
            "CrossAttnUpBlock2D"
        } else {
            "UpBlock2D"
        });
        let mirrored = shapes.count(&format!("up_blocks.{}.resnets.", levels - 1 - level))?;
        if mirrored != layers[level] + 1 {
            return Err(format!(
                "the UNet's level {level} has {} residual blocks down and {mirrored} up, expected one more",
                layers[level]
            ));
        }
    }
    divisible("the UNet's group norm", &channels, GROUPS)?;
    // A level without attention has no depth of its own: that of the others, so that one number says it.
    let usual = depths.iter().flatten().next().copied().unwrap_or(1);
    let depths: Vec<usize> = depths
        .into_iter()
        .map(|depth| depth.unwrap_or(usual))
        .collect();
    let cross = format!("{attention}transformer_blocks.0.attn2.to_k.weight");
    Ok(json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": HEADS,
        "block_out_channels": channels,
        "center_input_sample": false,
        "cross_attention_dim": shapes.axis(&cross, 1)?,
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": shapes.axis("conv_in.weight", 1)?,
        "layers_per_block": same(&layers),
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": GROUPS,
        "out_channels": shapes.axis("conv_out.weight", 0)?,
        "sample_size": 64,
        "transformer_layers_per_block": same(&depths),
        "up_block_types": up,
        "use_linear_projection": shapes.shape(&format!("{attention}proj_in.weight"))?.len() == 2,
    }))
}

fn vae(shapes: &Shapes<'_>) -> Result<Value, String> {
    let levels = shapes.count("encoder.down_blocks.")?;
    let up_levels = shapes.count("decoder.up_blocks.")?;
    if up_levels != levels {
        return Err(format!(
            "the VAE has {levels} levels down and {up_levels} up"
        ));
    }
    let (mut channels, mut layers) = (Vec::new(), Vec::new());
    for level in 0..levels {
        let block = format!("encoder.down_blocks.{level}.resnets.");
        channels.push(shapes.axis(&format!("{block}0.conv1.weight"), 0)?);
        layers.push(shapes.count(&block)?);
    }
    divisible("the VAE's group norm", &channels, GROUPS)?;
    let [first, rest @ ..] = layers.as_slice() else {
        return Err("the VAE has no levels".to_owned());
    };
    if rest.iter().any(|layers| layers != first) {
        return Err(format!(
            "the VAE's levels have {layers:?} residual blocks, expected the same in all"
        ));
    }
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "in_channels": shapes.axis("encoder.conv_in.weight", 1)?,
        "latent_channels": shapes.axis("decoder.conv_in.weight", 1)?,
        "layers_per_block": first,
        "norm_num_groups": GROUPS,
        "out_channels": shapes.axis("decoder.conv_out.weight", 0)?,
        "sample_size": 512,
        "scaling_factor": VAE_SCALE,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
    }))
}

fn text_encoder(shapes: &Shapes<'_>) -> Result<Value, String> {
    let vocabulary = shapes.axis("embeddings.token_embedding.weight", 0)?;
    let hidden = shapes.axis("embeddings.token_embedding.weight", 1)?;
    divisible("the text encoder", &[hidden], CLIP_HEAD)?;
    Ok(json!({
        "architectures": ["CLIPTextModel"],
        // The last two words of CLIP's vocabulary.
        "bos_token_id": vocabulary.saturating_sub(2),
        "eos_token_id": vocabulary - 1,
        "hidden_act": "quick_gelu",
        "hidden_size": hidden,
        "intermediate_size": shapes.axis("encoder.layers.0.mlp.fc1.weight", 0)?,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": shapes.axis("embeddings.position_embedding.weight", 0)?,
        "model_type": "clip_text_model",
        "num_attention_heads": hidden / CLIP_HEAD,
        "num_hidden_layers": shapes.count("encoder.layers.")?,
        "pad_token_id": vocabulary - 1,
        "projection_dim": hidden,
        "vocab_size": vocabulary,
    }))
}

/// A CLIP image encoder's sizes, by its shapes. What those do not tell, heads and activation, is that of the published model of the width.
pub(crate) fn clip_vision(weights: &Weights) -> Result<ClipVisionConfig, String> {
    let shapes = Shapes(weights);
    let patches = "vision_model.embeddings.patch_embedding.weight";
    let positions = "vision_model.embeddings.position_embedding.weight";
    let hidden_size = shapes.axis(patches, 0)?;
    let published = [
        ClipVisionConfig::vit_l_14(),
        ClipVisionConfig::vit_h_14(),
        ClipVisionConfig::vit_bigg_14(),
    ];
    let Some(published) = published
        .into_iter()
        .find(|published| published.hidden_size == hidden_size)
    else {
        return Err(format!(
            "`{patches}` has {hidden_size} channels, expected 1024 (ViT-L/14), 1280 (ViT-H/14) or 1664 (ViT-bigG/14): the heads of others are \
             not known, so give the folder with the encoder's `config.json`"
        ));
    };
    let patch_size = shapes.axis(patches, 2)?;
    let count = shapes.axis(positions, 0)?;
    let side = (count - 1).isqrt();
    if side == 0 || side * side != count - 1 {
        return Err(format!(
            "`{positions}` has {count} positions, expected one more than a square number"
        ));
    }
    Ok(ClipVisionConfig {
        patch_size,
        image_size: side * patch_size,
        intermediate_size: shapes.axis("vision_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        projection_dim: shapes.axis("visual_projection.weight", 0)?,
        num_hidden_layers: shapes.count("vision_model.encoder.layers.")?,
        ..published
    })
}
