use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};

/// A parameter's path in its model, in burn's names, and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Field names from the model on, joined by dots.
    pub path: String,
    /// Its axes.
    pub shape: Vec<usize>,
}

/// Path and shape of every parameter that is trained, in the order of the model's fields.
pub fn shapes<M: Module>(model: &M) -> Vec<Shape> {
    let mut found = vec![];
    let each = |path: &[String], shape: &[usize], _: &mut dyn FnMut() -> Vec<f32>| {
        found.push(Shape {
            path: path.join("."),
            shape: shape.to_vec(),
        });
    };
    model.visit(&mut Visit::new(None, each));
    found
}

/// All trained numbers of a model, one parameter after the other.
pub fn values<M: Module>(model: &M) -> Vec<f32> {
    let mut all = vec![];
    model.visit(&mut Visit::new(
        None,
        |_, _, values: &mut dyn FnMut() -> Vec<f32>| all.extend(values()),
    ));
    all
}

/// The gradient of each number that [`values`] gives; zero where the loss does not depend on it.
pub fn gradients<M: Module>(model: &M, gradients: &Gradients) -> Vec<f32> {
    let mut all = vec![];
    model.visit(&mut Visit::new(
        Some(gradients),
        |_, _, values: &mut dyn FnMut() -> Vec<f32>| all.extend(values()),
    ));
    all
}

/// The model with these numbers in the place of those that [`values`] gives.
///
/// # Panics
/// If there are more or fewer of them.
pub fn with_values<M: Module>(model: M, values: &[f32]) -> M {
    let mut change = Change { rest: values };
    let model = model.map(&mut change);
    assert!(change.rest.is_empty(), "as many numbers as the model has");
    model
}

/// The model with its embeddings of tokens and positions at a twentieth of what they are: burn makes them with deviation 1, a transformer
/// with its norms in front learns sooner from small ones.
pub fn with_small_embeddings<M: Module>(model: M) -> M {
    let scales = shapes(&model).into_iter().flat_map(|shape| {
        let table = ["token_embedding.weight", "position_embedding.weight"];
        let small = table.iter().any(|name| shape.path.ends_with(name));
        std::iter::repeat_n(if small { 0.05 } else { 1.0 }, shape.shape.iter().product())
    });
    let scaled: Vec<f32> = (values(&model).into_iter().zip(scales))
        .map(|(value, scale)| value * scale)
        .collect();
    with_values(model, &scaled)
}

struct Visit<'a, F> {
    path: Vec<String>,
    gradients: Option<&'a Gradients>,
    each: F,
}

impl<'a, F: FnMut(&[String], &[usize], &mut dyn FnMut() -> Vec<f32>)> Visit<'a, F> {
    fn new(gradients: Option<&'a Gradients>, each: F) -> Self {
        Self {
            path: vec![],
            gradients,
            each,
        }
    }
}

impl<F: FnMut(&[String], &[usize], &mut dyn FnMut() -> Vec<f32>)> ModuleVisitor for Visit<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let value = param.val();
        let shape = value.dims();
        let mut numbers = || {
            let tensor = match self.gradients {
                None => Some(value.clone().inner()),
                Some(gradients) => value.grad(gradients),
            };
            match tensor {
                Some(tensor) => numbers_of(tensor.into_data()),
                None => vec![0.0; shape.iter().product()],
            }
        };
        (self.each)(&self.path, &shape, &mut numbers);
    }
}

fn numbers_of(data: TensorData) -> Vec<f32> {
    data.try_into_vec::<f32>()
        .expect("a model in training has 32-bit floats")
}

struct Change<'a> {
    rest: &'a [f32],
}

impl ModuleMapper for Change<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let (id, old, mapper) = param.consume();
        let (shape, device) = (old.shape(), old.device());
        let (these, rest) = self.rest.split_at(shape.num_elements());
        self.rest = rest;
        let new = Tensor::from_data(TensorData::new(these.to_vec(), shape), &device);
        Param::from_mapped_value(id, new.require_grad(), mapper)
    }
}
