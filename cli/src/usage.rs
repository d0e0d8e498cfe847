//! What the work cost this machine.

use std::time::Instant;

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

/// The memory that a process can still have, in bytes, as far as the system says it (Linux does).
pub fn free_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
