use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
            eprintln!("{text}");
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

/// Makes Ctrl-C ask the work to stop; the second one stops it at once.
pub fn listen_for_interrupts() {
    let heard = ctrlc::set_handler(|| {
        if INTERRUPTS.fetch_add(1, Ordering::SeqCst) > 0 {
            std::process::exit(1);
        }
        eprintln!("\nstopping after this step; Ctrl-C again stops at once");
    });
    if let Err(error) = heard {
        eprintln!("note: Ctrl-C will stop at once ({error})");
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
