//! Names: what a key of any dialect says, and how a module is written in each.

use std::fmt;

/// The part of a Stable Diffusion 1.x pipeline that a module of a LoRA belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The denoiser: `lora_unet_…`, `unet.…`.
    Unet,
    /// The CLIP text encoder: `lora_te_…` (read: `lora_te1_…` too), `text_encoder.…`.
    TextEncoder,
}

impl Component {
    /// Both, in the order of files.
    pub const ALL: [Self; 2] = [Self::Unet, Self::TextEncoder];

    /// What kohya's keys of this component begin with.
    pub fn kohya_prefix(self) -> &'static str {
        match self {
            Self::Unet => "lora_unet_",
            Self::TextEncoder => "lora_te_",
        }
    }

    /// What diffusers' and PEFT's keys of this component begin with.
    pub fn peft_prefix(self) -> &'static str {
        match self {
            Self::Unet => "unet.",
            Self::TextEncoder => "text_encoder.",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unet => "UNet",
            Self::TextEncoder => "text encoder",
        })
    }
}

/// How a file spells a factor's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spelling {
    /// `lora_unet_down_blocks_0_….lora_down.weight`.
    Kohya,
    /// Kohya's, with the original Stable Diffusion's block names: `lora_unet_input_blocks_1_1_….lora_down.weight`.
    KohyaLdm,
    /// `unet.down_blocks.0.….lora_A.weight`.
    Peft,
    /// `unet.down_blocks.0.….lora.down.weight`, `text_encoder.….lora_linear_layer.down.weight`.
    Diffusers,
    /// `….attn1.processor.to_q_lora.down.weight`.
    DiffusersProcessor,
}

impl fmt::Display for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kohya => "kohya",
            Self::KohyaLdm => "kohya (LDM block names)",
            Self::Peft => "PEFT",
            Self::Diffusers => "diffusers",
            Self::DiffusersProcessor => "diffusers (attention processors)",
        })
    }
}

/// Which tensor of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Down,
    Up,
    Alpha,
}

/// A key that was understood.
#[derive(Debug, PartialEq)]
pub(crate) struct Key {
    pub component: Component,
    /// The module's name as [`canonical`] makes it.
    pub name: String,
    /// The module's dotted path, where the key itself or the usual names tell it.
    pub path: Option<String>,
    /// The module as the file spells it.
    pub stem: String,
    pub part: Part,
    pub spelling: Spelling,
    /// Whether PEFT itself wrote the key, and not diffusers.
    pub plain_peft: bool,
}

/// What a key is.
#[derive(Debug, PartialEq)]
pub(crate) enum Meaning {
    Factor(Key),
    /// Part of an adapter of a kind that is not read.
    Unsupported(&'static str),
    /// Part of a LoRA for another architecture.
    Foreign(&'static str),
    /// A LoRA's ending on a module that no dialect has.
    UnknownModule,
    /// No key of a LoRA.
    Other,
}

const SDXL: &str = "Stable Diffusion XL";
const TRANSFORMER: &str = "a diffusion transformer (Flux, SD 3 or the like)";

/// The name under which a module of a file and a module of a model meet: dots and underscores are one, and the text encoder's
/// `text_model.` may be there or not (transformers 5 leaves it out).
pub(crate) fn canonical(component: Component, path: &str) -> String {
    let name = path.replace('.', "_");
    match component {
        Component::TextEncoder => name
            .strip_prefix("text_model_")
            .map(str::to_owned)
            .unwrap_or(name),
        Component::Unet => name,
    }
}

/// A module's key in kohya's dialect, without the ending.
pub(crate) fn kohya(component: Component, name: &str) -> String {
    format!(
        "{}{}{name}",
        component.kohya_prefix(),
        text_model(component, name, "text_model_")
    )
}

/// A module's key in PEFT's dialect, without the ending. The text encoder's `text_model.` is written, since older readers need it and
/// newer ones take it off.
pub(crate) fn peft(component: Component, path: &str) -> String {
    let path = match component {
        Component::TextEncoder => path.strip_prefix("text_model.").unwrap_or(path),
        Component::Unet => path,
    };
    format!(
        "{}{}{path}",
        component.peft_prefix(),
        text_model(component, path, "text_model.")
    )
}

fn text_model(component: Component, name: &str, prefix: &'static str) -> &'static str {
    if component == Component::TextEncoder && !name.starts_with("text_projection") {
        prefix
    } else {
        ""
    }
}

/// Reads a key of any dialect.
pub(crate) fn parse(key: &str) -> Meaning {
    if let Some(kind) = unsupported(key) {
        return Meaning::Unsupported(kind);
    }
    let Some((stem, part, suffix_spelling)) = ending(key) else {
        return Meaning::Other;
    };
    let (rest, plain_peft) = match stem.strip_prefix("base_model.model.") {
        Some(rest) => (rest, true),
        None => (stem, false),
    };
    let (component, module) = match place(rest) {
        Place::Module(component, module) => (component, module),
        Place::Foreign(found) => return Meaning::Foreign(found),
        Place::Unknown => return Meaning::UnknownModule,
    };
    let (module, spelling) = respell(component, module, suffix_spelling);
    let mut name = canonical(component, &module);
    let mut path = module.contains('.').then(|| module.clone());
    let mut spelling = spelling;
    if component == Component::Unet {
        if let Some(found) = foreign_module(&name) {
            return Meaning::Foreign(found);
        }
        if is_ldm(&name) {
            let Some(translated) = from_ldm(&name) else {
                return Meaning::UnknownModule;
            };
            if translated.starts_with("up_blocks_0_attentions_") {
                return Meaning::Foreign(SDXL); // SD 1.x has no attention in its first up block.
            }
            (name, path) = (translated, None);
            if spelling == Spelling::Kohya {
                spelling = Spelling::KohyaLdm;
            }
        }
        if name
            .split("_transformer_blocks_")
            .nth(1)
            .is_some_and(|rest| !rest.starts_with("0_"))
        {
            return Meaning::Foreign(SDXL); // SD 1.x and 2.x have one transformer block in each.
        }
    }
    let path = path.or_else(|| dotted(&name));
    Meaning::Factor(Key {
        component,
        name,
        path,
        stem: stem.to_owned(),
        part,
        spelling,
        plain_peft,
    })
}

/// The kind of adapter of a key that only such a one has.
fn unsupported(key: &str) -> Option<&'static str> {
    let has = |part: &str| key.contains(part);
    if has(".lora_mid.") {
        Some("part of a LoCon with a Tucker core")
    } else if has(".hada_") {
        Some("part of a LoHa")
    } else if has(".lokr_") {
        Some("part of a LoKr")
    } else if has(".dora_scale") || has(".lora_magnitude_vector") {
        Some("part of a DoRA")
    } else if has(".oft_") || has(".boft_") {
        Some("part of an OFT")
    } else if has(".lora_embedding_") {
        Some("a LoRA of an embedding")
    } else if key.ends_with(".lora_B.bias")
        || key.ends_with(".lora_up.bias")
        || key.ends_with(".lora.up.bias")
    {
        Some("a LoRA with a bias")
    } else if !key.starts_with("lora_") {
        None // The endings below are too common to tell anything of other keys.
    } else if key.ends_with(".diff") || key.ends_with(".diff_b") {
        Some("a full difference")
    } else if [".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"]
        .iter()
        .any(|end| key.ends_with(end))
    {
        Some("part of a GLoRA")
    } else {
        None
    }
}

/// Splits the ending off a key.
fn ending(key: &str) -> Option<(&str, Part, Spelling)> {
    const ENDINGS: [(&str, Part, Spelling); 11] = [
        (".lora_down.weight", Part::Down, Spelling::Kohya),
        (".lora_up.weight", Part::Up, Spelling::Kohya),
        (".lora_A.weight", Part::Down, Spelling::Peft),
        (".lora_B.weight", Part::Up, Spelling::Peft),
        (
            ".lora_linear_layer.down.weight",
            Part::Down,
            Spelling::Diffusers,
        ),
        (
            ".lora_linear_layer.up.weight",
            Part::Up,
            Spelling::Diffusers,
        ),
        (".lora.down.weight", Part::Down, Spelling::Diffusers),
        (".lora.up.weight", Part::Up, Spelling::Diffusers),
        (
            "_lora.down.weight",
            Part::Down,
            Spelling::DiffusersProcessor,
        ),
        ("_lora.up.weight", Part::Up, Spelling::DiffusersProcessor),
        (".alpha", Part::Alpha, Spelling::Kohya),
    ];
    for (end, part, spelling) in ENDINGS {
        if let Some(stem) = key.strip_suffix(end).filter(|stem| !stem.is_empty()) {
            return Some((stem, part, spelling));
        }
    }
    // PEFT with its adapter's name: `….lora_A.default.weight`.
    let (stem, name) = key.strip_suffix(".weight")?.rsplit_once('.')?;
    if name.is_empty() {
        return None;
    }
    match stem.rsplit_once('.')? {
        ("", _) => None,
        (stem, "lora_A") => Some((stem, Part::Down, Spelling::Peft)),
        (stem, "lora_B") => Some((stem, Part::Up, Spelling::Peft)),
        _ => None,
    }
}

enum Place<'a> {
    Module(Component, &'a str),
    Foreign(&'static str),
    Unknown,
}

/// The component that a module's key names, and what follows. Where it names none, as PEFT's own keys do, the first module tells.
fn place(stem: &str) -> Place<'_> {
    const OWN: [(&str, Component); 5] = [
        ("lora_unet_", Component::Unet),
        ("lora_te_", Component::TextEncoder),
        ("lora_te1_", Component::TextEncoder),
        ("unet.", Component::Unet),
        ("text_encoder.", Component::TextEncoder),
    ];
    const FOREIGN: [(&str, &str); 8] = [
        ("lora_te2_", SDXL),
        ("text_encoder_2.", SDXL),
        ("lora_te3_", TRANSFORMER),
        ("text_encoder_3.", TRANSFORMER),
        ("lora_transformer_", TRANSFORMER),
        ("transformer.", TRANSFORMER),
        ("lora_prior_", "Stable Cascade"),
        ("prior.", "Stable Cascade"),
    ];
    for (prefix, component) in OWN {
        if let Some(module) = stem
            .strip_prefix(prefix)
            .filter(|module| !module.is_empty())
        {
            return Place::Module(component, module);
        }
    }
    for (prefix, found) in FOREIGN {
        if stem.starts_with(prefix) {
            return Place::Foreign(found);
        }
    }
    if let Some(module) = stem.strip_prefix("diffusion_model.") {
        let ldm = is_ldm(&module.replace('.', "_"));
        return if ldm {
            Place::Module(Component::Unet, module)
        } else {
            Place::Foreign(TRANSFORMER)
        };
    }
    match stem.split('.').next().unwrap_or_default() {
        "down_blocks" | "mid_block" | "up_blocks" | "time_embedding" | "conv_in" | "conv_out" => {
            Place::Module(Component::Unet, stem)
        }
        "text_model" | "encoder" => Place::Module(Component::TextEncoder, stem),
        _ => Place::Unknown,
    }
}

/// Modules that only other architectures have.
fn foreign_module(name: &str) -> Option<&'static str> {
    const FOREIGN: [(&str, &str); 8] = [
        ("add_embedding_", SDXL),
        ("label_emb_", SDXL),
        ("double_blocks_", TRANSFORMER),
        ("single_blocks_", TRANSFORMER),
        ("joint_blocks_", TRANSFORMER),
        ("single_transformer_blocks_", TRANSFORMER),
        ("transformer_blocks_", TRANSFORMER),
        ("blocks_", TRANSFORMER),
    ];
    FOREIGN
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|&(_, found)| found)
}

/// Takes the spelling of old diffusers (`attn1.processor.to_out_lora`) back to the module that it means.
fn respell(component: Component, module: &str, spelling: Spelling) -> (String, Spelling) {
    let (module, spelling) = match module.strip_suffix("_lora") {
        Some(module) => (module, Spelling::DiffusersProcessor), // the `.alpha` beside such a key
        None => (module.strip_suffix(".lora").unwrap_or(module), spelling),
    };
    if spelling != Spelling::DiffusersProcessor {
        return (module.to_owned(), spelling);
    }
    let Some((parent, projection)) = module.rsplit_once('.') else {
        return (module.to_owned(), spelling);
    };
    let parent = parent.strip_suffix(".processor").unwrap_or(parent);
    let projection = match (component, projection) {
        (Component::Unet, "to_out") => "to_out.0",
        (Component::TextEncoder, "to_q") => "q_proj",
        (Component::TextEncoder, "to_k") => "k_proj",
        (Component::TextEncoder, "to_v") => "v_proj",
        (Component::TextEncoder, "to_out") => "out_proj",
        (_, other) => other,
    };
    (format!("{parent}.{projection}"), spelling)
}

fn is_ldm(name: &str) -> bool {
    [
        "input_blocks_",
        "middle_block_",
        "output_blocks_",
        "time_embed_",
    ]
    .iter()
    .any(|p| name.starts_with(p))
        || name == "out_2"
}

/// The diffusers name of a module under the original Stable Diffusion's block names: two layers in each of four levels.
fn from_ldm(name: &str) -> Option<String> {
    match name {
        "time_embed_0" => return Some("time_embedding_linear_1".into()),
        "time_embed_2" => return Some("time_embedding_linear_2".into()),
        "input_blocks_0_0" => return Some("conv_in".into()),
        "out_2" => return Some("conv_out".into()),
        _ => {}
    }
    let index = |rest: &'_ str| -> Option<(usize, String)> {
        let (number, rest) = rest.split_once('_')?;
        Some((
            number.parse().ok().filter(|&n: &usize| n < 12)?,
            rest.to_owned(),
        ))
    };
    let resnet = |rest: &str| {
        Some(match rest {
            "in_layers_2" => "conv1",
            "out_layers_3" => "conv2",
            "emb_layers_1" => "time_emb_proj",
            "skip_connection" => "conv_shortcut",
            _ => return None,
        })
    };
    let attention = |rest: &str| {
        ["proj_in", "proj_out", "transformer_blocks_"]
            .iter()
            .any(|p| rest.starts_with(p))
            .then(|| rest.to_owned())
    };
    if let Some(rest) = name.strip_prefix("middle_block_") {
        return match index(rest)? {
            (0, rest) => Some(format!("mid_block_resnets_0_{}", resnet(&rest)?)),
            (1, rest) => Some(format!("mid_block_attentions_0_{}", attention(&rest)?)),
            (2, rest) => Some(format!("mid_block_resnets_1_{}", resnet(&rest)?)),
            _ => None,
        };
    }
    let (side, rest) = match (
        name.strip_prefix("input_blocks_"),
        name.strip_prefix("output_blocks_"),
    ) {
        (Some(rest), _) => ("down", rest),
        (_, Some(rest)) => ("up", rest),
        _ => return None,
    };
    let (number, rest) = index(rest)?;
    let (inner, rest) = index(&rest)?;
    let number = if side == "down" {
        number.checked_sub(1)?
    } else {
        number
    };
    let (block, layer) = (number / 3, number % 3);
    let place = match (side, inner, rest.as_str()) {
        ("down", 0, "op") => "downsamplers_0_conv".to_owned(),
        ("up", 1 | 2, "conv") => "upsamplers_0_conv".to_owned(),
        (_, 0, rest) => format!("resnets_{layer}_{}", resnet(rest)?),
        (_, 1, rest) => format!("attentions_{layer}_{}", attention(rest)?),
        _ => return None,
    };
    Some(format!("{side}_blocks_{block}_{place}"))
}

/// The dotted path of a module of diffusers' UNet or transformers' CLIP, from its canonical name. A model's own names are never made this
/// way; it serves to write PEFT's dialect from a kohya file when no model is at hand.
pub(crate) fn dotted(name: &str) -> Option<String> {
    const WORDS: [&str; 38] = [
        "time_emb_proj",
        "time_embedding",
        "conv_shortcut",
        "conv_norm_out",
        "conv_in",
        "conv_out",
        "transformer_blocks",
        "down_blocks",
        "mid_block",
        "up_blocks",
        "attentions",
        "resnets",
        "downsamplers",
        "upsamplers",
        "proj_in",
        "proj_out",
        "to_q",
        "to_k",
        "to_v",
        "to_out",
        "attn1",
        "attn2",
        "linear_1",
        "linear_2",
        "conv1",
        "conv2",
        "text_projection",
        "self_attn",
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "encoder",
        "layers",
        "mlp",
        "fc1",
        "fc2",
        "ff",
    ];
    const LAST: [&str; 3] = ["conv", "net", "proj"]; // after the longer words that begin so
    let mut path = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let is_whole = |word: &&str| {
            rest.strip_prefix(*word)
                .is_some_and(|after| after.is_empty() || after.starts_with('_'))
        };
        let length = match WORDS.iter().chain(&LAST).find(|word| is_whole(word)) {
            Some(word) => word.len(),
            None if digits > 0 => digits,
            None => return None,
        };
        path.push(&rest[..length]);
        rest = match &rest[length..] {
            "" => "",
            after => after.strip_prefix('_').filter(|after| !after.is_empty())?,
        };
    }
    (!path.is_empty()).then(|| path.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        match parse(text) {
            Meaning::Factor(key) => key,
            other => panic!("`{text}`: {other:?}"),
        }
    }

    #[test]
    fn every_dialect_names_the_same_module() {
        let name = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0";
        for (spelling, text) in [
            (
                Spelling::Kohya,
                "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
            ),
            (
                Spelling::KohyaLdm,
                "lora_unet_input_blocks_2_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight",
            ),
            (
                Spelling::Peft,
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            ),
            (
                Spelling::Peft,
                "base_model.model.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.default.weight",
            ),
            (
                Spelling::Peft,
                "base_model.model.unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            ),
            (
                Spelling::Diffusers,
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
            ),
            (
                Spelling::DiffusersProcessor,
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            ),
            (
                Spelling::DiffusersProcessor,
                "down_blocks.0.attentions.1.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            ),
            (
                Spelling::Peft,
                "diffusion_model.input_blocks.2.1.transformer_blocks.0.attn1.to_out.0.lora_A.weight",
            ),
        ] {
            let key = key(text);
            assert_eq!(
                (key.component, key.name.as_str(), key.part, key.spelling),
                (Component::Unet, name, Part::Down, spelling),
                "{text}"
            );
            assert_eq!(
                key.path.as_deref(),
                Some("down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"),
                "{text}"
            );
        }
        let name = "encoder_layers_3_self_attn_out_proj";
        for text in [
            "lora_te_text_model_encoder_layers_3_self_attn_out_proj.lora_up.weight",
            "lora_te1_text_model_encoder_layers_3_self_attn_out_proj.lora_up.weight",
            "lora_te_encoder_layers_3_self_attn_out_proj.lora_up.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.out_proj.lora_B.weight",
            "text_encoder.encoder.layers.3.self_attn.out_proj.lora_linear_layer.up.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora.up.weight",
            "base_model.model.text_model.encoder.layers.3.self_attn.out_proj.lora_B.weight",
        ] {
            let key = key(text);
            assert_eq!(
                (key.component, key.name.as_str(), key.part),
                (Component::TextEncoder, name, Part::Up),
                "{text}"
            );
        }
    }

    #[test]
    fn other_kinds_and_other_models_are_told() {
        for (text, kind) in [
            ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
            ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
            (
                "lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight",
                "Tucker",
            ),
            (
                "lora_unet_mid_block_attentions_0_proj_in.dora_scale",
                "DoRA",
            ),
            (
                "unet.mid_block.attentions.0.proj_in.lora_magnitude_vector",
                "DoRA",
            ),
        ] {
            assert!(
                matches!(parse(text), Meaning::Unsupported(found) if found.contains(kind)),
                "{text}"
            );
        }
        for text in [
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
            "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
            "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.alpha",
            "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight",
        ] {
            assert_eq!(parse(text), Meaning::Foreign(SDXL), "{text}");
        }
        for text in [
            "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
            "diffusion_model.layers.0.attention.to_q.lora_A.weight",
        ] {
            assert_eq!(parse(text), Meaning::Foreign(TRANSFORMER), "{text}");
        }
        assert_eq!(
            parse("down_blocks.0.resnets.0.conv1.weight"),
            Meaning::Other
        );
        assert_eq!(
            parse("model.layers.0.self_attn.q_proj.lora_A.weight"),
            Meaning::UnknownModule
        );
        for odd in [
            "",
            ".",
            ".alpha",
            "alpha",
            "_lora.up.weight",
            ".lora_A..weight",
            "lora_unet_.alpha",
            "unet..alpha",
            "é.lora_A.weight",
        ] {
            let _ = parse(odd);
        }
    }
}
