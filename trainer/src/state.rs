//! The state file of a run: factors, moments and the step, as safetensors. Beside the format it holds what the run is, so that another run
//! cannot go on from it by mistake.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sd_kernels::Float32MatmulPrecision;
use sha2::{Digest, Sha256};

use crate::{Base, Dataset, TrainConfig, TrainError};

/// Raised whenever a state of an older version could not be gone on with to the same result.
const VERSION: &str = "2";

/// What makes a run this run and no other.
#[derive(Clone)]
pub(crate) struct Identity(BTreeMap<String, String>);

impl Identity {
    pub fn new(config: &TrainConfig, dataset: &Dataset, base: &Base) -> Result<Self, TrainError> {
        let mut identity = BTreeMap::new();
        let config = serde_json::to_value(config).unwrap_or_default();
        for (option, value) in config.as_object().into_iter().flatten() {
            identity.insert(format!("option {option}"), value.to_string());
        }
        identity.insert("model".into(), base.name.clone());
        identity.insert(
            "hash of the model's numbers (as --precision makes them)".into(),
            numbers(base),
        );
        identity.insert("arithmetic".into(), arithmetic(base));
        let mut pictures = Sha256::new();
        for sample in &dataset.samples {
            let bytes = fs::read(&sample.picture).map_err(|source| TrainError::Read {
                path: sample.picture.clone(),
                source,
            })?;
            pictures.update(Sha256::digest(bytes));
            pictures.update(Sha256::digest(&sample.caption));
        }
        identity.insert("pictures and captions".into(), hex(&pictures.finalize()));
        Ok(Self(identity))
    }
}

/// A hash of some numbers of every weight, whatever type they are kept in: weights that were rounded have another than those that were not, and
/// those that only take less room have the same.
fn numbers(base: &Base) -> String {
    let mut sample = Sample(Sha256::new());
    base.text_encoder.visit(&mut sample);
    base.unet.visit(&mut sample);
    base.vae.visit(&mut sample);
    hex(&sample.0.finalize()[..8])
}

/// Hashes the first row of each parameter.
struct Sample(Sha256);

impl ModuleVisitor for Sample {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let row = param.val().narrow(0, 0, 1).into_data();
        for number in row.iter::<f32>() {
            self.0.update(number.to_le_bytes());
        }
    }
}

/// What is computed in, and what the factors of products are rounded to.
fn arithmetic(base: &Base) -> String {
    let dtype = format!("{:?}", base.unet.dtype()).to_lowercase();
    match sd_kernels::get_float32_matmul_precision() {
        Float32MatmulPrecision::Highest => dtype,
        Float32MatmulPrecision::Medium => format!("{dtype}, products in bf16"),
    }
}

/// A run as it was saved.
pub(crate) struct Saved {
    pub done: usize,
    pub factors: Vec<SavedFactor>,
}

/// A factor, and the moments of its gradient if it has had any.
pub(crate) struct SavedFactor {
    pub value: Tensor<2>,
    pub moments: Option<[Tensor<2>; 2]>,
}

type Named = (String, Tensor<2>);

pub(crate) fn save(
    path: &Path,
    identity: &Identity,
    done: usize,
    factors: impl Iterator<Item = (Named, Option<[Tensor<2>; 2]>)>,
) -> Result<(), TrainError> {
    let mut tensors: Vec<(String, [usize; 2], Vec<u8>)> = vec![];
    let mut push = |name: String, tensor: Tensor<2>| {
        let shape = tensor.dims();
        let bytes = tensor
            .into_data()
            .iter::<f32>()
            .flat_map(f32::to_le_bytes)
            .collect();
        tensors.push((name, shape, bytes));
    };
    for ((name, value), moments) in factors {
        if let Some([first, second]) = moments {
            push(format!("{name}.moment_1"), first);
            push(format!("{name}.moment_2"), second);
        }
        push(name, value);
    }
    let mut header: HashMap<String, String> = identity.0.clone().into_iter().collect();
    header.insert("samecast_state".into(), VERSION.into());
    header.insert("step".into(), done.to_string());
    let failed = |source| TrainError::Write {
        path: path.to_path_buf(),
        source,
    };
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        (name, view.expect("as many bytes as the shape says"))
    });
    let bytes = safetensors::serialize(views, Some(header))
        .map_err(|error| failed(std::io::Error::other(error)))?;
    write_whole(path, &bytes).map_err(failed)
}

pub(crate) fn load(
    path: &Path,
    identity: &Identity,
    factors: &[(String, [usize; 2])],
    device: &Device,
) -> Result<Saved, TrainError> {
    let wrong = |reason: String| TrainError::State {
        path: path.to_path_buf(),
        reason,
    };
    let bytes = fs::read(path).map_err(|source| TrainError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let damaged = |error| wrong(format!("it is damaged or no saved state ({error})"));
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let header = header.metadata().clone().unwrap_or_default();
    match header.get("samecast_state").map(String::as_str) {
        Some(VERSION) => {}
        Some(other) => return Err(wrong(format!("its version is {other}, expected {VERSION}"))),
        None => return Err(wrong("it is no saved state".into())),
    }
    for (what, ours) in &identity.0 {
        let theirs = header.get(what).map_or("unknown", String::as_str);
        if theirs != ours {
            return Err(wrong(format!("its {what} was {theirs}, now it is {ours}")));
        }
    }
    let done = header
        .get("step")
        .and_then(|step| step.parse().ok())
        .ok_or_else(|| wrong("it does not say its step".into()))?;

    let read = |name: &str, shape: &[usize; 2]| -> Result<Option<Tensor<2>>, TrainError> {
        let Ok(view) = file.tensor(name) else {
            return Ok(None);
        };
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(wrong(format!(
                "`{name}` is {:?} {:?}, expected F32 {shape:?}",
                view.dtype(),
                view.shape()
            )));
        }
        let values: Vec<f32> = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        let data = TensorData::new(values, *shape);
        Ok(Some(Tensor::from_data(data, device)))
    };
    let mut saved = vec![];
    for (name, shape) in factors {
        let value = read(name, shape)?.ok_or_else(|| wrong(format!("it lacks `{name}`")))?;
        let first = read(&format!("{name}.moment_1"), shape)?;
        let second = read(&format!("{name}.moment_2"), shape)?;
        let moments = match (first, second) {
            (Some(first), Some(second)) => Some([first, second]),
            (None, None) if done == 0 => None,
            _ => return Err(wrong(format!("it lacks the moments of `{name}`"))),
        };
        saved.push(SavedFactor { value, moments });
    }
    Ok(Saved {
        done,
        factors: saved,
    })
}

/// Beside its name first, then renamed, so that a crash leaves the last good state.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let result = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if result.is_err() {
        // The first error is the one to tell of.
        let _ = fs::remove_file(&partial);
    }
    result
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity(BTreeMap::from([("option seed".into(), "7".into())]))
    }

    fn factors() -> Vec<(Named, Option<[Tensor<2>; 2]>)> {
        let tensor = |fill: f32| Tensor::<2>::full([2, 3], fill, &parity::device());
        let moments = Some([tensor(0.5), tensor(0.25)]);
        vec![(("unet.a.down".into(), tensor(1.0)), moments)]
    }

    fn read(path: &Path) -> Result<Saved, TrainError> {
        let names = [("unet.a.down".into(), [2, 3])];
        load(path, &identity(), &names, &parity::device())
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.state");
        save(&path, &identity(), 4, factors().into_iter()).unwrap();
        let saved = read(&path).unwrap();
        assert_eq!(saved.done, 4);
        let [first, second] = saved.factors[0].moments.clone().unwrap();
        let all = [saved.factors[0].value.clone(), first, second];
        let all = all.map(|tensor| parity::values(tensor)[0]);
        assert_eq!(all, [1.0, 0.5, 0.25]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn a_garbled_state_is_an_error_that_names_the_file(
            place in 0usize..400,
            byte in any::<u8>(),
            end in 0usize..600,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.state");
            save(&path, &identity(), 4, factors().into_iter()).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let whole = bytes.len();
            if let Some(old) = bytes.get_mut(place) {
                *old = byte;
            }
            bytes.truncate(end);
            fs::write(&path, &bytes).unwrap();
            match read(&path) {
                Ok(_) => prop_assert_eq!(bytes.len(), whole),
                Err(error) => prop_assert!(error.to_string().contains("a.state")),
            }
        }
    }
}
