use burn::tensor::DType;
use serde_json::{Value, json};

use crate::args::Common;
use crate::console::print;
use crate::device::backends;
use crate::failure::Failure;

/// `samecast devices`
pub fn run(common: &Common) -> Result<Value, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bf16_products = sd_kernels::has_bf16_products();
    let mut first = true;
    let mut all = vec![];
    for backend in backends() {
        let several = backend.name != "cpu";
        if backend.devices.is_empty() && !common.json {
            print(format_args!("{:8} none on this machine", backend.name))?;
        }
        for (index, device) in backend.devices.iter().enumerate() {
            let name = match several {
                true => format!("{}:{index}", backend.name),
                false => backend.name.to_string(),
            };
            let precisions: Vec<&str> = [
                ("f32", DType::F32),
                ("f16", DType::F16),
                ("bf16", DType::BF16),
            ]
            .into_iter()
            .filter(|(_, dtype)| device.supports_dtype(*dtype))
            .map(|(name, _)| name)
            .collect();
            if !common.json {
                let chosen = if first { "  (auto)" } else { "" };
                let about = if several {
                    String::new()
                } else {
                    format!("{cores} cores, ")
                };
                let products = match bf16_products && !several {
                    true => ", products in bf16 faster than in f32",
                    false => "",
                };
                print(format_args!(
                    "{name:8} {about}{}{products}{chosen}",
                    precisions.join(" ")
                ))?;
            }
            let mut found = json!({ "name": name, "precisions": precisions, "auto": first });
            if !several {
                found["bf16_products"] = bf16_products.into();
            }
            all.push(found);
            first = false;
        }
    }
    Ok(json!({ "devices": all, "cores": cores }))
}
