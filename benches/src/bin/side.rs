//! Our side of `side_by_side/run.py`: answers one request a line, each a JSON object, in the same words as `torch_side.py`.
//!
//! `{"prepare": {case}, "backward": false, "model": null}` makes a case ready and computes it once: `{"seconds": …, "sample": […]}`, where the
//! sample is of 64 elements spread over the result. `{"run": 3}` gives `{"seconds": […]}`. Prepare another case, and the first is dropped.

use std::env;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use samecast_benches::{Case, Place, Work, prepare};
use sd_kernels::Float32MatmulPrecision;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
enum Request {
    Prepare {
        prepare: Case,
        backward: bool,
        model: Option<PathBuf>,
    },
    Run {
        run: usize,
    },
}

fn main() -> Result<()> {
    // As the program `samecast` does.
    sd_kernels::keep_freed_memory();
    sd_kernels::on_workers(serve)
}

fn serve() -> Result<()> {
    let device = Device::default();
    let dtype = match dtype(env::args().nth(1).as_deref())? {
        // On the processor bf16 is what products are computed in.
        FloatDType::BF16 if on_processor(&device) => {
            ensure!(
                sd_kernels::has_bf16_products(),
                "this processor has no products in bf16 (AMD's since Zen 4 have, and Intel's with AMX)"
            );
            sd_kernels::set_float32_matmul_precision(Float32MatmulPrecision::Medium);
            FloatDType::F32
        }
        dtype => dtype,
    };
    let place = Place { device, dtype };
    // Else a first call would fail, or be computed in other numbers than the table says.
    ensure!(
        place.device.supports_dtype(DType::from(place.dtype)),
        "{:?} has no {:?}",
        place.device,
        place.dtype
    );
    let mut work: Option<Work> = None;
    for line in io::stdin().lock().lines() {
        let answer =
            match serde_json::from_str(&line?).map(|request| answer(request, &mut work, &place)) {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
                Err(error) => json!({ "error": error.to_string() }),
            };
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn on_processor(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// The type that the first argument names.
fn dtype(name: Option<&str>) -> Result<FloatDType> {
    match name {
        None | Some("f32") => Ok(FloatDType::F32),
        Some("f16") => Ok(FloatDType::F16),
        Some("bf16") => Ok(FloatDType::BF16),
        Some(name) => bail!("`{name}`: f32, f16 or bf16 is expected"),
    }
}

fn answer(request: Request, work: &mut Option<Work>, place: &Place) -> Result<Value> {
    match request {
        Request::Prepare {
            prepare: case,
            backward,
            model,
        } => {
            *work = None;
            let mut ready = prepare(&case.operation, backward, model.as_deref(), place)?;
            let start = Instant::now();
            let out = ready();
            place.device.sync()?;
            let seconds = start.elapsed().as_secs_f64();
            *work = Some(ready);
            Ok(json!({ "seconds": seconds, "sample": sample(out.flat()) }))
        }
        Request::Run { run } => {
            let ready = work.as_mut().context("`run` before `prepare`")?;
            let mut seconds = vec![];
            for _ in 0..run {
                let start = Instant::now();
                let out = ready();
                place.device.sync()?;
                seconds.push(start.elapsed().as_secs_f64());
                drop(out);
            }
            Ok(json!({ "seconds": seconds }))
        }
    }
}

fn sample(out: Tensor<1>) -> Vec<f32> {
    let [count] = out.dims();
    let places: Vec<i64> = (0..64).map(|at| (at * (count - 1) / 63) as i64).collect();
    let places = Tensor::<1, Int>::from_ints(places.as_slice(), &out.device());
    out.select(0, places).into_data().iter::<f32>().collect()
}
