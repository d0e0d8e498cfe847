use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, Muon, MuonConfig, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::write_whole;

use super::{Shape, gradients, shapes, values, with_values};

/// How a model learns: by the mean gradient of a batch, with a running mean of the weights.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// What it is called in its files.
    pub name: &'static str,
    /// Samples of a step.
    pub batch: usize,
    /// Each step's batch is cut into this many parts, which are computed side by side.
    pub parts: usize,
    /// Steps of the run.
    pub steps: u64,
    /// What makes steps of gradients.
    pub rule: Rule,
    /// Highest learning rate.
    pub rate: f64,
    /// Steps in which the rate rises from zero.
    pub warmup: u64,
    /// Share of the run at its end in which the rate falls to zero.
    pub cooldown: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// Weight decay of matrices and kernels.
    pub decay: f64,
    /// The gradient's norm at most.
    pub clip: f64,
    /// Share of the old mean in the running mean of the weights.
    pub average: f64,
}

/// What makes steps of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// AdamW (Loshchilov & Hutter 2017) for all parameters.
    #[default]
    AdamW,
    /// Muon (Jordan et al. 2024) for the matrices and kernels within a model, at the rates of AdamW (Liu et al. 2025); AdamW for embeddings,
    /// for the first and the last convolution, and for what is no matrix.
    Muon,
}

/// One parameter among a model's numbers.
struct Parameter {
    /// How many numbers it has.
    length: usize,
    /// Whether it decays.
    decays: bool,
    /// Rows and columns, if Muon moves it.
    matrix: Option<[usize; 2]>,
}

impl Parameter {
    fn new(Shape { path, shape }: Shape, rule: Rule) -> Self {
        let length = shape.iter().product();
        let decays = shape.len() > 1 && !path.contains("embedding");
        let edge = path.contains("conv_in") || path.contains("conv_out");
        let hidden = rule == Rule::Muon && decays && !edge;
        Self {
            length,
            decays,
            matrix: hidden.then(|| [shape[0], length / shape[0]]),
        }
    }
}

/// A model that learns, with all that the next step needs.
pub struct Pupil<M> {
    /// A model for each part of a batch. They share no tensor: burn keeps one graph for all that is computed from one, and works on a graph
    /// in one thread at a time.
    models: Vec<M>,
    lesson: Lesson,
    /// What `values` consists of.
    parameters: Vec<Parameter>,
    muon: Muon,
    values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    average: Vec<f32>,
    done: u64,
    pools: Vec<rayon::ThreadPool>,
    folder: PathBuf,
}

/// What has become of the run so far.
struct Progress {
    /// Steps done.
    step: u64,
    /// Mean loss since the last report.
    loss: f32,
    /// Samples a second since the last report.
    speed: f64,
}

/// Why a run broke off.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LearnError {
    /// A file could not be read or written.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A saved run is of another kind.
    #[error("`{}` {reason}; move it away to begin anew", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The loss is no number any more.
    #[error("the loss of step {0} is no number; try a lower rate from the last saved state")]
    Diverged(u64),
}

const MOMENTS: [&str; 4] = ["values", "first", "second", "average"];

impl<M: Module + Sync> Pupil<M> {
    /// Begins, or goes on from what `folder` holds. The model's parameters ask for gradients.
    ///
    /// # Errors
    /// If a state is there but cannot be gone on from.
    ///
    /// # Panics
    /// If no parameter asks for gradients.
    pub fn new(model: M, lesson: Lesson, folder: &Path) -> Result<Self, LearnError> {
        let start = values(&model);
        assert!(!start.is_empty(), "no parameter asks for gradients");
        let parameters = shapes(&model).into_iter();
        let parameters = parameters.map(|shape| Parameter::new(shape, lesson.rule));
        // The momentum is kept here, with all else that a state holds.
        let still = MomentumConfig {
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
        };
        let muon = MuonConfig::new()
            .with_momentum(still)
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
            .build();
        let pool = |_| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            pool.expect("a thread can be started")
        };
        let zeros = vec![0.0; start.len()];
        let mut pupil = Self {
            parameters: parameters.collect(),
            muon,
            first: zeros.clone(),
            second: zeros,
            average: start.clone(),
            values: start,
            done: 0,
            pools: (0..lesson.parts).map(pool).collect(),
            folder: folder.to_path_buf(),
            models: vec![model; lesson.parts],
            lesson,
        };
        pupil.show();
        let path = pupil.state_path();
        match fs::read(&path) {
            Ok(bytes) => pupil.restore(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(LearnError::File { path, source }),
        }
        Ok(pupil)
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// How many numbers are trained.
    pub fn size(&self) -> usize {
        self.values.len()
    }

    /// The model with the running mean of its weights, which is better than the last ones.
    pub fn averaged(&self) -> M {
        with_values(self.models[0].clone(), &self.average)
    }

    /// Gives the models the values that were learned.
    fn show(&mut self) {
        let models = std::mem::take(&mut self.models).into_iter();
        self.models = models.map(|m| with_values(m, &self.values)).collect();
    }

    /// Learns until the lesson is done, `minutes` are over, or `stop` is set, all of which is looked at after every step. Saves itself every
    /// few minutes and at the end, and tells on standard error, every fiftieth step, how it goes.
    ///
    /// `loss` is the mean loss over some samples, each given by its number in the run.
    ///
    /// # Errors
    /// If a file cannot be written, or the loss is no number.
    pub fn learn(
        &mut self,
        loss: impl Fn(&M, Range<u64>) -> Tensor<1> + Sync,
        minutes: Option<f64>,
        stop: &AtomicBool,
    ) -> Result<(), LearnError> {
        const REPORT: u64 = 50;
        let start = Instant::now();
        let over = |minutes: f64| start.elapsed().as_secs_f64() > 60.0 * minutes;
        let (size, done, steps) = (self.size(), self.done, self.lesson.steps);
        eprintln!("{size} numbers; {done} of {steps} steps done");
        let (mut sum, mut count, mut since) = (0.0, 0, Instant::now());
        let mut saved = Instant::now();
        while self.done < steps {
            sum += f64::from(self.step(&loss)?);
            count += 1;
            if self.done.is_multiple_of(REPORT) || self.done == steps {
                let samples = (count * self.lesson.batch) as f64;
                let progress = Progress {
                    step: self.done,
                    loss: (sum / count as f64) as f32,
                    speed: samples / since.elapsed().as_secs_f64(),
                };
                eprintln!(
                    "step {}: loss {:.5}, {:.1} samples/s",
                    progress.step, progress.loss, progress.speed
                );
                self.log(progress)?;
                (sum, count, since) = (0.0, 0, Instant::now());
            }
            if stop.load(Ordering::Relaxed) || minutes.is_some_and(over) {
                break;
            }
            if saved.elapsed() > Duration::from_secs(180) {
                self.save()?;
                saved = Instant::now();
            }
        }
        self.save()
    }

    fn step(
        &mut self,
        loss: &(impl Fn(&M, Range<u64>) -> Tensor<1> + Sync),
    ) -> Result<f32, LearnError> {
        let (batch, parts) = (self.lesson.batch as u64, self.lesson.parts as u64);
        let part = |index: u64| {
            let bound = |index: u64| self.done * batch + index * batch / parts;
            bound(index)..bound(index + 1)
        };
        let results: Vec<(f32, Vec<f32>)> = thread::scope(|scope| {
            let threads: Vec<_> = (self.pools.iter().zip(&self.models).enumerate())
                .map(|(index, (pool, model))| {
                    let samples = part(index as u64);
                    let share = (samples.end - samples.start) as f32 / batch as f32;
                    let work = move || {
                        let loss = loss(model, samples) * share;
                        let found = gradients(model, &loss.backward());
                        (loss.into_scalar::<f32>(), found)
                    };
                    scope.spawn(move || pool.install(work))
                })
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect()
        });
        let loss: f32 = results.iter().map(|(loss, _)| loss).sum();
        let mut total = vec![0.0; self.values.len()];
        for (_, part) in &results {
            for (sum, one) in total.iter_mut().zip(part) {
                *sum += one;
            }
        }
        if !loss.is_finite() || !self.descend(&total) {
            return Err(LearnError::Diverged(self.done + 1));
        }
        self.show();
        Ok(loss)
    }

    /// One step of the lesson's rule; false if the gradient is not finite.
    fn descend(&mut self, gradient: &[f32]) -> bool {
        let norm = gradient
            .iter()
            .map(|&g| f64::from(g).powi(2))
            .sum::<f64>()
            .sqrt();
        if !norm.is_finite() {
            return false;
        }
        const WHOLE: &str = "as many numbers as the parameters have";
        let rate = rate(&self.lesson, self.done);
        self.done += 1;
        let stride = Stride {
            rate,
            scale: (self.lesson.clip / (norm + 1e-6)).min(1.0) as f32,
            beta2: self.lesson.beta2 as f32,
            shrink: (1.0 - rate * self.lesson.decay) as f32,
            number: self.done.min(1 << 30) as i32,
        };
        let (mut values, mut first) = (&mut self.values[..], &mut self.first[..]);
        let (mut second, mut gradient) = (&mut self.second[..], gradient);
        let mut moves = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let length = parameter.length;
            let part = Part {
                values: values.split_off_mut(..length).expect(WHOLE),
                first: first.split_off_mut(..length).expect(WHOLE),
                second: second.split_off_mut(..length).expect(WHOLE),
                gradient: gradient.split_off(..length).expect(WHOLE),
            };
            moves.push((parameter, part));
        }
        moves
            .into_par_iter()
            .for_each(|(parameter, mut part)| match parameter.matrix {
                Some(sides) => part.by_muon(&self.muon, sides, parameter.decays, &stride),
                None => part.by_adamw(parameter.decays, &stride),
            });
        // At the start, the mean is over what there is.
        let young = (1.0 + self.done as f64) / (10.0 + self.done as f64);
        let keep = self.lesson.average.min(young) as f32;
        for (average, value) in self.average.iter_mut().zip(&self.values) {
            *average += (1.0 - keep) * (value - *average);
        }
        true
    }

    fn state_path(&self) -> PathBuf {
        self.folder
            .join(format!("{}.state.safetensors", self.lesson.name))
    }

    fn log(&self, progress: Progress) -> Result<(), LearnError> {
        let path = self.folder.join(format!("{}.csv", self.lesson.name));
        let failed = |source| LearnError::File {
            path: path.clone(),
            source,
        };
        let mut file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            writeln!(file, "step,samples,loss,rate,samples_per_second").map_err(failed)?;
        }
        writeln!(
            file,
            "{},{},{:.6},{:.3e},{:.1}",
            progress.step,
            progress.step * self.lesson.batch as u64,
            progress.loss,
            rate(&self.lesson, progress.step),
            progress.speed
        )
        .map_err(failed)
    }

    /// The parameters' names and shapes as one number, by which a state is known.
    fn kind(&self) -> String {
        let mut digest = Sha256::new();
        for shape in shapes(&self.models[0]) {
            digest.update(format!("{} {:?}\n", shape.path, shape.shape));
        }
        digest.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Writes the state, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self) -> Result<(), LearnError> {
        let parts = [&self.values, &self.first, &self.second, &self.average];
        let bytes = parts
            .map(|part| -> Vec<u8> { part.iter().flat_map(|value| value.to_le_bytes()).collect() });
        let views = MOMENTS.iter().zip(&bytes).map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![self.values.len()], bytes);
            (*name, view.expect("as many bytes as the shape says"))
        });
        let header = [("kind", self.kind()), ("step", self.done.to_string())];
        let header = header.map(|(key, value)| (key.to_owned(), value));
        let path = self.state_path();
        safetensors::serialize(views, Some(header.into()))
            .map_err(io::Error::other)
            .and_then(|bytes| write_whole(&path, &bytes))
            .map_err(|source| LearnError::File { path, source })
    }

    fn restore(&mut self, path: &Path, bytes: &[u8]) -> Result<(), LearnError> {
        let wrong = |reason: String| LearnError::State {
            path: path.to_path_buf(),
            reason,
        };
        let damaged = |error| wrong(format!("is damaged or no state of a run ({error})"));
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let header = header.metadata().clone().unwrap_or_default();
        if header.get("kind") != Some(&self.kind()) {
            return Err(wrong("is of a model with other parameters".into()));
        }
        let step = header.get("step").and_then(|step| step.parse().ok());
        self.done = step.ok_or_else(|| wrong("does not say its step".into()))?;
        let parts = [
            &mut self.values,
            &mut self.first,
            &mut self.second,
            &mut self.average,
        ];
        for (name, part) in MOMENTS.into_iter().zip(parts) {
            let view = file.tensor(name).map_err(damaged)?;
            if view.dtype() != Dtype::F32 || view.shape() != [part.len()] {
                return Err(wrong(format!("has another `{name}` than this model")));
            }
            let numbers = view.data().as_chunks::<4>().0.iter();
            *part = numbers.map(|&bytes| f32::from_le_bytes(bytes)).collect();
        }
        self.show();
        Ok(())
    }
}

/// What all parameters of a step have in common.
struct Stride {
    rate: f64,
    /// By which the gradient is scaled.
    scale: f32,
    beta2: f32,
    /// What is left of a parameter that decays.
    shrink: f32,
    /// The step's number, from 1.
    number: i32,
}

/// A parameter's numbers in a step.
struct Part<'a> {
    values: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    gradient: &'a [f32],
}

impl Part<'_> {
    fn by_adamw(&mut self, decays: bool, stride: &Stride) {
        const BETA1: f32 = 0.9;
        let beta2 = stride.beta2;
        let correct1 = 1.0 - f64::from(BETA1).powi(stride.number);
        let correct2 = 1.0 - f64::from(beta2).powi(stride.number);
        let length = (stride.rate / correct1) as f32;
        let correct2 = (1.0 / correct2.sqrt()) as f32;
        for (index, &gradient) in self.gradient.iter().enumerate() {
            let gradient = gradient * stride.scale;
            let first = BETA1 * self.first[index] + (1.0 - BETA1) * gradient;
            let second = beta2 * self.second[index] + (1.0 - beta2) * gradient * gradient;
            let mut value = self.values[index];
            if decays {
                value *= stride.shrink;
            }
            value -= length * first / (second.sqrt() * correct2 + 1e-8);
            self.first[index] = first;
            self.second[index] = second;
            self.values[index] = value;
        }
    }

    /// Muon with Nesterov's momentum.
    fn by_muon(&mut self, muon: &Muon, sides: [usize; 2], decays: bool, stride: &Stride) {
        const MOMENTUM: f32 = 0.95;
        let numbers = (self.first.iter_mut().zip(self.gradient)).map(|(first, gradient)| {
            let gradient = (1.0 - MOMENTUM) * stride.scale * gradient;
            *first = MOMENTUM * *first + gradient;
            MOMENTUM * *first + gradient
        });
        let device = Device::flex();
        let matrix =
            |numbers: Vec<f32>| Tensor::<2>::from_data(TensorData::new(numbers, sides), &device);
        let gradient = matrix(numbers.collect());
        let shrink = if decays { stride.shrink } else { 1.0 };
        let values = matrix(self.values.iter().map(|value| value * shrink).collect());
        let (values, _) = muon.step(stride.rate, values, gradient, None);
        let values = values.into_data().try_into_vec::<f32>();
        self.values
            .copy_from_slice(&values.expect("a matrix of 32-bit floats"));
    }
}

/// The learning rate of the step after `done`.
fn rate(lesson: &Lesson, done: u64) -> f64 {
    let rise = (done + 1) as f64 / lesson.warmup.max(1) as f64;
    let left = (lesson.steps - done.min(lesson.steps)) as f64;
    let fall = left / (lesson.steps as f64 * lesson.cooldown).max(1.0);
    lesson.rate * rise.min(fall).min(1.0)
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::school::Stream;

    fn lesson(rule: Rule, steps: u64) -> Lesson {
        Lesson {
            name: "line",
            batch: 6,
            parts: 2,
            steps,
            rule,
            rate: 0.1,
            warmup: 1,
            cooldown: 0.0,
            beta2: 0.99,
            decay: 0.01,
            clip: 1.0,
            average: 0.9,
        }
    }

    #[test]
    fn a_run_goes_on_to_the_same_result() {
        goes_on(Rule::AdamW);
        goes_on(Rule::Muon);
    }

    /// A run that was stopped after two of its four steps ends with the very numbers of one that was not.
    fn goes_on(rule: Rule) {
        let device = Device::flex().autodiff();
        let lesson = |steps| lesson(rule, steps);
        let numbers = |n: u64, purpose| Stream::new(3, n, purpose).normal(4);
        let start = || {
            let model = LinearConfig::new(4, 1).init(&device);
            with_values(model, &[0.5, -0.5, 0.25, 0.0, 0.1])
        };
        let loss = |model: &burn::nn::Linear, samples: Range<u64>| {
            let count = (samples.end - samples.start) as usize;
            let input: Vec<f32> = samples.flat_map(|n| numbers(n, "input")).collect();
            let input = Tensor::<2>::from_data(TensorData::new(input, [count, 4]), &device);
            (model.forward(input.clone()) - input.sum_dim(1))
                .square()
                .mean()
        };
        let run = |folder: &Path, lessons: &[u64]| {
            let mut last = vec![];
            for &steps in lessons {
                let mut pupil = Pupil::new(start(), lesson(steps), folder).unwrap();
                pupil.learn(loss, None, &AtomicBool::new(false)).unwrap();
                assert_eq!(pupil.done(), steps);
                last = values(&pupil.averaged());
            }
            last
        };
        let stopped = tempfile::tempdir().unwrap();
        let mut pupil = Pupil::new(start(), lesson(4), stopped.path()).unwrap();
        pupil.learn(loss, None, &AtomicBool::new(true)).unwrap();
        assert_eq!(
            pupil.done(),
            1,
            "it stops after the step in which it is told to"
        );

        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = run(whole.path(), &[4]);
        assert_eq!(whole, run(parts.path(), &[2, 4]));
        assert_eq!(whole, run(stopped.path(), &[4]));
        assert!(whole[0] > 0.5 && whole[1] > -0.5, "{whole:?}");

        let path = parts.path().join("line.state.safetensors");
        fs::write(&path, "{").unwrap();
        let error = Pupil::new(start(), lesson(4), parts.path()).err().unwrap();
        assert!(
            error.to_string().contains("line.state.safetensors"),
            "{error}"
        );
    }

    /// Whatever the gradient's size in each direction, Muon moves a matrix about as far in all of them; what is no matrix moves by AdamW.
    #[test]
    fn muon_moves_a_matrix_alike_in_all_directions() {
        let device = Device::flex().autodiff();
        let model = LinearConfig::new(2, 2).init(&device);
        let model = with_values(model, &[0.0; 6]);
        let folder = tempfile::tempdir().unwrap();
        let lesson = Lesson {
            decay: 0.0,
            ..lesson(Rule::Muon, 1)
        };
        let mut pupil = Pupil::new(model, lesson, folder.path()).unwrap();
        let slope = [1.0, 0.0, 0.0, -0.1];
        let loss = |model: &burn::nn::Linear, _: Range<u64>| {
            let slope = Tensor::<2>::from_data(TensorData::new(slope.to_vec(), [2, 2]), &device);
            let bias = model.bias.as_ref().expect("a bias").val();
            (model.weight.val() * slope).sum() + bias.sum() * 0.01
        };
        pupil.step(&loss).unwrap();
        let [a, b, c, d, ref bias @ ..] = pupil.values[..] else {
            panic!("six numbers")
        };
        // 0.1 is the rate, and 0.2 · √2 what makes it that of AdamW.
        let whole = 0.1 * 0.2 * 2.0_f32.sqrt();
        for moved in [-a, d] {
            assert!((0.6..1.3).contains(&(moved / whole)), "{moved} of {whole}");
        }
        assert!(b.abs() < 1e-6 && c.abs() < 1e-6, "{b} {c}");
        for moved in bias {
            assert!((moved + 0.1).abs() < 1e-4, "{bias:?}");
        }
    }
}
