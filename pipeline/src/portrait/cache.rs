//! Portraits on disk.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sd_unet::KeyValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Portrait;
use super::hash::{Sha256Hex, sha256_of, sha256_of_file};
use crate::PipelineError;

/// The one entry of a portrait's metadata.
const ENTRY: &str = "samecast";

/// A folder that keeps portraits, so that the next run opens no image encoder.
///
/// A portrait is found by what made it: the picture's pixels, the image encoder's files, the adapter's file, how the picture was fitted, the
/// number type, the device, and the version of this crate. An entry that is damaged is computed anew. The folder may be deleted at any
/// time.
///
/// ```text
/// DIR/3f1c….safetensors           K' and V' of a portrait
/// DIR/encoders/88a0….json         what an image encoder's files were, by its path: it may be gone when its portraits are used
/// ```
#[derive(Debug)]
pub struct PortraitCache {
    folder: PathBuf,
    notes: RefCell<Vec<PortraitNote>>,
}

/// Something that a person may want to know about a portrait's making, and that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortraitNote {
    /// The image encoder is not where it was; its portraits are still there.
    EncoderAbsent {
        /// Where it was.
        path: PathBuf,
    },
    /// An entry of the cache cannot be used, and is made anew.
    Damaged {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry cannot be written: the next run computes it again.
    NotKept {
        /// The entry.
        path: PathBuf,
        /// The system's word.
        reason: String,
    },
}

impl std::fmt::Display for PortraitNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EncoderAbsent { path } => write!(
                f,
                "the image encoder {} is absent; its portraits come from the cache",
                path.display()
            ),
            Self::Damaged { path, reason } => write!(
                f,
                "{} is of no use ({reason}) and is made anew",
                path.display()
            ),
            Self::NotKept { path, reason } => write!(
                f,
                "{} cannot be written ({reason}); the next run computes it again",
                path.display()
            ),
        }
    }
}

/// A file that a portrait depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// Where it is, or was.
    pub path: PathBuf,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

impl PortraitCache {
    /// A folder, which is made if there is none.
    ///
    /// # Errors
    /// If it cannot be made or read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, PipelineError> {
        let folder = folder.into();
        let usable = fs::create_dir_all(&folder).and_then(|()| fs::read_dir(&folder));
        match usable {
            Ok(_) => Ok(Self {
                folder,
                notes: RefCell::default(),
            }),
            Err(source) => Err(PipelineError::Cache { folder, source }),
        }
    }

    /// What happened since this was last asked.
    pub fn take_notes(&self) -> Vec<PortraitNote> {
        self.notes.take()
    }

    pub(super) fn note(&self, note: PortraitNote) {
        self.notes.borrow_mut().push(note);
    }

    /// The portrait that `key` made, if it is here and whole.
    pub(super) fn find(
        &self,
        key: &Value,
        channels: &[usize],
        dtype: FloatDType,
        device: &Device,
    ) -> Option<Portrait> {
        let path = self.entry(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                let reason = error.to_string();
                self.note(PortraitNote::Damaged { path, reason });
                return None;
            }
        };
        match read(&bytes, key, channels, dtype.into(), device) {
            Ok(portrait) => Some(portrait),
            Err(reason) => {
                self.note(PortraitNote::Damaged { path, reason });
                None
            }
        }
    }

    /// Keeps what `key` made.
    pub(super) fn keep(&self, key: &Value, layers: &[[TensorData; 2]]) {
        let path = self.entry(key);
        let written = to_bytes(key, layers).and_then(|bytes| write_whole(&path, &bytes));
        if let Err(error) = written {
            let reason = error.to_string();
            self.note(PortraitNote::NotKept { path, reason });
        }
    }

    fn entry(&self, key: &Value) -> PathBuf {
        let name = sha256_of(key.to_string().as_bytes());
        self.folder.join(format!("{name}.safetensors"))
    }

    /// What the files of the image encoder at this path hashed to, unless they have changed since. An encoder that is gone, or whose
    /// weights are, counts as unchanged.
    pub(super) fn known_encoder(&self, encoder: &Path) -> Option<Vec<HashedFile>> {
        let path = self.encoder_record(encoder);
        let damaged = |reason: String| {
            let path = path.clone();
            self.note(PortraitNote::Damaged { path, reason });
            None
        };
        let known: KnownEncoder = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(known) => known,
                Err(error) => return damaged(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return damaged(error.to_string()),
        };
        let files = known.files_at(encoder);
        let now = seen(encoder);
        if now != known.seen {
            let weights = |path: &Path| path.extension().is_none_or(|ending| ending != "json");
            let gone = |file: &HashedFile| weights(&file.path) && !file.path.exists();
            let unchanged = now.iter().all(|file| known.seen.contains(file));
            if !unchanged || !files.iter().any(gone) {
                return None;
            }
            self.note(PortraitNote::EncoderAbsent {
                path: encoder.to_path_buf(),
            });
        }
        Some(files)
    }

    /// Hashes an image encoder's files, and remembers that.
    pub(super) fn learn_encoder(
        &self,
        encoder: &Path,
        files: &[PathBuf],
    ) -> Result<Vec<HashedFile>, PipelineError> {
        let seen = seen(encoder);
        let files = hashed(files)?;
        let inside = |file: &HashedFile| HashedFile {
            path: file
                .path
                .strip_prefix(encoder)
                .unwrap_or(&file.path)
                .to_path_buf(),
            sha256: file.sha256.clone(),
        };
        let known = KnownEncoder {
            files: files.iter().map(inside).collect(),
            seen,
        };
        let path = self.encoder_record(encoder);
        let written = serde_json::to_vec(&known)
            .map_err(io::Error::from)
            .and_then(|bytes| {
                fs::create_dir_all(path.with_file_name(""))?;
                write_whole(&path, &bytes)
            });
        if let Err(error) = written {
            let reason = error.to_string();
            self.note(PortraitNote::NotKept { path, reason });
        }
        Ok(files)
    }

    fn encoder_record(&self, encoder: &Path) -> PathBuf {
        let place = std::path::absolute(encoder).unwrap_or_else(|_| encoder.to_path_buf());
        let name = sha256_of(place.as_os_str().as_encoded_bytes());
        self.folder.join("encoders").join(format!("{name}.json"))
    }
}

/// What is remembered of an image encoder.
#[derive(Serialize, Deserialize)]
struct KnownEncoder {
    /// The files that matter, by their paths in the encoder's folder; by none if the encoder is one file.
    files: Vec<HashedFile>,
    /// What lay there when they were read.
    seen: Vec<Seen>,
}

impl KnownEncoder {
    /// The files under the encoder's path as it is called now.
    fn files_at(&self, encoder: &Path) -> Vec<HashedFile> {
        let files = self.files.iter().map(|file| HashedFile {
            path: match file.path.as_os_str().is_empty() {
                true => encoder.to_path_buf(),
                false => encoder.join(&file.path),
            },
            sha256: file.sha256.clone(),
        });
        files.collect()
    }
}

/// A file as a listing shows it.
#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    /// In the encoder's folder, or in the folder of its file.
    path: PathBuf,
    bytes: u64,
    /// When it was last changed, since 1970; none if the system does not say.
    nanoseconds: Option<u64>,
}

/// Whatever could change what an encoder does: the files in its folder and in the folders there, or its file and the settings beside it.
fn seen(encoder: &Path) -> Vec<Seen> {
    let (folder, files) = if encoder.is_dir() {
        let all = listed(encoder)
            .into_iter()
            .flat_map(|path| match path.is_dir() {
                true => listed(&path),
                false => vec![path],
            });
        (encoder, all.collect())
    } else {
        let folder = encoder.parent().unwrap_or(Path::new(""));
        let mut files = listed(folder);
        files.retain(|path| {
            path == encoder || path.extension().is_some_and(|ending| ending == "json")
        });
        (folder, files)
    };
    let mut all: Vec<Seen> = files
        .into_iter()
        .filter_map(|path| {
            // Follows links: hubs keep the files themselves elsewhere.
            let metadata = fs::metadata(&path).ok()?;
            let changed = metadata.modified().ok();
            let since = changed.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            metadata.is_file().then(|| Seen {
                path: path.strip_prefix(folder).unwrap_or(&path).to_path_buf(),
                bytes: metadata.len(),
                nanoseconds: since.and_then(|since| u64::try_from(since.as_nanos()).ok()),
            })
        })
        .collect();
    all.sort_unstable();
    all
}

/// What is in a folder: nothing, if it cannot be read.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let readable = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let entries = fs::read_dir(readable).into_iter().flatten();
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    names.map(|name| folder.join(name)).collect()
}

/// The SHA-256 of each file.
pub(super) fn hashed(files: &[PathBuf]) -> Result<Vec<HashedFile>, PipelineError> {
    files
        .iter()
        .map(|path| match sha256_of_file(path) {
            Ok(sha256) => Ok(HashedFile {
                path: path.clone(),
                sha256,
            }),
            Err(source) => Err(PipelineError::Unreadable {
                path: path.clone(),
                source,
            }),
        })
        .collect()
}

/// The metadata of an entry.
#[derive(Serialize, Deserialize)]
struct Head {
    key: Value,
    /// Of all tensors' bytes, in the order of their names in the file.
    sha256: String,
}

fn name(layer: usize, part: usize) -> String {
    format!("{layer:03}.{}", ["key", "value"][part])
}

fn to_bytes(key: &Value, layers: &[[TensorData; 2]]) -> io::Result<Vec<u8>> {
    let mut views = Vec::with_capacity(2 * layers.len());
    let mut sum = Sha256Hex::default();
    for (layer, parts) in layers.iter().enumerate() {
        for (part, data) in parts.iter().enumerate() {
            let dtype = match data.dtype() {
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::F64 => Dtype::F64,
                _ => Dtype::F32,
            };
            sum.update(data.as_bytes());
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
            views.push((name(layer, part), view.map_err(io::Error::other)?));
        }
    }
    let head = Head {
        key: key.clone(),
        sha256: sum.finish(),
    };
    let metadata = [(ENTRY.to_owned(), serde_json::to_string(&head)?)];
    safetensors::serialize(views, Some(metadata.into())).map_err(io::Error::other)
}

/// Reads an entry, or says what is wrong with it.
fn read(
    bytes: &[u8],
    key: &Value,
    channels: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Portrait, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| wrong(&e))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| wrong(&e))?;
    let head = header.metadata().as_ref().and_then(|all| all.get(ENTRY));
    let head: Head =
        serde_json::from_str(head.ok_or("it does not say what made it")?).map_err(|e| wrong(&e))?;
    if head.key != *key {
        return Err("it is of something else".to_owned());
    }
    let mut sum = Sha256Hex::default();
    let mut parts = Vec::with_capacity(2 * channels.len());
    let mut tokens = None;
    for (layer, &channels) in channels.iter().enumerate() {
        for part in 0..2 {
            let view = tensors.tensor(&name(layer, part)).map_err(|e| wrong(&e))?;
            sum.update(view.data());
            let [1, found, width] = *view.shape() else {
                return Err(format!("a tensor has shape {:?}", view.shape()));
            };
            if width != channels || *tokens.get_or_insert(found) != found {
                return Err(format!("a tensor has shape {:?}", view.shape()));
            }
            let data =
                TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
            parts.push(data.map_err(|e| wrong(&e))?);
        }
    }
    if sum.finish() != head.sha256 {
        return Err("its checksum does not fit".to_owned());
    }
    Ok(from_parts(parts, device))
}

/// Keys and values of layer after layer, as tensors.
fn from_parts(parts: Vec<TensorData>, device: &Device) -> Portrait {
    let mut tensors = parts.into_iter().map(|data| {
        let dtype = data.dtype();
        Tensor::<3>::from_data(data, (device, dtype))
    });
    let mut layers = vec![];
    while let (Some(key), Some(value)) = (tensors.next(), tensors.next()) {
        layers.push(KeyValue { key, value });
    }
    Portrait { layers }
}

/// A portrait by way of the host, as the cache gives it back: so that the first run computes with the very tensors of the second.
pub(super) fn through_host(
    layers: Vec<KeyValue>,
    device: &Device,
) -> (Vec<[TensorData; 2]>, Portrait) {
    let data: Vec<[TensorData; 2]> = layers
        .into_iter()
        .map(|layer| {
            [layer.key, layer.value].map(|tensor| {
                let data = tensor.into_data();
                match data.dtype() {
                    DType::Flex32 => data.convert_dtype(DType::F32),
                    _ => data,
                }
            })
        })
        .collect();
    let portrait = from_parts(data.iter().flatten().cloned().collect(), device);
    (data, portrait)
}

/// Writes a file whole or not at all: beside its name first, then renamed.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    if written.is_err() {
        // The error that matters is the first.
        let _ = fs::remove_file(&partial);
    }
    written
}
