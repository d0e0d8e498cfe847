//! `samecast train`: runs that can be repeated, broken off and gone on with, and the LoRA that they write.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{
    difference, folder, metadata, names, pictures, pixels, quick, samecast, tensors, text, tiny,
    with,
};
use safetensors::Dtype;
use tempfile::TempDir;

const OPTIONS: [&str; 14] = [
    "--steps",
    "4",
    "--resolution",
    "64",
    "--rank",
    "2",
    "--alpha",
    "2",
    "--batch-size",
    "1",
    "--learning-rate",
    "1e-2",
    "--seed",
    "5",
];

/// Arguments of a short run.
fn short(out: &Path) -> Vec<String> {
    let (model, images) = (tiny(), pictures());
    let fixed = [
        "train",
        "--model",
        text(&model),
        "--images",
        text(&images),
        "--out",
        text(out),
    ];
    let fixed = fixed.map(str::to_string).into_iter();
    let fixed = fixed.chain(["--trigger", "mychar001", "--quiet"].map(str::to_string));
    with(fixed.collect(), &OPTIONS)
}

/// The LoRA of one such run, which several tests look at.
fn trained() -> PathBuf {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = folder();
        samecast(short(&dir.path().join("mira.safetensors"))).done();
        dir
    });
    dir.path().join("mira.safetensors")
}

/// The file that a run with other options writes, under the same name.
fn trained_with(options: &[&str]) -> Vec<u8> {
    let dir = folder();
    let out = dir.path().join("mira.safetensors");
    samecast(with(short(&out), options)).done();
    fs::read(out).expect("a LoRA")
}

#[test]
fn the_file_is_a_lora_that_says_what_it_is() {
    let file = trained();
    assert_eq!(
        names(file.parent().expect("a folder")),
        ["mira.safetensors"]
    );
    let tensors = tensors(&file);
    let count = |start: &str, end: &str| {
        let fits = |name: &&String| name.starts_with(start) && name.ends_with(end);
        tensors.keys().filter(fits).count()
    };
    for end in [".lora_down.weight", ".lora_up.weight", ".alpha"] {
        assert_eq!(count("lora_unet_", end), 192, "{end}");
        assert_eq!(count("lora_te_text_model_", end), 18, "{end}");
    }
    assert_eq!(tensors.len(), 3 * (192 + 18));
    assert!(tensors.values().all(|tensor| tensor.dtype == Dtype::F16));
    let down = &tensors["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"];
    assert_eq!(down.shape[0], 2);

    let said = metadata(&file);
    for (key, value) in [
        ("ss_base_model_version", "sd_v1"),
        ("ss_network_module", "networks.lora"),
        ("ss_network_dim", "2"),
        ("ss_network_alpha", "2"),
        ("ss_output_name", "mira"),
        ("ss_sd_model_name", "tiny-sd"),
        ("ss_learning_rate", "0.01"),
        ("ss_steps", "4"),
        ("ss_max_train_steps", "4"),
        ("ss_num_train_images", "10"),
        ("ss_resolution", "(64, 64)"),
        ("ss_seed", "5"),
        ("modelspec.architecture", "stable-diffusion-v1/lora"),
        ("modelspec.title", "mira"),
        ("modelspec.trigger_phrase", "mychar001"),
        ("modelspec.prediction_type", "epsilon"),
    ] {
        assert_eq!(said.get(key).map(String::as_str), Some(value), "{key}");
    }
    let tags: serde_json::Value = serde_json::from_str(&said["ss_tag_frequency"]).expect("JSON");
    assert_eq!(tags["pictures10"]["mychar001"], 10, "{tags}");

    let info = samecast(["lora", "info", "--json", text(&file)])
        .done()
        .json();
    let info = &info["files"][0];
    assert_eq!(info["components"]["UNet"]["modules"], 192);
    assert_eq!(info["components"]["text encoder"]["modules"], 18);
    assert_eq!(info["hashes"]["sshs_model_hash"], said["sshs_model_hash"]);
    let told = samecast(["lora", "info", text(&file)]).done().stdout;
    assert!(told.contains("  trigger        mychar001\n"), "{told}");
}

#[test]
fn one_seed_gives_one_file() {
    let file = fs::read(trained()).expect("a LoRA");
    assert!(
        file == trained_with(&[]),
        "the second run wrote other bytes"
    );
    assert!(
        file != trained_with(&["--seed", "6"]),
        "the seed has no effect"
    );
}

/// The model's file has 16 bits, which hold no more when they are widened before the run than when they are used.
#[test]
fn weights_of_16_bits_train_the_same() {
    for precision in ["auto", "f16"] {
        for recomputed in ["true", "false"] {
            let options = ["--gradient-checkpointing", recomputed, "--precision"];
            let with = |precision| trained_with(&[options.as_slice(), &[precision]].concat());
            assert!(with(precision) == with("f32"), "{precision}, {recomputed}");
        }
    }
    let rounded = trained_with(&["--precision", "bf16"]);
    assert!(rounded != trained_with(&["--precision", "f32"]));
}

#[test]
fn what_was_learned_is_seen() {
    let dir = folder();
    let file = trained();
    let draw = |name: &str, lora: Option<String>| {
        let out = dir.path().join(name);
        let mut arguments = with(quick(&tiny(), &out), &["--prompt", "mychar001"]);
        arguments.extend(lora.into_iter().flat_map(|lora| ["--lora".into(), lora]));
        samecast(arguments).done();
        pixels(&out)
    };
    let plain = draw("plain.png", None);
    assert_eq!(plain, draw("off.png", Some(format!("{}:0", text(&file)))));
    let on = draw("on.png", Some(format!("{}:4", text(&file))));
    let (mean, _) = difference(&plain, &on);
    assert!(mean > 0.5, "the LoRA changes the picture by {mean}");

    // The same factors in the other dialect and in full precision.
    let peft = dir.path().join("peft.safetensors");
    let options = ["--format", "peft", "--save-precision", "f32", "--json"];
    let run = samecast(with(short(&peft), &options)).done();
    let told = run.json();
    assert_eq!(told["file"], text(&peft));
    assert_eq!([&told["steps"], &told["pictures"]], [4, 10]);
    assert!(told["loss"].as_f64() > Some(0.0));
    assert_eq!(run.stderr, "");
    let tensors = tensors(&peft);
    assert!(
        tensors.contains_key("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight")
            || tensors.contains_key("text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight")
    );
    assert!(tensors.values().all(|tensor| tensor.dtype == Dtype::F32));
    let same = draw("peft.png", Some(format!("{}:4", text(&peft))));
    let (mean, _) = difference(&on, &same);
    assert!(mean < 0.1, "the dialects differ by {mean}");
}

#[test]
fn options_come_from_a_file_too() {
    let dir = folder();
    let config = dir.path().join("mira.toml");
    let write = |text: &str| fs::write(&config, text).expect("a file");
    write(
        "# All that `short` gives.\n\
         trigger = \"mychar001\"\nsteps = 4\nresolution = 64\nrank = 2\nalpha = 2.0\nbatch_size = 1\nlearning_rate = 1e-2\nseed = 5\n",
    );
    let (model, images) = (tiny(), pictures());
    let train = |options: &[&str]| {
        let dir = folder();
        let out = dir.path().join("mira.safetensors");
        let fixed = ["train", "--model", text(&model), "--images", text(&images)];
        let rest = ["--out", text(&out), "--config", text(&config), "--quiet"];
        samecast(fixed.iter().chain(&rest).chain(options)).done();
        fs::read(out).expect("a LoRA")
    };
    let file = fs::read(trained()).expect("a LoRA");
    assert!(file == train(&[]), "the file's options have another effect");

    // The command line goes before the file.
    write(
        "trigger = \"other\"\nsteps = 9\nresolution = 128\nrank = 3\nalpha = 1.0\nbatch_size = 2\nlearning_rate = 1.0\nseed = 6\n",
    );
    let flags = ["--trigger", "mychar001"];
    let flags: Vec<&str> = flags.into_iter().chain(OPTIONS).collect();
    assert!(
        file == train(&flags),
        "the file goes before the command line"
    );

    // 0 turns these off in both.
    write("trigger = \"mychar001\"\nmin_snr_gamma = 0.0\nmax_grad_norm = 0.0\n");
    let off = ["--min-snr-gamma", "0", "--max-grad-norm", "0"];
    let off = trained_with(&off);
    assert!(off == train(&OPTIONS), "0 in the file turns nothing off");
    assert!(off != file, "0 turns nothing off");
}

#[test]
fn what_is_there_is_not_replaced_unasked() {
    let dir = folder();
    let out = dir.path().join("mira.safetensors");
    fs::write(&out, "precious").expect("a file");
    let arguments = with(short(&out), &["--steps", "1"]);
    samecast(arguments.clone()).refused(&["--out", text(&out), "--force"]);
    assert_eq!(fs::read(&out).expect("the file"), b"precious");
    samecast(with(arguments, &["--force"])).done();
    assert_eq!(tensors(&out).len(), 3 * (192 + 18));
    assert_eq!(names(dir.path()), ["mira.safetensors"]);
}

#[test]
fn captions_are_optional_and_notes_tell_of_them() {
    let dir = folder();
    let images = dir.path().join("images");
    fs::create_dir(&images).expect("a folder");
    for name in ["01.png", "02.png", "03.png"] {
        fs::copy(pictures().join(name), images.join(name)).expect("a copy");
    }
    fs::write(images.join("02.caption"), "a red coat").expect("a caption");
    fs::write(images.join("03.txt"), "MyChar001 laughing").expect("a caption");
    fs::write(images.join("notes.md"), "x").expect("a file");
    let out = dir.path().join("mira.safetensors");
    let mut arguments = with(short(&out), &["--images", text(&images), "--steps", "1"]);
    arguments.retain(|argument| argument != "--quiet");
    let run = samecast(arguments).done();
    assert_eq!(run.stdout, format!("{}\n", text(&out)));
    for told in [
        "3 pictures",
        "1 of them have no caption",
        "1 of them have captions without",
        "notes.md",
    ] {
        assert!(run.stderr.contains(told), "`{told}` in {}", run.stderr);
    }
    let tags = &metadata(&out)["ss_tag_frequency"];
    assert!(
        tags.contains(r#""a red coat":1"#) && tags.contains(r#""mychar001":2"#),
        "{tags}"
    );
}

/// Ctrl-C, and what can go wrong with the state that it leaves.
#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_very_same_file() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let dir = folder();
    let out = dir.path().join("mira.safetensors");
    let state = dir.path().join("mira.safetensors.state");
    let arguments = with(short(&out), &["--steps", "30", "--save-state-every", "1"]);
    let child = common::program()
        .args(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let start = Instant::now();
    while !state.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no state was saved"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    common::interrupt(&child);
    let run = common::Run::from(child.wait_with_output().expect("the program ends"));
    let stopped = |told: &str| {
        let done = &metadata(&state)["step"];
        assert!(
            told.contains(&format!("stopped after step {done} of 30")),
            "{told}"
        );
        assert_eq!(names(dir.path()), ["mira.safetensors.state"]);
    };
    run.failed(1, &["stopped after step", "--resume", text(&state)]);
    assert_eq!(run.stdout, "");
    stopped(&run.stderr);

    // Nobody loses the state by giving the same command again.
    samecast(arguments.clone()).refused(&[text(&state), "--resume", "--force"]);
    let resume = with(arguments, &["--resume"]);
    for (options, told) in [
        (["--seed", "9"], "option seed was 5, now it is 9"),
        (
            ["--learning-rate", "0.02"],
            "option learning_rate was 0.01, now it is 0.02",
        ),
        (
            ["--trigger", "other"],
            "option trigger was \"mychar001\", now it is \"other\"",
        ),
        (["--rank", "4"], "option rank was 2, now it is 4"),
        // The model's weights are f16, which this rounds.
        (["--precision", "bf16"], "start again without --resume"),
    ] {
        samecast(with(resume.clone(), &options)).refused(&[text(&state), told]);
    }
    let saved = fs::read(&state).expect("the state");
    fs::write(&state, &saved[..saved.len() / 2]).expect("half a state");
    samecast(resume.clone()).refused(&[text(&state), "damaged"]);
    fs::write(&state, "no state").expect("no state");
    samecast(resume.clone()).refused(&[text(&state), "no saved state"]);
    fs::copy(trained(), &state).expect("a LoRA in place of a state");
    samecast(resume.clone()).refused(&[text(&state), "no saved state"]);
    fs::write(&state, &saved).expect("the state");
    assert_eq!(names(dir.path()), ["mira.safetensors.state"]);

    // Broken off again: this time nothing but Ctrl-C saves the state.
    let mut again = with(resume.clone(), &["--save-state-every", "0"]);
    again.retain(|argument| argument != "--quiet");
    let mut child = common::program()
        .args(again)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut told = String::new();
    while !told.contains("going on after step") {
        assert_ne!(stderr.read_line(&mut told).expect("notes"), 0, "{told}");
    }
    std::thread::sleep(Duration::from_millis(100));
    common::interrupt(&child);
    stderr.read_to_string(&mut told).expect("notes");
    assert_eq!(child.wait().expect("an end").code(), Some(1), "{told}");
    stopped(&told);

    samecast(resume).done();
    assert_eq!(names(dir.path()), ["mira.safetensors"]);
    let file = fs::read(&out).expect("a LoRA");
    assert!(
        file == trained_with(&["--steps", "30"]),
        "the interruption had an effect"
    );
}

#[test]
fn a_file_that_cannot_be_written_does_not_cost_the_run() {
    let dir = folder();
    let out = dir.path().join("mira.safetensors");
    // One step as long as this takes the factors out of the range of f16.
    let options = ["--steps", "1", "--learning-rate", "1e6"];
    let arguments = with(short(&out), &options);
    samecast(arguments.clone()).failed(1, &[text(&out), "not finite", "--resume"]);
    assert_eq!(names(dir.path()), ["mira.safetensors.state"]);
    let wide = ["--save-precision", "f32"];
    samecast(with(with(arguments, &wide), &["--resume"])).done();
    assert_eq!(names(dir.path()), ["mira.safetensors"]);
    let file = fs::read(&out).expect("a LoRA");
    assert!(file == trained_with(&[options.as_slice(), &wide].concat()));
}

#[test]
fn there_is_nothing_to_resume() {
    let dir = folder();
    let out = dir.path().join("mira.safetensors");
    samecast(with(short(&out), &["--resume"])).refused(&["--resume", "mira.safetensors.state"]);
    assert!(names(dir.path()).is_empty());
}
