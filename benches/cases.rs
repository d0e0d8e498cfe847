//! `cargo bench -p samecast-benches -- "conv 3x3"` times the cases of that name on every device of the build; without a name, all of them.

use std::time::Duration;

use burn::tensor::{Device, DeviceType};
use criterion::Criterion;
use samecast_benches::{Place, cases, prepare};

fn devices() -> Vec<(&'static str, Device)> {
    let kinds = [
        #[cfg(feature = "flex")]
        ("cpu", DeviceType::Flex),
        #[cfg(feature = "webgpu")]
        ("wgpu", DeviceType::Wgpu),
        #[cfg(feature = "cuda")]
        ("cuda", DeviceType::Cuda),
    ];
    let first = |kind| Device::enumerate(kind).into_vec().into_iter().next();
    kinds
        .into_iter()
        .filter_map(|(name, kind)| Some((name, first(kind)?)))
        .collect()
}

fn main() {
    // `cargo test` runs benches too, to see that they start; at these sizes that would be minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // As the program `samecast` does.
    sd_kernels::keep_freed_memory();
    sd_kernels::on_workers(time_all);
}

fn time_all() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (place, device) in devices() {
        for case in cases() {
            for backward in [false, true] {
                if backward && case.forward_only {
                    continue;
                }
                let ways = if backward {
                    "forward+backward"
                } else {
                    "forward"
                };
                let name = format!("{}/{ways}/{place}", case.name);
                criterion.bench_function(&name, |bencher| {
                    let mut work = prepare(&case.operation, backward, None, &Place::new(&device))
                        .expect("random weights need no file");
                    bencher.iter(|| {
                        let out = work();
                        device.sync().expect("the device computes");
                        out
                    });
                });
            }
        }
    }
    criterion.final_summary();
}
