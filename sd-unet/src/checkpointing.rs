use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};

use crate::blocks::{DownBlock, UpBlock};
use crate::{Conditioning, ImageStream, KeyValue, Timesteps, UNet2DConditionModel};

/// A part of the way through a UNet, in the order in which they come.
#[derive(Clone, Copy)]
enum Part<'a> {
    In,
    Down(&'a DownBlock, usize),
    Mid,
    Up(&'a UpBlock, usize),
    Upsample(&'a UpBlock),
    Out,
}

/// What enters a part.
#[derive(Clone)]
struct Entry {
    hidden: Tensor<4>,
    /// What the way down left for this part.
    skip: Option<Tensor<4>>,
    /// What the way down left for the part after it: as large as a part that doubles the size makes it.
    next: Option<Tensor<4>>,
}

impl Part<'_> {
    fn takes_skip(self) -> bool {
        matches!(self, Part::Up(..))
    }

    fn leaves_skip(self) -> bool {
        matches!(self, Part::In | Part::Down(..))
    }

    fn forward(
        self,
        unet: &UNet2DConditionModel,
        entry: Entry,
        time: &Tensor<2>,
        conditioning: &Conditioning,
    ) -> Tensor<4> {
        let Entry { hidden, skip, next } = entry;
        match (self, skip) {
            (Part::In, _) => sd_kernels::conv2d(hidden, &unet.conv_in),
            (Part::Down(block, layer), _) => block.layer(layer, hidden, time, conditioning),
            (Part::Mid, _) => unet.mid_block.forward(hidden, time, conditioning),
            (Part::Up(block, layer), Some(skip)) => {
                block.layer(layer, hidden, skip, time, conditioning)
            }
            (Part::Up(..), None) => unreachable!("a layer on the way up takes a skip"),
            (Part::Upsample(block), _) => block.upsample(hidden, next.as_ref()),
            (Part::Out, _) => {
                let hidden = sd_kernels::group_norm_silu(hidden, &unet.conv_norm_out);
                sd_kernels::conv2d(hidden, &unet.conv_out)
            }
        }
    }
}

impl UNet2DConditionModel {
    /// The loss of a prediction and its gradients, with *gradient checkpointing* (Chen et al. 2016): instead of every activation only what
    /// enters each layer of each block is kept, and a layer is computed again when its gradient is due. That costs a second forward pass,
    /// and needs the memory of one layer alone.
    ///
    /// `loss` makes a tensor of one element of the prediction, `[batch, out_channels, height, width]`. `each` is given the gradients of
    /// every part after the other; together they hold those of all parameters that ask for them. Returns the loss and the gradient with
    /// respect to the text embedding, both without a graph.
    ///
    /// The keys and values of image streams are taken as constants.
    ///
    /// # Shapes
    /// - `latent`: `[batch, in_channels, height, width]`
    /// - gradient of the text: `[batch, tokens, cross_attention_dim]`
    ///
    /// # Panics
    /// If the shapes do not fit each other, or the model is not on a device that differentiates.
    pub fn backward(
        &self,
        latent: Tensor<4>,
        timestep: impl Into<Timesteps>,
        conditioning: &Conditioning,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
        mut each: impl FnMut(&Gradients),
    ) -> (Tensor<1>, Tensor<3>) {
        let timesteps = timestep.into();
        let latent = latent.inner();
        let constant = with(conditioning, Tensor::inner, Tensor::inner);
        let plain = self.valid();
        let time = plain.time(&timesteps, &latent);

        let (mut entries, mut skips, mut hidden) = (vec![], vec![], latent.clone());
        for part in plain.parts() {
            let skip = part.takes_skip().then(|| skips.pop()).flatten();
            let next = skips.last().cloned();
            let entry = Entry { hidden, skip, next };
            hidden = part.forward(&plain, entry.clone(), &time, &constant);
            if part.leaves_skip() {
                skips.push(hidden.clone());
            }
            entries.push(entry);
        }

        let prediction = leaf(hidden);
        let loss = loss(prediction.clone());
        let gradients = loss.backward();
        let mut pull = gradient(&prediction, &gradients);
        let mut skip_pulls = vec![];
        let mut text_pull = constant.text.zeros_like();
        let mut time_pull = time.zeros_like();
        for (part, entry) in self.parts().into_iter().zip(entries).rev() {
            if part.leaves_skip() {
                pull = pull + skip_pulls.pop().expect("each skip was taken");
            }
            if matches!(part, Part::In) && !trains(&self.conv_in) {
                break;
            }
            let text = leaf(constant.text.clone());
            let steered = Conditioning {
                text: text.clone(),
                ..with(&constant, Tensor::from_inner, Tensor::from_inner)
            };
            let time = leaf(time.clone());
            let entry = Entry {
                hidden: leaf(entry.hidden),
                skip: entry.skip.map(leaf),
                next: entry.next.map(Tensor::from_inner),
            };
            let out = part.forward(self, entry.clone(), &time, &steered);
            let gradients = (out * Tensor::from_inner(pull)).sum().backward();
            each(&gradients);
            pull = gradient(&entry.hidden, &gradients);
            skip_pulls.extend(entry.skip.map(|skip| gradient(&skip, &gradients)));
            if let Some(gradient) = text.grad(&gradients) {
                text_pull = text_pull + gradient;
            }
            if let Some(gradient) = time.grad(&gradients) {
                time_pull = time_pull + gradient;
            }
        }
        if trains(&self.time_embedding) {
            let time = self.time(&timesteps, &Tensor::from_inner(latent));
            each(&(time * Tensor::from_inner(time_pull)).sum().backward());
        }
        (loss.inner(), text_pull)
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part::In];
        for block in &self.down_blocks {
            parts.extend((0..block.layers()).map(|layer| Part::Down(block, layer)));
        }
        parts.push(Part::Mid);
        for block in &self.up_blocks {
            parts.extend((0..block.layers()).map(|layer| Part::Up(block, layer)));
            parts.extend(block.doubles().then_some(Part::Upsample(block)));
        }
        parts.push(Part::Out);
        parts
    }
}

/// A constant as the beginning of a graph.
fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(tensor).require_grad()
}

/// The gradient of a leaf; zeros where nothing depends on it.
fn gradient<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Tensor<D> {
    leaf.grad(gradients)
        .unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// The same conditioning with every tensor passed through a function.
fn with(
    conditioning: &Conditioning,
    text: impl Fn(Tensor<3>) -> Tensor<3>,
    stream: impl Fn(Tensor<3>) -> Tensor<3>,
) -> Conditioning {
    let streams = conditioning.streams.iter().map(|from| ImageStream {
        layers: from
            .layers
            .iter()
            .map(|KeyValue { key, value }| KeyValue {
                key: stream(key.clone()),
                value: stream(value.clone()),
            })
            .collect(),
        ..from.clone()
    });
    Conditioning {
        text: text(conditioning.text.clone()),
        streams: streams.collect(),
        ..conditioning.clone()
    }
}

/// Whether a parameter of the module asks for gradients.
fn trains<M: Module>(module: &M) -> bool {
    struct Any(bool);
    impl ModuleVisitor for Any {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut any = Any(false);
    module.visit(&mut any);
    any.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mask, UNetConfig};
    use burn::tensor::{Distribution, TensorData};
    use parity::{device, relative_error, values};

    /// Every parameter's gradient, by its path, where it has one.
    struct Collect<'a> {
        gradients: &'a Gradients,
        path: Vec<String>,
        found: std::collections::BTreeMap<String, Vec<f32>>,
    }

    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.gradients) {
                self.found.insert(self.path.join("."), values(gradient));
            }
        }
    }

    fn collect(
        unet: &UNet2DConditionModel,
        gradients: &Gradients,
    ) -> std::collections::BTreeMap<String, Vec<f32>> {
        let (path, found) = (vec![], Default::default());
        let mut visitor = Collect {
            gradients,
            path,
            found,
        };
        unet.visit(&mut visitor);
        visitor.found
    }

    #[test]
    fn gradients_in_parts_are_those_of_the_whole() {
        let device = device().autodiff();
        device.seed(3);
        let config = UNetConfig {
            block_out_channels: vec![32, 32, 64],
            down_block_types: UNetConfig::default().down_block_types[1..].to_vec(),
            up_block_types: UNetConfig::default().up_block_types[..3].to_vec(),
            cross_attention_dim: crate::PerLevel::Same(24),
            // A group of one channel would take its bias away.
            norm_num_groups: 8,
            ..UNetConfig::default()
        };
        let unet = config.init(&device);
        let random = |shape: [usize; 3]| {
            Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device).detach()
        };
        // An odd size, so that a doubled one is cut.
        let latent = random([2, 4, 12 * 10]).reshape([2, 4, 12, 10]);
        let target = random([2, 4, 12 * 10]).reshape([2, 4, 12, 10]);
        let text = random([2, 7, 24]);
        let stream = |layer: crate::CrossAttention| KeyValue {
            key: random([1, 3, layer.channels]),
            value: random([1, 3, layer.channels]),
        };
        let layers = unet.cross_attentions().into_iter().map(stream).collect();
        let mask = Mask::new(
            [96, 80],
            (0..96 * 80).map(|i| (i % 80) as f32 / 79.0).collect(),
        );
        let stream = ImageStream::new(layers).weighted(0.7).masked(mask);
        let times = || Timesteps::from(vec![3.0, 700.0]);
        let loss = |prediction: Tensor<4>| (prediction - target.clone()).square().mean();

        let words = text.clone().require_grad();
        let conditioning = Conditioning::text(words.clone()).with(stream.clone());
        let whole = loss(unet.forward(latent.clone(), times(), &conditioning));
        let gradients = whole.backward();
        let wanted = collect(&unet, &gradients);
        let wanted_text = values(words.grad(&gradients).expect("the text steers the loss"));

        let mut found: std::collections::BTreeMap<String, Vec<f32>> = Default::default();
        let conditioning = Conditioning::text(text).with(stream);
        let (value, text_gradient) =
            unet.backward(latent, times(), &conditioning, loss, |gradients| {
                for (path, values) in collect(&unet, gradients) {
                    let twice = found.insert(path.clone(), values);
                    assert!(twice.is_none(), "`{path}` is in two parts");
                }
            });
        let error = relative_error(&values(value), &values(whole.inner()));
        assert!(error < 1e-6, "{error:e}");
        let error = relative_error(&values(text_gradient), &wanted_text);
        assert!(error < 1e-5, "{error:e}");
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            wanted.keys().collect::<Vec<_>>()
        );
        assert!(found.len() > 150, "{}", found.len());
        for (path, wanted) in &wanted {
            let error = relative_error(&found[path], wanted);
            assert!(error < 1e-4, "`{path}`: {error:e}");
        }
    }

    #[test]
    fn a_frozen_model_gives_the_gradient_of_its_text_alone() {
        let device = device().autodiff();
        let config = UNetConfig {
            block_out_channels: vec![32, 32, 32, 32],
            ..UNetConfig::default()
        };
        let unet = config.init(&device).no_grad();
        let latent = Tensor::<4>::from_data(TensorData::zeros::<f32, _>([1, 4, 8, 8]), &device);
        let text = Tensor::<3>::from_data(TensorData::ones::<f32, _>([1, 5, 768]), &device);
        let (_, gradient) = unet.backward(
            latent,
            10.0,
            &Conditioning::text(text),
            |prediction| prediction.square().mean(),
            |gradients| assert!(collect(&unet, gradients).is_empty()),
        );
        assert!(values(gradient).iter().any(|value| *value != 0.0));
    }
}
