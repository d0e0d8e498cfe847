//! What a person can give wrongly: each is one clear error with exit status 2, and leaves no file behind.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    change, change_json, copy, folder, lora, names, pictures, quick, samecast, text, tiny, with,
};
use parity::reference;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The weights' files of a diffusers folder.
const WEIGHTS: [&str; 3] = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
];

/// A folder for what a run is given, and one that must stay empty.
struct Bench {
    given: TempDir,
    made: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            given: folder(),
            made: folder(),
        }
    }

    /// Puts a file among what is given.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.given.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// Puts a copy of the small model among what is given.
    fn model(&self) -> PathBuf {
        let path = self.given.path().join("model");
        if path.exists() {
            fs::remove_dir_all(&path).expect("the model before");
        }
        copy(&tiny(), &path);
        path
    }

    /// Draws one picture, which must be refused with these words.
    #[track_caller]
    fn generate(&self, model: &Path, options: &[&str], told: &[&str]) {
        let out = self.made.path().join("a.png");
        self.refused(with(quick(model, &out), options), told);
    }

    /// Trains with the small model, which must be refused with these words.
    #[track_caller]
    fn train(&self, options: &[&str], told: &[&str]) {
        self.refused(with(self.training(&tiny()), options), told);
    }

    fn training(&self, model: &Path) -> Vec<String> {
        let out = self.made.path().join("mira.safetensors");
        let images = pictures();
        let fixed = ["train", "--model", text(model), "--images", text(&images)];
        let rest = ["--out", text(&out), "--trigger", "mychar001", "--quiet"];
        let fixed = fixed.iter().chain(&rest).map(|s| (*s).to_string());
        with(
            fixed.collect(),
            &["--steps", "1", "--resolution", "64", "--rank", "1"],
        )
    }

    #[track_caller]
    fn refused(&self, arguments: Vec<String>, told: &[&str]) {
        let run = samecast(&arguments);
        run.refused(told);
        assert_eq!(run.stdout, "");
        let left = names(self.made.path());
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn files_that_are_no_model() {
    let bench = Bench::new();
    let unet = fs::read(tiny().join(WEIGHTS[0])).expect("the UNet");
    let png = fs::read(reference().join("pictures/init.png")).expect("a picture");
    // Any bytes, always the same.
    let noise: Vec<u8> = (0..4000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let pickle = |first: &[u8]| [first, &noise].concat();
    let header_cut: Vec<u8> = [&100_u64.to_le_bytes(), &unet[8..]].concat();
    let header_vast: Vec<u8> = [&u64::MAX.to_le_bytes(), &unet[8..]].concat();
    let mut garbled = unet.clone();
    garbled[40..60].fill(0xff);

    for (name, bytes, told) in [
        (
            "text.safetensors",
            b"Once upon a time, there was a model.".to_vec(),
            "is neither a safetensors nor a PyTorch file",
        ),
        ("short.safetensors", b"hi".to_vec(), "is neither"),
        (
            "page.safetensors",
            b"<!DOCTYPE html><html></html>".to_vec(),
            "is a web page",
        ),
        (
            "page.ckpt",
            b"\n <html>Please log in</html>".to_vec(),
            "is a web page",
        ),
        ("empty.safetensors", vec![], "is empty"),
        ("zeros.safetensors", vec![0; 4096], "starts with zeros"),
        (
            "lfs.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "Git LFS pointer",
        ),
        ("model.json", b"{\"a\": 1}".to_vec(), "is a JSON text"),
        (
            "half.safetensors",
            unet[..unet.len() / 2].to_vec(),
            "is cut short",
        ),
        (
            "nearly.safetensors",
            unet[..unet.len() - 1].to_vec(),
            "is cut short",
        ),
        ("header.safetensors", unet[..100].to_vec(), "is cut short"),
        ("wrong-length.safetensors", header_cut, "is damaged"),
        ("vast-length.safetensors", header_vast, "is neither"),
        ("garbled.safetensors", garbled, "is damaged"),
        ("picture.safetensors", png.clone(), "is neither"),
        ("picture.ckpt", png, "is neither"),
        ("unet.safetensors", unet.clone(), "is only a UNet"),
        ("pickle.ckpt", pickle(b"\x80\x02"), "is damaged"),
        ("mark.ckpt", pickle(b"("), "is damaged"),
        ("zip.ckpt", pickle(b"PK\x03\x04"), "is damaged"),
    ] {
        let file = bench.file(name, bytes);
        bench.generate(&file, &[], &[text(&file), told]);
    }
    for start in 0..=255 {
        // Whatever the kind is told by.
        let file = bench.file("any.ckpt", pickle(&[start]));
        bench.generate(&file, &[], &[text(&file)]);
    }
    let kohya = lora("kohya");
    bench.generate(&kohya, &[], &[text(&kohya), "a LoRA", "--lora"]);

    let missing = bench.given.path().join("missing.safetensors");
    bench.generate(&missing, &[], &[text(&missing), "does not exist"]);
    bench.refused(
        with(bench.training(&missing), &[]),
        &[text(&missing), "does not exist"],
    );
    let folder = bench.given.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    bench.generate(&folder, &[], &[text(&folder), "is no model"]);
    bench.generate(
        &tiny().join("unet"),
        &[],
        &["tiny-sd/unet", "the folder above it"],
    );
}

#[test]
fn a_pickle_that_would_run_something() {
    let bench = Bench::new();
    let file = reference().join("../../pipeline/tests/reference/malicious.ckpt");
    let file = file.canonicalize().expect("the pickle that calls");
    bench.generate(
        &file,
        &[],
        &[text(&file), "asks Python to call", "safetensors"],
    );
}

#[test]
fn folders_that_lack_something() {
    let bench = Bench::new();
    for (part, told) in [
        ("unet", "has no UNet"),
        ("vae", "has no VAE"),
        ("text_encoder", "has no text encoder"),
    ] {
        let model = bench.model();
        fs::remove_dir_all(model.join(part)).expect("a part");
        bench.generate(&model, &[], &[text(&model), told, &format!("`{part}`")]);
    }
    for file in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ] {
        let model = bench.model();
        fs::remove_file(model.join(file)).expect("a file");
        let name = file.rsplit('/').next().expect("a name");
        bench.generate(&model, &[], &[text(&model), name]);
    }
    for weights in WEIGHTS {
        let model = bench.model();
        fs::remove_file(model.join(weights)).expect("a file");
        let name = weights.rsplit('/').next().expect("a name");
        bench.generate(&model, &[], &[text(&model), name]);
    }
    let model = bench.model();
    fs::remove_dir_all(model.join("tokenizer")).expect("the tokenizer");
    bench.generate(&model, &[], &["tokenizer", "49408", "914"]);
    let empty = bench.given.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    bench.generate(
        &tiny(),
        &["--tokenizer", text(&empty)],
        &[text(&empty), "vocab.json"],
    );
    bench.generate(
        &tiny(),
        &["--vae", text(&empty)],
        &[text(&empty), "is no VAE"],
    );
    let kohya = lora("kohya");
    bench.generate(
        &tiny(),
        &["--vae", text(&kohya)],
        &[text(&kohya), "is no VAE"],
    );
}

#[test]
fn files_that_were_cut_short() {
    let bench = Bench::new();
    let spoiled = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer_config.json",
    ];
    for file in spoiled.iter().chain(&WEIGHTS) {
        let model = bench.model();
        let path = model.join(file);
        let bytes = fs::read(&path).expect("a file");
        for length in [bytes.len() / 2, bytes.len() - 3, 0] {
            fs::write(&path, &bytes[..length]).expect("a file");
            bench.generate(&model, &[], &[text(&path)]);
        }
        fs::write(&path, "no such thing").expect("a file");
        bench.generate(&model, &[], &[text(&path)]);
    }
}

#[test]
fn another_architecture() {
    let bench = Bench::new();
    for class in [
        "StableDiffusionXLPipeline",
        "StableDiffusion3Pipeline",
        "FluxPipeline",
    ] {
        let model = bench.model();
        change_json(&model.join("model_index.json"), |index| {
            index["_class_name"] = json!(class)
        });
        bench.generate(&model, &[], &[text(&model), class, "Stable Diffusion 1.x"]);
    }
    for (part, key, value) in [
        ("unet", "_class_name", json!("SD3Transformer2DModel")),
        ("vae", "_class_name", json!("AutoencoderTiny")),
        ("text_encoder", "architectures", json!(["T5EncoderModel"])),
    ] {
        let model = bench.model();
        let class = value
            .as_str()
            .or(value[0].as_str())
            .expect("a class")
            .to_string();
        change_json(&model.join(part).join("config.json"), |config| {
            config[key] = value
        });
        bench.generate(&model, &[], &["config.json", part, &class]);
    }
    for (channels, told) in [
        (9, "an inpainting model"),
        (8, "edits pictures"),
        (5, "5 channels"),
    ] {
        let model = bench.model();
        change_json(&model.join("unet/config.json"), |config| {
            config["in_channels"] = json!(channels)
        });
        bench.generate(&model, &[], &[text(&model), told]);
    }
}

#[test]
fn configurations_that_do_not_fit() {
    let bench = Bench::new();
    for (part, key, value, told) in [
        (
            "unet",
            "block_out_channels",
            json!([32, 64, 64, 96]),
            "down_blocks.1.attentions.0.norm.weight",
        ),
        (
            "unet",
            "block_out_channels",
            json!([]),
            "block_out_channels",
        ),
        (
            "unet",
            "block_out_channels",
            json!([1_000_000_000_000_u64, 1, 1, 1]),
            "block_out_channels",
        ),
        ("unet", "out_channels", json!(8), "conv_out.weight"),
        ("unet", "cross_attention_dim", json!(99), "99 channels"),
        ("unet", "layers_per_block", json!(0), "layers_per_block"),
        ("unet", "attention_head_dim", json!(7), "attention heads"),
        ("unet", "norm_num_groups", json!(0), "norm_num_groups"),
        ("unet", "norm_eps", json!("small"), "UNet's config.json"),
        ("unet", "act_fn", json!("gelu"), "act_fn"),
        (
            "unet",
            "class_embed_type",
            json!("timestep"),
            "class_embed_type",
        ),
        (
            "vae",
            "block_out_channels",
            json!([32, 64]),
            "block_out_channels",
        ),
        (
            "vae",
            "layers_per_block",
            json!(3),
            "decoder.up_blocks.0.resnets.2",
        ),
        ("vae", "latent_channels", json!(16), "16"),
        ("vae", "scaling_factor", json!(0), "scaling_factor"),
        ("vae", "in_channels", json!(4), "encoder.conv_in.weight"),
        ("text_encoder", "hidden_size", json!(64), "64"),
        (
            "text_encoder",
            "num_attention_heads",
            json!(7),
            "num_attention_heads",
        ),
        (
            "text_encoder",
            "num_hidden_layers",
            json!(9),
            "encoder.layers.",
        ),
        ("text_encoder", "vocab_size", json!(10), "vocab_size"),
        (
            "text_encoder",
            "vocab_size",
            json!(1_000_000_000_000_u64),
            "vocab_size",
        ),
        ("text_encoder", "hidden_act", json!("relu"), "relu"),
        (
            "text_encoder",
            "max_position_embeddings",
            json!(5),
            "position_embedding",
        ),
        (
            "scheduler",
            "beta_schedule",
            json!("sawtooth"),
            "beta_schedule",
        ),
        (
            "scheduler",
            "num_train_timesteps",
            json!(0),
            "num_train_timesteps",
        ),
        (
            "scheduler",
            "num_train_timesteps",
            json!(1_000_000_000_000_u64),
            "num_train_timesteps",
        ),
        ("scheduler", "beta_end", json!(2), "beta_end"),
        (
            "scheduler",
            "prediction_type",
            json!("flow"),
            "prediction_type",
        ),
        (
            "scheduler",
            "timestep_spacing",
            json!("even"),
            "timestep_spacing",
        ),
    ] {
        let model = bench.model();
        let file = match part {
            "scheduler" => "scheduler/scheduler_config.json".to_string(),
            part => format!("{part}/config.json"),
        };
        change_json(&model.join(&file), |config| config[key] = value);
        bench.generate(&model, &[], &[told]);
    }
}

#[test]
fn weights_that_do_not_fit() {
    let bench = Bench::new();
    for (file, key) in WEIGHTS.into_iter().zip([
        "mid_block.resnets.0.conv1.weight",
        "decoder.conv_in.weight",
        "encoder.layers.1.mlp.fc1.weight",
    ]) {
        let model = bench.model();
        let path = model.join(file);
        let good = fs::read(&path).expect("weights");
        let again = || fs::write(&path, &good).expect("weights");

        change(&path, |tensors| {
            let tensor = tensors.remove(key).expect("the key");
            tensors.insert(format!("{key}.renamed"), tensor);
        });
        bench.generate(&model, &[], &[text(&path), key]);
        again();
        change(&path, |tensors| drop(tensors.remove(key)));
        bench.generate(&model, &[], &[text(&path), key]);
        again();
        change(&path, |tensors| {
            let tensor = tensors[key].clone();
            tensors.insert("mystery.weight".into(), tensor);
        });
        bench.generate(&model, &[], &[text(&path), "`mystery.weight`"]);
        again();
        let mut shape = vec![];
        change(&path, |tensors| {
            let tensor = tensors.get_mut(key).expect("the key");
            shape = tensor.shape.clone();
            tensor.shape.swap(0, 1);
            tensor.shape.insert(0, 1);
        });
        bench.generate(
            &model,
            &[],
            &[text(&path), key, &format!("expected {shape:?}")],
        );
        again();
        change(&path, |tensors| {
            let tensor = tensors.get_mut(key).expect("the key");
            let size = tensor.bytes.len() / shape.iter().product::<usize>();
            tensor.dtype = match size {
                2 => safetensors::Dtype::I16,
                _ => safetensors::Dtype::I32,
            };
        });
        bench.generate(&model, &[], &[text(&path), key, "integer"]);
    }
}

/// Puts a NaN where a tensor begins.
fn poison(path: &Path, key: &str) {
    change(path, |tensors| {
        let tensor = tensors.get_mut(key).expect("the key");
        // The same in f32, f16 and bf16: all bits but the sign.
        let size = tensor.bytes.len() / tensor.shape.iter().product::<usize>();
        tensor.bytes[..size].fill(0xff);
    });
}

#[test]
fn weights_that_are_no_numbers() {
    let bench = Bench::new();
    for (file, key) in WEIGHTS.into_iter().zip([
        "mid_block.resnets.0.conv1.weight",
        "decoder.conv_in.weight",
        "encoder.layers.1.mlp.fc1.weight",
    ]) {
        let model = bench.model();
        poison(&model.join(file), key);
        let out = bench.made.path().join("a.png");
        let run = samecast(quick(&model, &out));
        assert!(matches!(run.status, Some(1 | 2)), "{file}: {run:?}");
        assert!(
            run.stderr.starts_with("error: ") && run.stderr.contains("NaN"),
            "{run:?}"
        );
        assert!(names(bench.made.path()).is_empty());
    }
}

#[test]
fn options_of_generate_out_of_range() {
    let bench = Bench::new();
    let all = "ddim, euler, euler-a, heun, pndm, dpmpp-2m, unipc, lcm, tcd";
    for (options, told) in [
        ("--width 65", "--width is 65; a multiple of 8"),
        ("--width 0", "--width is 0"),
        ("--width 100000", "--width is 100000"),
        ("--width -8", "--width"),
        ("--width wide", "--width"),
        ("--height 4", "--height is 4"),
        ("--sampler dpm-adaptive", "`dpm-adaptive`"),
        ("--sampler dpm-adaptive", all),
        (
            "--schedule polyexponential",
            "`polyexponential`; there are default, karras",
        ),
        (
            "--schedule karras --sampler ddim",
            "sampler `ddim` has no `karras` schedule",
        ),
        (
            "--schedule karras --sampler pndm",
            "sampler `pndm` has no `karras` schedule",
        ),
        (
            "--schedule karras --sampler euler-a",
            "sampler `euler-a` has no `karras` schedule",
        ),
        ("--steps 0", "--steps is 0"),
        ("--steps -1", "--steps"),
        ("--steps 1000000000000", "1000000000000 steps"),
        ("--cfg 0", "--cfg is 0"),
        ("--cfg -1", "--cfg is -1"),
        ("--cfg nan", "--cfg is NaN"),
        ("--cfg inf", "--cfg is inf"),
        ("--cfg-start -0.5", "--cfg-start is -0.5; 0 to 1"),
        ("--cfg-end 1.5", "--cfg-end is 1.5; 0 to 1"),
        ("--cfg-end nan", "--cfg-end is NaN"),
        (
            "--cfg-start 0.7 --cfg-end 0.3",
            "--cfg-start is 0.7; no more than --cfg-end, which is 0.3",
        ),
        ("--cfg-end 0.01", "at least one whole step"),
        ("--cfg 1 --cfg-start 0.5", "--cfg is 1; more than 1 with"),
        ("--deep-cache 0", "--deep-cache is 0; 1 (no"),
        ("--deep-cache -1", "--deep-cache"),
        ("--deep-cache 2 --sampler heun", "1 with sampler heun"),
        ("--token-merging 0.8", "--token-merging is 0.8; 0 to 0.75"),
        ("--token-merging -0.1", "--token-merging is -0.1"),
        ("--token-merging nan", "--token-merging is NaN"),
        ("--eta 0.5", "cannot take eta 0.5"),
        ("--eta 1.5 --sampler tcd", "cannot take eta 1.5"),
        (
            "--sampler lcm --steps 51",
            "sampler `lcm` cannot take 51 steps",
        ),
        (
            "--sampler tcd --schedule karras",
            "sampler `tcd` has no `karras` schedule",
        ),
        ("--count 0", "--count is 0"),
        ("--count -1", "--count"),
        ("--clip-skip 0", "--clip-skip is 0"),
        ("--clip-skip 4", "--clip-skip is 4; 1 to 3"),
        ("--seed -1", "--seed"),
        ("--seed 18446744073709551616", "--seed"),
        ("--rng mersenne", "--rng"),
        ("--prediction-type flow", "--prediction-type"),
        ("--strength 0.5", "--init-image"),
        ("--device gpu", "--device"),
        ("--device cpu:1", "--device"),
        ("--device remote:example", "--device"),
        ("--precision f8", "--precision"),
        ("--nonsense", "--nonsense"),
        ("--json=yes", "--json"),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        bench.generate(&tiny(), &options, &[told]);
    }
    #[cfg(not(feature = "cuda"))]
    bench.generate(
        &tiny(),
        &["--device", "cuda"],
        &["--device cuda", "--features cuda"],
    );
    #[cfg(not(feature = "webgpu"))]
    bench.generate(
        &tiny(),
        &["--device", "wgpu:1"],
        &["--device wgpu", "--features wgpu"],
    );

    let out = bench.made.path().join("a.png");
    bench.refused(
        vec!["generate".into(), "--model".into(), "x".into()],
        &["--prompt"],
    );
    bench.refused(vec!["paint".into()], &["paint"]);
    let no_model = ["generate", "--prompt", "x", "--out", text(&out)];
    bench.refused(no_model.map(str::to_string).to_vec(), &["--model"]);
}

/// What asks for more memory than there is. An allocation that fails cannot be told of, so these must be refused before.
#[test]
fn options_beyond_all_measure() {
    let bench = Bench::new();
    bench.generate(
        &tiny(),
        &["--count", "1000000000"],
        &["--count is 1000000000"],
    );
    bench.generate(&tiny(), &["--count", "18446744073709551615"], &["--count"]);
    bench.train(&["--batch-size", "18446744073709551615"], &["--batch-size"]);
    bench.train(&["--batch-size", "1000000000"], &["--batch-size"]);
    bench.train(&["--resolution", "104857600"], &["--resolution"]);
    for part in ["unet", "vae"] {
        let model = bench.model();
        let config = model.join(part).join("config.json");
        change_json(&config, |config| {
            config["layers_per_block"] = json!(1_000_000_000)
        });
        bench.generate(&model, &[], &["layers_per_block"]);
    }
}

#[test]
fn loras_in_prompts() {
    let bench = Bench::new();
    for (option, prompt) in [
        ("--prompt", "<lora:mira:0.8> under a tree"),
        ("--prompt", "a tree, (<lora:mira:1>:1.2)"),
        ("--prompt", "<LORA:mira:1>"),
        ("--prompt", "<lyco:mira:1>"),
        ("--negative", "bad, <lora:bad:1>"),
    ] {
        bench.generate(&tiny(), &[option, prompt], &[option, "--lora FILE:SCALE"]);
    }
}

#[test]
fn loras_that_are_none_or_for_another_model() {
    let bench = Bench::new();
    let kohya = fs::read(lora("kohya")).expect("a LoRA");
    let mut garbled = kohya.clone();
    garbled[40..60].fill(0xff);
    let vast: Vec<u8> = [&u64::MAX.to_le_bytes(), &kohya[8..]].concat();
    for (name, bytes) in [
        ("text.safetensors", b"no LoRA".to_vec()),
        ("empty.safetensors", vec![]),
        ("half.safetensors", kohya[..kohya.len() / 2].to_vec()),
        ("nearly.safetensors", kohya[..kohya.len() - 1].to_vec()),
        ("header.safetensors", kohya[..100].to_vec()),
        ("vast.safetensors", vast),
        ("garbled.safetensors", garbled),
    ] {
        let file = bench.file(name, bytes);
        bench.generate(
            &tiny(),
            &["--lora", text(&file)],
            &[text(&file), "no readable safetensors"],
        );
        let info = samecast(["lora", "info", text(&file)]);
        info.refused(&[text(&file), "no readable safetensors"]);
    }
    let missing = bench.given.path().join("missing.safetensors");
    bench.generate(&tiny(), &["--lora", text(&missing)], &[text(&missing)]);
    let unet = tiny().join(WEIGHTS[0]);
    bench.generate(
        &tiny(),
        &["--lora", text(&unet)],
        &[text(&unet), "is no LoRA"],
    );

    for strength in ["much", "", "nan", "inf", "0,8", "1.5.2"] {
        let choice = format!("{}:{strength}", text(&lora("kohya")));
        bench.generate(
            &tiny(),
            &["--lora", &choice],
            &["--lora", &format!("`{strength}` is no strength")],
        );
    }
    bench.generate(
        &tiny(),
        &["--lora", ":1"],
        &["--lora", "a file is expected"],
    );
}

#[test]
fn loras_that_do_not_fit() {
    let bench = Bench::new();
    let file = bench.given.path().join("spoiled.safetensors");
    let stem = "lora_te_text_model_encoder_layers_0_mlp_fc1";
    let down = &format!("{stem}.lora_down.weight");
    let up = &format!("{stem}.lora_up.weight");
    let refused = |spoil: &dyn Fn(&mut std::collections::BTreeMap<String, common::Stored>),
                   told: &[&str]| {
        fs::copy(lora("kohya"), &file).expect("a copy");
        change(&file, |tensors| spoil(tensors));
        bench.generate(
            &tiny(),
            &["--lora", text(&file)],
            &[&[text(&file)], told].concat(),
        );
    };
    // A whole module, one factor, one alpha under another name.
    refused(
        &|tensors| {
            for end in ["lora_down.weight", "lora_up.weight", "alpha"] {
                let tensor = tensors.remove(&format!("{stem}.{end}")).expect("the key");
                tensors.insert(format!("{stem}x.{end}"), tensor);
            }
        },
        &[&format!("{stem}x"), "found no weight"],
    );
    refused(
        &|tensors| {
            let tensor = tensors.remove(down).expect("the key");
            tensors.insert("lora_xte_foo.lora_down.weight".into(), tensor);
        },
        &["lora_xte_foo.lora_down.weight"],
    );
    refused(
        &|tensors| drop(tensors.remove(down)),
        &[stem, "has no partner", "lora_down"],
    );
    // Made for a model of other sizes: key, found, expected.
    refused(
        &|tensors| {
            let tensor = tensors.get_mut(up).expect("the key");
            tensor.shape[0] += 1;
            tensor
                .bytes
                .resize(2 * tensor.shape.iter().product::<usize>(), 0);
        },
        &[stem, "factors make [193, 128]", "the weight is [192, 128]"],
    );
    refused(
        &|tensors| {
            let tensor = tensors.get_mut(down).expect("the key");
            tensor.shape[0] += 1;
            tensor
                .bytes
                .resize(2 * tensor.shape.iter().product::<usize>(), 0);
        },
        &[stem, "down is [5, 128]", "up is [192, 4]"],
    );
    refused(
        &|tensors| tensors.get_mut(up).expect("the key").bytes[..2].fill(0xff),
        &[stem, "not finite"],
    );
    refused(
        &|tensors| tensors.get_mut(up).expect("the key").dtype = safetensors::Dtype::I16,
        &[stem, "I16"],
    );
    for (key, model) in [
        (
            "lora_te2_text_model_encoder_layers_0_mlp_fc1",
            "Stable Diffusion XL",
        ),
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q",
            "Stable Diffusion XL",
        ),
    ] {
        refused(
            &|tensors| {
                let factors = [tensors[down].clone(), tensors[up].clone()];
                tensors.clear();
                for (factor, end) in factors.into_iter().zip(["down", "up"]) {
                    tensors.insert(format!("{key}.lora_{end}.weight"), factor);
                }
            },
            &[key, model],
        );
    }
}

#[test]
fn pictures_to_start_from() {
    let bench = Bench::new();
    let png = fs::read(reference().join("pictures/init.png")).expect("a picture");
    for (name, bytes) in [
        ("text.png", b"this is no picture".to_vec()),
        ("empty.png", vec![]),
        ("cut.png", png[..png.len() / 2].to_vec()),
        (
            "model.png",
            fs::read(tiny().join("model_index.json")).expect("a file"),
        ),
    ] {
        let file = bench.file(name, bytes);
        bench.generate(
            &tiny(),
            &["--init-image", text(&file)],
            &["--init-image", text(&file)],
        );
    }
    let missing = bench.given.path().join("missing.png");
    bench.generate(
        &tiny(),
        &["--init-image", text(&missing)],
        &["--init-image", text(&missing)],
    );
    bench.generate(
        &tiny(),
        &["--init-image", text(&tiny())],
        &["--init-image", text(&tiny())],
    );

    let good = reference().join("pictures/init.png");
    for strength in ["2", "-1", "nan", "inf"] {
        let options = ["--init-image", text(&good), "--strength", strength];
        bench.generate(&tiny(), &options, &["--strength is", "0 to 1"]);
    }
    let options = ["--init-image", text(&good), "--strength", "0.5"];
    bench.generate(&tiny(), &options, &["strength 0.5 of 1 steps"]);
}

#[test]
fn places_where_nothing_can_be_put() {
    let bench = Bench::new();
    let (made, file) = (bench.made.path(), bench.file("file.txt", "x"));
    let path = |name: &str| text(&made.join(name)).to_string();
    let inside = text(&file).to_string() + "/a";
    for (out, told) in [
        (path("a.jpg"), ".png"),
        (path("a"), ".png"),
        (path("missing/a.png"), "missing does not exist"),
        (inside.clone() + ".png", "file.txt does not exist"),
        (inside.clone() + "/", "cannot be made"),
    ] {
        bench.generate(&tiny(), &["--out", &out], &["--out", &out, told]);
    }
    fs::create_dir(bench.given.path().join("mira.safetensors")).expect("a folder");
    let folder = bench.given.path().join("mira.safetensors");
    for (out, told) in [
        (path("a.txt"), ".safetensors"),
        (path("a"), ".safetensors"),
        (text(made).to_string(), ".safetensors"),
        (text(&folder).to_string(), ".safetensors"),
        (path("missing/a.safetensors"), "missing does not exist"),
        (inside + ".safetensors", "file.txt does not exist"),
    ] {
        bench.train(&["--out", &out], &["--out", &out, told]);
    }
    for command in ["generate", "train"] {
        let empty = vec![command.to_string(), "--out".into(), String::new()];
        bench.refused(empty, &["--out"]);
    }
}

#[test]
fn options_of_train_out_of_range() {
    let bench = Bench::new();
    for (options, told) in [
        ("--rank 0", "--rank is 0; 1 to 1024"),
        ("--rank 2000", "--rank is 2000"),
        ("--rank -1", "--rank"),
        ("--alpha 0", "--alpha is 0"),
        ("--alpha nan", "--alpha is NaN"),
        ("--learning-rate nan", "--learning-rate is NaN"),
        ("--learning-rate -1", "--learning-rate is -1"),
        ("--learning-rate 0", "--learning-rate is 0"),
        ("--learning-rate fast", "--learning-rate"),
        (
            "--text-encoder-learning-rate -1",
            "--text-encoder-learning-rate is -1",
        ),
        ("--resolution 100", "--resolution is 100; a multiple of 8"),
        ("--resolution 0", "--resolution is 0"),
        ("--steps 0", "--steps is 0"),
        ("--steps many", "--steps"),
        ("--steps -1", "--steps"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--gradient-accumulation 0", "--gradient-accumulation is 0"),
        ("--clip-skip 0", "--clip-skip is 0"),
        ("--clip-skip 4", "--clip-skip is 4"),
        ("--min-snr-gamma -1", "--min-snr-gamma is -1"),
        ("--weight-decay -1", "--weight-decay is -1"),
        ("--max-grad-norm nan", "--max-grad-norm is NaN"),
        ("--lr-scheduler polynomial", "--lr-scheduler"),
        ("--format onnx", "--format"),
        ("--save-precision f8", "--save-precision"),
        ("--resume", "--resume"),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        bench.train(&options, &[told]);
    }
    #[cfg(not(feature = "cuda"))]
    bench.train(&["--device", "cuda"], &["--device cuda"]);
    bench.train(&["--trigger", ""], &["--trigger", "mychar001"]);
    bench.train(&["--trigger", " "], &["--trigger", "mychar001"]);
    let mut untold = bench.training(&tiny());
    let place = untold
        .iter()
        .position(|word| word == "--trigger")
        .expect("the trigger");
    untold.drain(place..place + 2);
    bench.refused(untold, &["--trigger", "mychar001"]);
}

#[test]
fn folders_of_pictures() {
    let bench = Bench::new();
    let images = bench.given.path().join("images");
    let train = |told: &[&str]| bench.train(&["--images", text(&images)], told);
    train(&[text(&images), "cannot be read"]);
    fs::create_dir(&images).expect("a folder");
    train(&[text(&images), "no picture in this folder"]);
    fs::write(images.join("notes.txt"), "nothing here").expect("a file");
    fs::create_dir(images.join("sub.png")).expect("a folder");
    train(&[text(&images), "no picture in this folder"]);

    for name in ["01.png", "01.txt", "02.png"] {
        fs::copy(pictures().join(name), images.join(name)).expect("a copy");
    }
    let (picture, caption) = (images.join("02.png"), images.join("01.txt"));
    let whole = fs::read(&picture).expect("a picture");
    for bytes in [
        b"this is no picture".as_slice(),
        b"",
        &whole[..whole.len() / 2],
    ] {
        fs::write(&picture, bytes).expect("a file");
        train(&[text(&picture), "is no picture that can be read"]);
    }
    fs::write(&picture, &whole).expect("a picture");
    for bytes in [b"caf\xe9".as_slice(), b"\xff\xfem\0y\0"] {
        fs::write(&caption, bytes).expect("a caption");
        train(&[text(&caption), "UTF-8"]);
    }
    fs::write(&caption, "a cat").expect("a caption");
    fs::copy(&picture, images.join("01.jpg")).expect("a copy");
    train(&["01.jpg", "01.png", "share one caption file"]);
    bench.train(
        &["--images", text(&caption)],
        &[text(&caption), "cannot be read"],
    );
}

#[test]
fn files_of_options() {
    let bench = Bench::new();
    for (options, told) in [
        ("rnk = 2", "`rnk`"),
        ("\n[train]\nrank = 2", "line 2, `[train]`"),
        (
            "seed = 1\nlearning-rate = 1e-4",
            "line 2, `learning-rate = 1e-4`: unknown field `learning-rate`",
        ),
        ("model = 'x.safetensors'", "`model`"),
        ("rank = 'two'", "line 1, `rank = 'two'`"),
        ("rank = -1", "`rank = -1`"),
        ("rank =", "line 1"),
        ("batch_size = 1.5", "`batch_size = 1.5`"),
        ("lr_scheduler = 'linear'", "`cosine` or `constant`"),
        (
            "seed = 99999999999999999999",
            "`seed = 99999999999999999999`",
        ),
        ("seed = 1\nseed = 2", "line 2"),
        ("\u{feff}né", "line 1"),
    ] {
        let file = bench.file("options.toml", options);
        bench.train(&["--config", text(&file)], &["--config", text(&file), told]);
    }
    // What the file says is checked as what the command line says.
    for (options, told) in [
        ("learning_rate = nan", "--learning-rate is NaN"),
        ("batch_size = 0", "--batch-size is 0"),
        ("min_snr_gamma = -1.0", "--min-snr-gamma is -1"),
    ] {
        let file = bench.file("options.toml", options);
        bench.train(&["--config", text(&file)], &[told]);
    }
    let file = bench.file("options.toml", b"\xff\xfe");
    bench.train(&["--config", text(&file)], &["--config", text(&file)]);
    let missing = bench.given.path().join("missing.toml");
    bench.train(&["--config", text(&missing)], &["--config", text(&missing)]);
    let folder = bench.given.path();
    bench.train(&["--config", text(folder)], &["--config", text(folder)]);
}

#[test]
fn models_are_refused_for_training_as_for_drawing() {
    let bench = Bench::new();
    let model = bench.model();
    change(&model.join(WEIGHTS[0]), |tensors| {
        drop(tensors.remove("conv_in.weight"))
    });
    bench.refused(bench.training(&model), &[WEIGHTS[0], "`conv_in.weight`"]);
    let model = bench.model();
    let scheduler = model.join("scheduler/scheduler_config.json");
    change_json(&scheduler, |config| config["beta_end"] = Value::from(2));
    bench.refused(
        bench.training(&model),
        &["scheduler_config.json", "beta_end"],
    );
}
