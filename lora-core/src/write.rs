//! Writing LoRA files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{DType, Tensor};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::lora::{Pair, hex};
use crate::names::{self, Spelling};
use crate::{Component, Factor, Lora, LoraError};

/// The dialects that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// kohya's, the only one that A1111, ComfyUI and diffusers all read.
    Kohya,
    /// PEFT's keys with diffusers' prefixes. It has no alpha: alpha / rank is multiplied into B.
    Peft,
}

/// The number type of a file's factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// IEEE half precision, the usual one.
    F16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// The nearest value of this type.
    fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => half::f16::from_f32(value).to_f32(),
            Self::Bf16 => half::bf16::from_f32(value).to_f32(),
        }
    }

    fn encode(self, value: f32, out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(value.to_le_bytes()),
            Self::F16 => out.extend(half::f16::from_f32(value).to_le_bytes()),
            Self::Bf16 => out.extend(half::bf16::from_f32(value).to_le_bytes()),
        }
    }
}

impl Lora {
    /// A LoRA of trained factors, as [`factors`](crate::factors) gives them. `name` is what errors call it.
    ///
    /// # Errors
    /// If a module comes twice, a value is not finite, or shapes do not fit each other.
    pub fn from_factors(
        name: &str,
        parts: impl IntoIterator<Item = (Component, Vec<Factor>)>,
    ) -> Result<Self, LoraError> {
        let mut lora = Self {
            name: name.to_owned(),
            pairs: BTreeMap::new(),
            metadata: BTreeMap::new(),
            hashes: None,
        };
        for (component, factors) in parts {
            for factor in factors {
                let pair = lora.pair_of(factor)?;
                let key = (component, names::canonical(component, &pair.stem));
                if let Some(old) = lora.pairs.insert(key, pair.clone()) {
                    return Err(LoraError::Duplicate {
                        file: lora.name,
                        first: old.stem,
                        second: pair.stem,
                    });
                }
            }
        }
        Ok(lora)
    }

    fn pair_of(&self, factor: Factor) -> Result<Pair, LoraError> {
        let Factor {
            path,
            down,
            up,
            alpha,
            rank,
            shape,
        } = factor;
        let ([down_rank, fan_in], [fan_out, up_rank]) = (down.dims(), up.dims());
        let fits = matches!(shape.len(), 2 | 4)
            && shape[0] == fan_out
            && shape[1..].iter().product::<usize>() == fan_in;
        if !fits || down_rank != rank || up_rank != rank || rank == 0 {
            let reason = format!(
                "down [{down_rank}, {fan_in}] and up [{fan_out}, {up_rank}] do not make rank {rank} and {shape:?}"
            );
            return Err(LoraError::Factor { path, reason });
        }
        let mut down_shape = shape;
        down_shape[0] = rank;
        let up_shape = if down_shape.len() == 4 {
            vec![fan_out, rank, 1, 1]
        } else {
            vec![fan_out, rank]
        };
        let (down, up) = (values(down), values(up));
        if !alpha.is_finite() || down.iter().chain(&up).any(|value| !value.is_finite()) {
            return Err(LoraError::NonFinite {
                file: self.name.clone(),
                key: path,
            });
        }
        let dotted = if path.contains('.') {
            Some(path.clone())
        } else {
            names::dotted(&path)
        };
        let (spelling, dtype) = (Spelling::Peft, DType::F32);
        Ok(Pair {
            stem: path,
            path: dotted,
            spelling,
            down_shape,
            up_shape,
            down,
            up,
            alpha,
            dtype,
        })
    }

    /// Writes a LoRA file, whole or not at all: to a new name beside `path`, which is then renamed.
    ///
    /// Equal input gives equal bytes. In kohya's dialect `sshs_model_hash` and `sshs_legacy_hash` are added to the metadata. PEFT's
    /// `lora_adapter_metadata` is left out, since the file then says all about its scale.
    ///
    /// # Errors
    /// If the file cannot be written; if a value is not finite in the precision asked for; if the LoRA would change nothing; for PEFT, if a
    /// module's dotted name is unknown.
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        dialect: Dialect,
        precision: Precision,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(), LoraError> {
        let path = path.as_ref();
        let bytes = self.encode(&path.display().to_string(), dialect, precision, metadata)?;
        write_whole(path, &bytes).map_err(|source| LoraError::Io {
            path: path.to_path_buf(),
            source,
        })
    }

    /// The bytes that [`save`](Self::save) writes.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    pub fn to_bytes(
        &self,
        dialect: Dialect,
        precision: Precision,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, LoraError> {
        self.encode(&self.name, dialect, precision, metadata)
    }

    fn encode(
        &self,
        file: &str,
        dialect: Dialect,
        precision: Precision,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, LoraError> {
        let mut tensors = Vec::new();
        let mut changes_something = false;
        for ((component, name), pair) in &self.pairs {
            let scale = match dialect {
                Dialect::Kohya => 1.0,
                Dialect::Peft => pair.alpha / pair.rank() as f64,
            };
            let up: Vec<f32> = pair
                .up
                .iter()
                .map(|&value| (f64::from(value) * scale) as f32)
                .collect();
            let (down_key, up_key) = match dialect {
                Dialect::Kohya => {
                    let stem = names::kohya(*component, name);
                    tensors.push(Entry::alpha(
                        format!("{stem}.alpha"),
                        pair.alpha as f32,
                        precision,
                    ));
                    (
                        format!("{stem}.lora_down.weight"),
                        format!("{stem}.lora_up.weight"),
                    )
                }
                Dialect::Peft => {
                    let unspeakable = || LoraError::Unspeakable {
                        file: file.to_owned(),
                        key: pair.stem.clone(),
                    };
                    let stem =
                        names::peft(*component, pair.path.as_deref().ok_or_else(unspeakable)?);
                    (
                        format!("{stem}.lora_A.weight"),
                        format!("{stem}.lora_B.weight"),
                    )
                }
            };
            let down = Entry::new(down_key, &pair.down_shape, &pair.down, precision);
            let up = Entry::new(up_key, &pair.up_shape, &up, precision);
            changes_something |= down.any && up.any && pair.alpha != 0.0;
            tensors.extend([down, up]);
        }
        if let Some(bad) = tensors.iter().find(|entry| !entry.finite) {
            return Err(LoraError::NonFinite {
                file: file.to_owned(),
                key: bad.key.clone(),
            });
        }
        if !changes_something {
            return Err(LoraError::Untrained {
                file: file.to_owned(),
            });
        }
        // safetensors' own order, so that hashes are those of kohya's own files: wide types first, then by name.
        tensors.sort_by(|a, b| {
            b.precision
                .bytes()
                .cmp(&a.precision.bytes())
                .then_with(|| a.key.cmp(&b.key))
        });
        let data: Vec<u8> = tensors
            .iter()
            .flat_map(|entry| &entry.data)
            .copied()
            .collect();

        let mut metadata: BTreeMap<&str, String> = metadata
            .iter()
            .map(|(k, v)| (k.as_str(), v.clone()))
            .collect();
        metadata.remove(crate::peft::ENTRY);
        if dialect == Dialect::Kohya {
            metadata.insert("sshs_model_hash", hex(&Sha256::digest(&data)));
            metadata.insert(
                "sshs_legacy_hash",
                legacy_hash(&header(&tensors, training(&metadata)), &data),
            );
        }
        let mut bytes = header(&tensors, metadata.iter().map(|(k, v)| (*k, v.as_str())));
        bytes.extend(data);
        Ok(bytes)
    }
}

/// One tensor of a file.
struct Entry {
    key: String,
    shape: Vec<usize>,
    precision: Precision,
    data: Vec<u8>,
    finite: bool,
    /// Whether a value is not zero.
    any: bool,
}

impl Entry {
    fn new(key: String, shape: &[usize], values: &[f32], precision: Precision) -> Self {
        let mut data = Vec::with_capacity(values.len() * precision.bytes());
        let (mut finite, mut any) = (true, false);
        for &value in values {
            let rounded = precision.round(value);
            finite &= rounded.is_finite();
            any |= rounded != 0.0;
            precision.encode(value, &mut data);
        }
        Self {
            key,
            shape: shape.to_vec(),
            precision,
            data,
            finite,
            any,
        }
    }

    /// A scalar of the file's type, as kohya writes it, unless that type would change it.
    fn alpha(key: String, alpha: f32, precision: Precision) -> Self {
        let exact = precision.round(alpha) == alpha;
        Self::new(
            key,
            &[],
            &[alpha],
            if exact { precision } else { Precision::F32 },
        )
    }
}

/// The length and the compact JSON header of a safetensors file, padded to 8 bytes.
fn header<'a>(tensors: &[Entry], metadata: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut header = Map::new();
    let metadata: Map<String, Value> = metadata
        .map(|(k, v)| (k.to_owned(), Value::from(v)))
        .collect();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), Value::Object(metadata));
    }
    let mut start = 0;
    for entry in tensors {
        let end = start + entry.data.len();
        let description = json!({ "dtype": entry.precision.name(), "shape": entry.shape, "data_offsets": [start, end] });
        header.insert(entry.key.clone(), description);
        start = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

/// The part of the metadata that kohya counts as unchanging.
fn training<'a>(metadata: &'a BTreeMap<&str, String>) -> impl Iterator<Item = (&'a str, &'a str)> {
    metadata
        .iter()
        .filter(|(key, _)| key.starts_with("ss_"))
        .map(|(k, v)| (*k, v.as_str()))
}

/// The hash of old WebUIs: 8 digits of the SHA-256 of 64 KiB from 1 MiB on, over a file with the training metadata alone.
fn legacy_hash(header: &[u8], data: &[u8]) -> String {
    let mut hash = Sha256::new();
    let (mut skip, mut left) = (0x10_0000, 0x1_0000);
    for part in [header, data] {
        let from = part.get(skip..).unwrap_or_default();
        let from = &from[..from.len().min(left)];
        hash.update(from);
        (skip, left) = (skip.saturating_sub(part.len()), left - from.len());
    }
    hex(&hash.finalize())[..8].to_owned()
}

/// A tensor's values as f32, in row-major order.
fn values(tensor: Tensor<2>) -> Vec<f32> {
    let data = tensor.into_data().convert_dtype(DType::F32);
    data.try_to_vec().expect("a float tensor was made f32")
}

/// Writes to a new name beside the target, and renames.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = beside(path)?;
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        // What matters is the first error; a file that was never made cannot be removed.
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// A name in the target's folder that no other writer has.
fn beside(path: &Path) -> std::io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidFilename))?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{count}.part", std::process::id()));
    Ok(path.with_file_name(temporary))
}
