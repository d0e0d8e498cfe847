//! `samecast generate --ip-adapter`: the pictures are diffusers', portraits are made once, and wrong input is one clear error.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    Run, change, change_json, copy, difference, folder, names, pixels, quick, samecast, text, tiny,
    with,
};
use image::{GrayImage, RgbImage};
use parity::reference;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn given(name: &str) -> PathBuf {
    reference().join("ip-adapter").join(name)
}

/// A JSON value as the command line has it.
fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_string)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The arguments of a case of diffusers' pictures.
fn arguments(case: &Value, out: &Path) -> Vec<String> {
    let mut all = vec!["generate".to_string(), "--json".into()];
    let mut add = |option: &str, value: String| all.extend([format!("--{option}"), value]);
    add("model", text(&tiny()).into());
    add("out", text(out).into());
    for option in [
        "prompt", "negative", "sampler", "schedule", "steps", "cfg", "seed", "count", "width",
        "height",
    ] {
        add(option, word(&case[option]));
    }
    if !case["init_image"].is_null() {
        let init = reference().join("pictures").join(word(&case["init_image"]));
        add("init-image", text(&init).into());
        add("strength", word(&case["strength"]));
    }
    for choice in list(&case["loras"]) {
        let file = reference().join("lora").join(word(&choice[0]));
        add("lora", format!("{}:{}", text(&file), choice[1]));
    }
    for adapter in list(&case["adapters"]) {
        add("ip-adapter", text(&given(&word(&adapter["file"]))).into());
        // A scale is always said: it is 0.6 by default.
        add("ip-scale", word(&adapter["scale"]));
        for (option, value, default) in [
            ("ip-start", &adapter["start"], json!(0.0)),
            ("ip-end", &adapter["end"], json!(1.0)),
            ("ip-weights", &adapter["weights"], Value::Null),
            ("ip-combine", &adapter["combine"], json!("concat")),
            ("ip-uncond", &adapter["uncond"], json!("reference")),
            ("ip-fit", &adapter["fit"], json!("crop")),
            ("ip-face-version", &adapter["version"], Value::Null),
        ] {
            if *value != default {
                add(option, word(value));
            }
        }
        for (option, value) in [("ip-negative", "negative"), ("ip-face", "faces")] {
            if !adapter[value].is_null() {
                add(option, text(&given(&word(&adapter[value]))).into());
            }
        }
        for (option, value) in [("ip-image", "images"), ("ip-mask", "masks")] {
            for name in list(&adapter[value]) {
                add(option, text(&given(&word(name))).into());
            }
        }
    }
    if list(&case["adapters"]).any(|adapter| adapter["images"] != json!([])) {
        add("image-encoder", text(&given("image_encoder")).into());
    }
    all.push("--no-ip-cache".into());
    all
}

#[test]
fn pictures_are_diffusers() {
    let json = fs::read(given("pictures/pictures.json")).expect("the cases");
    let cases: Vec<Value> = serde_json::from_slice(&json).expect("a list of cases");
    for name in [
        "base",
        "base-0.5",
        "base-two",
        "base-mask",
        "base-lora",
        "base-blocks-5",
        "base-count-2",
        "base-img2img",
        "base-end",
        "plus",
        "plus-0.5",
        "plus-cfg-1",
        "plus-two-masks",
        "plus-lora",
        "plus-negative",
        "plus-comfy",
        "plus-pad",
        "full-face",
        "full-face-average",
        "base-and-plus",
        "plus-and-plus",
        "faceid",
        "faceid-plus-2",
        "faceid-and-base",
    ] {
        let case = cases.iter().find(|case| case["name"] == name);
        let case = case.unwrap_or_else(|| panic!("no case `{name}`"));
        let dir = folder();
        let run = samecast(arguments(case, &dir.path().join("a.png"))).done();
        let told = run.json();
        let ours: Vec<String> = list(&told["files"]).map(word).collect();
        let theirs: Vec<String> = list(&case["files"]).map(word).collect();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            let theirs = pixels(&given("pictures").join(theirs));
            let (mean, high) = difference(&pixels(Path::new(ours)), &theirs);
            assert!(
                mean <= 0.1 && high <= 1,
                "{name}: mean {mean}, 99th percentile {high}"
            );
        }
    }
}

/// One run after another with the same things, which may be changed between them.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = folder();
        copy(&given("image_encoder"), &dir.path().join("encoder"));
        fs::create_dir(dir.path().join("made")).expect("a folder");
        for name in [
            "ip-adapter.safetensors",
            "portrait.png",
            "wide.png",
            "mask.png",
        ] {
            fs::copy(given(name), dir.path().join(name)).expect("a copy");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file there.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("a file");
    }

    /// Draws one picture; `{}` in an option stands for the folder, `{given}` for that of the references.
    fn draw(&self, options: &str) -> Run {
        self.draw_in("1", options)
    }

    fn draw_in(&self, steps: &str, options: &str) -> Run {
        let quick = quick(&tiny(), &self.path("made/a.png"));
        let mut arguments = with(quick, &["--steps", steps, "--json"]);
        arguments.extend(options.split_whitespace().map(|option| {
            option
                .replace("{given}", text(&given("")).trim_end_matches('/'))
                .replace("{}", text(self.dir.path()))
        }));
        samecast(arguments)
    }

    /// The base adapter with its encoder and a portrait, and more options.
    fn portrait(&self, options: &str) -> Run {
        self.draw(&format!("{PORTRAIT} {options}"))
    }

    #[track_caller]
    fn refused(&self, options: &str, told: &[&str]) {
        let run = self.draw(options);
        run.refused(told);
        assert_eq!(run.json()["status"], 2);
        let left = names(&self.path("made"));
        assert!(left.is_empty(), "{left:?}");
    }
}

const PORTRAIT: &str = "--ip-adapter {}/ip-adapter.safetensors --image-encoder {}/encoder --ip-image {}/portrait.png --ip-cache {}/cache";

#[test]
fn a_second_run_needs_no_image_encoder() {
    let bench = Bench::new();
    let draw = |options| {
        let told = bench.portrait(options).done().json();
        let opened = told["image_encoder_opened"].as_bool().expect("a flag");
        (
            fs::read(bench.path("made/a.png")).expect("a picture"),
            opened,
        )
    };
    let (first, opened) = draw("");
    assert!(opened);
    assert_eq!(draw(""), (first.clone(), false));
    fs::rename(bench.path("encoder"), bench.path("away")).expect("a move");
    assert_eq!(draw(""), (first.clone(), false));
    // Strength, steps, layers and masks are of the picture, not of the portrait.
    let (other, opened) = draw("--ip-scale 0.3 --ip-weights style --ip-mask {}/mask.png");
    assert!(!opened && other != first);

    let loud = PORTRAIT.replace("{}", text(bench.dir.path()));
    let mut arguments = quick(&tiny(), &bench.path("made/b.png"));
    arguments.retain(|argument| argument != "--quiet");
    arguments.extend(loud.split_whitespace().map(str::to_string));
    let told = samecast(arguments).done().stderr;
    assert!(
        told.contains("encoder is absent; its portraits come from the cache"),
        "{told}"
    );

    bench.portrait("--ip-image {}/wide.png").refused(&[
        "--image-encoder",
        "encoder: does not exist, and the cache has no portrait of this picture",
    ]);
    // Without the cache there is nothing to fall back on.
    fs::remove_dir_all(bench.path("cache")).expect("the cache");
    bench.portrait("").refused(&[text(&bench.path("encoder"))]);
    fs::rename(bench.path("away"), bench.path("encoder")).expect("a move");
    assert_eq!(draw(""), (first, true));
}

#[test]
fn a_damaged_portrait_is_made_anew() {
    let bench = Bench::new();
    let draw = || {
        let told = bench.portrait("").done().json();
        (
            fs::read(bench.path("made/a.png")).expect("a picture"),
            told["image_encoder_opened"] == true,
        )
    };
    let (first, _) = draw();
    for name in names(&bench.path("cache")) {
        if name.ends_with(".safetensors") {
            change(&bench.path("cache").join(name), |tensors| {
                tensors.values_mut().for_each(|tensor| tensor.bytes.fill(0));
            });
        }
    }
    assert_eq!(draw(), (first.clone(), true));
    assert_eq!(draw(), (first, false));
}

fn sha256(file: &Path) -> String {
    let digest = Sha256::digest(fs::read(file).expect("a file"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_part_that_an_adapter_sees_is_as_a_picture_of_that_part() {
    let bench = Bench::new();
    let whole = image::open(bench.path("wide.png"))
        .expect("a picture")
        .into_rgb8();
    assert_eq!(whole.dimensions(), (131, 87));
    // The middle square is 87 pixels wide; a quarter of it is 22, half of it 44.
    let part = image::imageops::crop_imm(&whole, 22, 22, 44, 44).to_image();
    part.save(bench.path("part.png")).expect("a file");
    let adapter = "--ip-adapter {}/ip-adapter.safetensors --image-encoder {}/encoder --no-ip-cache";
    let draw = |options: &str| {
        bench.draw(&format!("{adapter} {options}")).done();
        pixels(&bench.path("made/a.png"))
    };
    let cut = draw("--ip-image {}/wide.png --ip-region 0,0.25,0.5");
    assert_eq!(cut, draw("--ip-image {}/part.png"));
    assert_ne!(cut, draw("--ip-image {}/wide.png"));
}

#[test]
fn a_picture_says_what_it_was_steered_by() {
    let bench = Bench::new();
    let options = "--ip-image {}/wide.png --ip-mask {}/mask.png --ip-scale 0.8 --ip-end 0.75 --ip-weights 5:1,6:0.5";
    bench.draw_in("4", &format!("{PORTRAIT} {options}")).done();
    let out = bench.path("made/a.png");
    let decoder = png::Decoder::new(std::io::BufReader::new(
        fs::File::open(out).expect("a file"),
    ));
    let reader = decoder.read_info().expect("a PNG");
    let [parameters, record] = &reader.info().uncompressed_latin1_text[..] else {
        panic!("two texts");
    };
    let unit = "ControlNet 0: \"Module: ip-adapter-auto, Model: ip-adapter, Weight: 0.8, Guidance Start: 0, Guidance End: 0.75\"";
    assert!(parameters.text.contains(unit), "{}", parameters.text);
    let record: Value = serde_json::from_str(&record.text).expect("a JSON object");
    let path = |name: &str| bench.path(name).display().to_string();
    assert_eq!(
        record["ip_adapters"],
        json!([{
            "path": path("ip-adapter.safetensors"),
            "image_encoder": path("encoder"),
            "images": [path("portrait.png"), path("wide.png")],
            "face": null,
            "face_version": null,
            "scale": 0.8,
            "start": 0.0,
            "end": 0.75,
            "weights": "5:1,6:0.5",
            "masks": [path("mask.png")],
            "combine": "concat",
            "negative": null,
            "uncond": "reference",
            "fit": "crop",
            "region": null,
        }])
    );
    let hashes: Vec<(String, String)> = list(&record["files"])
        .map(|file| (word(&file["role"]), word(&file["sha256"])))
        .collect();
    for (role, name) in [
        ("ip_adapter", "ip-adapter.safetensors"),
        ("ip_image", "portrait.png"),
        ("ip_image", "wide.png"),
        ("ip_mask", "mask.png"),
        ("image_encoder", "encoder/model.safetensors"),
        ("image_encoder", "encoder/config.json"),
        ("image_encoder", "encoder/preprocessor_config.json"),
    ] {
        let one = (role.to_string(), sha256(&bench.path(name)));
        assert!(hashes.contains(&one), "{name}: {hashes:?}");
    }
    // A model alone is steered by nothing.
    bench.draw("").done();
    let reader = fs::read(bench.path("made/a.png")).expect("a picture");
    let text = String::from_utf8_lossy(&reader);
    assert!(text.contains("\"ip_adapters\":[]") && !text.contains("ControlNet"));
}

#[test]
fn that_face_id_is_non_commercial_is_told() {
    let bench = Bench::new();
    let mut arguments = quick(&tiny(), &bench.path("made/a.png"));
    arguments.retain(|argument| argument != "--quiet");
    let face = bench.path("face.json");
    fs::write(&face, json!(vec![2.0; 32]).to_string()).expect("a file");
    for more in [
        "--ip-adapter",
        text(&given("ip-adapter-faceid.bin")),
        "--ip-face",
        text(&face),
        "--no-ip-cache",
    ] {
        arguments.push(more.into());
    }
    let told = samecast(arguments).done().stderr;
    assert!(told.contains("non-commercial"), "{told}");
    assert!(told.contains("face embedding 1 has length 11.31"), "{told}");
}

/// Two characters by one FaceID file: its LoRA is on the model once.
#[test]
fn what_an_adapter_brings_for_the_model_is_put_on_once() {
    let bench = Bench::new();
    let draw = |scales: &[&str]| {
        let each = scales.iter().map(|scale| {
            format!("--ip-adapter {{given}}/ip-adapter-faceid.bin --ip-face {{given}}/face.json --ip-scale {scale} ")
        });
        let options: String = each.chain(["--no-ip-cache".to_string()]).collect();
        bench.draw_in("4", &options).done();
        pixels(&bench.path("made/a.png"))
    };
    let (mean, high) = difference(&draw(&["0.3", "0.3"]), &draw(&["0.6"]));
    assert!(
        mean <= 0.1 && high <= 1,
        "mean {mean}, 99th percentile {high}"
    );
}

#[test]
fn the_systems_folder_for_caches_may_be_of_no_use() {
    let bench = Bench::new();
    bench.file("file", "");
    let mut arguments = quick(&tiny(), &bench.path("made/a.png"));
    arguments.retain(|argument| argument != "--quiet");
    let options = PORTRAIT.replace("{}", text(bench.dir.path()));
    arguments.extend(options.split_whitespace().map(str::to_string).take(6));
    let mut command = common::program();
    command
        .args(arguments)
        .env("XDG_CACHE_HOME", bench.path("file"));
    command
        .env("HOME", bench.path("file"))
        .env("LOCALAPPDATA", bench.path("file"));
    let run = Run::from(command.output().expect("the program starts")).done();
    assert!(
        run.stderr.contains("note: no portrait is kept"),
        "{}",
        run.stderr
    );
}

#[test]
fn options_without_their_adapter() {
    let bench = Bench::new();
    for option in [
        "--ip-image {}/portrait.png",
        "--image-encoder {}/encoder",
        "--ip-scale 0.5",
        "--ip-mask {}/mask.png",
        "--ip-face {given}/face.json",
    ] {
        let name = option.split(' ').next().expect("an option");
        bench.refused(option, &[name, "give one by --ip-adapter FILE"]);
    }
    bench.refused("--ip-cache {}/cache", &["--ip-cache", "--ip-adapter FILE"]);
    bench.refused(
        "--ip-scale 0.5 --ip-adapter a --ip-image b --ip-adapter c --ip-image d",
        &["--ip-scale stands before the first of several --ip-adapter"],
    );
    bench.refused(
        "--ip-adapter a --ip-image b --ip-scale 0.5 --ip-scale 0.6",
        &["--ip-scale is given twice for a"],
    );
    bench.refused(
        "--ip-adapter {}/ip-adapter.safetensors --image-encoder {}/encoder",
        &[
            "ip-adapter.safetensors: no reference is given for it",
            "--ip-image",
        ],
    );
    bench.refused(
        "--ip-adapter {}/ip-adapter.safetensors --ip-image {}/portrait.png --no-ip-cache",
        &[
            "ip-adapter.safetensors is a base adapter",
            "--image-encoder",
        ],
    );
}

#[test]
fn numbers_out_of_their_range() {
    let bench = Bench::new();
    for (options, told) in [
        ("--ip-scale much", "--ip-scale"),
        (
            "--ip-scale nan",
            "a number from -10 to 10, such as 0.6, is expected",
        ),
        ("--ip-scale inf", "a number from -10 to 10"),
        ("--ip-scale 10.5", "a number from -10 to 10"),
        (
            "--ip-start -0.1",
            "a share of the steps, 0 to 1, is expected",
        ),
        ("--ip-end nan", "a share of the steps"),
        ("--ip-start 0.7 --ip-end 0.6", "--ip-start of"),
        (
            "--ip-start 0.2 --ip-end 0.3",
            "--ip-end is 0.3; at least one whole step of 1 between",
        ),
        ("--ip-weights styel", "`styel` is neither"),
        (
            "--ip-weights 16:1",
            "there is no layer 16; the UNet has layers 0 to 15",
        ),
        ("--ip-weights 1:nan", "`nan` in `1:nan` is no weight"),
        ("--ip-uncond mine", "`mine` is no unconditional input"),
        ("--ip-combine sum", "--ip-combine"),
        ("--ip-fit stretch", "--ip-fit"),
        ("--ip-region 0.5,0.5,0.6", "--ip-region"),
        ("--ip-face-version 1", "a version is for FaceID-Plus alone"),
        (
            "--ip-uncond comfy --ip-negative {}/wide.png",
            "--ip-uncond and --ip-negative",
        ),
        (
            "--ip-combine average --ip-mask {}/mask.png {}/mask.png",
            "2 masks for one mean",
        ),
        ("--ip-mask {}/mask.png {}/mask.png", "--ip-mask is 2 masks"),
    ] {
        bench.refused(&format!("{PORTRAIT} {options}"), &[told]);
    }
}

#[test]
fn adapters_that_are_none_or_do_not_fit() {
    let bench = Bench::new();
    let adapter = bench.path("ip-adapter.safetensors");
    let whole = fs::read(&adapter).expect("an adapter");
    let spoiled = |told: &[&str]| {
        bench.refused(
            PORTRAIT,
            &[&["--ip-adapter", text(&adapter)], told].concat(),
        );
        fs::write(&adapter, &whole).expect("the adapter");
    };
    for (bytes, told) in [
        (
            b"this is no adapter, but a text".to_vec(),
            "is neither a safetensors nor a PyTorch file",
        ),
        (vec![], "is empty"),
        (whole[..whole.len() / 2].to_vec(), "is cut short"),
        (
            fs::read(given("portrait.png")).expect("a picture"),
            "is neither",
        ),
        (
            fs::read(tiny().join("unet/diffusion_pytorch_model.safetensors")).expect("a UNet"),
            "is no IP-Adapter",
        ),
        (
            fs::read(common::lora("kohya")).expect("a LoRA"),
            "is no IP-Adapter",
        ),
        (
            fs::read(given("image_encoder/model.safetensors")).expect("an encoder"),
            "is no IP-Adapter",
        ),
    ] {
        bench.file("ip-adapter.safetensors", bytes);
        spoiled(&[told]);
    }
    fs::remove_file(&adapter).expect("the adapter");
    spoiled(&["cannot be read"]);

    let pickle = reference().join("../../pipeline/tests/reference/malicious.ckpt");
    fs::copy(pickle, &adapter).expect("the pickle that calls");
    spoiled(&["asks Python to call"]);

    // A renamed, a missing and an extra tensor.
    let (key, other) = (
        "ip_adapter.31.to_k_ip.weight",
        "ip_adapter.31.to_k_ip.wieght",
    );
    change(&adapter, |tensors| {
        let tensor = tensors.remove(key).expect("the key");
        tensors.insert(other.into(), tensor);
    });
    spoiled(&[&format!("`{key}`"), &format!("`{other}`")]);
    change(&adapter, |tensors| {
        drop(tensors.remove("image_proj.norm.bias"))
    });
    spoiled(&["lacks `image_proj.norm.bias`"]);
    change(&adapter, |tensors| {
        let tensor = tensors[key].clone();
        tensors.insert("ip_adapter.33.to_q_ip.weight".into(), tensor);
    });
    spoiled(&["`ip_adapter.33.to_q_ip.weight`"]);
    change(&adapter, |tensors| {
        let tensor = tensors
            .get_mut("ip_adapter.5.to_v_ip.weight")
            .expect("the key");
        tensor.shape[1] -= 1;
        tensor.bytes.truncate(2 * tensor.shape[0] * tensor.shape[1]);
    });
    spoiled(&["`ip_adapter.5.to_v_ip.weight`", "[32, 127]", "[32, 128]"]);
    change(&adapter, |tensors| {
        tensors.get_mut(key).expect("the key").bytes[..2].copy_from_slice(&[0, 0x7e]);
    });
    spoiled(&[&format!("`{key}`"), "no finite numbers"]);

    // For Stable Diffusion XL, whose text has 2048 channels and whose UNet has 70 cross-attention layers.
    change(&adapter, |tensors| {
        for (name, tensor) in tensors.iter_mut() {
            if name.ends_with("_ip.weight") {
                tensor.shape[1] = 2048;
                tensor.bytes = vec![0; 2 * 2048 * tensor.shape[0]];
            } else if name.starts_with("image_proj.proj.") {
                tensor.shape[0] = 4 * 2048;
                tensor.bytes = vec![0; 2 * tensor.shape.iter().product::<usize>()];
            } else {
                tensor.shape = vec![2048];
                tensor.bytes = vec![0; 2 * 2048];
            }
        }
    });
    spoiled(&["Stable Diffusion XL"]);
    // For another UNet of the same text.
    change(&adapter, |tensors| {
        for name in ["ip_adapter.1.to_k_ip.weight", "ip_adapter.1.to_v_ip.weight"] {
            let tensor = tensors.get_mut(name).expect("the key");
            tensor.shape[0] *= 2;
            tensor.bytes.extend(tensor.bytes.clone());
        }
    });
    bench.refused(
        PORTRAIT,
        &[
            "does not fit the model's UNet",
            "ip_adapter.1.to_k_ip.weight",
        ],
    );
}

#[test]
fn pictures_and_masks_that_are_none() {
    let bench = Bench::new();
    let png = fs::read(given("portrait.png")).expect("a picture");
    bench.file("text.png", "this is no picture");
    bench.file("cut.png", &png[..png.len() / 2]);
    bench.file("empty.png", "");
    for (option, rest) in [
        ("--ip-image", ""),
        ("--ip-mask", ""),
        ("--ip-negative", ""),
        ("--ip-image", "--ip-image {}/portrait.png"),
    ] {
        for name in ["text.png", "cut.png", "empty.png", "missing.png", "encoder"] {
            let options = format!("{PORTRAIT} {option} {{}}/{name} {rest}");
            bench.refused(
                &options,
                &[option, text(&bench.path(name)), "is no picture"],
            );
        }
    }
    GrayImage::new(64, 32)
        .save(bench.path("low.png"))
        .expect("a mask");
    RgbImage::new(128, 64)
        .save(bench.path("wide-mask.png"))
        .expect("a mask");
    for (name, size) in [("low.png", "64x32"), ("wide-mask.png", "128x64")] {
        bench.refused(
            &format!("{PORTRAIT} --ip-mask {{}}/{name}"),
            &["--ip-mask", &format!("a mask of {size} pixels"), "64x64"],
        );
    }
}

#[test]
fn image_encoders_that_are_none_or_another() {
    let bench = Bench::new();
    let encoder = bench.path("encoder");
    let spoiled = |told: &[&str]| {
        bench.refused(PORTRAIT, told);
        copy(&given("image_encoder"), &encoder);
    };
    // The base adapter takes embeddings of 48, this encoder gives 40.
    change_json(&encoder.join("config.json"), |config| {
        config["projection_dim"] = json!(40)
    });
    change(&encoder.join("model.safetensors"), |tensors| {
        let tensor = tensors
            .get_mut("visual_projection.weight")
            .expect("the key");
        tensor.shape[0] = 40;
        tensor.bytes.truncate(2 * 40 * 80);
    });
    spoiled(&[
        "image embeddings of width 48",
        "width 40",
        "use the image encoder",
    ]);
    change(&encoder.join("model.safetensors"), |tensors| {
        let key = "vision_model.pre_layrnorm.weight";
        let tensor = tensors.remove(key).expect("the key");
        tensors.insert("vision_model.pre_layernorm.weight".into(), tensor);
    });
    spoiled(&["`vision_model.pre_layrnorm.weight`"]);
    // The published base adapter takes embeddings of 1024.
    change(&bench.path("ip-adapter.safetensors"), |tensors| {
        let tensor = tensors.get_mut("image_proj.proj.weight").expect("the key");
        tensor.shape[1] = 1024;
        tensor.bytes = vec![0; 2 * 512 * 1024];
    });
    spoiled(&[
        "image embeddings of width 1024",
        "width 48",
        "use the image encoder CLIP ViT-H/14",
    ]);
    fs::copy(
        given("ip-adapter.safetensors"),
        bench.path("ip-adapter.safetensors"),
    )
    .expect("a copy");
    fs::remove_file(encoder.join("model.safetensors")).expect("the weights");
    spoiled(&[text(&encoder)]);
    fs::remove_file(encoder.join("config.json")).expect("the settings");
    spoiled(&[text(&encoder)]);
    fs::write(encoder.join("config.json"), "{").expect("a file");
    spoiled(&["config.json"]);
    bench.refused(
        "--ip-adapter {}/ip-adapter.safetensors --image-encoder {}/none --ip-image {}/portrait.png --no-ip-cache",
        &[text(&bench.path("none"))],
    );
    bench.refused(
        "--ip-adapter {}/ip-adapter.safetensors --image-encoder {}/portrait.png --ip-image {}/portrait.png --no-ip-cache",
        &[text(&bench.path("portrait.png"))],
    );
}

#[test]
fn faces_that_are_none_or_do_not_fit() {
    let bench = Bench::new();
    let face = "--ip-adapter {given}/ip-adapter-faceid.bin --no-ip-cache --ip-face";
    bench.file("short.json", json!(vec![0.1; 31]).to_string());
    bench.file("words.json", "[\"a\", \"b\"]");
    bench.file("text.json", "no list");
    for (name, told) in [
        (
            "{}/short.json",
            "face embeddings of 32 numbers; a face embedding of 31 numbers was given",
        ),
        ("{}/words.json", "a list of numbers"),
        ("{}/text.json", "is neither"),
        ("{}/missing.json", "cannot be read"),
        (
            "{given}/ip-adapter.safetensors",
            "36 tensors; one, of face embeddings, is expected",
        ),
    ] {
        bench.refused(&format!("{face} {name}"), &[told]);
    }
    bench.refused(
        &format!("{face} {{given}}/face.json --ip-image {{}}/portrait.png"),
        &["FaceID adapter, which takes face embeddings of 32 numbers; a picture was given"],
    );
    bench.refused(
        &format!("{face} {{given}}/face.json --image-encoder {{}}/encoder"),
        &[
            "FaceID adapter, which sees face embeddings and no pictures",
            "--image-encoder",
        ],
    );
    bench.refused(
        &format!("{face} {{given}}/face.json --ip-fit pad"),
        &["--ip-fit"],
    );
    let two = "--ip-adapter {given}/ip-adapter-faceid.bin --ip-face {given}/face.json ".repeat(2);
    bench.refused(
        &format!("{two} --no-ip-cache --image-encoder {{}}/encoder"),
        &["--image-encoder", "no adapter here takes pictures"],
    );
    bench.refused(
        "--ip-adapter {}/ip-adapter.safetensors --no-ip-cache --image-encoder {}/encoder --ip-face {given}/face.json",
        &["base adapter, which takes pictures; no picture was given"],
    );
    let plus = "--ip-adapter {given}/ip-adapter-faceid-plus.bin --no-ip-cache --image-encoder {}/encoder --ip-face";
    bench.refused(
        &format!("{plus} {{given}}/face.json --ip-image {{}}/portrait.png"),
        &["say which it is", "version 2"],
    );
    let plus = format!("{plus} {{given}}/faces.safetensors --ip-face-version 2");
    bench.refused(
        &format!("{plus} --ip-image {{}}/portrait.png"),
        &["2 face embeddings for 1 pictures; one for each"],
    );
    bench.refused(&plus, &["no picture was given"]);
}

#[test]
fn folders_for_portraits_that_are_none() {
    let bench = Bench::new();
    bench.file("file", "");
    for cache in ["{}/file", "{}/file/below"] {
        let options = format!("{PORTRAIT} ").replace("{}/cache", cache);
        bench.refused(
            &options,
            &["--ip-cache", "this folder cannot be used for portraits"],
        );
    }
    let both = format!("{PORTRAIT} --no-ip-cache");
    bench.refused(&both, &["--ip-cache", "--no-ip-cache"]);
}
