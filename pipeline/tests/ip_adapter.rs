//! Pictures with IP-Adapters against diffusers' own, and portraits against their cache.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use clip_vision::Fit;
use image::{Rgb, RgbImage};
use ip_adapter::{FaceIdPlus, Uncond};
use parity::{Fixture, device, reference, relative_error, values};
use sd_pipeline::{
    AdapterFile, Faces, Generated, ImagePrompt, InitImage, LazyImageEncoder, OpenOptions,
    PipelineError, Portrait, PortraitCache, PortraitNote, Portraits, Reference, Request,
    StableDiffusion, mask_of,
};
use serde::Deserialize;

const DTYPE: FloatDType = FloatDType::F32;

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
    loras: Vec<(String, f64)>,
    init_image: Option<String>,
    strength: Option<f64>,
    count: usize,
    files: Vec<String>,
    adapters: Vec<Adapter>,
}

#[derive(Deserialize)]
struct Adapter {
    file: String,
    images: Vec<String>,
    faces: Option<String>,
    version: Option<u8>,
    scale: f64,
    start: f64,
    end: f64,
    weights: Option<String>,
    masks: Vec<String>,
    combine: String,
    negative: Option<String>,
    uncond: String,
    fit: String,
}

fn folder() -> PathBuf {
    reference().join("ip-adapter")
}

fn picture(path: &Path) -> RgbImage {
    image::open(path).expect("a reference picture").into_rgb8()
}

fn given(name: &str) -> RgbImage {
    picture(&folder().join(name))
}

fn plain() -> StableDiffusion {
    let options = OpenOptions::default();
    StableDiffusion::open(reference().join("tiny-sd"), &options, DTYPE, &device())
        .expect("the small reference model")
}

fn adapter(file: &str) -> AdapterFile {
    open_adapter(file, None).expect("an adapter")
}

fn open_adapter(file: &str, version: Option<u8>) -> Result<AdapterFile, PipelineError> {
    let version = version.map(|version| match version {
        1 => FaceIdPlus::V1,
        _ => FaceIdPlus::V2 { scale: 1.0 },
    });
    AdapterFile::open(folder().join(file), version, DTYPE, &device())
}

fn encoder(cache: Option<&PortraitCache>) -> LazyImageEncoder<'_> {
    LazyImageEncoder::new(folder().join("image_encoder"), cache, DTYPE, &device())
        .expect("the image encoder")
}

fn of(picture: &RgbImage) -> Reference<'_> {
    Reference {
        picture: Some(picture),
        face: None,
    }
}

fn drawn(model: &StableDiffusion, request: &Request) -> Result<Generated, PipelineError> {
    model.generate(request, |_| ControlFlow::Continue(()))
}

impl Adapter {
    fn prompt(&self, file: &AdapterFile, encoder: &LazyImageEncoder<'_>) -> ImagePrompt {
        let sees = !self.images.is_empty();
        let portraits = Portraits::new(file, sees.then_some(encoder), None).unwrap();
        let images: Vec<RgbImage> = self.images.iter().map(|name| given(name)).collect();
        let faces = self.faces.as_ref();
        let faces = faces.map(|name| Faces::open(folder().join(name)).unwrap());
        let faces: Vec<&[f32]> = faces.iter().flat_map(Faces::iter).collect();
        let references: Vec<Reference<'_>> = (0..images.len().max(faces.len()))
            .map(|at| Reference {
                picture: images.get(at),
                face: faces.get(at).copied(),
            })
            .collect();
        let fit = match self.fit.as_str() {
            "crop" => Fit::Crop,
            "squash" => Fit::Squash,
            "pad" => Fit::Pad(Rgb([0; 3])),
            other => panic!("{other}"),
        };
        let made: Vec<Portrait> = match self.combine.as_str() {
            "concat" => references
                .iter()
                .map(|reference| portraits.of(&[*reference], fit).unwrap())
                .collect(),
            "average" => vec![portraits.of(&references, fit).unwrap()],
            other => panic!("{other}"),
        };
        let negative = match &self.negative {
            Some(name) => portraits.negative(&given(name), fit),
            None => portraits.unconditional(self.uncond.parse().unwrap()),
        };
        ImagePrompt {
            scale: self.scale,
            start: self.start,
            end: self.end,
            weights: self.weights.as_ref().map(|text| text.parse().unwrap()),
            masks: self
                .masks
                .iter()
                .map(|name| mask_of(&given(name)))
                .collect(),
            ..ImagePrompt::new(made, negative.unwrap())
        }
    }
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
            init: self.init_image.as_ref().map(|file| InitImage {
                picture: picture(&reference().join("pictures").join(file)),
                strength: self.strength.expect("a strength beside the picture"),
            }),
            ..Request::default()
        }
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
    let json = fs::read_to_string(folder().join("pictures/pictures.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&json).unwrap();
    assert!(cases.len() >= 50);
    let latents = Fixture::open(folder().join("pictures/latents.safetensors"));
    let (plain, encoder) = (plain(), encoder(None));
    let mut failures = vec![];
    for case in &cases {
        let mut model = plain.clone();
        for (file, strength) in &case.loras {
            let lora = lora_core::Lora::open(reference().join("lora").join(file)).unwrap();
            model = model.with_lora(&lora, *strength).unwrap();
        }
        let mut request = case.request();
        for adapter in &case.adapters {
            let file = open_adapter(&adapter.file, adapter.version).unwrap();
            model = model.with_adapter(&file).unwrap();
            request.image_prompts.push(adapter.prompt(&file, &encoder));
        }
        let made = drawn(&model, &request).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(made.pictures.len(), case.files.len());
        let latent = relative_error(&values(made.latents), latents.float(&case.name).1);
        for (ours, file) in made.pictures.iter().zip(&case.files) {
            let theirs = picture(&folder().join("pictures").join(file));
            let (mean, most) = difference(ours, &theirs);
            println!(
                "{:22} latent {latent:.1e}  mean {mean:.4}  99 % {most}",
                case.name
            );
            if mean > 0.1 || most > 1 || latent > 1e-3 {
                failures.push(file);
            }
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// A request of two steps, small enough for many.
fn small(prompts: Vec<ImagePrompt>) -> Request {
    Request {
        prompt: "a girl".into(),
        steps: 2,
        width: 64,
        height: 64,
        image_prompts: prompts,
        ..Request::default()
    }
}

/// A portrait of the plus adapter, and what guidance compares it with.
fn mira() -> (AdapterFile, ImagePrompt) {
    let file = adapter("ip-adapter-plus.safetensors");
    let encoder = encoder(None);
    let portraits = Portraits::new(&file, Some(&encoder), None).unwrap();
    let portrait = portraits
        .of(&[of(&given("portrait.png"))], Fit::Crop)
        .unwrap();
    let prompt = ImagePrompt::new(
        vec![portrait],
        portraits.unconditional(Uncond::Reference).unwrap(),
    );
    (file.clone(), prompt)
}

#[test]
fn an_adapter_that_does_nothing_changes_nothing() {
    let (model, (_, mira)) = (plain(), mira());
    let alone = drawn(&model, &small(vec![])).unwrap();
    let black = mask_of(&RgbImage::new(64, 64));
    for silent in [
        ImagePrompt {
            scale: 0.0,
            ..mira.clone()
        },
        ImagePrompt {
            weights: Some("3:0".parse().unwrap()),
            ..mira.clone()
        },
        ImagePrompt {
            masks: vec![black],
            ..mira.clone()
        },
    ] {
        let beside = drawn(&model, &small(vec![silent])).unwrap();
        assert_eq!(values(beside.latents), values(alone.latents.clone()));
    }
    let beside = drawn(&model, &small(vec![mira])).unwrap();
    assert_ne!(values(beside.latents), values(alone.latents));
}

#[test]
fn a_white_mask_is_no_mask_and_one_mask_is_for_all_references() {
    let (model, (_, mira)) = (plain(), mira());
    let white = mask_of(&RgbImage::from_pixel(64, 64, Rgb([255; 3])));
    let twice = ImagePrompt {
        references: vec![mira.references[0].clone(), mira.references[0].clone()],
        ..mira.clone()
    };
    let masked = ImagePrompt {
        masks: vec![white],
        ..twice.clone()
    };
    let [one, two, masked] = [mira, twice, masked]
        .map(|prompt| values(drawn(&model, &small(vec![prompt])).unwrap().latents));
    // The same reference twice is attended to as if it were there once.
    assert!(relative_error(&two, &one) < 1e-5);
    assert!(relative_error(&masked, &two) < 1e-5);
}

#[test]
fn a_portrait_is_for_every_picture_of_a_batch() {
    let (model, (_, mira)) = (plain(), mira());
    for cfg in [1.0, 7.0] {
        let of = |count| {
            let request = Request {
                cfg,
                count,
                ..small(vec![mira.clone()])
            };
            drawn(&model, &request).unwrap().latents
        };
        let (one, two) = (values(of(1)), values(of(2).narrow(0, 0, 1)));
        assert!(relative_error(&two, &one) < 1e-5, "cfg {cfg}");
    }
}

#[test]
fn the_steps_of_an_adapter_are_counted_as_diffusers_counts_a_controlnets() {
    let (_, mira) = mira();
    let (model, count) = (plain(), 2);
    let half = |start, end| ImagePrompt {
        start,
        end,
        ..mira.clone()
    };
    let run = |prompts| values(drawn(&model, &small(prompts)).unwrap().latents);
    let both = run(vec![half(0.0, 0.5), half(0.5, 1.0)]);
    assert_eq!(both, run(vec![mira.clone()]));
    assert_ne!(run(vec![half(0.0, 0.5)]), run(vec![half(0.5, 1.0)]));
    let never = small(vec![half(0.1, 0.4)]);
    let error = drawn(&model, &never).unwrap_err().to_string();
    assert!(
        error.contains(&format!("at least one whole step of {count}")),
        "{error}"
    );
}

#[test]
fn values_out_of_their_range_are_refused_by_name() {
    let (model, (_, mira)) = (plain(), mira());
    let mask = |width, height| mask_of(&RgbImage::new(width, height));
    for (prompt, told) in [
        (
            ImagePrompt {
                scale: f64::NAN,
                ..mira.clone()
            },
            "--ip-scale is NaN",
        ),
        (
            ImagePrompt {
                scale: 11.0,
                ..mira.clone()
            },
            "--ip-scale is 11",
        ),
        (
            ImagePrompt {
                start: 0.6,
                end: 0.5,
                ..mira.clone()
            },
            "--ip-start is 0.6; no more than --ip-end, which is 0.5",
        ),
        (
            ImagePrompt {
                end: 1.5,
                ..mira.clone()
            },
            "--ip-end is 1.5",
        ),
        (
            ImagePrompt {
                masks: vec![mask(64, 32)],
                ..mira.clone()
            },
            "a mask of 64x32 pixels; the picture's size, 64x64,",
        ),
        (
            ImagePrompt {
                masks: vec![mask(64, 64), mask(64, 64)],
                ..mira.clone()
            },
            "--ip-mask is 2 masks",
        ),
        (
            ImagePrompt {
                weights: Some("16:1".parse().unwrap()),
                ..mira.clone()
            },
            "there is no layer 16",
        ),
        (
            ImagePrompt {
                references: vec![],
                ..mira.clone()
            },
            "--ip-image",
        ),
        (
            ImagePrompt {
                references: vec![Portrait {
                    layers: mira.references[0].layers[1..].to_vec(),
                }],
                ..mira.clone()
            },
            "an adapter for this model's UNet",
        ),
    ] {
        let error = drawn(&model, &small(vec![prompt])).unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
}

#[test]
fn a_reference_has_what_the_adapter_takes() {
    let (image, face) = (given("portrait.png"), [0.5; 32]);
    let shown = Reference {
        picture: Some(&image),
        face: Some(&face),
    };
    let seen = |face| Reference {
        picture: None,
        face: Some(face),
    };
    let encoder = encoder(None);
    let (base, faceid) = (
        adapter("ip-adapter.safetensors"),
        adapter("ip-adapter-faceid.bin"),
    );
    let plus = open_adapter("ip-adapter-faceid-plus.bin", Some(2)).unwrap();
    let base = Portraits::new(&base, Some(&encoder), None).unwrap();
    let faces = Portraits::new(&faceid, None, None).unwrap();
    let both = Portraits::new(&plus, Some(&encoder), None).unwrap();
    for (portraits, reference, told) in [
        (&base, shown, "takes pictures; a face embedding was given"),
        (
            &base,
            Reference::default(),
            "takes pictures; no picture was given",
        ),
        (
            &faces,
            shown,
            "takes face embeddings of 32 numbers; a picture was given",
        ),
        (
            &faces,
            seen(&face[1..]),
            "takes face embeddings of 32 numbers; a face embedding of 31 numbers was given",
        ),
        (
            &both,
            of(&image),
            "for each a face embedding of 32 numbers; no face embedding was given",
        ),
    ] {
        let error = portraits
            .of(&[reference], Fit::Crop)
            .unwrap_err()
            .to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
    let error = Portraits::new(&plus, None, None).unwrap_err().to_string();
    assert!(error.contains("--image-encoder"), "{error}");
    let error = Portraits::new(&faceid, Some(&encoder), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("leave --image-encoder"), "{error}");
}

#[test]
fn a_portrait_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let (place, kept) = (dir.path().join("vit"), dir.path().join("kept"));
    copy(&folder().join("image_encoder"), &place);
    let plus = adapter("ip-adapter-plus.safetensors");
    let image = given("wide.png");
    let run = |fit| {
        let cache = PortraitCache::open(&kept)?;
        let encoder = LazyImageEncoder::new(&place, Some(&cache), DTYPE, &device())?;
        let portraits = Portraits::new(&plus, Some(&encoder), Some(&cache))?;
        let made = [
            portraits.of(&[of(&image)], fit)?,
            portraits.unconditional(Uncond::Reference)?,
        ];
        let numbers = made.into_iter().flat_map(|portrait| portrait.layers);
        let numbers = numbers.flat_map(|layer| [values(layer.key), values(layer.value)]);
        let numbers: Vec<Vec<f32>> = numbers.collect();
        Ok::<_, PipelineError>((numbers, encoder.is_loaded(), cache.take_notes()))
    };
    let (first, loaded, notes) = run(Fit::Crop).unwrap();
    assert!(loaded && notes.is_empty());
    let (second, loaded, notes) = run(Fit::Crop).unwrap();
    assert!(!loaded && notes.is_empty());
    assert!(first == second);

    // Another fit is another portrait, and the unconditional one is there already.
    let (squashed, loaded, _) = run(Fit::Squash).unwrap();
    assert!(loaded && squashed != first);
    assert_eq!(entries(&kept).len(), 3);

    // The encoder is gone: what was made is there, and nothing else.
    let away = dir.path().join("away");
    fs::rename(&place, &away).unwrap();
    let (third, loaded, notes) = run(Fit::Crop).unwrap();
    assert!(!loaded && third == first);
    assert_eq!(
        notes,
        [PortraitNote::EncoderAbsent {
            path: place.clone()
        }]
    );
    let error = run(Fit::Pad(Rgb([0; 3]))).unwrap_err();
    assert!(
        matches!(error, PipelineError::EncoderAbsent { .. }),
        "{error}"
    );

    // Or its weights alone are gone.
    fs::rename(&away, &place).unwrap();
    let weights = place.join("model.safetensors");
    let kept_weights = dir.path().join("weights");
    fs::rename(&weights, &kept_weights).unwrap();
    let (third, loaded, notes) = run(Fit::Crop).unwrap();
    assert!(!loaded && third == first);
    assert_eq!(
        notes,
        [PortraitNote::EncoderAbsent {
            path: place.clone()
        }]
    );
    fs::rename(&kept_weights, &weights).unwrap();

    // Without its settings it is another one, and so with other weights.
    let settings = place.join("preprocessor_config.json");
    let text = fs::read(&settings).unwrap();
    fs::remove_file(&settings).unwrap();
    let (_, loaded, _) = run(Fit::Crop).unwrap();
    assert!(loaded);
    fs::write(&settings, text).unwrap();
    let (_, loaded, _) = run(Fit::Crop).unwrap();
    assert!(!loaded);
    assert_eq!(entries(&kept).len(), 5);
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let (_, loaded, _) = run(Fit::Crop).unwrap();
    assert!(loaded);
    assert_eq!(entries(&kept).len(), 7);
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cache = PortraitCache::open(dir.path()).unwrap();
    let (plus, image) = (
        adapter("ip-adapter-plus.safetensors"),
        given("portrait.png"),
    );
    let run = || {
        let encoder = encoder(Some(&cache));
        let portraits = Portraits::new(&plus, Some(&encoder), Some(&cache)).unwrap();
        let portrait = portraits.of(&[of(&image)], Fit::Crop).unwrap();
        (
            values(portrait.layers[3].value.clone()),
            encoder.is_loaded(),
        )
    };
    let (first, _) = run();
    let [entry] = &entries(dir.path())[..] else {
        panic!("one entry");
    };
    let whole = fs::read(entry).unwrap();
    let mut flipped = whole.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 64;
    for damaged in [
        &flipped[..],
        &whole[..whole.len() / 2],
        &whole[..3],
        b"",
        b"{}",
    ] {
        fs::write(entry, damaged).unwrap();
        let (again, loaded) = run();
        assert!(loaded && again == first);
        let notes = cache.take_notes();
        assert!(
            matches!(&notes[..], [PortraitNote::Damaged { path, .. }] if path == entry),
            "{notes:?}"
        );
        assert_eq!(fs::read(entry).unwrap(), whole);
        assert_eq!(run(), (first.clone(), false));
    }
    // What lies in the place of an entry and is no file cannot be replaced either.
    fs::remove_file(entry).unwrap();
    fs::create_dir(entry).unwrap();
    assert_eq!(run(), (first, true));
    let notes = cache.take_notes();
    assert!(
        matches!(
            &notes[..],
            [PortraitNote::Damaged { .. }, PortraitNote::NotKept { .. }]
        ),
        "{notes:?}"
    );
}

#[test]
fn a_cache_that_is_no_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("below")] {
        let error = PortraitCache::open(&bad).unwrap_err().to_string();
        assert!(error.contains("cannot be used for portraits"), "{error}");
    }
}

#[test]
fn faces_come_from_tensors_and_from_json() {
    let dir = tempfile::tempdir().unwrap();
    let held = Faces::open(folder().join("faces.safetensors")).unwrap();
    assert_eq!(
        (held.iter().len(), held.width(), held.not_normed()),
        (2, 32, None)
    );
    let first = Faces::open(folder().join("face.json")).unwrap();
    assert_eq!(first.iter().next(), held.iter().next());
    let write = |text: &str| {
        let path = dir.path().join("faces.json");
        fs::write(&path, text).unwrap();
        Faces::open(path)
    };
    let nested = write(" [[3.0, 4], [1, 0]]").unwrap();
    assert_eq!(nested.iter().collect::<Vec<_>>(), [[3.0, 4.0], [1.0, 0.0]]);
    assert_eq!(nested.not_normed(), Some((0, 5.0)));
    for (text, told) in [
        ("[]", "holds no number"),
        ("[[1], [1, 2]]", "lists of 1 and of 2 numbers"),
        ("[1, \"a\"]", "found \"a\""),
        ("[1, [2]]", "found [2]"),
        ("[1, 1e60]", "number 2 of face 1 is not finite"),
        ("[1, ", "a list of numbers"),
        ("{\"face\": [1]}", "is a JSON text"),
    ] {
        let error = write(text).unwrap_err().to_string();
        assert!(error.contains(told), "{text}: {error}");
    }
    let error = Faces::open(folder().join("ip-adapter.safetensors"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("36 tensors; one, of face embeddings,"),
        "{error}"
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The portraits in a cache.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    all.filter(|path| {
        path.extension()
            .is_some_and(|ending| ending == "safetensors")
    })
    .collect()
}
