//! Files: what is refused, and what is written is read again.

mod common;

use std::collections::BTreeMap;

use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use common::{adapter_file, expected, features, open, pickled, unet};
use ip_adapter::{
    EncoderInput, FaceIdPlus, Features, IpAdapter, IpAdapterError, Options, Uncond, Variant,
};
use parity::{Fixture, device, values};
use sd_unet::UNetConfig;

/// A safetensors adapter's tensors, as f32.
fn tensors(file: &str) -> BTreeMap<String, TensorData> {
    let fixture = Fixture::open(adapter_file(file));
    let names = fixture.names();
    let read = names.into_iter().map(|name| {
        let (shape, numbers) = fixture.float(name);
        (
            name.to_owned(),
            TensorData::new(numbers.to_vec(), shape.to_vec()),
        )
    });
    read.collect()
}

fn load(tensors: BTreeMap<String, TensorData>) -> Result<IpAdapter, IpAdapterError> {
    IpAdapter::from_tensors("mine.safetensors", tensors, &Options::default(), &device())
}

/// The whole chain of an error's causes.
fn told<T>(result: Result<T, IpAdapterError>) -> String {
    let Err(error) = result else {
        panic!("no error");
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[test]
fn every_layout_and_variant_opens() {
    let cases = [
        ("base", Variant::Base, 36),
        ("plus", Variant::Plus, 83),
        ("full", Variant::FullFace, 38),
        ("faceid", Variant::FaceId, 38),
        ("faceid-plus-1", Variant::FaceIdPlus(FaceIdPlus::V1), 88),
        (
            "faceid-plus-2",
            Variant::FaceIdPlus(FaceIdPlus::V2 { scale: 1.0 }),
            88,
        ),
    ];
    for (name, variant, parameters) in cases {
        let adapter = open(name);
        assert_eq!(adapter.variant(), variant);
        assert_eq!(adapter.variant().is_face_id(), name.contains("faceid"));
        adapter.check(&unet().cross_attentions()).unwrap();
        assert_eq!(parameter_names(&adapter).len(), parameters, "{name}");
    }
}

/// The paths of a module's parameters.
fn parameter_names(adapter: &IpAdapter) -> Vec<String> {
    use burn::module::{Module, ModuleVisitor, Param};
    #[derive(Default)]
    struct Names(Vec<String>, Vec<String>);
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            self.1.push(self.0.join("."));
        }
    }
    let mut names = Names::default();
    adapter.visit(&mut names);
    names.1
}

#[test]
fn a_parameter_s_path_is_its_key() {
    let names = parameter_names(&open("plus"));
    for key in [
        "image_proj.latents",
        "image_proj.layers.3.0.to_kv.weight",
        "image_proj.layers.0.1.3.weight",
        "ip_adapter.31.to_v_ip.weight",
    ] {
        assert!(names.iter().any(|name| name == key), "{key}");
    }
}

#[test]
fn a_renamed_tensor_is_named() {
    let mut renamed = tensors("ip-adapter.safetensors");
    let matrix = renamed.remove("ip_adapter.7.to_k_ip.weight").unwrap();
    renamed.insert("ip_adapter.7.to_k.weight".to_owned(), matrix);
    assert_eq!(
        told(load(renamed)),
        "`mine.safetensors`, by its other tensors an adapter of the kind base, lacks `ip_adapter.7.to_k_ip.weight` and has \
         `ip_adapter.7.to_k.weight`, of unknown use; was a tensor renamed?"
    );
    let mut without = tensors("ip-adapter-plus.safetensors");
    without.retain(|name, _| !name.starts_with("ip_adapter."));
    let text = told(load(without));
    assert!(
        text.contains("lacks `ip_adapter.1.to_k_ip.weight`, `ip_adapter.1.to_v_ip.weight`"),
        "{text}"
    );
}

#[test]
fn values_that_are_no_finite_floats_are_refused() {
    let mut odd = tensors("ip-adapter.safetensors");
    odd.insert(
        "image_proj.norm.bias".to_owned(),
        TensorData::new(vec![0i64; 128], [128]),
    );
    assert!(told(load(odd)).contains("`image_proj.norm.bias` holds I64 values, expected f16"));
    let mut broken = tensors("ip-adapter.safetensors");
    broken.insert(
        "image_proj.norm.bias".to_owned(),
        TensorData::new(vec![f32::NAN; 128], [128]),
    );
    assert!(
        told(load(broken)).contains("`image_proj.norm.bias` has values that are no finite numbers")
    );
}

#[test]
fn files_of_other_kinds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| told(IpAdapter::open(path, &Options::default(), &device()));
    let missing = folder.path().join("none.safetensors");
    assert!(
        open(&missing).contains("none.safetensors` cannot be read: No such file"),
        "{}",
        open(&missing)
    );
    assert!(
        open(folder.path()).contains("cannot be read"),
        "{}",
        open(folder.path())
    );

    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for bytes in [
        &b""[..],
        b"{}",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
        b"PK\x03\x04 a zip file, or a pickle in it",
    ] {
        let text = open(&write("odd.safetensors", bytes));
        assert!(
            text.contains("odd.safetensors` is no safetensors file"),
            "{text}"
        );
    }
    let whole = std::fs::read(adapter_file("ip-adapter.safetensors")).unwrap();
    let text = open(&write("short.safetensors", &whole[..whole.len() - 100]));
    assert!(
        text.contains("short.safetensors` is no safetensors file, or is cut short"),
        "{text}"
    );

    let unet = parity::reference().join("tiny-sd/unet/diffusion_pytorch_model.safetensors");
    let text = open(&unet);
    assert!(
        text.contains("is no IP-Adapter") && text.contains("`conv_in.bias`"),
        "{text}"
    );
    let lora = parity::reference().join("lora/kohya.safetensors");
    assert!(open(&lora).contains("is it a LoRA?"), "{}", open(&lora));
}

#[test]
fn the_right_encoder_is_named() {
    let adapter = open("base");
    let seen = features(&expected());
    let wrong = Features {
        pooled: Some(Tensor::zeros([1, 1280], &device())),
        ..Features::default()
    };
    assert_eq!(
        told(adapter.image_tokens(&wrong)),
        format!(
            "`{}` takes image embeddings of width 48, found image embeddings of width 1280, those of CLIP ViT-bigG/14: use the image encoder \
             that the adapter was trained with",
            adapter_file("ip-adapter.safetensors").display()
        )
    );
    let nothing = told(adapter.image_tokens(&Features::default()));
    assert!(nothing.contains("found nothing"), "{nothing}");

    // Published widths have names.
    let published = |pooled, penultimate| EncoderInput {
        pooled,
        penultimate,
        face: None,
    };
    assert_eq!(
        published(Some(1024), Some(1280)).encoder(),
        Some("CLIP ViT-H/14")
    );
    assert_eq!(
        published(Some(1280), Some(1664)).encoder(),
        Some("CLIP ViT-bigG/14")
    );
    assert_eq!(
        published(Some(768), Some(1024)).encoder(),
        Some("CLIP ViT-L/14")
    );
    assert_eq!(published(Some(1024), Some(1664)).encoder(), None);

    // One face for two pictures, no face at all, a face of another network.
    let plus = open("faceid-plus-1");
    let uneven = Features {
        face: seen.face.clone().map(|face| face.narrow(0, 0, 1)),
        ..seen.clone()
    };
    assert!(told(plus.image_tokens(&uneven)).contains("found 1 face embeddings for 2 pictures"));
    for face in [None, Some(Tensor::zeros([2, 512], &device()))] {
        let other = Features {
            face,
            ..seen.clone()
        };
        let text = told(plus.image_tokens(&other));
        assert!(text.contains("face embeddings are ArcFace's"), "{text}");
    }
    // The blank picture's states are needed for one and not for the other.
    assert!(
        told(plus.unconditional(Uncond::Comfy, &seen, None))
            .contains("hidden states before the last layer")
    );
    assert!(
        open("base")
            .unconditional(Uncond::Comfy, &seen, None)
            .is_ok()
    );
}

#[test]
fn a_new_adapter_of_full_size_names_vit_h() {
    let context = UNetConfig {
        block_out_channels: vec![32; 4],
        cross_attention_dim: sd_unet::PerLevel::Same(8),
        ..UNetConfig::default()
    };
    let adapter = IpAdapter::base(&context.init(&device()), 1024, 4, &device());
    let text = told(adapter.check_widths(&EncoderInput {
        pooled: Some(768),
        penultimate: Some(1024),
        face: None,
    }));
    assert!(
        text.ends_with("those of CLIP ViT-L/14: use the image encoder CLIP ViT-H/14"),
        "{text}"
    );
}

#[test]
fn another_unet_is_told_apart() {
    let adapter = open("base");
    let text = told(adapter.check(&UNetConfig::default().cross_attentions()));
    assert!(
        text.ends_with("its tokens have 128 channels, the UNet's text has 768"),
        "{text}"
    );
    let mut layers = unet().cross_attentions();
    layers[6].channels = 1280;
    let text = told(adapter.check(&layers));
    assert!(
        text.ends_with(
            "`ip_adapter.13.to_k_ip.weight` makes 64 channels, `up_blocks.1.attentions.0.transformer_blocks.0.attn2` has 1280"
        ),
        "{text}"
    );
    layers.truncate(3);
    let text = told(adapter.low_rank(&layers));
    assert!(
        text.ends_with("for 16 cross-attention layers, the UNet has 3"),
        "{text}"
    );
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.safetensors");
    for variant in ["base", "plus", "full", "faceid", "faceid-plus-2"] {
        let adapter = open(variant);
        adapter.save(&path, FloatDType::F16).unwrap();
        let options = Options {
            face_id_plus: match adapter.variant() {
                Variant::FaceIdPlus(version) => Some(version),
                _ => None,
            },
            ..Options::default()
        };
        let again = IpAdapter::open(&path, &options, &device()).unwrap();
        let seen = features(&expected());
        let [before, after] =
            [&adapter, &again].map(|one| values(one.image_tokens(&seen).unwrap()));
        // The file was f16, so nothing is rounded.
        assert_eq!(before, after, "{variant}");
        let layers = unet().cross_attentions();
        let count = again.low_rank(&layers).unwrap().len();
        assert_eq!(count, adapter.low_rank(&layers).unwrap().len());
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "a temporary file is left"
    );
}

#[test]
fn a_written_file_has_the_published_names_and_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("faceid.safetensors");
    open("faceid").save(&path, FloatDType::F32).unwrap();
    let written = Fixture::open(&path);
    let theirs: BTreeMap<_, _> = pickled("ip-adapter-faceid.bin").into_iter().collect();
    assert_eq!(
        written.names(),
        theirs.keys().map(String::as_str).collect::<Vec<_>>()
    );
    for (name, data) in theirs {
        let (shape, numbers) = written.float(&name);
        assert_eq!(shape, data.shape().as_slice(), "{name}");
        let data: Vec<f32> = data.convert_dtype(DType::F32).try_to_vec().unwrap();
        assert_eq!(numbers, data, "{name}");
    }
}

#[test]
fn what_f16_cannot_hold_is_not_written() {
    let mut large = tensors("ip-adapter.safetensors");
    large.insert(
        "image_proj.norm.bias".to_owned(),
        TensorData::new(vec![1e6f32; 128], [128]),
    );
    let adapter = load(large).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let text = told(adapter.save(&path, FloatDType::F16));
    assert!(
        text.contains("`image_proj.norm.bias` has values that F16 cannot hold"),
        "{text}"
    );
    assert!(!path.exists());
    adapter.save(&path, FloatDType::BF16).unwrap();
}
