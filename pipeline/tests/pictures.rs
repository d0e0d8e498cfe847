//! `generate` against diffusers' own pipelines, picture by picture, on the small random model.

use std::ops::ControlFlow;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor};
use image::RgbImage;
use parity::{Fixture, device, reference, relative_error, values};
use sd_diffusion::{PredictionType, SamplerKind};
use sd_pipeline::{
    Checkpoint, CheckpointOptions, Evaluations, InitImage, MatrixType, OpenOptions, PipelineError,
    Progress, Request, StableDiffusion, WeightsMemory,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    name: String,
    prompt: String,
    negative: Option<String>,
    sampler: String,
    schedule: String,
    steps: usize,
    cfg: f64,
    seed: u64,
    width: usize,
    height: usize,
    clip_skip: usize,
    loras: Vec<(String, f64)>,
    init_image: Option<String>,
    strength: Option<f64>,
    eta: Option<f64>,
    count: usize,
    prediction_type: PredictionType,
    files: Vec<String>,
}

fn open() -> StableDiffusion {
    let options = OpenOptions::default();
    StableDiffusion::open(
        reference().join("tiny-sd"),
        &options,
        FloatDType::F32,
        &device(),
    )
    .expect("the small reference model")
}

fn picture(path: &Path) -> RgbImage {
    image::open(path).expect("a reference picture").into_rgb8()
}

impl Case {
    fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone().unwrap_or_default(),
            sampler: self.sampler.parse().unwrap(),
            schedule: self.schedule.parse().unwrap(),
            steps: self.steps,
            cfg: self.cfg,
            seed: self.seed,
            width: self.width,
            height: self.height,
            count: self.count,
            clip_skip: self.clip_skip,
            eta: self.eta,
            init: self.init_image.as_ref().map(|file| InitImage {
                picture: picture(&reference().join("pictures").join(file)),
                strength: self.strength.expect("a strength beside the picture"),
            }),
            ..Request::default()
        }
    }

    fn model(&self, plain: &StableDiffusion) -> StableDiffusion {
        let mut model = plain.clone();
        model.scheduler.prediction_type = self.prediction_type;
        for (file, strength) in &self.loras {
            let lora = lora_core::Lora::open(reference().join("lora").join(file)).unwrap();
            model = model.with_lora(&lora, *strength).unwrap();
        }
        model
    }
}

/// Mean and 99th percentile of the difference of two pictures' values.
fn difference(ours: &RgbImage, theirs: &RgbImage) -> (f64, u8) {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let mut all: Vec<u8> = (ours.as_raw().iter().zip(theirs.as_raw()))
        .map(|(a, b)| a.abs_diff(*b))
        .collect();
    all.sort_unstable();
    let mean = all.iter().map(|&d| f64::from(d)).sum::<f64>() / all.len() as f64;
    (mean, all[all.len() * 99 / 100])
}

#[test]
fn every_picture_is_diffusers() {
    let json = std::fs::read_to_string(reference().join("pictures.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&json).unwrap();
    assert!(cases.len() >= 67);
    let (plain, latents) = (
        open(),
        Fixture::open(reference().join("pictures.safetensors")),
    );
    let mut failures = vec![];
    for case in &cases {
        let made = case
            .model(&plain)
            .generate(&case.request(), |_| ControlFlow::Continue(()))
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(made.pictures.len(), case.files.len());
        let latent = relative_error(&values(made.latents), latents.float(&case.name).1);
        for (ours, file) in made.pictures.iter().zip(&case.files) {
            let theirs = picture(&reference().join("pictures").join(file));
            let (mean, most) = difference(ours, &theirs);
            println!(
                "{:28} latent {latent:.1e}  mean {mean:.3}  99 % {most}",
                case.name
            );
            // Pictures alone would not tell euler from ddim; latents do.
            if mean > 0.1 || most > 1 || latent > 2e-3 {
                failures.push(file);
            }
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn a_value_out_of_its_range_is_refused_by_name() {
    let model = open();
    let good = Request {
        width: 64,
        height: 64,
        steps: 1,
        ..Request::default()
    };
    for (request, option) in [
        (
            Request {
                width: 60,
                ..good.clone()
            },
            "--width",
        ),
        (
            Request {
                height: 0,
                ..good.clone()
            },
            "--height",
        ),
        (
            Request {
                steps: 0,
                ..good.clone()
            },
            "--steps",
        ),
        (
            Request {
                count: 0,
                ..good.clone()
            },
            "--count",
        ),
        (
            Request {
                cfg: 0.5,
                ..good.clone()
            },
            "--cfg",
        ),
        (
            Request {
                cfg: f64::NAN,
                ..good.clone()
            },
            "--cfg",
        ),
        (
            Request {
                clip_skip: 99,
                ..good.clone()
            },
            "--clip-skip",
        ),
        (
            Request {
                cfg_start: -0.1,
                ..good.clone()
            },
            "--cfg-start",
        ),
        (
            Request {
                cfg_end: f64::NAN,
                ..good.clone()
            },
            "--cfg-end",
        ),
        (
            Request {
                cfg_start: 0.6,
                cfg_end: 0.4,
                ..good.clone()
            },
            "--cfg-start is 0.6; no more than --cfg-end, which is 0.4",
        ),
        (
            Request {
                cfg_end: 0.5,
                ..good.clone()
            },
            "at least one whole step of 1",
        ),
        (
            Request {
                cfg: 1.0,
                cfg_end: 0.5,
                ..good.clone()
            },
            "--cfg is 1; more than 1 with --cfg-start or --cfg-end",
        ),
        (
            Request {
                deep_cache: 0,
                ..good.clone()
            },
            "--deep-cache",
        ),
        (
            Request {
                deep_cache: 2,
                sampler: SamplerKind::Heun,
                ..good.clone()
            },
            "--deep-cache is 2; 1 with sampler heun",
        ),
        (
            Request {
                token_merging: 0.8,
                ..good.clone()
            },
            "--token-merging is 0.8; 0 to 0.75",
        ),
        (
            Request {
                eta: Some(0.5),
                ..good.clone()
            },
            "cannot take eta 0.5",
        ),
    ] {
        let error = model
            .generate(&request, |_| ControlFlow::Continue(()))
            .unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
}

#[test]
fn the_caller_can_break_off_after_any_step() {
    let request = Request {
        width: 64,
        height: 64,
        steps: 20,
        ..Request::default()
    };
    let mut heard = vec![];
    let result = open().generate(&request, |progress| {
        heard.push(progress);
        match progress {
            Progress::Step { done: 2, .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(result, Err(PipelineError::Stopped)));
    let steps = [1, 2].map(|done| Progress::Step { done, of: 20 });
    assert_eq!(heard, [Progress::Encoded, steps[0], steps[1]]);
}

/// What saves work really saves it, and draws a picture far nearer to the full computation's than another seed's is. (How near it comes with
/// a trained model, this random one cannot say: `examples/fewer_flops.rs` measures it.)
#[test]
fn less_work_gives_nearly_the_same_picture() {
    let model = open();
    let full = Request {
        prompt: "a portrait of mychar001, smiling".into(),
        seed: 42,
        steps: 20,
        width: 64,
        height: 64,
        ..Request::default()
    };
    let draw = |request: &Request| {
        let made = model.generate(request, |_| ControlFlow::Continue(()));
        let made = made.expect("a picture");
        (made.pictures[0].clone(), made.evaluations)
    };
    let (picture, work) = draw(&full);
    let other = Request {
        seed: 43,
        ..full.clone()
    };
    let (stranger, _) = difference(&draw(&other).0, &picture);
    assert!(stranger > 45.0, "{stranger}");
    let counts = |whole, shallow| Evaluations { whole, shallow };
    assert_eq!(work, counts(40, 0));
    for (name, request, expected, most) in [
        (
            "deep cache 2",
            Request {
                deep_cache: 2,
                ..full.clone()
            },
            counts(20, 20),
            20.0,
        ),
        (
            "deep cache 3",
            Request {
                deep_cache: 3,
                ..full.clone()
            },
            counts(14, 26),
            25.0,
        ),
        (
            "token merging 0.5",
            Request {
                token_merging: 0.5,
                ..full.clone()
            },
            counts(40, 0),
            25.0,
        ),
        (
            "guidance in the middle",
            Request {
                cfg_start: 0.2,
                cfg_end: 0.8,
                ..full.clone()
            },
            counts(32, 0),
            25.0,
        ),
        (
            // Where guidance begins and ends, the feature is made anew: after 4 steps and after 16.
            "all at once",
            Request {
                deep_cache: 3,
                token_merging: 0.5,
                cfg_start: 0.2,
                cfg_end: 0.8,
                ..full.clone()
            },
            counts(2 + 2 * 4 + 2, 2 + 2 * 8 + 2),
            35.0,
        ),
    ] {
        let (other, work) = draw(&request);
        let (mean, _) = difference(&other, &picture);
        println!("{name}: {work:?}, mean difference {mean:.2} of 255");
        assert_eq!(work, expected, "{name}");
        assert!(mean > 0.0 && mean < most, "{name}: {mean}");
        assert_eq!(draw(&request).0, other, "{name}");
    }
}

#[test]
fn weights_kept_in_16_bits_draw_the_same() {
    let open_with = |unet_matrices| {
        let options = OpenOptions {
            unet_matrices,
            ..OpenOptions::default()
        };
        let folder = reference().join("tiny-sd");
        StableDiffusion::open(folder, &options, FloatDType::F32, &device()).unwrap()
    };
    let (kept, widened) = (open_with(MatrixType::Stored), open());
    struct Halves(usize);
    impl ModuleVisitor for Halves {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 += usize::from(param.val().dtype() == DType::F16);
        }
    }
    let halves = |model: &StableDiffusion| {
        let (mut unet, mut vae) = (Halves(0), Halves(0));
        model.unet.visit(&mut unet);
        model.vae.visit(&mut vae);
        [unet.0, vae.0]
    };
    assert_eq!(halves(&widened), [0, 0]);
    let all = halves(&kept);
    assert!(all[0] > 200 && all[1] > 20, "{all:?}");

    let request = Request {
        prompt: "a portrait, smiling".into(),
        steps: 3,
        seed: 5,
        width: 64,
        height: 64,
        ..Request::default()
    };
    let draw = |model: &StableDiffusion| {
        let drawn = model.generate(&request, |_| ControlFlow::Continue(()));
        values(drawn.unwrap().latents)
    };
    assert_eq!(draw(&kept), draw(&widened));

    // The VAE's both halves, too.
    let begun = Request {
        init: Some(InitImage {
            picture: picture(&reference().join("pictures").join("init.png")),
            strength: 0.7,
        }),
        ..request.clone()
    };
    let finished = |model: &StableDiffusion| {
        let drawn = model.generate(&begun, |_| ControlFlow::Continue(()));
        let drawn = drawn.unwrap();
        (values(drawn.latents), drawn.pictures)
    };
    assert_eq!(finished(&kept), finished(&widened));

    // A LoRA is added in full precision.
    let lora = lora_core::Lora::open(reference().join("lora").join("kohya.safetensors")).unwrap();
    let (kept, widened) = (
        kept.with_lora(&lora, 0.6).unwrap(),
        widened.with_lora(&lora, 0.6).unwrap(),
    );
    assert!(halves(&kept)[0] < all[0] && halves(&kept)[0] > 0);
    assert_eq!(draw(&kept), draw(&widened));

    // Rounded where the file has more.
    let rounded = open_with(MatrixType::As(FloatDType::BF16));
    assert!(relative_error(&draw(&rounded), &draw(&open())) < 0.2);
}

/// As on a GPU: weights and activations of 16 bits, with the sampler's arithmetic and the VAE in 32.
#[test]
fn computing_in_16_bits_draws_nearly_the_same() {
    let lora = lora_core::Lora::open(reference().join("lora").join("kohya.safetensors")).unwrap();
    let request = Request {
        prompt: "a (portrait:1.2), smiling".into(),
        negative: "blurry".into(),
        steps: 3,
        seed: 5,
        width: 64,
        height: 72,
        count: 2,
        ..Request::default()
    };
    let draw = |dtype, request: &Request| {
        let folder = reference().join("tiny-sd");
        let model =
            StableDiffusion::open(folder, &OpenOptions::default(), dtype, &device()).unwrap();
        let model = model.with_lora(&lora, 0.6).unwrap();
        let drawn = model.generate(request, |_| ControlFlow::Continue(()));
        values(drawn.unwrap().latents)
    };
    let cached = Request {
        deep_cache: 2,
        ..request.clone()
    };
    // Which positions are alike is another choice wherever two are nearly as alike.
    let merged = Request {
        token_merging: 0.5,
        ..request.clone()
    };
    for (request, more) in [(&request, 1.0), (&cached, 1.0), (&merged, 20.0)] {
        let wide = draw(FloatDType::F32, request);
        for (dtype, most) in [(FloatDType::F16, 0.02), (FloatDType::BF16, 0.15)] {
            let error = relative_error(&draw(dtype, request), &wide);
            println!("{dtype:?}: {error:e}");
            assert!(error > 0.0 && error < more * most, "{dtype:?}: {error:e}");
        }
    }
}

#[test]
fn tiles_decode_a_picture_much_like_it_is() {
    let model = open();
    let whole = Request {
        prompt: "a portrait, smiling".into(),
        steps: 3,
        seed: 5,
        width: 96,
        height: 64,
        ..Request::default()
    };
    let draw = |request: &Request| model.generate(request, |_| ControlFlow::Continue(()));
    let picture = |vae_tile| {
        let request = Request {
            vae_tile,
            ..whole.clone()
        };
        draw(&request).unwrap().pictures.remove(0)
    };
    let full = picture(0);
    assert_eq!(picture(96), full);
    let (mean, _) = difference(&picture(64), &full);
    assert!(mean > 0.0 && mean < 25.0, "{mean}");
    // A picture to begin with is read in tiles too.
    let begun = |vae_tile| {
        let request = Request {
            vae_tile,
            init: Some(InitImage {
                picture: full.clone(),
                strength: 0.4,
            }),
            ..whole.clone()
        };
        let latents = draw(&request).unwrap().latents;
        latents.into_data().iter::<f32>().collect::<Vec<f32>>()
    };
    let apart = relative_error(&begun(64), &begun(0));
    assert!(apart > 1e-4 && apart < 0.5, "{apart}");
    let odd = Request {
        vae_tile: 50,
        ..whole.clone()
    };
    let error = draw(&odd).unwrap_err().to_string();
    assert!(
        error.contains("vae-tile") && error.contains("50"),
        "{error}"
    );
}

#[test]
fn memory_is_told_before_it_is_taken() {
    let folder = reference().join("tiny-sd");
    let checkpoint = Checkpoint::open(folder, &CheckpointOptions::default()).unwrap();
    let weights = |unet_matrices| {
        let options = OpenOptions {
            unet_matrices,
            ..OpenOptions::default()
        };
        WeightsMemory::of(&checkpoint, &options, FloatDType::F32)
    };
    let model = open();
    let numbers =
        model.unet.num_params() + model.text_encoder.num_params() + model.vae.num_params();
    let whole = weights(MatrixType::Computed);
    assert_eq!(whole.total(), 4 * numbers as u64);
    assert_eq!(whole.vae, 4 * model.vae.num_params() as u64);
    let short = weights(MatrixType::As(FloatDType::F16));
    assert_eq!(weights(MatrixType::Stored), short);
    assert!(short.total() < whole.total() && short.total() > 2 * numbers as u64);

    let request = |side, vae_tile, count| Request {
        width: side,
        height: side,
        vae_tile,
        count,
        ..Request::default()
    };
    let drawing = |side, vae_tile| {
        let request = request(side, vae_tile, 1);
        whole.to_draw(&request) - whole.total()
    };
    assert_eq!(drawing(1024, 0), 4 * drawing(512, 0));
    assert!(drawing(1024, 512) < drawing(1024, 0));
    assert_eq!(drawing(256, 512), drawing(256, 0));
    // Drawn once, the other parts' weights are gone when the picture is decoded.
    let one = request(512, 0, 1);
    assert_eq!(
        whole.to_draw(&one) - whole.to_draw_once(&one),
        whole.text_encoder + whole.unet
    );
    assert!(whole.to_draw_once(&request(64, 0, 16)) > whole.total());
}
