//! Putting a LoRA on a model.

use std::collections::BTreeMap;

use burn::module::Module;

use crate::lora::Pair;
use sd_kernels::LowRank;

use crate::stack::{self, Site, Survey};
use crate::{Component, Lora, LoraError, names};

impl Lora {
    /// Puts this LoRA on a model: every weight that it names becomes base + strength · ΔW. The given model's clones stay as they were,
    /// and what was put on before stays on.
    ///
    /// Module names are made by walking the model, so that any module whose fields carry the reference's names will do. ΔW is added anew
    /// whenever a layer runs: for more than a few runs, [`merge`](Self::merge), or end with burn's `materialize()`.
    /// A strength of 0 gives the weights back bit for bit.
    ///
    /// # Errors
    /// If some module of this component has no weight in the model, or one of another shape; if the strength is not finite.
    pub fn apply<M: Module>(
        &self,
        model: M,
        component: Component,
        strength: f64,
    ) -> Result<M, LoraError> {
        let (model, unmatched) = self.apply_accepting(model, component, strength)?;
        if unmatched.is_empty() {
            return Ok(model);
        }
        let count = unmatched.len();
        let keys = unmatched.into_iter().take(5).collect();
        let total = self.modules(component);
        Err(LoraError::Unmatched {
            file: self.name.clone(),
            component,
            keys,
            count,
            total,
        })
    }

    /// As [`apply`](Self::apply), but gives back the modules that found no weight, as the file spells them, in place of an error.
    ///
    /// # Errors
    /// If a weight has another shape than the factors make; if the strength is not finite.
    pub fn apply_accepting<M: Module>(
        &self,
        model: M,
        component: Component,
        strength: f64,
    ) -> Result<(M, Vec<String>), LoraError> {
        if !strength.is_finite() {
            return Err(LoraError::Strength {
                file: self.name.clone(),
                strength,
            });
        }
        let survey = Survey::of(&model);
        let sites: BTreeMap<String, &Site> = survey
            .sites
            .iter()
            .map(|site| (names::canonical(component, &site.path), site))
            .collect();
        let mut layers: Vec<(String, LowRank)> = Vec::new();
        let mut unmatched = Vec::new();
        for ((_, name), pair) in self.pairs.iter().filter(|((c, _), _)| *c == component) {
            let Some(site) = sites.get(name) else {
                unmatched.push(pair.stem.clone());
                continue;
            };
            if !fits(pair, &site.shape) {
                let (found, expected) = (pair.weight_shape(), site.shape.clone());
                return Err(LoraError::Shape {
                    file: self.name.clone(),
                    key: pair.stem.clone(),
                    found,
                    expected,
                });
            }
            // 0 · ΔW would turn -0 into +0.
            if strength != 0.0 {
                layers.push((site.path.clone(), pair.on(&site.device, strength)));
            }
        }
        Ok((stack::put_on(model, survey.found, layers), unmatched))
    }

    /// As [`apply`](Self::apply), then adds every ΔW to its weight for good, so that running the model costs what it did without. The way
    /// to generate.
    ///
    /// While a clone of the given model lives, the changed weights are in memory twice. Adapters already on the model are merged with it.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn merge<M: Module>(
        &self,
        model: M,
        component: Component,
        strength: f64,
    ) -> Result<M, LoraError> {
        Ok(self.apply(model, component, strength)?.materialize())
    }
}

/// Whether factors make a weight of this shape. A 1×1 convolution and a linear layer are one, as with the peers; so are the factors of a
/// larger convolution that were written flat.
fn fits(pair: &Pair, weight: &[usize]) -> bool {
    let kernel_fits = match (&pair.down_shape[1..], &weight[1..]) {
        (own @ [_, _, _], kernel @ [_, _, _]) => own == kernel,
        _ => !pair.is_spatial(),
    };
    kernel_fits
        && pair.fan_out() == weight[0]
        && pair.fan_in() == weight[1..].iter().product::<usize>()
}
