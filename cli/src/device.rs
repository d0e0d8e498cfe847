use std::str::FromStr;

use burn::tensor::{DType, Device, DeviceType, FloatDType};
use clap::ValueEnum;
use sd_kernels::Float32MatmulPrecision;
use sd_pipeline::MatrixType;

use crate::failure::{Failure, wrong};

/// Where tensors live, as `--device` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best that this build and this machine have.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU by Vulkan, Metal or DirectX 12.
    Wgpu(usize),
    /// An NVIDIA GPU.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        if name == "remote" {
            return Err("this build reaches no remote device; use cpu, wgpu or cuda".into());
        }
        let index = index
            .parse()
            .map_err(|_| format!("`{index}` is no device number; 0, 1, … is expected"))?;
        match name {
            "auto" if !text.contains(':') => Ok(Self::Auto),
            "cpu" if !text.contains(':') => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu(index)),
            "cuda" => Ok(Self::Cuda(index)),
            _ => Err("auto, cpu, wgpu, wgpu:1, cuda or cuda:1 is expected".into()),
        }
    }
}

/// The number type of weights and activations, as `--precision` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// f16 on a GPU; on the processor f32, over weights that stay in 16 bits where the file has them so.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats; on the processor the weights alone.
    F16,
    /// 16-bit floats with the range of 32-bit ones; on the processor the weights, and the factors of products where it multiplies those faster
    /// (AMD's since Zen 4, Intel's with AMX).
    Bf16,
}

/// A kind of device that this build knows.
pub struct Backend {
    /// As `--device` calls it.
    pub name: &'static str,
    /// The devices of this kind that the machine has.
    pub devices: Vec<Device>,
}

/// Every kind of device that was compiled in, the best first.
pub fn backends() -> Vec<Backend> {
    let all = [
        #[cfg(feature = "cuda")]
        ("cuda", DeviceType::Cuda),
        #[cfg(feature = "webgpu")]
        ("wgpu", DeviceType::Wgpu),
        #[cfg(feature = "flex")]
        ("cpu", DeviceType::Flex),
    ];
    all.into_iter()
        .map(|(name, kind)| Backend {
            name,
            // A driver that is not there makes the listing panic.
            devices: std::panic::catch_unwind(|| Device::enumerate(kind).into_vec())
                .unwrap_or_default(),
        })
        .collect()
}

impl DeviceChoice {
    /// The device itself.
    pub fn open(&self) -> Result<Device, Failure> {
        let backends = backends();
        let (name, index) = match self {
            Self::Auto => {
                let first = backends.iter().find_map(|b| b.devices.first().cloned());
                return match first {
                    Some(device) => Ok(device),
                    None => wrong(
                        "no device: this build has no CPU backend and found no GPU; build it with the feature `flex`",
                    ),
                };
            }
            Self::Cpu => ("cpu", 0),
            Self::Wgpu(index) => ("wgpu", *index),
            Self::Cuda(index) => ("cuda", *index),
        };
        let Some(backend) = backends.into_iter().find(|b| b.name == name) else {
            let feature = if name == "cpu" { "flex" } else { name };
            return wrong(format!(
                "--device {name}: this build has no {name}; build it with `--features {feature}`, or see `samecast devices`"
            ));
        };
        let count = backend.devices.len();
        match backend.devices.into_iter().nth(index) {
            Some(device) => Ok(device),
            None => wrong(format!(
                "--device {name}:{index}: this machine has {count} such devices; see `samecast devices`"
            )),
        }
    }
}

impl Precision {
    /// The number type that a device computes in, which for the processor is that of what lies between products. How it computes those is set here.
    pub fn on(self, device: &Device) -> Result<FloatDType, Failure> {
        sd_kernels::set_float32_matmul_precision(match self {
            Self::Bf16 if is_cpu(device) => Float32MatmulPrecision::Medium,
            _ => Float32MatmulPrecision::Highest,
        });
        let dtype = match self {
            // Arithmetic in 16 bits is slower there.
            _ if is_cpu(device) => FloatDType::F32,
            Self::Auto if device.supports_dtype(DType::F16) => FloatDType::F16,
            Self::Auto | Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        };
        if !device.supports_dtype(DType::from(dtype)) {
            let named = format!("{dtype:?}").to_lowercase();
            return wrong(format!(
                "--precision {named}: the device has no such numbers; use --precision f32"
            ));
        }
        Ok(dtype)
    }
}

impl Precision {
    /// What products are computed in on a device that computes in `dtype`.
    pub fn of_products(self, device: &Device, dtype: FloatDType) -> FloatDType {
        match self {
            Self::Bf16 if is_cpu(device) && sd_kernels::has_bf16_products() => FloatDType::BF16,
            _ => dtype,
        }
    }

    /// In what number type the UNet's matrices and kernels are kept on a device.
    pub fn matrices(self, device: &Device) -> MatrixType {
        match self {
            _ if !is_cpu(device) => MatrixType::Computed,
            Self::Auto => MatrixType::Stored,
            Self::F32 => MatrixType::Computed,
            Self::F16 => MatrixType::As(FloatDType::F16),
            Self::Bf16 => MatrixType::As(FloatDType::BF16),
        }
    }
}

/// Whether a device is the processor.
pub fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_written() {
        assert_eq!("wgpu:2".parse(), Ok(DeviceChoice::Wgpu(2)));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        for bad in ["gpu", "cuda:x", "cpu:1", "", "remote:host", "wgpu:-1"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_that_the_machine_lacks_is_an_input_error() {
        let error = DeviceChoice::Cuda(77).open().unwrap_err();
        assert_eq!(error.status(), 2);
    }
}
