use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, FloatDType, Tensor};
use half::f16;
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Name, shape and values of a tensor.
type Made = (String, Vec<usize>, Vec<f32>);

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name)
}

fn tiny_sd() -> PathBuf {
    parity::reference().join("tiny-sd")
}

fn write(path: &Path, tensors: &[Made], dtype: Dtype) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| match dtype {
            Dtype::F16 => values
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                .collect(),
            Dtype::I64 => values
                .iter()
                .flat_map(|&v| (v as i64).to_le_bytes())
                .collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (
            name.as_str(),
            TensorView::new(dtype, shape.clone(), bytes).unwrap(),
        )
    });
    serialize_to_file(views, None, path).unwrap();
}

/// A tensor whose values tell its name and its places.
fn made(name: &str, shape: &[usize]) -> Made {
    let start: u32 = name.bytes().map(u32::from).sum();
    let values =
        (0..shape.iter().product::<usize>()).map(|i| ((start as usize + i) % 512) as f32 / 8.0);
    (name.to_owned(), shape.to_vec(), values.collect())
}

fn message<T>(result: Result<T, CheckpointError>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{message}` does not say `{word}`");
    }
}

fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(path, &CheckpointOptions::default())
}

// ------------------------------------------------------------------ files

#[test]
fn every_kind_of_pytorch_file_reads_as_torch_reads_it() {
    let expected = parity::Fixture::open(reference("expected.safetensors"));
    for name in [
        "plain.bin",
        "protocol4.pt",
        "legacy.pt",
        "nested.ckpt",
        "nested_legacy.ckpt",
    ] {
        let file = TensorFile::open(reference(name)).unwrap();
        let names: Vec<&str> = file.names().collect();
        assert_eq!(
            names,
            [
                "bf16",
                "f16",
                "f32",
                "f64",
                "i64",
                "scalar",
                "slice",
                "transposed"
            ],
            "{name}"
        );
        for tensor in names.into_iter().filter(|&tensor| tensor != "i64") {
            let (shape, values) = expected.float(tensor);
            assert_eq!(file.shape(tensor).unwrap(), shape, "{name}: {tensor}");
            assert_eq!(file.read_f32(tensor).unwrap(), values, "{name}: {tensor}");
        }
        assert_says(&message(file.read_f32("i64")), &["`i64`", "int64"]);
        assert_says(&message(file.read_f32("nothing")), &["lacks", "`nothing`"]);
    }
}

#[test]
fn a_pickle_that_would_run_something_is_refused_and_runs_nothing() {
    for name in [
        "malicious.ckpt",
        "malicious4.ckpt",
        "malicious_legacy.bin",
        "malicious.pkl",
    ] {
        let said = message(TensorFile::open(reference(name)));
        assert_says(&said, &[name, "posix.system", "Nothing of it was run"]);
    }
    assert!(!Path::new("ran").exists());
}

#[test]
fn a_pickle_cannot_take_more_memory_than_its_bytes_allow() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("many.pt");
    let mut pickle = vec![0x80, 2];
    pickle.resize(3_000_000, b'N');
    std::fs::write(&path, &pickle).unwrap();
    assert_says(
        &message(TensorFile::open(&path)),
        &["damaged", "a million opcodes"],
    );
}

#[test]
fn shards_open_by_their_index() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("m-1.safetensors"), &[made("a", &[2, 3])], Dtype::F32);
    write(
        &at("m-2.safetensors"),
        &[made("b", &[4]), made("c", &[1])],
        Dtype::F16,
    );
    let index = at("m.safetensors.index.json");
    let put =
        |map: Value| std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();

    put(json!({"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-2.safetensors"}));
    let file = TensorFile::open(&index).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(file.files().count(), 2);
    assert_eq!(file.read_f32("b").unwrap(), made("b", &[4]).2);

    put(json!({"a": "m-1.safetensors", "d": "m-2.safetensors"}));
    assert_says(
        &message(TensorFile::open(&index)),
        &["m-2.safetensors", "lacks", "`d`"],
    );
    put(json!({"a": "../m-1.safetensors"}));
    assert_says(
        &message(TensorFile::open(&index)),
        &["`a`", "beside the index"],
    );
    put(json!({"a": "m-3.safetensors"}));
    assert_says(
        &message(TensorFile::open(&index)),
        &["m-3.safetensors", "does not exist"],
    );
    put(json!([1]));
    assert_says(&message(TensorFile::open(&index)), &["weight_map"]);
}

#[test]
fn what_is_no_checkpoint_is_told_by_its_content() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(reference("expected.safetensors")).unwrap();
    let cases: &[(&[u8], &[&str])] = &[
        (b"", &["is empty"]),
        (b"<!DOCTYPE html><html>Sign in</html>", &["web page"]),
        (b"\n  <html>", &["web page"]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            &["Git LFS pointer"],
        ),
        (b"{\"error\": \"no\"}", &["JSON"]),
        (b"GGUF\x03\0\0\0\0\0\0\0", &["GGUF"]),
        (&[0; 4096], &["zeros"]),
        (
            b"hello world, this is text",
            &["neither a safetensors nor a PyTorch file"],
        ),
        (&whole[..whole.len() - 7], &["cut short", "916", "909"]),
        (&whole[..100], &["cut short", "100"]),
        (b"PK\x03\x04 and nothing more", &["damaged"]),
        (b"\x80\x02}q", &["damaged", "ends early"]),
    ];
    for (content, words) in cases {
        std::fs::write(&path, content).unwrap();
        let said = message(open(&path));
        assert_says(&said, words);
        assert_says(&said, &["model.safetensors"]);
    }
    std::fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
    assert_says(&message(open(&path)), &["damaged", "header does not fit"]);
    assert_says(
        &message(open(&folder.path().join("none"))),
        &["none", "does not exist"],
    );
}

fn mutated(seed: &[u8], edits: &[(usize, u8)], length: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for &(at, value) in edits {
        let at = at % bytes.len();
        bytes[at] = value;
    }
    bytes.truncate(length % (seed.len() + 1));
    bytes
}

/// Opens and reads everything: whatever the bytes, the answer is a value or an error.
fn devour(path: &Path) {
    if let Ok(file) = TensorFile::open(path) {
        for name in file.names().map(str::to_owned).collect::<Vec<_>>() {
            let _ = file.read_f32(&name);
            let _ = file.read(&name, FloatDType::F16);
        }
    }
    if let Err(error) = open(path) {
        assert!(!error.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn garbled_files_are_errors(
        which in 0usize..6,
        edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        cut in prop_oneof![Just(0usize), any::<usize>()],
    ) {
        let name = ["expected.safetensors", "plain.bin", "protocol4.pt", "legacy.pt", "nested.ckpt", "nested_legacy.ckpt"][which];
        let seed = std::fs::read(reference(name)).unwrap();
        let length = if cut == 0 { seed.len() } else { cut };
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("garbled");
        std::fs::write(&path, mutated(&seed, &edits, length)).unwrap();
        devour(&path);
    }

    /// Few edits of a whole file hit its short pickle; here the pickle is all there is.
    #[test]
    fn garbled_pickles_are_errors(
        edits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        length in any::<usize>(),
    ) {
        let legacy = std::fs::read(reference("legacy.pt")).unwrap();
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("garbled");
        std::fs::write(&path, mutated(&legacy[..legacy.len() * 2 / 3], &edits, length)).unwrap();
        devour(&path);
    }

    #[test]
    fn garbled_headers_are_errors(header in "\\{(\"[a-z_]{0,12}\":(\\{\"dtype\":\"(F32|F16|I64|X)\",\"shape\":\\[-?[0-9]{0,20}\\],\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\}|[0-9]{1,3}),?){0,3}\\}?", tail in 0usize..64) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("garbled");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + tail, 0);
        std::fs::write(&path, bytes).unwrap();
        devour(&path);
    }

    #[test]
    fn garbled_indices_are_errors(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6), length in any::<usize>()) {
        let folder = TempDir::new().unwrap();
        write(&folder.path().join("a.safetensors"), &[made("a", &[2])], Dtype::F32);
        let seed = br#"{"metadata": {"total_size": 8}, "weight_map": {"a": "a.safetensors"}}"#;
        let path = folder.path().join("m.safetensors.index.json");
        std::fs::write(&path, mutated(seed, &edits, length)).unwrap();
        devour(&path);
    }
}

// ------------------------------------------------------------------ modules

#[derive(Module, Debug)]
struct Block {
    norm: GroupNorm,
    to_q: Linear,
    to_out: [Linear; 1],
    conv: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct Net {
    words: Embedding,
    blocks: Vec<Block>,
    net: (Linear, LayerNorm),
    scale: f64,
}

fn net(device: &Device) -> Net {
    let linear = |from, to| LinearConfig::new(from, to).init(device);
    let block = |conv: bool| Block {
        norm: GroupNormConfig::new(2, 4).init(device),
        to_q: linear(4, 4).no_grad(),
        to_out: [linear(4, 6)],
        conv: conv.then(|| Conv2dConfig::new([4, 2], [3, 3]).init(device)),
    };
    Net {
        words: EmbeddingConfig::new(5, 4).init(device),
        blocks: vec![block(true), block(false)],
        net: (linear(3, 70), LayerNormConfig::new(4).init(device)),
        scale: 1.0,
    }
}

fn net_tensors() -> Vec<Made> {
    let mut tensors = vec![
        made("words.weight", &[5, 4]),
        made("net.0.weight", &[70, 3]),
        made("net.0.bias", &[70]),
        made("net.1.weight", &[4]),
        made("net.1.bias", &[4]),
        made("blocks.0.conv.weight", &[2, 4, 3, 3]),
        made("blocks.0.conv.bias", &[2]),
    ];
    for block in 0..2 {
        tensors.extend([
            made(&format!("blocks.{block}.norm.weight"), &[4]),
            made(&format!("blocks.{block}.norm.bias"), &[4]),
            made(&format!("blocks.{block}.to_q.weight"), &[4, 4]),
            made(&format!("blocks.{block}.to_q.bias"), &[4]),
            // A 1×1 convolution where the model has a linear layer.
            made(&format!("blocks.{block}.to_out.0.weight"), &[6, 4, 1, 1]),
            made(&format!("blocks.{block}.to_out.0.bias"), &[6]),
        ]);
    }
    tensors
}

fn load_net(tensors: &[Made], stored: Dtype, dtype: FloatDType) -> Result<Net, CheckpointError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("net.safetensors");
    write(&path, tensors, stored);
    let weights = Weights::new(Arc::new(TensorFile::open(&path)?));
    load_module(net(&parity::device()), &weights, dtype)
}

#[test]
fn a_module_takes_every_tensor_in_its_own_layout() {
    for stored in [Dtype::F32, Dtype::F16] {
        let loaded = load_net(&net_tensors(), stored, FloatDType::F32).unwrap();
        assert_eq!(
            parity::values(loaded.words.weight.val()),
            made("words.weight", &[5, 4]).2
        );
        assert_eq!(
            parity::values(loaded.net.0.weight.val().transpose()),
            made("net.0.weight", &[70, 3]).2
        );
        assert_eq!(
            parity::values(loaded.net.1.gamma.val()),
            made("net.1.weight", &[4]).2
        );
        let block = &loaded.blocks[1];
        assert_eq!(
            parity::values(block.norm.gamma.as_ref().unwrap().val()),
            made("blocks.1.norm.weight", &[4]).2
        );
        assert_eq!(
            parity::values(block.norm.beta.as_ref().unwrap().val()),
            made("blocks.1.norm.bias", &[4]).2
        );
        assert_eq!(
            parity::values(block.to_out[0].weight.val().transpose()),
            made("blocks.1.to_out.0.weight", &[6, 4]).2
        );
        assert_eq!(
            parity::values(loaded.blocks[0].conv.as_ref().unwrap().weight.val()),
            made("blocks.0.conv.weight", &[2, 4, 3, 3]).2
        );
        assert!(!block.to_out[0].weight.is_require_grad());
    }
}

#[test]
fn a_module_is_loaded_in_the_type_that_is_asked_for() {
    for (dtype, name) in [
        (FloatDType::F16, "F16"),
        (FloatDType::BF16, "BF16"),
        (FloatDType::F64, "F64"),
    ] {
        let loaded = load_net(&net_tensors(), Dtype::F32, dtype).unwrap();
        let weight = loaded.net.0.weight.val();
        assert_eq!(format!("{:?}", weight.dtype()), name);
    }
    let loaded = load_net(&net_tensors(), Dtype::F32, FloatDType::F16).unwrap();
    assert_eq!(
        parity::values(loaded.net.0.weight.val().transpose()),
        made("net.0.weight", &[70, 3]).2
    );
}

#[test]
fn identities_and_the_autodiff_device_stay() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("net.safetensors");
    write(&path, &net_tensors(), Dtype::F32);
    let weights = Weights::new(Arc::new(TensorFile::open(&path).unwrap()));
    let fresh = net(&parity::device().autodiff());
    let id = fresh.net.0.weight.id;
    let loaded = load_module(fresh.clone(), &weights, FloatDType::F32).unwrap();
    assert!(!fresh.net.0.weight.is_initialized());
    assert_eq!(loaded.net.0.weight.id, id);
    let weight: Tensor<2> = loaded.net.0.weight.val();
    assert!(weight.is_autodiff() && !weight.is_require_grad());
}

#[test]
fn a_module_and_a_file_that_differ_are_an_error_by_name() {
    let all = net_tensors();
    let load = |tensors: &[Made]| message(load_net(tensors, Dtype::F32, FloatDType::F32));

    let without: Vec<Made> = all
        .iter()
        .filter(|t| t.0 != "net.1.weight")
        .cloned()
        .collect();
    assert_says(&load(&without), &["lacks one tensor", "`net.1.weight`"]);

    let mut more = all.clone();
    more.push(made("blocks.2.norm.weight", &[4]));
    assert_says(&load(&more), &["unknown use", "`blocks.2.norm.weight`"]);

    let mut other = all.clone();
    other[1] = made("net.0.weight", &[3, 70]);
    assert_says(&load(&other), &["`net.0.weight`", "[3, 70]", "[70, 3]"]);

    let ints = message(load_net(&all, Dtype::I64, FloatDType::F32));
    assert_says(&ints, &["int64", "expected f16"]);

    let mut many = all.clone();
    many.extend((0..9).map(|i| made(&format!("extra.{i}"), &[1])));
    assert_says(&load(&many), &["9 tensors", "`extra.4` and 4 more"]);
}

// ------------------------------------------------------------------ names

/// The original name of a tensor of diffusers' UNet: the numbers of facts written down for `layers` blocks a level, not the walk.
fn ldm_unet(key: &str, layers: usize, levels: usize) -> String {
    let resnet = |rest: &str| {
        rest.replace("norm1.", "in_layers.0.")
            .replace("conv1.", "in_layers.2.")
            .replace("time_emb_proj.", "emb_layers.1.")
            .replace("norm2.", "out_layers.0.")
            .replace("conv2.", "out_layers.3.")
            .replace("conv_shortcut.", "skip_connection.")
    };
    let part: Vec<&str> = key.split('.').collect();
    let number = |i: usize| part[i].parse::<usize>().unwrap();
    match part[0] {
        "conv_in" => format!("input_blocks.0.0.{}", part[1]),
        "conv_norm_out" => format!("out.0.{}", part[1]),
        "conv_out" => format!("out.2.{}", part[1]),
        "time_embedding" if part[1] == "linear_1" => format!("time_embed.0.{}", part[2]),
        "time_embedding" => format!("time_embed.2.{}", part[2]),
        "mid_block" if part[1] == "attentions" => format!("middle_block.1.{}", part[3..].join(".")),
        "mid_block" => format!(
            "middle_block.{}.{}",
            2 * number(2),
            resnet(&part[3..].join("."))
        ),
        "down_blocks" if part[2] == "downsamplers" => {
            format!(
                "input_blocks.{}.0.op.{}",
                (number(1) + 1) * (layers + 1),
                part[5]
            )
        }
        "down_blocks" => {
            let block = (layers + 1) * number(1) + number(3) + 1;
            match part[2] {
                "resnets" => format!("input_blocks.{block}.0.{}", resnet(&part[4..].join("."))),
                _ => format!("input_blocks.{block}.1.{}", part[4..].join(".")),
            }
        }
        _ if part[2] == "upsamplers" => {
            let block = (layers + 1) * number(1) + layers;
            // The level with the bottom's channels has no attention, so its upsampler comes second.
            let place = if number(1) == 0 && levels > 1 { 1 } else { 2 };
            format!("output_blocks.{block}.{place}.conv.{}", part[5])
        }
        _ => {
            let block = (layers + 1) * number(1) + number(3);
            match part[2] {
                "resnets" => format!("output_blocks.{block}.0.{}", resnet(&part[4..].join("."))),
                _ => format!("output_blocks.{block}.1.{}", part[4..].join(".")),
            }
        }
    }
}

fn ldm_vae(key: &str, levels: usize) -> String {
    let mut part: Vec<String> = key.split('.').map(str::to_owned).collect();
    if part.len() > 3 && part[1].ends_with("_blocks") {
        let level: usize = part[2].parse().unwrap();
        if part[1] == "up_blocks" {
            part[2] = (levels - 1 - level).to_string();
        }
    }
    part.join(".")
        .replace("down_blocks", "down")
        .replace("up_blocks", "up")
        .replace("downsamplers.0", "downsample")
        .replace("upsamplers.0", "upsample")
        .replace("mid_block.resnets.0", "mid.block_1")
        .replace("mid_block.resnets.1", "mid.block_2")
        .replace("mid_block.attentions.0", "mid.attn_1")
        .replace("resnets", "block")
        .replace("conv_shortcut", "nin_shortcut")
        .replace("conv_norm_out", "norm_out")
        .replace("group_norm", "norm")
        .replace("to_q", "q")
        .replace("to_k", "k")
        .replace("to_v", "v")
        .replace("to_out.0", "proj_out")
}

/// The names of a UNet of any size, and the original ones.
fn unet_names(layers: usize, levels: usize, depth: usize) -> BTreeMap<String, String> {
    let mut names = Vec::new();
    let resnet = |names: &mut Vec<String>, at: String| {
        for part in [
            "norm1",
            "conv1",
            "time_emb_proj",
            "norm2",
            "conv2",
            "conv_shortcut",
        ] {
            names.push(format!("{at}.{part}.weight"));
        }
    };
    let attention = |names: &mut Vec<String>, at: String| {
        for part in ["norm.weight", "proj_in.weight", "proj_out.bias"] {
            names.push(format!("{at}.{part}"));
        }
        for block in 0..depth {
            for part in [
                "attn1.to_q.weight",
                "attn2.to_out.0.bias",
                "ff.net.0.proj.weight",
                "norm1.weight",
            ] {
                names.push(format!("{at}.transformer_blocks.{block}.{part}"));
            }
        }
    };
    for name in [
        "conv_in",
        "conv_norm_out",
        "conv_out",
        "time_embedding.linear_1",
        "time_embedding.linear_2",
    ] {
        names.push(format!("{name}.weight"));
    }
    attention(&mut names, "mid_block.attentions.0".to_owned());
    resnet(&mut names, "mid_block.resnets.0".to_owned());
    resnet(&mut names, "mid_block.resnets.1".to_owned());
    for level in 0..levels {
        for layer in 0..layers {
            resnet(&mut names, format!("down_blocks.{level}.resnets.{layer}"));
            if level + 1 < levels || levels == 1 {
                attention(
                    &mut names,
                    format!("down_blocks.{level}.attentions.{layer}"),
                );
            }
        }
        for layer in 0..=layers {
            resnet(&mut names, format!("up_blocks.{level}.resnets.{layer}"));
            if level > 0 || levels == 1 {
                attention(&mut names, format!("up_blocks.{level}.attentions.{layer}"));
            }
        }
        if level + 1 < levels {
            names.push(format!("down_blocks.{level}.downsamplers.0.conv.weight"));
            names.push(format!("up_blocks.{level}.upsamplers.0.conv.weight"));
        }
    }
    names
        .into_iter()
        .map(|name| {
            let theirs = ldm_unet(&name, layers, levels);
            (name, theirs)
        })
        .collect()
}

proptest! {
    #[test]
    fn the_unets_names_map_at_any_size(layers in 1usize..5, levels in 1usize..6, depth in 1usize..3) {
        let names = unet_names(layers, levels, depth);
        let theirs: Vec<String> = names.values().map(|name| format!("model.diffusion_model.{name}")).collect();
        let sorted = ldm::sort(theirs.iter().map(String::as_str));
        prop_assert_eq!(sorted.unknown, Vec::<String>::new());
        prop_assert_eq!(sorted.unet.len(), names.len());
        for (ours, theirs) in &sorted.unet {
            prop_assert_eq!(&format!("model.diffusion_model.{}", names[ours]), theirs);
        }
    }

    #[test]
    fn no_name_is_lost(keys in prop::collection::btree_set("(model\\.diffusion_model\\.|first_stage_model\\.|cond_stage_model\\.transformer\\.|)((input|output)_blocks|middle_block|decoder\\.up|encoder\\.down|encoder\\.mid|text_model\\.encoder\\.layers|betas)(\\.([0-9]{1,30}|conv|op|norm|block|weight|in_layers)){0,4}", 0..12)) {
        let sorted = ldm::sort(keys.iter().map(String::as_str));
        let mut seen: Vec<String> = [sorted.unet, sorted.vae, sorted.text_encoder].into_iter().flat_map(BTreeMap::into_values).collect();
        seen.extend(sorted.ignored);
        seen.extend(sorted.unknown);
        seen.sort();
        prop_assert_eq!(seen, keys.into_iter().collect::<Vec<_>>());
    }
}

proptest! {
    /// Names that look like a model's and are none, under shapes that look like nothing.
    #[test]
    fn garbled_names_are_errors(keys in prop::collection::btree_map("(model\\.diffusion_model|first_stage_model|cond_stage_model\\.transformer)\\.((input|output)_blocks|middle_block|out|decoder\\.(up|up_blocks|conv_in)|encoder\\.(down|down_blocks|layers))\\.([0-9]|18446744073709551615)(\\.(0|1|0\\.op|block\\.0|resnets\\.0|18446744073709551615))?\\.(in_layers\\.2|conv1|conv|mlp\\.fc1)?\\.?weight", 0usize..5, 0..12)) {
        let folder = TempDir::new().unwrap();
        let tensors: Vec<Made> = keys.iter().map(|(key, &rank)| made(key, &vec![2; rank])).collect();
        if !tensors.is_empty() {
            assert!(open(&saved(&folder, &tensors)).is_err());
        }
        for part in Part::ALL {
            let file = Arc::new(TensorFile::open(reference("expected.safetensors")).unwrap());
            let names = keys.keys().map(|key| (key.split_once("model.").unwrap().1.to_owned(), "f32".to_owned())).collect();
            let _ = infer::config(part, &Weights::renamed(file, names));
        }
    }
}

#[test]
fn a_block_of_the_greatest_number_is_an_error() {
    let file = Arc::new(TensorFile::open(reference("expected.safetensors")).unwrap());
    for (part, blocks) in [
        (Part::Unet, "down_blocks"),
        (Part::Vae, "encoder.down_blocks"),
    ] {
        let names = [(format!("{blocks}.{}.x", usize::MAX), "f32".to_owned())];
        assert!(infer::config(part, &Weights::renamed(file.clone(), names.into())).is_err());
    }
}

#[test]
fn the_names_are_those_that_diffusers_own_converters_accept() {
    let text = std::fs::read_to_string(parity::reference().join("ldm_keys.json")).unwrap();
    let pairs: Vec<(String, String, String, Vec<usize>)> = serde_json::from_str(&text).unwrap();
    let sorted = ldm::sort(pairs.iter().map(|(_, _, theirs, _)| theirs.as_str()));
    assert_eq!(sorted.unknown, Vec::<String>::new());
    let mut mapped = 0;
    for (part, ours, theirs, _) in &pairs {
        let names = match part.as_str() {
            "unet" => &sorted.unet,
            "vae" => &sorted.vae,
            _ => &sorted.text_encoder,
        };
        let ours = ours.strip_prefix("text_model.").unwrap_or(ours);
        assert_eq!(names.get(ours), Some(theirs), "{part}: {ours}");
        mapped += 1;
    }
    let all = sorted.unet.len() + sorted.vae.len() + sorted.text_encoder.len();
    assert_eq!((mapped, mapped), (all, pairs.len()));
}

#[test]
fn tensors_that_no_picture_needs_are_told_from_unknown_ones() {
    let ignorable = [
        "model_ema.decay",
        "model_ema.diffusion_modelinput_blocks00weight",
        "alphas_cumprod",
        "betas",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_mean_coef1",
        "log_one_minus_alphas_cumprod",
        "lvlb_weights",
        "logit_scale",
        "cond_stage_model.logit_scale",
        "cond_stage_model.text_projection",
        "cond_stage_model.transformer.text_projection.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.transformer.embeddings.position_ids",
        "first_stage_model.loss.logvar",
        "first_stage_model.model_ema.decay",
        "loss.discriminator.main.0.weight",
    ];
    let sorted = ldm::sort(ignorable.into_iter());
    assert_eq!(sorted.ignored, ignorable);
    let unknown = [
        "model.diffusion_model.input_blocks.1.0.weight2",
        "model.diffusion_model.label_emb.0.0.weight",
        "first_stage_model.encoder.down.0.attn.0.q.weight",
        "cond_stage_model.transformer.vision_model.x",
        "something",
    ];
    assert_eq!(ldm::sort(unknown.into_iter()).unknown, unknown);
}

// ------------------------------------------------------------------ checkpoints

/// The small reference model's tensors under the original names.
fn ldm_tensors(nai: bool) -> Vec<Made> {
    let folder = open(&tiny_sd()).unwrap();
    let mut tensors = Vec::new();
    for part in Part::ALL {
        let weights = folder.weights(part);
        for (ours, theirs) in weights.names() {
            let file = weights.file();
            let name = match part {
                Part::Unet => format!("model.diffusion_model.{}", ldm_unet(ours, 2, 4)),
                Part::Vae => format!("first_stage_model.{}", ldm_vae(ours, 4)),
                Part::TextEncoder if nai => format!("cond_stage_model.transformer.{ours}"),
                Part::TextEncoder => format!("cond_stage_model.transformer.text_model.{ours}"),
            };
            let mut shape = file.shape(theirs).unwrap().to_vec();
            if name.contains("mid.attn_1.") && shape.len() == 2 {
                shape.extend([1, 1]);
            }
            tensors.push((name, shape, file.read_f32(theirs).unwrap()));
        }
    }
    tensors
}

fn saved(folder: &TempDir, tensors: &[Made]) -> PathBuf {
    let path = folder.path().join("model.safetensors");
    write(&path, tensors, Dtype::F32);
    path
}

#[test]
fn a_diffusers_folder_opens() {
    let checkpoint = open(&tiny_sd()).unwrap();
    assert_eq!(checkpoint.layout(), Layout::DiffusersFolder);
    assert_eq!(
        checkpoint.config(Part::Unet)["_class_name"],
        "UNet2DConditionModel"
    );
    assert_eq!(checkpoint.tokenizer().unwrap(), tiny_sd().join("tokenizer"));
    assert!(checkpoint.scheduler_config().unwrap()["beta_start"].is_number());
    assert!(
        checkpoint
            .weights(Part::Vae)
            .shape("decoder.conv_in.weight")
            .is_some()
    );
    assert!(
        checkpoint
            .weights(Part::TextEncoder)
            .shape("final_layer_norm.bias")
            .is_some()
    );
}

#[test]
fn a_single_file_has_the_folders_tensors_and_configuration() {
    let whole = open(&tiny_sd()).unwrap();
    for nai in [false, true] {
        let folder = TempDir::new().unwrap();
        let mut tensors = ldm_tensors(nai);
        tensors.push(made("model_ema.decay", &[1]));
        let path = saved(&folder, &tensors);
        let single = open(&path).unwrap();
        assert_eq!(single.layout(), Layout::SingleFile);
        assert_eq!(single.ignored(), ["model_ema.decay"]);
        assert!(single.tokenizer().is_none() && single.scheduler_config().is_none());
        for part in Part::ALL {
            let (ours, theirs) = (single.weights(part), whole.weights(part));
            let names = |weights: &Weights| {
                weights
                    .names()
                    .map(|(ours, _)| ours.to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(names(ours), names(theirs));
            for (name, key) in theirs.names() {
                let own = ours.names().find(|(own, _)| *own == name).unwrap().1;
                assert_eq!(
                    ours.file().read_f32(own).unwrap(),
                    theirs.file().read_f32(key).unwrap(),
                    "{name}"
                );
            }
            // What the tensors do not tell: the size of the training pictures, and ids that the tokenizer has.
            let unknown = [
                "sample_size",
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
                "transformer_layers_per_block",
            ];
            let told = single.config(part).as_object().unwrap();
            for (field, value) in told
                .iter()
                .filter(|(field, _)| !unknown.contains(&field.as_str()))
            {
                let same = whole.config(part).get(field);
                assert!(
                    same.is_none_or(|theirs| theirs == value
                        || theirs.as_f64().is_some() && theirs.as_f64() == value.as_f64()),
                    "{part}: {field} is {value}, in the folder {same:?}"
                );
            }
            for field in [
                "block_out_channels",
                "down_block_types",
                "layers_per_block",
                "hidden_size",
                "vocab_size",
            ] {
                assert_eq!(
                    told.contains_key(field),
                    whole.config(part).get(field).is_some(),
                    "{part}: {field}"
                );
            }
        }
    }
}

#[test]
fn a_vae_of_any_form_takes_the_place_of_the_checkpoints_own() {
    let folder = TempDir::new().unwrap();
    let all = ldm_tensors(false);
    let (vae, rest): (Vec<Made>, Vec<Made>) = all
        .iter()
        .cloned()
        .partition(|t| t.0.starts_with("first_stage_model."));
    let without = saved(&folder, &rest);
    assert_says(&message(open(&without)), &["has no VAE", "--vae"]);

    let strip = |(name, shape, values): &Made| {
        (
            name.replace("first_stage_model.", ""),
            shape.clone(),
            values.clone(),
        )
    };
    let bare: Vec<Made> = vae.iter().map(strip).collect();
    let whole = open(&tiny_sd()).unwrap();
    let weights = whole.weights(Part::Vae);
    let old: Vec<Made> = weights
        .names()
        .map(|(name, key)| {
            let mut name = name.to_owned();
            for (new, old) in [
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ] {
                name = name.replace(new, old);
            }
            let file = weights.file();
            (
                name,
                file.shape(key).unwrap().to_vec(),
                file.read_f32(key).unwrap(),
            )
        })
        .collect();
    let mut files = Vec::new();
    for (name, tensors) in [("prefixed", &vae), ("bare", &bare), ("old", &old)] {
        let path = folder.path().join(format!("{name}.safetensors"));
        write(&path, tensors, Dtype::F32);
        files.push(path);
    }
    files.extend([tiny_sd().join("vae"), tiny_sd(), {
        let path = folder.path().join("whole.safetensors");
        write(&path, &all, Dtype::F16);
        path
    }]);
    for vae in files {
        let options = CheckpointOptions {
            vae: Some(vae.clone()),
        };
        for base in [
            &without,
            &tiny_sd(),
            &folder.path().join("whole.safetensors"),
        ] {
            if !base.exists() {
                continue;
            }
            let checkpoint = Checkpoint::open(base, &options)
                .unwrap_or_else(|e| panic!("{}: {e}", vae.display()));
            assert_eq!(checkpoint.config(Part::Vae)["scaling_factor"], 0.18215);
            let names = |weights: &Weights| {
                weights
                    .names()
                    .map(|(name, _)| name.to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(names(checkpoint.weights(Part::Vae)), names(weights));
        }
    }
    let options = CheckpointOptions {
        vae: Some(without.clone()),
    };
    assert_says(
        &message(Checkpoint::open(tiny_sd(), &options)),
        &["has no VAE"],
    );
    let options = CheckpointOptions {
        vae: Some(reference("plain.bin")),
    };
    assert_says(
        &message(Checkpoint::open(tiny_sd(), &options)),
        &["plain.bin", "is no VAE"],
    );
}

#[test]
fn other_models_are_named() {
    let folder = TempDir::new().unwrap();
    let cases = [
        (
            "cond_stage_model.model.transformer.resblocks.0.ln_1.weight",
            "Stable Diffusion 2.x",
        ),
        (
            "conditioner.embedders.1.model.ln_final.weight",
            "Stable Diffusion XL",
        ),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        (
            "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
            "Flux",
        ),
        (
            "model.diffusion_model.joint_blocks.0.x",
            "Stable Diffusion 3",
        ),
        (
            "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
            "a LoRA",
        ),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("decoder.conv_in.weight", "model.diffusion_model"),
        (
            "down_blocks.0.resnets.0.conv1.weight",
            "model.diffusion_model",
        ),
        ("text_model.final_layer_norm.weight", "only a text encoder"),
    ];
    for (key, says) in cases {
        let path = saved(&folder, &[made(key, &[2, 2])]);
        assert_says(&message(open(&path)), &[says, "Stable Diffusion 1.x"]);
    }

    let mut inpaint = ldm_tensors(false);
    for tensor in &mut inpaint {
        if tensor.0 == "model.diffusion_model.input_blocks.0.0.weight" {
            *tensor = made(&tensor.0, &[32, 9, 3, 3]);
        }
    }
    assert_says(
        &message(open(&saved(&folder, &inpaint))),
        &["inpainting", "9 channels"],
    );

    let mut more = ldm_tensors(false);
    more.push(made("model.diffusion_model.extra", &[1]));
    assert_says(
        &message(open(&saved(&folder, &more))),
        &["unknown use", "`model.diffusion_model.extra`"],
    );

    let some: Vec<Made> = ldm_tensors(false)
        .into_iter()
        .filter(|t| !t.0.starts_with("cond_stage_model."))
        .collect();
    assert_says(
        &message(open(&saved(&folder, &some))),
        &["has no text encoder"],
    );
    let odd: Vec<Made> = ldm_tensors(false)
        .into_iter()
        .filter(|t| !t.0.contains("output_blocks.5."))
        .collect();
    assert_says(
        &message(open(&saved(&folder, &odd))),
        &["model.safetensors"],
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_folder_that_is_not_whole_says_what_is_missing() {
    let temporary = TempDir::new().unwrap();
    let root = temporary.path().join("model");
    let fresh = || {
        let _ = std::fs::remove_dir_all(&root);
        copy(&tiny_sd(), &root);
    };
    let says = |words: &[&str]| assert_says(&message(open(&root)), words);

    std::fs::create_dir(&root).unwrap();
    says(&["is no model", "model_index.json"]);
    std::fs::write(root.join("rv.safetensors"), b"x").unwrap();
    says(&["did you mean", "rv.safetensors"]);
    assert_says(
        &message(open(&tiny_sd().join("unet"))),
        &["single component"],
    );

    fresh();
    std::fs::remove_dir_all(root.join("text_encoder")).unwrap();
    says(&["has no text encoder", "text_encoder"]);
    fresh();
    std::fs::remove_dir_all(root.join("vae")).unwrap();
    says(&["has no VAE", "--vae"]);
    let options = CheckpointOptions {
        vae: Some(tiny_sd().join("vae")),
    };
    Checkpoint::open(&root, &options).unwrap();
    fresh();
    std::fs::remove_file(root.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    says(&[
        "unet",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
    ]);
    fresh();
    std::fs::remove_file(root.join("unet/config.json")).unwrap();
    says(&["unet/config.json", "does not exist"]);
    fresh();
    std::fs::copy(root.join("vae/config.json"), root.join("unet/config.json")).unwrap();
    says(&["AutoencoderKL", "UNet2DConditionModel"]);
    fresh();
    std::fs::write(root.join("unet/config.json"), b"{").unwrap();
    says(&["unet/config.json", "JSON"]);
    fresh();
    std::fs::write(
        root.join("model_index.json"),
        br#"{"_class_name": "StableDiffusionXLPipeline"}"#,
    )
    .unwrap();
    says(&["StableDiffusionXLPipeline", "1.x"]);
}

#[test]
fn variants_and_shards_are_found() {
    let temporary = TempDir::new().unwrap();
    let root = temporary.path().join("model");
    copy(&tiny_sd(), &root);
    let unet = root.join("unet");
    let plain = unet.join("diffusion_pytorch_model.safetensors");
    let opened = || {
        let checkpoint = open(&root).unwrap();
        let path = checkpoint.weights(Part::Unet).file().path().to_owned();
        path.file_name().unwrap().to_string_lossy().into_owned()
    };
    std::fs::copy(
        &plain,
        unet.join("diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    assert_eq!(opened(), "diffusion_pytorch_model.safetensors");
    std::fs::remove_file(&plain).unwrap();
    assert_eq!(opened(), "diffusion_pytorch_model.fp16.safetensors");

    let file = TensorFile::open(unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let tensors: Vec<Made> = file
        .names()
        .map(|name| {
            (
                name.to_owned(),
                file.shape(name).unwrap().to_vec(),
                file.read_f32(name).unwrap(),
            )
        })
        .collect();
    std::fs::remove_file(unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for (shard, tensors) in tensors.chunks(tensors.len() / 2 + 1).enumerate() {
        let name = format!("diffusion_pytorch_model-{shard}.safetensors");
        write(&unet.join(&name), tensors, Dtype::F32);
        map.extend(
            tensors
                .iter()
                .map(|t| (t.0.clone(), Value::from(name.as_str()))),
        );
    }
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    std::fs::write(index, json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(opened(), "diffusion_pytorch_model.safetensors.index.json");
}

#[test]
fn the_trained_size_is_that_of_diffusers_default_picture() {
    let temporary = TempDir::new().unwrap();
    let root = temporary.path().join("model");
    copy(&tiny_sd(), &root);
    let config = root.join("unet/config.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let size = |sample: serde_json::Value, version: Option<&str>| {
        let mut json = json.clone();
        json["sample_size"] = sample;
        let fields = json.as_object_mut().unwrap();
        fields.remove("_diffusers_version");
        if let Some(version) = version {
            fields.insert("_diffusers_version".into(), version.into());
        }
        std::fs::write(&config, json.to_string()).unwrap();
        open(&root).unwrap().trained_size()
    };
    // Height before width, in cells of 8 pixels.
    assert_eq!(size(json!(12), None), Some([96, 96]));
    assert_eq!(size(json!([12, 20]), Some("0.35.1")), Some([160, 96]));
    assert_eq!(size(json!(32), Some("0.8.1")), Some([512, 512]));
    assert_eq!(size(json!(96), Some("0.6.0")), Some([768, 768]));
    assert_eq!(size(json!(32), Some("0.10.0")), Some([256, 256]));
    assert_eq!(size(serde_json::Value::Null, None), None);
}
