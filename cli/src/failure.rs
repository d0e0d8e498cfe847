use std::fmt;

use serde_json::{Value, json};

/// Why a command ended early, and so its exit status.
#[derive(Debug)]
pub enum Failure {
    /// The arguments or the inputs are wrong: exit status 2.
    Input(anyhow::Error),
    /// The work failed: exit status 1.
    Work(anyhow::Error),
    /// The work was done, and what it looked at is not as it should be: exit status 1, as of `cmp` or a linter.
    Found {
        /// What is wrong.
        error: anyhow::Error,
        /// The result for scripts, a JSON object.
        report: Value,
    },
}

impl Failure {
    /// The exit status that scripts can rely on.
    pub fn status(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Work(_) | Self::Found { .. } => 1,
        }
    }

    /// What scripts are told: the message and the exit status, and the result where there is one all the same.
    pub fn report(&self) -> Value {
        let mut report = match self {
            Self::Found { report, .. } => report.clone(),
            Self::Input(_) | Self::Work(_) => json!({}),
        };
        report["error"] = self.to_string().into();
        report["status"] = self.status().into();
        report
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Input(error) | Self::Work(error) | Self::Found { error, .. }) = self;
        let mut told = error.to_string();
        f.write_str(&told)?;
        for cause in error.chain().skip(1).map(ToString::to_string) {
            // Many messages hold their cause's already.
            if !told.contains(&cause) {
                write!(f, ": {cause}")?;
                told = cause;
            }
        }
        Ok(())
    }
}

/// Says whose fault an error is.
pub trait Blame<T> {
    /// The user's: exit status 2.
    fn input(self) -> Result<T, Failure>;
    /// The work's: exit status 1.
    fn work(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> Blame<T> for Result<T, E> {
    fn input(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Input(error.into()))
    }
    fn work(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::Work(error.into()))
    }
}

/// An error of the user's with this message.
pub fn wrong<T>(message: impl fmt::Display) -> Result<T, Failure> {
    Err(Failure::Input(anyhow::anyhow!("{message}")))
}
