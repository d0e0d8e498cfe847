//! Finding the low-rank weights on a model, and putting them there.

use std::any::Any;
use std::collections::BTreeMap;

use burn::module::{
    Module, ModuleMapper, ModuleVisitor, Param, Reparameterization, Reparameterizer,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_kernels::{LowRank, LowRankStack};

/// A weight that factors may be put on.
pub(crate) struct Site {
    /// The module's path, without `.weight`.
    pub path: String,
    /// In the reference's order: `[out, in]` or `[out, in, height, width]`.
    pub shape: Vec<usize>,
    pub device: Device,
}

/// One layer of one weight, as a visitor finds it.
pub(crate) struct Found {
    /// The module's path, without `.weight`.
    pub path: String,
    pub layer: LowRank,
}

/// What a walk of a model finds, in the order of its fields.
#[derive(Default)]
pub(crate) struct Survey {
    pub sites: Vec<Site>,
    pub found: Vec<Found>,
    path: Vec<String>,
    containers: Vec<String>,
    /// The factors of the layer that is being visited.
    down: Option<Param<Tensor<2>>>,
    up: Option<Param<Tensor<2>>>,
}

impl Survey {
    pub fn of<M: Module>(model: &M) -> Self {
        let mut survey = Self::default();
        model.visit(&mut survey);
        survey
    }
}

/// The weight's module and the field, if `path` is inside of a stack: `….weight.lora.layers.0.down`.
fn inside_stack<'a>(path: &'a [String], containers: &[String]) -> Option<(String, &'a str)> {
    let at = containers.iter().position(|c| c == "Reparameterization")?;
    if path[at] != LowRankStack::NAME
        || path.get(at + 1).map(String::as_str) != Some("layers")
        || path.len() != at + 4
    {
        return None;
    }
    Some((module_path(&path[..at]), &path[at + 3]))
}

/// `….to_q.weight` → `….to_q`.
fn module_path(path: &[String]) -> String {
    path[..path.len().saturating_sub(1)].join(".")
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some((path, field)) = inside_stack(&self.path, &self.containers) {
            let param: &dyn Any = param;
            match field {
                "down" => self.down = param.downcast_ref().cloned(),
                "up" => self.up = param.downcast_ref().cloned(),
                _ => {
                    let alpha = param.downcast_ref().cloned();
                    if let (Some(down), Some(up), Some(alpha)) =
                        (self.down.take(), self.up.take(), alpha)
                    {
                        self.found.push(Found {
                            path,
                            layer: LowRank { down, up, alpha },
                        });
                    }
                }
            }
            return;
        }
        let is_weight = self.path.last().is_some_and(|name| name == "weight")
            && !self.containers.iter().any(|c| c == "Reparameterization")
            && self
                .containers
                .last()
                .is_some_and(|c| c != "Struct:Embedding");
        if is_weight && (D == 2 || D == 4) {
            // The base's own dimensions and not the lazy ones: a column-major linear that is not yet initialized tells the latter swapped.
            let mut shape = param.base().dims().to_vec();
            if D == 2 {
                shape.reverse();
            }
            self.sites.push(Site {
                path: module_path(&self.path),
                shape,
                device: param.lazy_device(),
            });
        }
    }
}

/// Puts stacks on the weights of these modules, leaving the base weights as they are, on top of those that a model already has.
pub(crate) fn put_on<M: Module>(model: M, found: Vec<Found>, layers: Vec<(String, LowRank)>) -> M {
    if layers.is_empty() {
        return model;
    }
    let model = if found.is_empty() {
        model
    } else {
        model.map(&mut Detach::default()).materialize()
    };
    let mut stacks: BTreeMap<String, Vec<LowRank>> = BTreeMap::new();
    let old = found.into_iter().map(|found| (found.path, found.layer));
    for (path, layer) in old.chain(layers) {
        stacks.entry(path).or_default().push(layer);
    }
    model.apply_reparameterization(&mut PutOn { stacks })
}

struct PutOn {
    stacks: BTreeMap<String, Vec<LowRank>>,
}

impl Reparameterizer for &mut PutOn {
    type Reparam = LowRankStack;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRankStack>) {
        let layers = path
            .strip_suffix(".weight")
            .and_then(|path| self.stacks.remove(path));
        (param, layers.map(LowRankStack::new))
    }
}

/// Marks every layer as detached, so that `materialize` then takes the stacks off and leaves the base weights bit for bit.
///
/// burn keeps a weight's old adapter when another is put on, and has no way to take one off but to merge it; a mapper may change the
/// tensors inside and nothing else. So the mark is an alpha of two numbers.
#[derive(Default)]
struct Detach {
    path: Vec<String>,
    containers: Vec<String>,
}

impl ModuleMapper for Detach {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match inside_stack(&self.path, &self.containers) {
            Some((_, "alpha")) => param.map(|alpha| Tensor::cat(vec![alpha.clone(), alpha], 0)),
            _ => param,
        }
    }
}

/// Replaces the values of attached factors; their identities and gradients' settings stay.
pub(crate) struct Replace<'a> {
    /// By module path: values of `down` and `up`, in row-major order.
    pub values: BTreeMap<&'a str, (TensorData, TensorData)>,
    path: Vec<String>,
    containers: Vec<String>,
}

impl<'a> Replace<'a> {
    pub fn new(values: BTreeMap<&'a str, (TensorData, TensorData)>) -> Self {
        Self {
            values,
            path: Vec::new(),
            containers: Vec::new(),
        }
    }
}

impl ModuleMapper for Replace<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((path, field)) = inside_stack(&self.path, &self.containers) else {
            return param;
        };
        let Some((down, up)) = self.values.get(path.as_str()) else {
            return param;
        };
        let data = match field {
            "down" => down.clone(),
            "up" => up.clone(),
            _ => return param,
        };
        param.map(|old| {
            let new = Tensor::from_data(data, (&old.device(), old.dtype()));
            // A plain device has no gradients to require; the parameter keeps its setting for `train()`.
            if old.is_require_grad() {
                new.require_grad()
            } else {
                new
            }
        })
    }
}

/// A layer's parts for [`crate::factors`].
pub(crate) fn parts(layer: &LowRank) -> (Tensor<2>, Tensor<2>, f64) {
    let alpha = layer
        .alpha
        .val()
        .into_data()
        .convert_dtype(DType::F32)
        .try_to_vec::<f32>();
    let alpha = alpha
        .ok()
        .and_then(|a| a.first().copied())
        .unwrap_or_default();
    (layer.down.val(), layer.up.val(), f64::from(alpha))
}
