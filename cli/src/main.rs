//! The `samecast` program: reads arguments, opens files, shows progress, prints results.

mod args;
mod bench;
mod character;
mod console;
mod demo;
mod device;
mod devices;
mod failure;
mod generate;
mod hashes;
mod ip_args;
mod library;
mod lora;
mod output;
mod picture;
mod pocket;
mod portraits;
mod provenance;
mod reference;
mod train;
mod usage;
mod verify;

use std::panic;
use std::process::ExitCode;

use serde_json::{Value, json};

use args::{Character, Cli, Command, Library, Lora, Reference};
use console::{complain, print};
use failure::Failure;

fn main() -> ExitCode {
    sd_kernels::keep_freed_memory();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
                // What is left of a failure to print is the exit status.
                let _ = print(json!({ "error": args::in_short(&error), "status": 2 }));
            }
            error.exit()
        }
    };
    console::listen_for_interrupts();
    // A panic is a fault of ours: it is told as one, and not as a trace.
    panic::set_hook(Box::new(|_| {}));
    let json = cli.common.json;
    let result =
        panic::catch_unwind(|| sd_kernels::on_workers(|| run(&cli))).unwrap_or_else(|payload| {
            let why = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message")
                .replace('\n', ";");
            Err(Failure::Work(anyhow::anyhow!(
                "a fault in samecast itself: {why}; please report it with the command that you gave"
            )))
        });
    let result = match result {
        Ok(value) if json => print(value),
        Ok(_) => Ok(()),
        Err(failure) => {
            if json {
                let _ = print(failure.report());
            }
            Err(failure)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(format_args!("error: {failure}"));
            ExitCode::from(failure.status())
        }
    }
}

/// Runs one command.
fn run(cli: &Cli) -> Result<Value, Failure> {
    match &cli.command {
        Command::Generate(args) => generate::run(args, &cli.common),
        Command::Train(args) => train::run(args, &cli.common),
        Command::Demo(args) => demo::run(args, &cli.common),
        Command::Library(Library::Init { dir, model }) => {
            library::init(dir, model.as_deref(), &cli.common)
        }
        Command::Character(Character::New(args)) => character::new(args, &cli.common),
        Command::Character(Character::Train(args)) => character::train(args, &cli.common),
        Command::Character(Character::Sheet(args)) => character::sheet(args, &cli.common),
        Command::Character(Character::Verify(args)) => verify::run(args, &cli.common),
        Command::Lora(Lora::Info { files }) => lora::info(files, &cli.common),
        Command::Reference(Reference::Check { files }) => reference::check(files, &cli.common),
        Command::Devices => devices::run(&cli.common),
        Command::Bench(args) => bench::run(args, &cli.common),
    }
}
