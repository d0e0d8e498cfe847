//! A LoRA file in memory, and how it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::names::{self, Component, Key, Meaning, Part, Spelling};
use crate::peft::PeftConfig;
use crate::{Factor, LoraError};
use sd_kernels::LowRank;

/// A LoRA for Stable Diffusion 1.x, read whole: low-rank factors by module, and the file's metadata.
///
/// Every plain LoRA dialect is read, and mixtures of them: kohya's (also with the original Stable Diffusion's block names), PEFT's, and
/// diffusers' three. LoHa, LoKr, DoRA and LoCon with a Tucker core are refused by name.
#[derive(Clone, Debug)]
pub struct Lora {
    pub(crate) name: String,
    pub(crate) pairs: BTreeMap<(Component, String), Pair>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) hashes: Option<Hashes>,
}

/// Hashes of a file, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// SHA-256 of the whole file.
    pub sha256: String,
    /// SHA-256 of everything after the header, kohya's `sshs_model_hash`; A1111 shows its first 12 digits.
    pub model_hash: String,
}

/// The factors of one module.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The module as the file spells it.
    pub stem: String,
    /// The module's dotted path, where it is known.
    pub path: Option<String>,
    pub spelling: Spelling,
    /// `[rank, in]` or `[rank, in, height, width]`.
    pub down_shape: Vec<usize>,
    /// `[out, rank]` or `[out, rank, 1, 1]`.
    pub up_shape: Vec<usize>,
    pub down: Vec<f32>,
    pub up: Vec<f32>,
    pub alpha: f64,
    /// The type of `down` in the file.
    pub dtype: DType,
}

impl Pair {
    pub fn rank(&self) -> usize {
        self.down_shape[0]
    }

    pub fn fan_in(&self) -> usize {
        self.down_shape[1..].iter().product()
    }

    pub fn fan_out(&self) -> usize {
        self.up_shape[0]
    }

    /// The shape of the weight that the factors were made for, in the reference's order.
    pub fn weight_shape(&self) -> Vec<usize> {
        let mut shape = self.down_shape.clone();
        shape[0] = self.fan_out();
        shape
    }

    /// Whether the weight is a convolution larger than 1×1.
    pub fn is_spatial(&self) -> bool {
        self.down_shape[2..].iter().any(|&side| side != 1)
    }

    pub fn on(&self, device: &Device, strength: f64) -> LowRank {
        LowRank::new(
            self.down_on(device),
            self.up_on(device),
            self.alpha * strength,
        )
    }

    pub fn down_on(&self, device: &Device) -> Tensor<2> {
        let data = TensorData::new(self.down.clone(), [self.rank(), self.fan_in()]);
        Tensor::from_data(data, (device, DType::F32))
    }

    pub fn up_on(&self, device: &Device) -> Tensor<2> {
        let data = TensorData::new(self.up.clone(), [self.fan_out(), self.rank()]);
        Tensor::from_data(data, (device, DType::F32))
    }
}

impl Lora {
    /// Reads a LoRA file.
    ///
    /// Beside a plain PEFT file (`base_model.model.…`), PEFT's `adapter_config.json` is read too if it is there: alpha is in it alone.
    ///
    /// # Errors
    /// If the file cannot be read, is no whole safetensors file, is no LoRA, or is one of a kind or for a model that is not supported. Of
    /// a large file that is no LoRA, such as a checkpoint, the header alone is read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoraError> {
        let path = path.as_ref();
        let io = |source| LoraError::Io {
            path: path.to_path_buf(),
            source,
        };
        let name = path.display().to_string();
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut bytes = Vec::new();
        file.by_ref().take(8).read_to_end(&mut bytes).map_err(io)?;
        if let Some(header) = bytes
            .first_chunk::<8>()
            .map(|b| u64::from_le_bytes(*b))
            .filter(|&n| n < size)
        {
            file.by_ref()
                .take(header)
                .read_to_end(&mut bytes)
                .map_err(io)?;
            // Anything odd about the header is left to the parser below.
            if let Ok(Value::Object(keys)) = serde_json::from_slice(&bytes[8..]) {
                any_factor(
                    &name,
                    keys.keys()
                        .map(String::as_str)
                        .filter(|&key| key != "__metadata__"),
                )?;
            }
            file.read_to_end(&mut bytes).map_err(io)?;
        }
        Self::parse(&name, &bytes, || {
            let path = path.with_file_name("adapter_config.json");
            match std::fs::read(&path) {
                Ok(text) => Ok(Some((path.display().to_string(), text))),
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(LoraError::Io { path, source }),
            }
        })
    }

    /// Reads a LoRA from the bytes of a safetensors file. `name` is what errors call it.
    ///
    /// # Errors
    /// As for [`Lora::open`].
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, LoraError> {
        Self::parse(name, bytes, || Ok(None))
    }

    /// `config` gives name and text of the `adapter_config.json` beside the file, if there is one.
    fn parse(
        name: &str,
        bytes: &[u8],
        config: impl FnOnce() -> Result<Option<(String, Vec<u8>)>, LoraError>,
    ) -> Result<Self, LoraError> {
        let malformed = |source| LoraError::Malformed {
            file: name.to_owned(),
            source,
        };
        let tensors = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let (header, parsed) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let metadata: BTreeMap<_, _> = parsed
            .metadata()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let mut views: Vec<(&str, TensorView<'_>)> = tensors.iter().collect();
        views.sort_unstable_by_key(|&(key, _)| key);

        any_factor(name, views.iter().map(|&(key, _)| key))?;
        if let Some((entry, value)) = metadata.iter().find(|(k, v)| {
            *k == "ss_base_model_version" && v.starts_with("sdxl")
                || *k == "modelspec.architecture" && v.contains("-xl-")
        }) {
            let evidence = format!("{entry}: {value}");
            return Err(LoraError::Architecture {
                file: name.to_owned(),
                found: "Stable Diffusion XL",
                evidence,
            });
        }
        let keys = understand(name, &views)?;
        let config = if keys.iter().any(|(key, _)| key.plain_peft) {
            config()?
        } else {
            None
        };
        let pairs = pair_up(name, keys)?;
        let mut lora = Self {
            name: name.to_owned(),
            pairs,
            metadata,
            hashes: None,
        };
        lora.check_context()?;
        lora.scale_by_metadata(config)?;
        lora.hashes = Some(Hashes {
            sha256: hex(&Sha256::digest(bytes)),
            model_hash: hex(&Sha256::digest(&bytes[8 + header..])),
        });
        Ok(lora)
    }

    /// SD XL's cross-attention reads text of 2048 channels.
    fn check_context(&self) -> Result<(), LoraError> {
        let wide = self.pairs.iter().find(|((_, name), pair)| {
            (name.ends_with("_attn2_to_k") || name.ends_with("_attn2_to_v"))
                && pair.fan_in() == 2048
        });
        match wide {
            Some((_, pair)) => Err(LoraError::Architecture {
                file: self.name.clone(),
                found: "Stable Diffusion XL",
                evidence: format!("{}: {:?}", pair.stem, pair.down_shape),
            }),
            None => Ok(()),
        }
    }

    /// PEFT tells rank and alpha outside of the tensors; a file's own alpha comes first.
    fn scale_by_metadata(&mut self, config: Option<(String, Vec<u8>)>) -> Result<(), LoraError> {
        let mut configs = Vec::new();
        if let Some(text) = self.metadata.get(crate::peft::ENTRY) {
            for component in Component::ALL {
                configs.extend(
                    PeftConfig::of_component(&self.name, text, component)?
                        .map(|config| (component, config)),
                );
            }
        }
        if let Some((entry, text)) = config {
            let text = String::from_utf8_lossy(&text);
            for component in Component::ALL {
                configs.push((component, PeftConfig::plain(&self.name, &entry, &text)?));
            }
        }
        for (component, config) in configs {
            let pairs = self
                .pairs
                .iter_mut()
                .filter(|((c, _), pair)| *c == component && pair.alpha == 0.0);
            for ((_, name), pair) in pairs {
                let path = pair.path.as_deref().unwrap_or(name);
                if let Some(alpha) = config.alpha(&self.name, path, pair.rank())? {
                    pair.alpha = alpha;
                }
            }
        }
        // Trainers write 0 for "as the rank".
        for pair in self.pairs.values_mut().filter(|pair| pair.alpha == 0.0) {
            pair.alpha = pair.rank() as f64;
        }
        Ok(())
    }

    /// What errors call this LoRA: its path, if it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The number of modules that it changes in a component.
    pub fn modules(&self, component: Component) -> usize {
        self.pairs.keys().filter(|(c, _)| *c == component).count()
    }

    /// ΔW of one module at strength 1 in the reference's order, `[fan_out, fan_in]`, or `None` if the module is not changed. `path` is
    /// the module's dotted path, such as `mid_block.attentions.0.proj_in`.
    pub fn delta(&self, component: Component, path: &str, device: &Device) -> Option<Tensor<2>> {
        let pair = self
            .pairs
            .get(&(component, names::canonical(component, path)))?;
        Some(pair.on(device, 1.0).delta())
    }

    /// The factors of a component, by name, for [`with_factors`](crate::with_factors) or [`Lora::from_factors`].
    pub fn factors(&self, component: Component, device: &Device) -> Vec<Factor> {
        let own = self.pairs.iter().filter(|((c, _), _)| *c == component);
        own.map(|((_, name), pair)| Factor {
            path: pair.path.clone().unwrap_or_else(|| name.clone()),
            down: pair.down_on(device),
            up: pair.up_on(device),
            alpha: pair.alpha,
            rank: pair.rank(),
            shape: pair.weight_shape(),
        })
        .collect()
    }
}

/// Errs if no key is part of a LoRA of any kind.
fn any_factor<'a>(file: &str, keys: impl Iterator<Item = &'a str>) -> Result<(), LoraError> {
    let (mut count, mut example) = (0, "");
    for key in keys {
        // An alpha alone is no sign: other files have some too.
        if names::parse(key) != Meaning::Other && !key.ends_with(".alpha") {
            return Ok(());
        }
        count += 1;
        if example.is_empty() || key < example {
            example = key;
        }
    }
    Err(LoraError::NotALora {
        file: file.to_owned(),
        count,
        example: example.to_owned(),
    })
}

type Tensors<'a, 'b> = Vec<(Key, &'b TensorView<'a>)>;

/// Reads all keys, or tells the first thing that stands in the way.
fn understand<'a, 'b>(
    file: &str,
    views: &'b [(&str, TensorView<'a>)],
) -> Result<Tensors<'a, 'b>, LoraError> {
    let file = file.to_owned();
    let mut understood = Vec::with_capacity(views.len());
    let (mut unknown, mut unsupported) = (Vec::new(), None);
    for (key, view) in views {
        match names::parse(key) {
            Meaning::Factor(key) => understood.push((key, view)),
            Meaning::Foreign(found) => {
                return Err(LoraError::Architecture {
                    file,
                    found,
                    evidence: (*key).to_owned(),
                });
            }
            Meaning::Unsupported(kind) => unsupported = unsupported.or(Some((*key, kind))),
            Meaning::UnknownModule | Meaning::Other => unknown.push((*key).to_owned()),
        }
    }
    if let Some((key, kind)) = unsupported {
        return Err(LoraError::Unsupported {
            file,
            key: key.to_owned(),
            kind,
        });
    }
    if !unknown.is_empty() {
        let count = unknown.len();
        unknown.truncate(5);
        return Err(LoraError::UnknownKeys {
            file,
            keys: unknown,
            count,
        });
    }
    Ok(understood)
}

/// The three tensors of a module, as they are found.
#[derive(Default)]
struct Parts<'a, 'b> {
    down: Option<(Key, &'b TensorView<'a>)>,
    up: Option<(Key, &'b TensorView<'a>)>,
    alpha: Option<(Key, &'b TensorView<'a>)>,
}

fn pair_up(
    file: &str,
    keys: Tensors<'_, '_>,
) -> Result<BTreeMap<(Component, String), Pair>, LoraError> {
    let mut modules: BTreeMap<(Component, String), Parts<'_, '_>> = BTreeMap::new();
    for (key, view) in keys {
        let parts = modules
            .entry((key.component, key.name.clone()))
            .or_default();
        let place = match key.part {
            Part::Down => &mut parts.down,
            Part::Up => &mut parts.up,
            Part::Alpha => &mut parts.alpha,
        };
        if let Some((first, _)) = place {
            let (first, second) = (first.stem.clone(), key.stem);
            return Err(LoraError::Duplicate {
                file: file.to_owned(),
                first,
                second,
            });
        }
        *place = Some((key, view));
    }
    modules
        .into_iter()
        .map(|(name, parts)| Ok((name, pair(file, parts)?)))
        .collect()
}

fn pair(file: &str, parts: Parts<'_, '_>) -> Result<Pair, LoraError> {
    let missing = |key: Key, missing| LoraError::MissingPartner {
        file: file.to_owned(),
        key: key.stem,
        missing,
    };
    let ((key, down), up) = match (parts.down, parts.up, parts.alpha.is_some()) {
        (Some(down), Some((_, up)), _) => (down, up),
        (Some((key, _)), None, _) => return Err(missing(key, "up (lora_up, lora_B)")),
        (None, Some((key, _)), _) => return Err(missing(key, "down (lora_down, lora_A)")),
        (None, None, _) => {
            let (key, _) = parts
                .alpha
                .expect("a module is there because of one of its three parts");
            return Err(missing(key, "down and up"));
        }
    };
    let (down_shape, up_shape) = (down.shape().to_vec(), up.shape().to_vec());
    let is_matrix = |shape: &[usize]| matches!(shape.len(), 2 | 4) && !shape.contains(&0);
    if !is_matrix(&down_shape)
        || !is_matrix(&up_shape)
        || down_shape[0] != up_shape[1]
        || up_shape[2..].iter().any(|&side| side != 1)
    {
        return Err(LoraError::Rank {
            file: file.to_owned(),
            key: key.stem,
            down: down_shape,
            up: up_shape,
        });
    }
    let alpha = match parts.alpha {
        Some((_, view)) => scalar(file, &key.stem, view)?,
        None => 0.0,
    };
    Ok(Pair {
        dtype: dtype(down.dtype()),
        down: floats(file, &key.stem, down)?,
        up: floats(file, &key.stem, up)?,
        stem: key.stem,
        path: key.path,
        spelling: key.spelling,
        down_shape,
        up_shape,
        alpha,
    })
}

fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::F64 => DType::F64,
        _ => DType::F32, // `floats` refuses all others.
    }
}

fn floats(file: &str, key: &str, view: &TensorView<'_>) -> Result<Vec<f32>, LoraError> {
    let raw = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F64 => each(raw, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(raw, f32::from_le_bytes),
        Dtype::F16 => each(raw, |b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(raw, |b| half::bf16::from_le_bytes(b).to_f32()),
        _ => return Err(wrong_type(file, key, view, "f16, bf16, f32 or f64")),
    };
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(LoraError::NonFinite {
            file: file.to_owned(),
            key: key.to_owned(),
        })
    }
}

/// An alpha: one number of any type, with no axes or one.
fn scalar(file: &str, key: &str, view: &TensorView<'_>) -> Result<f64, LoraError> {
    let raw = view.data();
    let values: Vec<f64> = match view.dtype() {
        Dtype::F64 => each(raw, f64::from_le_bytes),
        Dtype::I64 => each(raw, |b| i64::from_le_bytes(b) as f64),
        Dtype::U64 => each(raw, |b| u64::from_le_bytes(b) as f64),
        Dtype::I32 => each(raw, |b| i32::from_le_bytes(b).into()),
        Dtype::U32 => each(raw, |b| u32::from_le_bytes(b).into()),
        Dtype::I16 => each(raw, |b| i16::from_le_bytes(b).into()),
        Dtype::U16 => each(raw, |b| u16::from_le_bytes(b).into()),
        Dtype::I8 => each(raw, |b| i8::from_le_bytes(b).into()),
        Dtype::U8 => each(raw, |b| u8::from_le_bytes(b).into()),
        Dtype::F32 => each(raw, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => each(raw, |b| half::f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => each(raw, |b| half::bf16::from_le_bytes(b).to_f64()),
        _ => {
            return Err(wrong_type(
                file,
                key,
                view,
                "an alpha of a plain number type",
            ));
        }
    };
    match values[..] {
        [value] if value.is_finite() => Ok(value),
        [_] => Err(LoraError::NonFinite {
            file: file.to_owned(),
            key: format!("{key}.alpha"),
        }),
        _ => Err(wrong_type(
            file,
            &format!("{key}.alpha"),
            view,
            "one number",
        )),
    }
}

fn wrong_type(file: &str, key: &str, view: &TensorView<'_>, expected: &'static str) -> LoraError {
    let found = format!("{:?} {:?}", view.dtype(), view.shape());
    LoraError::DType {
        file: file.to_owned(),
        key: key.to_owned(),
        found,
        expected,
    }
}

fn each<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
