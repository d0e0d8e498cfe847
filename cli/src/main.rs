//! The `samecast` program: reads arguments, opens files, shows progress, prints results.

mod args;
mod console;
mod device;
mod devices;
mod failure;
mod generate;
mod lora;
mod output;
mod provenance;
mod train;
mod usage;

use std::panic;
use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use args::{Cli, Command, Lora};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    console::listen_for_interrupts();
    // A panic is a fault of ours: it is told as one, and not as a trace.
    panic::set_hook(Box::new(|_| {}));
    let json = cli.common.json;
    let result = panic::catch_unwind(|| run(&cli)).unwrap_or_else(|payload| {
        let why = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Failure::Work(anyhow::anyhow!(
            "a fault in samecast itself: {why}; please report it with the command that you gave"
        )))
    });
    match result {
        Ok(value) => {
            if json {
                println!("{value}");
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let status = failure.status();
            if json {
                println!(
                    "{}",
                    json!({ "error": failure.to_string(), "status": status })
                );
            }
            eprintln!("error: {failure}");
            ExitCode::from(status)
        }
    }
}

fn run(cli: &Cli) -> Result<Value, Failure> {
    match &cli.command {
        Command::Generate(args) => generate::run(args, &cli.common),
        Command::Train(args) => train::run(args, &cli.common),
        Command::Lora(Lora::Info { files }) => lora::info(files, &cli.common),
        Command::Devices => Ok(devices::run(&cli.common)),
    }
}
