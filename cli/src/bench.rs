use std::time::Instant;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use clip_text::ClipTextConfig;
use sd_unet::{Conditioning, UNetConfig};
use sd_vae::VaeConfig;
use serde_json::{Value, json};

use crate::args::{Bench, Common, Part};
use crate::console::{Console, go_on, print};
use crate::device::is_cpu;
use crate::failure::{Blame, Failure, wrong};
use crate::usage::{free_memory, peak_memory};

/// Pixels of a latent cell's side.
const CELL: usize = 8;

/// `samecast bench`
pub fn run(args: &Bench, common: &Common) -> Result<Value, Failure> {
    let console = Console::new(common.quiet);
    let size = args.size.unwrap_or(if args.quick { 256 } else { 512 });
    if !(64..=16384).contains(&size) || !size.is_multiple_of(64) {
        return wrong(format!(
            "--size {size}: a multiple of 64 from 64 to 16384 is expected, in pixels"
        ));
    }
    let parts = if !args.part.is_empty() {
        args.part.clone()
    } else if args.quick {
        vec![Part::Attention, Part::Convolution, Part::Norms]
    } else {
        vec![
            Part::Attention,
            Part::Convolution,
            Part::Norms,
            Part::TextEncoder,
            Part::UNet,
            Part::VaeDecode,
        ]
    };
    let device = common.device.open()?;
    let dtype = common.precision.on(&device)?;
    let products = common.precision.of_products(&device, dtype);
    let scene = Scene {
        device,
        dtype,
        side: size / CELL,
        quick: args.quick,
    };
    if is_cpu(&scene.device)
        && let Some(free) = free_memory()
    {
        fits(&parts, &scene, free)?;
    }

    if cfg!(debug_assertions) {
        console.note(
            "note: this build checks itself, which makes matrix products several times slower; build with --release to judge a machine",
        );
    }
    // Shares are of what this machine does at best, so that is measured first, whatever parts are asked for.
    console.note("timing matrix products");
    let mut timings = vec![scene.product(&console)?];
    let peak = timings[0].rate().unwrap_or(f64::INFINITY);
    if !common.json {
        let what = format!("at {size}x{size} pixels");
        print(format_args!(
            "{what:34} {:>10} {:>10} {:>6}",
            "time", "GFLOP/s", "share"
        ))?;
        print(timings[0].line(peak))?;
    }
    for part in parts {
        for timing in scene.part(part, &console)? {
            if !common.json {
                print(timing.line(peak))?;
            }
            timings.push(timing);
        }
    }
    let all: Vec<Value> = timings.iter().map(|timing| timing.json(peak)).collect();
    Ok(json!({
        "size": size,
        "precision": format!("{products:?}").to_lowercase(),
        "peak_flops": peak,
        "parts": all,
        "peak_memory_bytes": peak_memory(),
    }))
}

/// Refuses what needs more memory than there is, and says what would fit.
fn fits(parts: &[Part], scene: &Scene, free: u64) -> Result<(), Failure> {
    let needs = |part: &Part| scene.memory(*part);
    let Some(largest) = parts.iter().max_by_key(|part| needs(part)) else {
        return Ok(());
    };
    if needs(largest) <= free {
        return Ok(());
    }
    let fitting: Vec<&str> = Part::ALL
        .iter()
        .filter(|part| needs(part) <= free)
        .map(|part| part.name())
        .collect();
    let advice = match fitting.is_empty() {
        true => "no part fits; a smaller --size may".to_string(),
        false => format!("this would fit: --part {}", fitting.join(",")),
    };
    wrong(format!(
        "--part {} at --size {}: needs about {:.1} GB of memory, {:.1} GB are free; {advice}",
        largest.name(),
        scene.side * CELL,
        needs(largest) as f64 / 1e9,
        free as f64 / 1e9
    ))
}

/// Where and at which size everything is timed.
struct Scene {
    device: Device,
    dtype: FloatDType,
    /// Latent cells of the picture's side.
    side: usize,
    quick: bool,
}

/// How long something took.
struct Timing {
    what: String,
    seconds: f64,
    /// Multiplications and additions of its matrix products and convolutions; none where it is bound by memory.
    flops: Option<f64>,
}

impl Timing {
    fn rate(&self) -> Option<f64> {
        Some(self.flops? / self.seconds)
    }

    fn line(&self, peak: f64) -> String {
        let time = match self.seconds {
            seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
            seconds => format!("{:.2} ms", seconds * 1e3),
        };
        let what = &self.what;
        match self.rate() {
            None => format!("{what:34} {time:>10}"),
            Some(rate) => format!(
                "{what:34} {time:>10} {:>10.1} {:>5.0}%",
                rate / 1e9,
                100.0 * rate / peak
            ),
        }
    }

    fn json(&self, peak: f64) -> Value {
        json!({
            "part": self.what,
            "seconds": self.seconds,
            "flops": self.flops,
            "flops_per_second": self.rate(),
            "share_of_peak": self.rate().map(|rate| rate / peak),
        })
    }
}

impl Scene {
    /// The machine's best at matrix products.
    fn product(&self, console: &Console) -> Result<Timing, Failure> {
        let mut best: Option<Timing> = None;
        let sizes: &[usize] = if self.quick { &[1024] } else { &[1024, 2048] };
        for &size in sizes {
            let (left, right) = (self.random([size, size]), self.random([size, size]));
            let timing = self.time(
                format!("matrix product {size}"),
                Some(2.0 * (size as f64).powi(3)),
                console,
                || sd_kernels::product(left.clone(), right.clone(), None),
            )?;
            if best.as_ref().is_none_or(|best| timing.rate() > best.rate()) {
                best = Some(timing);
            }
        }
        best.ok_or(Failure::Work(anyhow::anyhow!("nothing was timed")))
    }

    fn part(&self, part: Part, console: &Console) -> Result<Vec<Timing>, Failure> {
        console.note(format_args!("timing {}", part.name()));
        let (side, cells) = (self.side, self.side * self.side);
        let area = cells as f64;
        match part {
            Part::Attention => {
                let query = self.random([2, 8, cells, 40]);
                let over = |tokens: usize, what: &str| {
                    let key = self.random([2, 8, tokens, 40]);
                    let flops = 4.0 * 16.0 * 40.0 * area * tokens as f64;
                    self.time(
                        format!("{what} {side}x{side}"),
                        Some(flops),
                        console,
                        || sd_kernels::attention(query.clone(), key.clone(), key.clone(), false),
                    )
                };
                Ok(vec![
                    over(cells, "self-attention")?,
                    over(77, "cross-attention")?,
                ])
            }
            Part::Convolution => {
                let levels = [(320, side), (640, side / 2), (1280, side / 4)];
                let mut timings = vec![];
                for (channels, side) in levels {
                    let layer = self.filled(conv3x3(channels, &self.device));
                    let input = self.random([2, channels, side, side]);
                    let flops = 2.0 * 9.0 * (channels * channels * 2 * side * side) as f64;
                    let what = format!("convolution 3x3 {channels} {side}x{side}");
                    timings.push(self.time(what, Some(flops), console, || {
                        sd_kernels::conv2d(input.clone(), &layer)
                    })?);
                }
                Ok(timings)
            }
            Part::Norms => {
                let norm: GroupNorm = self.filled(GroupNormConfig::new(32, 320).init(&self.device));
                let picture = self.random([2, 320, side, side]);
                let gated = self.random([2, cells, 2560]);
                let rows = self.random([2, cells, 320]);
                let layer = self.filled(LinearConfig::new(320, 2560).init(&self.device));
                let flops = 2.0 * 2.0 * area * 320.0 * 2560.0;
                Ok(vec![
                    self.time(
                        format!("group norm + SiLU 320 {side}x{side}"),
                        None,
                        console,
                        || sd_kernels::group_norm_silu(picture.clone(), &norm),
                    )?,
                    self.time(format!("GEGLU {cells}x2560"), None, console, || {
                        sd_kernels::geglu(gated.clone())
                    })?,
                    self.time(
                        format!("linear {cells} 320-2560"),
                        Some(flops),
                        console,
                        || sd_kernels::linear(rows.clone(), &layer),
                    )?,
                ])
            }
            Part::TextEncoder => {
                let encoder = self.filled(ClipTextConfig::default().init(&self.device));
                let tokens = TensorData::new(vec![320i64; 2 * 77], [2, 77]);
                let tokens = Tensor::<2, Int>::from_data(tokens, &self.device);
                let what = "text encoder, two prompts".into();
                let flops = Some(2.0 * TEXT_FLOPS);
                let work = || encoder.forward(tokens.clone());
                Ok(vec![self.time(what, flops, console, work)?])
            }
            Part::UNet => {
                let unet = self.filled(UNetConfig::default().init(&self.device));
                let latent = self.random([2, 4, side, side]);
                let text = Conditioning::text(self.random([2, 77, 768]));
                let flops = Some(2.0 * unet_flops(area));
                let work = || unet.forward(latent.clone(), 700.0, &text);
                Ok(vec![self.time(
                    "UNet step, batch 2".into(),
                    flops,
                    console,
                    work,
                )?])
            }
            Part::VaeDecode => {
                // As `generate` has it: in f32, since some overflow in f16.
                let wide = Self {
                    device: self.device.clone(),
                    dtype: FloatDType::F32,
                    ..*self
                };
                let vae = wide.filled(VaeConfig::default().init(&self.device));
                let latent = wide.random([1, 4, side, side]);
                let flops = Some(vae_flops(area));
                let work = || vae.decode(latent.clone());
                Ok(vec![wide.time(
                    "VAE decode".into(),
                    flops,
                    console,
                    work,
                )?])
            }
        }
    }

    /// Computes once to warm up, then a few times; the median counts. Asks between whether a person wants to stop.
    fn time<const D: usize>(
        &self,
        what: String,
        flops: Option<f64>,
        console: &Console,
        mut work: impl FnMut() -> Tensor<D>,
    ) -> Result<Timing, Failure> {
        let (most, budget) = if self.quick { (3, 0.2) } else { (7, 3.0) };
        let bar = console.bar(&what, most + 1);
        let begin = Instant::now();
        let mut times = vec![];
        for turn in 0..=most {
            if go_on().is_break() {
                bar.abandon();
                return Err(Failure::Work(anyhow::anyhow!(
                    "stopped while timing {what}"
                )));
            }
            let start = Instant::now();
            let out = work();
            self.device.sync().work()?;
            let seconds = start.elapsed().as_secs_f64();
            drop(out);
            bar.inc(1);
            // The first one warms up, and is timed only if it has used up the budget by itself.
            if turn > 0 || seconds > 4.0 * budget {
                times.push(seconds);
            }
            if !times.is_empty() && begin.elapsed().as_secs_f64() > budget {
                break;
            }
        }
        bar.finish_and_clear();
        times.sort_by(f64::total_cmp);
        Ok(Timing {
            what,
            seconds: times[times.len() / 2],
            flops,
        })
    }

    /// About the memory that a part needs, in bytes of f32.
    fn memory(&self, part: Part) -> u64 {
        let cells = (self.side * self.side) as u64;
        match part {
            Part::Attention => 4 * 2 * 8 * 40 * 5 * cells + (100 << 20),
            Part::Convolution => 4 * 2 * 320 * 12 * cells + (150 << 20),
            Part::Norms => 4 * 2 * 2560 * 3 * cells + (100 << 20),
            Part::TextEncoder => 4 * 123_060_480 + (200 << 20),
            Part::UNet => 4 * 859_520_964 + 4 * 2 * 320 * 60 * cells + (200 << 20),
            Part::VaeDecode => 4 * 83_653_863 + 4 * 128 * 12 * 64 * cells + (200 << 20),
        }
    }

    /// Random numbers of unit variance.
    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let count = shape.iter().product();
        let values = noise(count, 3f32.sqrt());
        Tensor::from_data(
            TensorData::new(values, shape),
            (&self.device, self.dtype.into()),
        )
    }

    /// A model whose matrices and kernels hold random numbers of a size that keeps activations about 1. A short sequence is repeated: burn's own
    /// initialisation takes many times as long at full size.
    fn filled<M: Module>(&self, model: M) -> M {
        model.map(&mut Fill(self.dtype)).no_grad()
    }
}

struct Fill(FloatDType);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dtype = self.0;
        if D < 2 {
            return param.map(|value| value.cast(dtype));
        }
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        let fan_in: usize = match D {
            2 => shape[0],
            _ => shape[1..].iter().product(),
        };
        let values = noise(shape.num_elements(), (3.0 / fan_in as f32).sqrt());
        let tensor = Tensor::from_data(TensorData::new(values, shape), (&device, dtype.into()));
        Param::initialized(param.id, tensor)
    }
}

/// Numbers that look random, uniform in ±`scale`.
fn noise(count: usize, scale: f32) -> Vec<f32> {
    let mut state = 1u32;
    let short: Vec<f32> = (0..count.min(1 << 20))
        .map(|_| {
            // Knuth's linear congruential generator (The Art of Computer Programming 2, 3.3.4); its high bits are the random ones.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect();
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        values.extend_from_slice(&short[..short.len().min(count - values.len())]);
    }
    values
}

fn conv3x3(channels: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels, channels], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

// What PyTorch's FlopCounterMode counts for Stable Diffusion 1.5, for one picture of so many latent cells: layers of the text and the time,
// those at every cell, and attention of every cell to every other.

const TEXT_FLOPS: f64 = 13_298_503_680.0;

fn unet_flops(cells: f64) -> f64 {
    3_007_774_720.0 + 165_471_440.0 * cells + 7_301.25 * cells * cells
}

fn vae_flops(cells: f64) -> f64 {
    605_507_616.0 * cells + 2_048.0 * cells * cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_the_operations_that_pytorch_counts() {
        // FlopCounterMode on diffusers' and transformers' models.
        for (side, unet, vae) in [
            (8.0, 13_627_852_800.0, 38_760_876_032.0),
            (64.0, 803_273_441_280.0, 2_514_518_933_504.0),
        ] {
            let cells = side * side;
            assert_eq!(unet_flops(cells), unet);
            assert_eq!(vae_flops(cells), vae);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let scene = Scene {
            device: parity::device(),
            dtype: FloatDType::F32,
            side: 64,
            quick: false,
        };
        let error = fits(&[Part::Attention, Part::UNet], &scene, 2_500_000_000).unwrap_err();
        assert_eq!(error.status(), 2);
        let told = error.to_string();
        assert!(told.contains("--part unet at --size 512"), "{told}");
        assert!(
            told.contains("fit: --part attention,convolution,norms,text-encoder"),
            "{told}"
        );
        assert!(fits(&[Part::Attention], &scene, 2_500_000_000).is_ok());
        let told = fits(&[Part::UNet], &scene, 1).unwrap_err().to_string();
        assert!(told.contains("no part fits"), "{told}");
    }
}
