//! Tokens and predictions against diffusers' and tencent's own code, on small random adapters.

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use common::{adapter_file, expected, features, open, pickled, unet};
use ip_adapter::{
    BlankPicture, FaceIdPlus, Features, IpAdapter, Options, Uncond, Variant, concat, pair,
};
use lora_core::{Component, Factor, Lora};
use parity::{Fixture, device, reference, values};
use sd_unet::{Conditioning, ImageStream, Mask, Timesteps, UNet2DConditionModel, UNetConfig};

const VARIANTS: [&str; 6] = [
    "base",
    "plus",
    "full",
    "faceid",
    "faceid-plus-1",
    "faceid-plus-2",
];

/// The unconditional tokens, as the reference has them.
fn unconditional(adapter: &IpAdapter, of: &Features, fixture: &Fixture) -> Tensor<3> {
    adapter
        .unconditional(Uncond::Reference, of, Some(fixture.tensor("in.blank")))
        .expect("an unconditional input")
}

#[test]
fn tokens_are_diffusers_and_tencents() {
    let fixture = expected();
    let seen = features(&fixture);
    for variant in VARIANTS {
        let adapter = open(variant);
        let tokens = adapter.image_tokens(&seen).unwrap();
        let none = unconditional(&adapter, &seen, &fixture);
        if let Some(count) = adapter.tokens() {
            assert_eq!(tokens.dims()[1], count);
        }
        for theirs in ["", "tencent."] {
            fixture.assert_close(&format!("{theirs}tokens.{variant}"), tokens.clone(), 1e-5);
            fixture.assert_close(&format!("{theirs}uncond.{variant}"), none.clone(), 1e-5);
        }
    }
}

#[test]
fn face_id_plus_2_weighs_the_face_s_structure() {
    let (fixture, file) = (expected(), "ip-adapter-faceid-plus.bin");
    let options = Options {
        face_id_plus: Some(FaceIdPlus::V2 { scale: 0.5 }),
        ..Options::default()
    };
    let adapter = IpAdapter::from_tensors(file, pickled(file), &options, &device()).unwrap();
    let tokens = adapter.image_tokens(&features(&fixture)).unwrap();
    fixture.assert_close("tokens.faceid-plus-2-half", tokens, 1e-5);
}

#[test]
fn a_portrait_puts_the_tokens_of_several_faces_side_by_side() {
    let fixture = expected();
    let mut tensors: Vec<(String, TensorData)> = pickled("ip-adapter-faceid.bin");
    tensors.retain(|(name, _)| name.ends_with("_ip.weight"));
    for name in [
        "proj.0.weight",
        "proj.0.bias",
        "proj.2.weight",
        "proj.2.bias",
        "norm.weight",
        "norm.bias",
    ] {
        let (shape, numbers) = fixture.float(&format!("portrait.{name}"));
        let data = TensorData::new(numbers.to_vec(), shape.to_vec());
        tensors.push((format!("image_proj.{name}"), data));
    }
    let options = Options::default();
    let adapter = IpAdapter::from_tensors("portrait.bin", tensors, &options, &device()).unwrap();
    assert_eq!(adapter.variant(), Variant::FaceIdPortrait);
    let faces = Features {
        face: Some(fixture.tensor("portrait.in.face")),
        ..Features::default()
    };
    let tokens = concat(adapter.image_tokens(&faces).unwrap());
    fixture.assert_close("tencent.tokens.portrait", tokens, 1e-5);
}

/// One of the inputs of `parity/reference/components.safetensors`, and what the UNet predicts of it.
struct Bench {
    unet: UNet2DConditionModel,
    fixture: Fixture,
    parts: Fixture,
}

impl Bench {
    fn new() -> Self {
        Self {
            unet: unet(),
            fixture: expected(),
            parts: Fixture::open(reference().join("components.safetensors")),
        }
    }

    /// The stream of some of the two pictures: the first of the batch sees the unconditional tokens.
    fn stream(&self, variant: &str, pictures: &[usize]) -> ImageStream {
        let adapter = open(variant);
        let seen = features(&self.fixture);
        let none = unconditional(&adapter, &seen, &self.fixture);
        let tokens = adapter.image_tokens(&seen).unwrap();
        let chosen = |tokens: Tensor<3>| {
            let rows = pictures.iter().map(|&at| tokens.clone().narrow(0, at, 1));
            concat(Tensor::cat(rows.collect(), 0))
        };
        adapter.stream(pair(chosen(none), chosen(tokens)))
    }

    fn mask(&self, name: &str) -> Mask {
        let (shape, numbers) = self.fixture.float(name);
        Mask::new([shape[0], shape[1]], numbers.to_vec())
    }

    fn predict(
        &self,
        unet: &UNet2DConditionModel,
        size: &str,
        streams: Vec<ImageStream>,
    ) -> Tensor<4> {
        let conditioning = Conditioning {
            streams,
            ..Conditioning::text(self.parts.tensor("unet.context"))
        };
        let time = self
            .parts
            .ints::<1>(&format!("unet.{size}.timestep"))
            .float();
        let latent = self.parts.tensor(&format!("unet.{size}.latent"));
        unet.forward(latent, Timesteps::from(values(time)), &conditioning)
    }

    #[track_caller]
    fn check(&self, name: &str, streams: Vec<ImageStream>) {
        let ours = self.predict(&self.unet, "16x16", streams);
        self.fixture
            .assert_close(&format!("unet.{name}"), ours, 1e-5);
    }
}

#[test]
fn predictions_are_diffusers_with_each_variant() {
    let bench = Bench::new();
    for variant in VARIANTS {
        bench.check(variant, vec![bench.stream(variant, &[0])]);
    }
    for variant in ["base", "plus"] {
        let half = bench.stream(variant, &[0]).weighted(0.5);
        bench.check(&format!("{variant}-half"), vec![half]);
    }
}

#[test]
fn predictions_are_diffusers_with_several_pictures_and_adapters() {
    let bench = Bench::new();
    bench.check("base-two", vec![bench.stream("base", &[0, 1])]);
    bench.check(
        "plus-two",
        vec![bench.stream("plus", &[0, 1]).weighted(0.7)],
    );
    let base = bench.stream("base", &[0]).weighted(0.7);
    let plus = bench.stream("plus", &[1]).weighted(0.4);
    bench.check("base-and-plus", vec![base, plus]);
}

#[test]
fn predictions_are_diffusers_with_a_weight_for_each_layer() {
    let bench = Bench::new();
    let mut stream = bench.stream("base", &[0]);
    stream.weights = (0..16).map(|layer| 0.25 * (layer % 5) as f32).collect();
    bench.check("base-layers", vec![stream]);
}

#[test]
fn predictions_are_diffusers_within_masks() {
    let bench = Bench::new();
    let [left, right, wide] =
        ["left", "right", "wide"].map(|name| bench.mask(&format!("mask.{name}")));
    let base = bench.stream("base", &[0]);
    bench.check("base-mask", vec![base.clone().masked(left.clone())]);
    let plus = |at: usize, weight: f32| bench.stream("plus", &[at]).weighted(weight);
    bench.check(
        "plus-two-masks",
        vec![
            plus(0, 0.8).masked(left.clone()),
            plus(1, 0.5).masked(right.clone()),
        ],
    );
    bench.check(
        "two-masks",
        vec![
            base.clone().weighted(0.7).masked(left),
            plus(1, 0.9).masked(right),
        ],
    );
    let ours = bench.predict(&bench.unet, "8x16", vec![base.masked(wide)]);
    bench
        .fixture
        .assert_close("unet.base-mask-wide", ours, 1e-5);
}

#[test]
fn masks_are_diffusers_at_every_size() {
    let bench = Bench::new();
    let mask = bench.mask("mask.soft");
    for (height, width) in [(12, 16), (6, 8), (3, 4), (24, 32), (96, 128)] {
        let ours = TensorData::new(mask.resized([height, width]), [height, width]);
        let ours = Tensor::<2>::from_data(ours, &device());
        bench
            .fixture
            .assert_close(&format!("mask.soft.{height}x{width}"), ours, 1e-6);
    }
}

#[test]
fn predictions_are_tencents_with_low_rank_factors_too() {
    let bench = Bench::new();
    for variant in ["base", "plus", "faceid", "faceid-plus-1", "faceid-plus-2"] {
        let factors = open(variant)
            .low_rank(&bench.unet.cross_attentions())
            .unwrap();
        assert_eq!(
            factors.len(),
            if variant.contains("faceid") { 128 } else { 0 }
        );
        let mut unet = bench.unet.clone();
        if !factors.is_empty() {
            let factors = factors.into_iter().map(|one| {
                let (rank, inputs, outputs) =
                    (one.down.shape()[0], one.down.shape()[1], one.up.shape()[0]);
                Factor {
                    path: one.path,
                    down: Tensor::from_data(one.down, &device()),
                    up: Tensor::from_data(one.up, &device()),
                    alpha: rank as f64,
                    rank,
                    shape: vec![outputs, inputs],
                }
            });
            let lora = Lora::from_factors(variant, [(Component::Unet, factors.collect())]).unwrap();
            unet = lora.apply(unet, Component::Unet, 1.0).unwrap();
        }
        let ours = bench.predict(&unet, "16x16", vec![bench.stream(variant, &[0])]);
        bench
            .fixture
            .assert_close(&format!("tencent.unet.{variant}"), ours, 1e-5);
    }
}

#[test]
fn weight_zero_and_mask_zero_change_nothing_bit_for_bit() {
    let bench = Bench::new();
    let plain = values(bench.predict(&bench.unet, "16x16", vec![]));
    let silent = bench.stream("plus", &[0]).weighted(0.0);
    let nowhere = bench
        .stream("base", &[0])
        .masked(Mask::new([128, 128], vec![0.0; 128 * 128]));
    let ours = values(bench.predict(&bench.unet, "16x16", vec![silent, nowhere]));
    assert_eq!(ours, plain);
}

#[test]
fn one_row_of_keys_serves_the_whole_batch() {
    let bench = Bench::new();
    let adapter = open("base");
    let tokens = adapter
        .image_tokens(&features(&bench.fixture))
        .unwrap()
        .narrow(0, 0, 1);
    let one = adapter.stream(tokens.clone());
    let two = adapter.stream(tokens.repeat_dim(0, 2));
    let [one, two] =
        [one, two].map(|stream| values(bench.predict(&bench.unet, "16x16", vec![stream])));
    assert_eq!(one, two);
}

#[test]
fn halves_of_unequal_length_attend_as_each_would_alone() {
    let bench = Bench::new();
    let adapter = open("base");
    let tokens = adapter.image_tokens(&features(&bench.fixture)).unwrap();
    let (two, one) = (concat(tokens.clone()), tokens.narrow(0, 1, 1));
    let three = Tensor::cat(vec![two.clone(), one.clone()], 1);
    // 8 and 12 tokens: 24 in common.
    let paired = pair(two.clone(), three.clone());
    assert_eq!(paired.dims(), [2, 24, 128]);
    let together = values(bench.predict(&bench.unet, "16x16", vec![adapter.stream(paired)]));
    for (row, alone) in [two, three].into_iter().enumerate() {
        let stream = adapter.stream(alone);
        let both = values(bench.predict(&bench.unet, "16x16", vec![stream]));
        let half = both.len() / 2;
        let rows = row * half..(row + 1) * half;
        let error = parity::relative_error(&together[rows.clone()], &both[rows]);
        assert!(error < 1e-5, "row {row}: {error:e}");
    }
}

#[test]
fn other_engines_unconditional_inputs() {
    let fixture = expected();
    let seen = features(&fixture);
    for variant in VARIANTS {
        let adapter = open(variant);
        let states = adapter.encoder_input().penultimate.is_some();
        let expected = |blank| states.then_some(blank);
        assert_eq!(
            adapter.blank_picture(Uncond::Reference),
            expected(BlankPicture::Grey)
        );
        assert_eq!(
            adapter.blank_picture(Uncond::Comfy),
            expected(BlankPicture::Black)
        );
        assert_eq!(adapter.blank_picture(Uncond::SdCpp), None);
        // stable-diffusion.cpp's is the projection of zeros, whatever the projector takes.
        let zeros = Features {
            pooled: seen.pooled.as_ref().map(Tensor::zeros_like),
            penultimate: seen.penultimate.as_ref().map(Tensor::zeros_like),
            face: seen.face.as_ref().map(Tensor::zeros_like),
        };
        let ours = adapter.unconditional(Uncond::SdCpp, &seen, None).unwrap();
        let projected = adapter.image_tokens(&zeros).unwrap();
        assert_eq!(values(ours.clone()), values(projected), "{variant}");
        assert!(
            values(ours).iter().any(|token| token.abs() > 0.1),
            "{variant}"
        );
    }
}

#[test]
fn an_average_is_of_embeddings_and_not_of_tokens() {
    let fixture = expected();
    let seen = features(&fixture);
    let average = seen.average();
    let (shape, numbers) = fixture.float("in.pooled");
    let width = shape[1];
    let mean: Vec<f32> = (0..width)
        .map(|i| (numbers[i] + numbers[width + i]) / 2.0)
        .collect();
    assert!(parity::relative_error(&values(average.pooled.clone().unwrap()), &mean) < 1e-6);
    let adapter = open("plus");
    let tokens = adapter.image_tokens(&average).unwrap();
    assert_eq!(tokens.dims(), [1, 16, 128]);
    let of_tokens = adapter.image_tokens(&seen).unwrap().mean_dim(0);
    assert!(parity::relative_error(&values(tokens), &values(of_tokens)) > 0.01);
}

#[test]
fn cross_attentions_come_in_the_order_of_diffusers_processors() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/shapes.json");
    let table: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let processors: Vec<String> = serde_json::from_value(table["processors"].clone()).unwrap();
    let ours: Vec<String> = UNetConfig::default()
        .cross_attentions()
        .into_iter()
        .flat_map(|layer| {
            let block = layer.path.strip_suffix("attn2").unwrap().to_owned();
            [1, 2].map(|at| format!("{block}attn{at}.processor"))
        })
        .collect();
    assert_eq!(ours, processors);
}

#[test]
fn half_precision_is_the_callers_choice() {
    let fixture = expected();
    let open = |dtype| {
        let options = Options {
            dtype,
            ..Options::default()
        };
        IpAdapter::open(adapter_file("ip-adapter.safetensors"), &options, &device()).unwrap()
    };
    let (wide, narrow) = (open(FloatDType::F32), open(FloatDType::F16));
    let seen = features(&fixture);
    let [wide, narrow] = [wide, narrow].map(|adapter| adapter.image_tokens(&seen).unwrap());
    assert_eq!((wide.dtype(), narrow.dtype()), (DType::F32, DType::F16));
    let error = parity::relative_error(&values(narrow), &values(wide));
    assert!((1e-5..1e-2).contains(&error), "{error:e}");
}

/// Counts what asks for gradients.
struct Asking(usize);

impl ModuleMapper for Asking {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += usize::from(param.is_require_grad());
        param
    }
}

#[test]
fn an_opened_adapter_is_frozen_until_asked() {
    let count = |adapter: IpAdapter| {
        let mut asking = Asking(0);
        adapter.map(&mut asking);
        asking.0
    };
    let file = adapter_file("ip-adapter.safetensors");
    let adapter = IpAdapter::open(file, &Options::default(), &device().autodiff()).unwrap();
    assert_eq!(count(adapter.clone()), 0);
    assert_eq!(count(adapter.unfreeze()), 36);
}

#[test]
fn gradients_reach_every_parameter_of_an_adapter_and_none_of_the_unet() {
    let fixture = expected();
    let device = device().autodiff();
    let unet = common::unet_on(&device).no_grad();
    let raised = |tensor: Tensor<3>| Tensor::<3>::from_data(tensor.into_data(), &device);
    let seen = features(&fixture);
    let seen = Features {
        pooled: seen
            .pooled
            .map(|t| Tensor::from_data(t.into_data(), &device)),
        penultimate: seen.penultimate.map(raised),
        face: seen.face.map(|t| Tensor::from_data(t.into_data(), &device)),
    };
    let mask = Mask::new(
        [64, 64],
        (0..64 * 64).map(|at| (at % 3) as f32 / 2.0).collect(),
    );
    for (variant, parameters) in [
        ("base", 36),
        ("plus", 83),
        ("full", 38),
        ("faceid-plus-2", 88),
    ] {
        let adapter = common::open_on(variant, &device).unfreeze();
        let loss = || {
            let tokens = adapter.image_tokens(&seen).unwrap();
            let stream = adapter.stream(tokens).weighted(0.7).masked(mask.clone());
            let text = Tensor::zeros([2, 4, 128], &device);
            let latent = Tensor::ones([2, 4, 8, 8], &device);
            let conditioning = Conditioning::text(text).with(stream);
            let noise = unet.forward(latent, 500.0, &conditioning);
            noise.square().mean()
        };
        let reached = GradientsParams::from_grads(loss().backward(), &adapter);
        assert_eq!(reached.len(), parameters, "{variant}");
        assert_eq!(
            GradientsParams::from_grads(loss().backward(), &unet).len(),
            0
        );
    }
}
