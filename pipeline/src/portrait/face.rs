//! Face embeddings, made elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{PipelineError, TensorFile};

/// More bytes than any list of face embeddings has.
const MAX_JSON: u64 = 16 << 20;

/// Face embeddings from a file: what a face recognition network such as ArcFace saw in one or more pictures of a person, for the FaceID
/// adapters.
///
/// No such network comes with this crate. InsightFace's `normed_embedding` is what the published adapters were trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Faces {
    path: PathBuf,
    width: usize,
    values: Vec<f32>,
}

impl Faces {
    /// Reads a file: a `.safetensors` (or a pickle of PyTorch) with one tensor `[width]` or `[faces, width]`, or a JSON text with a list
    /// of numbers or a list of such lists. The published adapters take a width of 512.
    ///
    /// # Errors
    /// If it cannot be read, holds anything else, or a number that is not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PipelineError> {
        let path = path.as_ref();
        let wrong = |reason: String| PipelineError::Face {
            path: path.to_path_buf(),
            reason,
        };
        let unreadable = |source| PipelineError::Unreadable {
            path: path.to_path_buf(),
            source,
        };
        let size = fs::metadata(path).map_err(unreadable)?.len();
        let text = match size <= MAX_JSON {
            true => fs::read(path).map_err(unreadable)?,
            false => Vec::new(),
        };
        let (shape, values) = if text.trim_ascii_start().starts_with(b"[") {
            from_json(&text).map_err(wrong)?
        } else {
            from_tensors(path)?.map_err(wrong)?
        };
        let [count, width] = shape;
        if count == 0 || width == 0 {
            return Err(wrong("it holds no number".to_owned()));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(wrong(format!(
                "number {} of face {} is not finite",
                at % width + 1,
                at / width + 1
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            width,
            values,
        })
    }

    /// Where they came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many numbers an embedding has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The embeddings.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The first embedding whose length is not 1 by at least a hundredth: its number, counted from 0, and its length. FaceID adapters
    /// were trained on embeddings of length 1.
    pub fn not_normed(&self) -> Option<(usize, f32)> {
        let length = |face: &[f32]| face.iter().map(|value| value * value).sum::<f32>().sqrt();
        let mut lengths = self.iter().map(length).enumerate();
        lengths.find(|(_, length)| (length - 1.0).abs() > 0.01)
    }
}

type Matrix = ([usize; 2], Vec<f32>);

fn from_json(text: &[u8]) -> Result<Matrix, String> {
    let expected = "a list of numbers, or a list of such lists of one length, is expected";
    let value: Value =
        serde_json::from_slice(text).map_err(|error| format!("{expected}: {error}"))?;
    let all = value.as_array().ok_or(expected)?;
    let nested = all.iter().all(Value::is_array);
    let faces: Vec<&Vec<Value>> = match nested {
        true => all.iter().filter_map(Value::as_array).collect(),
        false => vec![all],
    };
    let width = faces.first().map_or(0, |face| face.len());
    let mut values = Vec::with_capacity(faces.len() * width);
    for face in &faces {
        if face.len() != width {
            return Err(format!(
                "{expected}; found lists of {width} and of {} numbers",
                face.len()
            ));
        }
        for number in *face {
            let number = number
                .as_f64()
                .ok_or_else(|| format!("{expected}; found {number}"))?;
            values.push(number as f32);
        }
    }
    Ok(([faces.len(), width], values))
}

fn from_tensors(path: &Path) -> Result<Result<Matrix, String>, PipelineError> {
    let file = TensorFile::open(path)?;
    let names: Vec<&str> = file.names().collect();
    let [name] = names.as_slice() else {
        return Ok(Err(format!(
            "it holds {} tensors; one, of face embeddings, is expected",
            names.len()
        )));
    };
    let shape = match *file.shape(name).unwrap_or_default() {
        [width] => [1, width],
        [faces, width] => [faces, width],
        [faces, 1, width] => [faces, width],
        ref found => {
            return Ok(Err(format!(
                "`{name}` has shape {found:?}; [width] or [faces, width] is expected"
            )));
        }
    };
    Ok(Ok((shape, file.read_f32(name)?)))
}
