use burn::tensor::{FloatDType, Tensor};
use image::RgbImage;
use ip_adapter::LayerWeights;
use sd_unet::{CrossAttention, ImageStream, KeyValue, Mask};

use super::Portrait;
use crate::PipelineError;

/// The largest strength, in both directions: beyond, pictures fall apart.
const MAX_SCALE: f64 = 10.0;

/// References that steer a request's pictures through one adapter, and how.
///
/// Fields are public: [`ImagePrompt::new`] is the whole picture, every step, every layer, at strength 0.6.
#[derive(Clone, Debug)]
pub struct ImagePrompt {
    /// The references. Without masks, or with one, they are attended to together, as diffusers does; with a mask for each, one by one.
    pub references: Vec<Portrait>,
    /// What the unconditional half of guidance sees.
    pub negative: Portrait,
    /// λ of the decoupled cross-attention, −10 to 10; at 0 the references are not seen.
    pub scale: f64,
    /// The share of the steps after which the adapter begins to act, 0 to 1. Of `n` steps, number `i` (from 0) is one of its own if
    /// `start ≤ i / n` and `(i + 1) / n ≤ end`: diffusers' rule for ControlNets, which it has not for IP-Adapters. The first step has the
    /// most noise. Steps are evaluations of the UNet, of which Heun's method has two a step; image-to-image counts those that it runs.
    pub start: f64,
    /// The share of the steps after which it no longer acts.
    pub end: f64,
    /// What multiplies the strength in each layer; 1 in all of them where there is none.
    pub weights: Option<LayerWeights>,
    /// Where in the picture the adapter acts: nothing is the whole picture; one mask is for all references, else there is one for each.
    pub masks: Vec<Mask>,
}

impl ImagePrompt {
    /// References that act everywhere and always, at strength 0.6.
    pub fn new(references: Vec<Portrait>, negative: Portrait) -> Self {
        Self {
            references,
            negative,
            scale: 0.6,
            start: 0.0,
            end: 1.0,
            weights: None,
            masks: Vec::new(),
        }
    }

    /// Whether it acts in step `step` of `steps`.
    pub(crate) fn acts(&self, step: usize, steps: usize) -> bool {
        let share = |done: usize| done as f64 / steps as f64;
        share(step) >= self.start && share(step + 1) <= self.end
    }

    /// Makes sure that values are in their ranges and fit a picture's height and width and a UNet's layers.
    pub(crate) fn check(
        &self,
        [height, width]: [usize; 2],
        layers: &[CrossAttention],
    ) -> Result<(), PipelineError> {
        let refuse = |option, found: String, expected: &str| {
            Err(PipelineError::Option {
                option,
                found,
                expected: expected.to_owned(),
            })
        };
        if !(-MAX_SCALE..=MAX_SCALE).contains(&self.scale) {
            let expected = "a number from -10 to 10, such as 0.6,";
            return refuse("ip-scale", self.scale.to_string(), expected);
        }
        for (option, value) in [("ip-start", self.start), ("ip-end", self.end)] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(option, value.to_string(), "0 to 1, a share of the steps,");
            }
        }
        if self.start > self.end {
            let expected = format!("no more than --ip-end, which is {},", self.end);
            return refuse("ip-start", self.start.to_string(), &expected);
        }
        if self.references.is_empty() {
            return refuse("ip-image", "not there".into(), "at least one picture");
        }
        let masks = self.masks.len();
        if masks > 1 && masks != self.references.len() {
            let expected = format!(
                "one mask for all references, or one for each of the {},",
                self.references.len()
            );
            return refuse("ip-mask", format!("{masks} masks"), &expected);
        }
        for mask in &self.masks {
            let [found_height, found_width] = mask.size();
            if [found_height, found_width] != [height, width] {
                let expected = format!("the picture's size, {width}x{height},");
                let found = format!("a mask of {found_width}x{found_height} pixels");
                return refuse("ip-mask", found, &expected);
            }
        }
        let of_this_unet = |portrait: &Portrait| {
            let mut fits = portrait.layers.iter().zip(layers);
            portrait.layers.len() == layers.len()
                && fits.all(|(made, layer)| made.key.dims()[2] == layer.channels)
        };
        if !self
            .references
            .iter()
            .chain([&self.negative])
            .all(of_this_unet)
        {
            return refuse(
                "ip-adapter",
                "of another model".into(),
                "an adapter for this model's UNet",
            );
        }
        if let Some(weights) = &self.weights {
            weights.per_layer(layers)?;
        }
        Ok(())
    }

    /// Makes sure that it acts in at least one of `steps` steps.
    pub(crate) fn check_steps(&self, steps: usize) -> Result<(), PipelineError> {
        if (0..steps).any(|step| self.acts(step, steps)) {
            return Ok(());
        }
        Err(PipelineError::Option {
            option: "ip-end",
            found: self.end.to_string(),
            expected: format!(
                "at least one whole step of {steps} between --ip-start, which is {}, and --ip-end",
                self.start
            ),
        })
    }

    /// The streams for a batch of `count` pictures, under guidance with the unconditional half before the other.
    pub(crate) fn streams(
        &self,
        guided: bool,
        count: usize,
        layers: &[CrossAttention],
        dtype: FloatDType,
    ) -> Result<Vec<ImageStream>, PipelineError> {
        let mut weights = match &self.weights {
            Some(weights) => weights.per_layer(layers)?,
            None => vec![1.0; layers.len()],
        };
        for weight in &mut weights {
            *weight = (f64::from(*weight) * self.scale) as f32;
        }
        let stream = |portrait: &Portrait, mask: Option<&Mask>| {
            let made = portrait.layers.iter().zip(&self.negative.layers);
            let layers = made.map(|(positive, negative)| {
                let part = |part: fn(&KeyValue) -> &Tensor<3>| {
                    let positive = part(positive).clone();
                    match guided {
                        true => halves(part(negative).clone(), positive, count),
                        // One for all of the batch.
                        false => positive,
                    }
                    .cast(dtype)
                };
                KeyValue {
                    key: part(|layer| &layer.key),
                    value: part(|layer| &layer.value),
                }
            });
            ImageStream {
                layers: layers.collect(),
                weights: weights.clone(),
                mask: mask.cloned(),
            }
        };
        Ok(match self.masks.as_slice() {
            [] => vec![stream(&Portrait::concat(&self.references), None)],
            [mask] => vec![stream(&Portrait::concat(&self.references), Some(mask))],
            masks => {
                let each = self.references.iter().zip(masks);
                each.map(|(portrait, mask)| stream(portrait, Some(mask)))
                    .collect()
            }
        })
    }
}

/// `[2 · count, tokens, channels]`, the negative for each picture before the positive for each.
///
/// Where one has fewer tokens, it is repeated: that changes no attention, since a softmax over keys that are each there *n* times gives each
/// an *n*-th.
fn halves(negative: Tensor<3>, positive: Tensor<3>, count: usize) -> Tensor<3> {
    let ([_, n, _], [_, m, _]) = (negative.dims(), positive.dims());
    let common = n / gcd(n, m) * m;
    let all =
        |tensor: Tensor<3>, tokens| tensor.repeat_dim(1, common / tokens).repeat_dim(0, count);
    Tensor::cat(vec![all(negative, n), all(positive, m)], 0)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A mask from a picture: white where the adapter acts, black where it does not.
///
/// As diffusers' `IPAdapterMaskProcessor` reads it: to grey as PIL does (ITU-R 601 in 16-bit fixed point), then 1 from 128 on.
pub fn mask_of(picture: &RgbImage) -> Mask {
    let values = picture.pixels().map(|pixel| {
        let [red, green, blue] = pixel.0.map(u32::from);
        let grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
        if grey >= 128 { 1.0 } else { 0.0 }
    });
    let size = [picture.height() as usize, picture.width() as usize];
    Mask::new(size, values.collect())
}
