//! End-to-end bench: cutover beside nginx and HAProxy, each with one worker on one core, under
//! the same load in interleaved rounds. What counts is CPU time per request.
//!
//! `bench` runs everything; `origin` and `load` are its two halves for use by hand.

mod bad_target;
mod cases;
mod contenders;
mod copy;
mod cpu;
mod download;
mod features;
mod fleet;
mod h2_origin;
mod idle;
mod load;
mod log_faults;
mod mirror;
mod options;
mod order;
mod origin;
mod pages;
mod peers;
mod pressure;
mod recreate;
mod reload;
mod report;
mod response;
mod rollout;
mod rounds;
mod scale;
mod slow_readers;
mod stats;
mod streams;
mod syscalls;
mod takeovers;
mod tls;
mod together;
mod town;
mod tunnel;
mod valgrind;
mod window;

use std::process::ExitCode;

use options::Command;

/// Every failure here ends the run: a message for the person at the terminal is enough.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = match options::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Origin {
            port,
            core,
            addresses,
        }) => origin::serve(port, core, addresses),
        Ok(Command::Copy(options)) => copy::serve(&options),
        Ok(Command::Load(by_hand)) => load::by_hand(&by_hand),
        Ok(Command::Crowd(by_hand)) => pressure::by_hand(&by_hand),
        Ok(Command::Bench(bench)) => cases::run(&bench),
        Err(wrong) => Err(wrong),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
