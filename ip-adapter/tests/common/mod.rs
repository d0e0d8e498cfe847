//! What the tests share: the reference's adapters, the small UNet, and its inputs.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, TensorData};
use ip_adapter::{FaceIdPlus, Features, IpAdapter, Options};
use parity::{Fixture, device, reference};
use pytorch_reader::PytorchReader;
use sd_unet::{UNet2DConditionModel, UNetConfig};

/// An adapter of `parity/reference/ip-adapter/`.
pub fn adapter_file(name: &str) -> PathBuf {
    reference().join("ip-adapter").join(name)
}

/// What `tests/reference/make.py` computed.
pub fn expected() -> Fixture {
    Fixture::open(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/expected.safetensors"),
    )
}

/// The tensors of a nested pickle, names joined by points.
pub fn pickled(name: &str) -> Vec<(String, TensorData)> {
    let reader = PytorchReader::new(adapter_file(name)).expect("a PyTorch file");
    let tensors = reader.into_tensors().into_iter();
    let read = tensors.map(|(name, tensor)| {
        assert_eq!(tensor.dtype(), pytorch_reader::DType::F16, "{name}");
        let bytes = tensor.read().expect("a whole file");
        let data = TensorData::from_bytes_vec(bytes, tensor.shape().to_vec(), DType::F16);
        (name, data)
    });
    read.collect()
}

/// An adapter by the name that it has in the expected tensors.
pub fn open(variant: &str) -> IpAdapter {
    open_on(variant, &device())
}

/// As [`open`].
pub fn open_on(variant: &str, device: &Device) -> IpAdapter {
    let options = |face_id_plus| Options {
        face_id_plus,
        ..Options::default()
    };
    let safetensors = |file| {
        IpAdapter::open(adapter_file(file), &Options::default(), device).expect("an adapter")
    };
    let bin = |file, version| {
        IpAdapter::from_tensors(file, pickled(file), &options(version), device).expect("an adapter")
    };
    match variant {
        "base" => safetensors("ip-adapter.safetensors"),
        "plus" => safetensors("ip-adapter-plus.safetensors"),
        "full" => safetensors("ip-adapter-full-face.safetensors"),
        "faceid" => bin("ip-adapter-faceid.bin", None),
        "faceid-plus-1" => bin("ip-adapter-faceid-plus.bin", Some(FaceIdPlus::V1)),
        "faceid-plus-2" => bin(
            "ip-adapter-faceid-plus.bin",
            Some(FaceIdPlus::V2 { scale: 1.0 }),
        ),
        other => panic!("no adapter {other}"),
    }
}

/// What an encoder might have made of two pictures.
pub fn features(fixture: &Fixture) -> Features {
    Features {
        pooled: Some(fixture.tensor("in.pooled")),
        penultimate: Some(fixture.tensor("in.states")),
        face: Some(fixture.tensor("in.face")),
    }
}

/// The small UNet of the reference.
pub fn unet() -> UNet2DConditionModel {
    unet_on(&device())
}

/// As [`unet`].
pub fn unet_on(device: &Device) -> UNet2DConditionModel {
    let folder = reference().join("tiny-sd/unet");
    let json = std::fs::read_to_string(folder.join("config.json")).expect("a config.json");
    let config = UNetConfig::from_json(&json).expect("a UNet's config.json");
    parity::load(
        config.init(device),
        folder.join("diffusion_pytorch_model.safetensors"),
    )
}
