use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{Bytes, DType, FloatDType, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use pytorch_reader::PytorchReader;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::convert::{Source, StoredType, Weight, in_order, transposed};
use super::{CheckpointError, pickle, unpickle};

/// The largest header that the safetensors format allows.
const MAX_HEADER: u64 = 100_000_000;
/// The largest JSON file that is read beside the weights.
const MAX_JSON: u64 = 64 << 20;

/// Named tensors in a file, or in the shards of one: safetensors, and PyTorch's `.ckpt`, `.bin` and `.pt` without running any
/// code of theirs. Opening reads names and shapes alone.
///
/// The kind is told by the content, never by the name.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// The file; most pickles' tensors bring their own access.
    file: Option<File>,
}

#[derive(Debug)]
struct Stored {
    dtype: StoredType,
    shape: Vec<usize>,
    shard: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(Range<usize>),
    Pickled(pytorch_reader::Tensor),
}

impl TensorFile {
    /// Opens a file, or, if its name ends in `.index.json`, the shards that it lists.
    ///
    /// # Errors
    /// If the file is missing, cut short, damaged, or no tensor file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut file = Self {
            path: path.to_owned(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        // diffusers puts a variant before the ending: `….index.fp16.json`.
        if name.ends_with(".json") && name.contains(".index.") {
            file.add_index(path)?;
        } else {
            file.add(path)?;
        }
        Ok(file)
    }

    /// The file that was opened: for shards, their index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors: one, or all shards.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's extents, outermost first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// The type of a tensor's values.
    pub fn dtype(&self, name: &str) -> Option<StoredType> {
        Some(self.tensors.get(name)?.dtype)
    }

    /// Reads a tensor of floating-point numbers as `dtype`, on all cores.
    ///
    /// # Errors
    /// If there is none of this name, if its values are no floats, or if the file cannot be read.
    pub fn read(&self, name: &str, dtype: FloatDType) -> Result<TensorData, CheckpointError> {
        let shape = self.shape(name).unwrap_or_default().to_vec();
        self.read_as(name, dtype, &shape, false)
    }

    /// Reads a tensor as f32, in row-major order.
    ///
    /// # Errors
    /// As [`TensorFile::read`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.stored(name)?;
        let content = self.content(name, tensor)?;
        in_order(&content, tensor.dtype, numbers(&tensor.shape)).map_err(self.io(tensor))
    }

    /// The type of a tensor's numbers, where it is a float type of 16 bits.
    pub(super) fn halves(&self, name: &str) -> Option<FloatDType> {
        match self.tensors.get(name)?.dtype {
            StoredType::F16 => Some(FloatDType::F16),
            StoredType::BF16 => Some(FloatDType::BF16),
            _ => None,
        }
    }

    /// As [`TensorFile::read`], under another shape of as many numbers, and a matrix transposed if so asked.
    pub(super) fn read_as(
        &self,
        name: &str,
        dtype: FloatDType,
        shape: &[usize],
        transpose: bool,
    ) -> Result<TensorData, CheckpointError> {
        let tensor = self.stored(name)?;
        if numbers(shape) != numbers(&tensor.shape) {
            return Err(CheckpointError::Shape {
                path: self.path.clone(),
                key: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        let content = self.content(name, tensor)?;
        let stored = tensor.dtype;
        let same = matches!(
            (stored, dtype),
            (StoredType::F16, FloatDType::F16)
                | (StoredType::BF16, FloatDType::BF16)
                | (StoredType::F32, FloatDType::F32)
        );
        if same && !transpose && cfg!(target_endian = "little") {
            let bytes = content.whole(numbers(shape), stored);
            let bytes = bytes.map_err(self.io(tensor))?;
            return Ok(TensorData::from_bytes(bytes, shape, dtype.into()));
        }
        let data = match dtype {
            FloatDType::F16 => data::<f16>(&content, stored, shape, transpose),
            FloatDType::BF16 => data::<bf16>(&content, stored, shape, transpose),
            FloatDType::F32 | FloatDType::Flex32 => data::<f32>(&content, stored, shape, transpose),
            FloatDType::F64 => data::<f32>(&content, stored, shape, transpose)
                .map(|data| data.convert_dtype(DType::F64)),
        };
        data.map_err(self.io(tensor))
    }

    fn stored(&self, name: &str) -> Result<&Stored, CheckpointError> {
        let missing = || CheckpointError::MissingKeys {
            path: self.path.clone(),
            keys: vec![name.to_owned()],
        };
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        match tensor.dtype {
            StoredType::Other(found) => Err(CheckpointError::Dtype {
                path: self.path.clone(),
                key: name.to_owned(),
                found: found.to_owned(),
            }),
            _ => Ok(tensor),
        }
    }

    /// Where the tensor's bytes are, as many as its shape and type ask for.
    fn content(&self, name: &str, tensor: &Stored) -> Result<Content<'_>, CheckpointError> {
        let shard = &self.shards[tensor.shard];
        let damaged = |reason: String| CheckpointError::Damaged {
            path: shard.path.clone(),
            reason,
        };
        let (content, len) = match (&tensor.place, &shard.file) {
            (Place::File(range), Some(file)) => {
                let start = range.start as u64;
                (Some(Content::File { file, start }), range.len())
            }
            (Place::File(_), None) => (None, 0),
            (Place::Pickled(pickled), _) => {
                let bytes = pickled.read().map_err(|e| damaged(e.to_string()))?;
                let len = bytes.len();
                (Some(Content::Memory(bytes)), len)
            }
        };
        let wanted = numbers(&tensor.shape) * tensor.dtype.size();
        content.filter(|_| len == wanted).ok_or_else(|| {
            damaged(format!(
                "`{name}` does not have the {wanted} bytes that its shape asks for"
            ))
        })
    }

    fn io(&self, tensor: &Stored) -> impl Fn(io::Error) -> CheckpointError {
        let path = &self.shards[tensor.shard].path;
        move |source| CheckpointError::Io {
            path: path.clone(),
            source,
        }
    }

    fn add_index(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let index = read_json(path)?;
        let config = |reason: String| CheckpointError::Config {
            path: path.to_owned(),
            reason,
        };
        let map = index
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| {
                config("expected an object `weight_map` of tensor names and files".to_owned())
            })?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, shard) in map {
            let shard = shard
                .as_str()
                .filter(|shard| {
                    // A file beside the index, and nothing elsewhere.
                    Path::new(shard).file_name() == Some(shard.as_ref()) && !shard.contains('\\')
                })
                .ok_or_else(|| {
                    config(format!(
                        "`{name}`: expected the name of a file beside the index, found {shard}"
                    ))
                })?;
            shards.entry(shard).or_default().push(name);
        }
        if shards.is_empty() {
            return Err(config("`weight_map` is empty".to_owned()));
        }
        for (shard, names) in shards {
            let shard = path.with_file_name(shard);
            if !shard.exists() {
                return Err(config(format!(
                    "its file `{}` does not exist; download the whole model again",
                    shard.display()
                )));
            }
            self.add(&shard)?;
            let keys: Vec<String> = names
                .into_iter()
                .filter(|name| !self.contains(name))
                .map(str::to_owned)
                .collect();
            if !keys.is_empty() {
                return Err(CheckpointError::MissingKeys { path: shard, keys });
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let (file, map) = map(path)?;
        let (file, tensors) = match kind(path, &map)? {
            Kind::Safetensors => {
                let tensors = safetensors(path, &map)?;
                (Some(file), tensors)
            }
            Kind::Pytorch => {
                let tensors = pytorch(path, &map)?;
                let in_file = |(_, t): &(String, Stored)| matches!(t.place, Place::File(_));
                let file = tensors.iter().any(in_file).then_some(file);
                (file, tensors)
            }
        };
        if tensors.is_empty() {
            return Err(CheckpointError::NotAModel {
                path: path.to_owned(),
                found: "holds no tensors".to_owned(),
            });
        }
        let shard = self.shards.len();
        self.shards.push(Shard {
            path: path.to_owned(),
            file,
        });
        for (name, mut tensor) in tensors {
            tensor.shard = shard;
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                return Err(CheckpointError::Damaged {
                    path: path.to_owned(),
                    reason: format!(
                        "`{name}` is in `{}` too",
                        self.shards[other.shard].path.display()
                    ),
                });
            }
        }
        Ok(())
    }
}

/// The bytes of one tensor.
enum Content<'a> {
    /// From this offset on. They are read and not mapped: a map's pages would count as this process's memory as long as the file is open.
    File {
        file: &'a File,
        start: u64,
    },
    Memory(Vec<u8>),
}

impl Content<'_> {
    /// All `count` numbers, aligned so that a tensor can take them as they lie.
    fn whole(self, count: usize, dtype: StoredType) -> io::Result<Bytes> {
        let (file, start) = match self {
            Self::File { file, start } => (file, start),
            Self::Memory(bytes) => return Ok(Bytes::from_bytes_vec(bytes)),
        };
        let mut bytes = match dtype.size() {
            2 => Bytes::from_elems(vec![0u16; count]),
            4 => Bytes::from_elems(vec![0u32; count]),
            size => Bytes::from_elems(vec![0u8; size * count]),
        };
        read_at(file, start, &mut bytes)?;
        Ok(bytes)
    }
}

impl Source for Content<'_> {
    fn piece<'a>(&'a self, range: Range<usize>, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        match self {
            Self::File { file, start } => {
                buffer.resize(range.len().max(buffer.len()), 0);
                let piece = &mut buffer[..range.len()];
                read_at(file, start + range.start as u64, piece)?;
                Ok(piece)
            }
            Self::Memory(bytes) => bytes.piece(range, buffer),
        }
    }
}

fn numbers(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn data<T: Weight>(
    content: &Content<'_>,
    stored: StoredType,
    shape: &[usize],
    transpose: bool,
) -> io::Result<TensorData> {
    Ok(match *shape {
        [rows, columns] if transpose => TensorData::new(
            transposed::<T>(content, stored, [rows, columns])?,
            [columns, rows],
        ),
        _ => TensorData::new(in_order::<T>(content, stored, numbers(shape))?, shape),
    })
}

enum Kind {
    Safetensors,
    Pytorch,
}

/// Fills `bytes` from an offset on, whatever other threads read meanwhile.
#[cfg(unix)]
fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Fills `bytes` from an offset on, whatever other threads read meanwhile.
#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

fn map(path: &Path) -> Result<(File, Mmap), CheckpointError> {
    let io = |source| CheckpointError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::NotFound {
            path: path.to_owned(),
        },
        _ => io(source),
    })?;
    let metadata = file.metadata().map_err(io)?;
    let not_a_model = |found: &str| CheckpointError::NotAModel {
        path: path.to_owned(),
        found: found.to_owned(),
    };
    if !metadata.is_file() {
        return Err(not_a_model("is no file"));
    }
    if metadata.len() == 0 {
        return Err(not_a_model("is empty; download it again"));
    }
    let map = map_read_only(&file).map_err(io)?;
    Ok((file, map))
}

/// The one `unsafe` of this crate: without a map, a checkpoint would be in memory twice.
fn map_read_only(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and private to `TensorFile`, which hands out copies of its bytes, never references. What a map cannot
    // rule out is that another process changes the file meanwhile: the numbers read would then be others, or the read end in SIGBUS where
    // the file got shorter, as in every program that maps its model. Every bit pattern is a valid `u8`, and all lengths and offsets are
    // checked against the map's own length.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(file)
    }
}

/// Tells the kind of file by its first bytes.
fn kind(path: &Path, bytes: &[u8]) -> Result<Kind, CheckpointError> {
    let found = if let Some(header) = header_length(bytes) {
        let expected = header + 8;
        if bytes.get(8) == Some(&b'{') {
            return if expected > bytes.len() as u64 {
                Err(CheckpointError::Truncated {
                    path: path.to_owned(),
                    expected,
                    found: bytes.len() as u64,
                })
            } else {
                Ok(Kind::Safetensors)
            };
        }
        None
    } else {
        None
    };
    let start = bytes.trim_ascii_start();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let found = found.unwrap_or(if start.starts_with(b"<") {
        "is a web page, not a model: the download went wrong, or the site asks to log in"
    } else if start.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer, not the model itself: run `git lfs pull`, or download the file"
    } else if start.starts_with(b"{") {
        "is a JSON text, not a model"
    } else if bytes.starts_with(b"GGUF") {
        "is a GGUF file, which is not supported: get the model as safetensors"
    } else if bytes.iter().take(512).all(|&byte| byte == 0) {
        "starts with zeros: the download was interrupted; download it again"
    } else if bytes.starts_with(b"PK")
        || bytes.get(257..262) == Some(b"ustar")
        || matches!(bytes[0], 0x80 | b'(' | b'}' | b']' | b'c' | b'L')
    {
        return Ok(Kind::Pytorch);
    } else {
        "is neither a safetensors nor a PyTorch file"
    });
    Err(CheckpointError::NotAModel {
        path: path.to_owned(),
        found: found.to_owned(),
    })
}

/// The length that a safetensors file's first eight bytes state, if it is a possible one.
fn header_length(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(*bytes.first_chunk()?);
    (length <= MAX_HEADER).then_some(length)
}

fn safetensors(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Stored)>, CheckpointError> {
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| match promised(bytes) {
            Some(expected) if expected > bytes.len() as u64 => CheckpointError::Truncated {
                path: path.to_owned(),
                expected,
                found: bytes.len() as u64,
            },
            _ => CheckpointError::Damaged {
                path: path.to_owned(),
                reason: format!("its safetensors header does not fit the file ({error})"),
            },
        })?;
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let tensor = Stored {
                dtype: match info.dtype {
                    Dtype::F64 => StoredType::F64,
                    Dtype::F32 => StoredType::F32,
                    Dtype::F16 => StoredType::F16,
                    Dtype::BF16 => StoredType::BF16,
                    Dtype::BOOL => StoredType::Other("bool"),
                    Dtype::I64 => StoredType::Other("int64"),
                    Dtype::I32 => StoredType::Other("int32"),
                    Dtype::I8 | Dtype::I16 => StoredType::Other("short integer"),
                    Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => {
                        StoredType::Other("unsigned integer")
                    }
                    Dtype::F8_E4M3 | Dtype::F8_E5M2 => StoredType::Other("8-bit float"),
                    _ => StoredType::Other("quantized"),
                },
                shape: info.shape.clone(),
                shard: 0,
                // `read_metadata` has checked that these lie within the file.
                place: Place::File(8 + header + start..8 + header + end),
            };
            (name, tensor)
        })
        .collect())
}

/// The length that a safetensors header promises of its file.
fn promised(bytes: &[u8]) -> Option<u64> {
    let header = header_length(bytes)?;
    let Some(text) = bytes.get(8..8 + usize::try_from(header).ok()?) else {
        return Some(8 + header);
    };
    let header_json: Value = serde_json::from_slice(text).ok()?;
    let end = header_json
        .as_object()?
        .values()
        .filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64())
        .max()?;
    end.checked_add(8 + header)
}

fn pytorch(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Stored)>, CheckpointError> {
    pickle::check(path, bytes)?;
    let reader = match PytorchReader::new(path) {
        Ok(reader) => reader,
        Err(error) => {
            let reason = error.to_string();
            return archived(path, bytes).map_err(|e| e.unwrap_or(damaged(path, reason)));
        }
    };
    let mut found = Vec::new();
    for (name, tensor) in weights(reader.into_tensors()) {
        // A view of stride 0 can be of any size in a file of any size; no weight is one.
        if tensor.byte_len() > bytes.len() {
            return Err(CheckpointError::Damaged {
                path: path.to_owned(),
                reason: format!(
                    "`{name}` of shape {:?} is larger than the whole file",
                    tensor.shape()
                ),
            });
        }
        use pytorch_reader::DType::*;
        let dtype = match tensor.dtype() {
            F64 => StoredType::F64,
            F32 => StoredType::F32,
            F16 => StoredType::F16,
            BF16 => StoredType::BF16,
            I64 => StoredType::Other("int64"),
            I32 => StoredType::Other("int32"),
            I16 | I8 => StoredType::Other("short integer"),
            U64 | U32 | U16 | U8 => StoredType::Other("unsigned integer"),
            Bool => StoredType::Other("bool"),
        };
        let stored = Stored {
            dtype,
            shape: tensor.shape().to_vec(),
            shard: 0,
            place: Place::Pickled(tensor),
        };
        found.push((name, stored));
    }
    Ok(found)
}

/// The weights among named values: PyTorch Lightning's checkpoints hold the optimizer's state and more beside them.
fn weights<T>(all: impl IntoIterator<Item = (String, T)>) -> Vec<(String, T)> {
    const WEIGHTS: &str = "state_dict.";
    let all: Vec<(String, T)> = all.into_iter().collect();
    let nested = all.iter().any(|(name, _)| name.starts_with(WEIGHTS));
    all.into_iter()
        .filter_map(|(name, value)| match name.strip_prefix(WEIGHTS) {
            Some(inner) => Some((inner.to_owned(), value)),
            None if nested => None,
            None => Some((name, value)),
        })
        .collect()
}

fn damaged(path: &Path, reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        path: path.to_owned(),
        reason,
    }
}

/// The tensors of a ZIP file that `pytorch-reader` refuses: see [`unpickle`]. They lie in the file as they are, so they are mapped.
///
/// # Errors
/// `None` if the file is none of these either, so that the first reason is the one to tell.
fn archived(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Stored)>, Option<CheckpointError>> {
    let mut archive = zip::ZipArchive::new(io::Cursor::new(bytes)).map_err(|_| None)?;
    let mut entries: BTreeMap<String, Range<usize>> = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|_| None)?;
        let name = entry.name().map_err(|_| None)?.into_owned();
        let start = entry
            .data_start()
            .and_then(|start| usize::try_from(start).ok());
        let start = start.ok_or(None)?;
        let end = usize::try_from(entry.size())
            .ok()
            .and_then(|size| start.checked_add(size));
        let end = end.filter(|end| *end <= bytes.len()).ok_or(None)?;
        entries.insert(name, start..end);
    }
    let (pickle, folder) = entries
        .iter()
        .find_map(|(name, range)| Some((range.clone(), name.strip_suffix("data.pkl")?)))
        .ok_or(None)?;
    let little = entries
        .get(&format!("{folder}byteorder"))
        .is_none_or(|range| bytes[range.clone()].trim_ascii() == b"little");
    if !little {
        return Err(None);
    }
    let found = unpickle::tensors(&bytes[pickle]).map_err(|_| None)?;
    let mut stored = Vec::with_capacity(found.len());
    for (name, tensor) in weights(found) {
        let wrong = |reason: &str| Some(damaged(path, format!("`{name}` {reason}")));
        let size = tensor.dtype.size().max(1);
        let length = tensor
            .shape
            .iter()
            .try_fold(size, |product, &axis| product.checked_mul(axis));
        let mut stride = 1usize;
        let row_major = tensor.shape.len() == tensor.stride.len()
            && tensor
                .shape
                .iter()
                .zip(&tensor.stride)
                .rev()
                .all(|(&axis, &found)| {
                    let fits = axis <= 1 || found == stride;
                    stride = stride.saturating_mul(axis);
                    fits
                });
        if !row_major {
            return Err(wrong(
                "is not stored row by row; save the model anew as safetensors",
            ));
        }
        let range = entries
            .get(&format!("{folder}data/{}", tensor.storage))
            .ok_or_else(|| wrong("has no data in the file"))?;
        let place = (|| {
            let start = range.start.checked_add(tensor.offset.checked_mul(size)?)?;
            let end = start.checked_add(length?)?;
            (end <= range.end).then_some(start..end)
        })();
        let place =
            place.ok_or_else(|| wrong("reaches beyond its data; download the file again"))?;
        stored.push((
            name,
            Stored {
                dtype: tensor.dtype,
                shape: tensor.shape,
                shard: 0,
                place: Place::File(place),
            },
        ));
    }
    Ok(stored)
}

/// Reads a JSON file of moderate size.
pub(crate) fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    let config = |reason: String| CheckpointError::Config {
        path: path.to_owned(),
        reason,
    };
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => {
            config("the file does not exist; download the whole model again".to_owned())
        }
        _ => CheckpointError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_JSON {
        return Err(config(format!("{size} bytes are too many for a JSON file")));
    }
    let text = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&text).map_err(|e| config(format!("expected a JSON text: {e}")))
}
