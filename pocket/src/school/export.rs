use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use thiserror::Error;

use crate::files::write_whole;

/// Why a model could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A file could not be written.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A number is too large for 16 bits, or none.
    #[error("`{name}` holds {value}, which no 16-bit float can")]
    Range {
        /// The parameter.
        name: String,
        /// The number.
        value: f32,
    },
    /// A file does not hold what the model needs.
    #[error("`{}` {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Writes a model's parameters as 16-bit floats, under the names and in the layout that PyTorch gives them: norms have `weight` and `bias`,
/// and a linear layer's weight is `[out, in]`. `rename` has the last word on each name; parameters without one are left out.
///
/// # Errors
/// If a number does not fit into 16 bits, or the file cannot be written.
pub fn save_module<M: Module>(
    model: &M,
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<(), ExportError> {
    save_with(model, path, rename, &[])
}

/// [`save_module`] with some single numbers beside the parameters.
///
/// # Errors
/// As [`save_module`].
pub(super) fn save_with<M: Module>(
    model: &M,
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
    numbers: &[(&str, f32)],
) -> Result<(), ExportError> {
    let mut collect = Collect::default();
    model.visit(&mut collect);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = vec![];
    let named = (collect.found.into_iter())
        .filter_map(|(name, shape, values)| Some((rename(&name)?, shape, values)));
    let numbers = (numbers.iter()).map(|&(name, value)| (name.to_owned(), vec![], vec![value]));
    for (name, shape, values) in named.chain(numbers) {
        if let Some(&value) = values.iter().find(|v| !f16::from_f32(**v).is_finite()) {
            return Err(ExportError::Range { name, value });
        }
        let bytes = values
            .into_iter()
            .flat_map(|value| f16::from_f32(value).to_le_bytes())
            .collect();
        tensors.push((name, shape, bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F16, shape.clone(), bytes);
        (name, view.expect("as many bytes as the shape says"))
    });
    let header = [("format".to_owned(), "pt".to_owned())];
    safetensors::serialize(views, Some(header.into()))
        .map_err(io::Error::other)
        .and_then(|bytes| write_whole(path, &bytes))
        .map_err(|source| ExportError::File {
            path: path.to_path_buf(),
            source,
        })
}

/// Reads what [`save_module`] wrote, with the same `rename`. Parameters without a name stay as they are.
///
/// # Errors
/// If the file cannot be read, or a parameter is missing or has another shape or type.
pub fn load_module<M: Module>(
    model: M,
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<M, ExportError> {
    let bytes = fs::read(path).map_err(|source| ExportError::File {
        path: path.to_path_buf(),
        source,
    })?;
    read_module(model, &bytes, path, rename)
}

/// As [`load_module`], of a file's bytes; `path` is what an error calls them.
///
/// # Errors
/// If a parameter is missing or has another shape or type.
pub fn read_module<M: Module>(
    model: M,
    bytes: &[u8],
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
) -> Result<M, ExportError> {
    let wrong = |reason: String| ExportError::Content {
        path: path.to_path_buf(),
        reason,
    };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| wrong(format!("is damaged or no safetensors file ({error})")))?;
    let mut fill = Fill {
        names: Names::default(),
        file,
        rename,
        error: None,
    };
    let model = model.map(&mut fill);
    match fill.error {
        None => Ok(model),
        Some(reason) => Err(wrong(reason)),
    }
}

/// Where a visitor is in a module, in PyTorch's words.
#[derive(Default)]
struct Names {
    /// Field names and what contains them.
    path: Vec<(String, String)>,
}

impl Names {
    fn enter(&mut self, name: &str, container: &str) {
        self.path.push((name.into(), container.into()));
    }

    fn container(&self) -> &str {
        self.path.last().map_or("", |(_, container)| container)
    }

    /// Whether a parameter of `axes` axes is kept the other way round.
    fn transposed(&self, axes: usize) -> bool {
        self.container() == "Struct:Linear" && axes == 2
    }

    fn name(&self) -> String {
        let norm = self.container().ends_with("Norm");
        let last = self.path.len().saturating_sub(1);
        let name = |(depth, (name, _)): (usize, &(String, String))| match name.as_str() {
            "gamma" if norm && depth == last => "weight".to_owned(),
            "beta" if norm && depth == last => "bias".to_owned(),
            name => name.to_owned(),
        };
        let names: Vec<String> = self.path.iter().enumerate().map(name).collect();
        names.join(".")
    }
}

#[derive(Default)]
struct Collect {
    names: Names,
    found: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.names.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let value = if self.names.transposed(D) {
            value.swap_dims(0, 1)
        } else {
            value
        };
        let shape = value.dims().to_vec();
        let values = value.into_data().iter::<f32>().collect();
        self.found.push((self.names.name(), shape, values));
    }
}

struct Fill<'a, F> {
    names: Names,
    file: SafeTensors<'a>,
    rename: F,
    error: Option<String>,
}

impl<F: Fn(&str) -> Option<String>> ModuleMapper for Fill<'_, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.names.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.names.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = (self.rename)(&self.names.name()) else {
            return param;
        };
        let transposed = self.names.transposed(D);
        let (id, old, mapper) = param.consume();
        let mut shape = old.dims().to_vec();
        if transposed {
            shape.reverse();
        }
        let asks = old.is_require_grad();
        let device = old.device();
        let new = match self.file.tensor(&name) {
            Ok(view) if view.dtype() == Dtype::F16 && view.shape() == shape => {
                let halves = view.data().as_chunks::<2>().0.iter();
                let values: Vec<f32> = halves.map(|&b| f16::from_le_bytes(b).to_f32()).collect();
                let new = Tensor::from_data(TensorData::new(values, shape), &device);
                if transposed { new.swap_dims(0, 1) } else { new }
            }
            Ok(view) => {
                let found = (view.dtype(), view.shape());
                self.error = Some(format!("has {found:?} for `{name}`, not F16 {shape:?}"));
                old
            }
            Err(_) => {
                self.error = Some(format!("lacks `{name}`"));
                old
            }
        };
        Param::from_mapped_value(id, new.set_require_grad(asks), mapper)
    }
}
