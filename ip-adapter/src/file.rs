//! Safetensors files of adapters.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;

use burn::tensor::{FloatDType, TensorData, bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::IpAdapterError;
use crate::layout::{check_is_adapter, floats};

/// Reads a safetensors file.
pub(crate) fn read(path: &Path) -> Result<Vec<(String, TensorData)>, IpAdapterError> {
    let io = |source| IpAdapterError::Io {
        path: path.to_owned(),
        done: "read",
        source,
    };
    let name = path.display().to_string();
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut bytes = Vec::new();
    (&file).take(8).read_to_end(&mut bytes).map_err(io)?;
    let header = bytes
        .first_chunk::<8>()
        .map(|length| u64::from_le_bytes(*length));
    if let Some(header) = header.filter(|&length| length < size) {
        (&file).take(header).read_to_end(&mut bytes).map_err(io)?;
        // Anything odd about the header is left to the parser below.
        if let Ok(Value::Object(keys)) = serde_json::from_slice(&bytes[8..]) {
            let keys = keys.keys().map(String::as_str);
            check_is_adapter(&name, keys.filter(|&key| key != "__metadata__"))?;
        }
        (&file).read_to_end(&mut bytes).map_err(io)?;
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|source| IpAdapterError::Malformed {
        file: name.clone(),
        source,
    })?;
    let read = tensors.iter().map(|(key, view)| {
        let values = decode(&view).ok_or_else(|| IpAdapterError::Dtype {
            file: name.clone(),
            key: key.to_owned(),
            found: view.dtype().to_string(),
        })?;
        Ok((key.to_owned(), TensorData::new(values, view.shape())))
    });
    read.collect()
}

fn decode(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
    }
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    })
}

/// Writes tensors to a new name beside `path`, and renames.
pub(crate) fn write(
    path: &Path,
    tensors: BTreeMap<String, TensorData>,
    dtype: FloatDType,
) -> Result<(), IpAdapterError> {
    let stored = match dtype {
        FloatDType::F64 => Dtype::F64,
        FloatDType::F32 | FloatDType::Flex32 => Dtype::F32,
        FloatDType::F16 => Dtype::F16,
        FloatDType::BF16 => Dtype::BF16,
    };
    let mut encoded = BTreeMap::new();
    for (key, data) in tensors {
        let shape = data.shape().to_vec();
        let bytes = encode(&floats(data), stored).ok_or_else(|| IpAdapterError::Unwritable {
            key: key.clone(),
            dtype: stored.to_string(),
        })?;
        encoded.insert(key, (shape, bytes));
    }
    let views = encoded.iter().map(|(key, (shape, bytes))| {
        let view = TensorView::new(stored, shape.clone(), bytes);
        (key, view.expect("as many bytes as the shape asks for"))
    });
    let bytes =
        safetensors::serialize(views, None).map_err(|source| IpAdapterError::Malformed {
            file: path.display().to_string(),
            source,
        })?;
    write_whole(path, &bytes).map_err(|source| IpAdapterError::Io {
        path: path.to_owned(),
        done: "written",
        source,
    })
}

fn encode(values: &[f32], dtype: Dtype) -> Option<Vec<u8>> {
    fn each<const N: usize>(
        values: &[f32],
        write: impl Fn(f32) -> Option<[u8; N]>,
    ) -> Option<Vec<u8>> {
        let bytes: Option<Vec<[u8; N]>> = values.iter().map(|&value| write(value)).collect();
        Some(bytes?.concat())
    }
    let finite = |value: f32| value.is_finite().then_some(value);
    match dtype {
        Dtype::F64 => each(values, |v| Some(f64::from(finite(v)?).to_le_bytes())),
        Dtype::F16 => each(values, |v| {
            let short = f16::from_f32(v);
            short.is_finite().then(|| short.to_le_bytes())
        }),
        Dtype::BF16 => each(values, |v| {
            let short = bf16::from_f32(v);
            short.is_finite().then(|| short.to_le_bytes())
        }),
        _ => each(values, |v| Some(finite(v)?.to_le_bytes())),
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = path.with_file_name(format!(
        ".{}.{}.part",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written = File::create(&temporary).and_then(|mut file| {
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
