//! The losses of a training run, as a CSV file beside the LoRA.

use std::fs;
use std::io;
use std::path::Path;

use lora_trainer::StepReport;

use crate::LibraryError;
use crate::files::write_whole;

const HEAD: &str = "step,loss,learning_rate";

/// The losses of a training run, step by step from 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossLog {
    /// A step each.
    pub steps: Vec<StepReport>,
}

impl LossLog {
    /// Reads a log that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// If it cannot be read, or a line is no step.
    pub fn open(path: &Path) -> Result<Self, LibraryError> {
        let text = fs::read_to_string(path).map_err(|source| LibraryError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let wrong = |line: usize, text: &str, reason: &str| LibraryError::Settings {
            path: path.to_path_buf(),
            line,
            text: text.into(),
            reason: reason.into(),
        };
        let mut lines = text.lines().enumerate();
        match lines.next() {
            Some((_, HEAD)) => {}
            other => {
                let reason = format!("`{HEAD}` is expected as the first line of a training log");
                return Err(wrong(1, other.map_or("", |(_, line)| line), &reason));
            }
        }
        let steps = lines.map(|(number, line)| {
            let step = || -> Option<StepReport> {
                let mut values = line.split(',');
                let report = StepReport {
                    step: values.next()?.parse().ok()?,
                    loss: values.next()?.parse().ok()?,
                    learning_rate: values.next()?.parse().ok()?,
                };
                values.next().is_none().then_some(report)
            };
            step().ok_or_else(|| {
                wrong(
                    number + 1,
                    line,
                    "a step, its loss and its learning rate are expected",
                )
            })
        });
        Ok(Self {
            steps: steps.collect::<Result<_, _>>()?,
        })
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_whole(path, |file| {
            writeln!(file, "{HEAD}")?;
            for report in &self.steps {
                let StepReport {
                    step,
                    loss,
                    learning_rate,
                } = report;
                writeln!(file, "{step},{loss},{learning_rate}")?;
            }
            Ok(())
        })
    }

    /// Leaves out all behind a step, for a run that goes on from there.
    pub fn back_to(&mut self, step: usize) {
        self.steps.retain(|report| report.step <= step);
    }

    /// The mean loss of the last steps, `count` at most; none where there is no step.
    pub fn last(&self, count: usize) -> Option<f32> {
        let last = &self.steps[self.steps.len().saturating_sub(count)..];
        let sum: f32 = last.iter().map(|report| report.loss).sum();
        (!last.is_empty()).then(|| sum / last.len() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mira_v1.csv");
        let steps = (1..=5).map(|step| StepReport {
            step,
            loss: 1.0 / step as f32,
            learning_rate: 1e-4 / step as f64,
        });
        let mut log = LossLog {
            steps: steps.collect(),
        };
        log.write(&path).unwrap();
        assert_eq!(LossLog::open(&path).unwrap(), log);
        assert!((log.last(2).unwrap() - 0.225).abs() < 1e-6);
        log.back_to(3);
        assert_eq!(log.steps.len(), 3);
        assert_eq!(LossLog::default().last(9), None);

        for bad in ["", "step,loss\n", "step,loss,learning_rate\n1,x,3\n"] {
            fs::write(&path, bad).unwrap();
            let error = LossLog::open(&path).unwrap_err().to_string();
            assert!(error.contains("mira_v1.csv"), "{error}");
        }
    }
}
