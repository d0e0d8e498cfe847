use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, FloatDType, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::{CheckpointError, StoredType, TensorFile};

/// Bytes that are converted ahead of the parameter that takes them: enough work for all cores, little beside a model.
const AHEAD: usize = 64 << 20;

/// Tensors of a file under the names that a model gives its parameters.
#[derive(Clone, Debug)]
pub struct Weights {
    file: Arc<TensorFile>,
    /// From the model's name to the file's.
    names: BTreeMap<String, String>,
}

impl Weights {
    /// All tensors of a file, under their own names.
    pub fn new(file: Arc<TensorFile>) -> Self {
        let names = file.names().map(|name| (name.to_owned(), name.to_owned()));
        Self {
            names: names.collect(),
            file,
        }
    }

    /// Some of a file's tensors: pairs of the model's name and the file's.
    pub(crate) fn renamed(file: Arc<TensorFile>, names: BTreeMap<String, String>) -> Self {
        Self { file, names }
    }

    /// The file that holds them.
    pub fn file(&self) -> &Arc<TensorFile> {
        &self.file
    }

    /// Pairs of a parameter's name in the model and in the file, sorted by the former.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.names
            .iter()
            .map(|(ours, theirs)| (ours.as_str(), theirs.as_str()))
    }

    /// The shape that the file gives a parameter.
    pub fn shape(&self, parameter: &str) -> Option<&[usize]> {
        self.file.shape(self.names.get(parameter)?)
    }

    /// The type that most of the numbers have, which is what the model was saved in.
    pub fn dtype(&self) -> Option<StoredType> {
        let mut sums: Vec<(StoredType, usize)> = Vec::new();
        for name in self.names.values() {
            let (Some(dtype), Some(shape)) = (self.file.dtype(name), self.file.shape(name)) else {
                continue;
            };
            let size: usize = shape.iter().product();
            match sums.iter_mut().find(|(one, _)| *one == dtype) {
                Some((_, sum)) => *sum += size,
                None => sums.push((dtype, size)),
            }
        }
        sums.into_iter()
            .max_by_key(|(_, sum)| *sum)
            .map(|(dtype, _)| dtype)
    }
}

/// Fills a module that was just made, and not used yet, with weights. Every parameter is taken from the file and every tensor goes into a
/// parameter, or nothing is loaded.
///
/// A parameter's name is its path in the module, where burn's norms call `gamma` and `beta` what PyTorch calls `weight` and `bias`. A
/// text encoder's leading `text_model.` may be there or not. The weight of a [`Linear`](burn::nn::Linear) is `[out, in]` in the file and is
/// transposed on the way, which costs less than it saves: the CPU backend copies a transposed view anew at every call on batches.
/// Embeddings and convolutions are taken as they are; axes of length 1 at the end may be there or not.
///
/// Parameters keep their identity and device, are never initialised, and ask for no gradient.
///
/// `types` says in what number type, and is one for all as a rule.
///
/// # Errors
/// If a parameter has no tensor, a tensor no parameter, or the two have other shapes; if a tensor holds no floats; if reading fails.
pub fn load_module<M: Module>(
    module: M,
    weights: &Weights,
    types: impl Into<NumberTypes>,
) -> Result<M, CheckpointError> {
    let mut plan = Plan::default();
    module.visit(&mut plan);
    let tensors = plan.check(weights, types.into())?;
    let mut loader = Loader {
        file: &weights.file,
        tensors: tensors.into(),
        ahead: VecDeque::new(),
        error: None,
    };
    let module = module.map(&mut loader);
    match loader.error {
        None => Ok(module),
        Some(error) => Err(error),
    }
}

/// The number types that a module's parameters are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberTypes {
    /// Of biases and norms, and of what is computed with them.
    pub dtype: FloatDType,
    /// Of matrices and kernels.
    pub matrices: MatrixType,
}

/// In what number type a module's matrices and convolution kernels are kept. `sd-kernels` widens them as they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatrixType {
    /// In the type that is computed in.
    #[default]
    Computed,
    /// In 16 bits where the file has them so, else in the type that is computed in. No number changes.
    Stored,
    /// In this type.
    As(FloatDType),
}

impl From<FloatDType> for NumberTypes {
    fn from(dtype: FloatDType) -> Self {
        Self {
            dtype,
            matrices: MatrixType::Computed,
        }
    }
}

impl NumberTypes {
    fn of(self, file: &TensorFile, key: &str, shape: &[usize]) -> FloatDType {
        if shape.len() < 2 {
            return self.dtype;
        }
        match self.matrices {
            MatrixType::Computed => self.dtype,
            MatrixType::Stored => file.halves(key).unwrap_or(self.dtype),
            MatrixType::As(dtype) => dtype,
        }
    }
}

/// A parameter that is to be filled.
struct Slot {
    path: String,
    /// The shape that its tensor has in the file.
    shape: Vec<usize>,
    transpose: bool,
    float: bool,
}

/// The parameters of a module, in the order of its traversal.
#[derive(Default)]
struct Plan {
    /// Field names and what contains them, from the root on.
    path: Vec<(String, String)>,
    slots: Vec<Slot>,
}

impl Plan {
    fn add(&mut self, mut shape: Vec<usize>, float: bool) {
        // burn names the container "Struct:Linear", "Vec", "Array" or "Tuple".
        let container = self
            .path
            .last()
            .map_or("", |(_, container)| container.as_str());
        let norm = container.starts_with("Struct:") && container.ends_with("Norm");
        let transpose = container == "Struct:Linear" && float && shape.len() == 2;
        let last = self.path.len().saturating_sub(1);
        let names: Vec<&str> = self
            .path
            .iter()
            .enumerate()
            .map(|(depth, (name, _))| match name.as_str() {
                "gamma" if norm && depth == last => "weight",
                "beta" if norm && depth == last => "bias",
                name => name,
            })
            .collect();
        if transpose {
            shape.reverse();
        }
        self.slots.push(Slot {
            path: names.join("."),
            shape,
            transpose,
            float,
        });
    }

    /// Finds the tensor of each parameter.
    fn check(self, weights: &Weights, types: NumberTypes) -> Result<Vec<Found>, CheckpointError> {
        let file = &weights.file;
        let path = || file.path().to_owned();
        let mut missing = Vec::new();
        let mut used = BTreeSet::new();
        let mut found = Vec::with_capacity(self.slots.len());
        for slot in self.slots {
            let other = match slot.path.strip_prefix(TEXT_MODEL) {
                Some(bare) => bare.to_owned(),
                None => format!("{TEXT_MODEL}{}", slot.path),
            };
            let entry = [slot.path.as_str(), other.as_str()]
                .into_iter()
                .find_map(|name| weights.names.get_key_value(name));
            let Some((name, key)) = entry.filter(|_| slot.float) else {
                missing.push(slot.path);
                continue;
            };
            used.insert(name);
            let shape = file.shape(key).unwrap_or_default();
            if significant(shape) != significant(&slot.shape) {
                return Err(CheckpointError::Shape {
                    path: path(),
                    key: key.clone(),
                    expected: slot.shape,
                    found: shape.to_vec(),
                });
            }
            if let Some(StoredType::Other(found)) = file.dtype(key) {
                return Err(CheckpointError::Dtype {
                    path: path(),
                    key: key.clone(),
                    found: found.to_owned(),
                });
            }
            found.push(Found {
                dtype: types.of(file, key, &slot.shape),
                key: key.clone(),
                shape: slot.shape,
                transpose: slot.transpose,
            });
        }
        if !missing.is_empty() {
            missing.sort();
            return Err(CheckpointError::MissingKeys {
                path: path(),
                keys: missing,
            });
        }
        let unknown: Vec<String> = weights
            .names
            .iter()
            .filter(|(name, _)| !used.contains(name))
            .map(|(_, key)| key.clone())
            .collect();
        if !unknown.is_empty() {
            return Err(CheckpointError::UnknownKeys {
                path: path(),
                keys: unknown,
            });
        }
        Ok(found)
    }
}

const TEXT_MODEL: &str = "text_model.";

/// A shape without the 1s at its end: a 1×1 convolution is a linear layer.
fn significant(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().rev().take_while(|&&axis| axis == 1).count();
    &shape[..shape.len() - ones]
}

impl ModuleVisitor for Plan {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.to_owned(), container.to_owned()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.lazy_shape().to_vec(), true);
    }

    // No model of ours has such parameters. They are planned for, and so found missing, rather than skipped.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.lazy_shape().to_vec(), false);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.lazy_shape().to_vec(), false);
    }
}

/// A tensor of the file and how its parameter takes it.
struct Found {
    key: String,
    /// The number type that the parameter is to have.
    dtype: FloatDType,
    /// The parameter's shape, in the order of the file.
    shape: Vec<usize>,
    transpose: bool,
}

impl Found {
    fn read(&self, file: &TensorFile) -> Result<TensorData, CheckpointError> {
        file.read_as(&self.key, self.dtype, &self.shape, self.transpose)
    }

    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * DType::from(self.dtype).size()
    }
}

/// Hands each parameter its tensor, in the order of the plan.
struct Loader<'a> {
    file: &'a TensorFile,
    tensors: VecDeque<Found>,
    ahead: VecDeque<TensorData>,
    error: Option<CheckpointError>,
}

impl Loader<'_> {
    fn next(&mut self) -> Option<TensorData> {
        if self.error.is_some() {
            return None;
        }
        if self.ahead.is_empty() {
            let mut bytes = 0;
            let batch: Vec<Found> = std::iter::from_fn(|| {
                let next = self.tensors.front()?.size();
                if bytes > 0 && bytes + next > AHEAD {
                    return None;
                }
                bytes += next.max(1);
                self.tensors.pop_front()
            })
            .collect();
            let read: Result<Vec<TensorData>, _> = batch
                .par_iter()
                .map(|found| found.read(self.file))
                .collect();
            match read {
                Ok(read) => self.ahead = read.into(),
                Err(error) => self.error = Some(error),
            }
        }
        self.ahead.pop_front()
    }
}

impl ModuleMapper for Loader<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.next() else {
            return param;
        };
        let device = param.lazy_device();
        let dtype = data.dtype();
        // On a GPU, weights stay: they need not come from the pool that activations are cut from.
        let value = device.memory_persistent_allocations(data, |data| {
            Tensor::<D>::from_data(data, (&device, dtype))
        });
        Param::initialized(param.id, value)
    }
}
