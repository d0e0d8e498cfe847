//! Factors to be trained: putting them on, reading them, putting values back.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};

use sd_kernels::LowRank;

use crate::stack::{self, Replace, Survey};
use crate::{Component, LoraError, names};

/// The factors of one module: ΔW = (alpha / rank) · up · down.
#[derive(Clone, Debug)]
pub struct Factor {
    /// The module's dotted path in the model, such as `mid_block.attentions.0.proj_in`.
    pub path: String,
    /// `[rank, fan_in]`.
    pub down: Tensor<2>,
    /// `[fan_out, rank]`.
    pub up: Tensor<2>,
    /// Alpha, times the strength if the factors were applied at one.
    pub alpha: f64,
    /// The rank.
    pub rank: usize,
    /// The weight's shape in the reference's order: `[out, in]` for a linear layer, `[out, in, height, width]` for a convolution.
    pub shape: Vec<usize>,
}

/// How large a module's factors are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactorSize {
    /// The rank ("dim").
    pub rank: usize,
    /// The factors' product is scaled by `alpha / rank`.
    pub alpha: f64,
}

/// Puts trainable factors on the linear and convolution weights for which `sizes` gives a size, and freezes all else: gradients reach the
/// factors alone.
///
/// `sizes` is given each module's dotted path and its weight's shape, as [`Factor::shape`] has it; [`kohya_sizes`] is the usual rule.
/// `init(path, fan_in, length)` gives the values of a down factor, `rank · fan_in` of them in row-major order (kohya's are uniform in
/// ±1/√fan_in); it is called in the order of the model's fields. Up factors begin at 0, so the model's output does not change. Factors are
/// f32 whatever the weights are.
///
/// # Errors
/// If no module has a size, a rank is 0, an alpha is no finite number above 0, `init` gives too many or too few values or such as are not
/// finite, or the model is adapted already.
pub fn attach<M: Module>(
    model: M,
    component: Component,
    sizes: impl Fn(&str, &[usize]) -> Option<FactorSize>,
    mut init: impl FnMut(&str, usize, usize) -> Vec<f32>,
) -> Result<M, LoraError> {
    let survey = Survey::of(&model);
    if let Some(found) = survey.found.first() {
        return Err(LoraError::AlreadyAdapted {
            path: found.path.clone(),
        });
    }
    let mut layers = Vec::new();
    for site in &survey.sites {
        let Some(FactorSize { rank, alpha }) = sizes(&site.path, &site.shape) else {
            continue;
        };
        if rank == 0 || !alpha.is_finite() || alpha <= 0.0 {
            return Err(LoraError::RankAlpha { rank, alpha });
        }
        let fan_in: usize = site.shape[1..].iter().product();
        let values = init(&site.path, fan_in, rank * fan_in);
        if values.len() != rank * fan_in || values.iter().any(|value| !value.is_finite()) {
            let reason = format!(
                "init gave {} values; expected {rank} · {fan_in} finite ones",
                values.len()
            );
            return Err(LoraError::Factor {
                path: site.path.clone(),
                reason,
            });
        }
        let options = (&site.device, DType::F32);
        let down = Tensor::from_data(TensorData::new(values, [rank, fan_in]), options);
        let up = Tensor::zeros([site.shape[0], rank], (&site.device, DType::F32));
        layers.push((site.path.clone(), LowRank::new(down, up, alpha).trainable()));
    }
    if layers.is_empty() {
        return Err(LoraError::NoTargets { component });
    }
    Ok(stack::put_on(model.no_grad(), Vec::new(), layers))
}

/// kohya's rule, for [`attach`]. In the UNet, every linear layer and 1×1 convolution inside its transformers has `size` (192 in SD 1.5); in
/// the text encoder, every linear layer of its attentions and perceptrons (72).
///
/// With a `conv` size, kohya's `conv_dim` and `conv_alpha`, the UNet's residual blocks, downsamplers and upsamplers are trained as well (86
/// more, which makes it a LoCon): their 3×3 convolutions with that size, their linear layers and 1×1 convolutions with `size`.
pub fn kohya_sizes(
    component: Component,
    size: FactorSize,
    conv: Option<FactorSize>,
) -> impl Fn(&str, &[usize]) -> Option<FactorSize> + Clone {
    move |path, shape| match component {
        Component::Unet => {
            // What is not a linear or convolution weight, `attach` does not see.
            let spatial = shape
                .get(2..)
                .is_some_and(|s| s.iter().any(|&side| side > 1));
            let trained = within(path, "attentions")
                || conv.is_some()
                    && ["resnets", "downsamplers", "upsamplers"]
                        .iter()
                        .any(|list| within(path, list));
            match (trained, spatial) {
                (false, _) => None,
                (true, false) => Some(size),
                (true, true) => conv,
            }
        }
        Component::TextEncoder => {
            const LINEAR: [&str; 6] = [
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.out_proj",
                "mlp.fc1",
                "mlp.fc2",
            ];
            let linear = LINEAR.iter().any(|end| {
                path.strip_suffix(end)
                    .is_some_and(|before| before.ends_with('.'))
            });
            (path.contains("layers.") && linear).then_some(size)
        }
    }
}

/// Whether a path leads into a member of a list of that name, such as `mid_block.attentions.0.proj_in` into `attentions`.
fn within(path: &str, list: &str) -> bool {
    let mut parts = path.split('.').skip_while(|&part| part != list).skip(1);
    parts
        .next()
        .is_some_and(|index| index.parse::<usize>().is_ok())
        && parts.next().is_some()
}

/// The factors on a model, in the order of its fields. A model on which several LoRAs were put gives each one's.
pub fn factors<M: Module>(model: &M) -> Vec<Factor> {
    let survey = Survey::of(model);
    let shapes: BTreeMap<&str, &Vec<usize>> = survey
        .sites
        .iter()
        .map(|site| (site.path.as_str(), &site.shape))
        .collect();
    let all = survey.found.iter().map(|found| {
        let (down, up, alpha) = stack::parts(&found.layer);
        let shape = shapes
            .get(found.path.as_str())
            .map(|shape| shape.to_vec())
            .unwrap_or_default();
        Factor {
            path: found.path.clone(),
            rank: found.layer.rank(),
            down,
            up,
            alpha,
            shape,
        }
    });
    all.collect()
}

/// Puts the values of `from` into the factors that are attached to a model, by path: to resume, or to go on from a LoRA
/// ([`Lora::factors`](crate::Lora::factors)). The parameters' identities stay, and so does what an optimizer keeps of them.
///
/// # Errors
/// If the model's factors and those given are not of the same modules, ranks, alphas and shapes.
pub fn with_factors<M: Module>(
    model: M,
    component: Component,
    from: &[Factor],
) -> Result<M, LoraError> {
    let wrong = |path: &str, reason: String| LoraError::Factor {
        path: path.to_owned(),
        reason,
    };
    let survey = Survey::of(&model);
    let mut given: BTreeMap<String, &Factor> = BTreeMap::new();
    for factor in from {
        if given
            .insert(names::canonical(component, &factor.path), factor)
            .is_some()
        {
            return Err(wrong(&factor.path, "given twice; expected once".to_owned()));
        }
    }
    let mut values = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for found in &survey.found {
        let name = names::canonical(component, &found.path);
        let factor = given
            .get(&name)
            .ok_or_else(|| wrong(&found.path, "no values given for these factors".to_owned()))?;
        let (down, up, alpha) = stack::parts(&found.layer);
        let expected = (down.dims(), up.dims(), alpha as f32);
        let got = (factor.down.dims(), factor.up.dims(), factor.alpha as f32);
        if expected != got {
            return Err(wrong(
                &found.path,
                format!("down, up and alpha are {got:?}; expected {expected:?}"),
            ));
        }
        if !seen.insert(name) {
            return Err(LoraError::AlreadyAdapted {
                path: found.path.clone(),
            });
        }
        values.insert(
            found.path.as_str(),
            (factor.down.to_data(), factor.up.to_data()),
        );
    }
    if let Some((_, factor)) = given.iter().find(|(name, _)| !seen.contains(*name)) {
        return Err(wrong(
            &factor.path,
            "the model has no factors there".to_owned(),
        ));
    }
    Ok(model.map(&mut Replace::new(values)))
}
