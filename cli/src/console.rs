use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::{Blame, Failure};

static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// What a person sees while something works: notes and a progress bar, on standard error alone.
#[derive(Clone, Debug)]
pub struct Console {
    quiet: bool,
}

impl Console {
    /// Quiet or not.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// A line for the person at the terminal.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            complain(text);
        }
    }

    /// A bar for `length` pieces of work.
    pub fn bar(&self, what: &str, length: usize) -> ProgressBar {
        let hidden = self.quiet || !std::io::stderr().is_terminal();
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let template = "{prefix:>10} [{bar:32}] {pos}/{len} {elapsed_precise}<{eta_precise} {msg}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        ProgressBar::with_draw_target(Some(length as u64), target)
            .with_style(style)
            .with_prefix(what.to_string())
    }
}

/// A line of the result, on standard output. A reader that has heard enough, as `head` does, is no reason to stop.
pub fn print(text: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error)
            .context("standard output: cannot be written")
            .work(),
        _ => Ok(()),
    }
}

/// A line on standard error, whether or not somebody reads it.
pub fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Makes Ctrl-C ask the work to stop; the second one stops it at once.
pub fn listen_for_interrupts() {
    let heard = ctrlc::set_handler(|| {
        if INTERRUPTS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(1);
        }
        complain("\nstopping after this step; Ctrl-C again stops at once");
    });
    if let Err(error) = heard {
        complain(format_args!("note: Ctrl-C will stop at once ({error})"));
    }
}

/// Break where a person asked to stop.
pub fn go_on() -> ControlFlow<()> {
    if INTERRUPTS.load(Ordering::SeqCst) > 0 {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
