//! Reference fixtures: tensors that the peers' own code computed, and the comparison with ours.
//!
//! A fixture is a safetensors file beside the script that made it. This crate is a dev-dependency of every other; it is not published.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{
    FloatCastAdapter, ModuleAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore,
};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// The folder of the reference models and of what the peers computed with them: `parity/reference`.
pub fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference")
}

/// The device on which tests run: the CPU, or with one of the features `webgpu`, `wgpu` and `cuda` the first such GPU.
///
/// # Panics
/// If the machine has no such GPU.
pub fn device() -> Device {
    #[cfg(any(feature = "webgpu", feature = "cuda"))]
    return gpu();
    #[cfg(not(any(feature = "webgpu", feature = "cuda")))]
    Device::flex()
}

#[cfg(any(feature = "webgpu", feature = "cuda"))]
fn gpu() -> Device {
    use burn::tensor::DeviceType;
    #[cfg(feature = "webgpu")]
    let kind = DeviceType::Wgpu;
    #[cfg(not(feature = "webgpu"))]
    let kind = DeviceType::Cuda;
    let devices = Device::enumerate(kind).into_vec();
    let first = devices.into_iter().next();
    first.expect("a GPU to run the tests on")
}

/// A safetensors file, read whole: f16, bf16, f32 and f64 become f32, integers become i64.
pub struct Fixture {
    path: PathBuf,
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ints: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
}

impl Fixture {
    /// Reads a fixture.
    ///
    /// # Panics
    /// If the file cannot be read, since the test cannot go on without it.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file =
            SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (mut floats, mut ints) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in file.tensors() {
            let (shape, raw) = (view.shape().to_vec(), view.data());
            match view.dtype() {
                Dtype::F64 => floats.insert(
                    name,
                    (shape, each(raw, |b: [u8; 8]| f64::from_le_bytes(b) as f32)),
                ),
                Dtype::F32 => floats.insert(name, (shape, each(raw, f32::from_le_bytes))),
                Dtype::F16 => floats.insert(
                    name,
                    (shape, each(raw, |b| half::f16::from_le_bytes(b).to_f32())),
                ),
                Dtype::BF16 => floats.insert(
                    name,
                    (shape, each(raw, |b| half::bf16::from_le_bytes(b).to_f32())),
                ),
                Dtype::I64 => {
                    ints.insert(name, (shape, each(raw, i64::from_le_bytes)));
                    None
                }
                Dtype::I32 => {
                    ints.insert(name, (shape, each(raw, |b| i32::from_le_bytes(b).into())));
                    None
                }
                Dtype::U8 => {
                    ints.insert(name, (shape, raw.iter().map(|&b| b.into()).collect()));
                    None
                }
                other => panic!("{}: `{name}` has dtype {other:?}", path.display()),
            };
        }
        Self { path, floats, ints }
    }

    /// The names of all tensors, floats first.
    pub fn names(&self) -> Vec<&str> {
        self.floats
            .keys()
            .chain(self.ints.keys())
            .map(String::as_str)
            .collect()
    }

    /// A float tensor on the test device.
    ///
    /// # Panics
    /// If there is none of this name or its rank is not `D`.
    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (shape, values) = self.float(name);
        Tensor::from_data(TensorData::new(values.to_vec(), shape.to_vec()), &device())
    }

    /// An integer tensor on the test device.
    ///
    /// # Panics
    /// If there is none of this name or its rank is not `D`.
    pub fn ints<const D: usize>(&self, name: &str) -> Tensor<D, Int> {
        let (shape, values) = self
            .ints
            .get(name)
            .unwrap_or_else(|| panic!("{} has no integers `{name}`", self.path.display()));
        Tensor::from_data(TensorData::new(values.clone(), shape.clone()), &device())
    }

    /// Shape and values of a float tensor.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn float(&self, name: &str) -> (&[usize], &[f32]) {
        let (shape, values) = self
            .floats
            .get(name)
            .unwrap_or_else(|| panic!("{} has no floats `{name}`", self.path.display()));
        (shape, values)
    }

    /// Asserts that `ours` has the shape of tensor `name` and lies within `tolerance` of it, relative: `‖ours − theirs‖ / ‖theirs‖`, and
    /// the largest single difference within ten times that of the largest value.
    #[track_caller]
    pub fn assert_close<const D: usize>(&self, name: &str, ours: Tensor<D>, tolerance: f64) {
        let (shape, theirs) = self.float(name);
        assert_eq!(ours.dims().as_slice(), shape, "shape of `{name}`");
        let error = relative_error(&values(ours), theirs);
        assert!(
            error <= tolerance,
            "`{name}`: relative error {error:.3e}, at most {tolerance:.1e} wanted"
        );
    }
}

/// The larger of `‖ours − theirs‖₂ / ‖theirs‖₂` and a tenth of `max|ours − theirs| / max|theirs|`; infinite where a value is not finite.
pub fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let (mut square, mut norm, mut worst, mut largest) = (0f64, 0f64, 0f64, 0f64);
    for (&a, &b) in ours.iter().zip(theirs) {
        if !a.is_finite() {
            return f64::INFINITY;
        }
        let difference = f64::from(a) - f64::from(b);
        square += difference * difference;
        norm += f64::from(b) * f64::from(b);
        worst = worst.max(difference.abs());
        largest = largest.max(f64::from(b).abs());
    }
    let tiny = f64::MIN_POSITIVE;
    (square.sqrt() / norm.sqrt().max(tiny)).max(worst / largest.max(tiny) / 10.0)
}

/// The values of a float tensor, in row-major order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert_dtype(DType::F32)
        .try_to_vec::<f32>()
        .expect("a float tensor holds floats")
}

/// Loads a safetensors file that PyTorch wrote into a module, by burn's own store, as f32: no name is mapped.
///
/// # Panics
/// If a key is missing, left over, or of another shape.
pub fn load<M: Module>(module: M, path: impl AsRef<Path>) -> M {
    let path = path.as_ref();
    let mut module = module;
    let mut store = SafetensorsStore::from_file(path)
        .with_from_adapter(PyTorchToBurnAdapter.chain(FloatCastAdapter::to(DType::F32)));
    let result = module
        .load_from(&mut store)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        result.unused.is_empty(),
        "{}: keys without a place in the module: {:?}",
        path.display(),
        result.unused
    );
    module
}

fn each<const N: usize, T>(raw: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
}
