//! The names of the original latent-diffusion code, and of diffusers' older versions, told in diffusers' present ones.
//!
//! The original numbers the blocks through: at two residual blocks a level, `input_blocks.{3i + j + 1}` is `down_blocks.i.resnets.j`, and a
//! block with `op` ends the level. The walk below reads levels and layers off the names that are there, so it holds for any number of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Part;

/// A component's tensors: from diffusers' name to the file's.
pub(super) type Names = BTreeMap<String, String>;

/// The tensors of a single file, by component.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub unet: Names,
    pub vae: Names,
    pub text_encoder: Names,
    /// Tensors that no picture needs.
    pub ignored: Vec<String>,
    /// Tensors of unknown use.
    pub unknown: Vec<String>,
}

impl Sorted {
    pub fn part(&mut self, part: Part) -> &mut Names {
        match part {
            Part::Unet => &mut self.unet,
            Part::Vae => &mut self.vae,
            Part::TextEncoder => &mut self.text_encoder,
        }
    }

    /// Takes a tensor into its component; two tensors for one place leave the second unknown.
    fn place(&mut self, part: Part, name: Option<String>, key: &str) {
        let names = self.part(part);
        match name {
            Some(name) if !names.contains_key(&name) => {
                names.insert(name, key.to_owned());
            }
            _ => self.unknown.push(key.to_owned()),
        }
    }
}

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const TEXT: &str = "cond_stage_model.transformer.";
const TEXT_MODEL: &str = "text_model.";

/// Sorts the tensors of a single-file checkpoint of the original layout.
pub(super) fn sort<'a>(keys: impl Iterator<Item = &'a str>) -> Sorted {
    let keys: Vec<&str> = keys.collect();
    let unet = UnetMap::new(keys.iter().filter_map(|key| key.strip_prefix(UNET)));
    let vae = VaeMap::new(keys.iter().filter_map(|key| key.strip_prefix(VAE)));
    let mut sorted = Sorted::default();
    for key in keys {
        if is_ignorable(key) {
            sorted.ignored.push(key.to_owned());
        } else if let Some(rest) = key.strip_prefix(UNET) {
            sorted.place(Part::Unet, unet.name(rest), key);
        } else if let Some(rest) = key.strip_prefix(VAE) {
            sorted.place(Part::Vae, vae.name(rest), key);
        } else if let Some(rest) = key.strip_prefix(TEXT) {
            sorted.place(Part::TextEncoder, text_name(rest), key);
        } else {
            sorted.unknown.push(key.to_owned());
        }
    }
    sorted
}

/// Sorts the tensors of a file that holds one component, under diffusers' names or, a VAE, under the original ones.
pub(super) fn sort_part<'a>(part: Part, keys: impl Iterator<Item = &'a str>) -> Sorted {
    let keys: Vec<&str> = keys.collect();
    let bare = |key: &'a str| match part {
        Part::Vae => key.strip_prefix(VAE).unwrap_or(key),
        _ => key,
    };
    let vae = VaeMap::new(keys.iter().map(|key| bare(key)));
    let mut sorted = Sorted::default();
    for key in keys {
        if is_ignorable(key) {
            sorted.ignored.push(key.to_owned());
            continue;
        }
        let name = match part {
            Part::Unet => Some(key.to_owned()),
            Part::Vae => vae.name(bare(key)),
            Part::TextEncoder => text_name(key),
        };
        sorted.place(part, name, key);
    }
    sorted
}

/// Tensors that checkpoints carry and no picture needs: the training's moving average, discriminator and noise schedule, positions
/// 0, 1, 2, … (which some merges have corrupted), and CLIP's other half.
fn is_ignorable(key: &str) -> bool {
    const SCHEDULE: &[&str] = &[
        "betas",
        "alphas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "alphas_cumprod_next",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "lvlb_weights",
        "logvar",
        "scale_factor",
        "denoiser.sigmas",
        "denoiser.log_sigmas",
        "global_step",
    ];
    let bare = [TEXT, "cond_stage_model.", VAE]
        .into_iter()
        .find_map(|prefix| key.strip_prefix(prefix))
        .unwrap_or(key);
    SCHEDULE.contains(&key.strip_prefix("model.").unwrap_or(key))
        || ["model_ema.", "loss."]
            .iter()
            .any(|start| bare.starts_with(start))
        || bare == "position_ids"
        || bare.ends_with(".position_ids")
        || bare == "logit_scale"
        || bare == "text_projection"
        || bare.starts_with("text_projection.")
}

/// Without `text_model.`, which NovelAI's file and transformers since version 5 leave out.
fn text_name(key: &str) -> Option<String> {
    let bare = key.strip_prefix(TEXT_MODEL).unwrap_or(key);
    ["embeddings.", "encoder.layers.", "final_layer_norm."]
        .iter()
        .any(|start| bare.starts_with(start))
        .then(|| bare.to_owned())
}

/// Splits `7.rest` into 7 and `rest`.
fn index(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    // `+7` and `007` are numbers to the parser, and names of nothing.
    let index: usize = number.parse().ok()?;
    (number == index.to_string()).then_some((index, rest))
}

/// What a numbered block of the original UNet is.
#[derive(Clone, Copy, Debug)]
enum Block {
    /// A residual block, maybe with attention and, on the way up, an upsampler.
    Layer { level: usize, layer: usize },
    /// The end of a level on the way down.
    Downsampler { level: usize },
}

/// The original UNet's names to diffusers'.
pub(super) struct UnetMap {
    input: BTreeMap<usize, Block>,
    output: BTreeMap<usize, Block>,
}

impl UnetMap {
    pub fn new<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let (mut input, mut output) = (BTreeSet::new(), BTreeSet::new());
        let (mut downsamplers, mut upsamplers) = (BTreeSet::new(), BTreeSet::new());
        for key in keys {
            if let Some((block, rest)) = key.strip_prefix("input_blocks.").and_then(index) {
                input.insert(block);
                if rest.starts_with("0.op.") {
                    downsamplers.insert(block);
                }
            } else if let Some((block, rest)) = key.strip_prefix("output_blocks.").and_then(index) {
                output.insert(block);
                if index(rest).is_some_and(|(_, rest)| rest.starts_with("conv.")) {
                    upsamplers.insert(block);
                }
            }
        }
        let (mut level, mut layer) = (0, 0);
        // Block 0 is `conv_in`.
        let input = input.into_iter().filter(|&block| block > 0).map(|block| {
            if downsamplers.contains(&block) {
                (level, layer) = (level + 1, 0);
                return (block, Block::Downsampler { level: level - 1 });
            }
            layer += 1;
            let layer = layer - 1;
            (block, Block::Layer { level, layer })
        });
        let input = input.collect();
        let (mut level, mut layer) = (0, 0);
        let output = output.into_iter().map(|block| {
            let place = Block::Layer { level, layer };
            (level, layer) = match upsamplers.contains(&block) {
                true => (level + 1, 0),
                false => (level, layer + 1),
            };
            (block, place)
        });
        Self {
            input,
            output: output.collect(),
        }
    }

    /// The name in diffusers of a tensor that is called `key` after `model.diffusion_model.`.
    pub fn name(&self, key: &str) -> Option<String> {
        const ENDS: &[(&str, &str)] = &[
            ("time_embed.0.", "time_embedding.linear_1."),
            ("time_embed.2.", "time_embedding.linear_2."),
            ("input_blocks.0.0.", "conv_in."),
            ("out.0.", "conv_norm_out."),
            ("out.2.", "conv_out."),
        ];
        for (theirs, ours) in ENDS {
            if let Some(rest) = key.strip_prefix(theirs) {
                return Some(format!("{ours}{rest}"));
            }
        }
        if let Some((place, rest)) = key.strip_prefix("middle_block.").and_then(index) {
            return match place {
                0 => Some(format!("mid_block.resnets.0.{}", resnet(rest)?)),
                1 => Some(format!("mid_block.attentions.0.{}", transformer(rest)?)),
                2 => Some(format!("mid_block.resnets.1.{}", resnet(rest)?)),
                _ => None,
            };
        }
        let (blocks, way, key) = match key.strip_prefix("input_blocks.") {
            Some(key) => (&self.input, "down_blocks", key),
            None => (
                &self.output,
                "up_blocks",
                key.strip_prefix("output_blocks.")?,
            ),
        };
        let (block, key) = index(key)?;
        let (place, rest) = index(key)?;
        match (*blocks.get(&block)?, place) {
            (Block::Downsampler { level }, 0) => {
                let rest = rest.strip_prefix("op.")?;
                Some(format!("{way}.{level}.downsamplers.0.conv.{rest}"))
            }
            (Block::Downsampler { .. }, _) => None,
            (Block::Layer { level, layer }, 0) => {
                Some(format!("{way}.{level}.resnets.{layer}.{}", resnet(rest)?))
            }
            (Block::Layer { level, .. }, 1 | 2)
                if way == "up_blocks" && rest.starts_with("conv.") =>
            {
                Some(format!("{way}.{level}.upsamplers.0.{rest}"))
            }
            (Block::Layer { level, layer }, 1) => Some(format!(
                "{way}.{level}.attentions.{layer}.{}",
                transformer(rest)?
            )),
            _ => None,
        }
    }
}

fn resnet(key: &str) -> Option<String> {
    const PARTS: &[(&str, &str)] = &[
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    renamed(PARTS, key)
}

fn transformer(key: &str) -> Option<&str> {
    ["norm.", "proj_in.", "transformer_blocks.", "proj_out."]
        .iter()
        .any(|start| key.starts_with(start))
        .then_some(key)
}

fn renamed(parts: &[(&str, &str)], key: &str) -> Option<String> {
    parts.iter().find_map(|(theirs, ours)| {
        let rest = key.strip_prefix(theirs)?;
        Some(format!("{ours}{rest}"))
    })
}

/// The original VAE's names, or diffusers' old ones, to diffusers'.
pub(super) struct VaeMap {
    /// Levels of the decoder, which the original counts from fine to coarse.
    levels: usize,
}

impl VaeMap {
    pub fn new<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let levels = keys.filter_map(|key| Some(index(key.strip_prefix("decoder.up.")?)?.0));
        Self {
            levels: levels.collect::<BTreeSet<_>>().len(),
        }
    }

    /// The name in diffusers of a tensor that is called `key` after `first_stage_model.`, if any.
    pub fn name(&self, key: &str) -> Option<String> {
        if key.starts_with("quant_conv.") || key.starts_with("post_quant_conv.") {
            return Some(key.to_owned());
        }
        let (half, rest) = key.split_once('.')?;
        if half != "encoder" && half != "decoder" {
            return None;
        }
        const ATTENTION: &[(&str, &str)] = &[
            ("norm.", "group_norm."),
            ("q.", "to_q."),
            ("k.", "to_k."),
            ("v.", "to_v."),
            ("proj_out.", "to_out.0."),
        ];
        const OLD_ATTENTION: &[(&str, &str)] = &[
            ("query.", "to_q."),
            ("key.", "to_k."),
            ("value.", "to_v."),
            ("proj_attn.", "to_out.0."),
        ];
        if let Some(rest) = rest.strip_prefix("mid_block.attentions.0.") {
            let rest = renamed(OLD_ATTENTION, rest).unwrap_or_else(|| rest.to_owned());
            return Some(format!("{half}.mid_block.attentions.0.{rest}"));
        }
        const NAMED: &[&str] = &[
            "conv_in.",
            "conv_out.",
            "conv_norm_out.",
            "mid_block.",
            "down_blocks.",
            "up_blocks.",
        ];
        if NAMED.iter().any(|start| rest.starts_with(start)) {
            return Some(key.to_owned());
        }
        if let Some(rest) = rest.strip_prefix("norm_out.") {
            return Some(format!("{half}.conv_norm_out.{rest}"));
        }
        if let Some(rest) = rest.strip_prefix("mid.") {
            let rest = if let Some(rest) = rest.strip_prefix("block_1.") {
                format!("resnets.0.{}", vae_resnet(rest)?)
            } else if let Some(rest) = rest.strip_prefix("block_2.") {
                format!("resnets.1.{}", vae_resnet(rest)?)
            } else {
                format!(
                    "attentions.0.{}",
                    renamed(ATTENTION, rest.strip_prefix("attn_1.")?)?
                )
            };
            return Some(format!("{half}.mid_block.{rest}"));
        }
        let (blocks, level, rest) = match rest.strip_prefix("down.") {
            Some(rest) => {
                let (level, rest) = index(rest)?;
                ("down_blocks", level, rest)
            }
            None => {
                let (level, rest) = index(rest.strip_prefix("up.")?)?;
                (
                    "up_blocks",
                    self.levels.checked_sub(level.checked_add(1)?)?,
                    rest,
                )
            }
        };
        let rest = if let Some(rest) = rest.strip_prefix("block.") {
            let (layer, rest) = index(rest)?;
            format!("resnets.{layer}.{}", vae_resnet(rest)?)
        } else if let Some(rest) = rest.strip_prefix("downsample.conv.") {
            format!("downsamplers.0.conv.{rest}")
        } else {
            format!("upsamplers.0.conv.{}", rest.strip_prefix("upsample.conv.")?)
        };
        Some(format!("{half}.{blocks}.{level}.{rest}"))
    }
}

fn vae_resnet(key: &str) -> Option<String> {
    if let Some(rest) = key.strip_prefix("nin_shortcut.") {
        return Some(format!("conv_shortcut.{rest}"));
    }
    ["norm1.", "conv1.", "norm2.", "conv2."]
        .iter()
        .any(|start| key.starts_with(start))
        .then(|| key.to_owned())
}

/// Names the model whose tensors these are, where it is plainly another than Stable Diffusion 1.x.
pub(super) fn other_architecture<'a>(
    keys: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'static str> {
    let any = |test: &dyn Fn(&str) -> bool| keys.clone().any(test);
    let starts =
        |prefixes: &[&str]| any(&|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    let contains = |part: &str| any(&|key| key.contains(part));
    Some(if starts(&["conditioner.embedders.1."]) {
        "a Stable Diffusion XL model (`conditioner.embedders.1.…`)"
    } else if starts(&["conditioner.embedders.0.model."]) {
        "the refiner of Stable Diffusion XL (`conditioner.embedders.0.model.…`)"
    } else if starts(&["conditioner."]) {
        "a model of Stability's later generation (`conditioner.…`)"
    } else if starts(&["cond_stage_model.model."]) {
        "a Stable Diffusion 2.x model (`cond_stage_model.model.…`)"
    } else if contains("double_blocks.") {
        "a Flux model (`double_blocks.…`)"
    } else if contains("joint_blocks.") {
        "a Stable Diffusion 3 model (`joint_blocks.…`)"
    } else if contains("label_emb.") || contains("add_embedding.") {
        "a Stable Diffusion XL UNet (`label_emb.…`)"
    } else if contains("lora_down.")
        || contains("lora_A.")
        || contains(".lora.down.")
        || contains("lora_up.")
    {
        "a LoRA, not a checkpoint (give it with `--lora`)"
    } else if contains("hada_w1_a") || contains("lokr_w1") {
        "a LyCORIS adapter, not a checkpoint"
    } else if starts(&["image_proj.", "ip_adapter."]) {
        "an IP-Adapter, not a checkpoint (give it with `--ip-adapter`)"
    } else if starts(&["control_model.", "controlnet_", "input_hint_block."]) {
        "a ControlNet, not a checkpoint"
    } else if contains("motion_modules.") {
        "a motion module, not a checkpoint"
    } else if starts(&["string_to_param", "emb_params"]) {
        "a textual inversion, not a checkpoint"
    } else {
        return None;
    })
}

/// Names the single component that a file holds under bare names.
pub(super) fn lone_part<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let any = |prefix: &str| keys.clone().any(|key| key.starts_with(prefix));
    if any("decoder.") && any("encoder.") {
        Some("only a VAE (give it with `--vae`, beside a whole checkpoint)")
    } else if any("input_blocks.") || (any("down_blocks.") && any("conv_in.")) {
        Some("only a UNet, without text encoder and VAE")
    } else if any("text_model.") || any("embeddings.token_embedding.") {
        Some("only a text encoder, without UNet and VAE")
    } else {
        None
    }
}
