//! The trained values of a model, whatever it is: every parameter that asks for gradients, in the order of the model's fields.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

/// The path and value of each factor.
pub(crate) fn values<M: Module>(model: &M) -> Vec<(String, Tensor<2>)> {
    let mut visitor = Visit {
        path: vec![],
        each: |path: &[String], value: Tensor<2>| (path.join("."), value.inner()),
        found: vec![],
    };
    model.visit(&mut visitor);
    visitor.found
}

/// The gradient of each factor; zeros where the loss does not depend on it.
pub(crate) fn gradients<M: Module>(model: &M, gradients: &Gradients) -> Vec<Tensor<2>> {
    let mut found = zeros(model);
    add(model, gradients, &mut found);
    found
}

/// A zero for each factor.
pub(crate) fn zeros<M: Module>(model: &M) -> Vec<Tensor<2>> {
    let mut visitor = Visit {
        path: vec![],
        each: |_: &[String], value: Tensor<2>| value.inner().zeros_like(),
        found: vec![],
    };
    model.visit(&mut visitor);
    visitor.found
}

/// Adds the gradient of each factor that has one to its sum, in the order of the model's fields.
pub(crate) fn add<M: Module>(model: &M, gradients: &Gradients, sums: &mut [Tensor<2>]) {
    let mut sums = sums.iter_mut();
    let mut visitor = Visit {
        path: vec![],
        each: |_: &[String], value: Tensor<2>| {
            let sum = sums.next().expect("a sum for each factor");
            if let Some(gradient) = value.grad(gradients) {
                *sum = sum.clone() + gradient;
            }
        },
        found: vec![],
    };
    model.visit(&mut visitor);
}

/// The model with other values in its factors: `change` gets a factor's place in the order and its value.
pub(crate) fn map<M: Module>(model: M, change: impl FnMut(usize, Tensor<2>) -> Tensor<2>) -> M {
    model.map(&mut Change { change, next: 0 })
}

struct Visit<F, T> {
    path: Vec<String>,
    each: F,
    found: Vec<T>,
}

impl<F: FnMut(&[String], Tensor<2>) -> T, T> ModuleVisitor for Visit<F, T> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(value) = factor(param) {
            let found = (self.each)(&self.path, value);
            self.found.push(found);
        }
    }
}

struct Change<F> {
    change: F,
    next: usize,
}

impl<F: FnMut(usize, Tensor<2>) -> Tensor<2>> ModuleMapper for Change<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(value) = factor(&param) else {
            return param;
        };
        let (id, old, mapper) = param.consume();
        let new = (self.change)(self.next, value.inner());
        self.next += 1;
        let new = Tensor::from_inner(new.reshape(old.shape())).require_grad();
        Param::from_mapped_value(id, new, mapper)
    }
}

/// A parameter that asks for gradients, as a matrix: the very tensor, so that its gradient is found.
fn factor<const D: usize>(param: &Param<Tensor<D>>) -> Option<Tensor<2>> {
    if D != 2 || !param.is_require_grad() {
        return None;
    }
    let value: Box<dyn std::any::Any> = Box::new(param.val());
    value.downcast::<Tensor<2>>().ok().map(|value| *value)
}
