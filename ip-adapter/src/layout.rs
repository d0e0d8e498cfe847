//! Which adapter a file's tensors make: told by names and shapes, every tensor in its place or nothing at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use sd_unet::CrossAttention;

use crate::adapter::About;
use crate::projection::{
    FacePlusProjection, FaceProjection, FullProjection, HEAD, ImageProjection, Projector,
    ResamplerConfig,
};
use crate::{EncoderInput, FaceIdPlus, IpAdapter, IpAdapterError, LowRank, Options, Variant};

const PROJECTOR: &str = "image_proj.";
const ATTENTION: &str = "ip_adapter.";
/// Layers of each kind that a file may name, so that a garbled number does not make a list of missing tensors without end.
const MAX_LAYERS: usize = 256;
/// FaceID has 4 tokens, FaceID-portrait 16.
const PORTRAIT_TOKENS: usize = 16;

/// Errs if no tensor is an adapter's.
pub(crate) fn check_is_adapter<'a>(
    file: &str,
    keys: impl Iterator<Item = &'a str>,
) -> Result<(), IpAdapterError> {
    let (mut count, mut example) = (0, "");
    for key in keys {
        if key.starts_with(PROJECTOR) || key.starts_with(ATTENTION) {
            return Ok(());
        }
        count += 1;
        if example.is_empty() || key < example {
            example = key;
        }
    }
    let hint = if example.starts_with("adapter_modules.")
        || example.starts_with("image_proj_model.")
    {
        "; it seems to be a training checkpoint of tencent's scripts, whose README tells how to convert it"
    } else if example.contains("lora") {
        "; is it a LoRA?"
    } else {
        ""
    };
    Err(IpAdapterError::NotAnAdapter {
        file: file.to_owned(),
        count,
        example: example.to_owned(),
        hint,
    })
}

/// An adapter of named tensors.
pub(crate) fn load(
    file: &str,
    tensors: BTreeMap<String, TensorData>,
    options: &Options,
    device: &Device,
) -> Result<IpAdapter, IpAdapterError> {
    let shapes = tensors
        .iter()
        .map(|(name, data)| (name.clone(), data.shape().to_vec()));
    let source = Source {
        file,
        shapes: shapes.collect(),
    };
    let Recognised {
        adapter,
        parameters,
        factors,
    } = source.recognise(options, device)?;

    let values = |slot: &Slot| values(file, slot, &tensors[&slot.name]);
    let mut filler = Filler {
        dtype: options.dtype,
        values: parameters.iter().map(values).collect::<Result<_, _>>()?,
    };
    let low_rank = factors
        .iter()
        .map(|slot| Ok((slot.name.clone(), values(slot)?)))
        .collect::<Result<_, IpAdapterError>>()?;
    Ok(adapter.map(&mut filler).with_low_rank(Arc::new(low_rank)))
}

/// Names and shapes that are to become an adapter.
struct Source<'a> {
    file: &'a str,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// The adapter that has the tensors of a file, its parameters not yet made.
struct Recognised {
    adapter: IpAdapter,
    /// Where each parameter's values are, in the order of the module.
    parameters: Vec<Slot>,
    /// The low-rank factors.
    factors: Vec<Slot>,
}

/// All that is needed to make the module that has the file's tensors.
struct Sizes {
    about: About,
    projector: Box<dyn FnOnce(&Device) -> Projector>,
    /// The rank of each pair of low-rank factors, or none at all.
    ranks: Option<Vec<[usize; 4]>>,
}

impl Source<'_> {
    fn recognise(&self, options: &Options, device: &Device) -> Result<Recognised, IpAdapterError> {
        check_is_adapter(self.file, self.shapes.keys().map(String::as_str))?;
        self.check_base()?;
        let (adapter, factors) = self.sizes(options)?.build(device);
        let mut plan = Plan::default();
        adapter.visit(&mut plan);
        let parameters = plan.slots;
        self.check(adapter.variant(), parameters.iter().chain(&factors))?;
        Ok(Recognised {
            adapter,
            parameters,
            factors,
        })
    }

    /// Refuses adapters for other base models by name.
    fn check_base(&self) -> Result<(), IpAdapterError> {
        for (key, shape) in &self.shapes {
            if attention_index(key).is_none() || !key.ends_with("_ip.weight") || shape.len() != 2 {
                continue;
            }
            let found = match shape[1] {
                2048 => "Stable Diffusion XL",
                1024 => "Stable Diffusion 2.x",
                _ => continue,
            };
            return Err(IpAdapterError::Architecture {
                file: self.file.to_owned(),
                found,
                key: key.clone(),
                shape: shape.to_vec(),
            });
        }
        Ok(())
    }

    /// An extent of a tensor. Where there is none it is found missing later, so any number does.
    fn extent(&self, name: &str, axis: usize) -> usize {
        let extent = self
            .shapes
            .get(name)
            .and_then(|shape| shape.get(axis).copied());
        extent.unwrap_or(1).max(1)
    }

    /// One more than the largest index that follows `prefix`.
    fn layers(&self, prefix: &str) -> usize {
        let index = |key: &str| {
            let index = key.strip_prefix(prefix)?.split('.').next()?;
            index
                .parse::<usize>()
                .ok()
                .filter(|&index| index < MAX_LAYERS)
        };
        let indices = self.shapes.keys().filter_map(|key| index(key));
        indices.max().map_or(1, |last| last + 1)
    }

    /// Tells the variant by the projector's names, and sizes by shapes.
    fn sizes(&self, options: &Options) -> Result<Sizes, IpAdapterError> {
        let extent = |name: &str, axis| self.extent(&format!("{PROJECTOR}{name}"), axis);
        let has = |prefixes: &[&str]| {
            let keys = self
                .shapes
                .keys()
                .filter_map(|key| key.strip_prefix(PROJECTOR));
            keys.into_iter()
                .any(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)))
        };
        let resampler = |prefix: &str, channels, context| ResamplerConfig {
            width: extent(&format!("{prefix}proj_in.weight"), 1),
            channels,
            inner: (extent(&format!("{prefix}layers.0.0.to_q.weight"), 0) / HEAD).max(1) * HEAD,
            hidden: extent(&format!("{prefix}layers.0.1.1.weight"), 0),
            depth: self.layers(&format!("{PROJECTOR}{prefix}layers.")),
            context,
        };

        let mut input = EncoderInput::default();
        let (variant, context, tokens);
        let projector: Box<dyn FnOnce(&Device) -> Projector>;
        if has(&["perceiver_resampler."]) {
            let version = options
                .face_id_plus
                .ok_or_else(|| IpAdapterError::Version {
                    file: self.file.to_owned(),
                })?;
            context = extent("norm.weight", 0);
            let (face, hidden) = (extent("proj.0.weight", 1), extent("proj.0.weight", 0));
            let count = extent("proj.2.weight", 0) / context;
            let config = resampler("perceiver_resampler.", context, context);
            input.face = Some(face);
            input.penultimate = Some(config.width);
            variant = Variant::FaceIdPlus(version);
            tokens = Some(count);
            projector = Box::new(move |device| {
                let shortcut = match version {
                    FaceIdPlus::V1 => None,
                    FaceIdPlus::V2 { scale } => Some(scale),
                };
                let face = FaceProjection::new(face, hidden, count, context, device);
                Projector::FacePlus(FacePlusProjection::new(face, config.core(device), shortcut))
            });
        } else if has(&["latents", "layers.", "proj_in.", "proj_out.", "norm_out."]) {
            context = extent("norm_out.weight", 0);
            let config = resampler("", extent("proj_in.weight", 0), context);
            let count = extent("latents", 1);
            input.penultimate = Some(config.width);
            variant = Variant::Plus;
            tokens = Some(count);
            projector = Box::new(move |device| Projector::Resampler(config.init(count, device)));
        } else if has(&["proj.3."]) {
            context = extent("proj.3.weight", 0);
            let (width, hidden) = (extent("proj.0.weight", 1), extent("proj.0.weight", 0));
            input.penultimate = Some(width);
            variant = Variant::FullFace;
            tokens = None;
            projector = Box::new(move |device| {
                Projector::Full(FullProjection::new(width, hidden, context, device))
            });
        } else if has(&["proj.0.", "proj.2."]) {
            context = extent("norm.weight", 0);
            let (width, hidden) = (extent("proj.0.weight", 1), extent("proj.0.weight", 0));
            let count = extent("proj.2.weight", 0) / context;
            input.face = Some(width);
            variant = if count < PORTRAIT_TOKENS {
                Variant::FaceId
            } else {
                Variant::FaceIdPortrait
            };
            tokens = Some(count);
            projector = Box::new(move |device| {
                Projector::Face(FaceProjection::new(width, hidden, count, context, device))
            });
        } else {
            context = extent("norm.weight", 0);
            let width = extent("proj.weight", 1);
            let count = extent("proj.weight", 0) / context;
            input.pooled = Some(width);
            variant = Variant::Base;
            tokens = Some(count);
            projector = Box::new(move |device| {
                Projector::Image(ImageProjection::new(width, count, context, device))
            });
        }
        if options.face_id_plus.is_some() && !matches!(variant, Variant::FaceIdPlus(_)) {
            return Err(IpAdapterError::NoVersion {
                file: self.file.to_owned(),
                variant: variant.to_string(),
            });
        }

        // Self-attention and cross-attention by turns.
        let layers = self.layers(ATTENTION).div_ceil(2);
        let channels = (0..layers)
            .map(|layer| self.extent(&key_name(layer), 0))
            .collect();
        let has_factors = self
            .shapes
            .keys()
            .any(|key| attention_index(key).is_some() && key.contains("_lora."));
        let ranks = has_factors.then(|| {
            let rank = |index: usize| {
                FACTORS.map(|factor| self.extent(&factor_name(index, factor, "down"), 0))
            };
            (0..2 * layers).map(rank).collect()
        });
        Ok(Sizes {
            about: About {
                file: self.file.to_owned(),
                variant,
                input,
                context,
                tokens,
                channels,
                low_rank: Arc::default(),
            },
            projector,
            ranks,
        })
    }

    /// Every slot has its tensor, and every tensor its slot.
    fn check<'a>(
        &self,
        variant: Variant,
        slots: impl Iterator<Item = &'a Slot> + Clone,
    ) -> Result<(), IpAdapterError> {
        let expected: BTreeSet<&str> = slots.clone().map(|slot| slot.name.as_str()).collect();
        let found: BTreeSet<&str> = self.shapes.keys().map(String::as_str).collect();
        let less = |a: &BTreeSet<&str>, b| a.difference(b).map(|&key| key.to_owned()).collect();
        let missing: Vec<String> = less(&expected, &found);
        let unknown: Vec<String> = less(&found, &expected);
        if !missing.is_empty() || !unknown.is_empty() {
            return Err(IpAdapterError::Keys {
                file: self.file.to_owned(),
                variant: variant.to_string(),
                missing,
                unknown,
            });
        }
        for slot in slots {
            let found = &self.shapes[&slot.name];
            if *found != slot.shape {
                return Err(IpAdapterError::Shape {
                    file: self.file.to_owned(),
                    key: slot.name.clone(),
                    expected: slot.shape.clone(),
                    found: found.clone(),
                });
            }
        }
        Ok(())
    }
}

impl Sizes {
    /// The adapter with its parameters not yet made, and slots for the low-rank factors.
    fn build(self, device: &Device) -> (IpAdapter, Vec<Slot>) {
        let ranks = self.ranks.unwrap_or_default();
        let (channels, context) = (&self.about.channels, self.about.context);
        let mut slots = Vec::new();
        for (index, ranks) in ranks.into_iter().enumerate() {
            let channels = channels[index / 2];
            for (factor, rank) in FACTORS.into_iter().zip(ranks) {
                let cross = index % 2 == 1 && matches!(factor, "to_k" | "to_v");
                let from = if cross { context } else { channels };
                for (end, shape) in [("down", [rank, from]), ("up", [channels, rank])] {
                    slots.push(Slot {
                        name: factor_name(index, factor, end),
                        shape: shape.to_vec(),
                        transpose: false,
                    });
                }
            }
        }
        let projector = (self.projector)(device);
        (IpAdapter::new(projector, self.about, device), slots)
    }
}

/// The linear layers of an attention that FaceID has low-rank factors for.
const FACTORS: [&str; 4] = ["to_q", "to_k", "to_v", "to_out"];

fn key_name(layer: usize) -> String {
    format!("{ATTENTION}{}.to_k_ip.weight", 2 * layer + 1)
}

fn factor_name(index: usize, factor: &str, end: &str) -> String {
    format!("{ATTENTION}{index}.{factor}_lora.{end}.weight")
}

/// N of `ip_adapter.N.…`.
fn attention_index(key: &str) -> Option<usize> {
    let index = key.strip_prefix(ATTENTION)?.split('.').next()?;
    index.parse().ok()
}

/// An adapter's low-rank factors by the paths of a UNet's layers. The two were found to fit each other.
pub(crate) fn low_rank(adapter: &IpAdapter, layers: &[CrossAttention]) -> Vec<LowRank> {
    let factors = &adapter.about().low_rank;
    let mut all = Vec::with_capacity(factors.len() / 2);
    for (layer, cross) in layers.iter().enumerate() {
        let block = cross.path.strip_suffix("attn2").unwrap_or(&cross.path);
        for (attention, index) in [("attn1", 2 * layer), ("attn2", 2 * layer + 1)] {
            for factor in FACTORS {
                let part = |end| factors.get(&factor_name(index, factor, end)).cloned();
                if let (Some(down), Some(up)) = (part("down"), part("up")) {
                    let linear = if factor == "to_out" {
                        "to_out.0"
                    } else {
                        factor
                    };
                    all.push(LowRank {
                        path: format!("{block}{attention}.{linear}"),
                        down,
                        up,
                    });
                }
            }
        }
    }
    all
}

/// A tensor of a file that a parameter is made of.
struct Slot {
    name: String,
    /// In the file's order.
    shape: Vec<usize>,
    /// A linear layer's weight is `[out, in]` in a file and `[in, out]` in burn.
    transpose: bool,
}

/// The parameters of a module, in the order of its traversal.
#[derive(Default)]
struct Plan {
    /// Field names and what contains them, from the root on.
    path: Vec<(String, String)>,
    slots: Vec<Slot>,
}

impl Plan {
    fn slot(&self, mut shape: Vec<usize>) -> Slot {
        let container = self.path.last().map_or("", |(_, container)| container);
        let transpose = container == "Struct:Linear" && shape.len() == 2;
        if transpose {
            shape.reverse();
        }
        let norm = container == "Struct:LayerNorm";
        let names: Vec<&str> = self
            .path
            .iter()
            .map(|(name, _)| match name.as_str() {
                "gamma" if norm => "weight",
                "beta" if norm => "bias",
                name => name,
            })
            .collect();
        Slot {
            name: names.join("."),
            shape,
            transpose,
        }
    }
}

impl ModuleVisitor for Plan {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.to_owned(), container.to_owned()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let slot = self.slot(param.lazy_shape().to_vec());
        self.slots.push(slot);
    }
}

/// The values of a slot as f32, in the module's layout.
fn values(file: &str, slot: &Slot, data: &TensorData) -> Result<TensorData, IpAdapterError> {
    let (file, key) = (file.to_owned(), slot.name.clone());
    if !matches!(
        data.dtype(),
        DType::F64 | DType::F32 | DType::F16 | DType::BF16
    ) {
        let found = format!("{:?}", data.dtype());
        return Err(IpAdapterError::Dtype { file, key, found });
    }
    let values = floats(data.clone());
    if values.iter().any(|value| !value.is_finite()) {
        return Err(IpAdapterError::NonFinite { file, key });
    }
    Ok(match slot.shape[..] {
        [rows, columns] if slot.transpose => {
            TensorData::new(transposed(&values, [rows, columns]), [columns, rows])
        }
        _ => TensorData::new(values, slot.shape.clone()),
    })
}

/// Hands each parameter its values, in the order of the plan.
struct Filler {
    dtype: FloatDType,
    values: VecDeque<TensorData>,
}

impl ModuleMapper for Filler {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.values.pop_front() else {
            return param;
        };
        let dtype = DType::from(self.dtype);
        let value =
            Tensor::<D>::from_data(data.convert_dtype(dtype), (&param.lazy_device(), dtype));
        Param::initialized(param.id, value).set_require_grad(false)
    }
}

/// All parameters of an adapter under their names in a file and in its layout, as f32.
pub(crate) fn tensors(adapter: &IpAdapter) -> BTreeMap<String, TensorData> {
    let mut reader = Reader::default();
    adapter.visit(&mut reader);
    let factors = adapter.about().low_rank.iter();
    let factors = factors.map(|(name, data)| (name.clone(), data.clone()));
    reader.tensors.into_iter().chain(factors).collect()
}

/// Reads a module's parameters in the files' layout.
#[derive(Default)]
struct Reader {
    plan: Plan,
    tensors: Vec<(String, TensorData)>,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.plan.enter_module(name, container);
    }

    fn exit_module(&mut self, name: &str, container: &str) {
        self.plan.exit_module(name, container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let slot = self.plan.slot(param.lazy_shape().to_vec());
        let values = floats(param.val().into_data());
        let values = match slot.shape[..] {
            [rows, columns] if slot.transpose => transposed(&values, [columns, rows]),
            _ => values,
        };
        self.tensors
            .push((slot.name, TensorData::new(values, slot.shape)));
    }
}

/// The values of floats of any type.
pub(crate) fn floats(data: TensorData) -> Vec<f32> {
    let data = data.convert_dtype(DType::F32);
    data.try_to_vec().expect("converted to f32")
}

/// A matrix of `rows · columns` with its axes swapped, block by block for the cache's sake.
fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    const BLOCK: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row in (0..rows).step_by(BLOCK) {
        for column in (0..columns).step_by(BLOCK) {
            for r in row..rows.min(row + BLOCK) {
                for c in column..columns.min(column + BLOCK) {
                    out[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    type Shapes = BTreeMap<String, Vec<usize>>;

    /// The published adapters at full size, as tencent's own code makes them.
    fn published() -> BTreeMap<String, Shapes> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/shapes.json");
        let table: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        serde_json::from_value(table["adapters"].clone()).unwrap()
    }

    fn recognise(file: &str, shapes: Shapes) -> Result<Recognised, IpAdapterError> {
        let face_id_plus = file.contains("faceid-plus").then_some(FaceIdPlus::V1);
        let options = Options {
            face_id_plus,
            ..Options::default()
        };
        Source { file, shapes }.recognise(&options, &parity::device())
    }

    #[test]
    fn published_adapters_are_told_by_names_and_shapes() {
        let clip = |pooled, penultimate| EncoderInput {
            pooled,
            penultimate,
            face: None,
        };
        let face = |penultimate| EncoderInput {
            pooled: None,
            penultimate,
            face: Some(512),
        };
        let plus = Variant::FaceIdPlus(FaceIdPlus::V1);
        let h = Some("CLIP ViT-H/14");
        let expected = [
            (
                "ip-adapter_sd15",
                36,
                Variant::Base,
                Some(4),
                clip(Some(1024), None),
                h,
            ),
            (
                "ip-adapter_sd15_vit-G",
                36,
                Variant::Base,
                Some(4),
                clip(Some(1280), None),
                Some("CLIP ViT-bigG/14"),
            ),
            (
                "ip-adapter-plus_sd15",
                83,
                Variant::Plus,
                Some(16),
                clip(None, Some(1280)),
                h,
            ),
            (
                "ip-adapter-full-face_sd15",
                38,
                Variant::FullFace,
                None,
                clip(None, Some(1280)),
                h,
            ),
            (
                "ip-adapter-faceid_sd15",
                294,
                Variant::FaceId,
                Some(4),
                face(None),
                None,
            ),
            (
                "ip-adapter-faceid-portrait_sd15",
                38,
                Variant::FaceIdPortrait,
                Some(16),
                face(None),
                None,
            ),
            (
                "ip-adapter-faceid-plus_sd15",
                344,
                plus,
                Some(4),
                face(Some(1280)),
                h,
            ),
        ];
        let published = published();
        assert_eq!(published.len(), expected.len());
        let layers = sd_unet::UNetConfig::default().cross_attentions();
        for (name, count, variant, tokens, input, encoder) in expected {
            let shapes = &published[name];
            assert_eq!(shapes.len(), count, "{name}");
            let found = recognise(name, shapes.clone()).unwrap();
            let adapter = &found.adapter;
            assert_eq!(adapter.variant(), variant, "{name}");
            assert_eq!(adapter.tokens(), tokens, "{name}");
            assert_eq!(adapter.encoder_input(), input, "{name}");
            assert_eq!(input.encoder(), encoder, "{name}");
            adapter.check(&layers).unwrap();
            let slots = found.parameters.iter().chain(&found.factors);
            let slots: Shapes = slots
                .map(|slot| (slot.name.clone(), slot.shape.clone()))
                .collect();
            assert_eq!(&slots, shapes, "{name}");
        }
    }

    #[test]
    fn any_tensor_renamed_is_named() {
        for (name, shapes) in published() {
            let file = format!("{name}.safetensors");
            for key in shapes.keys() {
                let mut renamed = shapes.clone();
                let shape = renamed.remove(key).unwrap();
                let other = format!("{key}s");
                renamed.insert(other.clone(), shape);
                let Err(error) = recognise(&file, renamed) else {
                    panic!("{file}: `{key}` renamed is not found");
                };
                let text = error.to_string();
                assert!(
                    matches!(error, IpAdapterError::Keys { .. })
                        && text.contains(&file)
                        && text.contains(&format!("`{key}`"))
                        && text.contains(&format!("`{other}`")),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn any_tensor_of_another_shape_is_told() {
        for (name, shapes) in published() {
            for key in shapes.keys() {
                for axis in 0..shapes[key].len() {
                    let mut wrong = shapes.clone();
                    wrong.get_mut(key).unwrap()[axis] += 1;
                    match recognise(&name, wrong) {
                        Err(error) => assert!(
                            matches!(error, IpAdapterError::Shape { .. }),
                            "{name}: `{key}`: {error}"
                        ),
                        // The extents that nothing else in the file repeats.
                        Ok(found) => assert!(
                            free(key, axis)
                                && found
                                    .adapter
                                    .check(&sd_unet::UNetConfig::default().cross_attentions())
                                    .is_ok(),
                            "{name}: `{key}` axis {axis}"
                        ),
                    }
                }
            }
        }
    }

    /// Whether an adapter may have any extent here: widths of encoders, which are checked when features come, and numbers of tokens.
    fn free(key: &str, axis: usize) -> bool {
        let key = key.strip_prefix(PROJECTOR).unwrap_or(key);
        axis == 1
            && [
                "proj.weight",
                "proj.0.weight",
                "proj_in.weight",
                "perceiver_resampler.proj_in.weight",
                "latents",
            ]
            .contains(&key)
    }

    #[test]
    fn an_adapter_for_another_base_is_refused_by_name() {
        for (width, base) in [
            (2048, "Stable Diffusion XL"),
            (1024, "Stable Diffusion 2.x"),
        ] {
            let mut shapes = published().remove("ip-adapter-plus_sd15").unwrap();
            for (key, shape) in &mut shapes {
                if key.starts_with(ATTENTION) {
                    shape[1] = width;
                }
            }
            let error = recognise("other.safetensors", shapes)
                .err()
                .unwrap()
                .to_string();
            assert!(
                error.contains(base) && error.contains("other.safetensors"),
                "{error}"
            );
        }
    }

    #[test]
    fn numbers_beyond_all_measure_are_unknown_keys() {
        let mut shapes = published().remove("ip-adapter_sd15").unwrap();
        let far = "ip-adapter.9.to_k_ip.weight".replace("ip-adapter.9", "ip_adapter.4000000001");
        shapes.insert(far.clone(), vec![320, 768]);
        let error = recognise("far.safetensors", shapes)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(&far) && error.contains("unknown use"),
            "{error}"
        );
    }

    #[test]
    fn a_version_is_for_face_id_plus_alone() {
        let mut published = published();
        let mut open = |name: &str, face_id_plus| {
            let (file, shapes) = (name, published.remove(name).unwrap());
            let options = Options {
                face_id_plus,
                ..Options::default()
            };
            let found = Source { file, shapes }.recognise(&options, &parity::device());
            found.err().unwrap().to_string()
        };
        let error = open("ip-adapter-faceid-plus_sd15", None);
        assert!(
            error.contains("versions 1 and 2 have the very same tensors"),
            "{error}"
        );
        let error = open("ip-adapter-plus_sd15", Some(FaceIdPlus::V2 { scale: 1.0 }));
        assert!(
            error.contains("of the kind plus; a version is for FaceID-Plus alone"),
            "{error}"
        );
    }
}
