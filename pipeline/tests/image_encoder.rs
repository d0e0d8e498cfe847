//! Image encoders of every layout against transformers, and what is told of files that are none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor};
use clip_vision::{ClipImageProcessor, ClipVisionConfig, Fit, HiddenAct, Resize};
use half::{bf16, f16};
use image::{Rgb, RgbImage};
use parity::{Fixture, device, values};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sd_pipeline::{ImageEncoder, ImageEncoderFile, StoredType};
use serde_json::{Value, json};
use tempfile::TempDir;

fn reference(name: &str) -> PathBuf {
    parity::reference().join("clip-vision").join(name)
}

fn expected() -> Fixture {
    Fixture::open(reference("expected.safetensors"))
}

fn load(path: &Path) -> ImageEncoder {
    let file = ImageEncoderFile::open(path).unwrap();
    file.load(FloatDType::F32, &device()).unwrap()
}

#[track_caller]
fn assert_transformers(encoder: &ImageEncoder, name: &str) {
    let expected = expected();
    let out = encoder
        .model
        .forward(expected.tensor(&format!("{name}.pixels")));
    expected.assert_close(&format!("{name}.image_embeds"), out.image_embeds, 2e-6);
    expected.assert_close(&format!("{name}.penultimate"), out.penultimate, 2e-6);
}

/// Name, type, shape and bytes of tensors that are to be changed and written.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name, stored)
        })
        .collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A copy of a reference's folder, to be changed.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(reference(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn change(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let mut all = tensors(&path);
    change(&mut all);
    write(&path, &all);
}

#[track_caller]
fn refused(path: &Path, told: &[&str]) {
    let opened =
        ImageEncoderFile::open(path).and_then(|file| file.load(FloatDType::F32, &device()));
    let error = opened.expect_err("no image encoder").to_string();
    assert!(!error.contains('\n'), "{error}");
    for words in told {
        assert!(error.contains(words), "`{words}` in `{error}`");
    }
}

#[test]
fn a_folder_encodes_as_in_transformers() {
    for name in ["quick_gelu", "gelu"] {
        let file = ImageEncoderFile::open(reference(name)).unwrap();
        assert!(file.ignored().is_empty());
        assert_eq!(file.weights().dtype(), Some(StoredType::F16));
        let files = file.files();
        let names = [
            "model.safetensors",
            "config.json",
            "preprocessor_config.json",
        ];
        assert_eq!(files, names.map(|file| reference(name).join(file)));
        assert_transformers(&file.load(FloatDType::F32, &device()).unwrap(), name);
    }
}

#[test]
fn a_whole_clip_in_a_pickle_is_an_image_encoder() {
    let file = ImageEncoderFile::open(reference("clip")).unwrap();
    assert_eq!(file.config().projection_dim, 12);
    assert_eq!(file.config().hidden_act, HiddenAct::Gelu);
    let resized = ClipImageProcessor {
        resize: Resize::ShortestEdge(32),
        ..ClipImageProcessor::of_side(28)
    };
    assert_eq!(*file.processor(), resized);
    let ignored = file.ignored();
    for name in [
        "logit_scale",
        "text_projection.weight",
        "vision_model.embeddings.position_ids",
        "text_model.final_layer_norm.bias",
    ] {
        assert!(ignored.iter().any(|ignored| ignored == name), "{name}");
    }
    let ours = |name: &String| name.starts_with("vision_") || name.starts_with("visual_");
    assert_eq!(ignored.iter().filter(|name| ours(name)).count(), 1);
    assert_transformers(&file.load(FloatDType::F32, &device()).unwrap(), "clip");
}

#[test]
fn a_diffusers_folder_has_its_image_encoder_inside() {
    let folder = tempfile::tempdir().unwrap();
    for (inner, files) in [
        (
            "image_encoder",
            ["config.json", "model.safetensors"].as_slice(),
        ),
        ("feature_extractor", &["preprocessor_config.json"]),
    ] {
        let inner = folder.path().join(inner);
        fs::create_dir(&inner).unwrap();
        for file in files {
            fs::copy(reference("gelu").join(file), inner.join(file)).unwrap();
        }
    }
    // A variant's name, as diffusers saves it.
    let weights = folder.path().join("image_encoder");
    fs::rename(
        weights.join("model.safetensors"),
        weights.join("model.fp16.safetensors"),
    )
    .unwrap();
    let file = ImageEncoderFile::open(folder.path()).unwrap();
    assert_eq!(file.files().len(), 3);
    assert_transformers(&file.load(FloatDType::F32, &device()).unwrap(), "gelu");
}

#[test]
fn shards_are_one_encoder() {
    let folder = copy("gelu");
    let whole = folder.path().join("model.safetensors");
    let all = tensors(&whole);
    fs::remove_file(&whole).unwrap();
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let mut map = serde_json::Map::new();
    let (mut first, mut second) = (Tensors::new(), Tensors::new());
    for (index, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(name.clone(), json!(shards[index % 2]));
        [&mut first, &mut second][index % 2].insert(name, tensor);
    }
    write(&folder.path().join(shards[0]), &first);
    write(&folder.path().join(shards[1]), &second);
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let file = ImageEncoderFile::open(folder.path()).unwrap();
    let files = file.files();
    for name in [
        shards[0],
        shards[1],
        "model.safetensors.index.json",
        "config.json",
    ] {
        assert!(files.contains(&folder.path().join(name)), "{name}");
    }
    assert_eq!(files.len(), 5);
    assert_transformers(&file.load(FloatDType::F32, &device()).unwrap(), "gelu");
    fs::remove_file(folder.path().join(shards[1])).unwrap();
    refused(folder.path(), &[shards[1], "does not exist"]);
}

#[test]
fn every_number_type_is_read_as_every_other() {
    let folder = copy("quick_gelu");
    let expected = expected();
    let pixels: Tensor<4> = expected.tensor("quick_gelu.pixels");
    let (_, wanted) = expected.float("quick_gelu.image_embeds");
    for (dtype, tolerance) in [(Dtype::F32, 2e-6), (Dtype::F64, 2e-6), (Dtype::BF16, 2e-2)] {
        let original = tensors(&reference("quick_gelu/model.safetensors"));
        change(folder.path(), |all| {
            for (name, (_, shape, bytes)) in &original {
                let (halves, _) = bytes.as_chunks::<2>();
                let numbers = halves.iter().map(|&half| f16::from_le_bytes(half).to_f32());
                let bytes = match dtype {
                    Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
                    Dtype::F64 => numbers.flat_map(|n| f64::from(n).to_le_bytes()).collect(),
                    _ => numbers
                        .flat_map(|n| bf16::from_f32(n).to_le_bytes())
                        .collect(),
                };
                all.insert(name.clone(), (dtype, shape.clone(), bytes));
            }
        });
        let ours = load(folder.path()).model.forward(pixels.clone());
        let error = parity::relative_error(&values(ours.image_embeds), wanted);
        assert!(error < tolerance, "{dtype:?}: {error:e}");
    }
    let file = ImageEncoderFile::open(reference("quick_gelu")).unwrap();
    let half = file.load(FloatDType::F16, &device()).unwrap();
    let ours = half.model.forward(pixels).image_embeds;
    let error = parity::relative_error(&values(ours.cast(FloatDType::F32)), wanted);
    assert!(error < 5e-3, "{error:e}");
}

#[test]
fn pictures_are_prepared_as_the_folder_says() {
    let encoder = load(&reference("clip"));
    let picture = RgbImage::from_fn(90, 60, |x, y| Rgb([x as u8, (2 * y) as u8, 77]));
    let pixels = encoder.processor.pixels(&[&picture], Fit::Crop, &device());
    let wanted = values(encoder.model.forward(pixels).image_embeds);
    let ours = encoder.encode(&[&picture], Fit::Crop);
    assert_eq!(values(ours.image_embeds), wanted);
    // 32 pixels of its height are seen, and not 28.
    let others = ClipImageProcessor::of_side(28).pixels(&[&picture], Fit::Crop, &device());
    assert_ne!(values(encoder.model.forward(others).image_embeds), wanted);

    let grey = encoder.mean_grey().penultimate;
    let zeros = Tensor::zeros([1, 3, 28, 28], &device());
    assert_eq!(
        values(grey),
        values(encoder.model.forward(zeros).penultimate)
    );
    let black = encoder
        .encode(&[&RgbImage::new(5, 9)], Fit::Crop)
        .penultimate;
    assert_eq!(values(encoder.black().penultimate), values(black));
}

/// A file of a published width, with one layer that is narrow inside, so that it stays small.
fn narrow(folder: &Path, width: usize) -> (PathBuf, ClipVisionConfig) {
    let config = ClipVisionConfig {
        hidden_size: width,
        intermediate_size: 3,
        projection_dim: 5,
        num_hidden_layers: 1,
        patch_size: 2,
        image_size: 6,
        ..ClipVisionConfig::vit_h_14()
    };
    let layer = "vision_model.encoder.layers.0.";
    let mut shapes = vec![
        (
            "vision_model.embeddings.class_embedding".to_owned(),
            vec![width],
        ),
        (
            "vision_model.embeddings.patch_embedding.weight".to_owned(),
            vec![width, 3, 2, 2],
        ),
        (
            "vision_model.embeddings.position_embedding.weight".to_owned(),
            vec![10, width],
        ),
        ("visual_projection.weight".to_owned(), vec![5, width]),
        (format!("{layer}mlp.fc1.weight"), vec![3, width]),
        (format!("{layer}mlp.fc1.bias"), vec![3]),
        (format!("{layer}mlp.fc2.weight"), vec![width, 3]),
        (format!("{layer}mlp.fc2.bias"), vec![width]),
    ];
    for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
        shapes.push((
            format!("{layer}self_attn.{name}.weight"),
            vec![width, width],
        ));
        shapes.push((format!("{layer}self_attn.{name}.bias"), vec![width]));
    }
    for name in ["layers.0.layer_norm1", "layers.0.layer_norm2"] {
        shapes.push((format!("vision_model.encoder.{name}.weight"), vec![width]));
        shapes.push((format!("vision_model.encoder.{name}.bias"), vec![width]));
    }
    for name in ["pre_layrnorm", "post_layernorm"] {
        shapes.push((format!("vision_model.{name}.weight"), vec![width]));
        shapes.push((format!("vision_model.{name}.bias"), vec![width]));
    }
    let mut state = 1u32;
    let tensors: Tensors = shapes
        .into_iter()
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            let bytes = (0..count)
                .flat_map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f16::from_f32((state >> 16) as f32 / 524_288.0 - 0.0625).to_le_bytes()
                })
                .collect();
            (name, (Dtype::F16, shape, bytes))
        })
        .collect();
    let path = folder.join("model.safetensors");
    write(&path, &tensors);
    (path, config)
}

#[test]
fn a_single_file_tells_its_sizes() {
    for (width, hidden_act) in [
        (1024, HiddenAct::QuickGelu),
        (1280, HiddenAct::Gelu),
        (1664, HiddenAct::Gelu),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (path, config) = narrow(folder.path(), width);
        let config = ClipVisionConfig {
            hidden_act,
            ..config
        };
        let file = ImageEncoderFile::open(&path).unwrap();
        assert_eq!(*file.config(), config);
        assert_eq!(*file.processor(), ClipImageProcessor::of_side(6));
        assert_eq!(file.files(), [path]);
        if width == 1024 {
            // As a folder, with its settings written out.
            let settings = json!({
                "hidden_size": width, "intermediate_size": 3, "projection_dim": 5, "num_hidden_layers": 1,
                "num_attention_heads": 16, "patch_size": 2, "image_size": 6, "hidden_act": "quick_gelu",
            });
            fs::write(folder.path().join("config.json"), settings.to_string()).unwrap();
            let picture = RgbImage::from_fn(9, 6, |x, y| Rgb([(20 * x) as u8, (30 * y) as u8, 7]));
            let embeds = |encoder: ImageEncoder| {
                values(encoder.encode(&[&picture], Fit::Squash).image_embeds)
            };
            let single = file.load(FloatDType::F32, &device()).unwrap();
            assert_eq!(embeds(single), embeds(load(folder.path())));
        }
    }
}

#[test]
fn a_single_file_of_unknown_width_is_told() {
    let file = reference("gelu/model.safetensors");
    refused(
        &file,
        &["gelu/model.safetensors", "has 160 channels", "config.json"],
    );
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = narrow(folder.path(), 1024);
    change(folder.path(), |all| {
        let name = "vision_model.embeddings.position_embedding.weight";
        all.insert(name.into(), (Dtype::F16, vec![9, 1], vec![0; 18]));
    });
    refused(&path, &["position_embedding.weight` has 9 positions"]);
}

#[test]
fn every_tensor_is_used_or_told() {
    let key = "vision_model.encoder.layers.1.mlp.fc1.bias";
    let folder = copy("quick_gelu");
    change(folder.path(), |all| {
        let bias = all.remove(key).unwrap();
        all.insert("vision_model.encoder.layers.1.mlp.fc1.offset".into(), bias);
    });
    refused(folder.path(), &["lacks one tensor", key]);

    let folder = copy("quick_gelu");
    change(folder.path(), |all| {
        all.insert(
            "vision_model.extra".into(),
            (Dtype::F16, vec![1], vec![0; 2]),
        );
    });
    refused(folder.path(), &["of unknown use", "`vision_model.extra`"]);

    let folder = copy("quick_gelu");
    change(folder.path(), |all| {
        all.insert("other.weight".into(), (Dtype::F16, vec![1], vec![0; 2]));
    });
    refused(folder.path(), &["of unknown use", "`other.weight`"]);

    let folder = copy("quick_gelu");
    change(folder.path(), |all| {
        all.remove("visual_projection.weight");
    });
    refused(folder.path(), &["lacks", "`visual_projection.weight`"]);

    let folder = copy("quick_gelu");
    change(folder.path(), |all| {
        let (_, shape, _) = all.get_mut("visual_projection.weight").unwrap();
        shape.reverse();
    });
    refused(
        folder.path(),
        &["`visual_projection.weight` has shape [48, 20], expected [20, 48]"],
    );
}

#[test]
fn settings_that_do_not_belong_to_each_other_are_told() {
    let set = |folder: &TempDir, name: &str, key: &str, value: Value| {
        let path = folder.path().join(name);
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[key] = value;
        fs::write(&path, json.to_string()).unwrap();
    };
    let folder = copy("quick_gelu");
    set(&folder, "preprocessor_config.json", "crop_size", json!(224));
    refused(
        folder.path(),
        &["preprocessor_config.json", "224×224", "56"],
    );
    let folder = copy("quick_gelu");
    set(&folder, "preprocessor_config.json", "resample", json!(0));
    refused(
        folder.path(),
        &["preprocessor_config.json", "`resample` is 0"],
    );
    let folder = copy("quick_gelu");
    set(&folder, "config.json", "hidden_act", json!("relu"));
    refused(folder.path(), &["config.json", "`hidden_act` is \"relu\""]);
    let folder = copy("quick_gelu");
    set(&folder, "config.json", "num_hidden_layers", json!(2));
    refused(
        folder.path(),
        &["of unknown use", "vision_model.encoder.layers.2."],
    );
    let folder = copy("quick_gelu");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    refused(folder.path(), &["config.json", "does not exist"]);
    let folder = copy("quick_gelu");
    fs::write(folder.path().join("config.json"), "{").unwrap();
    refused(folder.path(), &["config.json", "expected a JSON text"]);
}

#[test]
fn files_of_another_kind_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join("file.safetensors");
        write(
            &path,
            &BTreeMap::from([(name.to_owned(), (Dtype::F16, vec![1], vec![0; 2]))]),
        );
        path
    };
    for (key, told) in [
        ("visual.conv1.weight", "OpenCLIP's own names"),
        (
            "image_proj.norm.bias",
            "an IP-Adapter, which is given with `--ip-adapter`",
        ),
        ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
        ("text_model.final_layer_norm.bias", "a text encoder"),
        (
            "embeddings.patch_embedding.weight",
            "without the projection",
        ),
        (
            "model.diffusion_model.out.0.bias",
            "a whole Stable Diffusion checkpoint",
        ),
        ("conv_in.weight", "is no CLIP image encoder"),
    ] {
        refused(&file(key), &["file.safetensors", told, "`vision_model.…`"]);
    }
    refused(
        &folder.path().join("nowhere"),
        &["nowhere", "does not exist"],
    );
    refused(
        folder.path(),
        &["is no image encoder: expected `config.json`"],
    );
    let page = folder.path().join("page.bin");
    fs::write(&page, "<html>").unwrap();
    refused(&page, &["page.bin", "is a web page"]);
}
