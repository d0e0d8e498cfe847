//! What a picture says of how it was made: A1111's text, which people and programs read, and a JSON object with the hash of every file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use sd_diffusion::{SamplerKind, Schedule};
use sd_pipeline::{Request, RngKind};
use serde_json::{Value, json};

use crate::args::{LoraChoice, Model};
use crate::failure::{Blame, Failure};
use crate::hashes::sha256;
use crate::ip_args::{DEFAULT_SCALE, IpOptions};
use crate::portraits;

/// What a picture is made from, besides its request.
pub struct Sources<'a> {
    /// The model and its companions.
    pub model: &'a Model,
    /// LoRAs with their strengths.
    pub loras: &'a [LoraChoice],
    /// IP-Adapters with their references.
    pub ip: &'a IpOptions,
    /// A picture that it starts from.
    pub init_image: Option<&'a Path>,
}

impl Sources<'_> {
    /// The files that take part and their hashes, but for those of the adapters. `model_hash` is the model's.
    pub fn hashes(&self, model_hash: Option<&str>) -> Result<Vec<Named>, Failure> {
        let mut hashes = vec![];
        if let Some(sha256) = model_hash {
            hashes.push(Named::new("model", &self.model.model, sha256.to_owned()));
        }
        for choice in self.loras {
            hashes.push(Named::file("lora", &choice.file)?);
        }
        if let Some(path) = self.init_image {
            hashes.push(Named::file("init_image", path)?);
        }
        if let Some(path) = self.model.vae.as_deref().filter(|path| path.is_file()) {
            hashes.push(Named::file("vae", path)?);
        }
        Ok(hashes)
    }
}

/// A file that helped to make a picture.
#[derive(Clone)]
pub struct Named {
    role: &'static str,
    path: PathBuf,
    sha256: String,
}

impl Named {
    /// A file whose hash is known.
    pub fn new(role: &'static str, path: &Path, sha256: String) -> Self {
        Self {
            role,
            path: path.to_path_buf(),
            sha256,
        }
    }

    /// A file whose hash is to be computed.
    pub fn file(role: &'static str, path: &Path) -> Result<Self, Failure> {
        let sha256 = sha256(path)
            .with_context(|| format!("{}: cannot be read", path.display()))
            .input()?;
        Ok(Self::new(role, path, sha256))
    }
}

/// SHA-256 of a single-file model, or of the UNet's weights in a folder; none if there is no such file, which the loader tells of.
pub fn model_hash(model: &Path) -> Option<String> {
    let unet = model.join("unet");
    let weights = ["", ".fp16", ".non_ema"]
        .map(|variant| unet.join(format!("diffusion_pytorch_model{variant}.safetensors")));
    let file = if model.is_dir() {
        weights.into_iter().find(|file| file.is_file())?
    } else {
        model.to_path_buf()
    };
    sha256(&file).ok()
}

/// What a model or a LoRA is called: a folder's name, or a file's without its ending.
pub fn name_of(path: &Path) -> String {
    let whole = path.canonicalize();
    let name = if path.is_dir() {
        whole.as_deref().unwrap_or(path).file_name()
    } else {
        path.file_stem()
    };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// A1111's name of a sampler.
fn sampler_name(sampler: SamplerKind) -> &'static str {
    match sampler {
        SamplerKind::Ddim => "DDIM",
        SamplerKind::Euler => "Euler",
        SamplerKind::EulerAncestral => "Euler a",
        SamplerKind::Heun => "Heun",
        SamplerKind::Pndm => "PLMS",
        SamplerKind::Dpmpp2m => "DPM++ 2M",
        SamplerKind::UniPc => "UniPC",
        SamplerKind::Lcm => "LCM",
        SamplerKind::Tcd => "TCD",
    }
}

/// A1111's `parameters` text. A LoRA stands at the prompt's end as A1111 writes it.
pub fn parameters(from: &Sources<'_>, request: &Request, model_hash: Option<&str>) -> String {
    let mut text = request.prompt.clone();
    for choice in from.loras {
        text.push_str(&format!(
            " <lora:{}:{}>",
            name_of(&choice.file),
            choice.scale
        ));
    }
    if !request.negative.is_empty() {
        text.push_str(&format!("\nNegative prompt: {}", request.negative));
    }
    let mut fields = vec![
        ("Steps", request.steps.to_string()),
        ("Sampler", sampler_name(request.sampler).into()),
    ];
    if request.schedule == Schedule::Karras {
        fields.push(("Schedule type", "Karras".into()));
    }
    fields.extend([
        ("CFG scale", request.cfg.to_string()),
        ("Seed", request.seed.to_string()),
        ("Size", format!("{}x{}", request.width, request.height)),
    ]);
    if let Some(hash) = model_hash {
        fields.push(("Model hash", hash.chars().take(10).collect()));
    }
    fields.push(("Model", name_of(&from.model.model)));
    if let Some(vae) = &from.model.vae {
        fields.push(("VAE", name_of(vae)));
    }
    if let Some(init) = &request.init {
        fields.push(("Denoising strength", init.strength.to_string()));
    }
    if let Some(eta) = request.eta {
        fields.push(("Eta", eta.to_string()));
    }
    if request.token_merging > 0.0 {
        fields.push(("Token merging ratio", request.token_merging.to_string()));
    }
    if request.clip_skip > 1 {
        fields.push(("Clip skip", request.clip_skip.to_string()));
    }
    let rng = match request.rng {
        RngKind::Torch => "CPU",
        RngKind::Philox => "NV",
    };
    fields.push(("RNG", rng.into()));
    fields.push((
        "Version",
        concat!("samecast ", env!("CARGO_PKG_VERSION")).into(),
    ));
    let mut fields: Vec<String> = fields
        .into_iter()
        .map(|(key, value)| format!("{key}: {}", quoted(value)))
        .collect();
    // An IP-Adapter is a unit of A1111's ControlNet extension.
    fields.extend(from.ip.adapters.iter().enumerate().map(|(at, adapter)| {
        let unit = format!(
            "Module: ip-adapter-auto, Model: {}, Weight: {}, Guidance Start: {}, Guidance End: {}",
            name_of(&adapter.file),
            adapter.scale.unwrap_or(DEFAULT_SCALE),
            adapter.start.unwrap_or(0.0),
            adapter.end.unwrap_or(1.0),
        );
        format!("ControlNet {at}: {}", quoted(unit))
    }));
    format!("{text}\n{}", fields.join(", "))
}

/// As A1111 writes a value: in quotes where it would end the field.
fn quoted(value: String) -> String {
    if value.contains([',', ':', '\n', '"']) {
        Value::String(value).to_string()
    } else {
        value
    }
}

/// All that is needed to make picture `index` of the batch again.
pub fn record(from: &Sources<'_>, request: &Request, index: usize, files: &[Named]) -> Value {
    // JSON has no words for a name that is no UTF-8.
    let text = |path: &Path| path.display().to_string();
    let files: Vec<Value> = files
        .iter()
        .map(|file| json!({ "role": file.role, "path": text(&file.path), "sha256": file.sha256 }))
        .collect();
    let loras: Vec<Value> = from
        .loras
        .iter()
        .map(|choice| json!({ "path": text(&choice.file), "scale": choice.scale }))
        .collect();
    json!({
        "samecast": env!("CARGO_PKG_VERSION"),
        "command": "generate",
        "model": text(&from.model.model),
        "vae": from.model.vae.as_deref().map(text),
        "prompt": request.prompt,
        "negative": request.negative,
        "sampler": request.sampler.to_string(),
        "schedule": request.schedule.to_string(),
        "steps": request.steps,
        "cfg": request.cfg,
        "cfg_start": request.cfg_start,
        "cfg_end": request.cfg_end,
        "deep_cache": request.deep_cache,
        "token_merging": request.token_merging,
        "vae_tile": request.vae_tile,
        "eta": request.eta,
        "seed": request.seed,
        "rng": match request.rng { RngKind::Torch => "torch", RngKind::Philox => "philox" },
        "width": request.width,
        "height": request.height,
        "count": request.count,
        "index": index,
        "clip_skip": request.clip_skip,
        "loras": loras,
        "ip_adapters": portraits::record(from.ip),
        "init_image": from.init_image.map(text),
        "strength": request.init.as_ref().map(|init| init.strength),
        "files": files,
    })
}
