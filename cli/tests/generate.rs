//! `samecast generate`: the pictures are diffusers', and say how they were made.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{
    Run, copy, difference, folder, lora, names, pixels, program, quick, samecast, text, tiny, with,
};
use parity::reference;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A case of `pictures.json`, and where diffusers' pictures of it are.
fn case(name: &str) -> (Value, Vec<PathBuf>) {
    let json = fs::read(reference().join("pictures.json")).expect("the cases");
    let cases: Vec<Value> = serde_json::from_slice(&json).expect("a list of cases");
    let case = cases.into_iter().find(|case| case["name"] == name);
    let case = case.unwrap_or_else(|| panic!("no case `{name}`"));
    let files = case["files"].as_array().expect("the case's pictures");
    let folder = reference().join("pictures");
    let files = files.iter().map(|file| folder.join(word(file))).collect();
    (case, files)
}

/// A JSON value as the command line has it.
fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_string)
}

/// The arguments of a case.
fn arguments(case: &Value, out: &Path) -> Vec<String> {
    let mut all = vec!["generate".to_string(), "--json".into()];
    let mut add = |option: &str, value: String| all.extend([format!("--{option}"), value]);
    add("model", text(&tiny()).into());
    add("out", text(out).into());
    for option in [
        "prompt", "sampler", "schedule", "steps", "cfg", "seed", "count",
    ] {
        add(option, word(&case[option]));
    }
    add("clip-skip", word(&case["clip_skip"]));
    for option in ["negative", "strength", "eta"] {
        if !case[option].is_null() {
            add(option, word(&case[option]));
        }
    }
    // Else the picture has the size of the one that it starts from.
    match &case["init_image"] {
        Value::Null => {
            add("width", word(&case["width"]));
            add("height", word(&case["height"]));
        }
        file => {
            let init = reference().join("pictures").join(word(file));
            add("init-image", text(&init).into());
        }
    }
    if case["prediction_type"] == "v_prediction" {
        add("prediction-type", "v".into());
    }
    for choice in case["loras"].as_array().into_iter().flatten() {
        let file = reference().join("lora").join(word(&choice[0]));
        match choice[1].as_f64() {
            // A LoRA without a strength has strength 1.
            Some(1.0) => add("lora", text(&file).into()),
            _ => add("lora", format!("{}:{}", text(&file), choice[1])),
        }
    }
    all
}

/// Draws cases, and compares each with diffusers' picture.
#[track_caller]
fn assert_diffusers(cases: &[&str]) {
    for name in cases {
        let (case, theirs) = case(name);
        let dir = folder();
        let run = samecast(arguments(&case, &dir.path().join("a.png"))).done();
        let files = run.json()["files"].as_array().expect("files").clone();
        assert_eq!(files.len(), theirs.len(), "{name}");
        for (ours, theirs) in files.iter().zip(&theirs) {
            let (mean, high) = difference(&pixels(Path::new(&word(ours))), &pixels(theirs));
            assert!(
                mean <= 1.0 && high <= 4,
                "{name}: mean {mean}, 99th percentile {high}"
            );
        }
    }
}

#[test]
fn samplers_and_schedules_are_diffusers() {
    assert_diffusers(&[
        "ddim",
        "euler-a",
        "pndm",
        "dpmpp-2m-karras",
        "unipc",
        "large-seed",
    ]);
}

#[test]
fn few_steps_of_distilled_models_are_diffusers() {
    assert_diffusers(&["lcm-lora", "img2img-lcm", "tcd-0.0", "tcd-0.3"]);
}

/// What saves work says so in the picture, saves work, and draws nearly the same; at its defaults it is not there.
#[test]
fn what_saves_work_is_told() {
    let dir = folder();
    let draw = |name: &str, options: &[&str]| {
        let out = dir.path().join(name);
        let all = [&["--steps", "10", "--seed", "7", "--json"], options].concat();
        let json = samecast(with(quick(&tiny(), &out), &all)).done().json();
        (out, json["evaluations"].clone())
    };
    let (full, work) = draw("full.png", &[]);
    assert_eq!(work, json!({ "whole": 20, "shallow": 0 }));
    let off = ["--deep-cache", "1", "--token-merging", "0"];
    let off = [&off[..], &["--cfg-start", "0", "--cfg-end", "1"]].concat();
    assert_eq!(pixels(&draw("off.png", &off).0), pixels(&full));
    let on = ["--deep-cache", "2", "--token-merging", "0.5"];
    let on = [&on[..], &["--cfg-start", "0.2", "--cfg-end", "0.8"]].concat();
    let (fast, work) = draw("fast.png", &on);
    assert_eq!(work, json!({ "whole": 8, "shallow": 8 }));
    let (mean, _) = difference(&pixels(&fast), &pixels(&full));
    assert!(mean > 0.0 && mean < 60.0, "{mean}");
    let [texts, _] = chunks(&fast);
    assert!(texts[0].1.contains("Token merging ratio: 0.5"));
    let record: Value = serde_json::from_str(&texts[1].1).expect("a JSON object");
    for (key, value) in [
        ("cfg_start", json!(0.2)),
        ("cfg_end", json!(0.8)),
        ("deep_cache", json!(2)),
        ("token_merging", json!(0.5)),
        ("eta", Value::Null),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
}

#[test]
fn strong_guidance_of_a_distilled_model_is_noted() {
    let dir = folder();
    let note = "hold their guidance already";
    for (cfg, noted) in [("7", true), ("1", false)] {
        let out = dir.path().join("a.png");
        let options = ["--sampler", "lcm", "--steps", "2", "--cfg", cfg];
        let all = with(quick(&tiny(), &out), &options);
        let run = samecast(all.iter().filter(|word| *word != "--quiet")).done();
        assert_eq!(run.stderr.contains(note), noted, "{}", run.stderr);
    }
}

#[test]
fn guidance_clip_skip_and_sizes_are_diffusers() {
    assert_diffusers(&[
        "cfg-1",
        "no-negative",
        "clip-skip-2",
        "wide",
        "tall",
        "heun-2",
        "euler-v",
    ]);
}

#[test]
fn loras_are_diffusers() {
    assert_diffusers(&[
        "lora-kohya-1.0",
        "lora-kohya-0.6",
        "lora-peft-1.0",
        "lora-peft-0.6",
    ]);
    assert_diffusers(&["lora-locon-1.0", "lora-peft_metadata-1.0", "lora-two"]);
}

#[test]
fn pictures_from_pictures_and_batches_are_diffusers() {
    assert_diffusers(&["img2img-ddim", "img2img-resized", "img2img-lora"]);
    assert_diffusers(&["count-2", "count-2-euler-a"]);
}

/// What the comparison above is worth: other settings give pictures that it tells apart.
#[test]
fn other_settings_give_other_pictures() {
    let picture = |name: &str| pixels(&case(name).1[0]);
    for (a, b) in [
        ("ddim", "cfg-1"),
        ("ddim", "clip-skip-2"),
        ("lora-kohya-1.0", "lora-kohya-0.6"),
    ] {
        let (mean, high) = difference(&picture(a), &picture(b));
        assert!(
            mean > 1.0 || high > 4,
            "{a} and {b}: mean {mean}, 99th percentile {high}"
        );
    }
}

fn sha256(file: &Path) -> String {
    let digest = Sha256::digest(fs::read(file).expect("a file"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text chunks of a PNG: plain ones, then international ones.
fn chunks(file: &Path) -> [Vec<(String, String)>; 2] {
    let decoder = png::Decoder::new(BufReader::new(fs::File::open(file).expect("a file")));
    let reader = decoder.read_info().expect("a PNG");
    let info = reader.info();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    assert_eq!(info.bit_depth, png::BitDepth::Eight);
    let plain = info.uncompressed_latin1_text.iter();
    let plain = plain.map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let international = info.utf8_text.iter();
    let international = international.map(|chunk| {
        let text = chunk.get_text().expect("the chunk's text");
        (chunk.keyword.clone(), text)
    });
    [plain.collect(), international.collect()]
}

#[test]
fn a_picture_says_how_it_was_made() {
    let dir = folder();
    // A name with dots is a whole name where it is a folder's.
    let model = dir.path().join("Real_V5.1");
    copy(&tiny(), &model);
    let out = dir.path().join("a.png");
    let kohya = lora("kohya");
    let choice = format!("{}:0.6", text(&kohya));
    let options = [
        "--prompt",
        "(girl:1.3), red coat",
        "--negative",
        "blurry",
        "--sampler",
        "dpmpp-2m",
        "--schedule",
        "karras",
        "--cfg",
        "6.5",
        "--clip-skip",
        "2",
        "--seed",
        "4294967303",
        "--steps",
        "2",
        "--lora",
        &choice,
    ];
    samecast(with(quick(&model, &out), &options)).done();

    let [plain, international] = chunks(&out);
    assert!(international.is_empty());
    let keys: Vec<_> = plain.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["parameters", "samecast"]);
    let unet = tiny().join("unet/diffusion_pytorch_model.safetensors");
    let expected = format!(
        "(girl:1.3), red coat <lora:kohya:0.6>\n\
         Negative prompt: blurry\n\
         Steps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 4294967303, Size: 64x64, \
         Model hash: {}, Model: Real_V5.1, Clip skip: 2, RNG: CPU, Version: samecast {}",
        &sha256(&unet)[..10],
        env!("CARGO_PKG_VERSION"),
    );
    assert_eq!(plain[0].1, expected);

    let record: Value = serde_json::from_str(&plain[1].1).expect("a JSON object");
    for (key, value) in [
        ("samecast", json!(env!("CARGO_PKG_VERSION"))),
        ("command", json!("generate")),
        ("model", json!(text(&model))),
        ("prompt", json!("(girl:1.3), red coat")),
        ("negative", json!("blurry")),
        ("sampler", json!("dpmpp-2m")),
        ("schedule", json!("karras")),
        ("steps", json!(2)),
        ("cfg", json!(6.5)),
        ("seed", json!(4_294_967_303_u64)),
        ("rng", json!("torch")),
        ("width", json!(64)),
        ("height", json!(64)),
        ("count", json!(1)),
        ("index", json!(0)),
        ("clip_skip", json!(2)),
        ("loras", json!([{ "path": text(&kohya), "scale": 0.6 }])),
        ("init_image", Value::Null),
        ("strength", Value::Null),
        (
            "files",
            json!([
                { "role": "model", "path": text(&model), "sha256": sha256(&unet) },
                { "role": "lora", "path": text(&kohya), "sha256": sha256(&kohya) },
            ]),
        ),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
}

#[test]
fn a_prompt_in_any_language_is_kept() {
    let dir = folder();
    let out = dir.path().join("a.png");
    let init = reference().join("pictures/init.png");
    let options = [
        "--prompt",
        "café, 少女",
        "--init-image",
        text(&init),
        "--strength",
        "1",
    ];
    samecast(with(quick(&tiny(), &out), &options)).done();
    let [plain, international] = chunks(&out);
    assert!(plain.is_empty());
    assert!(international[0].1.starts_with("café, 少女\nSteps: 1, "));
    assert!(international[0].1.contains(", Denoising strength: 1, "));
    let record: Value = serde_json::from_str(&international[1].1).expect("a JSON object");
    assert_eq!(record["prompt"], "café, 少女");
    assert_eq!(record["init_image"], text(&init));
    assert_eq!(record["files"][1]["sha256"], sha256(&init));
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_another() {
    let dir = folder();
    let draw = |name: &str, seed: &str| {
        let out = dir.path().join(name);
        samecast(with(quick(&tiny(), &out), &["--seed", seed])).done();
        fs::read(out).expect("a picture")
    };
    let first = draw("a.png", "7");
    assert_eq!(first, draw("b.png", "7"));
    assert_ne!(pixels(&dir.path().join("a.png")), {
        draw("c.png", "8");
        pixels(&dir.path().join("c.png"))
    });
    let philox = with(
        quick(&tiny(), &dir.path().join("d.png")),
        &["--rng", "philox", "--seed", "7"],
    );
    samecast(philox).done();
    assert_ne!(
        pixels(&dir.path().join("a.png")),
        pixels(&dir.path().join("d.png"))
    );
}

#[test]
fn without_a_seed_there_is_a_new_one_that_is_told() {
    let dir = folder();
    let draw = || {
        let mut command = program();
        command.current_dir(dir.path());
        command.args(["generate", "--json", "--prompt", "girl", "--steps", "1"]);
        command.args(["--width", "64", "--height", "64", "--model", text(&tiny())]);
        let run = Run::from(command.output().expect("the program starts")).done();
        run.json()["seed"].as_u64().expect("a seed")
    };
    let (first, second) = (draw(), draw());
    assert_ne!(first, second);
    // The name that a picture has by default, where the command was given.
    let mut expected = [first, second].map(|seed| format!("samecast-{seed}.png"));
    expected.sort();
    assert_eq!(names(dir.path()), expected);
    let again = dir.path().join("again.png");
    let arguments = with(
        quick(&tiny(), &again),
        &["--sampler", "dpmpp-2m", "--seed", &first.to_string()],
    );
    samecast(arguments).done();
    let by_default = dir.path().join(format!("samecast-{first}.png"));
    assert_eq!(pixels(&again), pixels(&by_default));
}

#[test]
fn json_is_one_object_and_quiet_is_silent() {
    let dir = folder();
    let out = dir.path().join("a.png");
    let quiet = samecast(with(quick(&tiny(), &out), &["--json"])).done();
    let told = quiet.json();
    assert_eq!(told["files"], json!([text(&out)]));
    assert_eq!([&told["width"], &told["height"]], [64, 64]);
    assert_eq!(told["seed"], 1);
    assert_eq!(quiet.stderr, "");

    let quiet = samecast(quick(&tiny(), &out)).done();
    assert_eq!(quiet.stdout, format!("{}\n", text(&out)));
    assert_eq!(quiet.stderr, "");

    // Notes are for people: never on standard output.
    let mut loud = with(quick(&tiny(), &out), &["--json"]);
    loud.retain(|argument| argument != "--quiet");
    let loud = samecast(loud).done();
    assert_eq!(loud.json()["files"], json!([text(&out)]));
    assert!(loud.stderr.contains("opening"), "{}", loud.stderr);

    let failed = samecast(with(quick(&tiny(), &out), &["--json", "--width", "65"]));
    failed.refused(&["--width", "65"]);
    let told = failed.json();
    assert_eq!(told["status"], 2);
    assert!(word(&told["error"]).contains("--width is 65"), "{told}");

    let failed = samecast(with(quick(&tiny(), &out), &["--json", "--nonsense"]));
    failed.refused(&["--nonsense"]);
    assert!(word(&failed.json()["error"]).contains("--nonsense"));
}

#[test]
fn out_is_a_file_or_a_folder() {
    let dir = folder();
    let draw = |out: &str, options: &[&str]| {
        let out = format!("{}/{out}", text(dir.path()));
        let run = samecast(with(quick(&tiny(), Path::new(&out)), options)).done();
        let inside = format!("{}/", text(dir.path()));
        run.stdout.replace(&inside, "")
    };
    assert_eq!(draw("mira.png", &[]), "mira.png\n");
    assert_eq!(
        draw("mira.PNG", &["--count", "2"]),
        "mira-1.png\nmira-2.png\n"
    );
    fs::create_dir(dir.path().join("old")).expect("a folder");
    assert_eq!(draw("old", &["--seed", "5"]), "old/5-1.png\n");
    assert_eq!(
        draw("new/one/", &["--count", "2"]),
        "new/one/1-1.png\nnew/one/1-2.png\n"
    );
    assert_eq!(
        names(dir.path()),
        ["mira-1.png", "mira-2.png", "mira.png", "new", "old"]
    );
    assert_eq!(names(&dir.path().join("new/one")), ["1-1.png", "1-2.png"]);
}

#[test]
fn a_vae_can_be_given() {
    let dir = folder();
    let draw = |name: &str, options: &[&str]| {
        let out = dir.path().join(name);
        samecast(with(quick(&tiny(), &out), options)).done();
        pixels(&out)
    };
    let own = draw("a.png", &[]);
    let vae = tiny().join("vae");
    assert_eq!(own, draw("b.png", &["--vae", text(&vae)]));
    let other = dir.path().join("vae.safetensors");
    fs::copy(vae.join("diffusion_pytorch_model.safetensors"), &other).expect("a copy");
    common::change(&other, |tensors| {
        tensors
            .get_mut("decoder.conv_out.bias")
            .expect("a bias")
            .bytes
            .fill(0);
    });
    assert_ne!(own, draw("c.png", &["--vae", text(&other)]));
    assert!(
        chunks(&dir.path().join("c.png"))[0][0]
            .1
            .contains(", VAE: vae, ")
    );
}

#[test]
fn nobody_has_to_read_what_is_printed() {
    let dir = folder();
    let out = dir.path().join("a.png");
    let mut command = program();
    command.args(with(quick(&tiny(), &out), &["--count", "2"]));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let run = Run::from(child.wait_with_output().expect("the program ends")).done();
    assert_eq!(run.stderr, "");
    assert_eq!(names(dir.path()), ["a-1.png", "a-2.png"]);
}

#[cfg(unix)]
#[test]
fn names_that_are_no_utf_8_are_taken() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&odd).expect("a folder");
    let mut command = program();
    command.args(with(quick(&tiny(), Path::new("-")), &["--json"]));
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut command = program();
    command.args(arguments.iter().map(|argument| match argument.to_str() {
        Some("-") => odd.as_os_str(),
        _ => argument,
    }));
    let run = Run::from(command.output().expect("the program starts")).done();
    assert_eq!(run.json()["seed"], 1);
    assert_eq!(names(&odd), ["1-1.png"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_picture_is_not_left_half_drawn() {
    let dir = folder();
    let out = dir.path().join("a.png");
    let mut arguments = with(quick(&tiny(), &out), &["--steps", "500"]);
    arguments.retain(|argument| argument != "--quiet");
    let mut child = program()
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut told = String::new();
    stderr.read_line(&mut told).expect("a note");
    common::interrupt(&child);
    stderr.read_to_string(&mut told).expect("notes");
    assert_eq!(child.wait().expect("an end").code(), Some(1), "{told}");
    assert!(told.ends_with("error: stopped\n"), "{told}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn help_and_version_are_at_hand() {
    let help = samecast(["help"]).done();
    for command in ["generate", "train", "lora", "devices"] {
        assert!(help.stdout.contains(command));
        let own = samecast([command, "--help"]).done().stdout;
        assert!(own.contains("--json"), "{own}");
    }
    for command in [
        ["generate"].as_slice(),
        &["train"],
        &["lora", "info"],
        &["devices"],
    ] {
        let own = samecast(command.iter().chain(&["--help"])).done().stdout;
        assert!(own.contains("Example:\n  samecast"), "{own}");
    }
    let version = samecast(["--version"]).done().stdout;
    assert_eq!(version, format!("samecast {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn devices_are_listed() {
    let listed = samecast(["devices"]).done();
    assert!(listed.stdout.lines().any(|line| line.starts_with("cpu ")));
    assert_eq!(listed.stdout.matches("(auto)").count(), 1);
    let devices = samecast(["devices", "--json"]).done().json();
    let cpu = devices["devices"]
        .as_array()
        .and_then(|all| all.iter().find(|d| d["name"] == "cpu"));
    let cpu = cpu.expect("the processor");
    assert_eq!(cpu["bf16_products"], json!(sd_kernels::has_bf16_products()));
    let precisions = &cpu["precisions"];
    assert!(
        precisions
            .as_array()
            .expect("a list")
            .contains(&json!("f32"))
    );
    assert!(devices["cores"].as_u64() > Some(0));
}

/// On the processor bf16 is what products are rounded to, where it multiplies those faster; all else stays f32, and nearly the same picture comes out.
#[test]
fn products_in_bf16_draw_nearly_the_same_picture() {
    let dir = folder();
    let draw = |name: &str, precision: &str| {
        let out = dir.path().join(name);
        let options = ["--steps", "4", "--precision", precision];
        samecast(with(quick(&tiny(), &out), &options)).done();
        pixels(&out)
    };
    let (exact, rounded) = (draw("f32.png", "f32"), draw("bf16.png", "bf16"));
    let (mean, _) = difference(&rounded, &exact);
    assert!(mean > 0.0 && mean < 3.0, "{mean}");
    assert_eq!(draw("again.png", "bf16"), rounded);
}
