//! What the work cost this machine.

use std::time::Instant;

use burn::tensor::Device;

use crate::device::is_cpu;
use crate::failure::{Failure, wrong};

/// Times the parts of a command.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the last lap, in hundredths.
    pub fn lap(&mut self) -> f64 {
        let seconds = self.0.elapsed().as_secs_f64();
        self.0 = Instant::now();
        (seconds * 100.0).round() / 100.0
    }
}

/// The most memory that this process has had at once, in bytes, as far as the system says it (Linux does).
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// `, at most 5.1 GB of memory`, where it is known.
pub fn memory_note() -> String {
    peak_memory().map_or_else(String::new, |bytes| {
        format!(", at most {:.1} GB of memory", bytes as f64 / 1e9)
    })
}

/// Refuses work on the processor that needs more memory than is free, and says what would fit. `what` is the option or file that asks for
/// it, `smaller` are other ways and what they need, the best first.
///
/// # Errors
/// If it does not fit.
pub fn check_memory(
    what: &str,
    needed: u64,
    device: &Device,
    smaller: &[(String, u64)],
) -> Result<(), Failure> {
    match free_memory() {
        Some(free) if is_cpu(device) => fits(what, needed, free, smaller),
        _ => Ok(()),
    }
}

fn fits(what: &str, needed: u64, free: u64, smaller: &[(String, u64)]) -> Result<(), Failure> {
    if needed <= free {
        return Ok(());
    }
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let advice = match smaller.iter().find(|(_, needed)| *needed <= free) {
        Some((way, needed)) => format!("{way} needs about {}", gigabytes(*needed)),
        None => "close other programs, or use a machine with more".to_owned(),
    };
    wrong(format!(
        "{what}: needs about {} of memory, {} are free; {advice}",
        gigabytes(needed),
        gigabytes(free)
    ))
}

/// The memory that a process can still have, in bytes, as far as the system says it (Linux does).
pub fn free_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        let smaller = [
            ("--size 512".to_owned(), 3_400_000_000),
            ("--size 256".to_owned(), 2_700_000_000),
        ];
        assert!(fits("--size 768", 4_000_000_000, 4_000_000_000, &smaller).is_ok());
        let told = |free| {
            let refused = fits("--size 768", 4_000_000_000, free, &smaller);
            refused.unwrap_err().to_string()
        };
        assert_eq!(
            told(3_000_000_000),
            "--size 768: needs about 4.0 GB of memory, 3.0 GB are free; --size 256 needs about 2.7 GB"
        );
        assert!(
            told(1_000_000_000)
                .ends_with("1.0 GB are free; close other programs, or use a machine with more")
        );
    }
}
